# SPDX-License-Identifier: Apache-2.0
"""Family merge as torch ops: reductions over segments, and their way back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.kernels._arrays import extension_of
from tokernel.ops._torch_op import define


def _segment_count(offsets: Tensor | None, segments: int | None) -> int:
    if offsets is not None:
        return offsets.shape[-1] - 1
    assert segments is not None
    return segments


def _reduce_kernel(
    x: Tensor, offsets: Tensor | None, ids: Tensor | None, segments: int | None, mode: str, weight: Tensor | None
) -> Any:
    extension = extension_of("segment_reduce", "x", x)
    return extension.segment_reduce(x, offsets, ids, segments, mode, weight, False, None, None)


def _reduce_mass_kernel(
    x: Tensor, offsets: Tensor | None, ids: Tensor | None, segments: int | None, mode: str, weight: Tensor | None
) -> Any:
    extension = extension_of("segment_reduce", "x", x)
    return extension.segment_reduce(x, offsets, ids, segments, mode, weight, True, None, None)


def _reduce_fake(
    x: Tensor, offsets: Tensor | None, ids: Tensor | None, segments: int | None, mode: str, weight: Tensor | None
) -> Tensor:
    return x.new_empty((x.shape[0], _segment_count(offsets, segments), x.shape[2]))


def _reduce_mass_fake(x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    out = _reduce_fake(x, *args)
    return out, x.new_empty(out.shape[:2], dtype=torch.float32)


def _reduce_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, offsets, ids, segments, mode, weight = inputs
    ctx.needs_x = mode == "amax" or (weight is not None and ctx.needs_input_grad[5])
    ctx.save_for_backward(x if ctx.needs_x else None, offsets, ids, weight)
    ctx.tokens = x.shape[1]
    ctx.segments = _segment_count(offsets, segments)
    ctx.mode = mode


def _reduce_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _reduce_mass_backward(ctx, grad, None)


def _reduce_mass_backward(ctx: Any, grad: Tensor, grad_mass: Tensor | None) -> tuple[Tensor | None, ...]:
    x, offsets, ids, weight = ctx.saved_tensors
    segments = _Segments(offsets, ids, ctx.tokens, ctx.segments)
    if torch.is_grad_enabled():
        grad_x, grad_weight = _differentiable_backward(ctx, segments, grad, grad_mass, x, weight)
    else:
        common = (grad.contiguous(), x, offsets, ids, ctx.tokens, ctx.mode, weight)
        if weight is not None and ctx.needs_input_grad[5]:
            grad_x, grad_weight = _segment_reduce_weight_backward(*common, grad_mass)
        else:
            grad_x, grad_weight = _segment_reduce_backward(*common), None
    return grad_x, None, None, None, None, grad_weight


class _Segments:
    """The segments of one call, for formulas made of ops."""

    def __init__(self, offsets: Tensor | None, ids: Tensor | None, tokens: int, segments: int) -> None:
        self.index = (offsets, ids)
        self.tokens = tokens
        self.segments = segments

    def sum(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        out: Tensor = _segment_reduce(x, *self.index, self.segments, "sum", weight)
        return out

    def spread(self, y: Tensor) -> Tensor:
        out: Tensor = _segment_broadcast(y, *self.index, self.tokens)
        return out


def _differentiable_backward(
    ctx: Any, segments: _Segments, grad: Tensor, grad_mass: Tensor | None, x: Tensor | None, weight: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The gradients of segment_reduce as ops that have gradients themselves."""
    if ctx.mode == "amax":
        # Ones go where the maxima are: a mask, constant almost everywhere.
        args = (*segments.index, ctx.tokens, "amax", None)
        return segments.spread(grad) * _segment_reduce_backward(torch.ones_like(grad), x, *args), None
    share = grad.float()
    mass = None
    if ctx.mode == "mean":
        shape = (grad.shape[0], ctx.tokens, 1)
        mass = segments.sum(grad.new_ones(shape, dtype=torch.float32) if weight is None else weight.unsqueeze(2))
        share = torch.where(mass == 0, 0.0, share / torch.where(mass == 0, 1.0, mass))
    spread = segments.spread(share)
    if weight is None:
        return spread.to(grad.dtype), None
    grad_x = (spread * weight.unsqueeze(2)).to(grad.dtype)
    if not ctx.needs_input_grad[5]:
        return grad_x, None
    assert x is not None
    dot = (x.float() * spread).sum(2, keepdim=True)
    if mass is not None:
        dot = dot - segments.spread(segments.sum(dot, weight) / torch.where(mass == 0, 1.0, mass))
    if grad_mass is not None:
        dot = dot + segments.spread(grad_mass.unsqueeze(2))
    return grad_x, dot.squeeze(2)


_REDUCE = "(Tensor x, Tensor? offsets, Tensor? ids, SymInt? segments, str mode, Tensor? weight)"

