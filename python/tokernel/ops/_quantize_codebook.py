# SPDX-License-Identifier: Apache-2.0
"""Family quantize as torch ops: what a batch adds to a codebook, and how evenly its codes are used."""

from __future__ import annotations

import torch
from torch import Tensor

from tokernel.kernels import quantize as kernels
from tokernel.kernels.quantize import CodebookStats, CodeSums
from tokernel.ops._torch_op import define

__all__ = ["codebook_stats", "ema_update"]


def _ema_kernel(x: Tensor, index: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """Floats first, as torch's own checks of an op expect it."""
    counts, sums = kernels.ema_update(x, index, K)
    return sums, counts


def _ema_fake(x: Tensor, index: Tensor, K: int) -> tuple[Tensor, Tensor]:
    books, _, width = x.shape
    sums = x.new_empty((books, K, width), dtype=torch.float32)
    return sums, x.new_empty((books, K), dtype=torch.int64)


_ema_update = define("ema_update(Tensor x, Tensor index, SymInt K) -> (Tensor, Tensor)", _ema_kernel, _ema_fake)


def ema_update(x: Tensor, index: Tensor, K: int) -> CodeSums:
    """Count and sum the rows of every code. Torch form of :func:`tokernel.kernels.quantize.ema_update`, without
    gradient.

    Args:
        x: (N, D), or (Q, N, D) for Q books, float32, float16 or bfloat16, any outer strides.
        index: (N,) or (Q, N) int64 or int32, in [-1, K); -1 belongs to no code.
        K: the number of codes, at least 1.

    Returns:
        counts (K,) or (Q, K) int64; sums (K, D) or (Q, K, D) float32.

    >>> ema_update(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([1, -1, 1]), 2)
    CodeSums(counts=tensor([0, 2]), sums=tensor([[0., 0.],
            [6., 8.]]))
    """
    if x.dim() == 2 and index.dim() == 1:
        sums, counts = _ema_update(x.detach()[None], index[None], K)
        return CodeSums(counts[0], sums[0])
    sums, counts = _ema_update(x.detach(), index, K)
    return CodeSums(counts, sums)


def _stats_kernel(index: Tensor, K: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Floats first, as torch's own checks of an op expect it."""
    counts, usage, entropy, perplexity, normalized = kernels.codebook_stats(index, K, True)
    return usage, entropy, perplexity, normalized, counts


def _stats_fake(index: Tensor, K: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    books = index.shape[0]
    counts = index.new_empty((books, K), dtype=torch.int64)
    usage, entropy, perplexity, normalized = (index.new_empty((books,), dtype=torch.float32) for _ in range(4))
    return usage, entropy, perplexity, normalized, counts


_codebook_stats = define(
    "codebook_stats(Tensor index, SymInt K) -> (Tensor, Tensor, Tensor, Tensor, Tensor)", _stats_kernel, _stats_fake
)


def codebook_stats(index: Tensor, K: int, per_book: bool = False) -> CodebookStats:
    """Measure how evenly the codes of a book are used. Torch form of
    :func:`tokernel.kernels.quantize.codebook_stats`, which states the formulas.

    Args:
        index: (...) int64 or int32, in [-1, K); -1 is not counted.
        K: the number of codes, at least 1.
        per_book: index is (Q, ...), one book each; otherwise all of it is of one book.

    Returns:
        counts (K,), or (Q, K) per book, int64; usage, entropy (nats), perplexity and normalized_entropy, float32
        scalars, or (Q,) per book.

    >>> codebook_stats(torch.tensor([0, 1, 1, 0, -1]), 4).usage
    tensor(0.5000)
    """
    if per_book and index.dim() < 2:
        return CodebookStats(*kernels.codebook_stats(index, K, per_book))  # which refuses
    books = index.shape[0] if per_book else 1
    rows = index.reshape(books, index[0].numel() if per_book and books else index.numel())
    *measures, counts = _codebook_stats(rows, K)
    if per_book:
        return CodebookStats(counts, *measures)
    return CodebookStats(counts[0], *(m[0] for m in measures))
