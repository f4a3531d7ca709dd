# SPDX-License-Identifier: Apache-2.0
"""Parts and sums of the attention map, without storing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from tokernel.kernels._arrays import Array, extension_of
from tokernel.kernels.attention._order import Moves, Reordering
from tokernel.kernels.attention._policy import Dense, Policy, parts_of
from tokernel.kernels.attention._sorted import sorted_column_sums, sorted_rows
from tokernel.kernels.cluster import inverse_permute_rows, permute_rows, sort_by_label

__all__ = ["MOVES", "Extras", "ExtrasResult", "attention_column_sums", "attention_rows"]

MOVES = Moves(sort_by_label, permute_rows, inverse_permute_rows)
_DENSE = Dense()


@dataclass(frozen=True, eq=False)
class Extras:
    """What else :func:`attention` shall return about its map.

    Args:
        rows: int64 or int32 (R) or (B, R): queries whose row of the map is wanted, see :func:`attention_rows`.
        column_sums: the attention that each key receives, see :func:`attention_column_sums`.
        over_heads, key_groups, groups, query_weight: of the column sums.

    >>> Extras(column_sums=True, over_heads=True).over_heads
    True
    """

    rows: Array | None = None
    column_sums: bool = False
    over_heads: bool = False
    key_groups: Array | None = None
    groups: int | None = None
    query_weight: Array | None = None


class ExtrasResult(NamedTuple):
    """What was asked for with :class:`Extras`, None for what was not."""

    rows: Array | None
    column_sums: Array | None


def extras_of(
    q: Array, k: Array, lse: Array, policy: Policy, extras: Extras, scale: float | None, key_bias: Array | None, by: Any
) -> ExtrasResult:
    """Answer `extras` with the functions attention_rows and attention_column_sums of module `by`."""
    rows = sums = None
    if extras.rows is not None:
        rows = by.attention_rows(q, k, extras.rows, lse, policy, scale=scale, key_bias=key_bias)
    if extras.column_sums:
        sums = by.attention_column_sums(
            q,
            k,
            lse,
            policy,
            scale=scale,
            key_bias=key_bias,
            query_weight=extras.query_weight,
            over_heads=extras.over_heads,
            key_groups=extras.key_groups,
            groups=extras.groups,
        )
    return ExtrasResult(rows, sums)


def check_groups(key_groups: Array | None, groups: int | None) -> None:
    """Refuse groups without their number, and the other way round."""
    if (key_groups is None) != (groups is None):
        given, missing = ("groups", "key_groups") if key_groups is None else ("key_groups", "groups")
        raise ValueError(f"attention_column_sums: {missing} must be given together with {given}, got None")


def attention_rows(
    q: Array,
    k: Array,
    rows: Array,
    lse: Array,
    policy: Policy = _DENSE,
    *,
    scale: float | None = None,
    key_bias: Array | None = None,
) -> Array:
    """Show chosen rows of the attention map: ``p_ij = exp(s_ij - lse_i)``, 0 for a key that query i does not see.

    ``s_ij = scale * <q_i, k_j> + key_bias_j``, computed anew for the rows that are asked for, in float32. A query with
    lse -inf gives zeros. A NaN shows in the keys that its query sees; NaN keys that are hidden give 0. No gradient.

    Args:
        q: (B, H, Nq, D) float32, float16 or bfloat16 (float64 on backend ref), D from 1 to 256; any outer strides.
        k: (B, G, Nk, D) of the dtype of q; H is a multiple of G.
        rows: int64 or int32 (R), the same for all samples, or (B, R), in [0, Nq). On a device another row gives zeros.
        lse: (B, H, Nq) float32 (float64 for float64), as :func:`attention` returns it for the same policy, scale,
            bias and extra denominator.
        policy, scale, key_bias: as in :func:`attention`.

    Returns:
        (B, H, R, Nk) float32.

    Raises:
        ValueError: a rank or extent does not fit, the policy does not fit, or a row is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> from tokernel.kernels.attention import Causal, attention
    >>> q = np.zeros((1, 1, 4, 2), dtype=np.float32)
    >>> _, lse = attention(q, q, q, Causal(), return_lse=True)
    >>> attention_rows(q, q, np.array([1]), lse, Causal())
    array([[[[0.5, 0.5, 0. , 0. ]]]], dtype=float32)
    """
    if isinstance(policy, Reordering):
        options = {"scale": scale, "key_bias": key_bias}
        return sorted_rows(attention_rows, MOVES, (q, k, rows, lse), policy, options)
    parts = parts_of("attention_rows", policy, q, k)
    extension = extension_of("attention_rows", "q", q)
    return extension.attention_rows(q, k, rows, lse, *parts, key_bias, scale)


def attention_column_sums(
    q: Array,
    k: Array,
    lse: Array,
    policy: Policy = _DENSE,
    *,
    scale: float | None = None,
    key_bias: Array | None = None,
    query_weight: Array | None = None,
    over_heads: bool = False,
    key_groups: Array | None = None,
    groups: int | None = None,
) -> Array:
    """Add up how much attention every key receives: ``sum_j = sum over i of weight_i * exp(s_ij - lse_i)``.

    The map is computed anew, tile by tile, and never stored. Sums are float32 in an order given by the extents alone:
    the bits do not depend on the number of threads. A query with lse -inf adds nothing, and one of weight 0 is left
    out whatever it holds; any other NaN shows in the keys that its query sees. No gradient.

    Args:
        q: (B, H, Nq, D) float32, float16 or bfloat16 (float64 on backend ref), D from 1 to 256; any outer strides.
        k: (B, G, Nk, D) of the dtype of q; H is a multiple of G.
        lse: (B, H, Nq) float32 (float64 for float64), as :func:`attention` returns it for the same policy, scale,
            bias and extra denominator.
        policy, scale, key_bias: as in :func:`attention`.
        query_weight: (Nq) or (B, Nq) float32, or None for ones.
        over_heads: add up over the heads as well.
        key_groups: int64 or int32 (Nk) or (B, Nk) in [-1, groups): add up over the keys of a group; -1 is in none.
        groups: number of groups; with key_groups only.

    Returns:
        float32 (B, H, Nk); without H with over_heads, and `groups` wide with key_groups.

    Raises:
        ValueError: a rank or extent does not fit, the policy does not fit, a group is out of range, or one of
            key_groups and groups comes without the other.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> from tokernel.kernels.attention import Causal, attention
    >>> q = np.zeros((1, 1, 2, 2), dtype=np.float32)
    >>> _, lse = attention(q, q, q, Causal(), return_lse=True)
    >>> attention_column_sums(q, q, lse, Causal())
    array([[[1.5, 0.5]]], dtype=float32)
    """
    check_groups(key_groups, groups)
    extension = extension_of("attention_column_sums", "q", q)
    if isinstance(policy, Reordering):
        options = {"scale": scale, "key_bias": key_bias, "query_weight": query_weight}
        sums = sorted_column_sums(attention_column_sums, MOVES, (q, k, lse), policy, options)
    else:
        parts = parts_of("attention_column_sums", policy, q, k)
        sums = extension.attention_column_sums(q, k, lse, *parts, key_bias, scale, query_weight, key_groups, groups)
    if over_heads or key_groups is not None:
        return extension.fold_columns(sums, over_heads, key_groups, groups)
    return sums
