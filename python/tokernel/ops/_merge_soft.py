# SPDX-License-Identifier: Apache-2.0
"""Family merge as torch ops: soft maps and compaction."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from tokernel.kernels import merge as kernels
from tokernel.kernels.merge._soft import is_over_targets
from tokernel.ops._torch_op import define

__all__ = ["compact_rows", "soft_aggregate"]


# ---- the gradients as torch formulas: what the second derivative is taken of ---------------------------------------
def _weights(logits: Tensor, dim: int) -> Tensor:
    """Softmax in float32 that gives zeros, not NaN, where every logit is -inf."""
    wide = logits.float()
    largest = wide.detach().amax(dim, keepdim=True)
    weight = (wide - largest.masked_fill(largest == -torch.inf, 0.0)).exp()
    total = weight.sum(dim, keepdim=True)
    return weight / total.masked_fill(total == 0, 1.0)


def _gradients(grad_y: Tensor, x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    weight = _weights(logits, -1)
    along = grad_y.float() @ x.float().mT
    grad_logits = weight * (along - (weight * along).sum(-1, keepdim=True))
    return (weight.mT @ grad_y.float()).to(x.dtype), grad_logits.to(logits.dtype)


def _targets_gradients(
    grad_y: Tensor, grad_mass_out: Tensor, x: Tensor, logits: Tensor, mass: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    weight = _weights(logits, 1)
    moved = weight * mass[:, None]
    total = moved.sum(-1, keepdim=True)
    scaled = grad_y.float() / total.masked_fill(total == 0, 1.0) * (total != 0)
    along = scaled @ x.float().mT
    mean = (moved * along).sum(-1, keepdim=True) / total.masked_fill(total == 0, 1.0)
    share = along - mean + grad_mass_out[..., None]
    grad_mass = (weight * share).sum(1)
    grad_logits = moved * (share - grad_mass[:, None])
    return (moved.mT @ scaled).to(x.dtype), grad_logits.to(logits.dtype), grad_mass


# ---- over tokens ---------------------------------------------------------------------------------------------------
def _aggregate_fake(x: Tensor, logits: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], logits.shape[1], x.shape[2]))


def _aggregate_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs, output)


def _aggregate_grads(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    x, logits, y = ctx.saved_tensors
    grads: tuple[Tensor, Tensor] = _aggregate_backward(grad, x, logits, y)
    return grads


_aggregate = define(
    "soft_aggregate(Tensor x, Tensor logits) -> Tensor",
    kernels.soft_aggregate,
    _aggregate_fake,
    setup=_aggregate_setup,
    backward=_aggregate_grads,
)


def _aggregate_backward_fake(grad_y: Tensor, x: Tensor, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), logits.new_empty(logits.shape)


def _aggregate_backward_setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3])


def _aggregate_backward_grads(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    pull = torch.func.vjp(_gradients, *ctx.saved_tensors)[1]
    return (*pull(grads), None)  # y depends on x and logits, and the formula has computed it from them


_aggregate_backward = define(
    "soft_aggregate_backward(Tensor grad_y, Tensor x, Tensor logits, Tensor y) -> (Tensor, Tensor)",
    kernels.soft_aggregate_backward,
    _aggregate_backward_fake,
    setup=_aggregate_backward_setup,
    backward=_aggregate_backward_grads,
)


# ---- over targets --------------------------------------------------------------------------------------------------
def _targets_kernel(x: Tensor, logits: Tensor, mass: Tensor | None) -> Any:
    return kernels.soft_aggregate(x, logits, "targets", mass)


def _targets_fake(x: Tensor, logits: Tensor, mass: Tensor | None) -> tuple[Tensor, Tensor]:
    return _aggregate_fake(x, logits), logits.new_empty(logits.shape[:2], dtype=torch.float32)


def _targets_setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: tuple[Tensor, Tensor]) -> None:
    x, logits, mass = inputs
    ctx.has_mass = mass is not None
    ctx.save_for_backward(x, logits, *output, *(() if mass is None else (mass,)))


def _targets_grads(ctx: Any, grad_y: Tensor, grad_mass_out: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    x, logits, y, mass_out, *rest = ctx.saved_tensors
    mass = rest[0] if rest else None
    grad_x, grad_logits, grad_mass = _targets_backward(grad_y, grad_mass_out, x, logits, mass, y, mass_out)
    return grad_x, grad_logits, grad_mass if ctx.has_mass else None


_targets = define(
    "soft_aggregate_targets(Tensor x, Tensor logits, Tensor? mass) -> (Tensor, Tensor)",
    _targets_kernel,
    _targets_fake,
    setup=_targets_setup,
    backward=_targets_grads,
)


def _targets_backward_kernel(
    grad_y: Tensor, grad_mass_out: Tensor, x: Tensor, logits: Tensor, mass: Tensor | None, y: Tensor, mass_out: Tensor
) -> Any:
    return kernels.soft_aggregate_backward(
        grad_y, x, logits, y, grad_mass_out=grad_mass_out, mass=mass, mass_out=mass_out
    )


def _targets_backward_fake(
    grad_y: Tensor, grad_mass_out: Tensor, x: Tensor, logits: Tensor, mass: Tensor | None, y: Tensor, mass_out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), logits.new_empty(logits.shape), mass_out.new_empty(x.shape[:2])


def _targets_backward_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad_y, grad_mass_out, x, logits, mass, *_ = inputs
    ctx.has_mass = mass is not None
    ctx.save_for_backward(grad_y, grad_mass_out, x, logits, *(() if mass is None else (mass,)))


def _targets_backward_grads(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, mass = ctx.saved_tensors if ctx.has_mass else (*ctx.saved_tensors, None)
    if mass is None:
        mass = torch.ones(inputs[2].shape[:2], dtype=torch.float32, device=inputs[2].device)
    pull = torch.func.vjp(_targets_gradients, *inputs, mass)[1]
    *pulled, grad_mass = pull(grads)
    return (*pulled, grad_mass if ctx.has_mass else None, None, None)


_targets_backward = define(
    "soft_aggregate_targets_backward(Tensor grad_y, Tensor grad_mass_out, Tensor x, Tensor logits, Tensor? mass, "
    "Tensor y, Tensor mass_out) -> (Tensor, Tensor, Tensor)",
    _targets_backward_kernel,
    _targets_backward_fake,
    setup=_targets_backward_setup,
    backward=_targets_backward_grads,
)


@overload
def soft_aggregate(x: Tensor, logits: Tensor, over: Literal["tokens"] = "tokens", mass: None = None) -> Tensor: ...


@overload
def soft_aggregate(
    x: Tensor, logits: Tensor, over: Literal["targets"], mass: Tensor | None = None
) -> tuple[Tensor, Tensor]: ...


def soft_aggregate(
    x: Tensor, logits: Tensor, over: str = "tokens", mass: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Average all tokens into every target. Torch form of :func:`tokernel.kernels.merge.soft_aggregate`.

    Over tokens ``y = softmax(logits, -1) @ x``; over targets ``P = softmax(logits, 1)``, ``mass_out = P @ mass`` and
    ``y = (P * mass) @ x / mass_out``.

    Args:
        x: (B, N, C) float32, float16 or bfloat16.
        logits: (B, M, N) float32, float16 or bfloat16, also as a transposed view, which is not copied.
        over: "tokens" or "targets", the axis along which the weights add up to 1.
        mass: (B, N) float32, or None for ones; over targets only.

    Returns:
        y (B, M, C) of the dtype of x; over targets the pair (y, mass_out), mass_out (B, M) float32. Differentiable in
        x, logits and mass.

    >>> import torch
    >>> soft_aggregate(torch.tensor([[[0.0], [4.0]]]), torch.zeros(1, 1, 2))
    tensor([[[2.]]])
    """
    if not is_over_targets(over, mass):
        y: Tensor = _aggregate(x, logits)
        return y
    pair: tuple[Tensor, Tensor] = _targets(x, logits, mass)
    return pair


