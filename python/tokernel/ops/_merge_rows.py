# SPDX-License-Identifier: Apache-2.0
"""Family merge as torch ops: rows moved by index."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokernel.kernels import merge as kernels
from tokernel.ops._torch_op import define

__all__ = ["gather_rows", "scatter_add_rows", "scatter_rows"]


def _gather_rows_fake(x: Tensor, index: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], index.shape[1], x.shape[2]))


def _gather_rows_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    x, index = inputs
    ctx.save_for_backward(index)
    ctx.rows = x.shape[1]


def _gather_rows_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (index,) = ctx.saved_tensors
    return _scatter_add_rows(grad, index, ctx.rows, None), None


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

    >>> import torch
    >>> x = torch.arange(6.0).reshape(1, 3, 2)
    >>> gather_rows(x, torch.tensor([[2, 0]]))
    tensor([[[4., 5.],
             [0., 1.]]])
    """
    out: Tensor = _gather_rows(x, index)
    return out


def _scatter_rows_fake(y: Tensor, index: Tensor, n: int, base: Tensor | None) -> Tensor:
    return y.new_empty((y.shape[0], n, y.shape[2]))


def _scatter_rows_setup(ctx: Any, inputs: tuple[Tensor, Tensor, int, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.rows = inputs[2]


def _scatter_rows_grads(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
    (index,) = ctx.saved_tensors
    grad_y = _scatter_rows_backward(grad, index) if ctx.needs_input_grad[0] else None
    grad_base = None
    if ctx.needs_input_grad[3]:
        nothing = grad.new_zeros(grad.shape[2]).expand(*index.shape, -1)
        grad_base = _scatter_rows(nothing, index, ctx.rows, grad)
    return grad_y, None, None, grad_base


_scatter_rows = define(
    "scatter_rows(Tensor y, Tensor index, SymInt n, Tensor? base) -> Tensor",
    kernels.scatter_rows,
    _scatter_rows_fake,
    setup=_scatter_rows_setup,
    backward=_scatter_rows_grads,
)


def _scatter_rows_backward_grads(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (index,) = ctx.saved_tensors
    return _scatter_rows(grad, index, ctx.rows, None), None


_scatter_rows_backward = define(
    "scatter_rows_backward(Tensor grad, Tensor index) -> Tensor",
    kernels.scatter_rows_backward,
    _gather_rows_fake,
    setup=_gather_rows_setup,
    backward=_scatter_rows_backward_grads,
)


def scatter_rows(y: Tensor, index: Tensor, n: int, base: Tensor | None = None) -> Tensor:
    """Place rows. Torch form of :func:`tokernel.kernels.merge.scatter_rows`.

    ``out[b, index[b, m]] = y[b, m]``; the lowest m wins a row, and every other row is that of `base`, or zero.

    Args:
        y: (B, M, C) float32, float16 or bfloat16.
        index: (B, M) int64 or int32 in [0, n).
        n: rows of the result.
        base: (B, n, C) of the dtype of y, or None for zeros.

    Returns:
        (B, n, C) of the dtype of y, differentiable in y (only winners get a gradient) and base.

    >>> import torch
    >>> scatter_rows(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[2, 0]]), 4)[0, :, 0]
    tensor([2., 0., 1., 0.])
    """
    out: Tensor = _scatter_rows(y, index, n, base)
    return out


def _scatter_add_rows_setup(ctx: Any, inputs: tuple[Tensor, Tensor, int, Tensor | None], output: Tensor) -> None:
    y, index, _, weight = inputs
    if weight is None:
        ctx.save_for_backward(index)
    else:
        ctx.save_for_backward(index, y, weight)


def _scatter_add_rows_grads(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, Tensor | None]:
    index, *weighted = ctx.saved_tensors
    if not weighted:
        return _gather_rows(grad, index), None, None, None
    y, weight = weighted
    grad_y, grad_weight = _scatter_add_rows_backward(grad, y, index, weight)
    return grad_y, None, None, grad_weight


_scatter_add_rows = define(
    "scatter_add_rows(Tensor y, Tensor index, SymInt n, Tensor? weight) -> Tensor",
    kernels.scatter_add_rows,
    _scatter_rows_fake,
    setup=_scatter_add_rows_setup,
    backward=_scatter_add_rows_grads,
)


def _scatter_add_rows_backward_fake(grad: Tensor, y: Tensor, index: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), weight.new_empty(weight.shape)


def _scatter_add_rows_backward_setup(
    ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]
) -> None:
    ctx.save_for_backward(*inputs)


def _scatter_add_rows_backward_grads(
    ctx: Any, grad_grad_y: Tensor, grad_grad_weight: Tensor
) -> tuple[Tensor, Tensor, None, Tensor]:
    grad, y, index, weight = ctx.saved_tensors
    rows = grad.shape[1]
    grad_grad = _scatter_add_rows(grad_grad_y, index, rows, weight)
    grad_grad = grad_grad + _scatter_add_rows(y, index, rows, grad_grad_weight)
    grad_y, grad_weight = _scatter_add_rows_backward(grad, grad_grad_y, index, grad_grad_weight)
    return grad_grad, grad_y, None, grad_weight


_scatter_add_rows_backward = define(
    "scatter_add_rows_backward(Tensor grad, Tensor y, Tensor index, Tensor weight) -> (Tensor, Tensor)",
    kernels.scatter_add_rows_backward,
    _scatter_add_rows_backward_fake,
    setup=_scatter_add_rows_backward_setup,
    backward=_scatter_add_rows_backward_grads,
)


def scatter_add_rows(y: Tensor, index: Tensor, n: int, weight: Tensor | None = None) -> Tensor:
    """Add up rows. Torch form of :func:`tokernel.kernels.merge.scatter_add_rows`.

    ``out[b, i] = sum of weight[b, m] * y[b, m]`` over the m with ``index[b, m] == i``, in float32 and in ascending m.

    Args:
        y: (B, M, C) float32, float16 or bfloat16.
        index: (B, M) int64 or int32 in [0, n).
        n: rows of the result.
        weight: (B, M) float32, or None for ones.

    Returns:
        (B, n, C) of the dtype of y, differentiable in y and weight.

    >>> import torch
    >>> scatter_add_rows(torch.tensor([[[1.0], [2.0], [4.0]]]), torch.tensor([[1, 0, 1]]), 3)[0, :, 0]
    tensor([2., 5., 0.])
    """
    out: Tensor = _scatter_add_rows(y, index, n, weight)
    return out