_segment_reduce = define(
    f"segment_reduce{_REDUCE} -> Tensor",
    _reduce_kernel,
    _reduce_fake,
    setup=_reduce_setup,
    backward=_reduce_backward,
    shared=(1, 2),
)
_segment_reduce_mass = define(
    f"segment_reduce_mass{_REDUCE} -> (Tensor, Tensor)",
    _reduce_mass_kernel,
    _reduce_mass_fake,
    setup=_reduce_setup,
    backward=_reduce_mass_backward,
    shared=(1, 2),
)


def _reduce_backward_kernel(
    grad: Tensor,
    x: Tensor | None,
    offsets: Tensor | None,
    ids: Tensor | None,
    tokens: int,
    mode: str,
    weight: Tensor | None,
) -> Any:
    extension = extension_of("segment_reduce_backward", "grad", grad)
    return extension.segment_reduce_backward(grad, x, offsets, ids, tokens, mode, weight, None, False)


def _reduce_backward_fake(
    grad: Tensor, x: Tensor | None, offsets: Tensor | None, ids: Tensor | None, tokens: int, *rest: Any
) -> Tensor:
    return grad.new_empty((grad.shape[0], tokens, grad.shape[2]))


def _reduce_weight_backward_kernel(
    grad: Tensor,
    x: Tensor,
    offsets: Tensor | None,
    ids: Tensor | None,
    tokens: int,
    mode: str,
    weight: Tensor,
    grad_mass: Tensor | None,
) -> Any:
    extension = extension_of("segment_reduce_backward", "grad", grad)
    return extension.segment_reduce_backward(grad, x, offsets, ids, tokens, mode, weight, grad_mass, True)


def _reduce_weight_backward_fake(
    grad: Tensor, x: Tensor | None, offsets: Tensor | None, ids: Tensor | None, tokens: int, *rest: Any
) -> tuple[Tensor, Tensor]:
    grad_x = _reduce_backward_fake(grad, x, offsets, ids, tokens)
    return grad_x, grad.new_empty(grad_x.shape[:2], dtype=torch.float32)


_segment_reduce_backward = define(
    "segment_reduce_backward(Tensor grad, Tensor? x, Tensor? offsets, Tensor? ids, SymInt tokens, str mode, "
    "Tensor? weight) -> Tensor",
    _reduce_backward_kernel,
    _reduce_backward_fake,
    shared=(2, 3),
)
_segment_reduce_weight_backward = define(
    "segment_reduce_weight_backward(Tensor grad, Tensor x, Tensor? offsets, Tensor? ids, SymInt tokens, str mode, "
    "Tensor weight, Tensor? grad_mass) -> (Tensor, Tensor)",
    _reduce_weight_backward_kernel,
    _reduce_weight_backward_fake,
    shared=(2, 3),
)


def segment_reduce(
    x: Tensor,
    *,
    offsets: Tensor | None = None,
    ids: Tensor | None = None,
    segments: int | None = None,
    mode: str = "mean",
    weight: Tensor | None = None,
    return_mass: bool = False,
) -> Any:
    """Reduce every segment of tokens to one row. Torch form of :func:`tokernel.kernels.merge.segment_reduce`.

    Args:
        x: (B, N, C) or (N, C) float32, float16 or bfloat16.
        offsets: (B, S + 1) or (S + 1); segment s holds the tokens [offsets[s], offsets[s + 1]).
        ids: (B, N) or (N) instead of offsets: the segment of each token, -1 to drop it.
        segments: S, needed with ids.
        mode: "mean", "sum" or "amax".
        weight: (B, N) or (N) float32; not with "amax".
        return_mass: also return the sum of weights of each segment, (B, S) or (S) float32.

    Returns:
        (B, S, C) or (S, C) of the dtype of x, differentiable in x and weight; with return_mass a pair.

    >>> import torch
    >>> x = torch.tensor([[1.0], [3.0], [5.0]])
    >>> segment_reduce(x, offsets=torch.tensor([0, 2, 2, 3]))
    tensor([[2.],
            [0.],
            [5.]])
    """
    op = _segment_reduce_mass if return_mass else _segment_reduce
    if x.dim() != 2:
        return op(x, offsets, ids, segments, mode, weight)
    results = op(x.unsqueeze(0), offsets, ids, segments, mode, None if weight is None else weight.unsqueeze(0))
    return tuple(r.squeeze(0) for r in results) if return_mass else results.squeeze(0)


def _broadcast_kernel(y: Tensor, offsets: Tensor | None, ids: Tensor | None, tokens: int | None) -> Any:
    return extension_of("segment_broadcast", "y", y).segment_broadcast(y, offsets, ids, tokens, None)


