# SPDX-License-Identifier: Apache-2.0
"""Rows moved by index."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["gather_rows"]


def gather_rows(x: Array, index: Array, *, out: Array | None = None) -> Array:
    """Pick rows: ``out[b, m] = x[b, index[b, m]]``, bit for bit.

    Args:
        x: (B, N, C) float32, float16 or bfloat16.
        index: (B, M) int64 or int32, every value in [0, N).
        out: (B, M, C) array of the dtype of x to fill instead of a new one.

    Returns:
        (B, M, C) array of the dtype of x.

    Raises:
        ValueError: a rank or extent does not fit, or an index is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> x = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    >>> gather_rows(x, np.array([[2, 0]]))
    array([[[4., 5.],
            [0., 1.]]], dtype=float32)
    """
    return extension_of("gather_rows", "x", x).gather_rows(x, index, out)
