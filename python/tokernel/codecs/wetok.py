# SPDX-License-Identifier: Apache-2.0
"""WeTok: Powerful Discrete Tokenization for High-Fidelity Visual Reconstruction (Zhuang et al., ICLR 2026).

arXiv 2508.05599. Group-wise lookup-free quantization (:class:`GroupLFQ`): the channels of every latent position are cut
into groups of bits, a bit is a sign, and a group is one token of a codebook of 2^bits entries that is never stored.
The entropy terms, which would need 2^(all bits) entries for an ungrouped code, are taken group by group: the entropy of
a token exactly from its bits, the mean use of the entries by a product tree over the bits.

A second stage swaps in a decoder that is also given noise (:class:`NoiseConditionedDecoderInput`), trained
adversarially with :class:`LeCam`; :class:`AdaptiveGroupNorm` lets the codes steer it.

As the official code does, and unlike what a reader might expect, all groups share one histogram of their entries: one
group may leave half of them unused if another uses them. ``pool_groups=False`` gives every group its own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokernel import ops
from tokernel.codecs._losses import entropy_of
from tokernel.papers import paper

__all__ = [
    "PAPER",
    "AdaptiveGroupNorm",
    "GroupLFQ",
    "GroupedSigns",
    "LeCam",
    "NoiseConditionedDecoderInput",
    "depth_to_space",
    "entropy_boost",
    "factorize",
    "group_cross_entropy",
]

PAPER = paper("wetok")

MOST_BITS = 16
"""Bits of a group whose 2^bits entries the entropy term visits."""
BATCH_EPS = 1e-5


class GroupedSigns(NamedTuple):
    """What :class:`GroupLFQ` returns."""

    quantized: Tensor
    """Signs, of the shape and dtype of the input; the gradient passes straight through."""
    index: Tensor  # type: ignore[assignment]
    """(B, positions, groups) int64."""
    losses: dict[str, Tensor]
    """``entropy`` and ``commitment``, unweighted float32 scalars (the paper's weights: 0.1 and 0.25), and the two
    parts of the first, ``per_sample_entropy`` and ``codebook_entropy``; empty outside training."""


class GroupLFQ(nn.Module):
    """Sign bits in groups, each group one token.

    Channel c belongs to group c // bits and is bit c % bits of it, the lowest first. A code is +1 where z > 0, else -1
    (also for zero and NaN).

    ``entropy = w_sample * per_sample - w_batch * codebook`` with p the softmax of ``2 z_g.c / temperature`` over all
    2^bits codes c of a group: per_sample the entropy of p, averaged over tokens and groups (exactly, from the bits);
    codebook ``-sum q log(q + 1e-5)`` of q, the p averaged over tokens (and groups). ``commitment`` is the mean of
    ``(z - code)^2``.

    Args:
        groups, bits: z has groups * bits channels.
        w_sample, w_batch: of the two entropies.
        temperature: of the softmax. At the default latents of order 1 saturate it: their entropies have no gradient.
        pool_groups: one histogram for all groups (official), or one each, whose entropies are averaged.

    Raises:
        ValueError: groups below 1, bits outside 1 to 16, or a temperature that is not positive.

    >>> import torch
    >>> quantizer = GroupLFQ(groups=2, bits=3).eval()
    >>> z = torch.tensor([0.3, -0.1, 0.2, -0.5, 0.0, 0.7]).reshape(1, 6, 1, 1)
    >>> out = quantizer(z)
    >>> out.index
    tensor([[[5, 4]]])
    >>> torch.equal(quantizer.decode(out.index, (1, 1)), out.quantized)
    True

    """

    def __init__(
        self, groups: int, bits: int, w_sample: float = 1.0, w_batch: float = 1.0, temperature: float = 0.01,
        pool_groups: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if groups < 1:
            raise ValueError(f"GroupLFQ: groups must be at least 1, got {groups}")
        if not 1 <= bits <= MOST_BITS:
            raise ValueError(f"GroupLFQ: bits must be between 1 and {MOST_BITS}, got {bits}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"GroupLFQ: temperature must be positive and finite, got {temperature}")
        self.groups, self.bits, self.temperature = groups, bits, temperature
        self.w_sample, self.w_batch, self.pool_groups = w_sample, w_batch, pool_groups

    def forward(self, z: Tensor) -> GroupedSigns:
        """Quantize latents.

        Args:
            z: (B, groups * bits, *size) float32, float16 or bfloat16, of any number of spatial dimensions. Losses are
                computed in float32, also under autocast.

        Raises:
            ValueError: a number of channels that is not groups * bits.
        """
        rows = self._rows(z)
        index = ops.sign_pack(rows.detach(), self.bits)
        code = ops.sign_unpack(index, self.bits, dtype=z.dtype)
        quantized = ops.straight_through(z, code.transpose(1, 2).reshape(z.shape))
        return GroupedSigns(quantized, index, self._losses(rows.float(), code.float()) if self.training else {})

    def encode(self, z: Tensor) -> Tensor:
        """Find the tokens (B, positions, groups) int64 of latents (B, groups * bits, *size)."""
        return ops.sign_pack(self._rows(z).detach(), self.bits)

    def decode(self, index: Tensor, size: Sequence[int]) -> Tensor:
        """Rebuild the signs (B, groups * bits, *size) float32 of tokens (B, positions, groups).

        Raises:
            ValueError: a shape that does not fit, or an index outside [0, 2^bits).
        """
        expected = (math.prod(size), self.groups)
        if index.ndim != 3 or tuple(index.shape[1:]) != expected:
            raise ValueError(f"GroupLFQ.decode: index must have shape (B, *{expected}), got {tuple(index.shape)}")
        codes: Tensor = ops.sign_unpack(index, self.bits).transpose(1, 2).unflatten(2, tuple(size))
        return codes

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"groups={self.groups}, bits={self.bits}, temperature={self.temperature}, pool_groups={self.pool_groups}"

    def _rows(self, z: Tensor) -> Tensor:
        channels = self.groups * self.bits
        if z.ndim < 3 or z.shape[1] != channels:
            raise ValueError(f"GroupLFQ: z must have shape (B, {channels}, *size), got {tuple(z.shape)}")
        return z.flatten(2).transpose(1, 2)

    def _losses(self, rows: Tensor, code: Tensor) -> dict[str, Tensor]:
        z = rows.reshape(-1, self.groups, self.bits)
        slope = 4 / self.temperature  # a bit's two codes lie 4 z / temperature apart
        per_sample = ops.bit_entropy(z, slope).mean()
        used = ops.subcode_histogram(z, slope, pool=self.pool_groups)
        codebook = entropy_of(used, log_add=BATCH_EPS).mean()
        return {
            "entropy": self.w_sample * per_sample - self.w_batch * codebook,
            "commitment": functional.mse_loss(rows, code),
            "per_sample_entropy": per_sample.detach(),
            "codebook_entropy": codebook.detach(),
        }


def factorize(index: Tensor, bits: int, widths: Sequence[int]) -> Tensor:
    """Cut the same bits into tokens of other widths, by integer arithmetic alone.

    Args:
        index: (..., G) integers of `bits` bits each, the lowest bit first.
        bits: 1 to 63.
        widths: of the new tokens, 1 to 63 each, G * bits in all.

    Returns:
        (..., len(widths)) int64.

    Raises:
        ValueError: widths that do not add up, or a width outside 1 to 63.

    >>> import torch
    >>> factorize(torch.tensor([[3, 1]]), bits=2, widths=[1, 3])
    tensor([[1, 3]])

    What the autoregressive stage reads its tokens by.
    """
    widths = list(widths)
    if min([bits, *widths]) < 1 or max([bits, *widths]) > 63:
        raise ValueError(f"factorize: bits and widths must be between 1 and 63, got {bits} and {widths}")
    total = index.shape[-1] * bits
    if sum(widths) != total:
        raise ValueError(f"factorize: widths must add up to {total} bits, got {widths}")
    every = (index[..., None].long() >> torch.arange(bits, device=index.device)) & 1
    pieces = every.flatten(-2).split(widths, -1)
    shifts = torch.arange(63, device=index.device)
    return torch.stack([(piece << shifts[: piece.shape[-1]]).sum(-1) for piece in pieces], -1)


def group_cross_entropy(logits: Tensor, index: Tensor) -> Tensor:
    """Sum the cross-entropies of the groups' heads: what the autoregressive stage is trained by.

    Args:
        logits: (B, positions, groups, 2^bits).
        index: (B, positions, groups) int64.

    Returns:
        a scalar: for each group the mean over positions, added up.

    >>> import torch
    >>> round(group_cross_entropy(torch.zeros(1, 5, 2, 8), torch.zeros(1, 5, 2, dtype=torch.int64)).item(), 4)
    4.1589
    """
    return functional.cross_entropy(logits.flatten(0, 2), index.flatten()) * index.shape[-1]


def entropy_boost(step: int, ratio: float = 0.0, steps: int = 2000) -> float:
    """By what the entropy term is multiplied at a step: ``1 + ratio * max(0, 1 - step / steps)``.

    >>> entropy_boost(500, ratio=2.0)
    2.5
    """
    return 1 + ratio * max(0.0, 1 - step / steps)


class AdaptiveGroupNorm(nn.Module):
    """A GroupNorm whose scale and offset come from the codes: scale from their spread, offset from their mean.

    ``y = GN(x) * gamma(s) + beta(m)``, m and s = sqrt(var + eps) being mean and (unbiased) standard deviation of every
    channel of z over its positions, gamma and beta linear maps.

    Args:
        code_channels, channels: of z and of x.
        groups: of the GroupNorm, which has no scale or offset of its own.
        eps: of both.

    >>> import torch
    >>> AdaptiveGroupNorm(4, 32)(torch.randn(2, 32, 8, 8), torch.ones(2, 4, 4, 4)).shape
    torch.Size([2, 32, 8, 8])

    """

    def __init__(self, code_channels: int, channels: int, groups: int = 32, eps: float = 1e-6) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"AdaptiveGroupNorm: groups must divide {channels} channels, got {groups}")
        self.groups, self.eps = groups, eps
        self.gamma = nn.Linear(code_channels, channels)
        self.beta = nn.Linear(code_channels, channels)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Normalise x (B, channels, *size) as codes z (B, code_channels, *size'), at least two positions, say."""
        rows = z.flatten(2)
        scale = self.gamma((rows.var(2) + self.eps).sqrt())
        offset = self.beta(rows.mean(2))
        each = (slice(None), slice(None), *(None,) * (x.ndim - 2))
        out: Tensor = functional.group_norm(x, self.groups, eps=self.eps) * scale[each] + offset[each]
        return out


class NoiseConditionedDecoderInput(nn.Module):
    """The first convolution of a decoder, widened to take noise beside the codes.

    Copies the weights of the trained convolution; those of the noise start at zero, so the swap changes nothing at
    first.

    Args:
        conv: the trained ``nn.Conv2d``, ungrouped.

    >>> import torch
    >>> conv = torch.nn.Conv2d(4, 8, 3, padding=1)
    >>> code = torch.ones(1, 4, 2, 2)
    >>> torch.allclose(NoiseConditionedDecoderInput(conv)(code), conv(code), atol=1e-6)
    True

    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        if conv.groups != 1:
            raise ValueError(f"NoiseConditionedDecoderInput: conv must not be grouped, got {conv.groups} groups")
        self.conv = copy.deepcopy(conv)
        self.conv.in_channels *= 2
        self.conv.weight = nn.Parameter(torch.cat([conv.weight.detach(), torch.zeros_like(conv.weight)], 1))

    def forward(self, code: Tensor, noise: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Convolve codes (B, C, H, W) beside noise of the same shape, drawn from N(0, 1) where none is given."""
        if noise is None:
            noise = torch.randn(code.shape, generator=generator, device=code.device, dtype=code.dtype)
        if noise.shape != code.shape:
            expected = tuple(code.shape)
            raise ValueError(
                f"NoiseConditionedDecoderInput: noise must have shape {expected}, got {tuple(noise.shape)}"
            )
        out: Tensor = self.conv(torch.cat([code, noise], 1))
        return out


class LeCam(nn.Module):
    """The LeCam regulariser of a discriminator: real and fake logits are kept near the other's running mean.

    ``mean relu(real - ema_fake)^2 + mean relu(ema_real - fake)^2``; the running means take in the batch first. The
    paper's weight is 0.05.

    Args:
        decay: of the running means, which start at 0.

    >>> import torch
    >>> lecam = LeCam(decay=0.0)
    >>> lecam(torch.tensor([1.0]), torch.tensor([0.0]))
    tensor(2.)
    """

    ema_real: Tensor
    ema_fake: Tensor

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"LeCam: decay must be between 0 and 1, got {decay}")
        self.decay = decay
        self.register_buffer("ema_real", torch.zeros(()))
        self.register_buffer("ema_fake", torch.zeros(()))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Take in a batch of logits and return its penalty, a scalar."""
        if self.training:
            self.ema_real.lerp_(real.detach().float().mean(), 1 - self.decay)
            self.ema_fake.lerp_(fake.detach().float().mean(), 1 - self.decay)
        return (real - self.ema_fake).relu().square().mean() + (self.ema_real - fake).relu().square().mean()


def depth_to_space(x: Tensor, factor: int = 2) -> Tensor:
    """Spread channels (B, factor^2 * C, H, W) over space, (B, C, factor * H, factor * W), offsets before channels.

    Channel ``(i * factor + j) * C + c`` goes to offset (i, j) of channel c; torch's ``pixel_shuffle`` has the channel
    first.

    >>> import torch
    >>> depth_to_space(torch.arange(4.0).reshape(1, 4, 1, 1))
    tensor([[[[0., 1.],
              [2., 3.]]]])

    How the decoder upsamples.
    """
    batch, channels, height, width = x.shape
    if channels % factor**2:
        raise ValueError(f"depth_to_space: channels must be a multiple of {factor**2}, got {channels}")
    parts = x.reshape(batch, factor, factor, channels // factor**2, height, width)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, factor * height, factor * width)
