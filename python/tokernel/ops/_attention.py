# SPDX-License-Identifier: Apache-2.0
"""Family attention as torch ops: the core, differentiable in q, k, v and the bias of keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.kernels._arrays import extension_of
from tokernel.kernels.attention import Dense, Policy
from tokernel.kernels.attention._policy import Parts, Tools
from tokernel.ops._torch_op import define

__all__ = ["attention"]


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
_TOOLS = Tools(_block_offsets, _pack_ancestors)


def parts_of(op: str, policy: Policy, q: Tensor, k: Tensor) -> Parts:
    """Describe a policy for a call on q (B, H, Nq, D) and k (B, G, Nk, D)."""
    for name, x in (("q", q), ("k", k)):
        if x.dim() != 4:
            raise ValueError(f"{op}: {name} must have 4 dimensions (batch, heads, tokens, width), got {x.dim()}")
    return policy.parts(q.shape[2], k.shape[2], _TOOLS)


def _attention_kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kind: str,
    numbers: list[int],
    arrays: list[Tensor],
    key_bias: Tensor | None,
    scale: float | None,
    extra: float,
) -> Any:
    extension = extension_of("attention", "q", q)
    return extension.attention(q, k, v, kind, tuple(numbers), tuple(arrays), key_bias, scale, extra, True, None, None)


def _attention_fake(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.float32)


_attention = define(
    "attention(Tensor q, Tensor k, Tensor v, str kind, SymInt[] numbers, Tensor[] arrays, Tensor? key_bias, "
    "float? scale, float extra) -> (Tensor, Tensor)",
    _attention_kernel,
    _attention_fake,
    batched=False,
)

_DENSE = Dense()


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    policy: Policy = _DENSE,
    *,
    scale: float | None = None,
    key_bias: Tensor | None = None,
    return_lse: bool = False,
    extra_denominator: float = 0.0,
) -> Any:
    """Attend, as :func:`tokernel.kernels.attention.attention`."""
    parts = parts_of("attention", policy, q, k)
    out, lse = _attention(q, k, v, parts.kind, parts.numbers, parts.arrays, key_bias, scale, extra_denominator)
    return (out, lse) if return_lse else out
