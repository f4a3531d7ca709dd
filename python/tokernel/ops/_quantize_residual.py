# SPDX-License-Identifier: Apache-2.0
"""Family quantize as torch ops: stacks of codebooks, and how gradients pass a choice of codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.kernels import quantize as kernels
from tokernel.kernels.quantize import Residual
from tokernel.ops._torch_op import define

__all__ = ["lookup", "rotate_to", "rvq_decode", "rvq_encode", "straight_through"]


# ---- lookup: books (Q, K, D), indices (Q, N) ------------------------------------------------------------------------
def _lookup_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    codes, index = inputs
    ctx.save_for_backward(index)
    ctx.codes = codes.shape[1]


def _lookup_grads(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _lookup_backward(grad.contiguous(), *ctx.saved_tensors, ctx.codes), None


def _lookup_backward_grads(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return _lookup(grad, *ctx.saved_tensors), None, None


def _save_index(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


_lookup = define(
    "lookup(Tensor codes, Tensor index) -> Tensor",
    kernels.lookup,
    lambda codes, index: codes.new_empty((*index.shape, codes.shape[2])),
    setup=_lookup_setup,
    backward=_lookup_grads,
)
_lookup_backward = define(
    "lookup_backward(Tensor grad, Tensor index, SymInt K) -> Tensor",
    lambda grad, index, k: kernels.lookup_backward(grad, index, k, True),
    lambda grad, index, k: grad.new_empty((grad.shape[0], k, grad.shape[2])),
    setup=_save_index,
    backward=_lookup_backward_grads,
)


def lookup(codes: Tensor, index: Tensor) -> Tensor:
    """Read codes: ``out[...] = codes[index[...]]``; -1 gives zeros. Torch form of
    :func:`tokernel.kernels.quantize.lookup`.

    Args:
        codes: (K, D) or (Q, K, D) float32, float16 or bfloat16.
        index: int64 or int32 in [-1, K), of any dimensions, the first of them Q where there are several books.

    Returns:
        The shape of index and D, of the dtype of codes; differentiable in codes, whose gradient is summed in ascending
        position.

    >>> lookup(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, -1]))
    tensor([[3., 4.],
            [0., 0.]])
    """
    batched = codes.dim() == 3
    books = codes if batched else codes[None]
    rows = index.reshape(index.shape[0], -1) if batched and index.numel() else index.reshape(books.shape[0], -1)
    out: Tensor = _lookup(books, rows)
    return out.reshape(*index.shape, codes.shape[-1])


# ---- rows (N, D) moved onto their codes -----------------------------------------------------------------------------
def _same_shape(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _rotate_setup(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.eps = inputs[2]


def _rotate_grads(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return _rotate_to_backward(grad.contiguous(), *ctx.saved_tensors, ctx.eps), None, None


_rotate_to_backward = define(
    "rotate_to_backward(Tensor grad, Tensor x, Tensor q, float eps) -> Tensor", kernels.rotate_to_backward, _same_shape
)
_rotate_to = define(
    "rotate_to(Tensor x, Tensor q, float eps) -> Tensor",
    kernels.rotate_to,
    _same_shape,
    setup=_rotate_setup,
    backward=_rotate_grads,
)


def rotate_to(x: Tensor, q: Tensor, eps: float = 1e-6) -> Tensor:
    """Turn and stretch every x onto its q (the rotation trick). Torch form of
    :func:`tokernel.kernels.quantize.rotate_to`, which states the formula.

    Args:
        x: (..., D) float32, float16 or bfloat16.
        q: of the shape and dtype of x.
        eps: least length that is told from zero.

    Returns:
        q, by way of x: the gradient reaches x turned back and stretched by ``|q| / |x|``; q gets none.

    >>> x = torch.tensor([3.0, 0.0], requires_grad=True)
    >>> rotate_to(x, torch.tensor([0.0, 6.0])).backward(torch.tensor([0.0, 1.0]))
    >>> x.grad
    tensor([2., 0.])
    """
    if x.dim() == 2:
        out: Tensor = _rotate_to(x, q, eps)
        return out
    if x.dim() == 0 or x.shape != q.shape:
        raise ValueError(f"rotate_to: q must be of the shape of x, (..., D), got {tuple(q.shape)} for {tuple(x.shape)}")
    rows: Tensor = _rotate_to(x.reshape(-1, x.shape[-1]), q.reshape(-1, x.shape[-1]), eps)
    return rows.reshape(x.shape)


def _straight_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.dtype = inputs[0].dtype


_straight_through = define(
    "straight_through(Tensor x, Tensor q) -> Tensor",
    lambda x, q: q.clone(),
    lambda x, q: q.new_empty(q.shape),
    setup=_straight_setup,
    backward=lambda ctx, grad: (grad.to(ctx.dtype), None),
)


def straight_through(x: Tensor, q: Tensor) -> Tensor:
    """Take the value of q, bit for bit, and hand its gradient to x unchanged; q gets none.

    Args:
        x: any shape and float dtype.
        q: of the shape of x; may be of another dtype (the gradient is converted).

    Returns:
        A copy of q.

    Raises:
        ValueError: the shapes differ.

    >>> x = torch.tensor([0.4, 1.7], requires_grad=True)
    >>> y = straight_through(x, x.round())
    >>> y.sum().backward()
    >>> y, x.grad
    (tensor([0., 2.], grad_fn=<straight_through_functionBackward>), tensor([1., 1.]))
    """
    if x.shape != q.shape:
        raise ValueError(f"straight_through: q must be of the shape of x, {tuple(x.shape)}, got {tuple(q.shape)}")
    out: Tensor = _straight_through(x, q)
    return out


# ---- stacks: rows (G, N, D), books (G, Q, K, D), indices (G, N, Q) ---------------------------------------------------
def _encode_kernel(
    x: Tensor, codes: Tensor, counts: Tensor | None, n_q: int | None, metric: str
) -> tuple[Tensor, Tensor, Tensor]:
    found = kernels.rvq_encode(x, codes, n_q if counts is None else counts, metric)
    return found.quantized, found.error, found.index


def _encode_fake(
    x: Tensor, codes: Tensor, counts: Tensor | None, n_q: int | None, metric: str
) -> tuple[Tensor, Tensor, Tensor]:
    layers = (*x.shape[:-1], codes.shape[-3])
    quantized, error = (x.new_empty(shape, dtype=torch.float32) for shape in (x.shape, layers))
    return quantized, error, x.new_empty(layers, dtype=torch.int64)


_rvq_encode = define(
    "rvq_encode(Tensor x, Tensor codes, Tensor? counts, SymInt? n_q, str metric) -> (Tensor, Tensor, Tensor)",
    _encode_kernel,
    _encode_fake,
    shared=(2,),
)


def rvq_encode(x: Tensor, codes: Tensor, n_q: int | Tensor | None = None, metric: str = "l2") -> Residual:
    """Quantize rows by a stack of codebooks, each of which sees what those before it left over. Torch form of
    :func:`tokernel.kernels.quantize.rvq_encode`, which states ties, NaN and what float32 means; without gradient.

    Args:
        x: (N, D) or (G, N, D) float32, float16 or bfloat16, strided views included.
        codes: (Q, K, D) or (G, Q, K, D) of the dtype of x, K at least 1.
        n_q: layers that are used: a number, or one for each row, (N) or (G, N); None for all.
        metric: "l2" or "cosine".

    Returns:
        Residual of index (..., N, Q) int64, quantized (..., N, D) float32 and error (..., N, Q) float32.

    >>> books = torch.tensor([[[0.0], [8.0]], [[-1.0], [1.0]]])
    >>> rvq_encode(torch.tensor([[6.5], [0.25]]), books).index
    tensor([[1, 0],
            [0, 1]])
    """
    counts, layers = (n_q, None) if isinstance(n_q, Tensor) else (None, n_q)
    x, codes = x.detach(), codes.detach()
    if x.dim() == 3:
        quantized, error, index = _rvq_encode(x, codes, counts, layers, metric)
        return Residual(index, quantized, error)
    quantized, error, index = _rvq_encode(x[None], codes[None], counts, layers, metric)
    return Residual(index[0], quantized[0], error[0])


def _decode_setup(ctx: Any, inputs: tuple[Tensor, Tensor, int | None], output: Tensor) -> None:
    index, codes, ctx.n_q = inputs
    ctx.save_for_backward(index)
    ctx.codes = codes.shape[2]


def _decode_grads(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
    return None, _rvq_decode_backward(grad.contiguous(), *ctx.saved_tensors, ctx.codes, ctx.n_q), None


def _decode_backward_setup(ctx: Any, inputs: tuple[Tensor, Tensor, int, int | None], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.n_q = inputs[3]


def _decode_backward_grads(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return _rvq_decode(*ctx.saved_tensors, grad, ctx.n_q), None, None, None


_rvq_decode = define(
    "rvq_decode(Tensor index, Tensor codes, SymInt? n_q) -> Tensor",
    kernels.rvq_decode,
    lambda index, codes, n_q: codes.new_empty((*index.shape[:-1], codes.shape[-1])),
    setup=_decode_setup,
    backward=_decode_grads,
)
_rvq_decode_backward = define(
    "rvq_decode_backward(Tensor grad, Tensor index, SymInt K, SymInt? n_q) -> Tensor",
    kernels.rvq_decode_backward,
    lambda grad, index, k, n_q: grad.new_empty((grad.shape[0], index.shape[-1], k, grad.shape[-1])),
    setup=_decode_backward_setup,
    backward=_decode_backward_grads,
)


def rvq_decode(index: Tensor, codes: Tensor, n_q: int | None = None) -> Tensor:
    """Add up the codes of a stack, -1 adding nothing. Torch form of :func:`tokernel.kernels.quantize.rvq_decode`.

    Args:
        index: (N, Q) or (G, N, Q) int64 or int32 in [-1, K).
        codes: (Q, K, D) or (G, Q, K, D) float32, float16 or bfloat16.
        n_q: layers that are added; None for all.

    Returns:
        (N, D) or (G, N, D) of the dtype of codes, summed in float32; differentiable in codes.

    >>> books = torch.tensor([[[0.0], [8.0]], [[-1.0], [1.0]]])
    >>> rvq_decode(torch.tensor([[1, 0], [1, -1]]), books)
    tensor([[7.],
            [8.]])
    """
    if index.dim() == 3:
        out: Tensor = _rvq_decode(index, codes, n_q)
        return out
    one: Tensor = _rvq_decode(index[None], codes[None], n_q)
    return one[0]
