# SPDX-License-Identifier: Apache-2.0
"""Cases of the cluster family: rows in the order of their clusters, and which clusters meet, against plain torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from tokernel import ops
from torch import Tensor

from bench.arrays import DTYPES, agree, bytes_of, randn
from bench.core import Case, Floor, Work

TWO_THREADS = Floor("speedup", 1.8)


def _sort(quick: bool) -> Work:
    heads, tokens, labels = (2, 100, 7) if quick else (24, 8192, 500)
    given = torch.randint(0, labels, (heads, tokens), generator=torch.Generator().manual_seed(1))

    def by_torch(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        perm = given.to(dtype).argsort(dim=-1, stable=True)
        counts = torch.zeros(heads, labels, dtype=torch.int64).scatter_add_(1, given, torch.ones_like(given))
        return perm, torch.nn.functional.pad(counts.cumsum(1), (1, 0))

    return Work(
        lambda: ops.sort_by_label(given, labels),
        {
            "torch argsort + bincount": partial(by_torch, torch.int64),
            "of int32": partial(by_torch, torch.int32),
        },
        agree,
        moved_bytes=2 * bytes_of(given) + 8.0 * heads * (labels + 1),
    )


def _rows(dtype: torch.dtype, quick: bool, transposed: bool) -> tuple[Tensor, Tensor]:
    heads, tokens, width = (2, 50, 16) if quick else (8, 8192, 64)
    x = randn(1, tokens, heads, width, dtype=dtype).transpose(1, 2)
    perm = torch.rand(1, heads, tokens, generator=torch.Generator().manual_seed(2)).argsort(-1)
    return (x if transposed else x.contiguous()), perm


def _permute(dtype: torch.dtype, quick: bool, transposed: bool) -> Work:
    x, perm = _rows(dtype, quick, transposed)
    head = torch.arange(x.shape[1])[:, None]
    wide = perm[..., None].expand_as(x)
    return Work(
        lambda: ops.permute_rows(x, perm),
        {"torch.gather": lambda: x.gather(2, wide), "x[:, head, perm]": lambda: x[:, head, perm[0]]},
        agree,
        moved_bytes=2 * bytes_of(x) + bytes_of(perm),
    )


def _inverse(dtype: torch.dtype, quick: bool, transposed: bool) -> Work:
    y, perm = _rows(dtype, quick, transposed)
    head = torch.arange(y.shape[1])[:, None]
    wide = perm[..., None].expand_as(y)

    def put() -> Tensor:
        out = torch.empty(y.shape, dtype=dtype)
        out[:, head, perm[0]] = y
        return out

    return Work(
        lambda: ops.inverse_permute_rows(y, perm),
        {
            "torch scatter_": lambda: torch.empty(y.shape, dtype=dtype).scatter_(2, wide, y),
            "out[:, head, perm] = y": put,
        },
        agree,
        moved_bytes=2 * bytes_of(y) + bytes_of(perm),
    )


def _torch_map(qc: Tensor, kc: Tensor, size_k: Tensor, p: float, min_ratio: float) -> Tensor:
    """Sparse VideoGen2's rule as torch ops, in float32: a full sort of every row."""
    scores = qc.float() @ kc.float().mT * qc.shape[-1] ** -0.5
    e = size_k[:, :, None] * (scores - scores.amax(-1, keepdim=True)).exp()
    shares, order = (e / e.sum(-1, keepdim=True).clamp_min(1e-12)).sort(dim=-1, descending=True)
    dropped = (shares.cumsum(-1) > p).roll(1, -1)
    dropped[..., : max(1, int(min_ratio * kc.shape[2]))] = False
    return torch.zeros_like(dropped).scatter_(-1, order, ~dropped)


def _nearly_equal_maps(ours: Tensor, peer: Tensor) -> None:
    """Rounding may move the end of a row by a cluster."""
    assert ours.shape == peer.shape
    assert float((ours != peer).float().mean()) < 1e-3


def _map_inputs(dtype: torch.dtype, quick: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    heads, queries, keys, width = (2, 10, 20, 16) if quick else (8, 300, 1000, 128)
    generator = torch.Generator().manual_seed(3)
    size_q = torch.randint(0, 400, (1, heads, queries), generator=generator)
    size_k = torch.randint(0, 150, (1, heads, keys), generator=generator)
    qc = 2 * randn(1, heads, queries, width, dtype=dtype)
    return qc, randn(1, heads, keys, width, dtype=dtype, seed=4), size_q, size_k


def _map(dtype: torch.dtype, quick: bool) -> Work:
    qc, kc, _, size_k = _map_inputs(dtype, quick)
    return Work(
        lambda: ops.centroid_topp_map(qc, kc, size_k, 0.9, 0.1),
        {"torch matmul + sort": lambda: _torch_map(qc, kc, size_k, 0.9, 0.1)},
        _nearly_equal_maps,
        flops=2.0 * qc.numel() * kc.shape[2],
        moved_bytes=bytes_of(qc, kc, size_k) + qc.shape[1] * qc.shape[2] * kc.shape[2],
    )


def _density(quick: bool) -> Work:
    qc, kc, size_q, size_k = _map_inputs(torch.float32, quick)
    map_ = ops.centroid_topp_map(qc, kc, size_k, 0.9, 0.1)
    assert isinstance(map_, Tensor)

    def by_outer() -> Tensor:
        pairs = size_q[..., None] * size_k[:, :, None]
        return (map_ * pairs).sum((-1, -2)) / pairs.sum((-1, -2))

    def by_matmul() -> Tensor:
        kept = (size_q[:, :, None].float() @ map_.float() @ size_k[..., None].float())[..., 0, 0]
        return kept / (size_q.sum(-1) * size_k.sum(-1))

    return Work(
        lambda: ops.map_density(map_, size_q, size_k),
        {"torch outer": by_outer, "torch matmul": by_matmul},
        agree,
        moved_bytes=bytes_of(map_, size_q, size_k),
    )


def _each_dtype(op: str, case: str, build: Callable[[torch.dtype, bool], Work], *floors: Floor) -> list[Case]:
    return [Case("cluster", op, case, name, partial(build, dtype), floors) for name, dtype in DTYPES.items()]


def cases() -> list[Case]:
    """Every case, in the order of the table. Answers stay under 32 MiB, as in the merge family."""
    found = [Case("cluster", "sort_by_label", "24x8192, 500 labels", "int64", _sort)]
    for transposed, name in ((False, "8x8192x64"), (True, "8x8192x64, heads transposed")):
        found += _each_dtype("permute_rows", name, partial(_permute, transposed=transposed))
        found += _each_dtype("inverse_permute_rows", name, partial(_inverse, transposed=transposed))
    found += _each_dtype("centroid_topp_map", "8 heads, 300x1000 of 128", _map, TWO_THREADS)
    found.append(Case("cluster", "map_density", "8 heads, 300x1000", "bool", _density))
    return found
