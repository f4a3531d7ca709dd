# SPDX-License-Identifier: Apache-2.0
"""Family attention as torch ops: the core, differentiable in q, k, v and the bias of keys."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from tokernel.kernels._arrays import extension_of
from tokernel.kernels.attention import Dense, Policy
from tokernel.kernels.attention._map import Extras, extras_of
from tokernel.kernels.attention._order import Reordering
from tokernel.kernels.attention._sorted import sorted_attention
from tokernel.ops import _attention_map
from tokernel.ops._attention_map import MOVES
from tokernel.ops._attention_parts import MOST_ARRAYS, arrays_given, spread_parts
from tokernel.ops._torch_op import define

__all__ = ["attention"]


def _attention_kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kind: str,
    numbers: list[int],
    first: Tensor | None,
    second: Tensor | None,
    third: Tensor | None,
    key_bias: Tensor | None,
    scale: float | None,
    extra: float,
    with_lse: bool,
) -> Any:
    extension = extension_of("attention", "q", q)
    parts = (kind, tuple(numbers), arrays_given(first, second, third))
    results = extension.attention(q, k, v, *parts, key_bias, scale, extra, with_lse, None, None)
    return results if with_lse else (results, _nothing(q))


def _nothing(q: Tensor) -> Tensor:
    """Stand in for a result that nobody asked for."""
    return q.new_empty((0,), dtype=torch.float32)


def _attention_fake(q: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    with_lse = args[-1]
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=wide) if with_lse else _nothing(q)


def _attention_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.kind, ctx.numbers, first, second, third, key_bias, ctx.scale, ctx.extra, ctx.with_lse = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, *output, first, second, third, key_bias)


def _attention_grads(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None) -> tuple[Any, ...]:
    q, k, v, out, lse, *arrays, key_bias = ctx.saved_tensors
    policy = (ctx.kind, ctx.numbers, *arrays)
    if not ctx.with_lse:  # a transform hid from the caller that there will be a gradient
        lse, grad_lse = _attention(q, k, v, *policy, key_bias, ctx.scale, ctx.extra, True)[1], None
    grad = torch.zeros_like(out) if grad is None else grad.contiguous()
    grad_lse = None if grad_lse is None else grad_lse.contiguous()
    grads = _attention_backward(grad, q, k, v, out, lse, grad_lse, *policy, key_bias, ctx.scale)
    no_gradient = (None,) * (2 + MOST_ARRAYS)  # of the policy
    return *grads[:3], *no_gradient, None if key_bias is None else grads[3], None, None, None


_attention = define(
    "attention(Tensor q, Tensor k, Tensor v, str kind, SymInt[] numbers, Tensor? first, Tensor? second, "
    "Tensor? third, Tensor? key_bias, float? scale, float extra, bool with_lse) -> (Tensor, Tensor)",
    _attention_kernel,
    _attention_fake,
    setup=_attention_setup,
    backward=_attention_grads,
    batched=False,
)


def _attention_backward_kernel(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    grad_lse: Tensor | None,
    kind: str,
    numbers: list[int],
    first: Tensor | None,
    second: Tensor | None,
    third: Tensor | None,
    key_bias: Tensor | None,
    scale: float | None,
) -> Any:
    extension = extension_of("attention_backward", "q", q)
    parts = (kind, tuple(numbers), arrays_given(first, second, third))
    grads = extension.attention_backward(grad, q, k, v, o, lse, grad_lse, *parts, key_bias, scale)
    return grads if key_bias is not None else (*grads, _nothing(q))


def _attention_backward_fake(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *args: Any) -> tuple[Tensor, ...]:
    key_bias = args[-2]
    grad_bias = _nothing(q) if key_bias is None else key_bias.new_empty(key_bias.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), grad_bias


def _no_second_gradient(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError("attention: its gradient has no gradient of its own; differentiate without create_graph")


_attention_backward = define(
    "attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse, Tensor? grad_lse, str kind, "
    "SymInt[] numbers, Tensor? first, Tensor? second, Tensor? third, Tensor? key_bias, float? scale) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _attention_backward_kernel,
    _attention_backward_fake,
    backward=_no_second_gradient,
    batched=False,
)

_DENSE = Dense()


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    policy: Policy = ...,
    *,
    scale: float | None = ...,
    key_bias: Tensor | None = ...,
    return_lse: Literal[False] = ...,
    extras: None = ...,
    extra_denominator: float = ...,
) -> Tensor: ...


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    policy: Policy = ...,
    *,
    scale: float | None = ...,
    key_bias: Tensor | None = ...,
    return_lse: Literal[True],
    extras: None = ...,
    extra_denominator: float = ...,
) -> tuple[Tensor, Tensor]: ...


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    policy: Policy = ...,
    *,
    scale: float | None = ...,
    key_bias: Tensor | None = ...,
    return_lse: bool = ...,
    extras: Extras,
    extra_denominator: float = ...,
) -> tuple[Any, ...]: ...


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    policy: Policy = _DENSE,
    *,
    scale: float | None = None,
    key_bias: Tensor | None = None,
    return_lse: bool = False,
    extras: Extras | None = None,
    extra_denominator: float = 0.0,
) -> Tensor | tuple[Any, ...]:
    """Attend. Torch form of :func:`tokernel.kernels.attention.attention`.

    ``o_i = sum_j p_ij v_j``, ``p_ij = exp(s_ij) / (extra + sum_j' exp(s_ij'))``, ``s_ij = scale * <q_i, k_j> +
    key_bias_j``, over the keys that the policy lets query i see. A query without keys, or whose scores are all -inf,
    gives zeros, lse -inf (log of the extra denominator, if there is one) and no gradient. A NaN makes those answers
    and gradients NaN that it is part of, and no others. Half-precision inputs: scores and sums in float32.

    Differentiable in q, k, v, key_bias, and through lse where it is returned; the tensors of a policy carry no
    gradient. The gradient is the kernel :func:`tokernel.kernels.attention.attention_backward`, which computes the map
    again; it has no gradient of its own. Where no gradient is needed, lse is computed only on request. Autocast changes
    no dtype here: q, k and v must come in one dtype, and are computed in it.

    Args:
        q: (B, H, Nq, D) float32, float16 or bfloat16 (float64 on backend ref), D from 1 to 256; any outer strides.
        k: (B, G, Nk, D) of the dtype of q; H is a multiple of G, and query head h reads head ``h // (H // G)``.
        v: (B, G, Nk, D) of the dtype of q.
        policy: who sees whom; :class:`Dense`, :class:`Causal`, :class:`BlockMap`, ...
        scale: of the products; None is ``D ** -0.5``.
        key_bias: (B, H, Nk) float32 added to the scores of a key, extents of 1 in front serve all; -inf hides a key.
        return_lse: also return ``log(extra + sum_j exp(s_ij))``.
        extras: also return rows or column sums of the map, see :class:`Extras`; without gradient.
        extra_denominator: 1 is softmax1: a query may attend to nothing.

    Returns:
        (B, H, Nq, D) of the dtype of q; with return_lse a (B, H, Nq) float32 tensor besides; with extras an
        :class:`ExtrasResult` besides.

    Raises:
        ValueError: a rank or extent does not fit; the policy does not fit the extents; D is outside [1, 256].
        TypeError: not a tensor, or a dtype that is not listed.
        RuntimeError: a second derivative is asked for.

    >>> import torch
    >>> from tokernel.ops import Causal
    >>> q = torch.zeros(1, 1, 2, 4)
    >>> v = torch.arange(8.0).reshape(1, 1, 2, 4).requires_grad_()
    >>> o = attention(q, q, v, Causal())
    >>> o
    tensor([[[[0., 1., 2., 3.],
              [2., 3., 4., 5.]]]], grad_fn=<attention_functionBackward>)
    >>> o.sum().backward()
    >>> v.grad[0, 0, :, 0]
    tensor([1.5000, 0.5000])
    """
    if extras is not None:
        out, lse = attention(
            q, k, v, policy, scale=scale, key_bias=key_bias, return_lse=True, extra_denominator=extra_denominator
        )
        more = extras_of(q, k, lse, policy, extras, scale, key_bias, _attention_map)
        return (out, lse, more) if return_lse else (out, more)
    if isinstance(policy, Reordering):
        options = {
            "scale": scale,
            "key_bias": key_bias,
            "return_lse": return_lse,
            "extra_denominator": extra_denominator,
        }
        results: Tensor | tuple[Tensor, Tensor] = sorted_attention(attention, MOVES, (q, k, v), policy, options)
        return results
    parts = spread_parts("attention", policy, q, k)
    with_lse = return_lse or _needs_gradient(q, k, v, key_bias)
    out, lse = _attention(q, k, v, *parts, key_bias, scale, extra_denominator, with_lse)
    return (out, lse) if return_lse else out


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
