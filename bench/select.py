# SPDX-License-Identifier: Apache-2.0
"""Cases of the select family: the best items of every row, against plain torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tokernel import ops
from torch import Tensor

from bench import select_gate, select_points, select_power, select_spatten
from bench.arrays import DTYPES, bytes_of, randn
from bench.core import Case, Floor, Work

FOUR_TIMES = Floor("ratio", 4.0)
TEN_TIMES = Floor("ratio", 10.0)
TWO_THREADS = Floor("speedup", 1.8)
I64 = 8.0


def _ties(rows: int, width: int) -> Tensor:
    return torch.randint(0, 4, (rows, width), generator=torch.Generator().manual_seed(1)).float()


def _nans(rows: int, width: int) -> Tensor:
    score = randn(rows, width, dtype=torch.float32)
    score[:, ::3] = torch.nan
    return score


INPUTS: dict[str, Callable[[int, int], Tensor]] = {
    "ties everywhere": _ties,
    "sorted": lambda rows, width: torch.arange(width).float().expand(rows, width).contiguous(),
    "a third NaN": _nans,
}


def _same_values(ours: Any, peer: Any) -> None:
    """Torch may choose another of several equals, and takes NaN for the largest number."""
    if not ours[0].isnan().any() and not peer[0].isnan().any():
        assert torch.equal(ours[0], peer[0])


def _topk(build: Callable[[int, int], Tensor], rows: int, width: int, k: int, quick: bool) -> Work:
    if quick:
        rows, width, k = 2, 200, min(k, 50)
    score = build(rows, width)
    return Work(
        lambda: ops.topk(score, k),
        {"torch.topk": lambda: score.topk(k), "torch sort": lambda: _best_of_sort(score, k)},
        _same_values,
        moved_bytes=bytes_of(score) + rows * k * (score.element_size() + I64),
    )


def _best_of_sort(score: Tensor, k: int) -> tuple[Tensor, Tensor]:
    value, index = score.sort(dim=-1, descending=True, stable=True)
    return value[..., :k], index[..., :k]


def _topk_mask(dtype: torch.dtype, quick: bool) -> Work:
    rows, width, k = (2, 200, 50) if quick else (256, 4096, 1024)
    score = randn(rows, width, dtype=dtype)

    def by_scatter() -> Tensor:
        return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, score.topk(k, sorted=False).indices, True)

    return Work(
        lambda: ops.topk_mask(score, k),
        {"torch.topk + scatter": by_scatter},
        lambda ours, peer: None if dtype != torch.float32 else torch.testing.assert_close(ours, peer),
        moved_bytes=bytes_of(score) + rows * width,
    )


def _topp_mask(dtype: torch.dtype, quick: bool) -> Work:
    rows, width = (2, 200) if quick else (256, 4096)
    prob = (2 * randn(rows, width, dtype=torch.float32)).softmax(-1).to(dtype)

    def by_sort() -> Tensor:
        mass, index = prob.sort(dim=-1, descending=True)
        before = mass.cumsum(-1) - mass
        return torch.zeros_like(prob, dtype=torch.bool).scatter_(-1, index, before < 0.9)

    def nearly_equal(ours: Tensor, peer: Tensor) -> None:
        """Rounding of the running sum may move the end of a row; in bfloat16 it is worth nothing."""
        assert dtype != torch.float32 or float((ours != peer).float().mean()) < 1e-3

    return Work(
        lambda: ops.topp_mask(prob, 0.9),
        {"torch sort + cumsum": by_sort},
        nearly_equal,
        moved_bytes=bytes_of(prob) + rows * width,
    )


def _normal(dtype: torch.dtype) -> Callable[[int, int], Tensor]:
    return lambda rows, width: randn(rows, width, dtype=dtype)


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    found = []
    for rows, width, k, floors in (
        (256, 4096, 16, ()),
        (256, 4096, 1024, (TEN_TIMES, TWO_THREADS)),
        (256, 4096, 2048, ()),
        (8, 262144, 1024, ()),
    ):
        for name, dtype in DTYPES.items():
            build = partial(_topk, _normal(dtype), rows, width, k)
            promised = floors if dtype == torch.float32 else ()
            found.append(Case("select", "topk", f"{rows}x{width}, k={k}", name, build, promised))
    for name, make in INPUTS.items():
        build = partial(_topk, make, 256, 4096, 1024)
        found.append(Case("select", "topk", f"256x4096, k=1024, {name}", "float32", build))
    for name, dtype in DTYPES.items():
        found.append(Case("select", "topk_mask", "256x4096, k=1024", name, partial(_topk_mask, dtype)))
        promised = (FOUR_TIMES,) if dtype == torch.float32 else ()
        found.append(Case("select", "topp_mask", "256x4096, p=0.9", name, partial(_topp_mask, dtype), promised))
    others = (select_points, select_spatten, select_power, select_gate)
    return [*found, *(case for module in others for case in module.cases())]
