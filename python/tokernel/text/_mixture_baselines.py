# SPDX-License-Identifier: Apache-2.0
"""What the paper holds its attack against: two ways to guess a mixture without the order of the merges.

Both are written from memory of the paper, whose code for them was not at hand.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def efficiency(size: Sequence[int], tokens: Sequence[int], tokens_alone: Sequence[int]) -> Floats:
    """Bytes a token of every category, over those of a tokenizer that was trained on that category alone.

    The second makes scripts comparable: some are easier to encode than others.

    >>> efficiency([100, 300], [50, 100], [25, 100])
    array([0.5, 1. ])
    """
    bytes_, ours, alone = (np.asarray(each, np.float64) for each in (size, tokens, tokens_alone))
    out: Floats = (bytes_ / ours) / (bytes_ / alone)
    return out


def fit_tee(efficiencies: Floats, shares: Floats) -> tuple[float, float]:
    """Fit ``log share = slope * log efficiency + offset`` by least squares, on tokenizers whose mixture is known.

    Args:
        efficiencies, shares: (R, n) of R tokenizers; shares of 0 are left out.
    """
    known = np.asarray(shares) > 0
    slope, offset = np.polyfit(np.log(np.asarray(efficiencies)[known]), np.log(np.asarray(shares)[known]), 1)
    return float(slope), float(offset)


def tee(efficiencies: Floats, fit: tuple[float, float]) -> Floats:
    """Tokenizer encoding efficiency: a category that is encoded well must have had a large share.

    Args:
        efficiencies: (n,) of the tokenizer in question.
        fit: of :func:`fit_tee`.

    Returns:
        (n,) shares that sum to 1.

    >>> import numpy as np
    >>> tee(np.array([0.5, 1.0]), fit=(2.0, 0.0))
    array([0.2, 0.8])
    """
    share = np.exp(fit[0] * np.log(efficiencies) + fit[1])
    out: Floats = share / share.sum()
    return out


def token_classification(counts: NDArray[np.integer]) -> Floats:
    """Token classification: every token belongs to the category where it is the most frequent.

    Args:
        counts: (n, V) how often each token occurs in samples of each category; rows are divided by their sums, so that
            the samples may differ in size. Ties go to the first category; a token that never occurs belongs to none.

    Returns:
        (n,) shares of the vocabulary.

    >>> import numpy as np
    >>> token_classification(np.array([[3, 1, 0, 0], [1, 1, 2, 0]]))
    array([0.66666667, 0.33333333])
    """
    frequency = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    seen = frequency.max(0) > 0
    owner = np.bincount(frequency[:, seen].argmax(0), minlength=len(counts))
    out: Floats = owner / max(1, owner.sum())
    return out
