# SPDX-License-Identifier: Apache-2.0
"""Family tree as torch ops: statistics of rows of logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.kernels import tree as kernels
from tokernel.kernels.tree import RowStats
from tokernel.ops._torch_op import define

__all__ = ["row_stats"]

_Found = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _fake(logits: Tensor, ids: Tensor | None, temperature: float) -> _Found:
    rows = logits.shape[:-1]
    best = logits.new_empty((*rows, 2), dtype=torch.int64)
    names = 0 if ids is None else ids.shape[-1]
    p_best, p_ids = (logits.new_empty((*rows, n), dtype=torch.float32) for n in (2, names))
    lse, entropy = (logits.new_empty(rows, dtype=torch.float32) for _ in range(2))
    return lse, entropy, best, p_best, p_ids


def _save(ctx: Any, inputs: tuple[Tensor, Tensor | None, float], output: _Found) -> None:
    logits, ids, ctx.temperature = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(logits, ids, *output)


def _backward(
    ctx: Any,
    g_lse: Tensor | None,
    g_entropy: Tensor | None,
    _: Tensor | None,
    g_best: Tensor | None,
    g_ids: Tensor | None,
) -> tuple[Tensor, None, None]:
    """Of p_j by z_i: p_j (1[i = j] - p_i). Summed over all j it is dense, and the first term falls on named items."""
    logits, ids, lse, entropy, best, p_best, p_ids = ctx.saved_tensors
    level = torch.zeros_like(lse) if g_lse is None else g_lse
    slope = torch.zeros_like(lse) if g_entropy is None else g_entropy
    level = level - slope * entropy
    named = []
    if g_best is not None:
        named.append((best.clamp(min=0), g_best * p_best * (best >= 0)))
    if g_ids is not None and ids is not None:
        named.append((ids.long(), g_ids * p_ids))
    for _, terms in named:
        level = level - terms.sum(-1)
    grad = _row_stats_backward(logits, lse, level, slope, ctx.temperature)
    for index, terms in named:
        grad = grad.scatter_add(-1, index, _share(terms, ctx.temperature, grad))
    return grad, None, None


def _share(terms: Tensor, temperature: float, like: Tensor) -> Tensor:
    return (terms / temperature).to(like.dtype)


_row_stats_backward = define(
    "row_stats_backward(Tensor logits, Tensor lse, Tensor level, Tensor slope, float temperature) -> Tensor",
    kernels.row_stats_backward,
    lambda logits, lse, level, slope, temperature: logits.new_empty(logits.shape),
)
_row_stats = define(
    "row_stats(Tensor logits, Tensor? ids, float temperature) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernels.row_stats,
    _fake,
    setup=_save,
    backward=_backward,
)


def row_stats(logits: Tensor, ids: Tensor | None = None, temperature: float = 1.0) -> RowStats:
    """Read every row of logits once for its two best items, their probabilities, log-sum-exp and entropy. Torch form of
    :func:`tokernel.kernels.tree.row_stats`, which states ties, NaN and infinities.

    Args:
        logits: (N, V) or (B, N, V) float32, float16 or bfloat16, any outer strides.
        ids: (N, K) or (B, N, K) int64 or int32: items whose probability is wanted.
        temperature: divides the logits, in [1e-6, 1e6].

    Returns:
        RowStats of lse (...), entropy (...), best (..., 2) int64, p_best (..., 2) and p_ids (..., K). All but best are
        float32 and differentiable in logits. The gradient is made from the logits again: nothing of their size is kept.

    >>> stats = row_stats(torch.tensor([[0.0, 0.0, -torch.inf]]))
    >>> stats.argmax, stats.p_argmax, stats.margin
    (tensor([0]), tensor([0.5000]), tensor([0.]))
    """
    return RowStats(*_row_stats(logits, ids, temperature))
