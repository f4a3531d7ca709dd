# SPDX-License-Identifier: Apache-2.0
"""Family quantize as torch ops: how evenly codes are used, softly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.kernels import quantize as kernels
from tokernel.kernels.quantize import CodebookEntropy, CodebookLse
from tokernel.ops._torch_op import define

__all__ = ["bit_entropy", "codebook_entropy", "codebook_lse", "subcode_histogram"]

_Three = tuple[Tensor, Tensor, Tensor]


def _books(x: Tensor, codes: Tensor) -> tuple[int, ...]:
    return tuple(x.shape[:-2]) or tuple(codes.shape[:-2])


def _entropy_fake(
    x: Tensor,
    codes: Tensor,
    inv_temperature: float,
    metric: str,
    weight: Tensor | None,
    log_add: float,
    log_floor: float,
) -> _Three:
    rows, named = (x.new_empty((*_books(x, codes), y.shape[-2]), dtype=torch.float32) for y in (x, codes))
    return rows, named, torch.empty_like(rows)


def _lse_fake(x: Tensor, codes: Tensor, inv_temperature: float, metric: str) -> _Three:
    lse, best = (x.new_empty((*_books(x, codes), x.shape[-2]), dtype=torch.float32) for _ in range(2))
    return lse, torch.empty_like(lse, dtype=torch.int64), best


def _both_gradients(x: Tensor, codes: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """What is not wanted is an array without elements: the schema knows no absent tensor among outputs."""
    *arguments, need_x, need_codes = rest
    found = kernels.codebook_entropy_backward(x, codes, *arguments, need_x=need_x, need_codes=need_codes)
    grad_x, grad_codes = (x.new_empty(0) if grad is None else grad for grad in found)
    return grad_x, grad_codes


def _both_gradients_fake(x: Tensor, codes: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    books = _books(x, codes)
    grad_x, grad_codes = (
        y.new_empty((*books, *y.shape[-2:]) if need else (0,)) for y, need in zip((x, codes), rest[-2:], strict=True)
    )
    return grad_x, grad_codes


_codebook_entropy_backward = define(
    "codebook_entropy_backward(Tensor x, Tensor codes, Tensor lse, Tensor? grad_entropy, Tensor? grad_mean, "
    "Tensor? grad_lse, float inv_temperature, str metric, Tensor? weight, float log_add, float log_floor, "
    "bool need_x, bool need_codes) -> (Tensor, Tensor)",
    _both_gradients,
    _both_gradients_fake,
    batched=False,
)


def _gradients(
    ctx: Any, grads: tuple[Tensor | None, Tensor | None, Tensor | None], options: tuple[Any, ...]
) -> tuple[Tensor | None, Tensor | None]:
    x, codes, lse, weight = ctx.saved_tensors
    need_x, need_codes = ctx.needs_input_grad[:2]
    inv_temperature, metric, *guards = options
    found = _codebook_entropy_backward(
        x, codes, lse, *grads, inv_temperature, metric, weight, *guards, need_x, need_codes
    )
    grad_x, grad_codes = (_fold_books(grad, y) for grad, y in zip(found, (x, codes), strict=True))
    return (grad_x if need_x else None), (grad_codes if need_codes else None)


def _fold_books(grad: Tensor, like: Tensor) -> Tensor:
    """The gradient of what served all books is the sum over them."""
    return grad.sum(0) if grad.dim() > like.dim() else grad


def _save_entropy(ctx: Any, inputs: tuple[Any, ...], output: _Three) -> None:
    x, codes, inv_temperature, metric, weight, *guards = inputs
    ctx.options = (inv_temperature, metric, *guards)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, codes, output[2], weight)


def _entropy_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 5
    if all(grad is None for grad in grads) or not any(ctx.needs_input_grad[:2]):
        return None, None, *nothing
    return *_gradients(ctx, grads, ctx.options), *nothing  # type: ignore[arg-type]


def _save_lse(ctx: Any, inputs: tuple[Tensor, Tensor, float, str], output: _Three) -> None:
    x, codes, *ctx.options = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.save_for_backward(x, codes, output[0], None)


def _lse_backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None or not any(ctx.needs_input_grad[:2]):
        return None, None, None, None
    return *_gradients(ctx, (None, None, grad), (*ctx.options, 0.0, 0.0)), None, None


_codebook_entropy = define(
    "codebook_entropy(Tensor x, Tensor codes, float inv_temperature, str metric, Tensor? weight, float log_add, "
    "float log_floor) -> (Tensor, Tensor, Tensor)",
    kernels.codebook_entropy,
    _entropy_fake,
    setup=_save_entropy,
    backward=_entropy_backward,
    batched=False,
)
_codebook_lse = define(
    "codebook_lse(Tensor x, Tensor codes, float inv_temperature, str metric) -> (Tensor, Tensor, Tensor)",
    kernels.codebook_lse,
    _lse_fake,
    setup=_save_lse,
    backward=_lse_backward,
    batched=False,
)


def _save_x(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.options = inputs
    ctx.save_for_backward(x)


_bit_entropy_backward = define(
    "bit_entropy_backward(Tensor grad, Tensor x, float slope) -> Tensor",
    kernels.bit_entropy_backward,
    lambda grad, x, slope: x.new_empty(x.shape),
)
_bit_entropy = define(
    "bit_entropy(Tensor x, float slope) -> Tensor",
    kernels.bit_entropy,
    lambda x, slope: x.new_empty(x.shape[:-1], dtype=torch.float32),
    setup=_save_x,
    backward=lambda ctx, grad: (_bit_entropy_backward(grad, ctx.saved_tensors[0], *ctx.options), None),
)
_subcode_histogram_backward = define(
    "subcode_histogram_backward(Tensor grad, Tensor x, float slope, str order, bool pool) -> Tensor",
    kernels.subcode_histogram_backward,
    lambda grad, x, slope, order, pool: x.new_empty(x.shape),
    batched=False,
)


def _histogram_fake(x: Tensor, slope: float, order: str, pool: bool) -> Tensor:
    codes = 2 ** x.shape[-1]
    return x.new_empty((codes,) if pool else (x.shape[1], codes), dtype=torch.float32)


_subcode_histogram = define(
    "subcode_histogram(Tensor x, float slope, str order, bool pool) -> Tensor",
    kernels.subcode_histogram,
    _histogram_fake,
    setup=_save_x,
    backward=lambda ctx, grad: (
        _subcode_histogram_backward(grad, ctx.saved_tensors[0], *ctx.options),
        None,
        None,
        None,
    ),
    batched=False,
)


def codebook_entropy(
    x: Tensor,
    codes: Tensor,
    inv_temperature: float = 1.0,
    metric: str = "dot",
    weight: Tensor | None = None,
    log_add: float = 0.0,
    log_floor: float = 0.0,
) -> CodebookEntropy:
    """Compute the entropy of every row's softmax over the codes, and the mean of these softmaxes, without writing them.
    Torch form of :func:`tokernel.kernels.quantize.codebook_entropy`, which states the formulas, NaN and empty inputs.

    Args:
        x: (N, D) or (Q, N, D) float32, float16 or bfloat16, any outer strides.
        codes: (K, D) or (Q, K, D) of that dtype, K at least 1. What has no books serves all of them.
        inv_temperature: multiplies the scores, in [0, 1e6].
        metric: 'dot', 'l2' or 'cosine'.
        weight: (N) or (Q, N) float32; ones by default. A constant: it has no gradient.
        log_add, log_floor: 0 or in [1e-30, 1].

    Returns:
        CodebookEntropy of entropy (N), mean_prob (K) and lse (N), float32, (Q, ...) with books; all differentiable in x
        and codes. The backward pass makes the probabilities again, tile by tile: nothing of N x K is ever kept.

    >>> found = codebook_entropy(torch.zeros(3, 2), torch.randn(4, 2))
    >>> found.mean_prob
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    return CodebookEntropy(*_codebook_entropy(x, codes, inv_temperature, metric, weight, log_add, log_floor))


