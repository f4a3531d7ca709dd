# SPDX-License-Identifier: Apache-2.0
"""Family select as torch ops: the product of attention with only the values that count in a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.kernels import select as kernels
from tokernel.ops._select_topk import topk_mask
from tokernel.ops._torch_op import define

__all__ = ["local_value_attention"]


def _fake(prob: Tensor, v: Tensor, keep: int) -> Tensor:
    return prob.new_empty((*prob.shape[:3], v.shape[3]))


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.keep = inputs[2]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    """Only kept entries took part. Products in float32; the rows of the heads that share values stand together."""
    prob, v = ctx.saved_tensors
    kept = topk_mask(prob, ctx.keep)
    batch, heads, queries, keys = prob.shape
    groups, width = v.shape[1], v.shape[3]
    rows = heads // max(groups, 1) * queries
    outer = grad.float().reshape(batch, groups, rows, width)
    weight = torch.where(kept, prob, 0).float().reshape(batch, groups, rows, keys)
    grad_prob = torch.where(kept, (outer @ v.float().mT).reshape(prob.shape), 0)
    return grad_prob.to(prob.dtype), (weight.mT @ outer).to(v.dtype), None


_local_value_attention = define(
    "local_value_attention(Tensor prob, Tensor v, SymInt keep) -> Tensor",
    kernels.local_value_attention,
    _fake,
    setup=_save,
    backward=_backward,
)


def local_value_attention(prob: Tensor, v: Tensor, keep: int) -> Tensor:
    """Weigh values by the largest probabilities of every row alone, without renormalising. Torch form of
    :func:`tokernel.kernels.select.local_value_attention`.

    Args:
        prob: (B, H, Q, K) float32, float16 or bfloat16, any outer strides.
        v: (B, G, K, D) of the dtype of prob, any outer strides; H is a multiple of G.
        keep: probabilities of a row that count, in [0, K]; among equals those of the lowest index.

    Returns:
        (B, H, Q, D), differentiable in prob (kept entries only) and v.

    >>> prob, v = torch.tensor([[[[0.5, 0.125, 0.375]]]]), torch.tensor([[[[1.0], [100.0], [2.0]]]])
    >>> local_value_attention(prob, v, 2)
    tensor([[[[1.2500]]]])
    """
    out: Tensor = _local_value_attention(prob, v, keep)
    return out
