# SPDX-License-Identifier: Apache-2.0
"""k-means: its two steps, and the loop over them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tokernel.kernels._arrays import Array, extension_of, fetch, place
from tokernel.kernels.cluster import _lloyd
from tokernel.kernels.merge import gather_rows

__all__ = ["KMeans", "assign", "cluster_means", "cluster_sums", "kmeans", "update"]


class KMeans(NamedTuple):
    """What :func:`kmeans` found."""

    labels: Array
    """(B, N) int64: the cluster of every row."""
    centroids: Array
    """(B, K, D) of the dtype of x."""
    sizes: Array
    """(B, K) int64: how many rows have each label."""
    n_iter: Any
    """Iterations run, an int."""


def assign(
    x: Array, centroids: Array, metric: str = "l2", *, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """Find the nearest centroid of every row, without storing the N x K distances.

    l2: ``labels[n] = argmin_k |x_n - c_k|^2`` and ``best[n] = max(0, |x_n|^2 + |c_k|^2 - 2 x_n.c_k)``.
    cosine: ``labels[n] = argmax_k cos(x_n, c_k)`` and ``best[n]`` is that cosine.

    Args:
        x: (B, N, D) float32, float16 or bfloat16; strided views are read in place.
        centroids: (B, K, D) of the dtype of x, K at least 1.
        metric: "l2" or "cosine".
        out: arrays to fill instead of new ones.

    Returns:
        labels (B, N) int64, the lowest of equals, and best (B, N) float32, both from sums in float32. A zero vector has
        cosine 0. A centroid with a NaN or an infinity is never chosen; a row with one, or a row that meets no finite
        centroid, has label 0 and best NaN (for l2 also where a squared norm overflows float32).

    Raises:
        ValueError: a rank or extent does not fit, there is no centroid, or the metric is unknown.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> x = np.array([[[0, 1], [5, 5], [1, 0]]], dtype=np.float32)
    >>> labels, best = assign(x, np.array([[[0, 0], [4, 5]]], dtype=np.float32))
    >>> labels, best
    (array([[0, 1, 0]]), array([[1., 1., 1.]], dtype=float32))

    The first half of a Lloyd iteration (Sparse VideoGen2, arXiv 2505.18875, section 4.1).
    """
    labels, best = out or (None, None)
    return extension_of("assign", "x", x).assign(x, centroids, metric, labels, best)  # type: ignore[no-any-return]


def update(
    x: Array, labels: Array, old: Array, metric: str = "l2", *, out: tuple[Array, Array, Array] | None = None
) -> tuple[Array, Array, Array]:
    """Move every centroid to the mean of its rows.

    l2: ``c'[k] = mean of x_n over the n with label k``. cosine: ``c'[k] = s / |s|`` with ``s = sum of x_n / |x_n|``.
    An empty cluster, and for cosine one whose s is zero, keeps its old centroid bit for bit.

    Args:
        x: (B, N, D) float32, float16 or bfloat16.
        labels: (B, N) int64 or int32, every value in [0, K).
        old: (B, K, D) of the dtype of x.
        metric: "l2" or "cosine".
        out: arrays to fill instead of new ones.

    Returns:
        centroids (B, K, D) of the dtype of x, rounded once from sums in float32; counts (B, K) int64; and shift (B,)
        float32, ``max_k |c'[k] - c[k]|``. The sums run in ascending order of the rows, the same for any number of
        threads. A NaN reaches the centroid of its own row, and the shift.

    Raises:
        ValueError: a rank or extent does not fit, a label is out of range, or the metric is unknown.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> x = np.array([[[0.0], [2.0], [8.0]]], dtype=np.float32)
    >>> old = np.array([[[0.0], [8.0], [5.0]]], dtype=np.float32)
    >>> centroids, counts, shift = update(x, np.array([[0, 0, 1]]), old)
    >>> centroids[0, :, 0], counts, shift
    (array([1., 8., 5.], dtype=float32), array([[2, 1, 0]]), array([1.], dtype=float32))

    The second half of a Lloyd iteration (Sparse VideoGen2, arXiv 2505.18875, section 4.1).
    """
    centroids, counts, shift = out or (None, None, None)
    return extension_of("update", "x", x).update(  # type: ignore[no-any-return]
        x, labels, old, metric, centroids, counts, shift
    )


def cluster_sums(x: Array, labels: Array, clusters: int, metric: str = "l2") -> tuple[Array, Array]:
    """Add up the rows of every cluster: the first half of :func:`update`, for rows that are spread over machines.

    ``sums[k] = sum of x_n`` (l2) or ``sum of x_n / |x_n|`` (cosine, a zero row adds nothing) over the n with label k.

    Args:
        x: (B, N, D) float32, float16 or bfloat16.
        labels: (B, N) int64 or int32, every value in [0, clusters).
        clusters: K.
        metric: "l2" or "cosine".

    Returns:
        sums (B, K, D) float32 and counts (B, K) int64.

    Raises:
        ValueError: a rank or extent does not fit, a label is out of range, or the metric is unknown.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> x = np.array([[[1.0], [2.0], [4.0]]], dtype=np.float32)
    >>> sums, counts = cluster_sums(x, np.array([[1, 0, 1]]), 2)
    >>> sums[0, :, 0], counts
    (array([2., 5.], dtype=float32), array([[1, 2]]))

    Sparse VideoGen2 (arXiv 2505.18875, section 4.1).
    """
    return extension_of("cluster_sums", "x", x).cluster_sums(x, labels, clusters, metric)  # type: ignore[no-any-return]


def cluster_means(sums: Array, counts: Array, old: Array, metric: str = "l2") -> tuple[Array, Array]:
    """Turn sums and counts into centroids: the second half of :func:`update`.

    ``c'[k] = sums[k] / counts[k]`` (l2) or ``sums[k] / |sums[k]|`` (cosine); an empty cluster, and for cosine a sum of
    zero, keeps its old centroid.

    Args:
        sums: (B, K, D) float32.
        counts: (B, K) int64 or int32, none negative.
        old: (B, K, D) float32, float16 or bfloat16.
        metric: "l2" or "cosine".

    Returns:
        centroids (B, K, D) of the dtype of old, and shift (B,) float32, ``max_k |c'[k] - c[k]|``.

    Raises:
        ValueError: a rank or extent does not fit, a count is negative, or the metric is unknown.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> sums = np.array([[[6.0], [0.0]]], dtype=np.float32)
    >>> centroids, shift = cluster_means(sums, np.array([[3, 0]]), np.ones((1, 2, 1), np.float32))
    >>> centroids[0, :, 0], shift
    (array([2., 1.], dtype=float32), array([1.], dtype=float32))

    Sparse VideoGen2 (arXiv 2505.18875, section 4.1).
    """
    extension = extension_of("cluster_means", "sums", sums)
    return extension.cluster_means(sums, counts, old, metric)  # type: ignore[no-any-return]


class HostRows:
    """The rows of one process, for :mod:`tokernel.kernels.cluster._lloyd`."""

    def __init__(self, x: Array, metric: str) -> None:
        self.x, self.metric = x, metric
        self.batch, self.before, self.total = x.shape[0], 0, x.shape[1]

    def assign(self, centroids: Array) -> tuple[Array, Array]:
        return assign(self.x, centroids, self.metric)

    def update(self, labels: Array, old: Array) -> tuple[Array, Array, float]:
        centroids, counts, shift = update(self.x, labels, old, self.metric)
        return centroids, counts, float(fetch(shift).max(initial=0))

    def unit(self, centroids: Array) -> Array:
        own = np.tile(np.arange(centroids.shape[1]), (self.batch, 1))
        return update(centroids, place(own, centroids), centroids, "cosine")[0]

    def pick(self, index: np.ndarray[Any, Any]) -> Array:
        return gather_rows(self.x, place(index, self.x))

    def best(self, centroids: Array) -> np.ndarray[Any, Any]:
        return fetch(self.assign(centroids)[1])

    def across(self, totals: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], int]:
        return totals[None], 0

    def agree(self, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return index


def kmeans(
    x: Array,
    K: int,
    max_iters: int,
    tol: float = 1e-4,
    init: str | Array | None = None,
    metric: str = "l2",
    generator: np.random.Generator | int | None = None,
) -> KMeans:
    """Cluster the rows of every sample by Lloyd's iterations, from drawn or given centroids.

    Each iteration is :func:`assign`, then :func:`update`. When no centroid of any sample moved by `tol` or more, the
    loop stops and returns the centroids that the labels were computed from; after the last iteration it returns the
    means of the labels. One decision holds for the whole batch.

    Args:
        x: (B, N, D) float32, float16 or bfloat16.
        K: clusters of each sample, at least 1; may exceed N, except with "++".
        max_iters: most iterations; 0 only assigns.
        tol: a shift below it stops the loop; 0 never does.
        init: None or "random" draws rows with replacement; "++" draws each further row with a probability proportional
            to its squared distance from the centroids before it (1 - cosine for "cosine"), uniformly where all are 0
            (our reconstruction: the official code only draws uniformly); an array (B, K, D) of the dtype of x is a
            warm start.
        metric: "l2", or "cosine" for centroids of unit length (given ones are normalised first).
        generator: NumPy generator or seed of the draw.

    Returns:
        KMeans of labels (B, N) int64, centroids (B, K, D) of the dtype of x, sizes (B, K) int64 and n_iter. Ties go to
        the lowest cluster and an empty cluster keeps its centroid. A row with a NaN or an infinity belongs to cluster
        0, whose centroid is then not finite either and takes no further row.

    Raises:
        ValueError: a rank or extent does not fit, K is less than 1 or with "++" more than N, rows are to be drawn from
            none, max_iters or tol is negative, or the metric or init is unknown.
        TypeError: not an array, not a number, or a dtype that is not listed.

    >>> import numpy as np
    >>> x = np.array([[[0.0], [1.0], [9.0], [10.0]]], dtype=np.float32)
    >>> kmeans(x, 2, max_iters=10, init=x[:, 1:3])
    KMeans(labels=array([[0, 0, 1, 1]]), centroids=array([[[0.5],
            [9.5]]], dtype=float32), sizes=array([[2, 2]]), n_iter=2)

    Sparse VideoGen2 (arXiv 2505.18875, section 4.1) and its official code, whose draw with replacement and stopping
    rule these are; "++" is D. Arthur and S. Vassilvitskii, 2007.
    """
    drawn = init is None or isinstance(init, str)
    extension_of("kmeans", "x", x).check_kmeans(x, K, max_iters, tol, None if drawn else init, metric)
    rows = HostRows(x, metric)
    if drawn:
        _lloyd.check_draw(rows.batch, rows.total, K, init)
        uniform = np.random.default_rng(generator).random((rows.batch, K))
        init = _lloyd.drawn(rows, uniform, init)
    return KMeans(*_lloyd.lloyd(rows, init, max_iters, tol))
