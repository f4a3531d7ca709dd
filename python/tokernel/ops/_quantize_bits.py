# SPDX-License-Identifier: Apache-2.0
"""Family quantize as torch ops: signs, grids, buckets and strings of bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokernel.kernels import quantize as kernels
from tokernel.kernels.quantize import Grid
from tokernel.ops._torch_op import define

__all__ = ["bucketize", "fsq_decode", "fsq_encode", "pack_bits", "sign_pack", "sign_unpack", "unpack_bits"]


def _rows(x: Tensor) -> Tensor:
    """Fold outer dimensions into the one that a batch rule knows."""
    return x if x.dim() < 1 else x.reshape(x.shape[:-1].numel(), x.shape[-1])


# ---- grids ---------------------------------------------------------------------------------------------------------
_GridArgs = tuple[Tensor, list[int], bool, bool]


def _fsq_encode_fake(z: Tensor, levels: list[int], symmetric: bool, hard_clamp: bool) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape), z.new_empty(z.shape[:-1], dtype=torch.int64)


def _save_grid(ctx: Any, inputs: _GridArgs, output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(inputs[0])
    ctx.grid = inputs[1:]


def _fsq_grads(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None, None, None]:
    return _fsq_encode_backward(grad, *ctx.saved_tensors, *ctx.grid), None, None, None


def _fsq_encode_kernel(z: Tensor, levels: list[int], symmetric: bool, hard_clamp: bool) -> tuple[Tensor, Tensor]:
    codes, index = kernels.fsq_encode(z, levels, symmetric, hard_clamp)
    return codes, index


_fsq_encode = define(
    "fsq_encode(Tensor z, int[] levels, bool symmetric, bool hard_clamp) -> (Tensor, Tensor)",
    _fsq_encode_kernel,
    _fsq_encode_fake,
    setup=_save_grid,
    backward=_fsq_grads,
)


def _save_grid_backward(ctx: Any, inputs: tuple[Tensor, Tensor, list[int], bool, bool], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.grid = inputs[2:]


def _slopes(levels: list[int], symmetric: bool) -> tuple[list[float], list[float]]:
    """The slope and the shift of every dimension before tanh."""
    if symmetric:
        return [1.0] * len(levels), [0.0] * len(levels)
    scales = [1.001 * (count - 1) / 2 for count in levels]
    shifts = [math.atanh(0.5 / h) if count % 2 == 0 else 0.0 for count, h in zip(levels, scales, strict=True)]
    return [h / (count // 2) for count, h in zip(levels, scales, strict=True)], shifts


def _fsq_second(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
    grad, z = ctx.saved_tensors
    levels, symmetric, hard_clamp = ctx.grid
    to_grad = _fsq_encode_backward(u, z, levels, symmetric, hard_clamp)
    if hard_clamp:  # a slope that is constant almost everywhere
        return to_grad, torch.zeros_like(z), None, None, None
    slope, shift = (z.new_tensor(values, dtype=torch.float32) for values in _slopes(levels, symmetric))
    t = torch.tanh(z.float() + shift)
    to_z = u.float() * grad.float() * slope * (-2 * t) * (1 - t * t)
    return to_grad, to_z.to(z.dtype), None, None, None


_fsq_encode_backward = define(
    "fsq_encode_backward(Tensor grad, Tensor z, int[] levels, bool symmetric, bool hard_clamp) -> Tensor",
    kernels.fsq_encode_backward,
    lambda grad, z, levels, symmetric, hard_clamp: z.new_empty(z.shape),
    setup=_save_grid_backward,
    backward=_fsq_second,
)
_fsq_decode = define(
    "fsq_decode(Tensor index, int[] levels, bool symmetric, ScalarType dtype) -> Tensor",
    kernels.fsq_decode,
    lambda index, levels, symmetric, dtype: index.new_empty((*index.shape, len(levels)), dtype=dtype),
)


def fsq_encode(z: Tensor, levels: Sequence[int], symmetric: bool = False, hard_clamp: bool = False) -> Grid:
    """Round every dimension to one of its levels and count the cells of the grid. Torch form of
    :func:`tokernel.kernels.quantize.fsq_encode`, which states the formulas, the order of the digits and NaN.

    Args:
        z: (..., D) float32, float16 or bfloat16.
        levels: the D numbers of levels, 3 (symmetric: 2) to 65536 each, of a product below 2^63.
        symmetric: levels that mirror each other around zero for even L too.
        hard_clamp: clamp instead of tanh.

    Returns:
        codes (..., D), differentiable in z straight through the rounding, and index (...) int64.

    >>> fsq_encode(torch.tensor([[-9.0, 0.0, 9.0]]), [5, 5, 4])
    Grid(codes=tensor([[-1.0000,  0.0000,  0.5000]]), index=tensor([85]))
    """
    codes, index = _fsq_encode(_rows(z), list(levels), symmetric, hard_clamp)
    return Grid(codes.reshape(z.shape), index.reshape(z.shape[:-1]))


def fsq_decode(
    index: Tensor, levels: Sequence[int], symmetric: bool = False, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Read the codes of an index of :func:`fsq_encode`. Torch form of :func:`tokernel.kernels.quantize.fsq_decode`.

    Args:
        index: (...) int64 or int32, in [0, product of the levels).
        levels: as :func:`fsq_encode` takes them.
        symmetric: as :func:`fsq_encode` took it.
        dtype: float32, float16 or bfloat16.

    Returns:
        (..., D) of dtype.

    >>> fsq_decode(torch.tensor([85]), [5, 5, 4])
    tensor([[-1.0000,  0.0000,  0.5000]])
    """
    codes: Tensor = _fsq_decode(index.reshape(-1), list(levels), symmetric, dtype)
    return codes.reshape(*index.shape, len(levels))


