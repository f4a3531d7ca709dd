# SPDX-License-Identifier: Apache-2.0
"""TokenBridge: Bridging Continuous and Discrete Tokens for Autoregressive Visual Generation (Wang et al., 2025).

arXiv 2503.16430. The latents of a trained VAE are made discrete afterwards: every channel value by itself is rounded to
one of 2^b levels that are equally likely under a normal distribution (:class:`GaussianScalarQuantizer`). Because such
an alphabet has no codebook over all channels, a small causal model predicts the channels of a position one by one
(:class:`ChannelARHead`), given the feature that a masked transformer has for the position.

Bins are quantiles, but a value goes to the nearest level, not to the bin it falls in. The masked transformer (MAR's) is
not part of this module; its order of unmasking and its guidance are (:func:`unmasking_schedule`,
:func:`guidance_scale`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokernel import ops
from tokernel.codecs._channel_head import Cache, ChannelBlock, ChannelFinal
from tokernel.codecs._filter import draw
from tokernel.codecs._gaussian_levels import MOST_BITS, gaussian_levels
from tokernel.papers import paper

__all__ = [
    "CHANNEL_ORDER",
    "PAPER",
    "ChannelARHead",
    "GaussianScalarQuantizer",
    "Scalars",
    "gaussian_levels",
    "guidance_scale",
    "patchify",
    "unmasking_schedule",
    "unpatchify",
]

PAPER = paper("tokenbridge")

CHANNEL_ORDER = (8, 1, 10, 9, 6, 12, 4, 0, 3, 11, 7, 14, 2, 15, 13, 5)
"""In which order the channels of the paper's VAE are generated (16 of them)."""


class Scalars(NamedTuple):
    """What :class:`GaussianScalarQuantizer` returns."""

    quantized: Tensor
    """The nearest levels, of the shape and dtype of the input."""
    index: Tensor  # type: ignore[assignment]
    """int64, of the same shape."""


