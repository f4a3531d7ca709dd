# SPDX-License-Identifier: Apache-2.0
"""Pair counts of all categories through all merges, as stretches of constant count, and the search for broken orders.

Between two merges that change it a pair has one count a category. A *segment* is such a stretch: (pair, first step,
past the last step). Their weighted values come from one running sum over all changes, so a sweep over every step and
every pair costs one pass over the changes instead of a heap that replays them.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

History = tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.integer]]
"""(pairs [K, 2], counts [K], offsets [T + 2]): all at step 0, then those that each merge changed, 0 when gone."""


class Broken(NamedTuple):
    """One constraint that does not hold: at step `step` the pair of `segment` outweighs the merge."""

    step: int
    segment: int


def pair_keys(pairs: NDArray[np.integer]) -> Ints:
    """One int64 a pair (left, right)."""
    left, right = np.asarray(pairs, np.int64).reshape(-1, 2).T
    keys: Ints = left << 32 | right
    return keys


class Segments:
    """The counts of every category through the first T merges.

    Attributes:
        keys: (P,) of the pairs, ascending.
        pair, start, end: (S,) of the segments, ordered by pair, then step. Counts hold *before* merges start..end - 1.
        total: (S,) counts, summed over categories without weights.
        own: (T,) the segment that holds the count of each merge's own pair, or -1.
    """

    def __init__(self, histories: Sequence[History], merges: Ints) -> None:
        self.categories, self.steps = len(histories), len(merges)
        key, step, category, count = self._changes(histories)
        self.keys = np.unique(key)
        pair = np.searchsorted(self.keys, key)
        change = self._differences(pair, category, step, count)
        order = np.lexsort((category, step, pair))
        pair, step = pair[order], step[order]
        self._category, self._change = category[order], change[order]
        new = np.ones(len(pair), bool)
        new[1:] = (pair[1:] != pair[:-1]) | (step[1:] != step[:-1])
        first = np.flatnonzero(new)
        self._last = np.append(first[1:], len(pair)).astype(np.int64)[: len(first)]  # past a segment's own changes
        self.pair, self.start = pair[first], step[first]
        self.end = np.full(len(first), self.steps, np.int64)
        goes_on = self.pair[1:] == self.pair[:-1]
        self.end[:-1][goes_on] = self.start[1:][goes_on]
        begins = np.searchsorted(pair, np.arange(len(self.keys)))
        self._begin = begins[self.pair]  # where the changes of a segment's pair begin
        self.total = self._running(self._change).astype(np.int64)
        self.own = self._own(pair_keys(merges))

    def _changes(self, histories: Sequence[History]) -> tuple[Ints, Ints, Ints, Ints]:
        keys, steps, categories, counts = [], [], [], []
        for category, (pairs, count, offsets) in enumerate(histories):
            rows = int(offsets[self.steps])  # what the last merge leaves behind bounds nothing
            keys.append(pair_keys(pairs[:rows]))
            steps.append(np.repeat(np.arange(self.steps), np.diff(offsets[: self.steps + 1])))
            categories.append(np.full(rows, category, np.int64))
            counts.append(np.asarray(count[:rows], np.int64))
        return np.concatenate(keys), np.concatenate(steps), np.concatenate(categories), np.concatenate(counts)

    @staticmethod
    def _differences(pair: Ints, category: Ints, step: Ints, count: Ints) -> Ints:
        """By how much each new count differs from the one before of the same pair and category."""
        order = np.lexsort((step, category, pair))
        change = count[order].copy()
        same = (pair[order][1:] == pair[order][:-1]) & (category[order][1:] == category[order][:-1])
        change[1:][same] -= count[order][:-1][same]
        out: Ints = np.empty_like(change)
        out[order] = change
        return out

    def _running(self, change: NDArray[np.generic]) -> NDArray[np.generic]:
        """What the changes of a pair add up to, at every segment."""
        sums = np.concatenate([np.zeros(1, change.dtype), np.cumsum(change)])
        out: NDArray[np.generic] = sums[self._last] - sums[self._begin]
        return out

    def _own(self, keys: Ints) -> Ints:
        own = np.full(self.steps, -1, np.int64)
        if not len(self.keys):
            return own
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        place = self.pair * self.steps + self.start
        segment = np.searchsorted(place, at * self.steps + np.arange(self.steps), "right") - 1
        found = (self.keys[at] == keys) & (segment >= 0) & (self.pair[segment] == at)
        found &= self.total[segment] > 0
        own[found] = segment[found]
        return own

    def values(self, weights: Floats) -> Floats:
        """(S,) ``sum_i weights_i * count_i``."""
        return np.asarray(self._running(self._change * weights[self._category]), np.float64)

    def counts(self, segment: int) -> Floats:
        """(n,) counts of one segment, a category each."""
        rows = slice(self._begin[segment], self._last[segment])
        return np.bincount(self._category[rows], self._change[rows], self.categories).astype(np.float64)

    def broken(
        self, value: Floats, threshold: Floats, known: set[tuple[int, int]], per_merge: int, most: int
    ) -> list[Broken]:
        """Find constraints that do not hold, step by step, the heaviest pairs of a step first.

        Args:
            value: (S,) what every segment weighs, less the slack of its pair.
            threshold: (T,) what a pair may weigh at most at each step; infinity where nothing is asked.
            known: (step, pair) of constraints not to report again.
            per_merge: at most so many a step.
            most: stop after the step that reaches this many.
        """
        table = _range_minima(threshold)
        over = np.flatnonzero(value > threshold.min(initial=np.inf))
        first = _first_below(table, value[over], self.start[over], self.end[over])
        over, first = over[first < self.end[over]], first[first < self.end[over]]
        arrivals = np.lexsort((over, first))
        over, first = over[arrivals], first[arrivals]
        found: list[Broken] = []
        heap: list[tuple[float, int]] = []  # a segment that has ended is stale: nothing is compared for equality
        here = 0
        for step in range(int(first[0]) if len(first) else self.steps, self.steps):
            while here < len(over) and first[here] == step:
                heapq.heappush(heap, (-float(value[over[here]]), int(over[here])))
                here += 1
            found += self._pop(heap, step, float(threshold[step]), known, per_merge)
            if len(found) >= most or (here == len(over) and not heap):
                break
        return found

    def _pop(
        self, heap: list[tuple[float, int]], step: int, threshold: float, known: set[tuple[int, int]], per_merge: int
    ) -> list[Broken]:
        """Take the pairs above the threshold off the heap, and put back those that may break a later step."""
        found: list[Broken] = []
        seen: list[tuple[float, int]] = []
        while heap and -heap[0][0] > threshold and len(found) < per_merge:
            entry = heapq.heappop(heap)
            segment = entry[1]
            if self.end[segment] <= step:
                continue
            seen.append(entry)
            if (step, int(self.pair[segment])) not in known:
                found.append(Broken(step, segment))
        for entry in seen:
            heapq.heappush(heap, entry)
        return found


def _range_minima(x: Floats) -> list[Floats]:
    """Level l holds the minima of x[t : t + 2^l]."""
    table = [x]
    while (1 << len(table)) <= len(x):
        half = 1 << (len(table) - 1)
        table.append(np.minimum(table[-1][:-half], table[-1][half:]))
    return table


def _first_below(table: list[Floats], value: Floats, start: Ints, end: Ints) -> Ints:
    """The first t in [start, end) with x[t] < value, else end; for all rows at once."""
    at: Ints = start.copy()
    for level in range(len(table) - 1, -1, -1):
        fits = at + (1 << level) <= end
        where = np.where(fits, at, 0)
        fits &= table[level][np.minimum(where, len(table[level]) - 1)] >= value
        at[fits] += 1 << level
    return at
