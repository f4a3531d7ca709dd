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
    ctx.save_for_backward(x, offsets, ids, weight)
    ctx.segments = _segment_count(offsets, segments)
    ctx.mode = mode


def _reduce_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _reduce_mass_backward(ctx, grad, None)


def _reduce_mass_backward(ctx: Any, grad: Tensor, grad_mass: Tensor | None) -> tuple[Tensor | None, ...]:
    x, offsets, ids, weight = ctx.saved_tensors
    if ctx.mode == "amax":
        raise RuntimeError("segment_reduce: mode 'amax' has no gradient yet")
    index: dict[str, Any] = {"offsets": offsets, "ids": ids}
    x, g = x.float(), grad.float()
    if ctx.mode == "mean":
        ones = x.new_ones((*x.shape[:2], 1)) if weight is None else weight.unsqueeze(-1)
        mass = segment_reduce(ones, **index, segments=ctx.segments, mode="sum")
        g = torch.where(mass == 0, 0.0, g / mass)
    spread = segment_broadcast(g, **index, tokens=x.shape[1])
    grad_weight = None
    if weight is not None and ctx.needs_input_grad[5]:
        grad_weight = (x * spread).sum(-1)
        if ctx.mode == "mean":
            y = segment_reduce(x, **index, segments=ctx.segments, weight=weight)
            grad_weight = grad_weight - segment_broadcast(
                (y * g).sum(-1, keepdim=True), **index, tokens=x.shape[1]
            ).squeeze(-1)
        if grad_mass is not None:
            grad_weight = grad_weight + segment_broadcast(grad_mass.unsqueeze(-1), **index, tokens=x.shape[1]).squeeze(
                -1
            )
    grad_x = spread if weight is None else spread * weight.unsqueeze(-1)
    return grad_x.to(grad.dtype), None, None, None, None, grad_weight


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
    return _segment_reduce(grad, offsets, ids, ctx.segments, "sum", None), None, None, None


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
