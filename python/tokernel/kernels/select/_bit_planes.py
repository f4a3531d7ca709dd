# SPDX-License-Identifier: Apache-2.0
"""Rows of floats as whole numbers in two bit-planes, of which the upper one can be read alone."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["join_bits", "split_bits"]


def split_bits(x: Array, msb: int = 8, lsb: int = 4) -> tuple[Array, Array, Array]:
    """Quantise rows to msb + lsb bits and split every number: ``n = (high << lsb) + low`` with ``x ~ n * scale``.

    Symmetric and linear: with ``most = 2**(msb + lsb - 1) - 1``, a row has ``scale = max |x| / most`` and
    ``n = x / scale`` rounded half to even (both in float32), so |x - n * scale| is about scale / 2 at most. One scale
    a row (our reconstruction: the paper states neither granularity nor rounding), so that a cache of keys grows without
    being quantised again. `high` is n >> lsb, rounded down: the upper bits of the two's complement; low is in
    [0, 2**lsb). The same bits on every backend.

    A row of zeros, or one so small that its scale underflows, has scale 0; a row with a NaN or an infinity has scale
    NaN, so that it reads back as NaN. The planes of both are zero.

    Args:
        x: (B, H, N, D), (B, N, D) or (N, D) float32, float16 or bfloat16, any outer strides.
        msb: bits of the high plane, in [2, 8].
        lsb: bits of the low plane, in [0, 4].

    Returns:
        high: shape of x, int8.
        low: (..., N, (D + 1) // 2) uint8, two channels a byte: 2i in bits 0 to 3, 2i + 1 in bits 4 to 7; without bytes
            where lsb is 0.
        scale: (..., N) float32.

    Raises:
        ValueError: a rank does not fit, or msb or lsb is out of its range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> high, low, scale = split_bits(np.array([[2047.0, -1.0, 16.0, 0.0]], np.float32))
    >>> high, low, scale
    (array([[127,  -1,   1,   0]], dtype=int8), array([[255,   0]], dtype=uint8), array([1.], dtype=float32))

    The progressive quantisation of SpAtten (arXiv 2012.09852), 8 + 4 bits for keys in its traces.
    """
    return extension_of("split_bits", "x", x).split_bits(x, msb, lsb)  # type: ignore[no-any-return]


def join_bits(high: Array, low: Array | None = None, scale: Array | None = None, lsb: int = 4) -> Array:
    """Read bit-planes back: ``out = ((high << lsb) + low) * scale``, what :func:`split_bits` took apart.

    Args:
        high: (B, H, N, D), (B, N, D) or (N, D) int8, any outer strides.
        low: (..., N, (D + 1) // 2) uint8 as split_bits packs it; None reads the high plane alone.
        scale: (..., N) float32; None gives the whole numbers themselves, exactly.
        lsb: bits of the low plane, in [0, 4].

    Returns:
        float32 of the shape of high.

    Raises:
        ValueError: a rank or extent does not fit, or lsb is out of its range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> high, low, scale = split_bits(np.array([[2047.0, -1.0, 16.0, 0.0]], np.float32))
    >>> join_bits(high, low, scale).tolist(), join_bits(high).tolist()
    ([[2047.0, -1.0, 16.0, 0.0]], [[2032.0, -16.0, 16.0, 0.0]])

    The progressive quantisation of SpAtten (arXiv 2012.09852).
    """
    return extension_of("join_bits", "high", high).join_bits(high, low, scale, lsb)
