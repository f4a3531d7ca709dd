# SPDX-License-Identifier: Apache-2.0
"""Draft trees out of a table of what followed each token, and what the table learns from a step."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of
from tokernel.kernels.tree._parents import Trees, parents_of

__all__ = ["build_tree", "update_adjacency"]


def build_tree(
    adjacency: Array, root: Array, tree: Trees, rank: Array | None = None, *, out: Array | None = None
) -> Array:
    """Fill a tree with draft tokens: a child's token is what followed its parent's token in the table.

    ``tokens[b, 0] = root[b]`` and ``tokens[b, i] = adjacency[tokens[b, parent_i], rank_i]``.

    Args:
        adjacency: (V, K) int64 or int32, any outer stride: the candidates behind every token, best first.
        root: (B) int64 or int32, in [0, V).
        tree: a TokenTree, a list of B of them, or parents (T) or (B, T).
        rank: (T) or (B, T) int64 or int32: which candidate a node is, in [0, K). None: how many smaller children its
            parent has, as ``TokenTree.rank``. Those of node 0 and of padding are not read.
        out: (B, T) int64, filled instead of a new array.

    Returns:
        (B, T) int64; -1 where a tree is padded.

    Raises:
        ValueError: a rank or extent does not fit, parents are no tree, a root or rank is out of range, or an entry of
            the table on the way is no token in [0, V). Other entries are not looked at. On a CUDA device values are not
            checked: what is out of range becomes -1, and so do the nodes below.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> follows = np.array([[1, 2], [2, 0], [0, 1]])
    >>> build_tree(follows, np.array([0]), np.array([-1, 0, 0, 1]))
    array([[0, 1, 2, 2]])

    Step 2 of Token Recycling (arXiv 2408.08696).
    """
    parents = parents_of("build_tree", tree, root)
    return extension_of("build_tree", "adjacency", adjacency).build_tree(adjacency, root, parents, rank, out)


def update_adjacency(adjacency: Array, tokens: Array, candidates: Array) -> None:
    """Write what the model thinks follows each token into the table, in place: ``adjacency[tokens[b, i]] =
    candidates[b, i]``.

    Of nodes with the same token the one of the highest b, then of the highest i, wins.

    Args:
        adjacency: (V, K) int64 or int32, any outer stride. Changed.
        tokens: (B, T) int64 or int32, in [0, V); -1 is skipped.
        candidates: (B, T, K) int64 or int32, in [0, V).

    Raises:
        ValueError: a rank or extent does not fit, or a token is out of range; nothing has changed then. On a CUDA
            device values are not checked: a node whose token is out of range is skipped.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> follows = np.zeros((3, 2), np.int64)
    >>> update_adjacency(follows, np.array([[2, 1, 2]]), np.array([[[0, 0], [2, 0], [1, 0]]]))
    >>> follows
    array([[0, 0],
           [2, 0],
           [1, 0]])

    Step 7 of Token Recycling (arXiv 2408.08696); the order among duplicates is that of its code on a CPU.
    """
    extension_of("update_adjacency", "adjacency", adjacency).update_adjacency(adjacency, tokens, candidates)
