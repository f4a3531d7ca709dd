# SPDX-License-Identifier: Apache-2.0
"""Trees of draft tokens: one representation, and the ones that others use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["TokenTree"]

Ints = NDArray[np.int32]
PathOrder = Literal["ascending", "descending", "lexicographic"]

_WORD = 64


class TokenTree:
    """A tree of T draft tokens: node 0 is the last committed token, every other node comes after its parent.

    A node attends to the whole prefix, to its ancestors and to itself. Trees are values: equal when their parents are.

    Attributes:
        parents: (T) int32, -1 for node 0, else a smaller node.

    >>> tree = TokenTree([-1, 0, 0, 1])
    >>> tree.depth, tree.mask.astype(int)[3], tree.bits[:, 0]
    (array([0, 1, 1, 2], dtype=int32), array([1, 1, 0, 1]), array([ 1,  3,  5, 11], dtype=uint64))

    Section 1 of the tree verification of SpecInfer (arXiv 2305.09781), Medusa (2401.10774) and EAGLE-2 (2406.16858).
    """

    def __init__(self, parents: ArrayLike) -> None:
        given = np.asarray(parents)
        if given.size == 0:
            raise ValueError("TokenTree: parents must be those of at least one node, got an empty tree")
        if given.ndim != 1 or given.dtype.kind not in "iu":
            raise ValueError(f"TokenTree: parents must be (T) integers, got {given.shape} {given.dtype}")
        _check_parents(given)
        self.parents: Ints = given.astype(np.int32)
        self.parents.flags.writeable = False

    @classmethod
    def chain(cls, nodes: int) -> TokenTree:
        """Every node the only child of the one before: ordinary speculation.

        >>> TokenTree.chain(3).parents
        array([-1,  0,  1], dtype=int32)
        """
        return cls(np.arange(nodes) - 1)

    @classmethod
    def from_paths(cls, paths: Iterable[Sequence[int]]) -> TokenTree:
        """Read Medusa's choices: every node but the root by the ranks of the children on its way down.

        Nodes are numbered by depth, then lexicographically, whatever the order of the choices.

        Raises:
            ValueError: a path without its beginning, an empty path, one given twice, or a negative rank.

        >>> TokenTree.from_paths([[0], [1], [0, 0]]).parents
        array([-1,  0,  0,  1], dtype=int32)
        """
        listed = [tuple(int(rank) for rank in path) for path in paths]
        if any(len(path) == 0 or min(path) < 0 for path in listed):
            raise ValueError("TokenTree: paths must hold ranks of at least 0, got an empty path or a negative rank")
        choices = sorted(listed, key=lambda path: (len(path), path))
        node = {(): 0} | {path: i + 1 for i, path in enumerate(choices)}
        if len(node) != len(choices) + 1:
            raise ValueError("TokenTree: paths must be distinct, got one twice")
        orphan = next((path for path in choices if path[:-1] not in node), None)
        if orphan is not None:
            raise ValueError(f"TokenTree: paths must hold the beginning of each, got {list(orphan)} without it")
        return cls([-1, *(node[path[:-1]] for path in choices)])

    @classmethod
    def from_mask(cls, mask: ArrayLike) -> TokenTree:
        """Read a (T, T) matrix that is True where column j is node i itself or an ancestor of it.

        Raises:
            ValueError: not square, or not the mask of a tree whose nodes come after their parents.

        >>> TokenTree.from_mask(np.tril(np.ones((3, 3), bool)))
        TokenTree([-1, 0, 1])
        """
        given = np.asarray(mask).astype(bool)
        if given.ndim != 2 or given.shape[0] != given.shape[1] or given.size == 0:
            raise ValueError(f"TokenTree: mask must be (T, T) of at least one node, got {given.shape}")
        nodes = np.arange(len(given))
        above = np.where(np.tril(given, -1), nodes, -1).max(1)  # the last ancestor is the parent
        if np.count_nonzero(above < 0) != 1:
            raise ValueError("TokenTree: mask must have one root, node 0, got several")
        tree = cls(above)
        if not np.array_equal(tree.mask, given):
            raise ValueError("TokenTree: mask must be that of a tree, got rows that no tree has")
        return tree

    @classmethod
    def from_siblings(cls, first_child: ArrayLike, next_sibling: ArrayLike) -> tuple[TokenTree, Ints]:
        """Read SGLang's links: the first child of each node and the next child of the same parent, -1 for none.

        Links may visit the children of a node in any order; here children are visited in the order of their numbers.

        Returns:
            The tree and (T) int32: node i of the tree is node ``order[i]`` of the links. That is i where the links
            visit children in the order of their numbers; else nodes are numbered by depth, then as they are visited.

        Raises:
            ValueError: arrays of different length, or links that are out of range, reach a node twice or miss one.

        >>> TokenTree.from_siblings([1, 3, -1, -1], [-1, 2, -1, -1])
        (TokenTree([-1, 0, 0, 1]), array([0, 1, 2, 3], dtype=int32))
        >>> TokenTree.from_siblings([2, -1, 3, -1], [-1, -1, 1, -1])  # node 2 is visited before its sibling 1
        (TokenTree([-1, 0, 0, 1]), array([0, 2, 1, 3], dtype=int32))
        """
        child, sibling = np.asarray(first_child, np.int64), np.asarray(next_sibling, np.int64)
        if child.ndim != 1 or child.shape != sibling.shape:
            raise ValueError(f"TokenTree: links must be (T) and (T), got {child.shape} and {sibling.shape}")
        parents = _follow(child, sibling)
        order = np.arange(len(child), dtype=np.int32)
        if (parents >= order).any() or ((sibling >= 0) & (sibling < order)).any():
            order = _by_depth(child, sibling)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return cls(np.where(parents[order] < 0, -1, place[parents[order]])), order

    def __len__(self) -> int:
        return len(self.parents)

    def __repr__(self) -> str:
        return f"TokenTree({self.parents.tolist()})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenTree) and np.array_equal(self.parents, other.parents)

    def __hash__(self) -> int:
        return hash(self.parents.tobytes())

    @cached_property
    def depth(self) -> Ints:
        """(T) int32: edges from the root."""
        depth = np.zeros(len(self), np.int32)
        for i in range(1, len(self)):
            depth[i] = depth[self.parents[i]] + 1
        return depth

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(T, T) bool: node i may see node j, which is i or an ancestor. Row i has ``depth[i] + 1`` True."""
        mask = np.eye(len(self), dtype=bool)
        for i in range(1, len(self)):
            mask[i] |= mask[self.parents[i]]
        return mask

    @cached_property
    def bits(self) -> NDArray[np.uint64]:
        """(T, ceil(T / 64)) uint64: the rows of :attr:`mask`, node j at bit ``j % 64`` of word ``j // 64``."""
        words = -(-len(self) // _WORD)
        wide = np.zeros((len(self), words * _WORD), bool)
        wide[:, : len(self)] = self.mask
        packed = np.packbits(wide, axis=1, bitorder="little")
        return packed.view("<u8").astype(np.uint64).reshape(len(self), words)

    @cached_property
    def rank(self) -> Ints:
        """(T) int32: how many smaller children its parent has; 0 for the root."""
        seen = np.zeros(len(self), np.int32)
        rank = np.zeros(len(self), np.int32)
        for i in range(1, len(self)):
            rank[i] = seen[self.parents[i]]
            seen[self.parents[i]] += 1
        return rank

    @cached_property
    def first_child(self) -> Ints:
        """(T) int32: the smallest child, -1 for a leaf."""
        first = np.full(len(self), -1, np.int32)
        for i in range(len(self) - 1, 0, -1):
            first[self.parents[i]] = i
        return first

    @cached_property
    def next_sibling(self) -> Ints:
        """(T) int32: the next larger child of the same parent, -1 for the last."""
        after = np.full(len(self), -1, np.int32)
        latest = np.full(len(self), -1, np.int32)
        for i in range(len(self) - 1, 0, -1):
            after[i] = latest[self.parents[i]]
            latest[self.parents[i]] = i
        return after

    @cached_property
    def subtree_sizes(self) -> Ints:
        """(T) int32: nodes below, itself included."""
        sizes = np.ones(len(self), np.int32)
        for i in range(len(self) - 1, 0, -1):
            sizes[self.parents[i]] += sizes[i]
        return sizes

    @property
    def leaves(self) -> Ints:
        """Nodes without a child, ascending."""
        return np.flatnonzero(self.first_child < 0).astype(np.int32)

    def positions(self, prefix_length: int) -> NDArray[np.int64]:
        """(T) int64 position ids behind a prefix that does not count the root: ``prefix_length + depth``."""
        return self.depth.astype(np.int64) + prefix_length

    def path(self, node: int) -> list[int]:
        """The nodes from the root down to one.

        >>> TokenTree([-1, 0, 0, 2]).path(3)
        [0, 2, 3]
        """
        if not 0 <= node < len(self):
            raise ValueError(f"TokenTree: node must be in [0, {len(self)}), got {node}")
        way = [node]
        while self.parents[way[-1]] >= 0:
            way.append(int(self.parents[way[-1]]))
        return way[::-1]

    def paths(self, order: PathOrder = "ascending") -> Ints:
        """(leaves, max depth + 1) int32: the nodes from the root to every leaf, then -1.

        Args:
            order: "ascending" by leaf (EAGLE, Token Recycling), "descending" by leaf (Medusa), or "lexicographic" by
                row with -1 after every node (EAGLE when it samples).

        >>> TokenTree([-1, 0, 0, 1]).paths()
        array([[ 0,  2, -1],
               [ 0,  1,  3]], dtype=int32)
        """
        if order not in ("ascending", "descending", "lexicographic"):
            raise ValueError(f"TokenTree: order must be ascending, descending or lexicographic, got {order!r}")
        rows: Ints = np.full((len(self.leaves), int(self.depth.max()) + 1), -1, np.int32)
        for row, leaf in zip(rows, self.leaves, strict=True):
            row[: self.depth[leaf] + 1] = self.path(int(leaf))
        if order == "descending":
            rows = rows[::-1].copy()
        if order == "lexicographic":
            last_first = np.where(rows < 0, len(self), rows).T[::-1]
            rows = rows[np.lexsort(last_first)]
        return rows

    def depth_first(self, heavy_first: bool = False) -> Ints:
        """(T) int32: the nodes in depth-first order, children in their order or the largest subtree first.

        Neighbours in that order share ancestors, so that fewer blocks of the mask hold a True (section 4 of DySpec,
        arXiv 2410.11744).

        >>> TokenTree([-1, 0, 0, 1]).depth_first()
        array([0, 1, 3, 2], dtype=int32)
        """
        children: list[list[int]] = [[] for _ in range(len(self))]
        for i in range(1, len(self)):
            children[self.parents[i]].append(i)
        order: list[int] = []
        waiting = [0]
        while waiting:
            node = waiting.pop()
            order.append(node)
            below = children[node]
            if heavy_first:
                below = sorted(below, key=lambda i: -self.subtree_sizes[i])
            waiting.extend(reversed(below))
        return np.array(order, np.int32)

    def reordered(self, order: ArrayLike) -> TokenTree:
        """The same tree with its nodes renumbered: new node i is old node ``order[i]``.

        Raises:
            ValueError: not a permutation, or a node would come before its parent.

        >>> TokenTree([-1, 0, 0, 1]).reordered([0, 1, 3, 2])
        TokenTree([-1, 0, 1, 0])
        """
        new = np.asarray(order, np.int64)
        if not np.array_equal(np.sort(new), np.arange(len(self))):
            raise ValueError(f"TokenTree: order must be a permutation of {len(self)} nodes, got {new.tolist()}")
        place = np.empty(len(self), np.int64)
        place[new] = np.arange(len(self))
        old_parents = self.parents[new]
        return TokenTree(np.where(old_parents < 0, -1, place[old_parents]))

    def mask_blocks(self, block: int = 32, prefix_length: int = 0) -> int:
        """How many block x block tiles of :attr:`mask`, behind keys that every node sees, hold a True: what a
        block-sparse kernel computes.

        >>> TokenTree.chain(64).mask_blocks()
        3
        """
        if block < 1:
            raise ValueError(f"TokenTree: block must be at least 1, got {block}")
        if prefix_length < 0:
            raise ValueError(f"TokenTree: prefix_length must be at least 0, got {prefix_length}")
        nodes, visible = np.nonzero(self.mask)
        tiles = np.zeros((-(-len(self) // block), -(-(prefix_length + len(self)) // block)), bool)
        tiles[:, : -(-prefix_length // block)] = True
        tiles[nodes // block, (prefix_length + visible) // block] = True
        return int(np.count_nonzero(tiles))

    def packed_mask(self, prefix_length: int = 0) -> NDArray[np.uint8]:
        """The mask over prefix and tree as FlashInfer packs one request: row-major, eight to a byte, lowest bit first.

        Returns:
            (ceil(T * (prefix_length + T) / 8)) uint8.

        >>> TokenTree([-1, 0]).packed_mask(1)
        array([59], dtype=uint8)
        """
        if prefix_length < 0:
            raise ValueError(f"TokenTree: prefix_length must be at least 0, got {prefix_length}")
        seen = np.concatenate([np.ones((len(self), prefix_length), bool), self.mask], 1)
        return np.packbits(seen.reshape(-1), bitorder="little")


def _follow(child: NDArray[np.int64], sibling: NDArray[np.int64]) -> NDArray[np.int64]:
    """The parent of every node; ValueError unless every node but 0 is reached, once."""
    nodes = len(child)
    parents = np.full(nodes, -1, np.int64)
    for node in range(nodes):
        at = int(child[node])
        while at != -1:
            if not 0 < at < nodes or parents[at] != -1:
                raise ValueError(f"TokenTree: links must reach each node in [1, {nodes}) once, got {at} from {node}")
            parents[at] = node
            at = int(sibling[at])
    if np.count_nonzero(parents < 0) > 1:
        missed = int(np.flatnonzero(parents[1:] < 0)[0]) + 1
        raise ValueError(f"TokenTree: links must reach each node in [1, {nodes}) once, got {missed} never")
    return parents


def _by_depth(child: NDArray[np.int64], sibling: NDArray[np.int64]) -> Ints:
    """Every node in breadth-first order; ValueError where links go round."""
    order = [0]
    for node in order:
        at = int(child[node])
        while at != -1:
            order.append(at)
            at = int(sibling[at])
    if len(order) != len(child):
        raise ValueError("TokenTree: links must lead from node 0 to every other, got some that go round")
    return np.array(order, np.int32)


def _check_parents(parents: NDArray[Any]) -> None:
    nodes = np.arange(len(parents))
    if parents[0] != -1:
        raise ValueError(f"TokenTree: parents must begin with -1, the root's, got {parents[0]}")
    wrong = np.flatnonzero((nodes > 0) & ((parents < 0) | (parents >= nodes)))
    if len(wrong):
        at = wrong[0]
        raise ValueError(f"TokenTree: parents must be smaller than their nodes, got {parents[at]} for node {at}")
