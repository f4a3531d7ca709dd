# SPDX-License-Identifier: Apache-2.0
"""PixArt-Sigma: weak-to-strong training of a diffusion transformer for 4K images (Chen et al., ECCV 2024, 2403.04692).

In the deeper half of the layers, self-attention reads keys and values that a learned depthwise convolution has pooled
by R x R, while every query stays (section 3.2). Fine-tuned from the uncompressed model: change the VAE, interpolate the
position code (:func:`position_embedding`), then compress (:func:`patch_transformer`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokernel.diffusion._kv_pool import (
    KVPool,
    Mode,
    attend_pooled,
    attention_kv_pooled,
    kv_pool,
    pooled_length,
)
from tokernel.diffusion._pixart_patch import (
    CompressConfig,
    KVCompressPatch,
    compress_config,
    patch_transformer,
)
from tokernel.diffusion._sincos import sincos_2d
from tokernel.integrations import unpatch
from tokernel.papers import paper

__all__ = [
    "PAPER",
    "PE_INTERPOLATION",
    "XL2",
    "CompressConfig",
    "KVCompressAttention",
    "KVCompressPatch",
    "KVPool",
    "Mode",
    "attention_kv_pooled",
    "compress_config",
    "kv_pool",
    "patch_transformer",
    "pooled_length",
    "position_embedding",
    "unpatch",
]

PAPER = paper("pixart_sigma")

XL2 = compress_config(range(14, 28))
"""Every released configuration of the 28-layer XL/2: the deeper half, ``conv``, R = 2."""

PE_INTERPOLATION = {256: 0.5, 512: 1.0, 1024: 2.0, 2048: 4.0}
"""``interpolation`` of :func:`position_embedding` by the edge of the image in pixels."""


class KVCompressAttention(nn.Module):
    """Self-attention over an H x W grid whose keys and values are pooled by R x R (section 3.2).

    Parameters are named as in the official code (``qkv``, ``proj``, ``sr``, ``norm``, ``q_norm``, ``k_norm``), so that
    its state dicts load.

    Args:
        dim: C.
        heads: a divisor of C.
        R: edge of a cell; 1 is ordinary attention.
        mode: of :func:`kv_pool`.
        qk_norm: LayerNorm over all C channels of queries and keys, before heads are split and before the pooling.
        fp32: attend in float32 when the tokens are half precision. Scores and sums are float32 anyway; this one also
            keeps the answer unrounded until it is projected.

    >>> KVCompressAttention(dim=16, heads=2, R=2)(torch.randn(1, 24, 16), 4, 6).shape
    torch.Size([1, 24, 16])
    """

    def __init__(
        self, dim: int, heads: int, R: int = 1, mode: Mode = "conv", qk_norm: bool = False, fp32: bool = False
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"KVCompressAttention: heads expected a divisor of {dim}; got {heads}")
        self.heads = heads
        self.fp32 = fp32
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm: nn.Module = nn.LayerNorm(dim) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(dim) if qk_norm else nn.Identity()
        self.sr = KVPool(dim, R, mode, norm=False)
        self.norm: nn.Module = nn.LayerNorm(dim) if R > 1 and mode == "conv" else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def compress(self, x: Tensor, H: int, W: int) -> Tensor:
        """Pool (B, H * W, C) keys or values."""
        pooled: Tensor = self.norm(self.sr(x, H, W))
        return pooled

    def forward(self, x: Tensor, H: int, W: int, mask: Tensor | None = None) -> Tensor:
        """Attend from each of the (B, H * W, C) tokens; mask bool (B, N, N') says which pooled keys it sees."""
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = self.q_norm(q), self.k_norm(k)
        k, v = self.compress(k, H, W), self.compress(v, H, W)
        if self.fp32:
            q, k, v = q.float(), k.float(), v.float()
        y: Tensor = self.proj(attend_pooled(q, k, v, self.heads, mask).to(x.dtype))
        return y


def position_embedding(
    H: int, W: int, channels: int, base_size: int, interpolation: float = 1.0, device: torch.device | None = None
) -> Tensor:
    """Code the positions of an H x W grid by sines and cosines, interpolated for another resolution (section 3.3).

    Row i stands at ``i * base_size / H / interpolation``, columns likewise: a model continued at twice the resolution
    with twice the interpolation begins with the codes it knows. The first half of the channels codes the column, the
    second the row, each as [sin | cos] with frequencies ``10000 ** (-j / (channels / 4))``.

    Args:
        H, W: extents of the token grid.
        channels: C, a multiple of 4.
        base_size: extent of the grid at the model's own resolution: latent edge / patch.
        interpolation: see :data:`PE_INTERPOLATION`.

    Returns:
        (H * W, C) float32.

    Raises:
        ValueError: channels that are no multiple of 4, or an interpolation that is not positive.

    >>> once, twice = position_embedding(4, 4, 8, 4), position_embedding(8, 8, 8, 8, 2.0)
    >>> torch.equal(twice.view(8, 8, 8)[::2, ::2], once.view(4, 4, 8))
    True
    """
    if not interpolation > 0:
        raise ValueError(f"position_embedding: interpolation expected a positive number; got {interpolation}")
    rows, columns = (
        torch.arange(extent, dtype=torch.float64, device=device) * (base_size / max(extent, 1) / interpolation)
        for extent in (H, W)
    )
    return sincos_2d(columns, rows, channels).float()
