# SPDX-License-Identifier: Apache-2.0
"""What bench.gpu_time races of the family attention, against scaled_dot_product_attention (SDPA) of torch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tokernel import ops
from torch import Tensor
from torch.nn import functional

from bench.gpu_time import Case, Race, bytes_of, randint, randn

F32, BF16 = torch.float32, torch.bfloat16
BLOCKS, BLOCK = 64, 128


def _policy(kind: str, tokens: int) -> tuple[Any, Tensor | None, float]:
    """The policy, the same as a mask (None where SDPA has a flag for it), and the share of pairs it allows."""
    if kind == "dense":
        return ops.Dense(), None, 1.0
    if kind == "causal":
        return ops.Causal(), None, 0.5
    if kind == "window":
        policy = ops.Window((8, 32, 32), (1, 4, 4))
        place = torch.arange(tokens, device="cuda")
        window = place // 1024 * 64 + place // 128 % 8 * 8 + place // 4 % 8
        mask = window[:, None] == window
    else:
        allowed = torch.rand(1, 1, BLOCKS, BLOCKS, device="cuda") < 0.25
        allowed |= torch.eye(BLOCKS, dtype=torch.bool, device="cuda")
        sizes = torch.full((1, 1, BLOCKS), BLOCK, device="cuda")
        policy = ops.BlockMap(allowed, sizes, sizes)
        mask = allowed[0, 0].repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return policy, mask, float(mask.float().mean())


def _attention(dtype: torch.dtype, kind: str, heads: int, tokens: int, width: int, backward: bool) -> Race:
    q, k, v = (randn(1, heads, tokens, width, dtype=dtype).requires_grad_(backward) for _ in range(3))
    policy, mask, share = _policy(kind, tokens)

    def ours() -> Tensor:
        return ops.attention(q, k, v, policy)

    def peer() -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=kind == "causal")

    flops = 4.0 * heads * tokens * tokens * width * share
    name = "SDPA with a mask" if mask is not None else "SDPA"
    if not backward:
        return Race(ours, {name: peer}, 4 * bytes_of(q), flops)
    grad = randn(1, heads, tokens, width, dtype=dtype)
    return Race(
        lambda: torch.autograd.grad(ours(), (q, k, v), grad),
        {name: lambda: torch.autograd.grad(peer(), (q, k, v), grad)},
        9 * bytes_of(q),
        3.5 * flops,
    )


def _decode(dtype: torch.dtype) -> Race:
    """One query a sequence; its key heads serve four each."""
    q, k, v = (randn(16, h, n, 128, dtype=dtype) for h, n in ((32, 1), (8, 8192), (8, 8192)))
    return Race(
        lambda: ops.attention(q, k, v),
        {"SDPA": lambda: functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)},
        bytes_of(k, v),
        4.0 * 16 * 32 * 8192 * 128,
    )


def _column_sums(dtype: torch.dtype) -> Race:
    q, k, v = (randn(1, 8, 4096, 64, dtype=dtype) for _ in range(3))
    lse = ops.attention(q, k, v, return_lse=True)[1]
    return Race(
        lambda: ops.attention_column_sums(q, k, lse),
        {"softmax(matmul).sum": lambda: (q @ k.transpose(2, 3) * 0.125).float().softmax(-1).sum(2)},
        2 * bytes_of(q),
        2.0 * 8 * 4096 * 4096 * 64,
    )


def _rows(dtype: torch.dtype) -> Race:
    q, k, v = (randn(1, 8, 4096, 64, dtype=dtype) for _ in range(3))
    lse, rows = ops.attention(q, k, v, return_lse=True)[1], randint(4096, 8)
    return Race(
        lambda: ops.attention_rows(q, k, rows, lse),
        {"softmax(matmul)": lambda: (q[:, :, rows] @ k.transpose(2, 3) * 0.125).float().softmax(-1)},
        bytes_of(k) + 8 * 8 * 4096 * 4.0,
    )


def _map_ce(dtype: torch.dtype) -> Race:
    qs, ks = (randn(8, 12, 256, 72, dtype=dtype) for _ in range(2))
    qt, kt = (randn(8, 12, 256, 64, dtype=dtype) for _ in range(2))

    def peer() -> Tensor:
        student = (qs @ ks.transpose(2, 3) * 72**-0.5).float().log_softmax(-1)
        teacher = (qt @ kt.transpose(2, 3) * 64**-0.5).float().softmax(-1)
        return -(teacher * student).sum(-1).mean()

    return Race(
        lambda: ops.attention_map_ce(qs, ks, qt, kt), {"softmax(matmul) twice": peer},
        2 * bytes_of(qs, qt), 2.0 * 8 * 12 * 256 * 256 * 136,
    )  # fmt: skip


def _rope(dtype: torch.dtype) -> Race:
    x, index = randn(1, 32, 195, 128, dtype=dtype), randint(195, 1, 576)
    angle = torch.arange(576, device="cuda")[:, None] * torch.rand(64, device="cuda").repeat(2)
    cos, sin = angle.cos(), angle.sin()

    def peer() -> Tensor:
        y = x[:, :, index[0]].float()
        return (y * cos + torch.cat([-y[..., 64:], y[..., :64]], -1) * sin).to(dtype)

    return Race(lambda: ops.rope_gather(x, index, cos, sin), {"index + rotate": peer}, 4 * bytes_of(x))


def cases() -> list[Case]:
    """In the order of the table."""
    found = []
    for backward, name in ((False, ""), (True, ", fwd+bwd")):
        for kind in ("dense", "causal"):
            small = partial(_attention, kind=kind, heads=8, tokens=4096, width=64, backward=backward)
            found += [Case("attention", f"8x4096x64, {kind}{name}", d, small) for d in (F32, BF16)]
            wide = partial(_attention, kind=kind, heads=32, tokens=4096, width=128, backward=backward)
            found.append(Case("attention", f"32x4096x128, {kind}{name}", BF16, wide))
        for kind, title in (("window", "windows of 1x4x4 of 8x32x32"), ("blocks", "a quarter of 64x64 blocks")):
            build = partial(_attention, kind=kind, heads=8, tokens=8192, width=64, backward=backward)
            found.append(Case("attention", f"8x8192x64, {title}{name}", BF16, build))
    return [
        *found,
        Case("attention", "16x32x1x128, 8x8192 keys", BF16, _decode),
        *(Case("attention_column_sums", "8x4096x64", d, _column_sums) for d in (F32, BF16)),
        Case("attention_rows", "8 rows of 8x4096x64", BF16, _rows),
        Case("attention_map_ce", "8x12x256x72, 64", F32, _map_ce),
        Case("rope_gather", "32x195x128 to 576", BF16, _rope),
    ]
