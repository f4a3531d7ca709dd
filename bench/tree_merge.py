# SPDX-License-Identifier: Apache-2.0
"""Cases of the tree family: partial softmaxes made one, against plain torch."""

from __future__ import annotations

from functools import partial

import torch
from tokernel import ops
from torch import Tensor

from bench.arrays import DTYPES, agree, bytes_of, randn
from bench.core import Case, Floor, Work

MOST_BANDWIDTH = Floor("peak", 0.7)
TWO_THREADS = Floor("speedup", 1.8)


def _composed(outs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    lse = lses.logsumexp(0)
    weights = (lses - lse).exp().to(outs.dtype)
    return (weights[..., None] * outs).sum(0), lse


def _merge(parts: int, rows: int, dtype: torch.dtype, quick: bool) -> Work:
    """Partial answers of the 32 heads of a decoder, 128 wide."""
    shape = (parts, 1, 32, 8 if quick else rows, 128)
    outs, lses = randn(*shape, dtype=dtype), randn(*shape[:-1], dtype=torch.float32, seed=1)
    moved = bytes_of(outs, lses) * (1 + 1 / parts)
    return Work(
        lambda: ops.merge_attention(outs, lses), {"torch composition": partial(_composed, outs, lses)}, agree,
        flops=2.0 * outs.numel(), moved_bytes=moved,
    )  # fmt: skip


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    found = []
    for name, dtype in DTYPES.items():
        for parts, rows, floors in ((2, 512, (MOST_BANDWIDTH, TWO_THREADS)), (16, 64, ())):
            case = f"{parts} parts of 32 x {rows} x 128"
            found.append(Case("tree", "merge_attention", case, name, partial(_merge, parts, rows, dtype), floors))
    return found
