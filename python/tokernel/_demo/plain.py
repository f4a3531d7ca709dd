# SPDX-License-Identifier: Apache-2.0
"""The plain NumPy formulas that the demo compares with: one token merging step, and the mean of segments."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def merge_step(x: Floats, size: Floats, r: int) -> tuple[Floats, Floats, Ints]:
    """Average the r even tokens of x (N, C) that are most alike to an odd one into it, weighted by size (N, 1).

    Returns the tokens, the sizes, and for every input token the output token it went to.
    """
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    similarity = unit[::2] @ unit[1::2].T
    best = similarity.argmax(axis=1)
    order = np.argsort(-similarity.max(axis=1), kind="stable")
    source, kept = order[:r], order[r:]
    target = len(kept) + best[source]

    def merge(values: Floats) -> Floats:
        out = np.concatenate([values[::2][kept], values[1::2]])
        np.add.at(out, target, values[::2][source])
        return out

    merged_size = merge(size)
    destination = np.empty(len(x), np.int64)
    destination[1::2] = len(kept) + np.arange(len(x) // 2)
    destination[2 * kept] = np.arange(len(kept))
    destination[2 * source] = target
    return merge(x * size) / merged_size, merged_size, destination


def segment_mean(x: Floats, offsets: Ints) -> Floats:
    """Mean of the rows of each segment; no segment is empty. (add.at is faster than add.reduceat here.)"""
    lengths = np.diff(offsets)
    sums = np.zeros((len(lengths), x.shape[1]), np.float32)
    np.add.at(sums, np.repeat(np.arange(len(lengths)), lengths), x)
    return np.divide(sums, lengths[:, None], dtype=np.float32)
