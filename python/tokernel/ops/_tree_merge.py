# SPDX-License-Identifier: Apache-2.0
"""Family tree as torch ops: partial softmaxes made one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokernel.kernels import tree as kernels
from tokernel.ops._torch_op import define

__all__ = ["merge_attention"]

_Pair = tuple[Tensor, Tensor]


def _save(ctx: Any, inputs: _Pair, output: _Pair) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    outs, lses = ctx.saved_tensors
    if grad is None:
        if grad_lse is None:
            return None, None
        grad = outs.new_zeros(outs.shape[1:])
    grads: _Pair = _merge_attention_backward(grad, outs, lses, grad_lse)
    return grads


_merge_attention_backward = define(
    "merge_attention_backward(Tensor grad, Tensor outs, Tensor lses, Tensor? grad_lse) -> (Tensor, Tensor)",
    kernels.merge_attention_backward,
    lambda grad, outs, lses, grad_lse: (outs.new_empty(outs.shape), lses.new_empty(lses.shape)),
    batched=False,
)
_merge_attention = define(
    "merge_attention(Tensor outs, Tensor lses) -> (Tensor, Tensor)",
    kernels.merge_attention,
    lambda outs, lses: (outs.new_empty(outs.shape[1:]), lses.new_empty(lses.shape[1:])),
    setup=_save,
    backward=_backward,
    batched=False,
)


def merge_attention(outs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    """Make one attention of K partial ones over disjoint keys. Torch form of
    :func:`tokernel.kernels.tree.merge_attention`, which states -inf, NaN and the order of the sums.

    Args:
        outs: (K, B, H, N, D) float32, float16 or bfloat16, any outer strides.
        lses: (K, B, H, N) float32, natural logarithms.

    Returns:
        (B, H, N, D) of the dtype of outs and (B, H, N) float32, differentiable in outs and lses.

    >>> import torch
    >>> halves = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1, 1)
    >>> merge_attention(halves, torch.zeros(2, 1, 1, 1))[0]
    tensor([[[[2.]]]])
    """
    merged: tuple[Tensor, Tensor] = _merge_attention(outs, lses)
    return merged
