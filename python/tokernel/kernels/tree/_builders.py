# SPDX-License-Identifier: Apache-2.0
"""Trees of draft tokens that others build: EAGLE-2's from beams of the draft model, Sequoia's from acceptance rates."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokernel.kernels._arrays import Array, fetch
from tokernel.kernels.select import topk
from tokernel.kernels.tree._rows import row_stats
from tokernel.kernels.tree._token_tree import TokenTree

__all__ = ["DraftTree", "eagle2_tree", "sequoia_tokens", "sequoia_tree"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class DraftTree(NamedTuple):
    """A tree of draft tokens, as :func:`eagle2_tree` builds it."""

    tree: TokenTree
    """T nodes, the root among them."""
    tokens: Ints
    """(T) int64: the token of each node."""
    score: Floats
    """(T) float32: the logarithm of the draft model's probability of the way to each node; 0 for the root."""


def eagle2_tree(
    root: int, logits: Array, expand: Callable[[Ints, Ints], Array], top_k: int = 10, depth: int = 6, total: int = 59
) -> DraftTree:
    """Build EAGLE-2's dynamic tree: beams of the draft model, level by level, and the best nodes of all levels.

    The k likeliest tokens after the root are the first beams. Then, `depth` times, each beam is continued by its k
    likeliest tokens, and of these k * k the k of largest score are the next beams; a score is the sum of log
    probabilities on the way. The `total` nodes of largest score among all that were seen make the tree, in the order in
    which they were seen (by level, beam and rank). Of equal scores and logits the lowest index comes first, so that the
    tree holds the parent of each of its nodes.

    Args:
        root: the last committed token, node 0.
        logits: (V) of the draft model after the root; float32, float16 or bfloat16.
        expand: called with tokens (k) int64 of the beams and parents (k) int64, which beam of the call before each of
            them continues (of the first call: 0, the root); returns the logits (k, V) after them.
        top_k: k, at least 1.
        depth: calls of `expand`; the tree is at most ``depth + 1`` deep.
        total: nodes besides the root, in [0, k + depth * k * k].

    Returns:
        DraftTree of the tree, its tokens and their scores. Verify it by the rule for drafts that are no random draws
        (rule "eagle" of verify_stochastic, or verify_greedy).

    Raises:
        ValueError: an argument is out of range, or logits have another shape.

    >>> import numpy as np
    >>> steps = np.log(np.array([0.5, 0.25, 0.25], np.float32))
    >>> eagle2_tree(7, steps, lambda tokens, parents: np.tile(steps, (2, 1)), top_k=2, depth=1, total=3)[:2]
    (TokenTree([-1, 0, 0, 1]), array([7, 0, 1, 0]))

    EAGLE-2 (arXiv 2406.16858), section 4.
    """
    _check_counts("eagle2_tree", ("top_k", top_k, 1), ("depth", depth, 0), ("total", total, 0))
    if total > top_k * (1 + depth * top_k):
        raise ValueError(f"eagle2_tree: total must be at most {top_k * (1 + depth * top_k)}, got {total}")
    tokens, score = _likeliest("logits", logits[None], 1, top_k)
    pool = [(tokens[0], score[0], np.zeros(top_k, np.int64))]  # parents as nodes of the pool, counted from 1; 0: root
    beams, first = np.arange(top_k), 1
    parents = np.zeros(top_k, np.int64)
    for _ in range(depth):
        level, so_far, _ = pool[-1]
        tokens, score = _likeliest("expand's result", expand(level[beams], parents), top_k, top_k)
        score = score + so_far[beams, None]
        pool.append((tokens.ravel(), score.ravel(), np.repeat(beams + first, top_k)))
        first += len(level)
        beams = _best_first(pool[-1][1])[:top_k]
        parents = beams // top_k
    tokens, score, above = (np.concatenate(column) for column in zip(*pool, strict=True))
    chosen = np.sort(_best_first(score)[:total])
    parent_nodes = np.searchsorted(chosen + 1, above[chosen]) + (above[chosen] > 0)
    return DraftTree(
        TokenTree([-1, *parent_nodes]), np.append(root, tokens[chosen]), np.append(np.float32(0), score[chosen])
    )