# ---- signs ---------------------------------------------------------------------------------------------------------
def _widths(bits: int | Sequence[int]) -> tuple[list[int], bool]:
    """What the schema of an op can say: a list, and whether it is one width for all groups."""
    return ([bits], True) if isinstance(bits, int) else (list(bits), False)


def _given(bits: list[int], all_equal: bool) -> int | list[int]:
    return bits[0] if all_equal else bits


def _sign_pack_kernel(x: Tensor, bits: list[int], all_equal: bool, order: str) -> Tensor:
    ids: Tensor = kernels.sign_pack(x, _given(bits, all_equal), order)
    return ids


def _sign_pack_fake(x: Tensor, bits: list[int], all_equal: bool, order: str) -> Tensor:
    groups = x.shape[-1] // bits[0] if all_equal else len(bits)
    return x.new_empty((*x.shape[:-1], groups), dtype=torch.int64)


def _sign_unpack_kernel(
    ids: Tensor, bits: list[int], all_equal: bool, order: str, scale: float, dtype: torch.dtype
) -> Tensor:
    x: Tensor = kernels.sign_unpack(ids, _given(bits, all_equal), order, scale, dtype)
    return x


def _sign_unpack_fake(
    ids: Tensor, bits: list[int], all_equal: bool, order: str, scale: float, dtype: torch.dtype
) -> Tensor:
    channels = ids.shape[-1] * bits[0] if all_equal else sum(bits)
    return ids.new_empty((*ids.shape[:-1], channels), dtype=dtype)


_sign_pack = define(
    "sign_pack(Tensor x, int[] bits, bool all_equal, str order) -> Tensor", _sign_pack_kernel, _sign_pack_fake
)
_sign_unpack = define(
    "sign_unpack(Tensor ids, int[] bits, bool all_equal, str order, float scale, ScalarType dtype) -> Tensor",
    _sign_unpack_kernel,
    _sign_unpack_fake,
)


def sign_pack(x: Tensor, bits: int | Sequence[int], order: str = "lsb") -> Tensor:
    """Make one number of the signs of every group of neighbouring channels. Torch form of
    :func:`tokernel.kernels.quantize.sign_pack`, without gradient.

    Args:
        x: (..., C) float32, float16 or bfloat16.
        bits: how many channels a group has, 1 to 63, a divisor of C; or the widths of all groups.
        order: "lsb" or "msb": whether the first channel of a group is its lowest or its highest bit.

    Returns:
        (..., G) int64.

    >>> sign_pack(torch.tensor([1.0, -2.0, 0.5, -1.0, 0.0, 3.0]), 3)
    tensor([5, 4])
    """
    ids: Tensor = _sign_pack(_rows(x.detach()), *_widths(bits), order)
    return ids.reshape(*x.shape[:-1], ids.shape[-1])


