# SPDX-License-Identifier: Apache-2.0
"""The merges that were trained, out of the merges that a real tokenizer lists."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def trained_merges(merges: NDArray[np.integer], drop: int = 0) -> Ints:
    """Keep one merge a token: the one that training made.

    Lists converted from SentencePiece hold every split of a token into two tokens. The one that was trained is what the
    merges of all earlier tokens leave of it; where they do not leave two parts (the token was inserted by hand), the
    first split of the list stays.

    Args:
        merges: (M, 3) left, right, result.
        drop: so many at the start were inserted by hand: they are left out, and so is every later merge that needs one
            of their tokens (1,395 runs of white space in Gemma).

    Returns:
        (T, 3) int64, in the same order.

    Raises:
        ValueError: another shape, or a `drop` outside [0, M].

    >>> import numpy as np
    >>> trained_merges(np.array([[1, 2, 3], [0, 1, 4], [4, 2, 5], [0, 3, 5]])).tolist()  # "abc" is a + bc: bc was first
    [[1, 2, 3], [0, 1, 4], [0, 3, 5]]
    """
    rows = np.asarray(merges, np.int64)
    if rows.ndim != 2 or rows.shape[1] != 3:
        raise ValueError(f"trained_merges: merges must have shape (M, 3), got {rows.shape}")
    if not 0 <= drop <= len(rows):
        raise ValueError(f"trained_merges: drop must be between 0 and {len(rows)} merges, got {drop}")
    spelled: dict[int, list[int]] = {}
    rank: dict[tuple[int, int], tuple[int, int]] = {}
    kept: list[list[int]] = []
    made = set(rows[:, 2].tolist())  # anything else is a base symbol
    by_hand = set(rows[:drop, 2].tolist())
    for left, right, result in rows[drop:].tolist():
        known = all(part in spelled or part not in made for part in (left, right))
        if result in spelled or result in by_hand or not known:
            continue
        spelled[result] = spelled.get(left, [left]) + spelled.get(right, [right])
        parts = _merged(spelled[result], rank)
        pair = (parts[0], parts[1]) if len(parts) == 2 else (left, right)
        rank[pair] = (len(kept), result)
        kept.append([*pair, result])
    return np.array(kept, np.int64).reshape(-1, 3)


def _merged(symbols: list[int], rank: dict[tuple[int, int], tuple[int, int]]) -> list[int]:
    """Merge the adjacent pair of lowest rank, the leftmost first, until none is known."""
    parts = list(symbols)
    while True:
        known = [(rank[pair], at) for at, pair in enumerate(itertools.pairwise(parts)) if pair in rank]
        if not known:
            return parts
        (_, result), at = min(known)
        parts[at : at + 2] = [result]
