# SPDX-License-Identifier: Apache-2.0
"""How a codebook is trained and used: what a batch adds to its moving averages, and how evenly its codes are chosen."""

from __future__ import annotations

from typing import NamedTuple

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["CodeSums", "CodebookStats", "codebook_stats", "ema_update"]


class CodeSums(NamedTuple):
    """What :func:`ema_update` returns."""

    counts: Array
    sums: Array


class CodebookStats(NamedTuple):
    """What :func:`codebook_stats` returns."""

    counts: Array
    usage: Array
    entropy: Array
    perplexity: Array
    normalized_entropy: Array


def ema_update(x: Array, index: Array, K: int, *, out: tuple[Array, Array] | None = None) -> CodeSums:
    """Count and sum the rows of every code, which is what a batch adds to the moving averages of a codebook:
    ``counts_k = #{n: index_n = k}`` and ``sums_k = sum of x_n over them``.

    Index -1 belongs to no code; a code that nothing chose has zeros. Sums run in float32 in ascending n, cut by shape
    alone: the same bits for any number of threads. A NaN reaches the sum of its code only.

    Args:
        x: (N, D), or (Q, N, D) for Q books, float32, float16 or bfloat16, any outer strides.
        index: (N,) or (Q, N) int64 or int32, in [-1, K).
        K: the number of codes, at least 1.
        out: arrays (counts, sums) to fill instead of new ones.

    Returns:
        counts (K,) or (Q, K) int64; sums (K, D) or (Q, K, D) float32.

    Raises:
        ValueError: an extent does not fit, K below 1, or an index is out of range (on the host).
        TypeError: not an array, a dtype that is not listed, or K is no integer.

    >>> import numpy as np
    >>> x = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
    >>> counts, sums = ema_update(x, np.array([1, -1, 1]), 2)
    >>> counts
    array([0, 2])
    >>> sums
    array([[0., 0.],
           [6., 8.]], dtype=float32)

    The sums behind VQ-VAE's moving averages (arXiv 1711.00937, appendix A.1).
    """
    module = extension_of("ema_update", "x", x)
    return CodeSums(*module.ema_update(x, index, K, *(out or (None, None))))


def codebook_stats(index: Array, K: int, per_book: bool = False) -> CodebookStats:
    """Measure how evenly the codes of a book are used. With ``p_k = counts_k / sum(counts)``::

        usage              = codes used / K
        entropy            = -sum_k p_k log p_k, in nats
        perplexity         = exp(entropy)
        normalized_entropy = entropy / log(codes used)

    Index -1 is not counted. Nothing counted: perplexity 1, all else 0; where fewer than two codes are used the
    normalized entropy is 0.

    Args:
        index: (...) int64 or int32 of one to four dimensions, in [-1, K).
        K: the number of codes, at least 1.
        per_book: index is (Q, ...), one book each; otherwise all of it is of one book.

    Returns:
        counts (K,), or (Q, K) per book, int64; the others float32 scalars, or (Q,) per book.

    Raises:
        ValueError: K below 1, an index is out of range (on the host), or per_book with one dimension.
        TypeError: not an array, a dtype that is not listed, or K is no integer.

    >>> import numpy as np
    >>> stats = codebook_stats(np.array([0, 1, 1, 0, -1]), 4)
    >>> stats.counts
    array([2, 2, 0, 0])
    >>> [round(float(value), 4) for value in stats[1:]]
    [0.5, 0.6931, 2.0, 1.0]

    The measures of the survey of audio tokenizers (arXiv 2506.10274).
    """
    module = extension_of("codebook_stats", "index", index)
    counts, *measures = module.codebook_stats(index, K, per_book, None, None, None, None, None)
    return CodebookStats(counts, *(measures if per_book else (m[0] for m in measures)))
