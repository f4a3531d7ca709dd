# SPDX-License-Identifier: Apache-2.0
"""Family attention as torch ops: attention over places that share their tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.kernels._arrays import extension_of
from tokernel.kernels.attention import Causal, Dense, Policy, PrefixCausal
from tokernel.ops._attention import attention
from tokernel.ops._torch_op import define

__all__ = ["gathered_rope_attention", "rope_gather", "rope_scatter"]


def _gather_kernel(x: Tensor, index: Tensor, cos: Tensor | None, sin: Tensor | None) -> Any:
    return extension_of("rope_gather", "x", x).rope_gather(x, index, cos, sin, None)


def _gather_fake(x: Tensor, index: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:2], index.shape[-1], x.shape[3]))


def _gather_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, index, cos, sin = inputs
    ctx.save_for_backward(index, cos, sin)
    ctx.rows = x.shape[2]


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    index, cos, sin = ctx.saved_tensors
    return _rope_scatter(grad, index, ctx.rows, cos, sin, False), None, None, None


def _scatter_kernel(x: Tensor, index: Tensor, rows: int, cos: Tensor | None, sin: Tensor | None, mean: bool) -> Any:
    return extension_of("rope_scatter", "x", x).rope_scatter(x, index, rows, cos, sin, mean, None)


def _scatter_fake(x: Tensor, index: Tensor, rows: int, cos: Tensor | None, sin: Tensor | None, mean: bool) -> Tensor:
    return x.new_empty((*x.shape[:2], rows, x.shape[3]))


def _scatter_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, index, ctx.rows, cos, sin, ctx.mean = inputs
    ctx.save_for_backward(index, cos, sin)


def _scatter_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    index, cos, sin = ctx.saved_tensors
    if ctx.mean:
        named = torch.zeros((*index.shape[:-1], ctx.rows), device=index.device)
        named = named.scatter_add(-1, index.long(), torch.ones(index.shape, device=index.device))
        counts = named.clamp(min=1).reshape(-1, 1, ctx.rows, 1)
        grad = (grad.float() / counts).to(grad.dtype)
    return _rope_gather(grad, index, cos, sin), None, None, None, None, None


_rope_gather = define(
    "rope_gather(Tensor x, Tensor index, Tensor? cos, Tensor? sin) -> Tensor",
    _gather_kernel,
    _gather_fake,
    setup=_gather_setup,
    backward=_gather_backward,
    batched=False,
)
_rope_scatter = define(
    "rope_scatter(Tensor x, Tensor index, SymInt rows, Tensor? cos, Tensor? sin, bool mean) -> Tensor",
    _scatter_kernel,
    _scatter_fake,
    setup=_scatter_setup,
    backward=_scatter_backward,
    batched=False,
)


def rope_gather(x: Tensor, index: Tensor, cos: Tensor | None = None, sin: Tensor | None = None) -> Tensor:
    """Pick rows and turn them, as :func:`tokernel.kernels.attention.rope_gather`; differentiable in x.

    >>> import torch
    >>> rope_gather(torch.arange(4.0).reshape(1, 1, 2, 2), torch.tensor([1, 1, 0]))[0, 0]
    tensor([[2., 3.],
            [2., 3.],
            [0., 1.]])
    """
    out: Tensor = _rope_gather(x, index, cos, sin)
    return out


def rope_scatter(
    x: Tensor,
    index: Tensor,
    rows: int,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    *,
    mean: bool = False,
) -> Tensor:
    """Bring rows back, as :func:`tokernel.kernels.attention.rope_scatter`; differentiable in x.

    >>> import torch
    >>> rope_scatter(torch.arange(6.0).reshape(1, 1, 3, 2), torch.tensor([1, 1, 0]), 2, mean=True)[0, 0]
    tensor([[4., 5.],
            [1., 2.]])
    """
    out: Tensor = _rope_scatter(x, index, rows, cos, sin, mean)
    return out


_CAUSAL = Causal()
_TURNED_BYTES = 3 << 20


def gathered_rope_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    policy: Policy = _CAUSAL,
    *,
    scale: float | None = None,
    remerge: bool = True,
) -> Tensor:
    """Attend over N places that share U tokens, as :func:`tokernel.kernels.attention.gathered_rope_attention`.

    Differentiable in q, k and v. On the CPU, where no gradient is asked for and the policy is the same for all heads
    (Causal, Dense, PrefixCausal), the heads are taken a few at a time, so that 3 MiB of turned rows are held at once.

    >>> import torch
    >>> x = torch.eye(2).reshape(1, 1, 2, 2)
    >>> gathered_rope_attention(x, x, x, torch.tensor([0, 0, 1]), remerge=False).shape
    torch.Size([1, 1, 3, 2])
    """
    step = _groups_at_once(q, k, v, index, policy)
    if step is None:
        return _attend(q, k, v, index, cos, sin, policy, scale, remerge)
    share = q.shape[1] // k.shape[1]
    out = q.new_empty((*q.shape[:2], q.shape[2] if remerge else index.shape[-1], q.shape[3]))
    for g in range(0, k.shape[1], step):
        own, shared = slice(g * share, (g + step) * share), slice(g, g + step)
        out[:, own] = _attend(q[:, own], k[:, shared], v[:, shared], index, cos, sin, policy, scale, remerge)
    return out


def _groups_at_once(q: Tensor, k: Tensor, v: Tensor, index: Tensor, policy: Policy) -> int | None:
    """How many groups of heads to take at a time; None for all, also where the arguments are wrong: the ops say how."""
    kept = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if kept or q.device.type != "cpu" or not isinstance(policy, (Causal, Dense, PrefixCausal)):
        return None
    if q.dim() != 4 or k.dim() != 4 or k.shape != v.shape or not k.shape[1] or q.shape[1] % k.shape[1]:
        return None
    groups = k.shape[1]
    # Of each group, turned keys and values, and of its heads turned queries and their answers.
    rows = q.shape[0] * index.shape[-1] * 2 * (1 + q.shape[1] // groups)
    parts = -(-groups * rows * q.shape[3] * q.element_size() // _TURNED_BYTES)
    return None if parts <= 1 else -(-groups // min(parts, groups))


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    policy: Policy,
    scale: float | None,
    remerge: bool,
) -> Tensor:
    query = rope_gather(q, index, cos, sin)
    key = rope_gather(k, index, cos, sin)
    out: Tensor = attention(query, key, rope_gather(v, index), policy, scale=scale)
    return rope_scatter(out, index, q.shape[2], mean=True) if remerge else out
