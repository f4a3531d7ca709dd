# SPDX-License-Identifier: Apache-2.0
"""Trees for Token Recycling: the paper's, and smaller ones."""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence

__all__ = ["RANK_SHARES", "TREE_222", "best_first_template", "expected_tokens", "named_template"]

Paths = tuple[tuple[int, ...], ...]

# How many candidates follow each path that goes on, in the order of the paths; "-" is the root.
_GROWTH = """
-:8
0:8 1:4 2:3 3:2 4:1 5:1 6:1 7:1
00:8 01:3 02:2 03:1 04:1 05:1 06:1 07:1 10:2 11:1 20:1 30:1 40:1 50:1
000:5 001:2 002:1 003:1 004:1 010:1 020:1 100:1 200:1 300:1
0000:3 0001:1 0002:1 0010:1 0100:1 1000:1
00000:2 00010:1
"""

TREE_222: Paths = tuple(
    (*map(int, path.strip("-")), rank)
    for path, candidates in (entry.split(":") for entry in _GROWTH.split())
    for rank in range(int(candidates))
)
"""The paper's template "2.2.2": 80 paths of at most 6 candidates."""

# How often the model's choice was the candidate of each rank, where the token before it was right: SmolLM2-135M on the
# prompts of bench/real_decoding.py, 96 tokens each, by the paper's tree.
RANK_SHARES = (0.49, 0.095, 0.052, 0.024, 0.012, 0.012, 0.008, 0.005)


def best_first_template(nodes: int, shares: Sequence[float] = RANK_SHARES) -> Paths:
    """Choose the paths that are most likely to be accepted, when a candidate of rank r is right with probability
    ``shares[r]`` wherever its parent is. [ours]

    Args:
        nodes: how many, the root not counted.
        shares: descending, in (0, 1).

    >>> best_first_template(4, (0.5, 0.2))
    ((0,), (1,), (0, 0), (0, 0, 0))
    """
    if nodes < 0:
        raise ValueError(f"best_first_template: nodes must be at least 0, got {nodes}")
    if not all(1 > a >= b > 0 for a, b in zip(shares, [*shares[1:], shares[-1]], strict=True)):
        raise ValueError(f"best_first_template: shares must descend within (0, 1), got {list(shares)}")
    waiting: list[tuple[float, tuple[int, ...]]] = [(-shares[0], (0,))]
    chosen: list[tuple[int, ...]] = []
    while len(chosen) < nodes:
        value, path = heapq.heappop(waiting)
        chosen.append(path)
        heapq.heappush(waiting, (value * shares[0], (*path, 0)))
        if path[-1] + 1 < len(shares):
            heapq.heappush(waiting, (value / shares[path[-1]] * shares[path[-1] + 1], (*path[:-1], path[-1] + 1)))
    return tuple(sorted(chosen, key=lambda path: (len(path), path)))


def expected_tokens(template: Paths, shares: Sequence[float] = RANK_SHARES) -> float:
    """Tokens a step should emit under the assumption of :func:`best_first_template`, the bonus included.

    >>> expected_tokens(((0,), (1,), (0, 0)), (0.5, 0.2))
    1.95
    """
    total = 1.0
    for path in template:
        chance = 1.0
        for rank in path:
            chance *= shares[rank]
        total += chance
    return total


def named_template(name: str) -> Paths:
    """The template of a name."""
    if name == "2.2.2":
        return TREE_222
    found = re.fullmatch(r"best-(\d+)", name)
    if not found:
        raise ValueError(f"TokenRecyclingTree: template must be 2.2.2, best-N or paths, got {name!r}")
    return best_first_template(int(found[1]))
