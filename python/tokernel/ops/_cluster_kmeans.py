# SPDX-License-Identifier: Apache-2.0
"""k-means as torch ops, without gradient: the answers are decisions. Rows may be spread over processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from tokernel.kernels import cluster as kernels
from tokernel.kernels import merge
from tokernel.kernels._arrays import extension_of
from tokernel.kernels.cluster import KMeans, _lloyd
from tokernel.kernels.cluster._kmeans import HostRows
from tokernel.ops._torch_op import define


def _assign_fake(x: Tensor, centroids: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], x.shape[1])
    return x.new_empty(shape, dtype=torch.int64), x.new_empty(shape, dtype=torch.float32)


_assign = define(
    "assign(Tensor x, Tensor centroids, str metric) -> (Tensor, Tensor)",
    kernels.assign,
    _assign_fake,
)


def assign(x: Tensor, centroids: Tensor, metric: str = "l2") -> tuple[Tensor, Tensor]:
    """Find the nearest centroid of every row. Torch form of :func:`tokernel.kernels.cluster.assign`, without gradient.

    Args:
        x: (B, N, D) float32, float16 or bfloat16, strided views included.
        centroids: (B, K, D) of the dtype of x, K at least 1.
        metric: "l2" or "cosine".

    Returns:
        labels (B, N) int64, the lowest of equals, and best (B, N) float32: squared distance, or cosine.

    >>> assign(torch.tensor([[[0.0], [5.0]]]), torch.tensor([[[1.0], [4.0]]]))
    (tensor([[0, 1]]), tensor([[1., 1.]]))
    """
    labels, best = _assign(x.detach(), centroids.detach(), metric)
    return labels, best


def _update_fake(x: Tensor, labels: Tensor, old: Tensor, metric: str) -> tuple[Tensor, Tensor, Tensor]:
    counts = old.new_empty(old.shape[:2], dtype=torch.int64)
    return old.new_empty(old.shape), counts, old.new_empty(old.shape[:1], dtype=torch.float32)


_update = define(
    "update(Tensor x, Tensor labels, Tensor old, str metric) -> (Tensor, Tensor, Tensor)",
    kernels.update,
    _update_fake,
)


def update(x: Tensor, labels: Tensor, old: Tensor, metric: str = "l2") -> tuple[Tensor, Tensor, Tensor]:
    """Move every centroid to the mean of its rows. Torch form of :func:`tokernel.kernels.cluster.update`, without
    gradient.

    Args:
        x: (B, N, D) float32, float16 or bfloat16.
        labels: (B, N) int64 or int32, every value in [0, K).
        old: (B, K, D) of the dtype of x; what an empty cluster keeps.
        metric: "l2" or "cosine".

    Returns:
        centroids (B, K, D), counts (B, K) int64, and shift (B,) float32, the longest step of a centroid.

    >>> x = torch.tensor([[[0.0], [2.0], [8.0]]])
    >>> update(x, torch.tensor([[0, 0, 1]]), torch.tensor([[[0.0], [8.0]]]))
    (tensor([[[1.],
             [8.]]]), tensor([[2, 1]]), tensor([1.]))
    """
    centroids, counts, shift = _update(x.detach(), labels, old.detach(), metric)
    return centroids, counts, shift


class GroupRows(HostRows):
    """The rows of one process of a group. Every decision is made of what all processes agreed on."""

    def __init__(self, x: Tensor, metric: str, group: Any) -> None:
        super().__init__(x, metric)
        self.group, self.rank = group, dist.get_rank(group)
        counts, _ = self.across(np.full(1, x.shape[1], np.float64))
        self.before, self.total = int(counts[: self.rank].sum()), int(counts.sum())

    def update(self, labels: Tensor, old: Tensor) -> tuple[Tensor, Tensor, float]:
        sums, counts = kernels.cluster_sums(self.x, labels, old.shape[1], self.metric)
        dist.all_reduce(sums, group=self.group)
        dist.all_reduce(counts, group=self.group)
        centroids, shift = kernels.cluster_means(sums, counts, old, self.metric)
        return centroids, counts, float(shift.max()) if len(shift) else 0.0

    def pick(self, index: np.ndarray[Any, Any]) -> Tensor:
        own = torch.from_numpy(index - self.before).to(self.x.device)
        mine = ((own >= 0) & (own < self.x.shape[1]))[..., None]
        rows = self.x.new_zeros((*index.shape, self.x.shape[2]))
        if self.x.shape[1]:
            rows = merge.gather_rows(self.x, own.clamp(0, self.x.shape[1] - 1))
        shared = torch.where(mine, rows.float(), 0.0)
        dist.all_reduce(shared, group=self.group)
        return shared.to(self.x.dtype)

    def across(self, totals: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], int]:
        own = torch.from_numpy(totals.astype(np.float64)).to(self.x.device)
        every = [torch.empty_like(own) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(every, own, group=self.group)
        return torch.stack(every).cpu().numpy(), self.rank

    def agree(self, index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        known = torch.from_numpy(index).to(self.x.device)
        dist.all_reduce(known, group=self.group)
        return known.cpu().numpy()

    def broadcast(self, values: Tensor) -> Tensor:
        """What the first process of the group has."""
        values = values.to(self.x.device).clone(memory_format=torch.contiguous_format)
        dist.broadcast(values, dist.get_global_rank(self.group, 0) if self.group else 0, group=self.group)
        return values


def _draw_kernel(x: Tensor, uniform: Tensor, init: str, metric: str) -> Tensor:
    rows: Tensor = _lloyd.drawn(HostRows(x, metric), uniform.cpu().numpy(), init)
    return rows


def _draw_fake(x: Tensor, uniform: Tensor, init: str, metric: str) -> Tensor:
    return x.new_empty((*uniform.shape, x.shape[2]))


_kmeans_draw = define(
    "kmeans_draw(Tensor x, Tensor uniform, str init, str metric) -> Tensor",
    _draw_kernel,
    _draw_fake,
)


def _kmeans_kernel(
    x: Tensor, init: Tensor, max_iters: int, tol: float, metric: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    labels, centroids, sizes, count = _lloyd.lloyd(HostRows(x, metric), init, max_iters, tol)
    # An op may not return its argument: with no iteration, or one that moved nothing, the centroids are `init`.
    return labels, centroids.clone() if centroids is init else centroids, sizes, torch.tensor(count)


def _kmeans_fake(
    x: Tensor, init: Tensor, max_iters: int, tol: float, metric: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    labels, _ = _assign_fake(x, init, metric)
    centroids, sizes, _ = _update_fake(x, labels, init, metric)
    return labels, centroids, sizes, torch.empty((), dtype=torch.int64)


_kmeans = define(
    "kmeans(Tensor x, Tensor init, SymInt max_iters, float tol, str metric) -> (Tensor, Tensor, Tensor, Tensor)",
    _kmeans_kernel,
    _kmeans_fake,
    batched=False,  # the stopping decision is one for the whole batch
)


def kmeans(
    x: Tensor,
    K: int,
    max_iters: int,
    tol: float = 1e-4,
    init: str | Tensor | None = None,
    metric: str = "l2",
    generator: torch.Generator | None = None,
    group: dist.ProcessGroup | None = None,
) -> KMeans:
    """Cluster the rows of every sample. Torch form of :func:`tokernel.kernels.cluster.kmeans`, which explains the loop;
    without gradient.

    Args:
        x: (B, N, D) float32, float16 or bfloat16.
        K: clusters of each sample, at least 1; may exceed N, except with "++".
        max_iters: most iterations; 0 only assigns.
        tol: a shift below it stops the loop.
        init: None or "random", "++", or centroids (B, K, D) to start from.
        metric: "l2" or "cosine".
        generator: of the draw.
        group: processes that each hold some of the rows, in the order of their ranks. Sums and counts are added up
            over them in every iteration, so all return the same centroids, sizes (over all rows) and n_iter, and each
            the labels of its own rows. What is drawn, or given as `init`, is that of the first process. B, K, D and
            every option must be the same everywhere.

    Returns:
        KMeans(labels, centroids, sizes, n_iter); n_iter is an int, and a tensor under ``torch.compile``.

    >>> x = torch.tensor([[[0.0], [1.0], [9.0], [10.0]]])
    >>> kmeans(x, 2, max_iters=10, init=x[:, 1:3])
    KMeans(labels=tensor([[0, 0, 1, 1]]), centroids=tensor([[[0.5000],
             [9.5000]]]), sizes=tensor([[2, 2]]), n_iter=2)
    """
    x = x.detach()
    compiling = torch.compiler.is_compiling()
    if not compiling:
        given = init if isinstance(init, Tensor) else None
        extension_of("kmeans", "x", x).check_kmeans(x, K, max_iters, tol, given, metric)
    if group is not None:
        return _kmeans_of_group(x, K, max_iters, tol, init, metric, generator, group)
    if isinstance(init, Tensor):
        first = init.detach()
    else:
        _lloyd.check_draw(x.shape[0], x.shape[1], K, init)
        first = _kmeans_draw(x, _uniform(x, K, generator), init or "random", metric)
    labels, centroids, sizes, count = _kmeans(x, first, max_iters, float(tol), metric)
    return KMeans(labels, centroids, sizes, count if compiling else int(count))


def _uniform(x: Tensor, clusters: int, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else "cpu"
    return torch.rand(x.shape[0], clusters, dtype=torch.float64, generator=generator, device=device)


def _kmeans_of_group(
    x: Tensor,
    clusters: int,
    max_iters: int,
    tol: float,
    init: str | Tensor | None,
    metric: str,
    generator: torch.Generator | None,
    group: dist.ProcessGroup,
) -> KMeans:
    rows = GroupRows(x, metric, group)
    if isinstance(init, Tensor):
        first = rows.broadcast(init.detach())
    else:
        _lloyd.check_draw(rows.batch, rows.total, clusters, init)
        uniform = rows.broadcast(_uniform(x, clusters, generator))
        first = _lloyd.drawn(rows, uniform.cpu().numpy(), init)
    return KMeans(*_lloyd.lloyd(rows, first, max_iters, tol))
