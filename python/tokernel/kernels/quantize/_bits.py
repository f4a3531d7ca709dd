# SPDX-License-Identifier: Apache-2.0
"""Codes that need no codebook: signs, grids, buckets, and strings of bits that carry ids of any width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tokernel.kernels._arrays import Array, extension_of

__all__ = [
    "Grid",
    "bucketize",
    "fsq_decode",
    "fsq_encode",
    "fsq_encode_backward",
    "pack_bits",
    "sign_pack",
    "sign_unpack",
    "unpack_bits",
]


class Grid(NamedTuple):
    """What :func:`fsq_encode` returns."""

    codes: Array
    index: Array


def _dtype_name(dtype: Any) -> str:
    """The name of a dtype of NumPy or torch, or of a name itself."""
    return str(getattr(dtype, "__name__", dtype)).rpartition(".")[2]


# ---- grids ---------------------------------------------------------------------------------------------------------
def fsq_encode(
    z: Array,
    levels: Sequence[int],
    symmetric: bool = False,
    hard_clamp: bool = False,
    *,
    out: tuple[Array, Array] | None = None,
) -> Grid:
    """Round every dimension to one of its levels (finite scalar quantization) and count the cells of the grid.

    With ``h = 1.001 * (L - 1) / 2``, ``o = 0.5`` for even L and 0 for odd, ``s = atanh(o / h)``::

        level = round(tanh(z + s) * h - o) + L // 2        halves to even
        code  = (level - L // 2) / (L // 2)

    and symmetric, where L may be 2 as well::

        level = floor((L - 1) * (tanh(z) + 1) / 2 + 0.5)
        code  = 2 * level / (L - 1) - 1

    ``index = sum_d level_d * prod_{e < d} L_e``: the first dimension is the least significant digit, and index 0 has
    the lowest level everywhere. A hard clamp takes ``clamp(., -1, 1)`` for tanh and ``s = o / h``; only then are codes
    of up to 1000 levels fixed points, since tanh draws them inwards.

    Codes lie in [-1, 1]; those of an even L that is not symmetric never reach 1. Where no dimension has more than 16
    levels, z is compared with the steps at which the formula changes its level, computed in float64 and rounded to
    float32; otherwise the formula runs in float32 with a tanh of our own, to a relative error of 4e-7. Either way codes
    and indices have the same bits on every backend. NaN has code NaN and counts as level 0. A level that the factor
    1.001 pushes beyond L - 1 (more than 1000 levels) is L - 1. The steps and that cut are ours, not the paper's.

    Args:
        z: (..., D) float32, float16 or bfloat16 of one to four dimensions.
        levels: the D numbers of levels, 3 (symmetric: 2) to 65536 each, of a product below 2^63; D up to 62.
        symmetric: levels that mirror each other around zero for even L too.
        hard_clamp: clamp instead of tanh.
        out: arrays (codes, index) to fill instead of new ones.

    Returns:
        codes (..., D) of the dtype of z; index (...) int64. A single row has an index of shape (1,).

    Raises:
        ValueError: levels too few, too many or of too large a product, or not as many as z has dimensions.
        TypeError: not an array, a dtype that is not listed, or levels that are no integers.

    >>> import numpy as np
    >>> codes, index = fsq_encode(np.array([[-9.0, 0.0, 9.0]], np.float32), [5, 5, 4])
    >>> codes
    array([[-1. ,  0. ,  0.5]], dtype=float32)
    >>> index
    array([85])

    Mentzer et al., arXiv 2309.15505, section 3 and appendix A.1; symmetric: the variant of vector-quantize-pytorch.
    """
    module = extension_of("fsq_encode", "z", z)
    return Grid(*module.fsq_encode(z, levels, symmetric, hard_clamp, *(out or (None, None))))


def fsq_encode_backward(
    grad: Array,
    z: Array,
    levels: Sequence[int],
    symmetric: bool = False,
    hard_clamp: bool = False,
    *,
    out: Array | None = None,
) -> Array:
    """Straight-through gradient of the codes of :func:`fsq_encode`, as if nothing were rounded:
    ``grad * h / (L // 2) * (1 - tanh(z + s)**2)``, or symmetric ``grad * (1 - tanh(z)**2)``.

    A hard clamp has the slope ``h / (L // 2)`` (symmetric: 1) where ``z + s`` is in [-1, 1], and 0 elsewhere and for
    NaN; otherwise NaN propagates. In float32, rounded once.

    Args:
        grad: of the shape and dtype of z.
        z: (..., D) float32, float16 or bfloat16 of one to four dimensions.
        levels: as :func:`fsq_encode` takes them.
        symmetric: as :func:`fsq_encode` took it.
        hard_clamp: as :func:`fsq_encode` took it.
        out: array of the shape and dtype of z to fill instead of a new one.

    Returns:
        array of the shape and dtype of z.

    Raises:
        ValueError: levels or an extent do not fit.
        TypeError: not an array, or a dtype that is not listed or not that of z.

    >>> import numpy as np
    >>> zeros = np.zeros((1, 2), np.float32)
    >>> fsq_encode_backward(zeros + 1, zeros, [5, 3], symmetric=True)
    array([[1., 1.]], dtype=float32)
    """
    module = extension_of("fsq_encode_backward", "grad", grad)
    return module.fsq_encode_backward(grad, z, levels, symmetric, hard_clamp, out)


def fsq_decode(
    index: Array, levels: Sequence[int], symmetric: bool = False, dtype: Any = "float32", *, out: Array | None = None
) -> Array:
    """Read the codes of an index of :func:`fsq_encode`, bit for bit those that it gave for that dtype.

    Args:
        index: (...) int64 or int32 of one to three dimensions, in [0, product of the levels).
        levels: as :func:`fsq_encode` takes them.
        symmetric: as :func:`fsq_encode` took it.
        dtype: float32, float16 or bfloat16, or its name.
        out: array of that dtype and shape (..., D) to fill instead of a new one.

    Returns:
        (..., D) of dtype.

    Raises:
        ValueError: levels do not fit, or an index is out of range (on the host).
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> fsq_decode(np.array([0, 85]), [5, 5, 4])
    array([[-1. , -1. , -1. ],
           [-1. ,  0. ,  0.5]], dtype=float32)

    Mentzer et al., arXiv 2309.15505.
    """
    return extension_of("fsq_decode", "index", index).fsq_decode(index, levels, symmetric, _dtype_name(dtype), out)


# ---- signs ---------------------------------------------------------------------------------------------------------
def sign_pack(x: Array, bits: int | Sequence[int], order: str = "lsb", *, out: Array | None = None) -> Array:
    """Make one number of the signs of every group of neighbouring channels: ``id = sum_j bit_j * 2**j`` with
    ``bit = 1 if x > 0 else 0`` over the channels j of the group.

    Zero of either sign and NaN give 0. Integers only, so that an id is exact for every width.

    Args:
        x: (..., C) float32, float16 or bfloat16 of one to four dimensions.
        bits: how many channels a group has, 1 to 63, a divisor of C; or the widths of up to 128 groups, which add up
            to C.
        order: "lsb": the first channel of a group is its lowest bit (WeTok, Open-MAGVIT2); "msb": its highest
            (vector-quantize-pytorch, BSQ).
        out: array of that shape to fill instead of a new one.

    Returns:
        (..., G) int64, each in [0, 2^width).

    Raises:
        ValueError: a width is not in [1, 63], widths and channels do not fit, or an unknown order.
        TypeError: not an array, a dtype that is not listed, or bits that are no integers.

    >>> import numpy as np
    >>> x = np.array([[1.0, -2.0, 0.5, -1.0, 0.0, 3.0]], np.float32)
    >>> sign_pack(x, 3), sign_pack(x, 3, "msb"), sign_pack(x, [4, 2])
    (array([[5, 4]]), array([[5, 1]]), array([[5, 2]]))

    Lookup-free quantization (arXiv 2310.05737) in the groups of WeTok (arXiv 2508.05599).
    """
    return extension_of("sign_pack", "x", x).sign_pack(x, bits, order, out)


def sign_unpack(
    ids: Array,
    bits: int | Sequence[int],
    order: str = "lsb",
    scale: float = 1.0,
    dtype: Any = "float32",
    *,
    out: Array | None = None,
) -> Array:
    """Read the channels that :func:`sign_pack` made ids of: ``+scale`` where a bit is 1, ``-scale`` where it is 0.

    Args:
        ids: (..., G) int64 or int32 of one to four dimensions, each in [0, 2^width).
        bits: the width of every group, or the widths of all G.
        order: as :func:`sign_pack` took it.
        scale: of the channels, e.g. ``C**-0.5`` for vectors of length one.
        dtype: float32, float16 or bfloat16, or its name.
        out: array of that dtype and shape (..., C) to fill instead of a new one.

    Returns:
        (..., C) of dtype.

    Raises:
        ValueError: a width is not in [1, 63], not as many widths as groups, an id is out of range (on the host), or an
            unknown order.
        TypeError: not an array, a dtype that is not listed, or bits that are no integers.

    >>> import numpy as np
    >>> sign_unpack(np.array([[5, 4]]), 3)
    array([[ 1., -1.,  1., -1., -1.,  1.]], dtype=float32)
    """
    module = extension_of("sign_unpack", "ids", ids)
    return module.sign_unpack(ids, bits, order, scale, _dtype_name(dtype), out)


# ---- buckets -------------------------------------------------------------------------------------------------------
def bucketize(x: Array, boundaries: Array, dtype: Any = "int64", *, out: Array | None = None) -> Array:
    """Count the boundaries below every value: ``index = sum_m [boundaries_m < x]``, in float32.

    A value equal to a boundary is in the lower bucket, NaN in the last one, as ``torch.bucketize`` has it. With the
    midpoints of an ascending table of values as boundaries, index is the nearest value, the lower one at a tie.

    Args:
        x: (...) float32, float16 or bfloat16 of one to four dimensions.
        boundaries: (M,) float32, ascending.
        dtype: int64 or uint8, or its name; uint8 for up to 255 boundaries.
        out: array of that dtype and the shape of x to fill instead of a new one.

    Returns:
        of the shape of x, in [0, M].

    Raises:
        ValueError: boundaries that do not ascend or hold NaN (on the host), or too many for uint8.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> bucketize(np.array([-1.0, 0.5, 0.6, np.nan], np.float32), np.array([0.0, 0.5], np.float32))
    array([0, 1, 2, 2])
    """
    return extension_of("bucketize", "x", x).bucketize(x, boundaries, _dtype_name(dtype), out)


# ---- strings of bits -----------------------------------------------------------------------------------------------
def pack_bits(ids: Array, bits: int, *, out: Array | None = None) -> Array:
    """Write the ids of every row as a string of bits, each `bits` wide and its lowest bit first; bit k of the string is
    bit ``k % 8`` of byte ``k // 8``.

    The last byte of a row is filled up with zeros.

    Args:
        ids: (..., M) int64 or int32 of one to four dimensions, each in [0, 2^bits).
        bits: 1 to 16.
        out: array of that shape to fill instead of a new one.

    Returns:
        (..., ceil(M * bits / 8)) uint8.

    Raises:
        ValueError: bits is not in [1, 16], or an id is out of range (on the host).
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> pack_bits(np.array([[1, 2, 3]]), 10)
    array([[ 1,  8, 48,  0]], dtype=uint8)

    The order of faiss's product quantizer and of EnCodec's bit stream (arXiv 2210.13438).
    """
    return extension_of("pack_bits", "ids", ids).pack_bits(ids, bits, out)


def unpack_bits(bytes: Array, bits: int, count: int, *, out: Array | None = None) -> Array:
    """Read the ids that :func:`pack_bits` wrote. What fills up the last byte of a row is not looked at.

    Args:
        bytes: (..., ceil(count * bits / 8)) uint8 of one to four dimensions.
        bits: 1 to 16.
        count: how many ids a row holds.
        out: array of that shape to fill instead of a new one.

    Returns:
        (..., count) int64.

    Raises:
        ValueError: bits is not in [1, 16], or rows of another length.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> unpack_bits(np.array([[1, 8, 48, 0]], np.uint8), 10, 3)
    array([[1, 2, 3]])
    """
    return extension_of("unpack_bits", "bytes", bytes).unpack_bits(bytes, bits, count, out)
