# SPDX-License-Identifier: Apache-2.0
"""The linear program of a mixture over any set of its constraints, solved by HiGHS (SciPy)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Solution(NamedTuple):
    """An optimum: weights of the categories, slack of every merge and of every pair, and the sum of both slacks."""

    alpha: Floats
    v: Floats
    u: Floats
    objective: float


class Rows(NamedTuple):
    """Constraints ``v[step] + u[pair] >= difference @ alpha``, one a row."""

    difference: Floats
    """(R, n) what the pair outweighs the merge by, in each category."""
    step: Ints
    pair: Ints

    def known(self) -> set[tuple[int, int]]:
        """The rows, by step and pair."""
        return set(zip(self.step.tolist(), self.pair.tolist(), strict=True))

    def joined(self, more: Rows) -> Rows:
        """These rows, and then more."""
        return Rows(
            np.concatenate([self.difference, more.difference]),
            np.concatenate([self.step, more.step]),
            np.concatenate([self.pair, more.pair]),
        )

    def binding(self, at: Solution, room: float) -> Rows:
        """Those that a solution meets with no more than `room` to spare."""
        spare = at.v[self.step] + at.u[self.pair] - self.difference @ at.alpha
        kept = spare <= room
        return Rows(self.difference[kept], self.step[kept], self.pair[kept])


def solve_rows(rows: Rows, steps: int, pairs: int, scale: float = 1.0) -> Solution:
    """Minimise ``sum v + sum u`` subject to rows.

    Args:
        steps, pairs: how many slacks of each kind there are.
        scale: rows are multiplied by it, which makes HiGHS's tolerance of 1e-7 that much finer.

    Only slacks that occur in a row become variables.
    """
    try:
        from scipy.optimize import linprog
        from scipy.sparse import coo_array
    except ImportError as missing:
        raise ImportError("data_mixture_inference needs SciPy: pip install 'tokernel[lp]'") from missing
    count, n = rows.difference.shape
    used_steps, step_at = np.unique(rows.step, return_inverse=True)
    used_pairs, pair_at = np.unique(rows.pair, return_inverse=True)
    slacks = len(used_steps) + len(used_pairs)
    every = np.arange(count)
    matrix = coo_array(
        (
            np.concatenate([scale * rows.difference.ravel(), np.full(2 * count, -1.0)]),
            (
                np.concatenate([np.repeat(every, n), every, every]),
                np.concatenate([np.tile(np.arange(n), count), n + step_at, n + len(used_steps) + pair_at]),
            ),
        ),
        shape=(count, n + slacks),
    ).tocsr()
    result = linprog(
        np.concatenate([np.zeros(n), np.ones(slacks)]),
        A_ub=matrix if count else None,
        b_ub=np.zeros(count) if count else None,
        A_eq=np.concatenate([np.ones(n), np.zeros(slacks)])[None],
        b_eq=[1.0],
        bounds=np.array([(0.0, 1.0)] * n + [(0.0, np.inf)] * slacks),
        method="highs",
    )
    if result.x is None:
        raise RuntimeError(f"data_mixture_inference: HiGHS found no optimum: {result.message}")
    alpha = np.maximum(result.x[:n], 0)
    v, u = np.zeros(steps), np.zeros(pairs)
    v[used_steps] = np.maximum(result.x[n : n + len(used_steps)], 0) / scale
    u[used_pairs] = np.maximum(result.x[n + len(used_steps) :], 0) / scale
    return Solution(alpha / alpha.sum(), v, u, float(v.sum() + u.sum()))
