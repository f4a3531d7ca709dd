# SPDX-License-Identifier: Apache-2.0
"""Family select as torch ops: rows that lie far apart, without gradient: the answers are decisions."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from tokernel.kernels import select as kernels
from tokernel.ops._torch_op import define

__all__ = ["farthest_points"]


_Start = str | int | Tensor


def _kernel(
    x: Tensor, k: int, metric: str, mode: str, rule: str, start: int | None, starts: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    given: _Start = starts if starts is not None else rule if start is None else start
    return kernels.farthest_points(x, k, metric, mode, given, mask, True)


def _fake(
    x: Tensor, k: int, metric: str, mode: str, rule: str, start: int | None, starts: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:-2], k)
    return x.new_empty(shape, dtype=torch.int64), x.new_empty(shape, dtype=torch.float32)


_farthest_points = define(
    "farthest_points(Tensor x, SymInt k, str metric, str mode, str rule, SymInt? start, Tensor? starts, Tensor? mask)"
    " -> (Tensor, Tensor)",
    _kernel,
    _fake,
)


@overload
def farthest_points(
    x: Tensor,
    k: int,
    metric: str = ...,
    mode: str = ...,
    start: _Start = ...,
    mask: Tensor | None = ...,
    return_score: Literal[False] = ...,
) -> Tensor: ...


@overload
def farthest_points(
    x: Tensor,
    k: int,
    metric: str = ...,
    mode: str = ...,
    start: _Start = ...,
    mask: Tensor | None = ...,
    *,
    return_score: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def farthest_points(
    x: Tensor,
    k: int,
    metric: str = "cosine",
    mode: str = "maxmin",
    start: _Start = "maxmin",
    mask: Tensor | None = None,
    return_score: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Pick k rows of every sample that lie far apart. Torch form of :func:`tokernel.kernels.select.farthest_points`,
    which states distances, ties, NaN and masked rows; without gradient.

    Args:
        x: (B, N, D) or (N, D) float32, float16 or bfloat16, strided views included.
        k: in [0, N].
        metric: "cosine" or "l2".
        mode: "maxmin" or "maxsum".
        start: the first pick: an index, one a sample as an integer tensor (B,), or "maxmin".
        mask: (B, N) or (N,) bool, True where a row may be picked.
        return_score: whether the scores are answered too.

    Returns:
        order (B, k) or (k,) int64; with return_score also score of that shape in float32.

    >>> farthest_points(torch.tensor([[0.0], [1.0], [5.0], [9.0]]), 3, "l2", start=0)
    tensor([0, 3, 2])
    """
    rule = start if isinstance(start, str) else "maxmin"
    starts = start if isinstance(start, Tensor) else None
    index = None if isinstance(start, str | Tensor) else start
    x = x.detach()
    if x.dim() == 3:
        order, score = _farthest_points(x, k, metric, mode, rule, index, starts, mask)
    else:  # a batch dimension, for transforms; other ranks go on to the checks as they are
        row = x[None] if x.dim() == 2 else x
        row_mask = mask[None] if mask is not None and mask.dim() == 1 else mask
        order, score = _farthest_points(row, k, metric, mode, rule, index, starts, row_mask)
        order, score = order[0], score[0]
    return (order, score) if return_score else order
