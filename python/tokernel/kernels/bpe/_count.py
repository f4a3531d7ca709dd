# SPDX-License-Identifier: Apache-2.0
"""Pairs of neighbouring ids: how often each occurs, and a list of merges applied."""

from __future__ import annotations

import numpy as np

from tokernel import _C
from tokernel.kernels._arrays import Array, extension_of, fetch, place

__all__ = ["apply_merges", "count_pairs"]


def _one_sequence(op: str, ids: Array) -> Array:
    """Offsets of ids that are one sequence."""
    if not hasattr(ids, "shape"):
        raise TypeError(
            f"{op}: ids must be an array with a shape where offsets are not given, got {type(ids).__name__}"
        )
    return place(np.array([0, *ids.shape[:1]][:2], np.int64), ids)


def _first(values: Array, count: int) -> Array:
    """The first items, in memory of their own size."""
    if count == len(values):
        return values
    part = values[:count]
    return part.clone() if hasattr(part, "clone") else part.copy()


def count_pairs(ids: Array, offsets: Array | None = None, weights: Array | None = None) -> tuple[Array, Array]:
    """Count how often each pair of neighbouring ids occurs inside the sequences.

    Overlapping occurrences count: a, a, a holds (a, a) twice. No pair reaches from one sequence into the next. On a
    device the call waits for the number of pairs.

    Args:
        ids: (N,) int64 or int32, every value in [0, 2^31). Checked, except on a CUDA device: there a pair with another
            id is passed over.
        offsets: (B + 1,) int64 or int32, from 0 to N, never decreasing: sequence b is
            ``ids[offsets[b] : offsets[b + 1]]``. None makes one sequence of all ids.
        weights: (B,) int64 or int32, what every occurrence in a sequence counts, for unique words that occur several
            times. None counts each once.

    Returns:
        pairs (K, 2) int64, the pairs that occur, ascending by (left, right), and counts (K,) int64. Sums are taken
        modulo 2^64; a pair whose weights add up to 0 is listed.

    Raises:
        ValueError: an extent does not fit, an id is out of range, or offsets are no offsets.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> count_pairs(np.array([7, 7, 7, 5, 7, 5]), offsets=np.array([0, 4, 6]))
    (array([[7, 5],
           [7, 7]]), array([2, 2]))

    The count of a step of byte-pair encoding's training (Sennrich et al., arXiv 1508.07909, algorithm 1).
    """
    extension = extension_of("count_pairs", "ids", ids)
    given = _one_sequence("count_pairs", ids) if offsets is None else offsets
    pairs, counts, total = extension.count_pairs(ids, given, weights)
    found = int(fetch(total)[0])
    return _first(pairs, found), _first(counts, found)


def apply_merges(ids: Array, offsets: Array | None, merges: Array) -> tuple[Array, Array]:
    """Apply a list of merges to sequences of ids, one merge after the other, each from left to right without overlap.

    (a, a) -> b makes b, a of a, a, a. The list is gone through once: a pair that comes up only after its merge has had
    its turn stays as it is. Runs on the CPU; a sequence of n ids takes O(n log n), however long the list is.

    Args:
        ids: (N,) int64 or int32, every value in [0, 2^31).
        offsets: (B + 1,) int64 or int32, from 0 to N, never decreasing: sequence b is
            ``ids[offsets[b] : offsets[b + 1]]``. None makes one sequence of all ids.
        merges: (M, 3) int64 or int32, rows (left, right, result), every value in [0, 2^31); a pair may come several
            times.

    Returns:
        The merged ids of all sequences, one behind the other, in the dtype of ids, and their offsets (B + 1,) int64.

    Raises:
        ValueError: an extent does not fit, an id is out of range, offsets are no offsets, or an array is on a device.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> apply_merges(np.array([1, 1, 1, 2]), None, np.array([[1, 1, 3], [1, 2, 4], [3, 4, 5]]))
    (array([5]), array([0, 1]))

    The replacement step of byte-pair encoding's training (Sennrich et al., arXiv 1508.07909, algorithm 1).
    """
    extension_of("apply_merges", "ids", ids)  # tells this extension how to allocate beside such an array
    given = _one_sequence("apply_merges", ids) if offsets is None else offsets
    out, starts = _C.apply_merges(ids, given, merges)
    return _first(out, int(starts[-1])), starts
