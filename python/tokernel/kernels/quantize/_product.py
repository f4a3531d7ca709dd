# SPDX-License-Identifier: Apache-2.0
"""Product quantization: a codebook for every part of a vector, and search among codes by tables of distances."""

from __future__ import annotations

from typing import Any, NamedTuple

from tokernel.kernels._arrays import Array, extension_of
from tokernel.kernels.quantize._bits import _dtype_name

__all__ = ["Scanned", "adc_scan", "adc_tables", "pq_decode", "pq_encode"]


class Scanned(NamedTuple):
    """What :func:`adc_scan` found for every query."""

    value: Array
    """(B, k) float32: the sums, the best first."""
    index: Array
    """(B, k) int64: the rows of the codes they belong to."""


def pq_encode(x: Array, centroids: Array, dtype: Any = None, *, out: Array | None = None) -> Array:
    """Find the nearest centroid of every part of a row: ``codes[n, m] = argmin_k |x[n, m d : (m + 1) d] - c[m, k]|^2``.

    The search is that of :func:`nearest` with the parts as books: sums in float32, the lowest code of equals. A
    centroid with a NaN or an infinity is never chosen; a part of a row with one has code 0.

    Args:
        x: (N, M * d) float32, float16 or bfloat16, rows of any stride.
        centroids: (M, K, d) of the dtype of x, any outer strides; K at least 1.
        dtype: uint8 or int64, or its name; by default uint8 where K is at most 256.
        out: array of that dtype and shape (N, M) to fill instead of a new one.

    Returns:
        (N, M) uint8 or int64, each in [0, K).

    Raises:
        ValueError: a rank or extent does not fit, there is no centroid, or more than uint8 can number.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> centroids = np.array([[[0.0], [4.0]], [[1.0], [2.0]]], np.float32)
    >>> pq_encode(np.array([[3.0, 1.1], [1.0, 9.0]], np.float32), centroids)
    array([[1, 0],
           [0, 1]], dtype=uint8)

    Jegou et al., Product Quantization for Nearest Neighbor Search (TPAMI 2011), section II.
    """
    name = "" if dtype is None else _dtype_name(dtype)
    return extension_of("pq_encode", "x", x).pq_encode(x, centroids, name, out)


def pq_decode(codes: Array, centroids: Array, *, out: Array | None = None) -> Array:
    """Put the centroids of a row's codes side by side: ``out[n, m d : (m + 1) d] = centroids[m, codes[n, m]]``.

    Args:
        codes: (N, M) uint8, int32 or int64, each in [0, K), rows of any stride.
        centroids: (M, K, d) float32, float16 or bfloat16, any outer strides.
        out: array of shape (N, M * d) to fill instead of a new one.

    Returns:
        (N, M * d) of the dtype of centroids, a bit-exact copy.

    Raises:
        ValueError: a rank or extent does not fit, or a code is out of range (on the host; on a device it gives zeros).
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> centroids = np.array([[[0.0], [4.0]], [[1.0], [2.0]]], np.float32)
    >>> pq_decode(np.array([[1, 0], [0, 1]], np.uint8), centroids)
    array([[4., 1.],
           [0., 2.]], dtype=float32)

    Jegou et al., Product Quantization for Nearest Neighbor Search (TPAMI 2011), section II.
    """
    return extension_of("pq_decode", "codes", codes).pq_decode(codes, centroids, out)


def adc_tables(queries: Array, centroids: Array, metric: str = "l2", *, out: Array | None = None) -> Array:
    """Measure every part of the queries against each of its centroids.

    l2: ``tables[b, m, k] = |q[b, m d : (m + 1) d] - c[m, k]|^2``; dot: the product of the two. In float32, summed in
    ascending order, so that a distance is never negative. NaN propagates.

    Args:
        queries: (B, M * d) float32, float16 or bfloat16, rows of any stride.
        centroids: (M, K, d) of the dtype of queries, any outer strides.
        metric: "l2" or "dot".
        out: array of shape (B, M, K) to fill instead of a new one.

    Returns:
        (B, M, K) float32.

    Raises:
        ValueError: a rank or extent does not fit, or the metric is unknown.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> centroids = np.array([[[0.0], [4.0]], [[1.0], [2.0]]], np.float32)
    >>> adc_tables(np.array([[1.0, 1.0]], np.float32), centroids)
    array([[[1., 9.],
            [0., 1.]]], dtype=float32)

    Jegou et al., Product Quantization for Nearest Neighbor Search (TPAMI 2011), section III (asymmetric distance).
    """
    return extension_of("adc_tables", "queries", queries).adc_tables(queries, centroids, metric, out)


def adc_scan(
    codes: Array, tables: Array, k: int, largest: bool = False, *, out: tuple[Array, Array] | None = None
) -> Scanned:
    """Find the k best rows of codes for every query, ``sum_m tables[b, m, codes[n, m]]``, the smallest first.

    Sums are in float32, from 0 in ascending m on every backend: all give the same bits, for any number of threads. The
    lowest row comes first among equals, and NaN after every number. The B x N sums are never stored.

    Args:
        codes: (N, M) uint8, int32 or int64, each in [0, K), rows of any stride; N below 2^31.
        tables: (B, M, K) float32, such as :func:`adc_tables` makes.
        k: in [0, N].
        largest: look for the largest sums instead, as tables of products ask for.
        out: arrays (value, index) to fill instead of new ones.

    Returns:
        value (B, k) float32 and index (B, k) int64.

    Raises:
        ValueError: a rank or extent does not fit, k is larger than N, or a code is out of range (on the host; on a
            device its row has the sum NaN).
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> tables = np.array([[[1.0, 9.0], [0.0, 1.0]]], np.float32)
    >>> adc_scan(np.array([[1, 0], [0, 1], [0, 0]], np.uint8), tables, k=2)
    Scanned(value=array([[1., 2.]], dtype=float32), index=array([[2, 1]]))

    Jegou et al., Product Quantization for Nearest Neighbor Search (TPAMI 2011), section III (asymmetric distance).
    """
    return Scanned(
        *extension_of("adc_scan", "codes", codes).adc_scan(codes, tables, k, largest, *(out or (None, None)))
    )
