# SPDX-License-Identifier: Apache-2.0
"""How CLEAR fine-tunes: the student's attention projections and pooling weights, taught by the unpatched model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokernel.integrations.processors import transformer_of

__all__ = ["DistillLoss", "clear_distill_loss", "distilled_layers", "freeze_all_but_attention", "record_attention"]


class DistillLoss(NamedTuple):
    """The terms of :func:`clear_distill_loss`; ``total`` is what to call backward on."""

    total: Tensor
    flow: Tensor
    prediction: Tensor
    attention: Tensor


def clear_distill_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    student_attention: Sequence[Tensor] = (),
    teacher_attention: Sequence[Tensor] = (),
    *,
    weight: Tensor | None = None,
    prediction_factor: float = 0.5,
    attention_factor: float = 0.5,
) -> DistillLoss:
    """Compare a student with the data and with its teacher: ``flow + 0.5 prediction + 0.5 attention``, in float32.

    CLEAR section 3 (arXiv 2412.16112): flow = mse(student, target), prediction = mse(student, teacher), attention = the
    mean over layers of mse(student's attention output, teacher's). The teacher gets no gradient.

    Args:
        student, teacher: (B, ...) predicted velocities at ``x_t = (1 - s) x_0 + s noise``.
        target: (B, ...) the true velocity, ``noise - x_0``.
        student_attention, teacher_attention: as many outputs (B, S, C) each, from :func:`record_attention`.
        weight: (B,) factor of the squared errors of a sample, for timestep weighting as in SD3; None is 1.
        prediction_factor, attention_factor: of the terms.

    Raises:
        ValueError: shapes differ, or the numbers of layers do.

    >>> clear_distill_loss(torch.ones(2, 3), torch.zeros(2, 3), torch.full((2, 3), 3.0)).total
    tensor(4.5000)
    """
    if len(student_attention) != len(teacher_attention):
        raise ValueError(
            f"clear_distill_loss: teacher_attention expected the student's {len(student_attention)} layers; "
            f"got {len(teacher_attention)}"
        )
    flow = _mse("target", student, target, weight)
    prediction = _mse("teacher", student, teacher.detach(), weight)
    pairs = zip(student_attention, teacher_attention, strict=True)
    layers = [_mse("teacher_attention", a, b.detach(), weight) for a, b in pairs]
    attention = torch.stack(layers).mean() if layers else flow.new_zeros(())
    return DistillLoss(
        flow + prediction_factor * prediction + attention_factor * attention, flow, prediction, attention
    )


def _mse(name: str, student: Tensor, other: Tensor, weight: Tensor | None) -> Tensor:
    if student.shape != other.shape:
        raise ValueError(
            f"clear_distill_loss: {name} expected the student's shape {tuple(student.shape)}; got {tuple(other.shape)}"
        )
    error = (student.float() - other.float()) ** 2
    if weight is not None:
        if weight.shape != student.shape[:1]:
            raise ValueError(
                f"clear_distill_loss: weight expected shape {tuple(student.shape[:1])}; got {tuple(weight.shape)}"
            )
        error = error * weight.float().view(-1, *(1,) * (error.dim() - 1))
    return error.mean()


def distilled_layers(double: int, single: int, every: int = 4) -> list[int]:
    """Choose the layers whose attention is compared: single-stream blocks whose index among all is divisible by 4.

    >>> distilled_layers(19, 38)
    [20, 24, 28, 32, 36, 40, 44, 48, 52, 56]
    """
    if every < 1:
        raise ValueError(f"distilled_layers: every expected at least 1; got {every}")
    return [layer for layer in range(double, double + single) if layer % every == 0]


@contextmanager
def record_attention(model: Any, layers: Sequence[int] | None = None) -> Iterator[list[Tensor]]:
    """Collect the attention outputs of chosen blocks of a ``FluxTransformer2DModel``, before the output projection.

    Works on patched and unpatched models alike, and leaves nothing behind; every forward pass starts the list afresh.

    Args:
        model: the transformer, or a pipeline with one.
        layers: indices of single-stream blocks, counted from the first double-stream one; None takes
            :func:`distilled_layers`.

    Raises:
        ValueError: another model, or a layer that is not a single-stream block of it.
    """
    owner = transformer_of("record_attention", model, ("FluxTransformer2DModel",))
    double, single = len(owner.transformer_blocks), len(owner.single_transformer_blocks)
    layers = distilled_layers(double, single) if layers is None else layers
    if not all(double <= layer < double + single for layer in layers):
        raise ValueError(
            f"record_attention: layers expected single-stream blocks in [{double}, {double + single}); "
            f"got {list(layers)}"
        )
    outputs: list[Tensor] = []

    def begin(module: nn.Module, args: tuple[Any, ...]) -> None:
        outputs.clear()

    def keep(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        outputs.append(output)

    hooks = [owner.register_forward_pre_hook(begin)]
    hooks += [owner.single_transformer_blocks[layer - double].attn.register_forward_hook(keep) for layer in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


_TRAINED = re.compile(r"\.attn2?\.(to_(q|k|v|out)\.|processor\.spatial_weight$)")


def freeze_all_but_attention(model: nn.Module) -> list[nn.Parameter]:
    """Let only the image projections of attention and the pooling weights train, and return them for an optimiser.

    These are to_q, to_k, to_v and to_out of every block and each processor's ``spatial_weight``; the text projections
    (add_*) stay frozen. The paper trains 10,000 iterations of batch 32 with Prodigy at rate 1.
    """
    trained = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_TRAINED.search(name) is not None)
        if parameter.requires_grad:
            trained.append(parameter)
    return trained
