# SPDX-License-Identifier: Apache-2.0
"""From dynamic tokens to input embeddings, and from hidden states to the tokens of a very large vocabulary (needs
torch)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tokernel import ops
from tokernel.kernels import bpe
from tokernel.text._dynamic_batch import NEW, DynamicBatch
from tokernel.text._dynamic_boundary import BaseTokenizer
from tokernel.text._dynamic_cache import EmbeddingCache

Variant = Literal["original", "hypernet"]
PAD = -1


def surface_forms(
    tokens: Sequence[bytes], tokenizer: BaseTokenizer, length: int, pad: int = PAD
) -> tuple[npt.NDArray[np.int64], int]:
    """What the base tokenizer's merges alone (no pre-tokenizer) make of byte strings.

    Args:
        tokens: T byte strings.
        tokenizer: a `tokernel.text.Encoding`.
        length: L ids are kept of each (the paper: 4 for XLM-R, 7 for Mistral).
        pad: fills up what is shorter.

    Returns:
        (T, L) int64, and how many tokens lost ids.

    Raises:
        ValueError: length is less than 1.

    >>> from tokernel.text import Encoding
    >>> ranks = {bytes([b]): b for b in range(256)} | {b"th": 256}
    >>> encoding = Encoding("small", pat_str="gpt2", mergeable_ranks=ranks, special_tokens={})
    >>> surface_forms([b"the", b"th", b"then the"], encoding, 3)
    (array([[256, 101,  -1],
           [256,  -1,  -1],
           [256, 101, 110]]), 1)
    """
    if length < 1:
        raise ValueError(f"surface_forms: length must be at least 1, got {length}")
    forms = np.full((len(tokens), length), pad, np.int64)
    cut = 0
    for row, token in zip(forms, tokens, strict=True):
        ids = bpe.encode(tokenizer.vocab, token)
        cut += len(ids) > length
        row[: len(ids)] = ids[:length]
    return forms, cut


def fvt_embed(surface: Tensor, embeddings: Tensor, pad: int = PAD) -> Tensor:
    """Mean of the source rows of each surface form: fast vocabulary transfer.

    Args:
        surface: (T, L) ids, ``pad`` where there is none; at least one id a row.
        embeddings: (V, D).

    Returns:
        (T, D), differentiable; a form of one id gives its row bit for bit.

    Raises:
        ValueError: a row without an id, or an id outside [0, V).

    >>> fvt_embed(torch.tensor([[0, 2], [1, -1]]), torch.tensor([[1.0], [2.0], [5.0]]))
    tensor([[3.],
            [2.]])
    """
    there = surface != pad
    if not bool(there.any(-1).all()):
        raise ValueError("fvt_embed: surface must have an id in every row")
    if bool((((surface < 0) | (surface >= len(embeddings))) & there).any()):
        raise ValueError(f"fvt_embed: surface must be in [0, {len(embeddings)}) or pad")
    rows = nn.functional.embedding(surface.where(there, 0), embeddings)
    summed = (rows * there[..., None]).sum(1)
    return summed / there.sum(1, keepdim=True).to(summed.dtype)


class DynamicInputWrapper(nn.Module):
    """A language model that reads dynamic batches: their tokens become ``inputs_embeds``.

    Special tokens keep their rows of the model's input embeddings, and so do, with variant "original", all tokens of
    the base vocabulary; every other token's row comes from the hypernetwork, in one call a batch. ``fvt_embed`` is a
    hypernetwork without parameters.

    Args:
        model: a transformers model (get_input_embeddings, inputs_embeds).
        hypernet: called with surface forms (T, L) int64 and the source embeddings (V, D); gives rows (T, D).
        tokenizer: the base tokenizer, for the surface forms.
        length: L of the surface forms.
        variant: "original": rows of base tokens unchanged; "hypernet": predicted too.
        cache: rows that were predicted before. It is used without gradients alone, and must be empty or of this model.
        pad: fills up surface forms.

    Dynamic tokenization (arXiv 2411.18553), section 3.
    """

    def __init__(
        self,
        model: nn.Module,
        hypernet: Callable[[Tensor, Tensor], Tensor],
        tokenizer: BaseTokenizer,
        *,
        length: int = 7,
        variant: Variant = "original",
        cache: EmbeddingCache | None = None,
        pad: int = PAD,
    ) -> None:
        super().__init__()
        if variant not in ("original", "hypernet"):
            raise ValueError(f"DynamicInputWrapper: variant must be 'original' or 'hypernet', got {variant!r}")
        self.model = model
        self.hypernet = hypernet
        self.tokenizer = tokenizer
        self.length = length
        self.variant = variant
        self.cache = cache
        self.pad = pad

    def rows(self, batch: DynamicBatch) -> Tensor:
        """The input rows (T, D) of the batch's table."""
        source = self._source()
        kept = batch.special | ((batch.base_ids != NEW) if self.variant == "original" else False)
        rows = source.new_empty(len(batch.table), source.shape[1])
        at = torch.from_numpy(kept).to(source.device)
        rows[at] = source[torch.from_numpy(batch.base_ids[kept]).to(source.device)]
        predicted = [batch.table[i] for i in np.flatnonzero(~kept)]
        if predicted:
            use_cache = self.cache is not None and not torch.is_grad_enabled()
            found = self.cache.fetch(predicted, self.predict) if use_cache else self.predict(predicted)  # type: ignore[union-attr]
            rows = rows.index_put((~at,), torch.as_tensor(found).to(rows))
        return rows

    def predict(self, tokens: Sequence[bytes]) -> Tensor:
        """Rows (len(tokens), D) of the hypernetwork."""
        source = self._source()
        forms, _ = surface_forms(tokens, self.tokenizer, self.length, self.pad)
        rows = self.hypernet(torch.from_numpy(forms).to(source.device), source)
        if tuple(rows.shape) != (len(tokens), source.shape[1]):
            raise ValueError(
                f"DynamicInputWrapper: hypernet must give {(len(tokens), source.shape[1])}, got {tuple(rows.shape)}"
            )
        return rows

    def forward(self, batch: DynamicBatch, side: Literal["right", "left"] = "right", **options: Any) -> Any:
        """What the model says to the batch, padded on one side; further arguments go to the model."""
        rows = self.rows(batch)
        index, mask = batch.padded(side)
        attention = torch.from_numpy(mask).to(rows.device, torch.int64)
        if side == "left":  # positions begin where the tokens begin
            options.setdefault("position_ids", (attention.cumsum(1) - 1).clamp(min=0))
        embeds = rows[torch.from_numpy(index).to(rows.device)]
        return self.model(inputs_embeds=embeds, attention_mask=attention, **options)

    def _source(self) -> Tensor:
        weight: Tensor = self.model.get_input_embeddings().weight  # type: ignore[operator]
        return weight


