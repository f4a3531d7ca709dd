# SPDX-License-Identifier: Apache-2.0
"""The argument `tree` of torch ops over trees of draft tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from tokernel.kernels.tree import TokenTree
from tokernel.kernels.tree._parents import pad_parents

__all__ = ["Trees", "parents_of"]

Trees: TypeAlias = TokenTree | Sequence[TokenTree] | Tensor
"""One tree for every sequence, a tree per sequence, or parents: (T) or (B, T) int64 or int32, -1 for node 0 and, behind
the last node, for padding."""


def parents_of(op: str, tree: Trees, like: Tensor) -> Tensor:
    """Return the parents of any argument `tree` on the device of `like`: (T) for one tree, (B, T) for a list of trees,
    padded with -1. Tensors are returned as they are; the extension checks them."""
    if isinstance(tree, TokenTree):
        return torch.from_numpy(tree.parents.astype(np.int64)).to(like.device)
    if isinstance(tree, list | tuple):
        return torch.from_numpy(pad_parents(op, tree)).to(like.device)
    return tree  # type: ignore[return-value]  # of no other type, or the extension says so
