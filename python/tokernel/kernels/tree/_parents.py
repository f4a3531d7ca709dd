# SPDX-License-Identifier: Apache-2.0
"""The argument `tree` of ops over trees of draft tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tokernel.kernels._arrays import Array, place
from tokernel.kernels.tree._token_tree import TokenTree

__all__ = ["Trees", "pad_parents", "parents_of"]

Trees: TypeAlias = TokenTree | Sequence[TokenTree] | Array
"""One tree for every sequence, a tree per sequence, or parents: (T) or (B, T) int64 or int32, -1 for node 0 and, behind
the last node, for padding."""


def parents_of(op: str, tree: Trees, like: Array = None) -> Array:
    """Return the parents of any argument `tree`, beside the array `like`: (T) for one tree, (B, T) for a list of trees,
    padded with -1. Arrays are returned as they are; the extension checks them.

    >>> parents_of("verify_greedy", [TokenTree([-1, 0, 0]), TokenTree([-1])])
    array([[-1,  0,  0],
           [-1, -1, -1]])
    """
    if isinstance(tree, TokenTree):
        return place(tree.parents.astype(np.int64), like)
    if isinstance(tree, list | tuple):
        return place(pad_parents(op, tree), like)
    return tree


def pad_parents(op: str, trees: Sequence[TokenTree]) -> NDArray[np.int64]:
    """Return (B, T) int64: the parents of every tree, then -1.

    Raises:
        TypeError: an item is no TokenTree.
    """
    wrong = next((tree for tree in trees if not isinstance(tree, TokenTree)), None)
    if wrong is not None:
        got = type(wrong).__name__
        raise TypeError(f"{op}: tree must be a TokenTree, a list of them, or an array of parents, got a list of {got}")
    parents = np.full((len(trees), max(map(len, trees), default=0)), -1, np.int64)
    for row, tree in zip(parents, trees, strict=True):
        row[: len(tree)] = tree.parents
    return parents
