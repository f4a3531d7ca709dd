# SPDX-License-Identifier: Apache-2.0
"""Attention masks of a decoder, cut down to the tokens that are left. Any form that transformers hands to a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.integrations._llava_kept import Kept

__all__ = ["cut_mask", "cut_padding", "cut_rotation"]


def cut_padding(mask: Tensor | None, columns: Kept, tokens: int) -> Tensor | None:
    """The (B, tokens) padding mask of a whole sequence for the columns that are left; None when nothing is masked."""
    if mask is None:
        return None if columns.live is None else columns.live.to(torch.int64)
    if mask.dim() != 2 or mask.shape[1] != tokens:
        raise ValueError(
            f"patch_llava: attention_mask expected (batch, {tokens}), as long as the sequence before pruning, and a "
            f"dynamic cache; got {tuple(mask.shape)}"
        )
    return columns.filled(columns.pick(mask), 0)


def cut_mask(mask: Any, rows: Kept, columns: Kept, implementation: str) -> Any:
    """The mask of a layer, (B, 1, Q, K) or (B, K) or None for plain causal attention, for the tokens that are left."""
    if mask is None:
        return _causal(rows, columns, implementation) if columns.live is not None else None
    if not isinstance(mask, Tensor) or mask.dim() not in (2, 4):
        raise ValueError(
            f"patch_llava: attention implementation expected 'eager', 'sdpa' or flash attention; got {implementation!r}"
        )
    batch = rows.index.shape[0]
    if mask.dim() == 2:
        return columns.filled(columns.pick(mask.expand(batch, -1)), 0)
    mask = mask.expand(batch, *mask.shape[1:])
    mask = torch.take_along_dim(mask, rows.index[:, None, :, None], 2)
    mask = torch.take_along_dim(mask, columns.index[:, None, None, :], 3)
    if columns.live is None:
        return mask
    hidden = ~columns.live[:, None, None, :]
    return mask & ~hidden if mask.dtype == torch.bool else mask.masked_fill(hidden, torch.finfo(mask.dtype).min)


def _causal(rows: Kept, columns: Kept, implementation: str) -> Tensor:
    """Causal attention over rows of different length, spelled out."""
    assert columns.live is not None
    if "flash" in implementation:
        return columns.live
    # The queries are the last columns, counted like these.
    own = columns.index[:, len(columns) - len(rows) :]
    return ((columns.index[:, None] <= own[:, :, None]) & columns.live[:, None])[:, None]


def cut_rotation(rotation: Any, rows: Kept) -> Any:
    """The (cos, sin) of a layer, each (1 or B, Q, D), for the tokens that are left."""
    batch = rows.index.shape[0]
    return tuple(torch.take_along_dim(part.expand(batch, -1, -1), rows.index[..., None], 1) for part in rotation)
