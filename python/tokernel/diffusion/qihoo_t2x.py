# SPDX-License-Identifier: Apache-2.0
"""Qihoo-T2X: an efficiency-focused diffusion transformer via proxy tokens (Wang et al., ICLR 2025, arXiv 2409.04005).

PT-DiT has no global self-attention. In every block one proxy token a window (the mean of its tokens) attends to the
other proxies, and every token reads the proxies; then tokens attend to each other inside windows, and inside windows
shifted by half a window. For images, videos and views of an object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tokernel.diffusion._proxy import (
    MultiHead,
    ProxyMode,
    ProxyTokenBlock,
    ProxyWeights,
    norm,
    proxy_attention,
    proxy_tokens,
)
from tokernel.diffusion._sincos import sincos_1d, sincos_2d
from tokernel.diffusion._windows import (
    Extents,
    check_window,
    roll_windows,
    shift_region_mask,
    window_merge,
    window_order,
    window_partition,
)
from tokernel.papers import paper

__all__ = [
    "PAPER",
    "WINDOWS",
    "MultiHead",
    "PTDiT",
    "PTDiTConfig",
    "ProxyMode",
    "ProxyTokenBlock",
    "ProxyWeights",
    "attention_ratio",
    "from_official",
    "proxy_attention",
    "proxy_tokens",
    "roll_windows",
    "shift_region_mask",
    "window_for",
    "window_merge",
    "window_partition",
]

PAPER = paper("qihoo_t2x")

WINDOWS: dict[int, Extents] = {256: (1, 2, 2), 512: (1, 4, 4), 1024: (1, 8, 8), 2048: (1, 16, 16)}
"""The windows of an image by its edge in pixels: always 8 x 8 of them."""

_VIDEO_FRAMES = 4
_TIME_CHANNELS = 256


def window_for(pixels: int, frames: int = 1) -> Extents:
    """Find the paper's window for an edge in pixels: :data:`WINDOWS`, 4 frames deep for a video.

    Raises:
        ValueError: an edge without a preset.

    >>> window_for(1024), window_for(512, frames=16)
    ((1, 8, 8), (4, 4, 4))
    """
    if pixels not in WINDOWS:
        raise ValueError(f"window_for: pixels expected one of {', '.join(map(str, WINDOWS))}; got {pixels}")
    return (_VIDEO_FRAMES if frames > 1 else 1, *WINDOWS[pixels][1:])


def attention_ratio(tokens: int, window: int) -> float:
    """Divide the multiply-adds of proxy and window attention by those of global attention: ``1/n^2 + 1/n + 2n/N``.

    Args:
        tokens: N.
        window: n, tokens of a window.

    >>> f"{attention_ratio(4096, 64):.1%}"
    '4.7%'
    """
    if not 1 <= window <= tokens:
        raise ValueError(f"attention_ratio: window expected from 1 to {tokens} tokens; got {window}")
    return 1 / window**2 + 1 / window + 2 * window / tokens


@dataclass(frozen=True)
class PTDiTConfig:
    """Sizes of a :class:`PTDiT`; the defaults are the released text-to-image model at 1024 pixels.

    Attributes:
        layers, heads, head_dim: of the transformer; its width is heads * head_dim.
        patch: edge of a patch of the latent.
        in_channels, out_channels: of the latent.
        text_width: of the text states.
        window: (pf, ph, pw); see :func:`window_for`.
        proxy: as proxy_p of :func:`proxy_tokens`.
        mode: as mode of :func:`proxy_tokens`.
        base_size: extent of the token grid at the model's own resolution.
        interpolation: of the position code.
        bias, shift: as for :class:`ProxyTokenBlock`.
    """

    layers: int = 28
    heads: int = 16
    head_dim: int = 72
    patch: int = 2
    in_channels: int = 4
    out_channels: int = 8
    text_width: int = 4096
    window: Extents = WINDOWS[1024]
    proxy: Extents | None = None
    mode: ProxyMode = "mean"
    base_size: int = 64
    interpolation: float = 2.0
    bias: bool = True
    shift: bool = True

    @property
    def dim(self) -> int:
        """Width of the transformer."""
        return self.heads * self.head_dim


class _TimeModulation(nn.Module):
    """adaLN-single: the embedded time step, and the six modulations that every block adds to its table."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(_TIME_CHANNELS, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.modulate = nn.Linear(dim, 6 * dim)

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        # Cosines come first here, other than in the position code.
        sines, cosines = sincos_1d(timestep, _TIME_CHANNELS).to(dtype).chunk(2, -1)
        embedded: Tensor = self.embed(torch.cat([cosines, sines], -1))
        return self.modulate(nn.functional.silu(embedded)), embedded


