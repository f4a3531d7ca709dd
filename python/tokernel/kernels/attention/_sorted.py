# SPDX-License-Identifier: Apache-2.0
"""The ops of the family under a policy that sorts tokens: sort, run the op on segments, go back.

`by` is the op itself, of `kernels` or of `ops`, and `moves` its fellows that move rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokernel.kernels._arrays import Array
from tokernel.kernels.attention._order import Moves, Reordering
from tokernel.kernels.attention._policy import check_ranks

__all__ = ["sorted_attention", "sorted_column_sums", "sorted_rows"]


def sorted_attention(
    by: Callable[..., Any],
    moves: Moves,
    arrays: tuple[Array, Array, Array],
    policy: Reordering,
    options: dict[str, Any],
    out: Array | None = None,
    lse: Array | None = None,
) -> Any:
    """Attend with options scale, key_bias, return_lse and extra_denominator."""
    q, k, v = arrays
    check_ranks("attention", q=q, k=k, v=v)
    order = policy.arrange("attention", q, k, moves)
    options = {**options, "key_bias": order.bias(options["key_bias"])}
    if order.perm_q is None and (out is not None or lse is not None):
        options |= {"out": out, "lse": lse}
    results = by(order.queries(q), order.keys(k), order.keys(v), order.segments, **options)
    if not options["return_lse"]:
        return order.queries_back(results, out)
    o, sums = results
    wide = None if lse is None else lse.reshape(*lse.shape, 1)
    back = order.queries_back(sums[..., None], wide)[..., 0]
    return order.queries_back(o, out), back if lse is None else lse


def sorted_rows(
    by: Callable[..., Any],
    moves: Moves,
    arrays: tuple[Array, Array, Array, Array],
    policy: Reordering,
    options: dict[str, Any],
) -> Array:
    """Show rows of the map, with options scale and key_bias."""
    q, k, rows, lse = arrays
    check_ranks("attention_rows", q=q, k=k)
    order = policy.arrange("attention_rows", q, k, moves)
    options = {**options, "key_bias": order.bias(options["key_bias"])}
    lse = order.queries(lse[..., None])[..., 0]
    return order.columns_back(by(order.queries(q), order.keys(k), order.rows(rows), lse, order.segments, **options))


def sorted_column_sums(
    by: Callable[..., Any],
    moves: Moves,
    arrays: tuple[Array, Array, Array],
    policy: Reordering,
    options: dict[str, Any],
) -> Array:
    """Add up columns of the map, with options scale, key_bias and query_weight."""
    q, k, lse = arrays
    check_ranks("attention_column_sums", q=q, k=k)
    order = policy.arrange("attention_column_sums", q, k, moves)
    options = {
        **options,
        "key_bias": order.bias(options["key_bias"]),
        "query_weight": order.weight(options["query_weight"]),
    }
    lse = order.queries(lse[..., None])[..., 0]
    return order.columns_back(by(order.queries(q), order.keys(k), lse, order.segments, **options))