class GaussianScalarQuantizer(nn.Module):
    """Round every value by itself to one of 2^bits levels that are equally likely under a normal distribution.

    ``y = clamp((x - lo) / (hi - lo) * 2R - R, -R, R)`` goes to the nearest level, the lower of two equally near ones.
    Values outside [lo, hi] go to the end levels, NaN to the last.

    Args:
        bits: 1 to 9; the paper's models use 6.
        lo, hi: the range of the input. The paper's -5 to 5 leaves latents of unit variance the inner 0.6 standard
            deviations of the table on purpose; -3 to 3 makes all levels equally likely for them.
        std_range: R.

    Attributes:
        levels: (2^bits,) float32, ascending, in units of the normal distribution.
        midpoints: (2^bits - 1,) float32, where the nearest level changes.

    Raises:
        ValueError: bits outside 1 to 9, a range that is empty or not finite, or std_range not positive.

    >>> import torch
    >>> quantizer = GaussianScalarQuantizer(bits=2, lo=-3.0, hi=3.0)
    >>> index = quantizer.encode(torch.tensor([-9.0, -0.1, 0.2, 1.0]))
    >>> index
    tensor([0, 1, 2, 3])
    >>> quantizer.decode(index)
    tensor([-1.2602, -0.3247,  0.3247,  1.2602])

    """

    levels: Tensor
    midpoints: Tensor

    def __init__(self, bits: int = 6, lo: float = -5.0, hi: float = 5.0, std_range: float = 3.0) -> None:
        super().__init__()
        if not 1 <= bits <= MOST_BITS:
            raise ValueError(f"GaussianScalarQuantizer: bits must be between 1 and {MOST_BITS}, got {bits}")
        if not (math.isfinite(lo) and math.isfinite(hi) and lo < hi):
            raise ValueError(f"GaussianScalarQuantizer: lo must be below hi, both finite, got {lo} and {hi}")
        if not 0 < std_range < math.inf:
            raise ValueError(f"GaussianScalarQuantizer: std_range must be positive and finite, got {std_range}")
        self.bits, self.lo, self.hi, self.std_range = bits, lo, hi, std_range
        levels = torch.tensor(gaussian_levels(bits, std_range)[1], dtype=torch.float64)
        self.register_buffer("levels", levels.float(), persistent=False)
        self.register_buffer("midpoints", ((levels[1:] + levels[:-1]) / 2).float(), persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        """Find the level of every value: int64 indices of the shape of x, a tensor of float32, float16 or bfloat16."""
        unit = (x.float() - self.lo) / (self.hi - self.lo)
        y = (unit * (2 * self.std_range) - self.std_range).clamp(-self.std_range, self.std_range)
        return ops.bucketize(y, self.midpoints)

    def decode(self, index: Tensor) -> Tensor:
        """Look levels up: float32 of the shape of index, an integer tensor with values in [0, 2^bits).

        Raises:
            ValueError: an index out of range.
        """
        level = ops.lookup(self.levels[:, None], index)[..., 0]
        x: Tensor = (level + self.std_range) / (2 * self.std_range) * (self.hi - self.lo) + self.lo
        return x

    def forward(self, x: Tensor) -> Scalars:
        """Round; the gradient passes straight through (our choice: the paper trains nothing through it)."""
        index = self.encode(x)
        return Scalars(ops.straight_through(x, self.decode(index).to(x.dtype)), index)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"bits={self.bits}, lo={self.lo}, hi={self.hi}, std_range={self.std_range}"


def patchify(x: Tensor, patch: int = 1) -> Tensor:
    """Cut latents (B, C, H, W) into rows (B, H/p * W/p, C*p*p), a patch's channels first, then its lines.

    Raises:
        ValueError: not four dimensions, or H or W is no multiple of the patch.

    >>> import torch
    >>> patchify(torch.arange(8.0).reshape(1, 2, 2, 2))[0, 1]
    tensor([1., 5.])
    """
    if x.ndim != 4:
        raise ValueError(f"patchify: x must have shape (B, C, H, W), got {tuple(x.shape)}")
    if patch < 1 or x.shape[2] % patch or x.shape[3] % patch:
        raise ValueError(f"patchify: patch must divide H and W of {tuple(x.shape)}, got {patch}")
    return nn.functional.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def unpatchify(rows: Tensor, size: tuple[int, int], patch: int = 1) -> Tensor:
    """Undo :func:`patchify`: rows (B, N, C*p*p) -> (B, C, H, W), with size = (H, W).

    Raises:
        ValueError: rows do not fit the size.
    """
    height, width = size
    fits = rows.ndim == 3 and rows.shape[1] * patch * patch == height * width and rows.shape[2] % (patch * patch) == 0
    if not fits or height % patch or width % patch:
        raise ValueError(
            f"unpatchify: rows must be (B, {height}*{width}/{patch}^2, C*{patch}^2), got {tuple(rows.shape)}"
        )
    grid = rows.transpose(1, 2).unflatten(2, (height // patch, width // patch))
    return nn.functional.pixel_shuffle(grid, patch)


def unmasking_schedule(tokens: int, steps: int) -> list[int]:
    """How many of `tokens` positions each of `steps` steps predicts, by the cosine rule; they add up to all of them.

    After step i ``floor(tokens * cos(pi/2 (i+1)/steps))`` positions stay masked, at least 1 and at most one fewer than
    before, and none after the last step. Where there are more steps than positions, the last ones predict none.

    Raises:
        ValueError: tokens or steps below 1.

    >>> unmasking_schedule(16, 4)
    [2, 3, 5, 6]
    """
    if tokens < 1 or steps < 1:
        raise ValueError(f"unmasking_schedule: tokens and steps must be at least 1, got {tokens} and {steps}")
    masked, counts = tokens, []
    for step in range(steps):
        left = math.floor(tokens * math.cos(math.pi / 2 * (step + 1) / steps))
        left = 0 if step == steps - 1 else max(min(left, masked - 1), min(1, masked))
        counts.append(masked - left)
        masked = left
    return counts


def guidance_scale(cfg: float, tokens: int, masked: int) -> float:
    """The scale of a step's guidance, growing linearly from 1 to cfg as positions are unmasked.

    The feature becomes ``z_u + scale * (z_c - z_u)``, before the channels are drawn.

    >>> guidance_scale(3.0, tokens=256, masked=64)
    2.5
    """
    return 1 + (cfg - 1) * (tokens - masked) / tokens


class ChannelARHead(nn.Module):
    """Predict the channel tokens of a position one by one, from the position's feature.

    Step t sees the condition c_t = Linear(feature) + T_t and the tokens of the steps before it. Parameters carry the
    official names, so its checkpoints load.

    Args:
        features: width of the position's feature.
        dim, heads, layers: of the causal blocks.
        channels, levels: C channels of so many levels each.
        order: channel that each step predicts, a permutation; None: 0 to C - 1. The paper's is :data:`CHANNEL_ORDER`.
        mlp_ratio: width of the MLPs over dim.
        eps: of the LayerNorms.

    Raises:
        ValueError: heads do not divide dim, an extent below 1, or an order that is no permutation.

    >>> import torch
    >>> head = ChannelARHead(features=8, dim=16, heads=2, layers=1, channels=4, levels=5)
    >>> features = torch.zeros(3, 8)
    >>> tokens = head.sample(features, temperature=0.0)
    >>> tokens.shape, head(features, tokens).shape
    (torch.Size([3, 4]), torch.Size([3, 4, 5]))

    """

    def __init__(
        self, features: int, dim: int, heads: int, layers: int, channels: int = 16, levels: int = 64,
        order: Sequence[int] | None = None, mlp_ratio: float = 4.0, eps: float = 1e-6,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(features, dim, heads, layers, channels, levels) < 1 or dim % heads:
            raise ValueError(
                "ChannelARHead: extents must be at least 1 and heads must divide dim, got "
                f"features={features}, dim={dim}, heads={heads}, layers={layers}, channels={channels}, levels={levels}"
            )
        self.order = tuple(range(channels) if order is None else order)
        if sorted(self.order) != list(range(channels)):
            raise ValueError(f"ChannelARHead: order must be a permutation of 0 to {channels - 1}, got {order}")
        self.channels, self.levels = channels, levels
        self.condition_proj = nn.Linear(features, dim)
        self.channel_embed = nn.Parameter(torch.empty(1, channels, dim).normal_(std=0.02))
        self.timesteps_embeddings = nn.Parameter(torch.empty(1, channels, dim).normal_(std=0.02))
        self.token_embeddings = nn.ModuleList(nn.Embedding(levels, dim) for _ in range(channels - 1))
        self.channel_blocks = nn.ModuleList(ChannelBlock(dim, heads, mlp_ratio, eps) for _ in range(layers))
        self.channel_norm = nn.LayerNorm(dim, eps)
        self.channel_final = ChannelFinal(dim, eps)
        self.channel_heads = nn.ModuleList(nn.Linear(dim, levels) for _ in range(channels))

    def forward(self, features: Tensor, tokens: Tensor, first_token_with_timestep: bool = False) -> Tensor:
        """Score all channels at once, the tokens before each being given.

        Args:
            features: (N, features).
            tokens: (N, C) int64, by channel.
            first_token_with_timestep: whether the first step starts from c_0 rather than the bare condition; the
                official code does so when it samples but not when it trains.

        Returns:
            logits (N, C, levels), by channel: what belongs with `tokens` in a cross-entropy.

        Raises:
            ValueError: a shape that does not fit.
        """
        self._check(features, tokens)
        steps = tokens[:, list(self.order)]
        given = [embed(steps[:, t]) for t, embed in enumerate(self.token_embeddings)]
        condition = self.condition_proj(features)[:, None] + self.timesteps_embeddings
        first = condition[:, 0] if first_token_with_timestep else self.condition_proj(features)
        x = torch.stack([first, *given], 1) + self.channel_embed
        for block in self.channel_blocks:
            x, _ = block(x, condition, None)
        x = self.channel_final(self.channel_norm(x), condition)
        logits = torch.stack([head(x[:, t]) for t, head in enumerate(self.channel_heads)], 1)
        return logits[:, self._steps_of_channels()]

    @torch.no_grad()
    def sample(
        self, features: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None,
        first_token_with_timestep: bool = True,
    ) -> Tensor:  # fmt: skip
        """Draw the channels of every position, keeping keys and values of the steps before.

        Args:
            features: (N, features), after guidance.
            temperature: 0 takes the likeliest level, the lowest of equals.
            generator: of the draws.
            first_token_with_timestep: see :meth:`forward`; True is what the official sampler does.

        Returns:
            tokens (N, C) int64, by channel.

        Raises:
            ValueError: a shape that does not fit, or a negative temperature.
        """
        self._check(features, None)
        bare = self.condition_proj(features)
        x = bare + self.timesteps_embeddings[:, 0] if first_token_with_timestep else bare
        caches: list[Cache | None] = [None] * len(self.channel_blocks)
        drawn: list[Tensor] = []
        for t in range(self.channels):
            condition = (bare + self.timesteps_embeddings[:, t])[:, None]
            hidden = (x + self.channel_embed[:, t])[:, None]
            for at, block in enumerate(self.channel_blocks):
                hidden, caches[at] = block(hidden, condition, caches[at])
            hidden = self.channel_final(self.channel_norm(hidden), condition)[:, 0]
            logits = self.channel_heads[t](hidden).float()
            drawn.append(draw(logits, temperature, generator=generator))
            if t < self.channels - 1:
                x = self.token_embeddings[t](drawn[-1])
        return torch.stack(drawn, 1)[:, self._steps_of_channels()]

    def _steps_of_channels(self) -> list[int]:
        return [self.order.index(channel) for channel in range(self.channels)]

    def _check(self, features: Tensor, tokens: Tensor | None) -> None:
        wide = self.condition_proj.in_features
        if features.ndim != 2 or features.shape[1] != wide:
            raise ValueError(f"ChannelARHead: features must have shape (N, {wide}), got {tuple(features.shape)}")
        expected = (features.shape[0], self.channels)
        if tokens is not None and tuple(tokens.shape) != expected:
            raise ValueError(f"ChannelARHead: tokens must have shape {expected}, got {tuple(tokens.shape)}")
