# SPDX-License-Identifier: Apache-2.0
"""The autoregressive model of factorized tokens (FAR): a backbone over positions, a small head over sub-tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokernel import ops

Cache = tuple[Tensor, Tensor]
"""Keys and values of the steps so far, (B, H, t, d) each."""


def rope_table(grid: tuple[int, int], head_dim: int, base: float = 10000.0) -> Tensor:
    """Cosines and sines (1 + h*w, head_dim / 2, 2) of a class token and a grid of positions.

    The first half of the pairs turns by the row, the second by the column. The class token's line is all zeros: it
    does not turn queries and keys of step 0 but erases them, as the official table does.
    """
    quarter = head_dim // 4
    speed = base ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = (torch.arange(extent, dtype=torch.float64)[:, None] * speed for extent in grid)
    angle = torch.cat([rows[:, None].expand(-1, grid[1], -1), columns[None].expand(grid[0], -1, -1)], -1).flatten(0, 1)
    turns = torch.stack([angle.cos(), angle.sin()], -1)
    return torch.cat([torch.zeros_like(turns[:1]), turns]).float()


def _turned(x: Tensor, table: Tensor) -> Tensor:
    """Turn the pairs (2i, 2i + 1) of x (B, H, t, d) by a table (t, d / 2, 2)."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wqkv = nn.Linear(dim, 3 * dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, table: Tensor, past: Cache | None) -> tuple[Tensor, Cache]:
        q, k, v = self.wqkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = _turned(q, table), _turned(k, table)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        out = ops.attention(q, k, v, ops.Causal())
        return self.wo(out.transpose(1, 2).flatten(2)), (k, v)


class _FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(functional.silu(self.w1(x)) * self.w3(x))
        return out


class FarBlock(nn.Module):
    """A pre-norm block: causal attention with rotary positions, then a gated MLP, both without biases."""

    def __init__(self, dim: int, heads: int, hidden: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.attention = _Attention(dim, heads)
        self.feed_forward = _FeedForward(dim, hidden)
        self.attention_norm = nn.RMSNorm(dim, eps)
        self.ffn_norm = nn.RMSNorm(dim, eps)

    def forward(self, x: Tensor, table: Tensor, past: Cache | None = None) -> tuple[Tensor, Cache]:
        """Run steps (B, t, dim) behind those in `past`, whose positions are the lines of `table`."""
        attended, cache = self.attention(self.attention_norm(x), table, past)
        x = x + attended
        return x + self.feed_forward(self.ffn_norm(x)), cache


def mlp_width(dim: int, multiple: int = 256) -> int:
    """Two thirds of 4 * dim, rounded up to a multiple."""
    return -(-(8 * dim // 3) // multiple) * multiple


def run_blocks(
    blocks: Sequence[nn.Module], x: Tensor, table: Tensor, caches: list[Cache | None]
) -> tuple[Tensor, list[Cache | None]]:
    """Run all blocks on steps behind those in the caches, one for each block."""
    kept: list[Cache | None] = []
    for block, past in zip(blocks, caches, strict=True):
        x, cache = block(x, table, past)
        kept.append(cache)
    return x, kept