class PTDiT(nn.Module):
    """The proxy token diffusion transformer: latent and text in, prediction out.

    Patches, text projection and time modulation are those of PixArt. The position code of an image is PixArt's too; for
    a video that of the frame is added to it [ours]. Size and aspect ratio are no conditions.

    Args:
        config: sizes; defaults to the released text-to-image model.

    >>> config = PTDiTConfig(layers=1, heads=2, head_dim=8, text_width=12, window=(1, 2, 2), base_size=4)
    >>> model = PTDiT(config)
    >>> model(torch.randn(2, 4, 8, 8), torch.tensor([10.0, 900.0]), torch.randn(2, 5, 12)).shape
    torch.Size([2, 8, 8, 8])
    """

    def __init__(self, config: PTDiTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PTDiTConfig()
        dim, area = config.dim, config.patch**2
        self.patches = nn.Linear(config.in_channels * area, dim)
        self.time = _TimeModulation(dim)
        self.caption = nn.Sequential(nn.Linear(config.text_width, dim), nn.GELU("tanh"), nn.Linear(dim, dim))
        self.blocks = nn.ModuleList(
            ProxyTokenBlock(dim, config.heads, config.window, config.proxy, config.mode, config.bias, config.shift)
            for _ in range(config.layers)
        )
        self.table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.head = nn.Linear(dim, config.out_channels * area)

    def positions(self, grid: Extents, device: torch.device) -> Tensor:
        """Code the places of a token grid (f, h, w): (f, h, w, C)."""
        config = self.config
        rows, columns = (
            torch.arange(extent, device=device) * (config.base_size / extent / config.interpolation)
            for extent in grid[1:]
        )
        place = sincos_2d(columns, rows, config.dim).view(1, *grid[1:], config.dim)
        if grid[0] > 1:
            place = place + sincos_1d(torch.arange(grid[0], device=device), config.dim)[:, None, None]
        return place

    def forward(
        self,
        latent: Tensor,
        timestep: Tensor,
        text: Tensor,
        text_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Predict.

        Args:
            latent: (B, in_channels, height, width), or (B, in_channels, frames, height, width).
            timestep: (B).
            text: (B, L, text_width).
            text_mask: (B, L), 0 or False on padding.
            generator: of random proxies.

        Returns:
            float32, shaped as the latent, with out_channels.

        Raises:
            ValueError: a latent whose patches do not fill the windows.
        """
        if latent.dim() not in (4, 5):
            raise ValueError(f"PTDiT: latent expected 4 or 5 dimensions; got {latent.dim()}")
        video = latent if latent.dim() == 5 else latent.unsqueeze(2)
        edge, window = self.config.patch, self.config.window
        if video.shape[3] % edge or video.shape[4] % edge:
            raise ValueError(f"PTDiT: latent expected whole patches of {edge} x {edge}; got {tuple(latent.shape)}")
        grid = (video.shape[2], video.shape[3] // edge, video.shape[4] // edge)
        check_window("PTDiT", grid, window)
        x = self.patches(_cut_patches(video, edge))
        x = window_partition(x + self.positions(grid, x.device).to(x.dtype), window)
        t6, embedded = self.time(timestep, x.dtype)
        states = self.caption(text)
        order = window_order(grid, window, x.device)
        for block in self.blocks:
            x = block(x, grid, t6, states, text_mask, generator, order)
        shift, scale = (self.table + embedded.unsqueeze(1)).view(len(latent), 2, 1, 1, 1, -1).unbind(1)
        y = self.head(norm(window_merge(x, grid, window)) * (1 + scale) + shift)
        return _join_patches(y, edge).view(len(latent), self.config.out_channels, *latent.shape[2:]).float()


def _cut_patches(video: Tensor, edge: int) -> Tensor:
    """(B, c, f, H, W) to (B, f, h, w, c * edge * edge), in the order of a convolution's weights."""
    cut: Tensor = video.unflatten(4, (-1, edge)).unflatten(3, (-1, edge))
    return cut.permute(0, 2, 3, 5, 1, 4, 6).flatten(4)


def _join_patches(y: Tensor, edge: int) -> Tensor:
    """(B, f, h, w, edge * edge * c) to (B, c, f, H, W)."""
    cut: Tensor = y.unflatten(4, (edge, edge, -1))
    return cut.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4).contiguous()


_OFFICIAL_NAMES = (
    (r"\.to_out\.0\.", ".out."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\bproxy_attn1\.", "proxies."),
    (r"\bpvisual_attn2\.", "inject."),
    (r"\blinear_1_visual\.", "inject_out."),
    (r"\battn1\.", "within."),
    (r"\battn3\.", "shifted."),
    (r"\blinear_2\.(?=weight$|bias$)", "shifted_out."),
    (r"\battn2\.", "text."),
    (r"\bff\.net\.0\.proj\.", "mlp.0."),
    (r"\bff\.net\.2\.", "mlp.2."),
    (r"\bproxy_scale_shift_table$", "shifted_table"),
    (r"\bscale_shift_table$", "table"),
)


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of the released code for :class:`ProxyTokenBlock` (names of one block).

    ``attn1``, ``attn3``, ``proxy_attn1``, ``pvisual_attn2`` and ``attn2`` become ``within``, ``shifted``, ``proxies``,
    ``inject`` and ``text``; ``linear_1_visual`` and ``linear_2`` become ``inject_out`` and ``shifted_out``.

    >>> list(from_official({"attn3.to_out.0.bias": torch.zeros(2), "scale_shift_table": torch.zeros(6, 2)}))
    ['shifted.out.bias', 'table']
    """
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in _OFFICIAL_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed
