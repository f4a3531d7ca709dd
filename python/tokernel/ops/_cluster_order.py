# SPDX-License-Identifier: Apache-2.0
"""Family cluster as torch ops: rows in the order of their clusters, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.kernels import cluster as kernels
from tokernel.ops._torch_op import define

__all__ = ["inverse_permute_rows", "permute_rows", "sort_by_label"]


def _sort_by_label_fake(labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    batch, tokens = labels.shape
    perm, offsets = (labels.new_empty((batch, width), dtype=torch.int64) for width in (tokens, k + 1))
    return perm, offsets


_sort_by_label = define(
    "sort_by_label(Tensor labels, SymInt K) -> (Tensor, Tensor)", kernels.sort_by_label, _sort_by_label_fake
)


def sort_by_label(labels: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """List the tokens of every row by ascending label. Torch form of :func:`tokernel.kernels.cluster.sort_by_label`.

    Args:
        labels: (B, N) int64 or int32, every value in [0, K).
        K: number of labels.

    Returns:
        perm (B, N) int64, stable, and offsets (B, K + 1) int64: tokens of label k are
        ``perm[b, offsets[b, k] : offsets[b, k + 1]]``. No gradient: both are integers.

    >>> sort_by_label(torch.tensor([[2, 0, 2, 0]]), 3)
    (tensor([[1, 3, 0, 2]]), tensor([[0, 2, 2, 4]]))
    """
    perm, offsets = _sort_by_label(labels, K)
    return perm, offsets


def _same_shape(x: Tensor, perm: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _save_perm(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _permute_rows_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _inverse_permute_rows(grad, *ctx.saved_tensors), None


def _inverse_permute_rows_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _permute_rows(grad, *ctx.saved_tensors), None


_permute_rows = define(
    "permute_rows(Tensor x, Tensor perm) -> Tensor",
    kernels.permute_rows,
    _same_shape,
    setup=_save_perm,
    backward=_permute_rows_backward,
)
_inverse_permute_rows = define(
    "inverse_permute_rows(Tensor y, Tensor perm) -> Tensor",
    kernels.inverse_permute_rows,
    _same_shape,
    setup=_save_perm,
    backward=_inverse_permute_rows_backward,
)


def permute_rows(x: Tensor, perm: Tensor) -> Tensor:
    """Put rows in the order of a permutation: ``out[b, n] = x[b, perm[b, n]]``. Torch form of
    :func:`tokernel.kernels.cluster.permute_rows`.

    Args:
        x: (B, N, C) or (B, H, N, C) float32, float16 or bfloat16, any outer strides.
        perm: (B, N) or (B, H, N) int64 or int32, a permutation of [0, N) in every row.

    Returns:
        The shape and dtype of x, differentiable in x: the gradient is :func:`inverse_permute_rows`.

    >>> permute_rows(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[2, 0, 1]]))[0, :, 0]
    tensor([3., 1., 2.])
    """
    out: Tensor = _permute_rows(x, perm)
    return out


def inverse_permute_rows(y: Tensor, perm: Tensor) -> Tensor:
    """Put permuted rows back: ``out[b, perm[b, n]] = y[b, n]``. Torch form of
    :func:`tokernel.kernels.cluster.inverse_permute_rows`.

    Args:
        y: (B, N, C) or (B, H, N, C) float32, float16 or bfloat16, any outer strides.
        perm: (B, N) or (B, H, N) int64 or int32, a permutation of [0, N) in every row.

    Returns:
        The shape and dtype of y, differentiable in y: the gradient is :func:`permute_rows`.

    >>> inverse_permute_rows(torch.tensor([[[3.0], [1.0], [2.0]]]), torch.tensor([[2, 0, 1]]))[0, :, 0]
    tensor([1., 2., 3.])
    """
    out: Tensor = _inverse_permute_rows(y, perm)
    return out
