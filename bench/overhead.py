# SPDX-License-Identifier: Apache-2.0
"""What a call costs before its kernel starts: the smallest arrays, so that the kernel itself takes a few nanoseconds.

Times are of whole calls. The promise is about what stands above the bound kernel, ``tokernel._C.gather_rows``, which
imports and checks the arrays, allocates the answer and runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from tokernel import _C, ops
from tokernel.kernels import merge

from bench.core import Case, Floor, Work


def _same(ours: Any, peer: Any) -> None:
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(peer))


def _tensors(grad: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.arange(8.0).reshape(1, 2, 4).requires_grad_(grad)
    index = torch.ones(1, 1, dtype=torch.int64)
    return x, index, index[..., None].expand(1, 1, 4)


def _eager(quick: bool) -> Work:
    x, index, wide = _tensors(False)
    peers: dict[str, Callable[[], Any]] = {
        "bound kernel": lambda: _C.gather_rows(x, index, None),
        "torch.gather": lambda: torch.gather(x, 1, wide),
    }
    return Work(lambda: ops.gather_rows(x, index), peers, _same)


def _recorded(quick: bool) -> Work:
    x, index, wide = _tensors(True)
    return Work(
        lambda: ops.gather_rows(x, index).detach(),
        {"torch.gather": lambda: torch.gather(x, 1, wide).detach()},
        _same,
    )


def _dispatched(quick: bool) -> Work:
    x, index, wide = _tensors(False)
    op = torch.ops.tokernel.gather_rows.default
    return Work(lambda: op(x, index), {"torch.gather": lambda: torch.gather(x, 1, wide)}, _same)


def _numpy(quick: bool, given: bool) -> Work:
    x, index, wide = (t.numpy() for t in _tensors(False))
    out = np.empty((1, 1, 4), np.float32) if given else None
    return Work(
        lambda: merge.gather_rows(x, index, out=out),
        {"np.take_along_axis": lambda: np.take_along_axis(x, wide, 1)},
        _same,
    )


def cases() -> list[Case]:
    """Ways of calling one op with one output."""

    def one(case: str, build: Callable[[bool], Work], *floors: Floor) -> Case:
        return Case("overhead", "gather_rows", case, "float32", build, floors, parallel=False)

    return [
        one("torch, eager", _eager, Floor("overhead", 1.6e-6)),
        one("torch, gradient recorded", _recorded),
        one("torch.ops.tokernel", _dispatched),
        one("NumPy", partial(_numpy, given=False)),
        one("NumPy, out=", partial(_numpy, given=True)),
    ]
