# SPDX-License-Identifier: Apache-2.0
"""Family select as torch ops: importance of tokens and heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.kernels import select as kernels
from tokernel.ops._torch_op import define

__all__ = ["accumulate_head_scores", "accumulate_importance"]


def _save_map(ctx: Any, inputs: tuple[Tensor, Tensor | None, Tensor | None], output: Tensor) -> None:
    prob, score, query_valid = inputs
    ctx.save_for_backward(query_valid)
    ctx.shape, ctx.dtype, ctx.scored = prob.shape, prob.dtype, score is not None


def _importance_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
    (query_valid,) = ctx.saved_tensors
    received = grad.to(ctx.dtype)[:, None, None].expand(ctx.shape)
    if query_valid is not None:
        received = received * query_valid.bool()[:, None, :, None]
    return received, grad if ctx.scored else None, None


_accumulate_importance = define(
    "accumulate_importance(Tensor prob, Tensor? score, Tensor? query_valid) -> Tensor",
    kernels.accumulate_importance,
    lambda prob, score, query_valid: prob.new_empty((prob.shape[0], prob.shape[3]), dtype=torch.float32),
    setup=_save_map,
    backward=_importance_backward,
)


def _save_heads(ctx: Any, inputs: tuple[Tensor, Tensor | None, Tensor | None], output: Tensor) -> None:
    e, score, query_valid = inputs
    ctx.save_for_backward(e, query_valid)
    ctx.scored = score is not None


def _head_scores_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
    e, query_valid = ctx.saved_tensors
    side = e.sign()
    if query_valid is not None:
        side = torch.where(query_valid.bool()[:, None, :, None], side, 0)
    return side * grad.to(e.dtype)[:, :, None, None], grad if ctx.scored else None, None


_accumulate_head_scores = define(
    "accumulate_head_scores(Tensor e, Tensor? score, Tensor? query_valid) -> Tensor",
    kernels.accumulate_head_scores,
    lambda e, score, query_valid: e.new_empty(e.shape[:2], dtype=torch.float32),
    setup=_save_heads,
    backward=_head_scores_backward,
)


def accumulate_importance(prob: Tensor, score: Tensor | None = None, query_valid: Tensor | None = None) -> Tensor:
    """Add the attention that every key receives. Torch form of
    :func:`tokernel.kernels.select.accumulate_importance`.

    Args:
        prob: (B, H, Q, K) float32, float16 or bfloat16, any outer strides.
        score: (B, K) float32, the importance so far; None for zeros.
        query_valid: (B, Q) bool, False for a dead query (padding), whose row is not read.

    Returns:
        (B, K) float32, differentiable in prob (every live row gets the gradient of the sums) and score.

    >>> accumulate_importance(torch.tensor([[[[0.25, 0.75], [1.0, 0.0]]]]))
    tensor([[1.2500, 0.7500]])
    """
    out: Tensor = _accumulate_importance(prob, score, query_valid)
    return out


def accumulate_head_scores(e: Tensor, score: Tensor | None = None, query_valid: Tensor | None = None) -> Tensor:
    """Add the size of the output of every head. Torch form of
    :func:`tokernel.kernels.select.accumulate_head_scores`.

    Args:
        e: (B, H, Q, D) float32, float16 or bfloat16, any outer strides.
        score: (B, H) float32, the importance so far; None for zeros.
        query_valid: (B, Q) bool, False for a dead query (padding), whose row is not read.

    Returns:
        (B, H) float32, differentiable in e (the sign of e, 0 at 0) and score.

    >>> accumulate_head_scores(torch.tensor([[[[1.0, -2.0]], [[0.5, 0.0]]]]))
    tensor([[3.0000, 0.5000]])
    """
    out: Tensor = _accumulate_head_scores(e, score, query_valid)
    return out
