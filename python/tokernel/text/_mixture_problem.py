# SPDX-License-Identifier: Apache-2.0
"""The weights of categories under which an order of merges is as nearly true as can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokernel.text._mixture_lp import Floats, Ints, Rows, Solution, solve_rows
from tokernel.text._mixture_segments import Broken, History, Segments

TOLERANCE = 1e-6
MOST_ROWS = 5_000_000
"""Constraints that :meth:`MixtureProblem.solve_full` takes on."""


class MixtureResult(NamedTuple):
    """What the solver returns."""

    alpha: Floats
    """(n,) shares of the categories, in the unit of the denominators (pairs unless told otherwise); they sum to 1."""
    objective: float
    """Sum of all slacks: 0 when some mixture explains every merge."""
    v: Floats
    """(T,) slack of every merge: how much the mixture fails to explain it."""
    u: Floats
    """(P,) slack of every pair, in the order of :attr:`MixtureProblem.pairs`."""
    missing: Ints
    """Merges whose pair no category holds; they say nothing."""
    constraints: int
    """How many were generated."""


class MixtureProblem:
    """Weights under which an order of merges is as nearly true as can be.

    Minimise ``sum_t v_t + sum_p u_p`` over ``alpha >= 0`` that sum to 1 and slacks ``v, u >= 0``, subject to
    ``v_t + u_p + sum_i alpha_i C_i(t, m_t) >= sum_i alpha_i C_i(t, p)`` for every merge t and every other pair p, where
    ``C_i(t, p)`` is the count of p in category i before merge t over the denominator of i.

    Args:
        histories: for every category what :func:`~tokernel.kernels.bpe.pair_count_history` returns, (pairs [K, 2],
            counts [K], offsets [T' + 2]) with T' >= T, over the same ids: all counts first, then after each merge those
            that it changed, 0 for gone.
        merges: (T, 2) or (T, 3) pairs of ids in the order in which they were merged.
        denoms: (n,) positive; by default the total of each category's counts at step 0, so that alpha is in pairs.
        first: merges before this one are taken as given (a vocabulary that was inherited) and ask for nothing.

    Raises:
        ValueError: no category, histories of fewer merges than there are, denominators that are not positive.

    >>> import numpy as np
    >>> english = np.array([[0, 1], [1, 2]]), np.array([3, 1]), np.array([0, 2, 2])
    >>> french = np.array([[0, 1], [1, 2]]), np.array([1, 3]), np.array([0, 2, 2])
    >>> problem = MixtureProblem([english, french], np.array([[0, 1]]))
    >>> bool(problem.solve().alpha[0] >= 0.5)  # (0, 1) came first, so english weighs at least as much
    True

    Source: sections 3 and 4 of the paper, with the constraint generation of its appendix. Segments of constant count
    are ours: they visit the same constraints in the same order as the paper's heap.
    """

    def __init__(
        self, histories: Sequence[History], merges: NDArray[np.integer], denoms: Sequence[float] | Floats | None = None,
        first: int = 0,
    ) -> None:  # fmt: skip
        pairs = np.asarray(merges, np.int64)
        if pairs.ndim != 2 or pairs.shape[1] not in (2, 3):
            raise ValueError(f"MixtureProblem: merges must have shape (T, 2) or (T, 3), got {pairs.shape}")
        if not len(histories):
            raise ValueError("MixtureProblem: histories must name at least one category, got none")
        if not 0 <= first <= len(pairs):
            raise ValueError(f"MixtureProblem: first must be between 0 and {len(pairs)} merges, got {first}")
        for category, history in enumerate(histories):
            _check_history(category, history, len(pairs))
        if denoms is None:
            denoms = [max(1.0, float(np.sum(count[: offsets[1]]))) for _, count, offsets in histories]
        self.denoms = np.asarray(denoms, np.float64)
        if self.denoms.shape != (len(histories),) or not (np.isfinite(self.denoms) & (self.denoms > 0)).all():
            raise ValueError(f"MixtureProblem: denoms must be {len(histories)} positive numbers, got {denoms}")
        self._segments = Segments(histories, pairs[:, :2])
        self._asked = self._segments.own >= 0
        self.missing = np.flatnonzero(~self._asked)
        self._asked[:first] = False

    @property
    def pairs(self) -> Ints:
        """(P, 2) every pair that occurs, ascending."""
        keys = self._segments.keys
        return np.stack([keys >> 32, keys & 0xFFFFFFFF], 1)

    def solve(self, max_add: int = 100, per_merge: int = 10, tol: float = TOLERANCE) -> MixtureResult:
        """Find the optimum by adding constraints where they break, until none does; those that hold with room to spare
        are dropped again.

        Args:
            max_add: a sweep over the merges ends after the step that brings it to so many new constraints.
            per_merge: at most so many of them at one step, the heaviest pairs first.
            tol: by how much a constraint may be broken. HiGHS is held to a tenth of it.

        Raises:
            ValueError: arguments that are not positive.
        """
        if max_add < 1 or per_merge < 1 or not tol > 0:
            raise ValueError(
                f"MixtureProblem.solve: max_add, per_merge and tol must be positive, got {max_add}, {per_merge}, {tol}"
            )
        n, segments = len(self.denoms), self._segments
        now = Solution(np.full(n, 1 / n), np.zeros(segments.steps), np.zeros(len(segments.keys)), 0.0)
        rows = Rows(np.zeros((0, n)), np.zeros(0, np.int64), np.zeros(0, np.int64))
        highest, tried = -1.0, 0
        while found := self._broken(now, rows.known(), per_merge, max_add, tol):
            if now.objective > highest * (1 + 1e-9):  # else dropping rows could go round in circles
                highest, rows = now.objective, rows.binding(now, tol)
            new = [self._difference(step, segment) for step, segment in found]
            step, segment = np.array(found).T
            rows = rows.joined(Rows(np.array(new), step, segments.pair[segment]))
            tried += len(new)
            now = self._optimum(rows, TOLERANCE / tol)
        return self._result(now, tried)

    def solve_full(self) -> MixtureResult:
        """Find the optimum with every constraint there is: for tests, and small problems.

        Raises:
            ValueError: more than five million constraints.
        """
        segments = self._segments
        alive = np.flatnonzero(segments.total > 0)
        lengths = segments.end[alive] - segments.start[alive]
        if lengths.sum() > MOST_ROWS:
            raise ValueError(f"MixtureProblem.solve_full: {lengths.sum()} constraints are more than {MOST_ROWS}")
        segment = np.repeat(alive, lengths)
        step = np.concatenate(
            [np.arange(a, b) for a, b in zip(segments.start[alive], segments.end[alive], strict=True)]
        )
        keep = self._asked[step] & (segment != segments.own[step])
        segment, step = segment[keep], step[keep]
        counts = {at: segments.counts(at) for at in np.unique(np.append(segment, segments.own[step])).tolist()}
        rows = [(counts[s] - counts[segments.own[t]]) / self.denoms for s, t in zip(segment, step, strict=True)]
        difference = np.array(rows).reshape(-1, len(self.denoms))
        return self._result(self._optimum(Rows(difference, step, segments.pair[segment]), 1.0), len(rows))

    def _broken(
        self, now: Solution, known: set[tuple[int, int]], per_merge: int, most: int, tol: float
    ) -> list[Broken]:
        segments = self._segments
        value = segments.values(now.alpha / self.denoms)
        threshold = np.full(segments.steps, np.inf)
        own = segments.own[self._asked]
        threshold[self._asked] = value[own] + now.v[self._asked] + tol
        return segments.broken(value - now.u[segments.pair], threshold, known, per_merge, most)

    def _difference(self, step: int, segment: int) -> Floats:
        other, own = self._segments.counts(segment), self._segments.counts(int(self._segments.own[step]))
        difference: Floats = (other - own) / self.denoms
        return difference

    def _optimum(self, rows: Rows, scale: float) -> Solution:
        return solve_rows(rows, self._segments.steps, len(self._segments.keys), scale)

    def _result(self, now: Solution, constraints: int) -> MixtureResult:
        return MixtureResult(now.alpha, now.objective, now.v, now.u, self.missing, constraints)


def _check_history(category: int, history: History, merges: int) -> None:
    pairs, count, offsets = (np.asarray(each) for each in history)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or count.shape != pairs.shape[:1]:
        raise ValueError(
            f"MixtureProblem: histories[{category}] must hold pairs (K, 2) and counts (K,), "
            f"got {pairs.shape} and {count.shape}"
        )
    if offsets.ndim != 1 or len(offsets) < merges + 2 or offsets[0] != 0 or offsets[-1] != len(pairs):
        raise ValueError(
            f"MixtureProblem: histories[{category}] must have at least {merges + 2} offsets from 0 to {len(pairs)}, "
            f"got {offsets.shape}"
        )
    if (np.diff(offsets) < 0).any():
        raise ValueError(f"MixtureProblem: the offsets of histories[{category}] must not descend")
