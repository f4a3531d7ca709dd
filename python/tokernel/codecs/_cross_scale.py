# SPDX-License-Identifier: Apache-2.0
"""Quantizers at several resolutions of a decoder, each on what the decoder still lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class CrossScaleCodes(NamedTuple):
    """What :class:`CrossScaleRVQ` returns."""

    quantized: Tensor
    """The decoder's features after the last quantizer."""
    index: list[Tensor]  # type: ignore[assignment]
    """Ids of every quantizer."""
    losses: dict[str, Tensor]
    """Sums over the quantizers."""


class CrossScaleRVQ(nn.Module):
    """Cross-scale residual quantization: encoder features minus decoder features, coarse to fine (ESC).

    ``d_0 = 0; d_i' = d_i + VQ_i(e_i - d_i); d_{i+1} = up_i(d_i')``. The survey names the form; this composition is our
    reconstruction, unverified against official code.

    Args:
        quantizers: one a scale, coarse first: modules that return ``quantized``, ``index`` and ``losses``.
        ups: what takes the decoder from each scale to the next: one fewer.

    Raises:
        ValueError: another number of ups.

    >>> import torch
    >>> from tokernel.codecs.audio_tokens import FactorizedRVQ
    >>> up = torch.nn.Upsample(scale_factor=2)
    >>> stack = CrossScaleRVQ([FactorizedRVQ(4, 1, 8, 2), FactorizedRVQ(4, 1, 8, 2)], [up])
    >>> stack([torch.randn(1, 4, 3), torch.randn(1, 4, 6)]).quantized.shape
    torch.Size([1, 4, 6])

    Discrete Audio Tokens (arXiv 2506.10274).
    """

    def __init__(self, quantizers: Sequence[nn.Module], ups: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(ups) != len(quantizers) - 1:
            raise ValueError(
                f"CrossScaleRVQ: ups must be one fewer than the {len(quantizers)} quantizers, got {len(ups)}"
            )
        self.quantizers, self.ups = nn.ModuleList(quantizers), nn.ModuleList(ups)

    def forward(self, features: Sequence[Tensor]) -> CrossScaleCodes:
        """Quantize the encoder's features, one tensor a scale, coarse first.

        Raises:
            ValueError: another number of scales.
        """
        if len(features) != len(self.quantizers):
            raise ValueError(f"CrossScaleRVQ: features must be {len(self.quantizers)} tensors, got {len(features)}")
        decoder, ids, losses = torch.zeros_like(features[0]), [], []
        for at, quantizer in enumerate(self.quantizers):
            out = quantizer(features[at] - decoder)
            decoder = decoder + out.quantized
            ids.append(out.index)
            losses.append(out.losses)
            if at < len(self.ups):
                decoder = self.ups[at](decoder)
        sums = {name: torch.stack([each[name] for each in losses]).sum() for name in losses[0]}
        return CrossScaleCodes(decoder, ids, sums)
