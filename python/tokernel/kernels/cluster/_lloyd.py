# SPDX-License-Identifier: Apache-2.0
"""Lloyd's iterations and the draw of their first centroids, over rows that may be spread over processes."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np

from tokernel.kernels._arrays import Array

Host: TypeAlias = "np.ndarray[Any, Any]"


class Rows(Protocol):
    """All rows, or those of one process: `before` of the `total` belong to lower ranks."""

    metric: str
    batch: int
    before: int
    total: int

    def assign(self, centroids: Array) -> tuple[Array, Array]:
        """Label the own rows."""
        ...

    def update(self, labels: Array, old: Array) -> tuple[Array, Array, float]:
        """Return centroids and counts of all rows, and the largest shift of the batch."""
        ...

    def unit(self, centroids: Array) -> Array:
        """Normalise centroids; a zero vector stays."""
        ...

    def pick(self, index: Host) -> Array:
        """Rows by their position among all."""
        ...

    def best(self, centroids: Array) -> Host:
        """Squared distance, or cosine, of the own rows to the nearest centroid."""
        ...

    def across(self, totals: Host) -> tuple[Host, int]:
        """One number a sample of every process, and which of them is this one."""
        ...

    def agree(self, index: Host) -> Host:
        """Positions from whichever process knows them; the others bring zeros."""
        ...


def lloyd(rows: Rows, centroids: Array, max_iters: int, tol: float) -> tuple[Array, Array, Array, int]:
    """Return labels, centroids, sizes and the number of iterations."""
    if rows.metric == "cosine":
        centroids = rows.unit(centroids)
    labels = rows.assign(centroids)[0]
    for iteration in range(1, max_iters + 1):
        moved, sizes, shift = rows.update(labels, centroids)
        if shift < tol:
            return labels, centroids, sizes, iteration
        centroids = moved
        if iteration < max_iters:
            labels = rows.assign(centroids)[0]
    if max_iters == 0:
        sizes = rows.update(labels, centroids)[1]
    return labels, centroids, sizes, max_iters


def check_draw(batch: int, total: int, clusters: int, init: str | None) -> None:
    """Raise where centroids cannot be drawn from this many rows."""
    if init not in (None, "random", "++"):
        raise ValueError(f"kmeans: init must be 'random', '++', an array or None, got {init!r}")
    if init == "++" and clusters > total:
        raise ValueError(f"kmeans: K must be at most {total}, the number of rows, where init is '++', got {clusters}")
    if total == 0 and batch > 0:
        raise ValueError("kmeans: x must be at least one row long where centroids are drawn from it, got none")


def drawn(rows: Rows, uniform: Host, init: str | None) -> Array:
    """Draw centroids with numbers (B, K) in [0, 1)."""
    return rows.pick(_far_rows(rows, uniform) if init == "++" else _any_rows(rows, uniform))


def _any_rows(rows: Rows, uniform: Host) -> Host:
    picked: Host = np.minimum((uniform * rows.total).astype(np.int64), max(0, rows.total - 1))
    return picked


def _far_rows(rows: Rows, uniform: Host) -> Host:
    picked = _any_rows(rows, uniform)
    weight: Host | None = None
    for k in range(1, picked.shape[1]):
        best = rows.best(rows.pick(picked[:, k - 1 : k])).astype(np.float64)
        far = np.maximum(0.0, best if rows.metric == "l2" else 1.0 - best)
        far = np.nan_to_num(far, nan=0.0, posinf=np.finfo(np.float32).max)
        weight = far if weight is None else np.minimum(weight, far)
        _weighted_rows(rows, weight, uniform[:, k], picked[:, k])
    return picked


def _weighted_rows(rows: Rows, weight: Host, uniform: Host, picked: Host) -> None:
    """Replace uniformly picked rows by weighted picks, where there is weight."""
    sums = np.cumsum(weight, axis=1)
    own = sums[:, -1] if sums.shape[1] else np.zeros(rows.batch)
    shares, rank = rows.across(own)
    ends = np.cumsum(shares, axis=0)
    target = uniform * ends[-1]
    target -= ends[rank] - shares[rank]
    mine = (target >= 0) & (target < shares[rank])
    position = np.zeros(rows.batch, np.int64)
    for b in np.flatnonzero(mine):
        last = np.searchsorted(sums[b], own[b])  # the last row with weight
        position[b] = rows.before + min(last, np.searchsorted(sums[b], target[b], side="right"))
    found = ends[-1] > 0
    picked[found] = rows.agree(position)[found]
