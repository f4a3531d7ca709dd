# SPDX-License-Identifier: Apache-2.0
"""What papers that prune visual tokens share: how many stay, and how the inputs of a language model lose the rest."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, SupportsIndex

import torch
from torch import Tensor

from tokernel.ops import gather_rows

__all__ = ["PrunedInputs", "keep_count", "keep_rows", "prune_inputs"]


def keep_count(op: str, tokens: int, ratio: float, k: int | None) -> int:
    """Return k, or ``round(ratio * tokens)`` with halves to even; in [0, tokens] either way.

    >>> keep_count("op", 576, 0.098, None), keep_count("op", 25, 0.1, None), keep_count("op", 9, 0.5, 7)
    (56, 2, 7)
    """
    if k is None:
        check_ratio(op, "ratio", ratio)
        return round(ratio * tokens)
    check_k(op, k)
    if k > tokens:
        raise ValueError(f"{op}: k must be in [0, {tokens}], the number of tokens, got {k}")
    return k


def check_k(op: str, k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, SupportsIndex):
        raise TypeError(f"{op}: k must be an int, got {type(k).__name__}")
    if k < 0:
        raise ValueError(f"{op}: k must be at least 0, got {k}")


def check_ratio(op: str, name: str, ratio: float) -> None:
    if isinstance(ratio, bool) or not isinstance(ratio, float | int):
        raise TypeError(f"{op}: {name} must be a number, got {type(ratio).__name__}")
    if not 0 <= ratio <= 1:  # NaN as well
        raise ValueError(f"{op}: {name} must be in [0, 1], got {ratio}")


def check_features(op: str, name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(x).__name__}")
    if x.dim() not in (2, 3):
        raise ValueError(f"{op}: {name} must be (N, D) or (B, N, D), got {tuple(x.shape)}")


def keep_rows(x: Tensor, keep_idx: Tensor) -> Tensor:
    """Gather the kept rows of x (B, N, C) or (N, C); differentiable in x."""
    return gather_rows(x, keep_idx) if x.dim() == 3 else gather_rows(x[None], keep_idx[None])[0]


class PrunedInputs(NamedTuple):
    """Inputs of a language model without the visual tokens that were dropped; made by :func:`prune_inputs`.

    Attributes:
        inputs_embeds: (B, L', C).
        attention_mask: (B, L') of the dtype given, or None when none was given.
        position_ids: (B, L') int64.
        kept: (B, L') int64, ascending: where in the full sequence each token was. Gather labels with it.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor
    kept: Tensor


def prune_inputs(
    inputs_embeds: Tensor,
    visual: tuple[int, int] | Tensor,
    keep_idx: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    positions: Literal["renumber", "original"] = "renumber",
) -> PrunedInputs:
    """Take the dropped visual tokens out of what goes into a language model.

    Text and kept visual tokens stay in their order. ``renumber`` is DivPrune's official behaviour: the shortened
    sequence counts 0, 1, 2, ... (padding is not counted). ``original``: every token keeps the position it had.

    Args:
        inputs_embeds: (B, L, C) float32, float16 or bfloat16.
        visual: where the visual tokens are: (start, stop), the same in all samples, or a (B, L) bool mask with equally
            many True in every row. They are numbered in order of position.
        keep_idx: (B, K) int64, or (K) for all samples alike: distinct visual tokens, in any order.
        attention_mask: (B, L), 0 at padding.
        position_ids: (B, L) integers, used by ``original``; None counts the tokens that are not padding.
        positions: how the result is numbered.

    Returns:
        :class:`PrunedInputs` of length L' = L - N + K, differentiable in inputs_embeds.

    Raises:
        ValueError: a shape does not fit, the span leaves the sequence, rows of the mask differ in their number of
            visual tokens, or keep_idx repeats a token or names one that is not there.
        TypeError: keep_idx is not integer or the mask is not bool.

    >>> embeds = torch.arange(6.0).reshape(1, 6, 1)  # two text tokens, three visual ones, one text token
    >>> short = prune_inputs(embeds, (2, 5), torch.tensor([1]))
    >>> short.inputs_embeds.flatten(), short.position_ids
    (tensor([0., 1., 3., 5.]), tensor([[0, 1, 2, 3]]))
    >>> prune_inputs(embeds, (2, 5), torch.tensor([1]), positions="original").position_ids
    tensor([[0, 1, 3, 5]])
    """
    if inputs_embeds.dim() != 3:
        raise ValueError(f"prune_inputs: inputs_embeds must be (B, L, C), got {tuple(inputs_embeds.shape)}")
    if positions not in ("renumber", "original"):
        raise ValueError(f"prune_inputs: positions must be 'renumber' or 'original', got {positions!r}")
    batch, length = inputs_embeds.shape[:2]
    for name, given in (("attention_mask", attention_mask), ("position_ids", position_ids)):
        if given is not None and given.shape != (batch, length):
            raise ValueError(f"prune_inputs: {name} must be {(batch, length)}, got {tuple(given.shape)}")
    index = _index_of_kept(_visual_mask(visual, inputs_embeds), keep_idx)
    kept_mask = None if attention_mask is None else attention_mask.gather(1, index)
    if positions == "renumber":
        numbers = _count(kept_mask, index)
    elif position_ids is None:
        numbers = _count(attention_mask, torch.arange(length, device=index.device).expand(batch, -1)).gather(1, index)
    else:
        numbers = position_ids.long().gather(1, index)
    return PrunedInputs(gather_rows(inputs_embeds, index), kept_mask, numbers, index)


def _visual_mask(visual: tuple[int, int] | Tensor, embeds: Tensor) -> Tensor:
    """Return the (B, L) mask of visual tokens, as many in every row."""
    batch, length = embeds.shape[:2]
    if not isinstance(visual, Tensor):
        start, stop = visual
        if not 0 <= start <= stop <= length:
            raise ValueError(f"prune_inputs: visual must be a span within [0, {length}], got {(start, stop)}")
        at = torch.arange(length, device=embeds.device)
        return ((at >= start) & (at < stop)).expand(batch, -1)
    if visual.dtype != torch.bool:
        raise TypeError(f"prune_inputs: visual must be bool, got {visual.dtype}")
    if visual.shape != (batch, length):
        raise ValueError(f"prune_inputs: visual must be {(batch, length)}, got {tuple(visual.shape)}")
    counts = visual.sum(1)
    if bool((counts != counts[:1]).any()):
        raise ValueError(f"prune_inputs: visual must mark as many tokens in every row, got {counts.tolist()}")
    return visual


def _index_of_kept(visual: Tensor, keep_idx: Tensor) -> Tensor:
    """Return (B, L') ascending positions: all that is not visual, and the visual tokens of keep_idx."""
    batch, length = visual.shape
    if keep_idx.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"prune_inputs: keep_idx must be int64 or int32, got {keep_idx.dtype}")
    keep = keep_idx.long().expand(batch, -1) if keep_idx.dim() == 1 else keep_idx.long()
    if keep.dim() != 2 or keep.shape[0] != batch:
        raise ValueError(f"prune_inputs: keep_idx must be ({batch}, K) or (K), got {tuple(keep_idx.shape)}")
    tokens = int(visual[0].sum()) if batch else 0
    if bool(((keep < 0) | (keep >= tokens)).any()):
        raise ValueError(f"prune_inputs: keep_idx must name visual tokens in [0, {tokens}), got {keep.tolist()}")
    chosen = torch.zeros(batch, tokens, dtype=torch.bool, device=visual.device).scatter(1, keep, True)
    if bool((chosen.sum(1) != keep.shape[1]).any()):
        raise ValueError(f"prune_inputs: keep_idx must not repeat a token, got {keep.tolist()}")
    stays = (~visual).masked_scatter(visual, chosen)
    return stays.nonzero()[:, 1].reshape(batch, length - tokens + keep.shape[1])


def _count(mask: Tensor | None, like: Tensor) -> Tensor:
    """Number the tokens of a row 0, 1, 2, ..., without counting padding."""
    real = torch.ones_like(like) if mask is None else (mask != 0).long()
    return (real.cumsum(1) - 1).clamp_min(0)


def floor_of_product(fraction: float, number: int) -> int:
    """Multiply and round down, without falling below a whole number by rounding: 0.29 * 100 is 28.999999999999996."""
    return math.floor(fraction * number + 1e-9)
