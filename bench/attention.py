# SPDX-License-Identifier: Apache-2.0
"""Cases of the attention family, against torch's scaled_dot_product_attention (SDPA) and our own dense attention.

SDPA knows no sparse policy: it takes a dense mask, as a caller without a better kernel has to. The first peer of a case
is the one a promise names.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tokernel import ops
from tokernel.kernels.attention import Causal, Disc, Segments
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from bench import attention_around, attention_map
from bench.arrays import agree, bytes_of, randn
from bench.attention_backward import cases as backward_cases
from bench.block_maps import COLUMN_CLUSTERS, DENSITIES, ROW_CLUSTERS, block_map
from bench.core import Case, Floor, Work

TWO_THREADS = Floor("speedup", 1.8)
RADIUS = 8


def _inputs(dtype: torch.dtype, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (randn(*shape, dtype=dtype, seed=seed) for seed in range(3))
    return q, k, v


def _agree(ours: Tensor, peer: Any) -> None:
    """Compare with a peer that computes the same; one that only serves as a measure of time returns None."""
    if peer is not None:
        agree(ours, peer)


def _cost(q: Tensor, pairs: float) -> dict[str, float]:
    """FLOPs for that many pairs of a query and a key, and the bytes of q, k, v and the answer."""
    return {"flops": 4.0 * pairs * q.shape[-1], "moved_bytes": 4.0 * bytes_of(q)}


def _dense(dtype: torch.dtype, quick: bool) -> Work:
    q, k, v = _inputs(dtype, *((1, 2, 256, 64) if quick else (1, 8, 4096, 64)))
    return Work(
        lambda: ops.attention(q, k, v),
        {"SDPA": lambda: sdpa(q, k, v)},
        _agree,
        **_cost(q, q.shape[1] * q.shape[2] ** 2),
    )


def _causal(dtype: torch.dtype, quick: bool) -> Work:
    q, k, v = _inputs(dtype, *((1, 2, 256, 64) if quick else (1, 8, 4096, 64)))
    return Work(
        lambda: ops.attention(q, k, v, Causal()),
        {"SDPA, is_causal": lambda: sdpa(q, k, v, is_causal=True)},
        _agree,
        **_cost(q, q.shape[1] * q.shape[2] * (q.shape[2] + 1) / 2),
    )


def _block_map(density: float, heads: int, tokens: int, quick: bool) -> Work:
    heads, tokens = (2, 256) if quick else (heads, tokens)
    q, k, v = _inputs(torch.float32, 1, heads, tokens, 64)
    policy, mask = block_map(density, heads, tokens, quick)

    def dense() -> None:
        ops.attention(q, k, v)

    return Work(
        lambda: ops.attention(q, k, v, policy),
        {"tokernel, dense": dense, "SDPA, dense mask": lambda: sdpa(q, k, v, attn_mask=mask)},
        _agree,
        **_cost(q, float(mask.sum())),
    )


def _disc(dtype: torch.dtype, quick: bool) -> Work:
    heads, side = (2, 12) if quick else (8, 64)
    q, k, v = _inputs(dtype, 1, heads, side * side, 64)
    y, x = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
    mask = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2 < RADIUS**2
    policy = Disc((side, side), RADIUS)
    return Work(
        lambda: ops.attention(q, k, v, policy),
        {"SDPA, dense mask": lambda: sdpa(q, k, v, attn_mask=mask)},
        _agree,
        **_cost(q, heads * float(mask.sum())),
    )


def _segments(dtype: torch.dtype, quick: bool) -> Work:
    """All segments in one call; SDPA gets them in parts, for one mask of all of them would take a gigabyte."""
    segments, length, parts = (16, 32, 2) if quick else (1024, 32, 8)
    tokens = segments * length
    q, k, v = _inputs(dtype, 1, 1, tokens, 64)
    policy = Segments(torch.arange(0, tokens + 1, length))
    in_parts = [x.view(parts, 1, tokens // parts, 64) for x in (q, k, v)]
    padded = [x.view(segments, 1, length, 64) for x in (q, k, v)]
    owner = torch.arange(tokens // parts) // length
    mask = owner[:, None] == owner
    return Work(
        lambda: ops.attention(q, k, v, policy),
        {
            f"SDPA, dense mask, {parts} parts": lambda: sdpa(*in_parts, attn_mask=mask).view_as(q),
            "SDPA, a batch of equal segments": lambda: sdpa(*padded).view_as(q),
        },
        _agree,
        **_cost(q, float(tokens * length)),
    )


def _map_cases() -> list[Case]:
    found = []
    for heads, tokens in ((8, 4096), (1, 16384)):
        for density in DENSITIES:
            case = f"{heads}x{tokens}x64, {ROW_CLUSTERS}x{COLUMN_CLUSTERS} clusters, density {density}"
            build = partial(_block_map, density, heads, tokens)
            floors = (Floor("ratio", 0.9 / density), TWO_THREADS)
            found.append(Case("attention", "attention BlockMap", case, "float32", build, floors))
    return found


def cases() -> list[Case]:
    """Every case of the family, in the order of the table."""
    f32, bf16 = torch.float32, torch.bfloat16
    dense = []
    for dtype, name, ratio in ((f32, "float32", 1.25), (bf16, "bfloat16", 2.0)):
        floors = (Floor("ratio", ratio), TWO_THREADS)
        dense.append(Case("attention", "attention", "8x4096x64", name, partial(_dense, dtype), floors))
        causal = partial(_causal, dtype)
        dense.append(Case("attention", "attention Causal", "8x4096x64", name, causal, (TWO_THREADS,)))
    sparse = []
    for dtype, name in ((f32, "float32"), (bf16, "bfloat16")):
        floors = (Floor("ratio", 3.0), TWO_THREADS) if dtype is f32 else ()
        disc, segments = partial(_disc, dtype), partial(_segments, dtype)
        sparse.append(Case("attention", "attention Disc", f"8x(64x64)x64, radius {RADIUS}", name, disc, floors))
        sparse.append(Case("attention", "attention Segments", "1x32768x64, 1024 of 32", name, segments, floors))
    return dense + _map_cases() + sparse + backward_cases() + attention_map.cases() + attention_around.cases()