def _broadcast_fake(y: Tensor, offsets: Tensor | None, ids: Tensor | None, tokens: int | None) -> Tensor:
    rows: Any = tokens
    if ids is not None:
        rows = ids.shape[-1]
    elif tokens is None:
        rows = torch.library.get_ctx().new_dynamic_size()
    return y.new_empty((y.shape[0], rows, y.shape[2]))


def _broadcast_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    y, offsets, ids, _ = inputs
    ctx.save_for_backward(offsets, ids)
    ctx.segments = y.shape[1]


def _broadcast_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    offsets, ids = ctx.saved_tensors
    return _segment_reduce(grad.contiguous(), offsets, ids, ctx.segments, "sum", None), None, None, None


_segment_broadcast = define(
    "segment_broadcast(Tensor y, Tensor? offsets, Tensor? ids, SymInt? tokens) -> Tensor",
    _broadcast_kernel,
    _broadcast_fake,
    setup=_broadcast_setup,
    backward=_broadcast_backward,
    shared=(1, 2),
)


def segment_broadcast(
    y: Tensor, *, offsets: Tensor | None = None, ids: Tensor | None = None, tokens: int | None = None
) -> Tensor:
    """Give every token the row of its segment. Torch form of :func:`tokernel.kernels.merge.segment_broadcast`.

    Args:
        y: (B, S, C) or (S, C) float32, float16 or bfloat16.
        offsets: (B, S + 1) or (S + 1); segment s holds the tokens [offsets[s], offsets[s + 1]).
        ids: (B, N) or (N) in [-1, S) instead of offsets; -1 gives zeros.
        tokens: N, where the offsets end. Without it they are read, which on a GPU waits for the device and under
            ``torch.compile`` makes the extent a data-dependent one.

    Returns:
        (B, N, C) or (N, C) of the dtype of y, differentiable in y.

    >>> import torch
    >>> segment_broadcast(torch.tensor([[1.0], [2.0]]), ids=torch.tensor([1, -1, 0]))
    tensor([[2.],
            [0.],
            [1.]])
    """
    if tokens is None and offsets is not None and offsets.is_cuda:
        tokens = int(offsets.reshape(-1)[-1])
    if y.dim() != 2:
        out: Tensor = _segment_broadcast(y, offsets, ids, tokens)
        return out
    out = _segment_broadcast(y.unsqueeze(0), offsets, ids, tokens)
    return out.squeeze(0)


def _softmax_kernel(scores: Tensor, offsets: Tensor) -> Any:
    return extension_of("segment_softmax", "scores", scores).segment_softmax(scores, offsets, None)


def _softmax_fake(scores: Tensor, offsets: Tensor) -> Tensor:
    return scores.new_empty(scores.shape)


def _softmax_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(output, inputs[1])


def _softmax_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    p, offsets = ctx.saved_tensors
    if not torch.is_grad_enabled():
        return _segment_softmax_backward(grad.contiguous(), p, offsets), None
    segments = _Segments(offsets, None, p.shape[1], _segment_count(offsets, None))
    centre = segments.spread(segments.sum((p.float() * grad.float()).unsqueeze(2))).squeeze(2)
    return (p.float() * (grad.float() - centre)).to(p.dtype), None


def _softmax_backward_kernel(grad: Tensor, p: Tensor, offsets: Tensor) -> Any:
    extension = extension_of("segment_softmax_backward", "grad", grad)
    return extension.segment_softmax_backward(grad, p, offsets, None)


def _softmax_backward_fake(grad: Tensor, p: Tensor, offsets: Tensor) -> Tensor:
    return grad.new_empty(grad.shape)


_segment_softmax = define(
    "segment_softmax(Tensor scores, Tensor offsets) -> Tensor",
    _softmax_kernel,
    _softmax_fake,
    setup=_softmax_setup,
    backward=_softmax_backward,
    shared=(1,),
)
_segment_softmax_backward = define(
    "segment_softmax_backward(Tensor grad, Tensor p, Tensor offsets) -> Tensor",
    _softmax_backward_kernel,
    _softmax_backward_fake,
    shared=(2,),
)


def segment_softmax(scores: Tensor, *, offsets: Tensor) -> Tensor:
    """Take the softmax of every segment. Torch form of :func:`tokernel.kernels.merge.segment_softmax`.

    Args:
        scores: (B, N) or (N) float32, float16 or bfloat16.
        offsets: (B, S + 1) or (S + 1); segment s holds the tokens [offsets[s], offsets[s + 1]).

    Returns:
        (B, N) or (N) of the dtype of scores, differentiable in them.

    >>> import torch
    >>> segment_softmax(torch.tensor([0.0, 0.0, 7.0]), offsets=torch.tensor([0, 2, 3]))
    tensor([0.5000, 0.5000, 1.0000])
    """
    if scores.dim() != 1:
        out: Tensor = _segment_softmax(scores, offsets)
        return out
    out = _segment_softmax(scores.unsqueeze(0), offsets)
    return out.squeeze(0)
