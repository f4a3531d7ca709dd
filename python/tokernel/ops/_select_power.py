# SPDX-License-Identifier: Apache-2.0
"""Family select as torch ops: importance by power iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from tokernel.kernels import select as kernels
from tokernel.ops._torch_op import define

__all__ = ["power_iterate"]


def _power_kernel(A: Tensor, s0: Tensor | None, iters: int, eps: float | None) -> Tensor:
    s: Tensor = kernels.power_iterate(A, s0, iters=iters, eps=eps)
    return s


def _power_fake(A: Tensor, s0: Tensor | None, iters: int, eps: float | None) -> Tensor:
    return A.new_empty(A.shape[:-1], dtype=torch.float32)


_power_iterate = define(
    "power_iterate(Tensor A, Tensor? s0, SymInt iters, float? eps) -> Tensor", _power_kernel, _power_fake
)


def power_iterate(A: Tensor, s0: Tensor | None = None, *, iters: int, eps: float | None = None) -> Tensor:
    """Iterate ``s[j] = sum over i of A[i, j] * s[i]`` on the map of every head. Torch form of
    :func:`tokernel.kernels.select.power_iterate`, without gradient.

    Args:
        A: (B, H, N, N), (H, N, N) or (N, N) float32, float16 or bfloat16, rows are queries; any outer strides.
        s0: (B, H, N), (H, N) or (N,) float32, the start; None for 1 / N everywhere.
        iters: steps, at least 0; 0 gives the start back.
        eps: a head stops after the step in which no value moved by more than this; None never stops early.

    Returns:
        (B, H, N), (H, N) or (N,) float32.

    >>> power_iterate(torch.tensor([[0.5, 0.5], [0.25, 0.75]]), iters=1)
    tensor([0.3750, 0.6250])
    """
    A, s0 = A.detach(), None if s0 is None else s0.detach()
    if A.dim() != 2:
        s: Tensor = _power_iterate(A, s0, iters, eps)
        return s
    alone: Tensor = _power_iterate(A[None], None if s0 is None else s0[None], iters, eps)  # a batch rule needs a batch
    return alone[0]
