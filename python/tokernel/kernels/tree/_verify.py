# SPDX-License-Identifier: Apache-2.0
"""Which draft tokens a target keeps."""

from __future__ import annotations

from typing import NamedTuple

from tokernel.kernels._arrays import Array, extension_of
from tokernel.kernels.tree._parents import Trees, parents_of

__all__ = ["Verified", "verify_greedy"]


class Verified(NamedTuple):
    """What is kept of a tree of draft tokens. Per step a sequence grows by the tokens of ``path[1:]`` and the bonus."""

    path: Array
    """(B, T) int64: the kept nodes from node 0 on, each the parent of the next; then -1."""
    accepted: Array
    """(B) int64: how many draft tokens are kept: the nodes of the path without node 0."""
    bonus: Array
    """(B) int64: the token behind the last node of the path."""


def verify_greedy(
    tokens: Array, target: Array, tree: Trees, *, out: tuple[Array, Array, Array] | None = None
) -> Verified:
    """Follow the target's own choices down a tree of draft tokens, as far as the draft foresaw them.

    From node 0 on, the first child (the one of the smallest number) whose token equals ``target`` at this node is the
    next node; where none does, ``target`` at this node is the bonus. The tokens that come out are those of plain greedy
    decoding, one by one.

    Args:
        tokens: (B, T) int64 or int32: the draft tokens of the nodes; that of node 0, which is committed, is not read.
        target: (B, T) int64 or int32: the target's choice behind each node, the argmax of its logits.
        tree: a TokenTree, a list of one per sequence, or parents (T) or (B, T) as
            :class:`~tokernel.kernels.tree.TokenTree` has them, -1 behind the last node.
        out: arrays (path, accepted, bonus) to fill instead of new ones.

    Returns:
        Verified of path (B, T), accepted (B) and bonus (B), all int64. Without B in tokens there is none in the result.

    Raises:
        ValueError: a rank or extent does not fit, or parents are not those of trees (a parent that does not come before
            its node, padding before a node, no node, more than 4096).
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> from tokernel.kernels.tree import TokenTree
    >>> tokens, target = np.array([9, 4, 5, 6]), np.array([5, 0, 6, 7])
    >>> verify_greedy(tokens, target, TokenTree([-1, 0, 0, 2]))
    Verified(path=array([ 0,  2,  3, -1]), accepted=array(2), bonus=array(7))

    Verification at temperature 0 of SpecInfer (arXiv 2305.09781), Medusa (2401.10774) and EAGLE-2 (2406.16858).
    """
    module = extension_of("verify_greedy", "tokens", tokens)
    return Verified(
        *module.verify_greedy(tokens, target, parents_of("verify_greedy", tree, tokens), *(out or (None,) * 3))
    )
