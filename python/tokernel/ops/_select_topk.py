# SPDX-License-Identifier: Apache-2.0
"""Family select as torch ops: the best items of every row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.kernels import select as kernels
from tokernel.ops._torch_op import define

__all__ = ["topk", "topk_mask", "topp_mask"]


def _topk_fake(score: Tensor, k: int, sorted: bool, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    shape = (*score.shape[:-1], k)
    return score.new_empty(shape), score.new_empty(shape, dtype=torch.int64)


def _save_choice(ctx: Any, inputs: tuple[Tensor, int, bool, Tensor | None], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], inputs[3])
    ctx.width = inputs[0].shape[-1]


def _topk_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, None, None, None]:
    index, mask = ctx.saved_tensors
    out = grad.new_zeros((*grad.shape[:-1], ctx.width)).scatter(-1, index, grad)
    return (out if mask is None else out * mask.bool()), None, None, None  # the value of a masked item is a constant


_topk = define(
    "topk(Tensor score, SymInt k, bool sorted, Tensor? mask) -> (Tensor, Tensor)",
    kernels.topk,
    _topk_fake,
    setup=_save_choice,
    backward=_topk_backward,
)
_topk_mask = define(
    "topk_mask(Tensor score, SymInt k, Tensor? mask) -> Tensor",
    kernels.topk_mask,
    lambda score, k, mask: score.new_empty(score.shape, dtype=torch.bool),
)
_topp_mask = define(
    "topp_mask(Tensor prob, float p, SymInt min_keep, Tensor? weight) -> Tensor",
    kernels.topp_mask,
    lambda prob, p, min_keep, weight: prob.new_empty(prob.shape, dtype=torch.bool),
)


def _as_rows(score: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Fold outer dimensions into the one that a batch rule knows; what does not fit goes on to the checks as it is."""
    if score.dim() < 1 or (mask is not None and mask.shape != score.shape):
        return score, mask
    rows = (score.shape[:-1].numel(), score.shape[-1])
    return score.reshape(rows), None if mask is None else mask.reshape(rows)


def topk(score: Tensor, k: int, sorted: bool = True, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Find the k largest scores of every row. Torch form of :func:`tokernel.kernels.select.topk`, which states the
    order among equals, NaN and masked items.

    Args:
        score: (..., N) float32, float16 or bfloat16, any outer strides.
        k: in [0, N].
        sorted: whether the best comes first; False lists the chosen items by ascending index.
        mask: (..., N) bool, True where an item may be chosen.

    Returns:
        value (..., k), differentiable in score: its gradient goes to the chosen positions, except masked ones; and
        index (..., k) int64.

    >>> topk(torch.tensor([1.0, 3.0, 2.0, 3.0]), 3)
    (tensor([3., 3., 2.]), tensor([1, 3, 2]))
    """
    if score.dim() == 2:
        value, index = _topk(score, k, sorted, mask)
        return value, index
    rows, row_masks = _as_rows(score, mask)
    value, index = _topk(rows, k, sorted, row_masks)
    shape = (*score.shape[:-1], k)
    return value.reshape(shape), index.reshape(shape)


def topk_mask(score: Tensor, k: int, mask: Tensor | None = None) -> Tensor:
    """Mark the items that :func:`topk` chooses. Torch form of :func:`tokernel.kernels.select.topk_mask`, without
    gradient.

    Args:
        score: (..., N) float32, float16 or bfloat16, any outer strides.
        k: in [0, N].
        mask: (..., N) bool, True where an item may be chosen.

    Returns:
        (..., N) bool, k of every row True.

    >>> topk_mask(torch.tensor([1.0, 3.0, 2.0, 3.0]), 2)
    tensor([False,  True, False,  True])
    """
    rows, row_masks = _as_rows(score.detach(), mask)
    out: Tensor = _topk_mask(rows, k, row_masks)
    return out.reshape(score.shape)


def topp_mask(prob: Tensor, p: float, min_keep: int = 1, weight: Tensor | None = None) -> Tensor:
    """Mark the fewest items of every row whose mass reaches p. Torch form of
    :func:`tokernel.kernels.select.topp_mask`, without gradient.

    Args:
        prob: (..., N) float32, float16 or bfloat16, any outer strides.
        p: in [0, 1].
        min_keep: items that are kept even where fewer reach p.
        weight: (..., N) float32, how often each item counts.

    Returns:
        (..., N) bool; the item that crosses p is kept.

    >>> topp_mask(torch.tensor([0.2, 0.5, 0.05, 0.25]), 0.7)
    tensor([False,  True, False,  True])
    """
    rows, row_weights = _as_rows(prob.detach(), None if weight is None else weight.detach())
    out: Tensor = _topp_mask(rows, p, min_keep, row_weights)
    return out.reshape(prob.shape)
