# SPDX-License-Identifier: Apache-2.0
"""Importance by power iteration: mass that flows along the attention of tokens."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["power_iterate"]


def power_iterate(
    A: Array, s0: Array | None = None, *, iters: int, eps: float | None = None, out: Array | None = None
) -> Array:
    """Iterate ``s[j] = sum over i of A[i, j] * s[i]`` on the map of every head, all steps in one call.

    Sums are float32. Where the rows of A sum to 1 the sum of s is kept. A head stops by itself after the step in which
    no value moved by more than eps; a NaN never stops it. NaN and infinities of A or s0 propagate as in a sum of
    products. The same bits for any number of threads.

    Args:
        A: (B, H, N, N), (H, N, N) or (N, N) float32, float16 or bfloat16, rows are queries; any outer strides, N up to
            16384. The rows of a masked token must be taken out before.
        s0: (B, H, N), (H, N) or (N,) float32, the start; None for 1 / N everywhere.
        iters: steps, in [0, 2^31); 0 gives the start back.
        eps: at least 0; None never stops early.
        out: float32 array of the shape of s0 to fill instead of a new one.

    Returns:
        (B, H, N), (H, N) or (N,) float32.

    Raises:
        ValueError: a rank or extent does not fit, the maps are not square, iters is out of range, or eps is negative
            or NaN.
        TypeError: not an array, a dtype that is not listed, or a count or number that is none.

    >>> import numpy as np
    >>> A = np.array([[0.5, 0.5], [0.25, 0.75]], np.float32)
    >>> power_iterate(A, iters=1)
    array([0.375, 0.625], dtype=float32)

    The weighted page rank of Zero-TPrune (section 3.2 of arXiv 2305.17328).
    """
    return extension_of("power_iterate", "A", A).power_iterate(A, s0, iters, eps, out)
