# SPDX-License-Identifier: Apache-2.0
"""Family merge as torch ops: rows moved by index."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.kernels import merge as kernels
from tokernel.ops._torch_op import define


def _gather_rows_fake(x: Tensor, index: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], index.shape[1], x.shape[2]))


def _gather_rows_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    x, index = inputs
    ctx.save_for_backward(index)
    ctx.rows = x.shape[1]


def _gather_rows_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (index,) = ctx.saved_tensors
    return torch.zeros(()), None


_gather_rows = define(
    "gather_rows(Tensor x, Tensor index) -> Tensor",
    kernels.gather_rows,
    _gather_rows_fake,
    setup=_gather_rows_setup,
    backward=_gather_rows_backward,
)


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """Pick rows: ``out[b, m] = x[b, index[b, m]]``. Torch form of :func:`tokernel.kernels.merge.gather_rows`.

    Args:
        x: (B, N, C) float32, float16 or bfloat16.
        index: (B, M) int64 or int32 in [0, N).

    Returns:
        (B, M, C) of the dtype of x, differentiable in x.

    >>> x = torch.arange(6.0).reshape(1, 3, 2)
    >>> gather_rows(x, torch.tensor([[2, 0]]))
    tensor([[[4., 5.],
             [0., 1.]]])
    """
    out: Tensor = _gather_rows(x, index)
    return out
