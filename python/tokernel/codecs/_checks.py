# SPDX-License-Identifier: Apache-2.0
"""Checks of what quantizers are given. Messages name the module and the argument."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def name_of(owner: object) -> str:
    return owner if isinstance(owner, str) else type(owner).__name__


def whole(owner: object, argument: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name_of(owner)}: {argument} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name_of(owner)}: {argument} must be at least {least}, got {value}")
    return value


def between(owner: object, argument: str, value: float, low: float, high: float = float("inf")) -> float:
    """A number in [low, high]; NaN is none."""
    if not low <= value <= high:
        limit = f"at least {low}" if high == float("inf") else f"in [{low}, {high}]"
        raise ValueError(f"{name_of(owner)}: {argument} must be {limit}, got {value}")
    return value


def one_of(owner: object, argument: str, value: Any, allowed: Iterable[str]) -> None:
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{name_of(owner)}: {argument} must be one of {', '.join(allowed)}; got {value!r}")


def check_rows(owner: object, x: Any, dim: int, channel_first: bool) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name_of(owner)}: x must be a floating point tensor, got {got}")
    axis = 1 if channel_first else -1
    if x.dim() < 1 + channel_first or x.shape[axis] != dim:
        raise ValueError(
            f"{name_of(owner)}: x must have {dim} channels in dimension {axis}, got the shape {tuple(x.shape)}"
        )


def check_mask(owner: object, mask: Any, lead: torch.Size) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{name_of(owner)}: mask must be a bool tensor, got {got}")
    if mask.shape != lead:
        raise ValueError(f"{name_of(owner)}: mask must have the shape {tuple(lead)}, got {tuple(mask.shape)}")


def check_index(owner: object, index: Any, axes: tuple[int, ...], codes: int) -> None:
    """Check type, trailing axes and range. Under ``torch.compile`` the range is left to the ops."""
    if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
        got = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"{name_of(owner)}: index must be an int64 or int32 tensor, got {got}")
    if tuple(index.shape[index.dim() - len(axes) :]) != axes:
        raise ValueError(f"{name_of(owner)}: index must end with the axes {axes}, got the shape {tuple(index.shape)}")
    if torch.compiler.is_compiling() or index.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(index))
    if low < -1 or high >= codes:
        raise ValueError(f"{name_of(owner)}: index must be in [0, {codes}), or -1, got {low if low < -1 else high}")
