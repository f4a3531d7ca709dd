# SPDX-License-Identifier: Apache-2.0
"""Trees of draft tokens to test with."""

import numpy as np


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
