# SPDX-License-Identifier: Apache-2.0
"""Cases of the bpe family: pairs of neighbouring ids, and lists of merges, against NumPy and plain passes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from tokernel.kernels import bpe

from bench.core import Case, Floor, Work

AS_FAST = Floor("ratio", 1.0)


def _ids(tokens: int, vocabulary: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Ids as frequent as words are: by Zipf's law."""
    rng = np.random.default_rng(1)
    return np.minimum(rng.pareto(1.0, tokens) * 8, vocabulary - 1).astype(np.int64)


def _equal(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def _count(vocabulary: int, quick: bool) -> Work:
    tokens = 3000 if quick else 4_000_000
    ids = _ids(tokens, vocabulary)

    def by_numpy() -> Any:
        keys, counts = np.unique(ids[:-1] * vocabulary + ids[1:], return_counts=True)
        return np.stack([keys // vocabulary, keys % vocabulary], 1), counts

    return Work(lambda: bpe.count_pairs(ids), {"numpy.unique": by_numpy}, _equal, moved_bytes=8.0 * tokens)


def _merge(length: int, merge_count: int, quick: bool) -> Work:
    """A trained list, on the sequences that it was trained on."""
    tokens, count = (600, 8) if quick else (400_000, merge_count)
    ids = _ids(tokens, 64)
    offsets = np.append(np.arange(0, tokens, length), tokens)
    merges: list[list[int]] = []
    now, starts = ids, offsets
    for new in range(64, 64 + count):
        pairs, counts = bpe.count_pairs(now, starts)
        if len(counts) == 0:
            break
        merges.append([*pairs[counts.argmax()].tolist(), new])
        now, starts = bpe.apply_merges(now, starts, np.array(merges[-1:]))
    given = np.array(merges)

    def by_passes() -> Any:
        found, begins = ids, offsets
        for merge in given:
            found, begins = bpe.apply_merges(found, begins, merge[None])
        return found, begins

    return Work(
        lambda: bpe.apply_merges(ids, offsets, given), {"a pass a merge": by_passes}, _equal, moved_bytes=16.0 * tokens
    )


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    found = [
        Case("bpe", "count_pairs", f"4M ids below {vocabulary}", "int64", partial(_count, vocabulary), (AS_FAST,))
        for vocabulary in (256, 50_000)
    ]
    for length in (8, 400_000):
        case = f"400k ids in sequences of {length}, 300 merges"
        found.append(Case("bpe", "apply_merges", case, "int64", partial(_merge, length, 300), (AS_FAST,)))
    return found
