# SPDX-License-Identifier: Apache-2.0
"""Which codes of a codebook are nearest to a row."""

from __future__ import annotations

from typing import NamedTuple

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["Nearest", "TopCodes", "nearest", "nearest_rank", "nearest_topk"]


class Nearest(NamedTuple):
    """What :func:`nearest` found for every row."""

    index: Array
    """(N,) or (Q, N) int64: the nearest code."""
    best: Array
    """float32, as index: its squared distance, cosine or product."""
    second: Array | None
    """int64, as index: the nearest of the other codes; None unless asked for."""
    second_best: Array | None
    """float32, as index: its squared distance, cosine or product."""


class TopCodes(NamedTuple):
    """What :func:`nearest_topk` found for every row."""

    index: Array
    """(N, k) or (Q, N, k) int64: the nearest codes, the nearest first."""
    best: Array
    """float32, as index: their squared distances, cosines or products."""


def nearest(
    x: Array,
    codes: Array,
    metric: str = "l2",
    second: bool = False,
    *,
    out: tuple[Array, ...] | None = None,
) -> Nearest:
    """Find the nearest code of every row, without storing the N x K scores.

    l2: ``index[n] = argmin_k |x_n - c_k|^2`` and ``best[n] = max(0, |x_n|^2 + |c_k|^2 - 2 x_n.c_k)``.
    cosine: ``index[n] = argmax_k cos(x_n, c_k)`` and ``best[n]`` is that cosine.
    dot: ``index[n] = argmax_k x_n.c_k`` and ``best[n]`` is that product.

    Args:
        x: (N, D), or (Q, N, D) with rows for each of Q books; float32, float16 or bfloat16; strided views are read in
            place.
        codes: (K, D), or (Q, K, D), of the dtype of x; K at least 1. What has no Q serves all books without a copy.
        metric: "l2", "cosine" or "dot".
        second: whether to look for the second nearest code as well.
        out: arrays to fill instead of new ones: two, or four with `second`.

    Returns:
        index and best, and with `second` the same of the nearest of the other codes; (N,), or (Q, N) where x or codes
        have a Q. Sums are in float32 and the lowest of equals comes first. A zero vector has cosine 0. A code with a
        NaN or an infinity is never chosen; a row with one, or a row that meets no finite code, has index 0 and best
        NaN (for l2 and dot also where a squared norm overflows float32). Where there is no second code, it is -1 and
        its best NaN.

    Raises:
        ValueError: a rank or extent does not fit, there is no code, or the metric is unknown.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> x = np.array([[0, 1], [5, 5], [1, 0]], dtype=np.float32)
    >>> index, best, second, second_best = nearest(x, np.array([[0, 0], [4, 5]], dtype=np.float32), second=True)
    >>> index, best
    (array([0, 1, 0]), array([1., 1., 1.], dtype=float32))
    >>> second, second_best
    (array([1, 0, 1]), array([32., 50., 34.], dtype=float32))

    The lookup of vector quantization (van den Oord et al., Neural Discrete Representation Learning, arXiv 1711.00937,
    equation 1; by cosine: Yu et al., arXiv 2110.04627, section 3.2).
    """
    given = (*(out or (None, None)), None, None)
    found = extension_of("nearest", "x", x).nearest(x, codes, metric, second, *given[:4])
    return Nearest(*found) if second else Nearest(found[0], found[1], None, None)


def nearest_topk(
    x: Array, codes: Array, k: int, metric: str = "l2", *, out: tuple[Array, Array] | None = None
) -> TopCodes:
    """Find the k nearest codes of every row, the nearest first, without storing the N x K scores.

    Args:
        x: (N, D) or (Q, N, D) float32, float16 or bfloat16.
        codes: (K, D) or (Q, K, D) of the dtype of x; what has no Q serves all books.
        k: in [1, K].
        metric: "l2", "cosine" or "dot", as for :func:`nearest`.
        out: arrays to fill instead of new ones.

    Returns:
        index (N, k) int64 and best (N, k) float32, or (Q, N, k) where x or codes have a Q; the lowest index first among
        equals. Slots for which no finite code is left, and all slots of a row that is not finite, have index -1 and
        best NaN.

    Raises:
        ValueError: a rank or extent does not fit, there is no code, k is out of range, or the metric is unknown.
        TypeError: not an array or an integer, or a dtype that is not listed.

    >>> import numpy as np
    >>> codes = np.array([[0.0], [4.0], [1.0]], dtype=np.float32)
    >>> nearest_topk(np.array([[3.0]], dtype=np.float32), codes, 2)
    TopCodes(index=array([[1, 2]]), best=array([[1., 4.]], dtype=float32))

    The candidates of a perturbed or beam-searched quantizer (Robust Latent Matters, arXiv 2503.08354, algorithm 1).
    """
    index, best = out or (None, None)
    return TopCodes(*extension_of("nearest_topk", "x", x).nearest_topk(x, codes, k, metric, index, best))


def nearest_rank(
    x: Array, codes: Array, rank: Array, metric: str = "l2", *, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """Find the code of a given rank for every row, 0 being the nearest, without storing the N x K scores.

    Args:
        x: (N, D) or (Q, N, D) float32, float16 or bfloat16.
        codes: (K, D) or (Q, K, D) of the dtype of x; what has no Q serves all books.
        rank: (N,), or (Q, N) where x or codes have a Q; int64 or int32, every value in [0, K).
        metric: "l2", "cosine" or "dot", as for :func:`nearest`.
        out: arrays to fill instead of new ones.

    Returns:
        index int64 and best float32, (N,) or (Q, N): what :func:`nearest_topk` has in that slot; -1 and NaN where fewer
        codes are finite, and for a row that is not finite.

    Raises:
        ValueError: a rank or extent does not fit, there is no code, a rank is out of range, or the metric is unknown.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> codes = np.array([[0.0], [4.0], [1.0]], dtype=np.float32)
    >>> nearest_rank(np.array([[3.0], [3.0]], dtype=np.float32), codes, np.array([0, 2]))
    (array([1, 0]), array([1., 9.], dtype=float32))

    The code that latent perturbation takes instead of the nearest one (Robust Latent Matters, arXiv 2503.08354).
    """
    index, best = out or (None, None)
    extension = extension_of("nearest_rank", "x", x)
    return extension.nearest_rank(x, codes, rank, metric, index, best)  # type: ignore[no-any-return]
