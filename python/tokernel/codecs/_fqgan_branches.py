# SPDX-License-Identifier: Apache-2.0
"""What stands before and behind the sub-codebooks of FQGAN: an adapter a branch, a head that meets a frozen encoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def _blocks(width: int, heads: int, layers: int) -> nn.Sequential:
    return nn.Sequential(
        *(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
    )


class BranchAdapter(nn.Module):
    """Give a branch its own view of the shared features, and narrow it to the width of its codes.

    Tokens + learned positions, LayerNorm, pre-norm transformer blocks, LayerNorm; then GroupNorm, swish, a 3 x 3
    convolution and a 1 x 1 convolution to the code width. The positions tie it to one grid.

    Args:
        grid: (h, w) positions.
        channels, code_width: of the features and of the codes.
        heads, layers: of the blocks.
        hidden: channels between the two convolutions.

    >>> import torch
    >>> adapter = BranchAdapter(grid=(4, 4), channels=32, code_width=8, heads=4, layers=1, hidden=16)
    >>> adapter(torch.zeros(2, 32, 4, 4)).shape
    torch.Size([2, 8, 4, 4])

    FQGAN (arXiv 2411.16681); the official widths are the defaults.
    """

    def __init__(
        self, grid: tuple[int, int], channels: int = 512, code_width: int = 8, heads: int = 8, layers: int = 6,
        hidden: int = 256,
    ) -> None:  # fmt: skip
        super().__init__()
        self.grid = tuple(grid)
        self.positions = nn.Parameter(torch.randn(math.prod(grid), channels) * channels**-0.5)
        self.before, self.after = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.blocks = _blocks(channels, heads, layers)
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.narrow = nn.Conv2d(channels, hidden, 3, padding=1)
        self.to_code = nn.Conv2d(hidden, code_width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Turn features (B, channels, h, w) into what the branch quantizes, (B, code_width, h, w).

        Raises:
            ValueError: another grid than the positions are for.
        """
        if tuple(features.shape[2:]) != self.grid:
            got = tuple(features.shape)
            raise ValueError(
                f"BranchAdapter: features must have shape (B, C, {self.grid[0]}, {self.grid[1]}), got {got}"
            )
        tokens = features.flatten(2).transpose(1, 2) + self.positions
        tokens = self.after(self.blocks(self.before(tokens)))
        maps = tokens.transpose(1, 2).reshape(features.shape)
        out: Tensor = self.to_code(self.narrow(nn.functional.silu(self.norm(maps))))
        return out


class RepresentationHead(nn.Module):
    """Predict a frozen encoder's feature of the whole image from the codes of one branch, for :func:`info_nce`.

    Linear-ReLU-linear to the width of the encoder, a class token in front, learned positions, LayerNorm, pre-norm
    blocks, LayerNorm; the class token is the answer.

    Args:
        positions: of the grid, h * w.
        code_width, width: of the codes and of the encoder's feature.
        heads, layers: of the blocks.

    >>> import torch
    >>> RepresentationHead(positions=16, code_width=8, width=32)(torch.zeros(2, 8, 4, 4)).shape
    torch.Size([2, 32])

    FQGAN (arXiv 2411.16681).
    """

    def __init__(self, positions: int, code_width: int = 8, width: int = 1024, heads: int = 8, layers: int = 3) -> None:
        super().__init__()
        self.widen = nn.Sequential(nn.Linear(code_width, width), nn.ReLU(), nn.Linear(width, width))
        self.class_token = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positions = nn.Parameter(torch.randn(positions + 1, width) * width**-0.5)
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = _blocks(width, heads, layers)

    def forward(self, codes: Tensor) -> Tensor:
        """Turn quantized codes (B, code_width, h, w) into (B, width).

        Raises:
            ValueError: another number of positions than was said.
        """
        tokens = self.widen(codes.flatten(2).transpose(1, 2))
        if tokens.shape[1] + 1 != len(self.positions):
            expected = len(self.positions) - 1
            raise ValueError(f"RepresentationHead: codes must have {expected} positions, got {tokens.shape[1]}")
        tokens = torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens], 1) + self.positions
        out: Tensor = self.after(self.blocks(self.before(tokens)))[:, 0]
        return out
