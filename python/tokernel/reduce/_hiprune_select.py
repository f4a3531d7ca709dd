# SPDX-License-Identifier: Apache-2.0
"""HiPrune without a model: attention received, and the choice of anchors, buffers and registers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tokernel.ops import Dense, attention, attention_column_sums, topk, topk_mask

__all__ = [
    "Clamp",
    "Reduce",
    "anchor_count",
    "attention_received",
    "attention_received_qk",
    "crop_budget",
    "fold_merged",
    "hiprune_select",
    "kept_positions",
]

Reduce = Literal["mean", "sum"]
Clamp = Literal["repo", "grid"]


def attention_received(attn: Tensor, drop_cls: bool = True, reduce: Reduce = "mean") -> Tensor:
    """Say how much attention every key receives: the mean over heads, then the mean or the sum over all queries.

    The query of the class token counts like any other; its key is dropped afterwards.

    Args:
        attn: (B, H, Q, K) attention probabilities, any float dtype; added up in float32.
        drop_cls: whether key 0 is a class token.
        reduce: over the queries: "mean" for CLIP and SigLIP, "sum" as the official code does for Qwen2.5-VL.

    Returns:
        (B, N) float32, N = K - 1 with drop_cls.

    Raises:
        ValueError: attn is not (B, H, Q, K), or no key is left.

    >>> attention_received(torch.tensor([[[[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]]]]))
    tensor([[0.5500, 0.1500]])
    """
    if attn.dim() != 4:
        raise ValueError(f"attention_received: attn expected (B, H, Q, K); got {tuple(attn.shape)}")
    _check_reduce("attention_received", reduce, drop_cls, attn.shape[3])
    mean = attn.float().mean(1)
    received = mean.mean(1) if reduce == "mean" else mean.sum(1)
    return received[:, 1:] if drop_cls else received


def attention_received_qk(
    q: Tensor,
    k: Tensor,
    scale: float | None = None,
    drop_cls: bool = True,
    reduce: Reduce = "mean",
) -> Tensor:
    """Say the same of the softmax attention of q and k, without ever storing a map of H x Q x K.

    Two passes over the keys: one for the denominators, one for the column sums of the map.

    Args:
        q: (B, H, Q, D) float32, float16 or bfloat16.
        k: (B, G, K, D) of the dtype of q; H is a multiple of G.
        scale: of the products; None is ``D ** -0.5``.
        drop_cls, reduce: as in :func:`attention_received`.

    Returns:
        (B, N) float32 without gradient.

    Raises:
        ValueError: as the ops behind it, or no key is left.

    >>> q = torch.zeros(1, 2, 4, 8)
    >>> attention_received_qk(q, q)
    tensor([[0.2500, 0.2500, 0.2500]])
    """
    if q.dim() != 4 or k.dim() != 4:
        raise ValueError(f"attention_received_qk: q expected (B, H, Q, D); got {tuple(q.shape)} and {tuple(k.shape)}")
    _check_reduce("attention_received_qk", reduce, drop_cls, k.shape[2])
    q, k = q.detach(), k.detach()
    _, lse = attention(q, k, k, Dense(), scale=scale, return_lse=True)
    sums = attention_column_sums(q, k, lse, Dense(), scale=scale, over_heads=True)
    received = sums / (q.shape[1] * (q.shape[2] if reduce == "mean" else 1))
    return received[:, 1:] if drop_cls else received


def _check_reduce(op: str, reduce: str, drop_cls: bool, keys: int) -> None:
    if reduce not in ("mean", "sum"):
        raise ValueError(f"{op}: reduce expected 'mean' or 'sum'; got {reduce!r}")
    if drop_cls and keys == 0:
        raise ValueError(f"{op}: keys expected at least the class token's; got none")


def anchor_count(budget: int, alpha: float) -> int:
    """Say how many anchors a budget has: ``round(budget * alpha / 5)``, an anchor and its four neighbours.

    Halves go to the even number, as Python rounds.

    >>> anchor_count(64, 0.1), anchor_count(125, 0.1), anchor_count(175, 0.1)
    (1, 2, 4)
    """
    return round(budget * alpha / 5)


def crop_budget(total: int, crops: int) -> int:
    """Share a budget equally among the crops of an image: ``int(total / crops)`` each.

    >>> crop_budget(640, 5), crop_budget(320, 3)
    (128, 106)
    """
    if crops < 1:
        raise ValueError(f"crop_budget: crops expected at least 1; got {crops}")
    return int(total / crops)


def hiprune_select(
    mid: Tensor,
    deep: Tensor,
    grid: tuple[int, int],
    budget: int,
    alpha: float = 0.1,
    clamp: Clamp = "repo",
) -> Tensor:
    """Choose anchors, their neighbours, and registers (section 3): exactly `budget` tokens of every image.

    Anchors are the :func:`anchor_count` highest of `mid`; registers are the highest of `deep` among what is neither
    anchor nor neighbour. Equal scores: the lower index first. NaN comes after all numbers. Where anchors and neighbours
    are more than the budget (alpha near 1), neighbours of the lowest `mid` are left out [ours: the official code
    fails there].

    Args:
        mid: (B, N) attention received in the object layer, any float dtype, compared in float32.
        deep: (B, N) attention received in the deep layer.
        grid: (h, w) of the patches, row by row, N = h * w.
        budget: tokens to keep, in [0, N].
        alpha: share of the budget for anchors and neighbours, in [0, 1].
        clamp: what lies beyond the border. "repo": as the official code, left and right of a row are the ends of the
            rows before and after, above the top is token 0 and below the bottom token N - 1; "grid": nothing.

    Returns:
        (B, N) bool, `budget` of every row True.

    Raises:
        ValueError: shapes that do not fit, a budget or alpha out of range, another clamp.

    >>> mid, deep = torch.tensor([[0, 0, 0, 0, 9.0, 0, 0, 0, 0]]), torch.arange(9.0)[None]
    >>> hiprune_select(mid, deep, (3, 3), 6, alpha=0.9).int()
    tensor([[0, 1, 0, 1, 1, 1, 0, 1, 1]], dtype=torch.int32)
    """
    _check_select(mid, deep, grid, budget, alpha, clamp)
    mid, deep = _below_infinity(mid), _below_infinity(deep)
    _, anchors = topk(mid, anchor_count(budget, alpha))
    candidates = torch.zeros_like(mid, dtype=torch.bool).scatter_(1, _with_neighbours(anchors, grid, clamp), True)
    if bool((candidates.sum(1) > budget).any()):
        first = mid.scatter(1, anchors, torch.inf)
        candidates &= topk_mask(first, budget, mask=candidates)
    return topk_mask(deep.masked_fill(candidates, torch.inf), budget)


def _below_infinity(score: Tensor) -> Tensor:
    """Scores in float32 among which infinity is still free to mean "first"."""
    score = score.detach().float()
    return score.clamp(max=torch.finfo(torch.float32).max)


def _with_neighbours(anchors: Tensor, grid: tuple[int, int], clamp: Clamp) -> Tensor:
    """(B, A) -> (B, 5 A); a neighbour that does not exist is the anchor again."""
    h, w = grid
    column = anchors % max(w, 1)
    steps = [(-1, column > 0), (1, column < w - 1), (-w, anchors >= w), (w, anchors < (h - 1) * w)]
    if clamp == "repo":
        near = [(anchors + step).clamp(0, max(h * w - 1, 0)) for step, _ in steps]
    else:
        near = [torch.where(exists, anchors + step, anchors) for step, exists in steps]
    return torch.cat([anchors, *near], 1)


def _check_select(mid: Tensor, deep: Tensor, grid: tuple[int, int], budget: int, alpha: float, clamp: str) -> None:
    if mid.dim() != 2 or mid.shape != deep.shape:
        raise ValueError(
            f"hiprune_select: mid and deep expected (B, N); got {tuple(mid.shape)} and {tuple(deep.shape)}"
        )
    h, w = grid
    if h < 0 or w < 0 or h * w != mid.shape[1]:
        raise ValueError(f"hiprune_select: grid expected h * w = {mid.shape[1]} tokens; got {h} x {w}")
    if not 0 <= budget <= mid.shape[1]:
        raise ValueError(f"hiprune_select: budget expected in [0, {mid.shape[1]}]; got {budget}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"hiprune_select: alpha expected in [0, 1]; got {alpha}")
    if clamp not in ("repo", "grid"):
        raise ValueError(f"hiprune_select: clamp expected 'repo' or 'grid'; got {clamp!r}")


def fold_merged(received: Tensor, unit: int = 4, window_index: Tensor | None = None) -> Tensor:
    """Fold attention received by patches to the merged tokens of Qwen2.5-VL.

    Its tower lists patches window by window, `unit` consecutive ones to a merged token.

    Args:
        received: (B, P) per patch, in the tower's order: :func:`attention_received` with ``drop_cls=False`` and
            ``reduce="sum"``.
        unit: patches per merged token (the spatial merge size squared).
        window_index: (P / unit) int64, which merged token of the image stands at each place of the tower; None when
            the tower keeps the image's order.

    Returns:
        (B, P / unit): the mean over the patches of every merged token, in the order of the image.

    Raises:
        ValueError: unit below 1, P not a multiple of it, or a window_index of another length.

    >>> fold_merged(torch.tensor([[1.0, 3.0, 5.0, 5.0]]), unit=2, window_index=torch.tensor([1, 0]))
    tensor([[5., 2.]])
    """
    if unit < 1 or received.dim() != 2 or received.shape[1] % unit:
        raise ValueError(f"fold_merged: received expected (B, P), P a multiple of {unit}; got {tuple(received.shape)}")
    merged = received.reshape(len(received), -1, unit).mean(2)
    if window_index is None:
        return merged
    if window_index.shape != merged.shape[1:]:
        raise ValueError(
            f"fold_merged: window_index expected {merged.shape[1]} merged tokens; got {tuple(window_index.shape)}"
        )
    return merged[:, window_index.argsort()]


def kept_positions(mask: Tensor, prefix: int, suffix: int) -> Tensor:
    """List the places of a sequence [prefix text | image | suffix text] that survive; text always does.

    Qwen2.5-VL gathers its three-dimensional position ids with it: tokens keep the positions that they had.

    Args:
        mask: (N) bool, the visual tokens kept.
        prefix, suffix: text tokens before and after the image.

    Returns:
        int64 (prefix + kept + suffix), ascending.

    >>> kept_positions(torch.tensor([False, True, True]), 2, 1)
    tensor([0, 1, 3, 4, 5])
    """
    if mask.dim() != 1 or prefix < 0 or suffix < 0:
        raise ValueError(f"kept_positions: mask expected (N); got {tuple(mask.shape)}, text {prefix} and {suffix}")
    ends = mask.new_ones(prefix), mask.new_ones(suffix)
    return torch.cat([ends[0], mask.bool(), ends[1]]).nonzero()[:, 0]
