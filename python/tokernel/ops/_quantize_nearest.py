# SPDX-License-Identifier: Apache-2.0
"""Family quantize as torch ops: which codes are nearest. Without gradient: the answers are decisions."""

from __future__ import annotations

import torch
from torch import Tensor

from tokernel.kernels import quantize as kernels
from tokernel.kernels.quantize import Nearest, TopCodes
from tokernel.ops._torch_op import define

__all__ = ["nearest", "nearest_rank", "nearest_topk"]


# Floats come first: checks of registered ops need one there.
def _best(x: Tensor, codes: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    index, best, _, _ = kernels.nearest(x, codes, metric)
    return best, index


def _two_best(x: Tensor, codes: Tensor, metric: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    index, best, second, second_best = kernels.nearest(x, codes, metric, True)
    return best, index, second_best, second  # type: ignore[return-value]


def _topk(x: Tensor, codes: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    index, best = kernels.nearest_topk(x, codes, k, metric)
    return best, index


def _rank(x: Tensor, codes: Tensor, rank: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    index, best = kernels.nearest_rank(x, codes, rank, metric)
    return best, index


def _empty(x: Tensor, *more: int) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:2], *more)
    return x.new_empty(shape, dtype=torch.float32), x.new_empty(shape, dtype=torch.int64)


_nearest_op = define(
    "nearest(Tensor x, Tensor codes, str metric) -> (Tensor, Tensor)", _best, lambda x, codes, metric: _empty(x)
)
_nearest_two_op = define(
    "nearest_two(Tensor x, Tensor codes, str metric) -> (Tensor, Tensor, Tensor, Tensor)",
    _two_best,
    lambda x, codes, metric: (*_empty(x), *_empty(x)),
)
_nearest_topk_op = define(
    "nearest_topk(Tensor x, Tensor codes, SymInt k, str metric) -> (Tensor, Tensor)",
    _topk,
    lambda x, codes, k, metric: _empty(x, k),
)
_nearest_rank_op = define(
    "nearest_rank(Tensor x, Tensor codes, Tensor rank, str metric) -> (Tensor, Tensor)",
    _rank,
    lambda x, codes, rank, metric: _empty(x),
)


def _with_books(*tensors: Tensor) -> tuple[bool, list[Tensor]]:
    """Give rows, codes and ranks the extent Q of books, without a copy; say whether one of them had it."""
    books = next((t.shape[0] for t in tensors[:2] if t.dim() == 3), None)
    wide = [
        t.detach()[None].expand(1 if books is None else books, *t.shape) if t.dim() == rank else t.detach()
        for t, rank in zip(tensors, (2, 2, 1), strict=False)
    ]
    return books is not None, wide


def nearest(x: Tensor, codes: Tensor, metric: str = "l2", second: bool = False) -> Nearest:
    """Find the nearest code of every row. Torch form of :func:`tokernel.kernels.quantize.nearest`, without gradient.

    Args:
        x: (N, D) or (Q, N, D) float32, float16 or bfloat16, strided views included.
        codes: (K, D) or (Q, K, D) of the dtype of x, K at least 1; what has no Q serves all books.
        metric: "l2", "cosine" or "dot".
        second: whether to look for the second nearest code as well.

    Returns:
        index int64 and best float32, the lowest index of equals, and with `second` the same of the nearest of the other
        codes; (N,), or (Q, N) where x or codes have a Q.

    >>> nearest(torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [4.0]]))[:2]
    (tensor([0, 1]), tensor([1., 1.]))
    """
    books, (rows, known) = _with_books(x, codes)
    found = (_nearest_two_op if second else _nearest_op)(rows, known, metric)
    best, index, *others = found if books else [t[0] for t in found]
    return Nearest(index, best, *reversed(others)) if second else Nearest(index, best, None, None)


def nearest_topk(x: Tensor, codes: Tensor, k: int, metric: str = "l2") -> TopCodes:
    """Find the k nearest codes of every row. Torch form of :func:`tokernel.kernels.quantize.nearest_topk`, without
    gradient.

    Args:
        x: (N, D) or (Q, N, D) float32, float16 or bfloat16, strided views included.
        codes: (K, D) or (Q, K, D) of the dtype of x; what has no Q serves all books.
        k: in [1, K].
        metric: "l2", "cosine" or "dot".

    Returns:
        index (N, k) int64 and best (N, k) float32, or (Q, N, k), the nearest first; -1 and NaN where no finite code is
        left.

    >>> nearest_topk(torch.tensor([[3.0]]), torch.tensor([[0.0], [4.0], [1.0]]), 2)
    TopCodes(index=tensor([[1, 2]]), best=tensor([[1., 4.]]))
    """
    books, (rows, known) = _with_books(x, codes)
    best, index = _nearest_topk_op(rows, known, k, metric)
    return TopCodes(index, best) if books else TopCodes(index[0], best[0])


def nearest_rank(x: Tensor, codes: Tensor, rank: Tensor, metric: str = "l2") -> tuple[Tensor, Tensor]:
    """Find the code of a given rank for every row. Torch form of :func:`tokernel.kernels.quantize.nearest_rank`,
    without gradient.

    Args:
        x: (N, D) or (Q, N, D) float32, float16 or bfloat16, strided views included.
        codes: (K, D) or (Q, K, D) of the dtype of x; what has no Q serves all books.
        rank: (N,), or (Q, N) where x or codes have a Q; every value in [0, K).
        metric: "l2", "cosine" or "dot".

    Returns:
        index int64 and best float32, (N,) or (Q, N); -1 and NaN where fewer codes are finite.

    >>> nearest_rank(torch.tensor([[3.0], [3.0]]), torch.tensor([[0.0], [4.0], [1.0]]), torch.tensor([0, 2]))
    (tensor([1, 0]), tensor([1., 9.]))
    """
    books, (rows, known, ranks) = _with_books(x, codes, rank)
    best, index = _nearest_rank_op(rows, known, ranks, metric)
    return (index, best) if books else (index[0], best[0])
