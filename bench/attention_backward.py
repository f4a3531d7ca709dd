# SPDX-License-Identifier: Apache-2.0
"""Gradients of attention: against our own forward pass, whose time a promise names, and against SDPA's gradients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from tokernel.kernels.attention import Causal, Dense, Policy, attention, attention_backward
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from bench.arrays import agree, bytes_of, randn
from bench.block_maps import COLUMN_CLUSTERS, DENSITIES, ROW_CLUSTERS, block_map
from bench.core import Case, Floor, Work

FORWARDS = 2.6
"""Times of the forward pass that the gradients may take: five products instead of two, and one exponential."""
WITHIN = Floor("ratio", 1 / FORWARDS)
TWO_THREADS = Floor("speedup", 1.8)


def _agree(ours: Sequence[Tensor], peer: Any) -> None:
    """Compare with a peer that computes the same; one that only serves as a measure of time returns None."""
    if peer is not None:
        agree(ours, peer)


def _work(q: Tensor, k: Tensor, v: Tensor, policy: Policy, pairs: float, peer: str, **mask: Any) -> Work:
    grad = randn(*q.shape, dtype=q.dtype, seed=3)
    o, lse = attention(q, k, v, policy, return_lse=True)
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    answer = sdpa(*leaves, **mask)

    def forward() -> None:
        attention(q, k, v, policy, return_lse=True)

    return Work(
        lambda: attention_backward(grad, q, k, v, o, lse, policy),
        {"tokernel, forward": forward, peer: lambda: torch.autograd.grad(answer, leaves, grad, retain_graph=True)},
        _agree,
        flops=10.0 * pairs * q.shape[-1],
        moved_bytes=8.0 * bytes_of(q),
    )


def _inputs(dtype: torch.dtype, quick: bool) -> list[Tensor]:
    shape = (1, 2, 256, 64) if quick else (1, 8, 4096, 64)
    return [randn(*shape, dtype=dtype, seed=seed) for seed in range(3)]


def _dense(dtype: torch.dtype, quick: bool) -> Work:
    q, k, v = _inputs(dtype, quick)
    return _work(q, k, v, Dense(), q.shape[1] * q.shape[2] ** 2, "SDPA, gradients")


def _causal(dtype: torch.dtype, quick: bool) -> Work:
    q, k, v = _inputs(dtype, quick)
    pairs = q.shape[1] * q.shape[2] * (q.shape[2] + 1) / 2
    return _work(q, k, v, Causal(), pairs, "SDPA, gradients, is_causal", is_causal=True)


def _block_map(density: float, quick: bool) -> Work:
    q, k, v = _inputs(torch.float32, quick)
    policy, mask = block_map(density, q.shape[1], q.shape[2], quick)
    return _work(q, k, v, policy, float(mask.sum()), "SDPA, gradients, dense mask", attn_mask=mask)


def cases() -> list[Case]:
    """Every gradient of the family, in the order of the table."""
    found = []
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        for policy, build in (("", _dense), (" Causal", _causal)):
            op = f"attention_backward{policy}"
            floors = (WITHIN, TWO_THREADS) if build is _dense else (TWO_THREADS,)
            found.append(Case("attention", op, "8x4096x64", name, partial(build, dtype), floors))
    for density in DENSITIES:
        case = f"8x4096x64, {ROW_CLUSTERS}x{COLUMN_CLUSTERS} clusters, density {density}"
        build_map = partial(_block_map, density)
        found.append(Case("attention", "attention_backward BlockMap", case, "float32", build_map, (TWO_THREADS,)))
    return found
