# SPDX-License-Identifier: Apache-2.0
"""Cases of nearest codes: against faiss, torch, and the layer of vector-quantize-pytorch, each where it is installed.

The layer's module is in eval mode and its training extras are off; what it returns besides indices is small beside the
search.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial

import torch
from tokernel import ops
from torch import Tensor

from bench.arrays import bytes_of, randn
from bench.core import Case, Floor, Work

TWO_THREADS = Floor("speedup", 1.8)
TORCH = "torch cdist"
ANSWER_BYTES = 12.0  # of a code: an index and a distance


def _distances(x: Tensor, codes: Tensor, index: Tensor) -> Tensor:
    """Squared distances to the chosen codes, in float64; index (N, k)."""
    found = [
        (x[i : i + 1024, None].double() - codes[index[i : i + 1024]]).square().sum(-1) for i in range(0, len(x), 1024)
    ]
    return torch.cat(found)


def _as_near(x: Tensor, codes: Tensor, ours: Tensor, peer: Tensor) -> None:
    """Compare how near the codes are: near ties go either way."""
    mine, theirs = (_distances(x, codes, index.reshape(len(x), -1)) for index in (ours, peer))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.max()))


def _faiss(x: Tensor, codes: Tensor, k: int) -> Callable[[], Tensor]:
    import faiss

    search, rows = faiss.IndexFlatL2(codes.shape[1]), x.numpy()
    search.add(codes.numpy())

    def find() -> Tensor:
        faiss.omp_set_num_threads(torch.get_num_threads())
        return torch.from_numpy(search.search(rows, k)[1])

    return find


def _layer(x: Tensor, codes: Tensor, k: int) -> Callable[[], Tensor]:
    from vector_quantize_pytorch import VectorQuantize

    layer = VectorQuantize(dim=codes.shape[1], codebook_size=len(codes)).eval()
    layer.codebook = codes
    return lambda: layer(x[None])[1][0].long()


def _cdist(x: Tensor, codes: Tensor, k: int) -> Callable[[], Tensor]:
    if k == 1:
        return lambda: torch.cdist(x, codes).argmin(-1)
    return lambda: torch.cdist(x, codes).topk(k, largest=False).indices


PEERS: dict[str, tuple[str, Callable[[Tensor, Tensor, int], Callable[[], Tensor]]]] = {
    "faiss IndexFlatL2": ("faiss", _faiss),
    TORCH: ("torch", _cdist),
    "vector-quantize-pytorch": ("vector_quantize_pytorch", _layer),
}


def _nearest(quick: bool, rows: int, codes: int, width: int, k: int, peer: str) -> Work:
    if quick:
        rows, codes, k = 300, 140, min(k, 10)
    x, book = randn(rows, width, dtype=torch.float32), randn(codes, width, dtype=torch.float32, seed=1)
    module, make = PEERS[peer]
    return Work(
        (lambda: ops.nearest(x, book).index) if k == 1 else lambda: ops.nearest_topk(x, book, k).index,
        ({peer: make(x, book, k)} if importlib.util.find_spec(module) else {}) | {TORCH: _cdist(x, book, k)},
        partial(_as_near, x, book),
        flops=2.0 * rows * codes * width,
        moved_bytes=bytes_of(x, book) + ANSWER_BYTES * k * rows,
    )


def _second(quick: bool, rows: int, codes: int, width: int) -> Work:
    if quick:
        rows, codes = 300, 140
    x, book = randn(rows, width, dtype=torch.float32), randn(codes, width, dtype=torch.float32, seed=1)

    def ours() -> Tensor:
        found = ops.nearest(x, book, second=True)
        assert found.second is not None
        return torch.stack([found.index, found.second], -1)

    return Work(
        ours,
        {TORCH: _cdist(x, book, 2)},
        partial(_as_near, x, book),
        flops=2.0 * rows * codes * width,
        moved_bytes=bytes_of(x, book) + 2 * ANSWER_BYTES * rows,
    )


def _rank(quick: bool, rows: int, codes: int, width: int, ranks: int) -> Work:
    if quick:
        rows, codes, ranks = 300, 140, 20
    x, book = randn(rows, width, dtype=torch.float32), randn(codes, width, dtype=torch.float32, seed=1)
    rank = torch.randint(0, ranks, (rows,), generator=torch.Generator().manual_seed(2))

    def by_topk() -> Tensor:
        return torch.cdist(x, book).topk(ranks, largest=False).indices.gather(1, rank[:, None])

    return Work(
        lambda: ops.nearest_rank(x, book, rank)[0],
        {"torch cdist + topk": by_topk},
        partial(_as_near, x, book),
        flops=2.0 * rows * codes * width,
        moved_bytes=bytes_of(x, book, rank) + ANSWER_BYTES * rows,
    )


def cases() -> list[Case]:
    """Every case, in the order of the table. The share of peak may pass 1: it is that of float32 multiply-adds, and
    where the processor multiplies bfloat16 pairs or integers faster, most of the work is done in those."""
    found = []

    def race(op: str, peer: str, size: tuple[int, int, int], k: int, *floors: Floor) -> None:
        rows, codes, width = size
        build = partial(_nearest, rows=rows, codes=codes, width=width, k=k, peer=peer)
        many = "" if k == 1 else f", k={k}"
        kept = floors if importlib.util.find_spec(PEERS[peer][0]) else tuple(f for f in floors if f.kind != "ratio")
        found.append(Case("quantize", op, f"{rows}x{width}, K={codes}{many}, {peer}", "float32", build, kept))

    short, long = (16384, 16384, 8), (16384, 8192, 256)
    race("nearest", "faiss IndexFlatL2", short, 1, Floor("ratio", 1.0), TWO_THREADS)
    race("nearest", "vector-quantize-pytorch", short, 1, Floor("ratio", 20.0))
    for width in (2, 4, 16):
        race("nearest", "faiss IndexFlatL2", (16384, 4096, width), 1, Floor("ratio", 1.0), TWO_THREADS)
    race("nearest", "faiss IndexFlatL2", long, 1, Floor("ratio", 1.6), Floor("peak", 0.85), TWO_THREADS)
    race("nearest", TORCH, long, 1, Floor("ratio", 3.0))
    for width in (64, 128):
        race("nearest", "faiss IndexFlatL2", (16384, 4096, width), 1, Floor("peak", 0.85))
    for k in (8, 100):
        race("nearest_topk", "faiss IndexFlatL2", (16384, 4096, 64), k, TWO_THREADS)
        race("nearest_topk", TORCH, (16384, 4096, 64), k)
    two = partial(_second, rows=16384, codes=4096, width=64)
    found.append(Case("quantize", "nearest", "16384x64, K=4096, with the second", "float32", two))
    rank = partial(_rank, rows=16384, codes=4096, width=64, ranks=100)
    found.append(Case("quantize", "nearest_rank", "16384x64, K=4096, ranks below 100", "float32", rank))
    return found
