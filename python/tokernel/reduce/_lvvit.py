# SPDX-License-Identifier: Apache-2.0
"""LV-ViT, the backbone of :mod:`tokernel.reduce.self_slimmed_vit`: a convolutional stem and damped residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention


@dataclass(frozen=True)
class LVViTConfig:
    """Sizes of an LV-ViT.

    Attributes:
        dim: token width C.
        depth: number of blocks.
        heads: attention heads.
        stages: blocks between slimming modules, as :func:`tokernel.reduce.self_slimmed_vit.slim_vit` takes them.
        image: side of the square input picture.
        skip_lam: both residual branches are divided by it.
        mlp_ratio: hidden width of the MLP over C.
        stem: "4c" or "6c"; the published parameter counts fit "6c" for the large model and "4c" for the small and
            medium ones. For the tiny and extra small models "4c" is unverified.
        classes: number of logits.
    """

    dim: int
    depth: int
    heads: int
    stages: Sequence[int]
    image: int = 224
    skip_lam: float = 2.0
    mlp_ratio: float = 3.0
    stem: str = "4c"
    classes: int = 1000


LVVIT = {
    "tiny": LVViTConfig(320, 14, 5, (1, 1, 1, 11)),
    "xsmall": LVViTConfig(384, 16, 6, (1, 1, 1, 13)),
    "small": LVViTConfig(384, 16, 6, (9, 3, 2, 2)),
    "medium": LVViTConfig(512, 20, 8, (10, 4, 3, 3)),
    "large": LVViTConfig(768, 24, 12, (10, 4, 3, 7), image=288, skip_lam=3.0, stem="6c"),
}

# (stride, divisor of C) of every 3x3 convolution; each stem shrinks the picture 16 times.
_STEMS = {
    "4c": ((2, 8), (2, 4), (2, 2), (2, 1)),
    "6c": ((2, 8), (1, 8), (1, 8), (2, 4), (2, 2), (2, 1)),
}


class _Stem(nn.Module):
    def __init__(self, dim: int, kind: str) -> None:
        super().__init__()
        if kind not in _STEMS:
            raise ValueError(f"LVViT: stem expected one of {', '.join(_STEMS)}; got {kind!r}")
        widths = [3] + [dim // divisor for _, divisor in _STEMS[kind]]
        strides = [stride for stride, _ in _STEMS[kind]]
        self.convs = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride, padding=1, bias=False) for i, stride in enumerate(strides)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x if i == 0 else gelu(x)))
        return x.flatten(2).transpose(1, 2)


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        # Half precision overflows in the logits of the larger models, so this part runs in fp32.
        y = scaled_dot_product_attention(q.float(), k.float(), v.float())
        out: Tensor = self.proj(y.to(x.dtype).transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two linear maps with a GELU between, over the last axis: (..., C_in) -> (..., C_out)."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(gelu(self.fc1(x)))
        return out


class _Block(nn.Module):
    def __init__(self, config: LVViTConfig) -> None:
        super().__init__()
        self.skip_lam = config.skip_lam
        self.norm1 = nn.LayerNorm(config.dim)
        self.attn = _Attention(config.dim, config.heads)
        self.norm2 = nn.LayerNorm(config.dim)
        self.mlp = Mlp(config.dim, int(config.dim * config.mlp_ratio), config.dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x)) / self.skip_lam
        out: Tensor = x + self.mlp(self.norm2(x)) / self.skip_lam
        return out


class LVViT(nn.Module):
    """LV-ViT: (B, 3, H, H) pictures in, (B, classes) logits of the class token out, timm's attribute names within.

    Without dropout and stochastic depth, and without the auxiliary token-labelling head of its first training.

    >>> model = LVViT(LVViTConfig(dim=16, depth=2, heads=2, stages=(2,), image=32, classes=5)).eval()
    >>> model(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 5])
    """

    num_prefix_tokens = 1

    def __init__(self, config: LVViTConfig) -> None:
        super().__init__()
        self.config = config
        patches = (config.image // 16) ** 2
        self.patch_embed = _Stem(config.dim, config.stem)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, config.dim))
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, config.classes)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits."""
        patches = self.patch_embed(image)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        logits: Tensor = self.head(x[:, 0])
        return logits
