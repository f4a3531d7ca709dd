# SPDX-License-Identifier: Apache-2.0
"""Segments for the tests of the segment ops, in both forms."""

import numpy as np

BLOCK = 2048  # kSegmentBlock

# (batch, tokens, segments, width): one of each, and widths around the vectors and tiles of every instruction set.
SHAPES = [(1, 1, 1, 1), (2, 5, 3, 1), (1, 17, 4, 3), (2, 9, 2, 15), (1, 6, 6, 16), (2, 33, 5, 17), (1, 4, 2, 63)]
SHAPES += [(1, 5, 2, 64), (1, 3, 1, 65), (1, 40, 2, 131)]
# Nothing along each axis.
EMPTY = [(0, 3, 2, 4), (2, 0, 3, 4), (2, 0, 0, 4), (2, 3, 2, 0), (1, 0, 1, 1), (1, 0, 5000, 1)]


def labels(rng, batch, tokens, segments):
    """Labels with holes: some tokens dropped, some segments empty."""
    return rng.integers(-1, segments, (batch, tokens)) if segments else np.full((batch, tokens), -1)


def cuts(rng, batch, tokens, segments):
    """Offsets of segments of random length, some of them empty."""
    inner = np.sort(rng.integers(0, tokens + 1, (batch, max(segments - 1, 0))), axis=1)
    edge = np.zeros((batch, 1), np.int64)
    return edge if segments == 0 else np.concatenate([edge, inner, edge + tokens], axis=1)


def where_told(backend, tokens):
    """The argument `tokens` of ops that otherwise read it off the offsets, which nobody does on a GPU."""
    return {"tokens": tokens} if backend == "cuda" else {}


def ids_of(offsets, tokens):
    """The labels that offsets stand for."""
    rows = [np.searchsorted(row[1:], np.arange(tokens), side="right") for row in offsets]
    return np.array(rows, np.int64).reshape(len(offsets), tokens)
