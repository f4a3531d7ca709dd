# SPDX-License-Identifier: Apache-2.0
"""Cases of the select family: rows that lie far apart, against plain torch, which stores all N x N distances.

What has to be done at least: no row may leave the search of the first pick before it has met one near it, and every
pick after it has to be the best one. Plain torch multiplies N^2 D and then reads k rows of N floats: of 2880 x 4096
that are 34 G multiply-adds, 0.68 s at 50 G a second; of 576 x 1024, 0.34 G and 7 ms. One pass over x, which nothing
can save, reads 47 and 2.4 MB: 3 and 0.15 ms at 16 GB a second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from tokernel import ops
from torch import Tensor

from bench.arrays import DTYPES, bytes_of, randn
from bench.core import Case, Floor, Work

TWO_THREADS = Floor("speedup", 1.8)


def _normal(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    return randn(rows, width, dtype=dtype)


def _clusters(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """60 directions, and noise around each: what images look like."""
    labels = torch.randint(0, 60, (rows,), generator=torch.Generator().manual_seed(1))
    spread = 0.7 * randn(rows, width, dtype=torch.float32)
    return (randn(60, width, dtype=torch.float32, seed=2)[labels] + spread).to(dtype)


def in_plain_torch(x: Tensor, k: int, mode: str, start: int | None) -> Tensor:
    """Pick by the rows of a stored matrix of distances."""
    unit = x / x.norm(dim=-1, keepdim=True)
    gaps = 1 - unit @ unit.T
    pick = gaps.topk(2, dim=0, largest=False).values[1].argmax() if start is None else torch.tensor(start)
    order, score = [pick], torch.full_like(gaps[0], torch.inf if mode == "maxmin" else 0.0)
    for _ in range(k - 1):
        score = torch.minimum(score, gaps[pick]) if mode == "maxmin" else score + gaps[pick]
        score[pick] = -torch.inf
        pick = score.argmax()
        order.append(pick)
    return torch.stack(order)


def _spread_alike(x: Tensor, mode: str, ours: Tensor, theirs: Tensor) -> None:
    """Scores that differ by rounding may swap picks; how far apart the picks are stays the same."""
    if x.dtype != torch.float32:
        return
    found = []
    for order in (ours, theirs):
        unit = torch.nn.functional.normalize(x[order], dim=-1)
        gaps = 1 - unit @ unit.T
        gaps.fill_diagonal_(torch.inf if mode == "maxmin" else 0.0)
        found.append(gaps.min() if mode == "maxmin" else gaps.sum())
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-4)


def _points(
    make: Callable[[int, int, torch.dtype], Tensor],
    sizes: tuple[int, int, int],
    mode: str,
    start: int | None,
    dtype: torch.dtype,
    quick: bool,
) -> Work:
    rows, width, k = (60, 24, 9) if quick else sizes
    x = make(rows, width, dtype)
    first: str | int = "maxmin" if start is None else start
    return Work(
        lambda: ops.farthest_points(x, k, mode=mode, start=first),
        {"plain torch, N x N": lambda: in_plain_torch(x, k, mode, start)},
        partial(_spread_alike, x, mode),
        moved_bytes=bytes_of(x) + 8.0 * k,
    )


def _many(mode: str, quick: bool) -> Work:
    """So many that their distances would take 40 GB."""
    rows, width, k = (300, 24, 9) if quick else (100_000, 256, 256)
    x = randn(rows, width, dtype=torch.float32)
    start: str | int = "maxmin" if mode == "maxmin" else 0
    return Work(
        lambda: ops.farthest_points(x, k, mode=mode, start=start),
        {},
        lambda ours, peer: None,
        moved_bytes=bytes_of(x) + 8.0 * k,
    )


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    found = []
    for sizes, least in (((576, 1024, 64), 3.0), ((2880, 4096, 288), 1.5)):
        rows, width, k = sizes
        matrix = Floor("memory", 4.0 * rows * rows)
        for kind, make in (("normal", _normal), ("clusters", _clusters)):
            for mode in ("maxmin", "maxsum"):
                for start in (None, 0):
                    name = f"{k} of {rows}x{width} {kind}, {mode} from {'maxmin' if start is None else start}"
                    promised: tuple[Floor, ...] = ()
                    if mode == "maxmin" and start is None:
                        promised = (Floor("ratio", least),) + ((TWO_THREADS, matrix) if rows > 1000 else ())
                    for dtype_name, dtype in DTYPES.items():
                        if dtype == torch.float32 or promised:
                            build = partial(_points, make, sizes, mode, start, dtype)
                            floors = promised if dtype == torch.float32 else ()
                            found.append(Case("select", "farthest_points", name, dtype_name, build, floors))
    for mode in ("maxmin", "maxsum"):
        name = f"256 of 100000x256 normal, {mode}"
        floors = (Floor("memory", 1e9),)
        found.append(Case("select", "farthest_points", name, "float32", partial(_many, mode), floors))
    return found
