# SPDX-License-Identifier: Apache-2.0
"""Family attention as torch ops: parts and sums of the map. No gradient: differentiate the attention itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.kernels._arrays import extension_of
from tokernel.kernels.attention import Dense, Policy
from tokernel.kernels.attention._map import check_groups
from tokernel.kernels.attention._order import Moves, Reordering
from tokernel.kernels.attention._sorted import sorted_column_sums, sorted_rows
from tokernel.ops._attention_parts import arrays_given, spread_parts
from tokernel.ops._cluster_order import inverse_permute_rows, permute_rows, sort_by_label
from tokernel.ops._torch_op import define

__all__ = ["MOVES", "attention_column_sums", "attention_rows"]

MOVES = Moves(sort_by_label, permute_rows, inverse_permute_rows)
_POLICY = "str kind, SymInt[] numbers, Tensor? first, Tensor? second, Tensor? third, Tensor? key_bias, float? scale"
_DENSE = Dense()


def _rows_kernel(
    q: Tensor,
    k: Tensor,
    rows: Tensor,
    lse: Tensor,
    kind: str,
    numbers: list[int],
    first: Tensor | None,
    second: Tensor | None,
    third: Tensor | None,
    key_bias: Tensor | None,
    scale: float | None,
) -> Any:
    extension = extension_of("attention_rows", "q", q)
    arrays = arrays_given(first, second, third)
    return extension.attention_rows(q, k, rows, lse, kind, tuple(numbers), arrays, key_bias, scale)


def _rows_fake(q: Tensor, k: Tensor, rows: Tensor, *_: Any) -> Tensor:
    return q.new_empty((*q.shape[:2], rows.shape[-1], k.shape[2]), dtype=torch.float32)


_attention_rows = define(
    f"attention_rows(Tensor q, Tensor k, Tensor rows, Tensor lse, {_POLICY}) -> Tensor",
    _rows_kernel,
    _rows_fake,
    batched=False,
)


def _sums_kernel(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    kind: str,
    numbers: list[int],
    first: Tensor | None,
    second: Tensor | None,
    third: Tensor | None,
    key_bias: Tensor | None,
    scale: float | None,
    query_weight: Tensor | None,
) -> Any:
    extension = extension_of("attention_column_sums", "q", q)
    parts = (kind, tuple(numbers), arrays_given(first, second, third))
    return extension.attention_column_sums(q, k, lse, *parts, key_bias, scale, query_weight, None, None)


def _sums_fake(q: Tensor, k: Tensor, *_: Any) -> Tensor:
    return q.new_empty((*q.shape[:2], k.shape[2]), dtype=torch.float32)


_attention_column_sums = define(
    f"attention_column_sums(Tensor q, Tensor k, Tensor lse, {_POLICY}, Tensor? query_weight) -> Tensor",
    _sums_kernel,
    _sums_fake,
    batched=False,
)


def _fold_kernel(sums: Tensor, over_heads: bool, key_groups: Tensor | None, groups: int | None) -> Any:
    return extension_of("fold_columns", "sums", sums).fold_columns(sums, over_heads, key_groups, groups)


def _fold_fake(sums: Tensor, over_heads: bool, key_groups: Tensor | None, groups: int | None) -> Tensor:
    width = sums.shape[2] if groups is None else groups
    return sums.new_empty((*sums.shape[: 1 if over_heads else 2], width))


_fold_columns = define(
    "fold_columns(Tensor sums, bool over_heads, Tensor? key_groups, SymInt? groups) -> Tensor",
    _fold_kernel,
    _fold_fake,
    batched=False,
)


def _detached(*tensors: Tensor | None) -> tuple[Any, ...]:
    return tuple(None if x is None else x.detach() for x in tensors)


def attention_rows(
    q: Tensor,
    k: Tensor,
    rows: Tensor,
    lse: Tensor,
    policy: Policy = _DENSE,
    *,
    scale: float | None = None,
    key_bias: Tensor | None = None,
) -> Tensor:
    """Show chosen rows of the attention map. Torch form of :func:`tokernel.kernels.attention.attention_rows`.

    Args:
        q: (B, H, Nq, D) float32, float16 or bfloat16 (float64 on backend ref).
        k: (B, G, Nk, D) of the dtype of q.
        rows: int64 or int32 (R) or (B, R), in [0, Nq).
        lse: (B, H, Nq), as :func:`attention` returns it.
        policy, scale, key_bias: as in :func:`attention`.

    Returns:
        (B, H, R, Nk) float32, without gradient.

    >>> import torch
    >>> from tokernel.ops import Causal, attention
    >>> q = torch.zeros(1, 1, 4, 2)
    >>> _, lse = attention(q, q, q, Causal(), return_lse=True)
    >>> attention_rows(q, q, torch.tensor([1]), lse, Causal())
    tensor([[[[0.5000, 0.5000, 0.0000, 0.0000]]]])
    """
    q, k, lse, key_bias = _detached(q, k, lse, key_bias)
    if isinstance(policy, Reordering):
        options = {"scale": scale, "key_bias": key_bias}
        return sorted_rows(attention_rows, MOVES, (q, k, rows, lse), policy, options)  # type: ignore[no-any-return]
    parts = spread_parts("attention_rows", policy, q, k)
    out: Tensor = _attention_rows(q, k, rows, lse, *parts, key_bias, scale)
    return out


def attention_column_sums(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    policy: Policy = _DENSE,
    *,
    scale: float | None = None,
    key_bias: Tensor | None = None,
    query_weight: Tensor | None = None,
    over_heads: bool = False,
    key_groups: Tensor | None = None,
    groups: int | None = None,
) -> Tensor:
    """Add up how much attention every key receives.

    Torch form of :func:`tokernel.kernels.attention.attention_column_sums`.

    Args:
        q: (B, H, Nq, D) float32, float16 or bfloat16 (float64 on backend ref).
        k: (B, G, Nk, D) of the dtype of q.
        lse: (B, H, Nq), as :func:`attention` returns it.
        policy, scale, key_bias: as in :func:`attention`.
        query_weight: (Nq) or (B, Nq) float32, or None for ones; a query of weight 0 is left out.
        over_heads: add up over the heads as well.
        key_groups: int64 or int32 (Nk) or (B, Nk) in [-1, groups): add up over the keys of a group; -1 is in none.
        groups: number of groups; with key_groups only.

    Returns:
        float32 (B, H, Nk); without H with over_heads, and `groups` wide with key_groups. Without gradient.

    >>> import torch
    >>> from tokernel.ops import Causal, attention
    >>> q = torch.zeros(1, 1, 2, 2)
    >>> _, lse = attention(q, q, q, Causal(), return_lse=True)
    >>> attention_column_sums(q, q, lse, Causal())
    tensor([[[1.5000, 0.5000]]])
    """
    check_groups(key_groups, groups)
    q, k, lse, key_bias, query_weight = _detached(q, k, lse, key_bias, query_weight)
    sums: Tensor
    if isinstance(policy, Reordering):
        options = {"scale": scale, "key_bias": key_bias, "query_weight": query_weight}
        sums = sorted_column_sums(attention_column_sums, MOVES, (q, k, lse), policy, options)
    else:
        parts = spread_parts("attention_column_sums", policy, q, k)
        sums = _attention_column_sums(q, k, lse, *parts, key_bias, scale, query_weight)
    if over_heads or key_groups is not None:
        sums = _fold_columns(sums, over_heads, key_groups, groups)
    return sums
