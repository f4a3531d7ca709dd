# SPDX-License-Identifier: Apache-2.0
"""Draws from logits, after temperature, top-k and top-p."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def draw(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Draw one id from every row of logits (N, V).

    Args:
        logits: (N, V).
        temperature: divides the logits; 0 takes the likeliest id, the lowest of equals.
        top_k: keep so many of the likeliest ids and those equal to the last of them; 0 keeps all.
        top_p: then leave out the least likely ids whose probabilities, added up from the smallest, stay at or below
            1 - top_p; the likeliest always stays.
        generator: of the draws.

    Returns:
        (N,) int64.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    if temperature == 0:
        return logits.argmax(-1)
    if not len(logits):
        return logits.new_zeros(0, dtype=torch.int64)
    kept = filtered(logits.float() / temperature, top_k, top_p)
    return torch.multinomial(kept.softmax(-1), 1, generator=generator)[:, 0]


def filtered(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Set the logits (N, V) that top-k and top-p leave out to -inf."""
    if top_k < 0 or not 0 <= top_p <= 1:
        raise ValueError(f"top_k must be at least 0 and top_p in [0, 1], got {top_k} and {top_p}")
    if 0 < top_k < logits.shape[-1]:
        last = logits.topk(top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < last, -math.inf)
    if top_p == 1:
        return logits
    ascending, order = logits.sort(dim=-1, stable=True)
    dropped = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
    dropped[:, -1] = False
    return logits.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), -math.inf)
