# SPDX-License-Identifier: Apache-2.0
"""The levels of a scalar quantizer whose bins are equally likely under a normal distribution."""

from __future__ import annotations

import math
from statistics import NormalDist

MOST_BITS = 9


def gaussian_levels(bits: int, std_range: float = 3.0) -> tuple[list[float], list[float]]:
    """Compute bin edges and levels: what :class:`tokernel.codecs.tokenbridge.GaussianScalarQuantizer` rounds to.

    Edge k of n = 2^bits bins is the k/n quantile, kept within the range; level k is the mean of a standard normal
    variable inside bin k.

    Args:
        bits: 1 to 9. From 10 on the outermost quantiles lie beyond three standard deviations, and their bins are empty.
        std_range: R, the range in standard deviations.

    Returns:
        n + 1 edges and n levels, both ascending, levels antisymmetric.

    >>> edges, levels = gaussian_levels(1)
    >>> [round(level, 4) for level in levels]
    [-0.7912, 0.7912]

    TokenBridge (arXiv 2503.16430).
    """
    bins = 1 << bits
    normal = NormalDist()
    inner = [min(max(normal.inv_cdf(k / bins), -std_range), std_range) for k in range(1, bins)]
    edges = [-std_range, *inner, std_range]
    # The lower tail only: there the differences of the distribution function keep their digits.
    lower = [
        (normal.pdf(edges[k]) - normal.pdf(edges[k + 1])) / _mass(edges[k], edges[k + 1]) for k in range(bins // 2)
    ]
    return edges, [*lower, *(-level for level in reversed(lower))]


def _mass(low: float, high: float) -> float:
    return (math.erfc(-high / math.sqrt(2)) - math.erfc(-low / math.sqrt(2))) / 2
