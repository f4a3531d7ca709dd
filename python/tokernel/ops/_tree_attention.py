# SPDX-License-Identifier: Apache-2.0
"""Family tree as torch ops: attention of trees of draft tokens."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from tokernel.kernels._arrays import extension_of
from tokernel.ops._torch_op import define
from tokernel.ops._tree_parents import Trees, parents_of

__all__ = ["tree_attention"]


def _kernel(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor | None,
    length: int,
    parents: Tensor,
    scale: float | None,
    pages: Tensor | None,
    with_lse: bool,
) -> Any:
    extension = extension_of("tree_attention", "q", q)
    results = extension.tree_attention(
        q, k_cache, v_cache, lengths, length, parents, scale, pages, with_lse, None, None
    )
    return results if with_lse else (results, q.new_empty((0,), dtype=torch.float32))


def _fake(q: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    with_lse = args[-1]
    return q.new_empty(q.shape), q.new_empty(q.shape[:3] if with_lse else (0,), dtype=torch.float32)


_tree_attention = define(
    "tree_attention(Tensor q, Tensor k_cache, Tensor v_cache, Tensor? lengths, SymInt length, Tensor parents, "
    "float? scale, Tensor? pages, bool with_lse) -> (Tensor, Tensor)",
    _kernel,
    _fake,
    batched=False,
)


@overload
def tree_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor | int,
    tree: Trees,
    scale: float | None = ...,
    pages: Tensor | None = ...,
    return_lse: Literal[False] = ...,
) -> Tensor: ...


@overload
def tree_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor | int,
    tree: Trees,
    scale: float | None = ...,
    pages: Tensor | None = ...,
    *,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def tree_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor | int,
    tree: Trees,
    scale: float | None = None,
    pages: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Let every node of a tree of draft tokens attend to the prefix of its sequence, to its ancestors and to itself.
    Torch form of :func:`tokernel.kernels.tree.tree_attention`, which states padding, NaN and determinism.

    Without gradient: for inference.

    Args:
        q: (B, H, T, D) float32, float16 or bfloat16, D from 1 to 256; any outer strides.
        k_cache: (B, G, S, D) of the dtype of q, any outer strides; H is a multiple of G. With pages: (P, G, R, D).
        v_cache: as k_cache.
        lengths: (B,) int64 or int32, or an int for all: rows of the prefix; the nodes' rows follow.
        tree: a TokenTree of T nodes, a list of B of them, or parents (T,) or (B, T) int64 or int32, -1 for node 0 and,
            behind the last node, for padding.
        scale: of the products; None is ``D ** -0.5``.
        pages: (B, M) int64 or int32: row j of sequence b is row ``j % R`` of page ``pages[b, j // R]``.
        return_lse: also return the logarithm of the sum of exp(scores).

    Returns:
        (B, H, T, D) of the dtype of q; with return_lse a (B, H, T) float32 tensor besides.

    >>> import torch
    >>> from tokernel.kernels.tree import TokenTree
    >>> v = torch.arange(6.0).reshape(1, 1, 6, 1)
    >>> tree_attention(torch.zeros(1, 1, 3, 1), 0 * v, v, 2, TokenTree([-1, 0, 0])).flatten()
    tensor([1.0000, 1.5000, 1.7500])
    """
    parents = parents_of("tree_attention", tree, q)
    given, length = (None, lengths) if isinstance(lengths, int) else (lengths, 0)
    o, lse = _tree_attention(q, k_cache, v_cache, given, length, parents, scale, pages, return_lse)
    return (o, lse) if return_lse else o
