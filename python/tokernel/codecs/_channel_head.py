# SPDX-License-Identifier: Apache-2.0
"""The small causal model that predicts the channels of a position one after the other (TokenBridge)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokernel import ops

Cache = tuple[Tensor, Tensor]
"""Keys and values of the steps so far, (B, H, t, d) each."""


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def _modulation(dim: int, parts: int) -> nn.Sequential:
    """Shifts, scales and gates from a condition: all zero at first."""
    linear = nn.Linear(dim, parts * dim)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.SiLU(), linear)


class _Attention(nn.Module):
    """Causal self-attention whose queries and keys are normalised head by head."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // heads, eps)
        self.k_norm = nn.LayerNorm(dim // heads, eps)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, past: Cache | None) -> tuple[Tensor, Cache]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        out = ops.attention(q, k, v, ops.Causal())
        return self.proj(out.transpose(1, 2).flatten(2)), (k, v)


class ChannelBlock(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the step's condition."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = _Attention(dim, heads, eps)
        self.norm2 = nn.LayerNorm(dim, eps)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})
        self.adaLN_modulation = _modulation(dim, 6)

    def forward(self, x: Tensor, condition: Tensor, past: Cache | None) -> tuple[Tensor, Cache]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, -1)
        attended, cache = self.attn(_modulated(self.norm1(x), shift1, scale1), past)
        x = x + gate1 * attended
        hidden = functional.gelu(self.mlp["fc1"](_modulated(self.norm2(x), shift2, scale2)))
        return x + gate2 * self.mlp["fc2"](hidden), cache


class ChannelFinal(nn.Module):
    """A LayerNorm that the condition scales and shifts."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.adaLN_modulation = _modulation(dim, 2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.adaLN_modulation(condition).chunk(2, -1)  # scale first, unlike in the blocks
        return _modulated(functional.layer_norm(x, x.shape[-1:], eps=self.eps), shift, scale)
