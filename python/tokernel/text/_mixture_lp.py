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


def solve_rows(difference: Floats, step: Ints, pair: Ints, steps: int, pairs: int, scale: float = 1.0) -> Solution:
    """Minimise ``sum v + sum u`` subject to ``v[step] + u[pair] >= difference @ alpha`` for every row.

    Args:
        difference: (R, n) what the pair of each row outweighs the merge by, in each category.
        step, pair: (R,) which slacks absorb it.
        steps, pairs: how many there are.
        scale: rows are multiplied by it, which makes HiGHS's tolerance of 1e-7 that much finer.

    Only slacks that occur in a row become variables.
    """
    try:
        from scipy.optimize import linprog
        from scipy.sparse import coo_array
    except ImportError as missing:
        raise ImportError("data_mixture_inference needs SciPy: pip install 'tokernel[lp]'") from missing
    rows, n = difference.shape
    used_steps, step_at = np.unique(step, return_inverse=True)
    used_pairs, pair_at = np.unique(pair, return_inverse=True)
    slacks = len(used_steps) + len(used_pairs)
    every = np.arange(rows)
    matrix = coo_array(
        (
            np.concatenate([scale * difference.ravel(), np.full(2 * rows, -1.0)]),
            (
                np.concatenate([np.repeat(every, n), every, every]),
                np.concatenate([np.tile(np.arange(n), rows), n + step_at, n + len(used_steps) + pair_at]),
            ),
        ),
        shape=(rows, n + slacks),
    ).tocsr()
    result = linprog(
        np.concatenate([np.zeros(n), np.ones(slacks)]),
        A_ub=matrix if rows else None,
        b_ub=np.zeros(rows) if rows else None,
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
