# SPDX-License-Identifier: Apache-2.0
"""Cases of the cluster family: k-means and its two steps, against torch, faiss and scikit-learn.

faiss and scikit-learn are raced where they are installed. All start from the same centroids and run the same number of
iterations.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from tokernel import ops
from tokernel.kernels.cluster import KMeans
from torch import Tensor

from bench.arrays import DTYPES, RELATIVE, agree, bytes_of, randn
from bench.core import Case, Floor, Work

TWO_THREADS = Floor("speedup", 1.8)
ITERATIONS = 5


def _best_agree(dtype: torch.dtype, ours: tuple[Tensor, Tensor], peer: tuple[Tensor, Tensor]) -> None:
    """Compare distances only: labels may differ where two centroids are equally near up to rounding."""
    bound = RELATIVE.get(dtype, RELATIVE[torch.bfloat16])
    torch.testing.assert_close(ours[1], peer[1], rtol=bound, atol=bound * float(peer[1].max()))


def _torch_assign(x: Tensor, c: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """|x|^2 + |c|^2 - 2 x.c and a minimum, for so many rows at once."""
    squares, labels, best = c.float().square().sum(-1)[:, None], [], []
    for part in x.split(rows, 1):
        distance = torch.baddbmm(squares.to(x.dtype), part, c.transpose(1, 2), alpha=-2).float()
        least = distance.min(-1)
        labels.append(least.indices)
        best.append((least.values + part.float().square().sum(-1)).clamp(min=0))
    return torch.cat(labels, 1), torch.cat(best, 1)


def _assign(dtype: torch.dtype, quick: bool, rows: int, width: int, clusters: int) -> Work:
    if quick:
        rows, clusters = 300, 40
    x = randn(1, rows, width, dtype=dtype)
    c = x[:, :: rows // clusters][:, :clusters].contiguous() / 2
    return Work(
        lambda: ops.assign(x, c),
        {
            "torch baddbmm + min": lambda: _torch_assign(x, c, rows),
            "in blocks of 1024 rows": lambda: _torch_assign(x, c, 1024),
        },
        partial(_best_agree, dtype),
        flops=2.0 * rows * clusters * width,
        moved_bytes=bytes_of(x, c) + 12.0 * rows,
    )


def _update(dtype: torch.dtype, quick: bool) -> Work:
    rows, width, clusters = (300, 16, 7) if quick else (32768, 64, 512)
    x, old = randn(1, rows, width, dtype=dtype), randn(1, clusters, width, dtype=dtype, seed=1)
    labels = torch.randint(0, clusters, (1, rows), generator=torch.Generator().manual_seed(2))

    def means(add: Callable[[], Tensor]) -> Tensor:
        counts = torch.bincount(labels[0], minlength=clusters)[:, None]
        return torch.where(counts > 0, (add() / counts.clamp(min=1)).to(dtype), old[0])[None]

    def index_add() -> Tensor:
        return torch.zeros(clusters, width).index_add_(0, labels[0], x[0].float())

    def one_hot() -> Tensor:
        return torch.nn.functional.one_hot(labels[0], clusters).T.float() @ x[0].float()

    return Work(
        lambda: ops.update(x, labels, old)[0],
        {"torch index_add_": partial(means, index_add), "torch one_hot matmul": partial(means, one_hot)},
        agree,
        moved_bytes=bytes_of(x, labels) + 2 * bytes_of(old),
    )


def _inertia(x: Tensor, centroids: Tensor) -> float:
    return float(ops.assign(x, centroids)[1].double().sum())


def _faiss(x: Tensor, start: Tensor) -> Callable[[], Tensor]:
    import faiss

    rows, first = x[0].numpy(), start[0].numpy()

    def train() -> Tensor:
        faiss.omp_set_num_threads(torch.get_num_threads())
        search = faiss.Kmeans(
            rows.shape[1], len(first), niter=ITERATIONS, min_points_per_centroid=1, max_points_per_centroid=len(rows)
        )
        search.train(rows, init_centroids=first)
        return torch.from_numpy(search.centroids)[None]

    return train


def _sklearn(x: Tensor, start: Tensor) -> Callable[[], Tensor]:
    import warnings

    from sklearn.cluster import KMeans as Peer
    from sklearn.exceptions import ConvergenceWarning

    rows, first = x[0].numpy(), start[0].numpy()

    def fit() -> Tensor:
        with threadpool_limits(torch.get_num_threads()), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            peer = Peer(len(first), init=first, n_init=1, max_iter=ITERATIONS, tol=0, algorithm="lloyd").fit(rows)
        return torch.from_numpy(peer.cluster_centers_)[None]

    return fit


def _torch_kmeans(x: Tensor, start: Tensor) -> Tensor:
    centroids = start[0]
    for _ in range(ITERATIONS):
        labels = _torch_assign(x, centroids[None], 1024)[0][0]
        sums = torch.zeros(len(centroids), x.shape[2]).index_add_(0, labels, x[0])
        counts = torch.bincount(labels, minlength=len(centroids))[:, None]
        centroids = torch.where(counts > 0, sums / counts.clamp(min=1), centroids)
    return centroids[None]


PEERS: dict[str, tuple[str, Callable[[Tensor, Tensor], Callable[[], Tensor]]]] = {
    "faiss Kmeans": ("faiss", _faiss),
    "scikit-learn KMeans": ("sklearn", _sklearn),
}


def _kmeans(quick: bool, first_peer: str) -> Work:
    rows, width, clusters = (600, 16, 8) if quick else (32768, 64, 512)
    x = randn(1, rows, width, dtype=torch.float32)
    start = x[:, :clusters].contiguous()
    module, make = PEERS[first_peer]
    peers = {first_peer: make(x, start)} if importlib.util.find_spec(module) else {}

    def as_good(ours: KMeans, peer: Tensor) -> None:
        """Compare inertias: peers treat empty clusters in their own ways, and near ties go either way."""
        mine, theirs = _inertia(x, ours.centroids), _inertia(x, peer.float().contiguous())
        assert abs(mine - theirs) < 0.01 * theirs

    steps: Any = ITERATIONS
    return Work(
        lambda: ops.kmeans(x, clusters, steps, 0.0, start),
        {**peers, "torch baddbmm + min + index_add_": lambda: _torch_kmeans(x, start)},
        as_good,
        flops=2.0 * ITERATIONS * rows * clusters * width,
        moved_bytes=ITERATIONS * (2 * bytes_of(x) + 12.0 * rows),
    )


def cases() -> list[Case]:
    """Every case, in the order of the table. The share of peak of `assign` in float32 may pass 1: it is that of float32
    multiply-adds, and where the processor multiplies bfloat16 pairs most of the work is done in those."""
    found = []
    for width in (64, 128, 256):
        for name, dtype in DTYPES.items():
            build = partial(_assign, dtype, rows=32768, width=width, clusters=512)
            floors = (Floor("peak", 0.85), TWO_THREADS) if dtype is torch.float32 else (TWO_THREADS,)
            found.append(Case("cluster", "assign", f"32768x{width}, K=512", name, build, floors))
    svg2 = partial(_assign, torch.float16, rows=75600, width=128, clusters=500)
    found.append(Case("cluster", "assign", "75600x128, K=500", "float16", svg2))
    for name, dtype in DTYPES.items():
        found.append(Case("cluster", "update", "32768x64, K=512", name, partial(_update, dtype)))
    for peer, ratio in (("faiss Kmeans", 1.8), ("scikit-learn KMeans", 2.5)):
        case, build = f"32768x64, K=512, {ITERATIONS} iterations, {peer}", partial(_kmeans, first_peer=peer)
        floors = (Floor("ratio", ratio), TWO_THREADS) if importlib.util.find_spec(PEERS[peer][0]) else (TWO_THREADS,)
        found.append(Case("cluster", "kmeans", case, "float32", build, floors))
    return found