def codebook_lse(x: Tensor, codes: Tensor, inv_temperature: float = 1.0, metric: str = "dot") -> CodebookLse:
    """Find the best code of every row and the normaliser of its softmax over all codes, in one pass. Torch form of
    :func:`tokernel.kernels.quantize.codebook_lse`, which states ties and NaN.

    Args:
        x: (N, D) or (Q, N, D) float32, float16 or bfloat16, any outer strides.
        codes: (K, D) or (Q, K, D) of that dtype, K at least 1. What has no books serves all of them.
        inv_temperature: multiplies the scores in lse, in [0, 1e6].
        metric: 'dot', 'l2' or 'cosine'.

    Returns:
        CodebookLse of lse (N), differentiable in x and codes, and the constants index (N) int64 and best (N).

    >>> codebook_lse(torch.tensor([[2.0]]), torch.tensor([[0.0], [1.0], [-1.0]])).index
    tensor([1])
    """
    return CodebookLse(*_codebook_lse(x, codes, inv_temperature, metric))


def bit_entropy(x: Tensor, slope: float) -> Tensor:
    """Compute the entropy of the sign bits of every row. Torch form of :func:`tokernel.kernels.quantize.bit_entropy`.

    Args:
        x: (..., D) float32, float16 or bfloat16.
        slope: in [-1e9, 1e9].

    Returns:
        (...) float32, in [0, D log 2], differentiable in x.

    >>> bit_entropy(torch.tensor([0.0, 1e6]), slope=4.0)
    tensor(0.6931)
    """
    if x.dim() == 0:
        return _bit_entropy(x, slope)  # type: ignore[no-any-return]  # says what is wrong
    rows: Tensor = _bit_entropy(x.reshape(x.shape[:-1].numel(), x.shape[-1]).contiguous(), slope)
    return rows.reshape(x.shape[:-1])


def subcode_histogram(x: Tensor, slope: float, order: str = "lsb", pool: bool = True) -> Tensor:
    """Count softly how often each code of a few sign bits is used. Torch form of
    :func:`tokernel.kernels.quantize.subcode_histogram`, which states the formula, NaN and empty inputs.

    Args:
        x: (N, G, bits) float32, float16 or bfloat16, any outer strides; 1 to 16 bits.
        slope: in [-1e9, 1e9].
        order: 'lsb': bit j is worth 2^j; 'msb': 2^(bits - 1 - j).
        pool: one histogram for all groups, or one for each.

    Returns:
        (2^bits) float32, or (G, 2^bits) without pool, differentiable in x.

    >>> subcode_histogram(torch.zeros(5, 1, 1), slope=4.0)
    tensor([0.5000, 0.5000])
    """
    return _subcode_histogram(x, slope, order, pool)  # type: ignore[no-any-return]