def topk_logits(hidden: Tensor, embeddings: Tensor, k: int, *, block: int = 65536) -> tuple[Tensor, Tensor]:
    """The k largest of ``hidden @ embeddings.T``, found exactly, without ever writing all of them.

    Takes the place of an approximate search (ScaNN in the paper): one read of the embeddings. Products are in the dtype
    of the arguments, as a linear layer's. Of equal logits the lowest index comes first.

    Args:
        hidden: (N, D).
        embeddings: (V, D), same dtype.
        k: in [1, V].
        block: rows of the embeddings at a time; at most N * (block + k) logits are held.

    Returns:
        value (N, k), descending, in float32, and index (N, k) int64.

    Raises:
        ValueError: shapes do not fit, or k or block is out of range.

    >>> topk_logits(torch.tensor([[2.0]]), torch.tensor([[1.0], [3.0], [-1.0], [3.0]]), 2, block=2)
    (tensor([[6., 6.]]), tensor([[1, 3]]))
    """
    if hidden.ndim != 2 or embeddings.ndim != 2 or hidden.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"topk_logits: hidden and embeddings must be (N, D) and (V, D), got {tuple(hidden.shape)} and "
            f"{tuple(embeddings.shape)}"
        )
    if not 1 <= k <= len(embeddings):
        raise ValueError(f"topk_logits: k must be in [1, {len(embeddings)}], got {k}")
    if block < 1:
        raise ValueError(f"topk_logits: block must be at least 1, got {block}")
    value = hidden.new_empty(len(hidden), 0, dtype=torch.float32)
    index = torch.empty(len(hidden), 0, dtype=torch.int64, device=hidden.device)
    for first in range(0, len(embeddings), block):
        logits = (hidden @ embeddings[first : first + block].T).float()
        best, place = ops.topk(logits, min(k, logits.shape[1]))
        # Those found before have lower indices and come first, so that they win ties here too.
        value, index = torch.cat([value, best], 1), torch.cat([index, place + first], 1)
        value, order = ops.topk(value, min(k, value.shape[1]))
        index = index.gather(1, order)
    return value, index
