# SPDX-License-Identifier: Apache-2.0
"""The fewest items that hold a given mass."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["topp_mask"]


def topp_mask(
    prob: Array, p: float, min_keep: int = 1, weight: Array | None = None, *, out: Array | None = None
) -> Array:
    """Mark the fewest items of every row whose mass reaches p: in descending mass an item is kept while the mass of
    those before it is below p, so the item that crosses p is kept.

    The mass of an item is prob, or prob * weight in float32, cut to [0, 1]; a row is expected to sum to about 1. Mass
    is counted in units of 2^-43, rounded down, so the answer is the same on every backend. Of equal masses the lowest
    index comes first. p = 1 keeps every item, whatever rounding did to their sum, and so does a NaN in the row.

    Args:
        prob: (..., N) float32, float16 or bfloat16 of up to three outer dimensions, any outer strides; N up to 2^20.
        p: in [0, 1].
        min_keep: items that are kept even where fewer reach p; at most N (1 is legal where N is 0).
        weight: (..., N) float32, how often each item counts.
        out: (..., N) bool array to fill instead of a new one.

    Returns:
        (..., N) bool.

    Raises:
        ValueError: a rank or extent does not fit, p is not in [0, 1], or min_keep is negative or above N.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> topp_mask(np.array([0.2, 0.5, 0.05, 0.25], np.float32), 0.7)
    array([False,  True, False,  True])

    The rule by which nucleus sampling, and Sparse VideoGen2 (arXiv 2505.18875) among clusters, cut off a tail.
    """
    return extension_of("topp_mask", "prob", prob).topp_mask(prob, p, min_keep, weight, out)