def sign_unpack(
    ids: Tensor,
    bits: int | Sequence[int],
    order: str = "lsb",
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Read the channels that :func:`sign_pack` made ids of, as +scale and -scale. Torch form of
    :func:`tokernel.kernels.quantize.sign_unpack`.

    Args:
        ids: (..., G) int64 or int32, each in [0, 2^width).
        bits: the width of every group, or the widths of all G.
        order: as :func:`sign_pack` took it.
        scale: of the channels.
        dtype: float32, float16 or bfloat16.

    Returns:
        (..., C) of dtype.

    >>> sign_unpack(torch.tensor([5, 4]), 3)
    tensor([ 1., -1.,  1., -1., -1.,  1.])
    """
    x: Tensor = _sign_unpack(_rows(ids), *_widths(bits), order, scale, dtype)
    return x.reshape(*ids.shape[:-1], x.shape[-1])


# ---- buckets and strings of bits -----------------------------------------------------------------------------------
_bucketize = define(
    "bucketize(Tensor x, Tensor boundaries, ScalarType dtype) -> Tensor",
    kernels.bucketize,
    lambda x, boundaries, dtype: x.new_empty(x.shape, dtype=dtype),
    shared=(1,),
)
_pack_bits = define(
    "pack_bits(Tensor ids, int bits) -> Tensor",
    kernels.pack_bits,
    lambda ids, bits: ids.new_empty((*ids.shape[:-1], (ids.shape[-1] * bits + 7) // 8), dtype=torch.uint8),
)
_unpack_bits = define(
    "unpack_bits(Tensor bytes, int bits, SymInt count) -> Tensor",
    kernels.unpack_bits,
    lambda bytes, bits, count: bytes.new_empty((*bytes.shape[:-1], count), dtype=torch.int64),
)


def bucketize(x: Tensor, boundaries: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
    """Count the boundaries below every value. Torch form of :func:`tokernel.kernels.quantize.bucketize`, without
    gradient.

    Args:
        x: (...) float32, float16 or bfloat16.
        boundaries: (M,) float32, ascending.
        dtype: int64, or uint8 for up to 255 boundaries.

    Returns:
        of the shape of x, in [0, M]; NaN is in the last bucket.

    >>> bucketize(torch.tensor([-1.0, 0.5, 0.6]), torch.tensor([0.0, 0.5]))
    tensor([0, 1, 2])
    """
    index: Tensor = _bucketize(x.detach().reshape(-1), boundaries.detach(), dtype)
    return index.reshape(x.shape)


def pack_bits(ids: Tensor, bits: int) -> Tensor:
    """Write the ids of every row as a string of bits. Torch form of :func:`tokernel.kernels.quantize.pack_bits`.

    Args:
        ids: (..., M) int64 or int32, each in [0, 2^bits).
        bits: 1 to 16.

    Returns:
        (..., ceil(M * bits / 8)) uint8.

    >>> pack_bits(torch.tensor([1, 2, 3]), 10)
    tensor([ 1,  8, 48,  0], dtype=torch.uint8)
    """
    packed: Tensor = _pack_bits(_rows(ids), bits)
    return packed.reshape(*ids.shape[:-1], packed.shape[-1])


def unpack_bits(bytes: Tensor, bits: int, count: int) -> Tensor:
    """Read the ids that :func:`pack_bits` wrote. Torch form of :func:`tokernel.kernels.quantize.unpack_bits`.

    Args:
        bytes: (..., ceil(count * bits / 8)) uint8.
        bits: 1 to 16.
        count: how many ids a row holds.

    Returns:
        (..., count) int64.

    >>> unpack_bits(torch.tensor([1, 8, 48, 0], dtype=torch.uint8), 10, 3)
    tensor([1, 2, 3])
    """
    ids: Tensor = _unpack_bits(_rows(bytes), bits, count)
    return ids.reshape(*bytes.shape[:-1], count)