# ---- compaction -----------------------------------------------------------------------------------------------------
def _compact_rows_fake(mask: Tensor) -> tuple[Tensor, Tensor]:
    total = torch.library.get_ctx().new_dynamic_size()
    return (
        mask.new_empty((total,), dtype=torch.int64),
        mask.new_empty((mask.shape[0] + 1,), dtype=torch.int64),
    )


_compact_rows = define(
    "compact_rows(Tensor mask) -> (Tensor, Tensor)",
    kernels.compact_rows,
    _compact_rows_fake,
    batched=False,
)


def compact_rows(mask: Tensor) -> tuple[Tensor, Tensor]:
    """List the kept tokens. Torch form of :func:`tokernel.kernels.merge.compact_rows`.

    The size of the result depends on the data: on a GPU the call waits once for the total, ``vmap`` runs one sample
    after another and needs equal totals, and ``torch.compile(fullgraph=True)`` needs
    ``torch._dynamo.config.capture_dynamic_output_shape_ops``.

    Args:
        mask: (B, N) bool or uint8, a token is kept where it is not 0.

    Returns:
        index (total,) int64, flat into B * N, ascending; and cu_seqlens (B + 1,) int64.

    >>> import torch
    >>> compact_rows(torch.tensor([[True, False, True], [False, True, False]]))
    (tensor([0, 2, 4]), tensor([0, 2, 3]))
    """
    pair: tuple[Tensor, Tensor] = _compact_rows(mask)
    return pair
