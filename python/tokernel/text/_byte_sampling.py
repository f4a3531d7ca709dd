# SPDX-License-Identifier: Apache-2.0
"""How one outcome of a byte model is drawn (arXiv 2410.09303, as its code has it)."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["draw"]

_GREEDY_BELOW = 0.1
_FLOOR = 1e-7  # keeps outcomes of probability 0 from staying impossible at high temperatures


def draw(probs: np.ndarray[Any, Any], temperature: float, top_p: float, generator: np.random.Generator) -> int:
    """Draw an outcome; ties go to the lowest.

    Args:
        probs: probabilities of sum 1.
        temperature: below 0.1 the likeliest; else (p + 1e-7) ** (1 / temperature), renormalised.
        top_p: outcomes, the likeliest first, stay while those before them hold at most this much.
        generator: source of randomness.

    Raises:
        ValueError: a negative temperature, or top_p outside (0, 1].

    >>> draw(np.array([0.2, 0.8]), 0.0, 1.0, np.random.default_rng(0))
    1
    """
    if temperature < 0:
        raise ValueError(f"draw: temperature must be at least 0, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"draw: top_p must be in (0, 1], got {top_p}")
    if temperature < _GREEDY_BELOW:
        return int(np.argmax(probs))
    sharp = (probs.astype(np.float64) + _FLOOR) ** (1 / temperature)
    sharp /= sharp.sum()
    order = np.argsort(-sharp, kind="stable")
    before = np.cumsum(sharp[order]) - sharp[order]
    kept = order[before <= top_p]
    return int(generator.choice(kept, p=sharp[kept] / sharp[kept].sum()))
