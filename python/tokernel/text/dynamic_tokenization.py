# SPDX-License-Identifier: Apache-2.0
"""Dynamic tokenization: shorter sequences for an existing language model, by merges learned from every batch.

The batch is tokenized as usual; then neighbouring tokens are merged, the most frequent pair of the batch first, as far
as a boundary allows. Tokens that no vocabulary has get their embeddings from a hypernetwork (zett's, or the mean of
their parts), with a cache. For generation the vocabulary is a large fixed one, searched exactly.

    tokenizer = DynamicTokenizer(encoding, "pretokens", bos="<s>", eos="</s>")
    batch = tokenizer.tokenize_batch(texts, max_merges=50)
    output = DynamicInputWrapper(model, hypernet, encoding)(batch)

Source: "Retrofitting Large Language Models with Dynamic Tokenization", arXiv 2411.18553. What runs models needs torch;
tokenizing and the cache do not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tokernel.papers import paper
from tokernel.text._dynamic_batch import (
    DynamicBatch,
    DynamicTokenizer,
    dynamic_merge,
    merges_for_reduction,
    merges_to_length,
)
from tokernel.text._dynamic_boundary import BOUNDARIES
from tokernel.text._dynamic_cache import EmbeddingCache

if TYPE_CHECKING:
    from tokernel.text._dynamic_generation import ContinuedVocabulary, Generation, generate
    from tokernel.text._dynamic_inputs import DynamicInputWrapper, fvt_embed, surface_forms, topk_logits

__all__ = [
    "BOUNDARIES",
    "PAPER",
    "ContinuedVocabulary",
    "DynamicBatch",
    "DynamicInputWrapper",
    "DynamicTokenizer",
    "EmbeddingCache",
    "Generation",
    "dynamic_merge",
    "fvt_embed",
    "generate",
    "merges_for_reduction",
    "merges_to_length",
    "surface_forms",
    "topk_logits",
]

PAPER = paper("dynamic_tokenization")
_WITH_TORCH = {
    "ContinuedVocabulary": "_dynamic_generation",
    "DynamicInputWrapper": "_dynamic_inputs",
    "Generation": "_dynamic_generation",
    "fvt_embed": "_dynamic_inputs",
    "generate": "_dynamic_generation",
    "surface_forms": "_dynamic_inputs",
    "topk_logits": "_dynamic_inputs",
}


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is first asked for."""
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"tokernel.text.{_WITH_TORCH[name]}"), name)
