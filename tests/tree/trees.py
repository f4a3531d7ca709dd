# SPDX-License-Identifier: Apache-2.0
"""Trees of draft tokens to test with, and rows of probabilities that are none."""

import numpy as np

# Rows of two that are no distribution, and what an error says of each.
BROKEN_ROWS = [
    ([0.5, 0.6], r"a sum of 1\.1"),
    ([0.5, 0.4985], r"a sum of 0\.9985"),
    ([0, 0], "a sum of 0"),
    ([1.25, -0.25], r"-0\.25 at position 1"),
    ([np.nan, 1], "nan at position 0"),
    ([1, np.inf], "inf at position 1"),
    ([3e38, 1], r"3.*e\+38 at position 0"),
]


def random_parents(rng, nodes):
    """A tree in which every node hangs under some node before it."""
    return np.array([-1, *(rng.integers(0, i) for i in range(1, nodes))])


def ragged_parents(rng, batch, nodes, fewest=1):
    """A tree per sequence, each of its own size, padded with -1."""
    parents = np.full((batch, nodes), -1)
    for row in parents:
        size = rng.integers(fewest, nodes + 1)
        row[:size] = random_parents(rng, size)
    return parents


def distinct_siblings(rng, parents, words):
    """Tokens of which no two children of a node have the same; of `words`, or as many as the children are."""
    tokens = rng.integers(0, words, len(parents))
    for node in range(len(parents)):
        children = np.flatnonzero(parents == node)
        tokens[children] = rng.permutation(max(words, len(children)))[: len(children)]
    return tokens
