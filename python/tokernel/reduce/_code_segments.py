# SPDX-License-Identifier: Apache-2.0
"""Segment ids of a padded batch, and the attention masks of merged sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel import ops


def count_units(ids: Tensor) -> int:
    """Largest number of units in the batch."""
    return int(ids.max()) + 1 if ids.numel() else 0


def segment_offsets(ids: Tensor) -> Tensor:
    """CSR form (B, U + 1) of consecutive ids (B, T): where each unit begins; padding lies outside on either side."""
    units = count_units(ids)
    # Padding on the right counts as a unit past the last, to keep the ascending order that searchsorted needs.
    started = torch.cummax((ids >= 0).to(torch.int8), 1).values.bool()
    ascending = torch.where((ids < 0) & started, units, ids)
    borders = torch.arange(units + 1, dtype=ids.dtype, device=ids.device).expand(len(ids), -1)
    return torch.searchsorted(ascending.contiguous(), borders.contiguous())


class Segments:
    """The units of one batch.

    Attributes:
        ids: (B, T) int64, consecutive from 0 in every sample, -1 on padding.
        units: U, the largest number of units.
        real: (B, U) bool, False past a sample's own number of units.
    """

    def __init__(self, ids: Tensor) -> None:
        if ids.ndim != 2 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise ValueError(
                f"patch_encoder: segment_ids expected (B, T) integers; got {tuple(ids.shape)} of {ids.dtype}"
            )
        self.ids = ids.long()
        self.units = count_units(self.ids)
        _check_consecutive(self.ids)
        counts = self.ids.amax(1, keepdim=True) + 1 if self.units else self.ids[:, :0]
        self.real = torch.arange(self.units, device=ids.device) < counts
        self._masks: tuple[Any, ...] = ()  # the last one given, and what became of it

    def first_tokens(self) -> Tensor:
        """Position of the first subtoken of every unit, (B, U); 0 for units that are padding."""
        return segment_offsets(self.ids)[:, :-1].masked_fill(~self.real, 0)

    def attention_mask(self, mask: Any, dtype: torch.dtype, rank: int) -> Any:
        """Merge the mask that transformers hands to every layer; the next layer, with the same mask, reuses the answer.

        Args:
            mask: None; (B, T), nonzero where allowed; or (B, 1, 1 or T, T), bool or additive.
            dtype: of an additive mask made for None.
            rank: of the mask made for None, 2 or 4.
        """
        if not self._masks or self._masks[0] is not mask:
            self._masks = (mask, self._merge_mask(mask, dtype, rank))
        return self._masks[1]

    def _merge_mask(self, mask: Any, dtype: torch.dtype, rank: int) -> Tensor | None:
        if mask is None:
            if bool(self.real.all()):
                return None
            return self.real if rank == 2 else _additive(self.real[:, None, None], dtype)
        if not isinstance(mask, Tensor) or mask.ndim not in (2, 4) or (mask.ndim == 4 and mask.shape[1] != 1):
            raise ValueError(
                "patch_encoder: attention mask expected (B, T) or (B, 1, 1 or T, T); got "
                f"{tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__}"
            )
        if mask.ndim == 2:
            return self.real.to(mask.dtype)
        additive = mask.is_floating_point()
        allowed = mask[:, 0] > torch.finfo(mask.dtype).min / 2 if additive else mask[:, 0].bool()
        allowed = self._any_in_unit(allowed.transpose(1, 2)).transpose(1, 2)
        if mask.shape[2] > 1:
            # A unit that is padding would attend to nothing, and softmax would answer NaN.
            allowed = torch.where(self.real[:, :, None], self._any_in_unit(allowed), self.real[:, None, :])
        return _additive(allowed[:, None], mask.dtype) if additive else allowed[:, None]

    def _any_in_unit(self, allowed: Tensor) -> Tensor:
        """Whether any subtoken of a unit is allowed: (B, T, Q) -> (B, U, Q)."""
        flags = allowed.expand(len(self.ids), -1, -1).float()
        found: Tensor = ops.segment_reduce(flags, ids=self.ids, segments=self.units, mode="amax")
        return found > 0


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)


def _check_consecutive(ids: Tensor) -> None:
    """Demand ids 0, 1, 2... that ascend by at most 1 on one run of tokens, and -1 around it."""
    real = ids >= 0
    run_starts = torch.diff(real.long(), dim=1, prepend=torch.zeros_like(ids[:, :1])) > 0
    steps = torch.diff(ids, dim=1, prepend=torch.full_like(ids[:, :1], -1))
    odd_step = torch.where(run_starts, ids != 0, (steps != 0) & (steps != 1)) & real
    if bool(odd_step.any()) or bool((run_starts.sum(1) > 1).any()) or bool((ids < -1).any()):
        raise ValueError(
            "patch_encoder: segment_ids expected 0, 1, 2... ascending by at most 1 in each sample, -1 on padding at "
            "its ends; got others"
        )
