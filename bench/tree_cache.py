# SPDX-License-Identifier: Apache-2.0
"""Cases of the tree family: what a step leaves behind in the cache and in the table of followers."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from tokernel import ops
from tokernel.kernels.tree import TokenTree
from torch import Tensor

from bench.arrays import DTYPES, randn
from bench.core import Case, Work

HEADS, ROWS, WIDTH, PREFIX = 32, 4160, 128, 4096
PATH = (0, 2, 9, 17, 40)  # five nodes accepted of 64
VOCABULARY, CANDIDATES = 32000, 8


def _compact(dtype: torch.dtype, quick: bool) -> Work:
    rows = 96 if quick else ROWS
    length = rows - (ROWS - PREFIX)
    cache = randn(1, HEADS, rows, WIDTH, dtype=dtype)
    path = torch.tensor([PATH])
    lengths = torch.tensor([length])
    moved = cache.clone()

    def by_index() -> Tensor:
        moved[:, :, length : length + len(PATH)] = moved[:, :, length + path[0]]
        return lengths + len(PATH)

    return Work(
        lambda: ops.compact_cache(cache, lengths, path),
        {"torch index": by_index},
        torch.testing.assert_close,
        moved_bytes=2 * (len(PATH) - 1) * HEADS * WIDTH * cache.element_size(),
    )


def _tree() -> TokenTree:
    """80 nodes below the root, as Token Recycling's template has."""
    return TokenTree([-1, *[0] * 8, *[1] * 8, *[2] * 4, *[3] * 3, *range(4, 20), *range(9, 50)])


def _build(quick: bool) -> Work:
    tree = _tree()
    vocabulary = 300 if quick else VOCABULARY
    table = torch.from_numpy(np.random.default_rng(0).integers(0, vocabulary, (vocabulary, CANDIDATES)))
    root = torch.tensor([7])
    depth, parents, rank = (torch.from_numpy(x.astype(np.int64)) for x in (tree.depth, tree.parents, tree.rank))
    levels = [torch.nonzero(depth == d).flatten() for d in range(1, int(depth.max()) + 1)]

    def by_level() -> Tensor:
        tokens = torch.empty(1, len(tree), dtype=torch.int64)
        tokens[:, 0] = root
        for nodes in levels:
            tokens[:, nodes] = table[tokens[:, parents[nodes]], rank[nodes]]
        return tokens

    return Work(lambda: ops.build_tree(table, root, parents), {"torch gather": by_level}, torch.testing.assert_close)


def _update(quick: bool) -> Work:
    vocabulary = 300 if quick else VOCABULARY
    random = np.random.default_rng(0)
    tokens = torch.from_numpy(random.permutation(vocabulary)[None, :81])
    candidates = torch.from_numpy(random.integers(0, vocabulary, (1, 81, CANDIDATES)))
    ours, theirs = (torch.zeros(vocabulary, CANDIDATES, dtype=torch.int64) for _ in range(2))

    def by_index() -> Tensor:
        theirs[tokens[0]] = candidates[0]
        return theirs

    def update() -> Tensor:
        ops.update_adjacency(ours, tokens, candidates)
        return ours

    return Work(update, {"torch index_put": by_index}, torch.testing.assert_close)


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    found = [
        Case("tree", "compact_cache", f"{len(PATH)} of 64 rows, {HEADS}x{WIDTH}", name, partial(_compact, dtype))
        for name, dtype in DTYPES.items()
    ]
    found.append(Case("tree", "build_tree", "81 nodes", "int64", _build))
    found.append(Case("tree", "update_adjacency", "81 nodes", "int64", _update))
    return found
