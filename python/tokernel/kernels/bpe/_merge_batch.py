# SPDX-License-Identifier: Apache-2.0
"""Merges of neighbouring tokens, learned from one batch and applied to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tokernel import _C
from tokernel.kernels._arrays import Array
from tokernel.kernels.bpe._trie import Int64s, cuts_of, integers, whole_number

__all__ = ["MergedBatch", "merge_pairs_batch"]

Int32s = npt.NDArray[np.int32]
_MOST = 2**31 - 1


class MergedBatch(NamedTuple):
    """What :func:`merge_pairs_batch` made of a batch, and the m merges that it did."""

    ids: Int32s
    """(N',) int32: the shorter sequences, one after the other."""
    offsets: Int64s
    """(B + 1,) int64."""
    parts: Int32s
    """(m, 2) int32: the pair of each merge."""
    counts: Int64s
    """(m,) int64: how often the pair occurred, overlapping occurrences included."""
    results: Int32s
    """(m,) int32: the token of each merge."""
    replaced: Int64s
    """(m,) int64: by how many tokens each merge shortened the batch."""


def merge_pairs_batch(
    ids: Array,
    offsets: Array | None = None,
    max_merges: int | None = None,
    valid: Callable[[int, int], bool] | None = None,
    *,
    next_id: int | None = None,
    join: Callable[[int, int, int], int] | None = None,
) -> MergedBatch:
    """Merge the most frequent pair of neighbours of a batch, and again, up to a number of times.

    Every time, of all valid pairs the one with most occurrences in all sequences (a a a has two), among equals the one
    met first in a scan of the batch as it then is, sequence by sequence from left to right; its occurrences are
    replaced from left to right without overlap. Pairs that occur once are merged too; without a valid pair it ends. A
    merge costs time for its occurrences alone.

    New tokens get ids next_id, next_id + 1, ... in the order of merges. Where tokens are strings, a concatenation may
    be a token that exists: ``join(a, b, new)`` is then called once a merge and says which id (any so far, or ``new``).

    Args:
        ids: (N,) int32 or int64, each in [0, 2^31 - 1).
        offsets: (B + 1,): sequence b is ids[offsets[b]:offsets[b + 1]]; one sequence by default.
        max_merges: no limit by default.
        valid: called with the ids of a pair, at most once a pair, when it comes up; what it answers holds for the whole
            run. Every pair is valid by default.
        next_id: above every id; one more than the largest by default.
        join: names the token of a pair; new ids by default.

    Returns:
        MergedBatch of ids, offsets, parts, counts, results and replaced.

    Raises:
        ValueError: an id or next_id is out of range, offsets do not cut the ids, max_merges is negative, there are
            2^31 tokens or more, or join returns one of the pair or an id that does not exist.
        TypeError: ids or offsets are no integers.

    >>> merged = merge_pairs_batch([0, 1, 0, 1, 2, 0, 1], [0, 5, 7], max_merges=1)
    >>> merged.ids, merged.offsets, merged.parts, merged.counts
    (array([3, 3, 2, 3], dtype=int32), array([0, 3, 4]), array([[0, 1]], dtype=int32), array([3]))

    Dynamic tokenization (arXiv 2411.18553), the loop of its batch-level merges.
    """
    op = "merge_pairs_batch"
    wide = integers(op, "ids", ids)
    cuts = np.array([0, wide.size], np.int64) if offsets is None else cuts_of(op, offsets, wide.size, "ids")
    cuts = cuts.copy()  # `valid` and `join` may change the caller's array
    if wide.size > _MOST:
        raise ValueError(f"{op}: ids must be at most {_MOST} of them, got {wide.size}")
    outside = np.flatnonzero((wide < 0) | (wide >= _MOST))
    if outside.size:
        raise ValueError(f"{op}: ids must be in [0, {_MOST}), got {wide[outside[0]]} at {outside[0]}")
    least = int(wide.max(initial=-1)) + 1
    first_new = least if next_id is None else whole_number(op, "next_id", next_id, least, _MOST)
    budget = -1 if max_merges is None else whole_number(op, "max_merges", max_merges, 0, _MOST)
    found = _C.merge_pairs_batch(wide.astype(np.int32), cuts, budget, first_new, valid, join)
    merged, ends, parts, counts, results, replaced = found
    return MergedBatch(merged, ends, parts.reshape(-1, 2), counts, results, replaced)