def _check_counts(op: str, *counts: tuple[str, int, int]) -> None:
    for name, value, low in counts:
        if value < low:
            raise ValueError(f"{op}: {name} must be at least {low}, got {value}")


def _likeliest(name: str, logits: Array, rows: int, k: int) -> tuple[Ints, Floats]:
    """Return tokens and log probabilities (rows, k) of the k likeliest items."""
    if len(logits.shape) != 2 or logits.shape[0] != rows or logits.shape[1] < k:
        raise ValueError(f"eagle2_tree: {name} must be {rows} rows of at least {k} items, got {tuple(logits.shape)}")
    value, index = topk(logits, k)
    value = value.float() if hasattr(value, "float") else value.astype(np.float32)
    return fetch(index), fetch(value) - fetch(row_stats(logits).lse)[:, None]


def _best_first(score: Floats) -> Ints:
    return np.argsort(-score, kind="stable")


def sequoia_tokens(acceptance_rates: ArrayLike, budget: int, max_depth: int) -> Floats:
    """Compute how many tokens the best tree of every size and depth is expected to give, by dynamic programming.

    ``acceptance_rates[b]`` is the probability that the child of rank b is accepted once its parent was and its earlier
    siblings were not, so that the children of a node have the rates of their ranks as probabilities. The expectation
    counts the root.

    Args:
        acceptance_rates: (K) of [0, 1], with a sum of at most 1: a node may have K children.
        budget: the largest number of nodes, root included, at least 1.
        max_depth: the largest number of edges between root and leaf, at least 0.

    Returns:
        (budget + 1, max_depth + 1) float32: of trees of exactly m nodes that are at most l deep; -inf where there is
        none. While it is finite it falls with neither m nor l, but for rounding.

    Raises:
        ValueError: an argument is out of range.

    >>> sequoia_tokens([0.5, 0.25], 3, 2)[3]
    array([-inf, 1.75, 1.75], dtype=float32)

    Sequoia (arXiv 2402.12374), section 4.1.
    """
    _check_counts("sequoia_tokens", ("budget", budget, 1), ("max_depth", max_depth, 0))
    tokens, _ = _best_trees("sequoia_tokens", acceptance_rates, budget, max_depth)
    best: Floats = tokens.max(2)
    return best


