# SPDX-License-Identifier: Apache-2.0
"""Family select as torch ops: gates with their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.kernels import select as kernels
from tokernel.ops._torch_op import define

__all__ = ["threshold_gate", "topk_gate"]


# ---- experts -------------------------------------------------------------------------------------------------------
def _topk_gate_kernel(logits: Tensor, k: int, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The differentiable output first, as torch's own checks of an op expect it."""
    index, weight, counts = kernels.topk_gate(logits, k, normalize)
    return weight, index, counts


def _topk_gate_fake(logits: Tensor, k: int, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, tokens, experts = logits.shape
    weight = logits.new_empty((batch, tokens, k), dtype=torch.float32)
    index = logits.new_empty((batch, tokens, k), dtype=torch.int64)
    return weight, index, logits.new_empty((batch, experts), dtype=torch.int64)


def _save_gate(ctx: Any, inputs: tuple[Tensor, int, bool], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.save_for_backward(inputs[0], output[1])
    ctx.normalize = inputs[2]


def _topk_gate_grads(ctx: Any, grad: Tensor, _: Any, __: Any) -> tuple[Tensor, None, None]:
    logits, index = ctx.saved_tensors
    return _topk_gate_backward(grad, logits, index, ctx.normalize), None, None


_topk_gate = define(
    "topk_gate(Tensor logits, SymInt k, bool normalize) -> (Tensor, Tensor, Tensor)",
    _topk_gate_kernel,
    _topk_gate_fake,
    setup=_save_gate,
    backward=_topk_gate_grads,
)


def _save_gate_backward(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.normalize = inputs[3]


def _topk_gate_second(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor, None, None]:
    """Of sum_e u_e p_e (g_e - sum g p): through g, and through p, which the softmax makes of the logits."""
    grad, logits, index = ctx.saved_tensors
    u, p = u.float(), logits.float().softmax(-1)
    if ctx.normalize:
        chosen = torch.zeros_like(p).scatter(-1, index, p.gather(-1, index))
        p = chosen / chosen.sum(-1, keepdim=True)
    g = torch.zeros_like(p).scatter(-1, index, grad)
    mean_u, mean_g = (u * p).sum(-1, keepdim=True), (g * p).sum(-1, keepdim=True)
    through_p = u * (g - mean_g) - g * mean_u
    to_logits = p * (through_p - (through_p * p).sum(-1, keepdim=True))
    return (p * (u - mean_u)).gather(-1, index), to_logits.to(logits.dtype), None, None


_topk_gate_backward = define(
    "topk_gate_backward(Tensor grad, Tensor logits, Tensor index, bool normalize) -> Tensor",
    kernels.topk_gate_backward,
    lambda grad, logits, index, normalize: logits.new_empty(logits.shape),
    setup=_save_gate_backward,
    backward=_topk_gate_second,
)


def topk_gate(logits: Tensor, k: int, normalize: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the k experts of every token: the largest of ``softmax(logits)``. Torch form of
    :func:`tokernel.kernels.select.topk_gate`, which states the order among equals and what NaN means.

    Args:
        logits: (T, E) or (B, T, E) float32, float16 or bfloat16, any outer strides; E up to 8192.
        k: in [0, E].
        normalize: divide the weights of a token by their sum.

    Returns:
        index (T, k) or (B, T, k) int64; weight of that shape, float32 and differentiable in logits; counts (E,) or
        (B, E) int64, the tokens of every expert.

    >>> index, weight, counts = topk_gate(torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]]), 1, normalize=True)
    >>> index
    tensor([[1],
            [0]])
    >>> counts
    tensor([1, 1, 0])
    """
    if logits.dim() != 2:
        weight, index, counts = _topk_gate(logits, k, normalize)
        return index, weight, counts
    weight, index, counts = _topk_gate(logits[None], k, normalize)  # a batch rule needs a batch
    return index[0], weight[0], counts[0]


# ---- switches ------------------------------------------------------------------------------------------------------
def _threshold_gate_kernel(logits: Tensor, tau: float, noise: Tensor | None) -> Tensor:
    gate: Tensor = kernels.threshold_gate(logits, tau, noise)
    return gate


def _save_noisy(ctx: Any, inputs: tuple[Tensor, float, Tensor | None], output: Tensor) -> None:
    logits, ctx.tau, noise = inputs
    ctx.save_for_backward(logits, noise)


def _threshold_gate_grads(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    logits, noise = ctx.saved_tensors
    return _threshold_gate_backward(grad, logits, noise, ctx.tau), None, None


_threshold_gate = define(
    "threshold_gate(Tensor logits, float tau, Tensor? noise) -> Tensor",
    _threshold_gate_kernel,
    lambda logits, tau, noise: logits.new_empty(logits.shape),
    setup=_save_noisy,
    backward=_threshold_gate_grads,
)


def _save_noisy_backward(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.tau = inputs[3]


def _threshold_gate_second(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor, None, None]:
    grad, logits, noise = ctx.saved_tensors
    s = ((logits.float() + noise) / ctx.tau).sigmoid()
    to_logits = (u.float() * grad.float() * s * (1 - s) * (1 - 2 * s) / ctx.tau**2).to(logits.dtype)
    return _threshold_gate_backward(u, logits, noise, ctx.tau), to_logits, None, None


_threshold_gate_backward = define(
    "threshold_gate_backward(Tensor grad, Tensor logits, Tensor noise, float tau) -> Tensor",
    kernels.threshold_gate_backward,
    lambda grad, logits, noise, tau: logits.new_empty(logits.shape),
    setup=_save_noisy_backward,
    backward=_threshold_gate_second,
)


def _logistic_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """The difference of two Gumbel samples."""
    first = torch.empty(like.shape, dtype=torch.float32, device=like.device).exponential_(generator=generator)
    second = torch.empty_like(first).exponential_(generator=generator)
    return second.log() - first.log()


def threshold_gate(
    logits: Tensor,
    tau: float = 5.0,
    noise: Tensor | None = None,
    *,
    training: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Switch on what has a positive logit: exactly 1.0 or 0.0. Torch form of
    :func:`tokernel.kernels.select.threshold_gate`.

    With noise, given or drawn, the gate is ``1[s > 0.5]`` with ``s = sigmoid((logits + noise) / tau)``, and its
    gradient is the straight-through one, ``s * (1 - s) / tau``. Without, it is ``1[logits > 0]`` and has no gradient.

    Args:
        logits: (...) float32, float16 or bfloat16.
        tau: the temperature, positive.
        noise: float32 of the shape of logits; a constant, without gradient.
        training: draw logistic noise (the difference of two Gumbel samples) where none is given.
        generator: what to draw it from; None is torch's own.

    Returns:
        of the shape and dtype of logits; NaN gives 0.

    >>> threshold_gate(torch.tensor([-1.0, 0.0, 0.5]))
    tensor([0., 0., 1.])
    """
    if noise is None and training:
        noise = _logistic_noise(logits, generator)
    if noise is None:
        logits = logits.detach()
    elif noise.shape != logits.shape:
        out: Tensor = _threshold_gate(logits, tau, noise)  # which refuses
        return out
    flat: Tensor = _threshold_gate(logits.reshape(-1), tau, None if noise is None else noise.detach().reshape(-1))
    return flat.reshape(logits.shape)
