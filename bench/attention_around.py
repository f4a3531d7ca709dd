# SPDX-License-Identifier: Apache-2.0
"""Cases of the attention family: maps held against a teacher's, and places that share tokens, against plain torch."""

from __future__ import annotations

from functools import partial

import torch
from tokernel import ops
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from bench.arrays import DTYPES, agree, bytes_of, randn
from bench.core import Case, Floor, Work

TWO_THREADS = Floor("speedup", 1.8)


def _distil(dtype: torch.dtype, quick: bool) -> Work:
    """A layer of SiT-B and one of DINOv2-B, 256 tokens."""
    batch, tokens, width = (1, 40, 16) if quick else (8, 256, 64)
    q_s, k_s, q_t, k_t = (randn(batch, 12, tokens, width, dtype=dtype, seed=seed) for seed in range(4))

    def by_torch() -> Tensor:
        student, teacher = (q @ k.mT * width**-0.5 for q, k in ((q_s, k_s), (q_t, k_t)))
        return -(torch.softmax(teacher, -1) * torch.log_softmax(student, -1)).float().sum(-1)

    return Work(
        lambda: ops.attention_map_ce(q_s, k_s, q_t, k_t, reduction="none"),
        {"torch softmax * log_softmax": by_torch},
        partial(torch.testing.assert_close, rtol=4e-2, atol=4e-2) if dtype is torch.bfloat16 else agree,
        flops=4.0 * batch * 12 * tokens * tokens * width,
        moved_bytes=bytes_of(q_s, k_s, q_t, k_t),
    )


def _shared_places(dtype: torch.dtype, quick: bool) -> Work:
    """A layer of LLaVA-1.5-7B with 576 image places of 195 tokens, and 64 of text."""
    heads, places, tokens, width = (2, 40, 12, 16) if quick else (32, 640, 259, 128)
    q, k, v = (randn(1, heads, tokens, width, dtype=dtype, seed=seed) for seed in range(3))
    index = torch.cat([torch.arange(tokens), torch.arange(places - tokens) % (tokens // 2)]).sort().values
    angle = torch.outer(torch.arange(places), 1e4 ** -(torch.arange(width // 2) / (width // 2))).repeat(1, 2)
    cos, sin = angle.cos(), angle.sin()
    counts = torch.bincount(index, minlength=tokens)[:, None]

    def turned(x: Tensor) -> Tensor:
        picked = x[:, :, index]
        low, high = picked.chunk(2, -1)
        return (picked * cos + torch.cat((-high, low), -1) * sin).to(dtype)

    def by_torch() -> Tensor:
        out = sdpa(turned(q), turned(k), v[:, :, index], is_causal=True)
        return (torch.zeros(q.shape).index_add_(2, index, out.float()) / counts).to(dtype)

    return Work(
        lambda: ops.gathered_rope_attention(q, k, v, index, cos, sin),
        {"torch gather, rotate, SDPA, index_add_": by_torch},
        agree,
        flops=2.0 * heads * places * places * width,
        moved_bytes=bytes_of(q, k, v, cos, sin),
    )


def cases() -> list[Case]:
    """Every case of the table, in its order."""
    found = []
    for name, dtype in DTYPES.items():
        for op, case, build in (
            ("attention_map_ce", "8x12 x 256 x 64", _distil),
            ("gathered_rope_attention", "32 x 640 places of 259 x 128", _shared_places),
        ):
            found.append(Case("attention", op, case, name, partial(build, dtype), (TWO_THREADS,)))
    return found
