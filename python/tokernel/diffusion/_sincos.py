# SPDX-License-Identifier: Apache-2.0
"""Fixed position codes of sines and cosines, as DiT and PixArt use them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sincos_1d", "sincos_2d"]


def sincos_1d(position: Tensor, channels: int) -> Tensor:
    """Code (...,) positions in (..., channels): [sin | cos] of ``position * 10000 ** (-j / (channels / 2))``."""
    half = channels // 2
    rates = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=position.device) / max(half, 1))
    angles = position.double().unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


def sincos_2d(columns: Tensor, rows: Tensor, channels: int) -> Tensor:
    """Code a grid in (rows * columns, channels): first half of the channels the column, second half the row."""
    if channels % 4:
        raise ValueError(f"sincos_2d: channels expected a multiple of 4; got {channels}")
    shape = (len(rows), len(columns), channels // 2)
    across = sincos_1d(columns, channels // 2)[None].expand(shape)
    down = sincos_1d(rows, channels // 2)[:, None].expand(shape)
    return torch.cat([across, down], -1).flatten(0, 1)
