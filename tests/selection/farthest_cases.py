# SPDX-License-Identifier: Apache-2.0
"""What farthest_points must answer: the greedy rule in float64, step by step along the picks that a kernel made.

Two items whose scores differ by less than rounding may change places, and everything after them differs; so a pick is
held against the best score given the picks before it, not against another list of picks.
"""

import numpy as np

EPS = 2.0**-24  # half a unit in the last place of 1


def distances(x, metric):
    """Return the (N, N) distances in float64, NaN in the rows and columns of what is not finite."""
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        squares = (wide**2).sum(-1)
        if metric == "cosine":
            norms = np.sqrt(squares)
            cosines = wide @ wide.T / (norms[:, None] * norms[None, :])
            cosines[(norms == 0)[:, None] | (norms == 0)[None, :]] = 0
            gaps, lost = np.maximum(1 - cosines, 0), ~np.isfinite(squares)
        else:
            gaps = np.sqrt(((wide[:, None] - wide[None]) ** 2).sum(-1))
            lost = ~(squares <= np.finfo(np.float32).max)
    gaps[lost] = np.nan
    gaps[:, lost] = np.nan
    return gaps


def error_of_distance(gaps, width, metric):
    """Bound what float32 may lose of each distance.

    A chain of D multiply-adds is off by D eps of the sum of magnitudes, which is 1 at most for unit rows; scaling both
    to unit length adds the errors of two norms, of D eps / 2 each, and four roundings. Of a sum of squares the error is
    relative: D + 2 eps, halved by the root, and the rounding of that.
    """
    if metric == "cosine":
        return np.full_like(gaps, (2 * width + 8) * EPS)
    return np.nan_to_num(gaps) * (width / 2 + 3) * EPS


def check_picks(x, order, score, metric="cosine", mode="maxmin", start="maxmin", mask=None):
    """Assert that every pick of one sample is the best one, up to rounding, given those before it."""
    n = len(x)
    gaps = distances(x, metric)
    error = error_of_distance(gaps, x.shape[1], metric)
    masked = np.zeros(n, bool) if mask is None else ~mask.astype(bool)
    lost = np.isnan(np.diagonal(gaps))
    partner = ~masked & ~lost
    assert len(set(order.tolist())) == len(order)
    left = np.ones(n, bool)
    for p, j in enumerate(order):
        if p == 0 and start != "maxmin":
            assert (j, score[0]) == (start, np.inf)
            left[j] = False
            continue
        if p == 0:
            rows = np.where(partner[:, None] & ~np.eye(n, dtype=bool), gaps, np.inf)
            want, slack = rows.min(0), error.max(0)
        else:
            chosen = order[:p][partner[order[:p]]]
            among, lose = gaps[chosen], error[chosen]
            if mode == "maxmin":
                want = among.min(0, initial=np.inf)
                slack = lose.max(0, initial=0)
            else:
                want = among.sum(0)
                slack = lose.sum(0) + len(chosen) * EPS * want
        group = np.where(masked, 2, lost)
        assert group[j] == group[left].min(), "numbers, then NaN, then masked items"
        if group[j]:
            assert j == np.flatnonzero(left & (group == group[j]))[0]
            assert np.isnan(score[p]) if group[j] == 1 else score[p] == -np.inf
        else:
            rivals = left & (group == 0)
            assert want[j] + slack[j] >= (want[rivals] - slack[rivals]).max()
            assert score[p] == want[j] or abs(score[p] - want[j]) <= slack[j]
        left[j] = False


def greedy(x, k, metric="cosine", mode="maxmin", start="maxmin"):
    """Return the picks of the plain rule in float64, the lowest index of equals."""
    gaps = distances(x, metric)
    if start == "maxmin":
        start = int(np.argmax(np.where(np.eye(len(x), dtype=bool), np.inf, gaps).min(0)))
    order = [start]
    while len(order) < k:
        score = gaps[order].min(0) if mode == "maxmin" else gaps[order].sum(0)
        score[order] = -np.inf
        order.append(int(np.argmax(score)))
    return np.array(order[:k])
