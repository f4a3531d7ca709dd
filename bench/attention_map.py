# SPDX-License-Identifier: Apache-2.0
"""Cases of the attention family: rows and column sums of the map, against plain torch, which stores the map."""

from __future__ import annotations

from functools import partial

import torch
from tokernel import ops
from torch import Tensor

from bench.arrays import DTYPES, agree, bytes_of, randn
from bench.core import Case, Floor, Work

TWO_THREADS = Floor("speedup", 1.8)


def _inputs(dtype: torch.dtype, quick: bool) -> tuple[Tensor, Tensor, Tensor]:
    heads, tokens, width = (2, 100, 16) if quick else (8, 4096, 64)
    q, k = (randn(1, heads, tokens, width, dtype=dtype, seed=seed) for seed in (0, 1))
    _, lse = ops.attention(q, k, k, return_lse=True)
    return q, k, lse


def _column_sums(dtype: torch.dtype, quick: bool, over_heads: bool) -> Work:
    q, k, lse = _inputs(dtype, quick)
    heads, tokens, width = q.shape[1:]

    def by_torch() -> Tensor:
        sums = torch.softmax(q @ k.mT * width**-0.5, dim=-1).sum(-2, dtype=torch.float32)
        return sums.sum(1) if over_heads else sums

    return Work(
        lambda: ops.attention_column_sums(q, k, lse, over_heads=over_heads),
        {"torch softmax(q k^T).sum": by_torch},
        partial(_close, dtype),
        flops=2.0 * heads * tokens * tokens * width,
        moved_bytes=bytes_of(q, k, lse),
    )


def _rows(dtype: torch.dtype, quick: bool, picks: int) -> Work:
    q, k, lse = _inputs(dtype, quick)
    heads, tokens, width = q.shape[1:]
    rows = torch.arange(picks) * (tokens // picks)

    def by_torch() -> Tensor:
        return torch.softmax(q[:, :, rows] @ k.mT * width**-0.5, dim=-1).float()

    return Work(
        lambda: ops.attention_rows(q, k, rows, lse),
        {"torch softmax(q[rows] k^T)": by_torch},
        partial(_close, dtype),
        flops=2.0 * heads * picks * tokens * width,
        moved_bytes=bytes_of(k) + 4.0 * heads * picks * tokens,
    )


def _close(dtype: torch.dtype, ours: Tensor, peer: Tensor) -> None:
    """Compare within the rounding of the peer, which holds the map in the dtype of q."""
    if dtype is torch.float32:
        agree(ours, peer)
    else:
        torch.testing.assert_close(ours, peer, rtol=4e-2, atol=4e-2 * float(peer.abs().max()))


def cases() -> list[Case]:
    """Every case of the table, in its order."""
    found = []
    for name, dtype in DTYPES.items():
        for over_heads in (False, True):
            case = "8 x 4096 x 64" + (", over heads" if over_heads else "")
            build = partial(_column_sums, dtype, over_heads=over_heads)
            found.append(Case("attention", "attention_column_sums", case, name, build, (TWO_THREADS,)))
        for picks in (1, 64):
            case = f"{picks} of 8 x 4096 x 64"
            found.append(Case("attention", "attention_rows", case, name, partial(_rows, dtype, picks=picks)))
    return found
