# SPDX-License-Identifier: Apache-2.0
"""Family tree as torch ops: the key-value cache and the table of followers, both changed in place."""

from __future__ import annotations

import torch
from torch import Tensor

from tokernel.kernels import tree as kernels
from tokernel.ops._torch_op import define, define_in_place
from tokernel.ops._tree_parents import Trees, parents_of

__all__ = ["build_tree", "compact_cache", "update_adjacency"]


def _fake_lengths(cache: Tensor, lengths: Tensor, path: Tensor, pages: Tensor | None) -> Tensor:
    return lengths.new_empty(lengths.shape, dtype=torch.int64)


def _fake_tokens(adjacency: Tensor, root: Tensor, parents: Tensor, rank: Tensor | None) -> Tensor:
    return root.new_empty((root.shape[0], parents.shape[-1]), dtype=torch.int64)


def _fake_update(adjacency: Tensor, tokens: Tensor, candidates: Tensor) -> None:
    return None


_compact_cache = define_in_place(
    "compact_cache(Tensor(a!) cache, Tensor lengths, Tensor path, Tensor? pages) -> Tensor",
    kernels.compact_cache,
    _fake_lengths,
)
_build_tree = define(
    "build_tree(Tensor adjacency, Tensor root, Tensor parents, Tensor? rank) -> Tensor",
    kernels.build_tree,
    _fake_tokens,
    batched=False,
)
_update_adjacency = define_in_place(
    "update_adjacency(Tensor(a!) adjacency, Tensor tokens, Tensor candidates) -> ()",
    kernels.update_adjacency,
    _fake_update,
)


def compact_cache(cache: Tensor, lengths: Tensor, path: Tensor, pages: Tensor | None = None) -> Tensor:
    """Move the cache rows of an accepted path behind the prefix, in place, and return the new lengths. Torch form of
    :func:`tokernel.kernels.tree.compact_cache`, which states the rules.

    Args:
        cache: (B, G, S, D) or (L, B, G, S, D) float32, float16 or bfloat16, any outer strides. Changed.
        lengths: (B) int64 or int32, rows before the root's.
        path: (B, A) int64 or int32: the accepted nodes in ascending order, then -1.
        pages: (B, M) int64 or int32 for a paged cache, (P, G, R, D) or (L, P, G, R, D).

    Returns:
        (B) int64: lengths plus the number of nodes on each path.

    >>> cache = torch.arange(5.0).reshape(1, 1, 5, 1)
    >>> compact_cache(cache, torch.tensor([1]), torch.tensor([[0, 2, 3, -1]])), cache.flatten()
    (tensor([4]), tensor([0., 1., 3., 4., 4.]))
    """
    return _compact_cache(cache, lengths, path, pages)  # type: ignore[no-any-return]


def build_tree(adjacency: Tensor, root: Tensor, tree: Trees, rank: Tensor | None = None) -> Tensor:
    """Fill a tree with draft tokens: ``tokens[b, i] = adjacency[tokens[b, parent_i], rank_i]``. Torch form of
    :func:`tokernel.kernels.tree.build_tree`.

    Args:
        adjacency: (V, K) int64 or int32: the candidates behind every token, best first.
        root: (B) int64 or int32.
        tree: a TokenTree, a list of B of them, or parents (T) or (B, T).
        rank: (T) or (B, T) int64 or int32; None: how many smaller children the parent has.

    Returns:
        (B, T) int64; -1 where a tree is padded.

    >>> build_tree(torch.tensor([[1, 2], [2, 0], [0, 1]]), torch.tensor([0]), torch.tensor([-1, 0, 0, 1]))
    tensor([[0, 1, 2, 2]])
    """
    return _build_tree(adjacency, root, parents_of("build_tree", tree, root), rank)  # type: ignore[no-any-return]


def update_adjacency(adjacency: Tensor, tokens: Tensor, candidates: Tensor) -> None:
    """Write what the model thinks follows each token into the table, in place; the last of equal tokens wins. Torch
    form of :func:`tokernel.kernels.tree.update_adjacency`.

    Args:
        adjacency: (V, K) int64 or int32. Changed.
        tokens: (B, T) int64 or int32; -1 is skipped.
        candidates: (B, T, K) int64 or int32.

    >>> follows = torch.zeros(3, 2, dtype=torch.int64)
    >>> update_adjacency(follows, torch.tensor([[2, 1]]), torch.tensor([[[0, 1], [2, 0]]]))
    >>> follows
    tensor([[0, 0],
            [2, 0],
            [0, 1]])
    """
    _update_adjacency(adjacency, tokens, candidates)
