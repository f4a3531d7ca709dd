# SPDX-License-Identifier: Apache-2.0
"""Random causal language models of a few thousand weights, and what transformers itself makes of a prompt."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

VOCABULARY = 64
KINDS = ("llama", "qwen2", "qwen3", "gpt2")


def tiny(kind: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Any:
    """A model whose next tokens vary: weights are wider than the usual initialisation."""
    import transformers as hf

    torch.manual_seed(seed)
    shape: dict[str, Any] = {"vocab_size": VOCABULARY, "eos_token_id": None, "bos_token_id": None}
    if kind == "gpt2":
        config: Any = hf.GPT2Config(**{**shape, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256, **changes})
        model = hf.GPT2LMHeadModel(config)
    else:
        shape |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        shape |= {"num_key_value_heads": 2, "max_position_embeddings": 256}
        if kind == "qwen3":
            shape |= {"head_dim": 16}
        names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
        config = getattr(hf, f"{names[kind]}Config")(**{**shape, **changes})
        model = getattr(hf, f"{names[kind]}ForCausalLM")(config)
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model.to(dtype).eval()


def prompts(rows: int = 1, length: int = 7, seed: int = 1) -> Tensor:
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def greedy(model: Any, prompt: Tensor, count: int) -> list[int]:
    """Every token by a fresh pass of the model over all that came before: no cache, nothing of ours."""
    ids = prompt.view(1, -1)
    for _ in range(count):
        ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], 1)
    new: list[int] = ids[0, prompt.numel() :].tolist()
    return new


def near(kind: str = "llama", amount: float = 0.15, **changes: Any) -> Any:
    """A draft that agrees with ``tiny(kind)`` at times: its weights, a little moved."""
    model = tiny(kind, **changes)
    torch.manual_seed(5)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * parameter.std(correction=0) * amount)
    return model


def fits(counts: NDArray[Any], chances: Any) -> bool:
    """Whether counts look like so many draws: a chi-square test that a right sampler fails once in a million."""
    want = counts.sum() * np.asarray(chances, np.float64)
    freedom = want.size - 1
    chi_square = float(((counts - want) ** 2 / want).sum())
    spread = 2 / (9 * freedom)  # Wilson and Hilferty: the cube root is close to normal
    return ((chi_square / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread) < 4.8


def two_tokens(model: Any, prompt: Tensor, temperature: float) -> NDArray[np.float64]:
    """(V, V): the model's probability of every two tokens behind a prompt (P)."""
    vocabulary = model.config.vocab_size
    text = torch.cat([prompt.expand(vocabulary, -1), torch.arange(vocabulary)[:, None]], 1)
    with torch.no_grad():
        logits = model(text, use_cache=False).logits.double() / temperature
    joint: NDArray[np.float64] = (logits[0, -2].softmax(-1)[:, None] * logits[:, -1].softmax(-1)).numpy()
    return joint