def sequoia_tree(
    acceptance_rates: ArrayLike,
    budget: int,
    max_depth: int,
    draft_time: float = 0.0,
    target_times: Mapping[int, float] | None = None,
) -> TokenTree:
    """Build Sequoia's static tree: the one of most expected tokens, or of most tokens for its time.

    Without times, the best tree of `budget` nodes that is at most `max_depth` deep, and the shallowest of equal ones.
    With times, over all depths l and all sizes m that have a time, the tree of least ``((l + 1) * draft_time +
    target_times[m]) / tokens`` (the draft model runs once a level, the root's among them); of equal ones the smallest,
    then the shallowest. Nodes are numbered by depth, then by parent and rank. Among equals the root has the fewest
    children, and its last child the largest subtree. Sums are float32, as in the official implementation: which trees
    are equal depends on it.

    Args:
        acceptance_rates: (K) of [0, 1], with a sum of at most 1: of the children by rank.
        budget: the largest number of nodes, root included, at least 1.
        max_depth: the largest number of edges between root and leaf, at least 0.
        draft_time: of the draft model for one level, at least 0.
        target_times: of the target model for m nodes, by m; positive.

    Returns:
        TokenTree.

    Raises:
        ValueError: an argument is out of range, or no tree of such a size and depth exists.

    >>> sequoia_tree([0.5, 0.25], 4, 2)
    TokenTree([-1, 0, 0, 1])
    >>> sequoia_tree([0.5, 0.25], 4, 2, target_times={1: 1.0, 2: 1.1, 4: 3.0})
    TokenTree([-1, 0])

    Sequoia (arXiv 2402.12374), sections 4.1 and 4.3.
    """
    _check_counts("sequoia_tree", ("budget", budget, 1), ("max_depth", max_depth, 0))
    times = {budget: 1.0} if target_times is None else dict(sorted(target_times.items()))
    if not (np.isfinite(draft_time) and draft_time >= 0):
        raise ValueError(f"sequoia_tree: draft_time must be at least 0, got {draft_time}")
    wrong = {m: t for m, t in times.items() if not (1 <= m <= budget and 0 < t < np.inf)}
    if wrong or not times:
        raise ValueError(f"sequoia_tree: target_times must be positive for 1 to {budget} nodes, got {wrong or 'none'}")
    tokens, splits = _best_trees("sequoia_tree", acceptance_rates, budget, max_depth)
    best = tokens.max(2)
    sizes = np.array(list(times))
    spent = np.arange(1, max_depth + 2) * draft_time + np.array(list(times.values()))[:, None]
    with np.errstate(divide="ignore"):
        cost = np.where(best[sizes] > 0, spent / np.maximum(best[sizes], 1), np.inf)
    size, depth = np.unravel_index(np.argmin(cost), cost.shape)
    if not np.isfinite(cost[size, depth]):
        raise ValueError(f"sequoia_tree: budget must be that of some tree {max_depth} deep, got {sizes.tolist()}")
    return TokenTree(_unfold(tokens.argmax(2), splits, int(sizes[size]), int(depth)))


def _best_trees(op: str, acceptance_rates: ArrayLike, budget: int, max_depth: int) -> tuple[Floats, Ints]:
    """Return tables (M + 1, L + 1, K + 1) over trees of m nodes, at most l deep, whose root has exactly b children:
    the expected tokens, and how many of the nodes are not in the last child's subtree."""
    rates = np.asarray(acceptance_rates, np.float32)
    if rates.ndim != 1 or not (rates >= 0).all() or not rates.sum() <= 1 + 1e-6:
        raise ValueError(
            f"{op}: acceptance_rates must be (K), at least 0 and of sum at most 1, got {acceptance_rates!r}"
        )
    tokens = np.full((budget + 1, max_depth + 1, len(rates) + 1), -np.inf, np.float32)
    splits = np.zeros(tokens.shape, np.int64)
    tokens[1, :, 0] = 1
    best = np.full(tokens.shape[:2], -np.inf, np.float32)
    best[1] = 1
    for m in range(2, budget + 1):
        for b, rate in enumerate(rates, 1):
            # y nodes in the root and its earlier children, m - y in the last child, one level less deep.
            last = best[m - 1 : 0 : -1, :-1]
            sums = tokens[1:m, 1:, b - 1] + np.where(last > 0, rate * np.maximum(last, 0), -np.inf)
            y = sums.argmax(0)
            tokens[m, 1:, b] = np.take_along_axis(sums, y[None], 0)[0]
            splits[m, 1:, b] = y + 1
        best[m] = tokens[m].max(1)
    return tokens, splits


def _unfold(children: Ints, splits: Ints, size: int, depth: int) -> list[int]:
    """Read the parents of the tree that the tables name, breadth first."""
    parents = [-1]
    open_nodes = deque([(0, size, depth)])
    while open_nodes:
        node, m, left = open_nodes.popleft()
        subtrees = []
        for b in range(int(children[m, left]), 0, -1):
            y = int(splits[m, left, b])
            subtrees.append(m - y)
            m = y
        for subtree in reversed(subtrees):
            open_nodes.append((len(parents), subtree, left - 1))
            parents.append(node)
    return parents
