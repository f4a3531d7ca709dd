# SPDX-License-Identifier: Apache-2.0
"""Attention of trees of draft tokens over a cache, contiguous or paged."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np

from tokernel.kernels._arrays import Array, extension_of
from tokernel.kernels.tree._parents import Trees, parents_of

__all__ = ["tree_attention"]


@overload
def tree_attention(
    q: Array,
    k_cache: Array,
    v_cache: Array,
    lengths: Array | int,
    tree: Trees,
    scale: float | None = ...,
    pages: Array | None = ...,
    return_lse: Literal[False] = ...,
    *,
    out: Array | None = ...,
    lse: Array | None = ...,
) -> Array: ...


@overload
def tree_attention(
    q: Array,
    k_cache: Array,
    v_cache: Array,
    lengths: Array | int,
    tree: Trees,
    scale: float | None = ...,
    pages: Array | None = ...,
    *,
    return_lse: Literal[True],
    out: Array | None = ...,
    lse: Array | None = ...,
) -> tuple[Array, Array]: ...


def tree_attention(
    q: Array,
    k_cache: Array,
    v_cache: Array,
    lengths: Array | int,
    tree: Trees,
    scale: float | None = None,
    pages: Array | None = None,
    return_lse: bool = False,
    *,
    out: Array | None = None,
    lse: Array | None = None,
) -> Any:
    """Let every node of a tree of draft tokens attend to the prefix of its sequence, to its ancestors and to itself.

    ``o_i = sum_j p_ij v_j``, ``p_ij = exp(s_ij - lse_i)``, ``s_ij = scale * <q_i, k_j>``, ``lse_i = log sum_j
    exp(s_ij)`` over the rows that node i sees: sequence b holds ``lengths[b]`` rows of prefix, then a row for each of
    its nodes. A padded node gets zeros and lse -inf, as does one whose scores are all -inf. A NaN makes the answers of
    those nodes NaN that see its row, and no others. Rows behind the last node, and pages of nothing else, are never
    read. Half-precision inputs: scores and sums in float32. The same bits for any number of threads; on the CPU also
    for pages of any size, and for a sequence alone or among others (a GPU cuts long caches by the shapes of the call).

    Args:
        q: (B, H, T, D) float32, float16 or bfloat16, D from 1 to 256; any outer strides.
        k_cache, v_cache: (B, G, S, D) of the dtype of q, any outer strides; H is a multiple of G, and query head h
            reads head ``h // (H // G)``. With pages: (P, G, R, D), P pages of R rows.
        lengths: (B,) int64 or int32, or an int for all: rows of the prefix.
        tree: a :class:`TokenTree` of T nodes, a list of B of them, or parents: (T,) or (B, T) int64 or int32, -1 for
            node 0 and, behind the last node, for padding.
        scale: of the products; None is ``D ** -0.5``.
        pages: (B, M) int64 or int32: row j of sequence b is row ``j % R`` of page ``pages[b, j // R]``.
        return_lse: also return lse.
        out, lse: arrays to fill instead of new ones.

    Returns:
        (B, H, T, D) of the dtype of q; with return_lse a (B, H, T) float32 array besides.

    Raises:
        ValueError: a rank or extent does not fit; a parent does not come before its node; no node, or more than 4096;
            a length is negative or leaves no room for the nodes; a page that is needed is outside [0, P).
        TypeError: not an array, or a dtype that is not listed.

    >>> v = np.arange(6, dtype=np.float32).reshape(1, 1, 6, 1)
    >>> q = np.zeros((1, 1, 3, 1), np.float32)
    >>> o, lse = tree_attention(q, 0 * v, v, 2, np.array([-1, 0, 0]), return_lse=True)  # rows 0 and 1 are the prefix
    >>> o[0, 0, :, 0], np.exp(lse[0, 0]).round(4)
    (array([1.  , 1.5 , 1.75], dtype=float32), array([3., 4., 4.], dtype=float32))

    Section 2 of the tree attention of SpecInfer (arXiv 2305.09781), Medusa (2401.10774) and EAGLE-2 (2406.16858).
    """
    extension = extension_of("tree_attention", "q", q)
    parents = parents_of("tree_attention", tree, q)
    rows = (None, lengths) if isinstance(lengths, int | np.integer) else (lengths, 0)
    return extension.tree_attention(q, k_cache, v_cache, *rows, parents, scale, pages, return_lse, out, lse)
