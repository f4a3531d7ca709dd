# SPDX-License-Identifier: Apache-2.0
"""Cases of the select family: what SpAtten needs, against plain torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tokernel import ops
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.arrays import DTYPES, agree, bytes_of, randn
from bench.core import Case, Work

F32 = 4.0


def _prob(batch: int, heads: int, queries: int, keys: int, dtype: torch.dtype) -> Tensor:
    return (2 * randn(batch, heads, queries, keys, dtype=torch.float32)).softmax(-1).to(dtype)


def _importance(heads: int, queries: int, keys: int, dtype: torch.dtype, quick: bool) -> Work:
    if quick:
        heads, queries, keys = 2, 2, 65
    prob, score = _prob(1, heads, queries, keys, dtype), torch.rand(1, keys)
    return Work(
        lambda: ops.accumulate_importance(prob, score),
        {"torch sum + add": lambda: score + prob.sum((1, 2), dtype=torch.float32)},
        agree,
        moved_bytes=bytes_of(prob, score, score),
    )


def _head_scores(dtype: torch.dtype, quick: bool) -> Work:
    e = randn(1, 2 if quick else 16, 9 if quick else 1024, 64, dtype=dtype)
    score = torch.rand(1, e.shape[1])
    return Work(
        lambda: ops.accumulate_head_scores(e, score),
        {"torch abs + sum + add": lambda: score + e.abs().sum((2, 3), dtype=torch.float32)},
        agree,
        moved_bytes=bytes_of(e, score, score),
    )


def _local_value(heads: int, queries: int, keys: int, width: int, dtype: torch.dtype, quick: bool) -> Work:
    if quick:
        heads, queries, keys = 2, 2, 65
    keep = keys * 3 // 10
    prob, v = _prob(1, heads, queries, keys, dtype), randn(1, heads, keys, width, dtype=dtype)

    def by_scatter() -> Tensor:
        value, index = prob.topk(keep, sorted=False)
        return torch.zeros_like(prob).scatter_(-1, index, value) @ v

    def by_gather() -> Tensor:
        value, index = prob.topk(keep, sorted=False)
        rows = v.take_along_dim(index[:, :, 0, :, None], 2)
        return value @ rows

    peers: dict[str, Callable[[], Any]] = {"torch.topk + scatter + matmul": by_scatter}
    if queries == 1:
        peers["torch.topk + gather + matmul"] = by_gather
    return Work(
        lambda: ops.local_value_attention(prob, v, keep),
        peers,
        lambda ours, peer: None if dtype != torch.float32 else agree(ours, peer),
        flops=2.0 * heads * queries * keep * width,
        moved_bytes=bytes_of(prob) + heads * (min(queries * keep, keys) + queries) * width * v.element_size(),
    )


def _progressive(queries: int, threshold: float, quantised: bool, quick: bool) -> Work:
    """Against dense attention in float32; the answers differ by what quantisation loses."""
    heads, keys, width = (2, 65, 16) if quick else (32, 4096, 128)
    q = randn(1, heads, queries, width, dtype=torch.float32)
    k, v = (randn(1, heads, keys, width, dtype=torch.float32, seed=s) for s in (1, 2))
    planes = ops.split_bits(k)
    values, _, scale_v = ops.split_bits(v, 8, 0)
    given, scales = (values, scale_v) if quantised else (v, None)
    read = bytes_of(q, planes[0], planes[2], given, *([scale_v] if quantised else [])) + bytes_of(q)
    if threshold > 1:
        read += bytes_of(planes[1])

    def close(ours: Any, peer: Tensor) -> None:
        assert float((ours[0] - peer).abs().max()) < 0.2

    return Work(
        lambda: ops.progressive_attention(q, *planes, given, threshold, scale_v=scales),
        {"torch sdpa, fp32": lambda: scaled_dot_product_attention(q, k, v)},
        close,
        flops=4.0 * heads * queries * keys * width,
        moved_bytes=read,
    )


def _split(dtype: torch.dtype, quick: bool) -> Work:
    x = randn(1, 2, 9, 128, dtype=dtype) if quick else randn(1, 32, 1024, 128, dtype=dtype)

    def by_hand() -> tuple[Tensor, Tensor, Tensor]:
        scale = x.abs().amax(-1).float() / 2047
        n = (x / scale[..., None]).round().clamp(-2047, 2047).to(torch.int16)
        low = n & 15
        return (n >> 4).to(torch.int8), (low[..., ::2] | low[..., 1::2] << 4).to(torch.uint8), scale

    def same(ours: Any, peer: Any) -> None:
        for mine, theirs in zip(ours, peer, strict=True):
            assert torch.equal(mine, theirs) or dtype != torch.float32

    return Work(lambda: ops.split_bits(x), {"torch": by_hand}, same, moved_bytes=bytes_of(x) + x.numel() * 1.5)


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    found = []
    for name, dtype in DTYPES.items():
        for heads, queries, keys in ((16, 1024, 1024), (32, 1, 4096)):
            shape = f"{heads} heads, {queries}x{keys}"
            build = partial(_importance, heads, queries, keys, dtype)
            found.append(Case("select", "accumulate_importance", shape, name, build))
        found.append(Case("select", "accumulate_head_scores", "16 heads, 1024x64", name, partial(_head_scores, dtype)))
        for heads, queries, keys, width in ((12, 512, 512, 64), (32, 1, 4096, 128)):
            shape = f"{heads} heads, {queries}x{keys}x{width}, keep 30 %"
            local = partial(_local_value, heads, queries, keys, width, dtype)
            found.append(Case("select", "local_value_attention", shape, name, local))
        found.append(Case("select", "split_bits", "32 heads, 1024x128", name, partial(_split, dtype)))
    for queries in (1, 16):
        for kind, threshold, quantised in (
            ("no row refetched, v int8", 0.0, True),
            ("every row refetched, v int8", 1.5, True),
            ("no row refetched, v fp32", 0.0, False),
        ):
            shape = f"32 heads, {queries}x4096x128, {kind}"
            attend = partial(_progressive, queries, threshold, quantised)
            found.append(Case("select", "progressive_attention", shape, "float32", attend))
    return found
