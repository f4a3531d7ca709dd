# SPDX-License-Identifier: Apache-2.0
"""Cases of power iteration on attention maps, against plain torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from tokernel import ops
from torch import Tensor

from bench.arrays import DTYPES, bytes_of, randn
from bench.core import Case, Floor, Work

THREE_TIMES = Floor("ratio", 3.0)
TWO_THREADS = Floor("speedup", 1.8)


def _rows_times_map(A: Tensor, iters: int) -> Tensor:
    s = A.new_full((*A.shape[:-2], 1, A.shape[-1]), 1 / A.shape[-1])
    for _ in range(iters):
        s = s @ A
    return s[..., 0, :]


def _map_times_columns(A: Tensor, iters: int) -> Tensor:
    s, turned = A.new_full((*A.shape[:-1], 1), 1 / A.shape[-1]), A.transpose(-1, -2)
    for _ in range(iters):
        s = torch.matmul(turned, s)
    return s[..., 0]


def _nearly_equal(ours: Tensor, peer: Tensor) -> None:
    """The peers keep s in the dtype of the map."""
    bound = 1e-6 if peer.dtype == torch.float32 else 4e-2 * float(ours.max())
    torch.testing.assert_close(ours, peer.float(), atol=bound, rtol=0)


def _power(dtype: torch.dtype, heads: int, tokens: int, iters: int, quick: bool) -> Work:
    if quick:
        heads, tokens, iters = 2, 30, 3
    A = randn(1, heads, tokens, tokens, dtype=torch.float32).softmax(-1).to(dtype)
    peers: dict[str, Callable[[], Tensor]] = {
        "s @ A": lambda: _rows_times_map(A, iters),
        "A.T @ s": lambda: _map_times_columns(A, iters),
    }
    if dtype != torch.float32:
        peers["A.float(), s @ A"] = lambda: _rows_times_map(A.float(), iters)
    return Work(
        lambda: ops.power_iterate(A, iters=iters),
        peers,
        _nearly_equal,
        flops=2.0 * heads * tokens * tokens * iters,
        moved_bytes=bytes_of(A) + heads * tokens * 4.0,
    )


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    found = []
    for heads, tokens, iters, floors in (
        (12, 197, 50, (THREE_TIMES, TWO_THREADS)),
        (12, 197, 1, ()),
        (16, 577, 30, ()),
        (1, 1025, 30, ()),
    ):
        for name, dtype in DTYPES.items():
            promised = floors if dtype == torch.float32 else ()
            build = partial(_power, dtype, heads, tokens, iters)
            found.append(Case("select", "power_iterate", f"{heads} x {tokens}², {iters} steps", name, build, promised))
    return found
