# SPDX-License-Identifier: Apache-2.0
"""Family tree as torch ops: which draft tokens a target keeps."""

from __future__ import annotations

import torch
from torch import Tensor

from tokernel.kernels import tree as kernels
from tokernel.kernels.tree import Verified
from tokernel.ops._torch_op import define
from tokernel.ops._tree_parents import Trees, parents_of

__all__ = ["verify_greedy"]

_Walk = tuple[Tensor, Tensor, Tensor]


def _walk_like(tokens: Tensor) -> _Walk:
    path = tokens.new_empty(tokens.shape, dtype=torch.int64)
    accepted, bonus = (tokens.new_empty(tokens.shape[:-1], dtype=torch.int64) for _ in range(2))
    return path, accepted, bonus


_verify_greedy = define(
    "verify_greedy(Tensor tokens, Tensor target, Tensor parents) -> (Tensor, Tensor, Tensor)",
    lambda tokens, target, parents: tuple(kernels.verify_greedy(tokens, target, parents)),
    lambda tokens, target, parents: _walk_like(tokens),
    shared=(2,),
)


def verify_greedy(tokens: Tensor, target: Tensor, tree: Trees) -> Verified:
    """Follow the target's own choices down a tree of draft tokens, as far as the draft foresaw them. Torch form of
    :func:`tokernel.kernels.tree.verify_greedy`, without gradient.

    Args:
        tokens: (B, T) or (T) int64 or int32: the draft tokens of the nodes; that of node 0 is not read.
        target: of the shape of tokens, int64 or int32: the argmax of the target's logits behind each node.
        tree: a TokenTree, a list of one per sequence, or parents (T) or (B, T), -1 behind the last node.

    Returns:
        Verified of path (B, T) int64, the kept nodes and then -1; accepted (B) int64; and bonus (B) int64.

    >>> from tokernel.kernels.tree import TokenTree
    >>> tokens, target = torch.tensor([[9, 4, 5, 6]]), torch.tensor([[5, 0, 6, 7]])
    >>> verify_greedy(tokens, target, TokenTree([-1, 0, 0, 2])).path
    tensor([[ 0,  2,  3, -1]])
    """
    parents = parents_of("verify_greedy", tree, tokens)
    if tokens.dim() != 1:
        return Verified(*_verify_greedy(tokens, target, parents))
    return Verified(*(found[0] for found in _verify_greedy(tokens[None], target[None], parents)))
