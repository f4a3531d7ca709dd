# SPDX-License-Identifier: Apache-2.0
"""Cases of product quantization: encoding, decoding, tables, and the scan that they are for.

Raced against faiss where it is installed, and else against plain torch. The scan is given queries, as faiss is: its
time includes the tables.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tokernel import ops
from torch import Tensor

from bench.arrays import agree, bytes_of, randn
from bench.core import Case, Floor, Work

AS_FAST = Floor("ratio", 1.0)
CENTROIDS = 256
BEST = 10


def _has_faiss() -> bool:
    return importlib.util.find_spec("faiss") is not None


def _faiss_quantizer(centroids: Tensor) -> Any:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    parts, _, width = centroids.shape
    quantizer = faiss.ProductQuantizer(parts * width, parts, 8)
    faiss.copy_array_to_vector(centroids.numpy().ravel(), quantizer.centroids)
    return quantizer


def _by_part(x: Tensor, parts: int) -> Tensor:
    return x.view(len(x), parts, -1).movedim(1, 0)


def _encode(rows: int, parts: int, width: int, quick: bool) -> Work:
    rows = 200 if quick else rows
    x, centroids = (randn(*s, dtype=torch.float32) for s in ((rows, parts * width), (parts, CENTROIDS, width)))
    if _has_faiss():
        quantizer = _faiss_quantizer(centroids)
        peer = {"faiss compute_codes": lambda: torch.from_numpy(quantizer.compute_codes(x.numpy()))}
    else:
        peer = {"torch cdist, argmin": lambda: torch.cdist(_by_part(x, parts), centroids).argmin(-1).T.byte()}

    def mostly_equal(ours: Tensor, theirs: Tensor) -> None:
        """Centroids that float32 cannot tell apart may change places."""
        assert float((ours != theirs).float().mean()) < 1e-3

    return Work(
        lambda: ops.pq_encode(x, centroids),
        peer,
        mostly_equal,
        flops=2.0 * rows * parts * width * CENTROIDS,
        moved_bytes=bytes_of(x, centroids) + rows * parts,
    )


def _codes(rows: int, parts: int) -> Tensor:
    return torch.randint(0, CENTROIDS, (rows, parts), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def _decode(rows: int, parts: int, width: int, quick: bool) -> Work:
    codes, centroids = _codes(200 if quick else rows, parts), randn(parts, CENTROIDS, width, dtype=torch.float32)
    numbers, part = codes.long(), torch.arange(parts)
    peers: dict[str, Callable[[], Tensor]] = {"torch indexing": lambda: centroids[part, numbers].flatten(1)}
    if _has_faiss():
        quantizer = _faiss_quantizer(centroids)
        peers["faiss decode"] = lambda: torch.from_numpy(quantizer.decode(codes.numpy()))
    return Work(
        lambda: ops.pq_decode(codes, centroids),
        peers,
        agree,
        moved_bytes=bytes_of(codes, centroids) + codes.numel() * width * 4,
    )


def _tables(queries: int, parts: int, width: int, quick: bool) -> Work:
    q, centroids = (randn(*s, dtype=torch.float32) for s in ((queries, parts * width), (parts, CENTROIDS, width)))

    def plain() -> Tensor:
        return torch.cdist(_by_part(q, parts), centroids).square_().movedim(0, 1).contiguous()

    cells = queries * parts * CENTROIDS
    return Work(
        lambda: ops.adc_tables(q, centroids),
        {"torch cdist": plain},
        agree,
        flops=3.0 * cells * width,
        moved_bytes=bytes_of(q, centroids) + cells * 4,
    )


def _scan(rows: int, parts: int, queries: int, quick: bool) -> Work:
    codes, centroids = _codes(1000 if quick else rows, parts), randn(parts, CENTROIDS, 4, dtype=torch.float32)
    q = randn(queries, parts * 4, dtype=torch.float32, seed=1)

    def plain() -> Tensor:
        tables, numbers = ops.adc_tables(q, centroids), codes.T.long()
        return sum(tables[:, m, numbers[m]] for m in range(parts)).topk(BEST, largest=False).values  # type: ignore[union-attr]

    peer: dict[str, Callable[[], Tensor]] = {"torch indexing, topk": plain}
    if _has_faiss():
        import faiss

        index = faiss.IndexPQ(parts * 4, parts, 8)
        index.pq, index.is_trained = _faiss_quantizer(centroids), True
        faiss.copy_array_to_vector(codes.numpy().ravel(), index.codes)
        index.ntotal = len(codes)

        def search() -> Tensor:
            faiss.omp_set_num_threads(torch.get_num_threads())
            return torch.from_numpy(index.search(q.numpy(), BEST)[0])

        peer = {"faiss IndexPQ": search}
    return Work(
        lambda: ops.adc_scan(codes, ops.adc_tables(q, centroids), BEST).value,
        peer,
        agree,
        moved_bytes=bytes_of(codes, q, centroids) + queries * BEST * 12,
    )


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    found = []
    for rows, parts, width in ((50_000, 8, 4), (50_000, 16, 8)):
        case = f"{rows} x {parts} parts of {width}, K={CENTROIDS}"
        found.append(Case("quantize", "pq_encode", case, "float32", partial(_encode, rows, parts, width)))
        found.append(Case("quantize", "pq_decode", case, "float32", partial(_decode, rows, parts, width)))
    found.append(Case("quantize", "adc_tables", "64 x 16 parts of 8, K=256", "float32", partial(_tables, 64, 16, 8)))
    for parts in (8, 16):
        for queries in (1, 16):
            case, build = f"{queries} of 1M x {parts} bytes, k={BEST}", partial(_scan, 1_000_000, parts, queries)
            found.append(Case("quantize", "adc_scan", case, "uint8", build, (AS_FAST,)))
    return found
