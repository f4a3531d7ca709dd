# SPDX-License-Identifier: Apache-2.0
"""Family attention as torch ops: a student's map held against a teacher's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.kernels._arrays import extension_of
from tokernel.ops._torch_op import define

__all__ = ["attention_map_ce"]

_TEACHER = "Tensor q_s, Tensor k_s, Tensor? q_t, Tensor? k_t, Tensor? logits"
_SCALES = "float? scale, float? teacher_scale"


def _kernel(
    q_s: Tensor,
    k_s: Tensor,
    q_t: Tensor | None,
    k_t: Tensor | None,
    logits: Tensor | None,
    scale: float | None,
    teacher_scale: float | None,
) -> Any:
    extension = extension_of("attention_map_ce", "q_s", q_s)
    return extension.attention_map_ce(q_s, k_s, q_t, k_t, logits, scale, teacher_scale, True)


def _fake(q_s: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    rows = q_s.new_empty(q_s.shape[:3], dtype=torch.float32)
    return rows, torch.empty_like(rows), torch.empty_like(rows)


def _backward_kernel(
    grad: Tensor,
    q_s: Tensor,
    k_s: Tensor,
    q_t: Tensor | None,
    k_t: Tensor | None,
    logits: Tensor | None,
    lse_s: Tensor,
    lse_t: Tensor,
    scale: float | None,
    teacher_scale: float | None,
) -> Any:
    extension = extension_of("attention_map_ce_backward", "grad", grad)
    return extension.attention_map_ce_backward(grad, q_s, k_s, q_t, k_t, logits, lse_s, lse_t, scale, teacher_scale)


_attention_map_ce_backward = define(
    f"attention_map_ce_backward(Tensor grad, {_TEACHER}, Tensor lse_s, Tensor lse_t, {_SCALES}) -> (Tensor, Tensor)",
    _backward_kernel,
    lambda grad, q_s, k_s, *_: (q_s.new_empty(q_s.shape), k_s.new_empty(k_s.shape)),
    batched=False,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *arrays, ctx.scale, ctx.teacher_scale = inputs
    _, lse_s, lse_t = output
    ctx.mark_non_differentiable(lse_s, lse_t)
    ctx.save_for_backward(*arrays, lse_s, lse_t)


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    grads = _attention_map_ce_backward(grad.contiguous(), *ctx.saved_tensors, ctx.scale, ctx.teacher_scale)
    return (*grads, None, None, None, None, None)


_attention_map_ce = define(
    f"attention_map_ce({_TEACHER}, {_SCALES}) -> (Tensor, Tensor, Tensor)",
    _kernel,
    _fake,
    setup=_setup,
    backward=_backward,
    batched=False,
)


def attention_map_ce(
    q_s: Tensor,
    k_s: Tensor,
    q_t: Tensor | None = None,
    k_t: Tensor | None = None,
    *,
    teacher_logits: Tensor | None = None,
    scale: float | None = None,
    teacher_scale: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of a student's attention rows against a teacher's, neither map stored.

    As :func:`tokernel.kernels.attention.attention_map_ce`. Differentiable once in q_s and k_s; the teacher gets no
    gradient.

    Args:
        q_s: (B, H, N, D) queries of the student.
        k_s: (B, H, M, D) keys of the student.
        q_t: (B, H, N, E) queries of the teacher.
        k_t: (B, H, M, E) keys of the teacher.
        teacher_logits: (B, H, N, M) instead of q_t and k_t.
        scale: of the student's products; None is ``D ** -0.5``.
        teacher_scale: of the teacher's products; None is ``E ** -0.5``.
        reduction: "mean" over all rows, or "none".

    Returns:
        A float32 scalar, or (B, H, N) with reduction "none".

    Raises:
        ValueError: an argument does not fit; the teacher is given twice or not at all; reduction is neither of the two.
        TypeError: not a tensor, or a dtype that is not supported.

    >>> import torch
    >>> q, k = torch.zeros(1, 2, 3, 4, requires_grad=True), torch.randn(1, 2, 5, 4)
    >>> loss = attention_map_ce(q, k, q, k)
    >>> loss.backward()
    >>> round(loss.item(), 4), q.grad.abs().max().item()  # log(5), and no gradient where the maps are equal
    (1.6094, 0.0)
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f"attention_map_ce: reduction must be 'mean' or 'none', got {reduction!r}")
    rows: Tensor = _attention_map_ce(q_s, k_s, q_t, k_t, teacher_logits, scale, teacher_scale)[0]
    return rows.mean() if reduction == "mean" else rows
