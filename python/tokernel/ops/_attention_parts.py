# SPDX-License-Identifier: Apache-2.0
"""How a mask policy crosses torch's dispatcher: its parts as arguments of an op."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokernel.kernels._arrays import Array, extension_of
from tokernel.kernels.attention import Policy
from tokernel.kernels.attention._policy import Tools, check_ranks
from tokernel.ops._torch_op import define

__all__ = ["MOST_ARRAYS", "arrays_given", "spread_parts"]


def _block_offsets_kernel(sizes: Tensor, total: int, name: str) -> Any:
    return extension_of("block_offsets", name, sizes).block_offsets(sizes, total, name)


def _pack_ancestors_kernel(ancestors: Tensor) -> Any:
    return extension_of("pack_ancestors", "ancestors", ancestors).pack_ancestors(ancestors)


_block_offsets = define(
    "block_offsets(Tensor sizes, SymInt total, str name) -> Tensor",
    _block_offsets_kernel,
    lambda sizes, total, name: sizes.new_empty((sizes.shape[0], sizes.shape[1] + 1), dtype=torch.int64),
)
_pack_ancestors = define(
    "pack_ancestors(Tensor ancestors) -> Tensor",
    _pack_ancestors_kernel,
    lambda seen: seen.new_empty((seen.shape[0], (seen.shape[1] + 63) // 64), dtype=torch.int64),
)


def _tensor(x: Array) -> Tensor:
    """Arrays of other frameworks may describe a policy as well."""
    return x if isinstance(x, Tensor) else torch.as_tensor(np.array(x))


_TOOLS = Tools(
    lambda sizes, total, name: _block_offsets(_tensor(sizes), total, name),
    lambda ancestors: _pack_ancestors(_tensor(ancestors)),
)

# The arrays of a policy cross the dispatcher one by one: torch's gradients of lists are a world of their own.
MOST_ARRAYS = 3


def spread_parts(op: str, policy: Policy, q: Tensor, k: Tensor) -> tuple[Any, ...]:
    """Describe a policy for a call on q (B, H, Nq, D) and k (B, G, Nk, D): kind, numbers, and three tensors or None."""
    check_ranks(op, q=q, k=k)
    parts = policy.parts(q.shape[2], k.shape[2], _TOOLS)
    arrays = tuple(x if isinstance(x, Tensor) else _tensor(x).to(q.device) for x in parts.arrays)
    return (parts.kind, parts.numbers, *arrays, *(None,) * (MOST_ARRAYS - len(arrays)))


def arrays_given(*arrays: Tensor | None) -> tuple[Tensor, ...]:
    """Drop what stands for an array that a policy does not have."""
    return tuple(x for x in arrays if x is not None)
