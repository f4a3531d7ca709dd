# SPDX-License-Identifier: Apache-2.0
"""Cases of how a codebook is trained and measured, against plain torch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tokernel import ops
from torch import Tensor

from bench.arrays import bytes_of, randn
from bench.core import Case, Floor, Work

THREE_TIMES = Floor("ratio", 3.0)


def _ids(count: int, codes: int) -> Tensor:
    return torch.randint(codes, (count,), generator=torch.Generator().manual_seed(1))


def _ema_update(rows: int, width: int, codes: int, quick: bool) -> Work:
    if quick:
        rows, codes = 100, 50
    x, index = randn(rows, width, dtype=torch.float32), _ids(rows, codes)

    def one_hot() -> tuple[Tensor, Tensor]:
        chosen = torch.zeros(rows, codes).scatter_(1, index[:, None], 1.0)
        return chosen.sum(0), chosen.T @ x

    def index_add() -> tuple[Tensor, Tensor]:
        return torch.bincount(index, minlength=codes), torch.zeros(codes, width).index_add_(0, index, x)

    def near(ours: Any, peer: Any) -> None:
        assert torch.equal(ours[0], peer[0].long())
        torch.testing.assert_close(ours[1], peer[1], atol=1e-4, rtol=1e-4)

    moved = bytes_of(x, index) + codes * (8.0 + 4 * width)
    peers = {"one-hot matmul": one_hot, "bincount, index_add": index_add}
    return Work(lambda: ops.ema_update(x, index, codes), peers, near, moved_bytes=moved)


def _codebook_stats(count: int, codes: int, quick: bool) -> Work:
    index = _ids(1000 if quick else count, codes)

    def plain() -> tuple[Tensor, Tensor, Tensor]:
        counts = torch.bincount(index, minlength=codes)
        p = counts / counts.sum()
        entropy = -torch.special.xlogy(p, p).sum()
        return counts, (counts > 0).float().mean(), entropy

    def near(ours: Any, peer: Any) -> None:
        assert torch.equal(ours[0], peer[0])
        torch.testing.assert_close(ours[1:3], peer[1:3], atol=1e-5, rtol=1e-5)

    moved = bytes_of(index) + codes * 8.0
    return Work(lambda: ops.codebook_stats(index, codes), {"bincount": plain}, near, moved_bytes=moved)


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    found = []
    for rows, width, codes in ((16384, 8, 16384), (4096, 128, 1024)):
        build = partial(_ema_update, rows, width, codes)
        found.append(Case("quantize", "ema_update", f"{rows} x {width}, K={codes}", "float32", build, (THREE_TIMES,)))
    for count, codes in ((1 << 20, 16384), (4096, 1024)):
        build = partial(_codebook_stats, count, codes)
        found.append(Case("quantize", "codebook_stats", f"{count} ids, K={codes}", "int64", build))
    return found
