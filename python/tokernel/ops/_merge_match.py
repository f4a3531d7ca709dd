# SPDX-License-Identifier: Apache-2.0
"""Family merge as torch ops: who merges with whom. No gradient: the answers are decisions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.kernels import merge as kernels
from tokernel.ops._torch_op import define

Lists = tuple[Tensor, Tensor, Tensor, Tensor]


def _cosine_match_fake(a: Tensor, b: Tensor, mask_a: Tensor | None, mask_b: Tensor | None) -> tuple[Tensor, Tensor]:
    shape = (a.shape[0], a.shape[1])
    return a.new_empty(shape, dtype=torch.float32), a.new_empty(shape, dtype=torch.int64)


_cosine_match = define(
    "cosine_match(Tensor a, Tensor b, Tensor? mask_a, Tensor? mask_b) -> (Tensor, Tensor)",
    kernels.cosine_match,
    _cosine_match_fake,
)


def cosine_match(
    a: Tensor, b: Tensor, mask_a: Tensor | None = None, mask_b: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the most similar row of b for every row of a. Torch form of
    :func:`tokernel.kernels.merge.cosine_match`, without gradient.

    Args:
        a: (B, Na, D) float32, float16 or bfloat16, strided views included.
        b: (B, Nb, D) of the dtype of a.
        mask_a, mask_b: (B, Na) and (B, Nb) bool, True where a row may find, or be, a partner.

    Returns:
        score (B, Na) float32 and index (B, Na) int64, the lowest one of equals.

    >>> cosine_match(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 2.0], [3.0, 0.0]]]))
    (tensor([[1.]]), tensor([[1]]))
    """
    score, index = _cosine_match(a.detach(), b.detach(), mask_a, mask_b)
    return score, index


def _select_edges_kernel(
    score: Tensor | None,
    index: Tensor,
    r: int,
    columns: int,
    take: Tensor | None,
    valid: Tensor | None,
    class_token: bool,
    distill_token: bool,
    sort_unmerged: bool,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    tokens: int,
) -> Lists:
    return kernels.select_edges(
        score,
        index,
        r,
        columns,
        take=take,
        valid=valid,
        class_token=class_token,
        distill_token=distill_token,
        sort_unmerged=sort_unmerged,
        a_ids=a_ids,
        b_ids=b_ids,
        tokens=tokens,
    )


def _select_edges_fake(
    score: Tensor | None, index: Tensor, r: int, columns: int, take: Tensor | None, valid: Tensor | None, *rest: Any
) -> Lists:
    batch, rows = index.shape
    unmerged = rows - r if take is None and valid is None else rows
    widths = (unmerged, r, r, rest[-1])
    unm, src, dst, into = (index.new_empty((batch, width), dtype=torch.int64) for width in widths)
    return unm, src, dst, into


_select_edges = define(
    "select_edges(Tensor? score, Tensor index, SymInt r, SymInt columns, Tensor? take, Tensor? valid,"
    " bool class_token, bool distill_token, bool sort_unmerged, Tensor? a_ids, Tensor? b_ids, SymInt tokens)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _select_edges_kernel,
    _select_edges_fake,
)


def select_edges(
    score: Tensor | None,
    index: Tensor,
    r: int,
    columns: int,
    *,
    take: Tensor | None = None,
    valid: Tensor | None = None,
    class_token: bool = False,
    distill_token: bool = False,
    sort_unmerged: bool = False,
    a_ids: Tensor | None = None,
    b_ids: Tensor | None = None,
    tokens: int | None = None,
) -> Lists:
    """Turn the best r proposals of a match into merges. Torch form of
    :func:`tokernel.kernels.merge.select_edges`, which explains the arguments.

    Returns:
        unm, src, dst, and map (B, N): the output token of every token, -1 where it is dropped; all int64.

    >>> score = torch.tensor([[0.5, 0.9, 0.1]])
    >>> select_edges(score, torch.tensor([[0, 1, 1]]), 1, 2)[3]
    tensor([[0, 2, 3, 3, 1]])
    """
    n = index.shape[1] + columns if tokens is None else tokens
    lists: Lists = _select_edges(
        score, index, r, columns, take, valid, class_token, distill_token, sort_unmerged, a_ids, b_ids, n
    )
    return lists
