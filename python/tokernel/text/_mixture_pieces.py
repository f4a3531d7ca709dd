# SPDX-License-Identifier: Apache-2.0
"""From a tokenizer and sample texts to what the linear program asks for: merges, and histories of pair counts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokernel.kernels import bpe
from tokernel.text._mixture_segments import History

Ints = NDArray[np.int64]


class Category(NamedTuple):
    """Sample text of one category under a list of merges."""

    history: History
    size: int
    """Its bytes."""
    pairs: int
    """Its neighbours before any merge."""


def category_of(pieces: bpe.CountedPieces, merges: Ints, byte_ids: Ints | None = None) -> Category:
    """Replay merges over counted pieces.

    Args:
        pieces: what :func:`~tokernel.kernels.bpe.count_pieces` returns.
        merges: (T, 3) ids left, right, result.
        byte_ids: (256,) the id of every byte, -1 for none: such a byte is left out. None: its value.
    """
    flat, offsets, counts = (np.asarray(each) for each in pieces)
    ids = flat.astype(np.int64) if byte_ids is None else byte_ids[flat]
    kept = np.concatenate([np.zeros(1, np.int64), np.cumsum(ids >= 0)])
    history = bpe.pair_count_history((ids[ids >= 0], kept[offsets]), counts, merges)
    pairs = int(np.sum(history.delta_counts[: history.off[1]]))
    return Category(tuple(history), int(np.diff(offsets) @ counts), pairs)
