# SPDX-License-Identifier: Apache-2.0
"""The quantizers that the picture check puts between encoder and decoder, one line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tokernel.codecs import FSQ, LFQ, ResidualVQ, VectorQuantizer
from tokernel.codecs.fqgan import FactorizedQuantizer
from tokernel.codecs.wetok import GroupLFQ
from torch import Tensor, nn

from bench.codec_pictures import Quantize

Codes = tuple[int, ...]


@dataclass(frozen=True)
class Candidate:
    """A way to make latents discrete.

    Attributes:
        name: for tables.
        width: channels of the latents.
        books: how many codes each book holds; none for no quantizer at all.
        make: builds the module, which is trained with the autoencoder.
        apply: (module, latents (B, width, 8, 8)) -> what the decoder gets, ids (B, 64, books), loss.
    """

    name: str
    width: int
    books: Codes
    make: Callable[[], nn.Module]
    apply: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor | None, Tensor]]

    @property
    def bits(self) -> float:
        """Bits a patch, were all codes equally likely."""
        return sum(torch.tensor(self.books, dtype=torch.float64).log2().tolist())

    def bound(self, module: nn.Module) -> Quantize:
        """The quantizer as the autoencoder calls it."""
        return lambda latents: self.apply(module, latents)


def _continuous(module: nn.Module, latents: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    return module(latents), None, latents.new_zeros(())


def _one_module(module: nn.Module, latents: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    out = module(latents)
    ids = out.index.flatten(1, 2)
    return out.quantized, ids if ids.ndim == 3 else ids[..., None], out.loss


def _groups(module: nn.Module, latents: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """WeTok's weights. Its temperature expects latents of the size of 0.01 to 0.1: these train towards signs."""
    out = module(latents)
    loss = latents.new_zeros(())
    if out.losses:
        loss = 0.1 * out.losses["entropy"] + 0.25 * out.losses["commitment"]
    return out.quantized, out.index, loss


def _branches(module: nn.Module, latents: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    out = module(latents.chunk(2, 1))
    ids = torch.stack([each.flatten(1) for each in out.index], -1)
    return out.quantized, ids, sum(out.losses.values(), latents.new_zeros(()))


LEARNT = {"mode": "ema", "threshold": 2.0, "kmeans_init": True, "channel_first": True}
CANDIDATES = (
    Candidate("none", 16, (), nn.Identity, _continuous),
    Candidate("VQ 1024", 16, (1024,), lambda: VectorQuantizer(16, 1024, **LEARNT), _one_module),
    Candidate("FSQ 8x5x5x5", 4, (1000,), lambda: FSQ((8, 5, 5, 5), channel_first=True), _one_module),
    Candidate("LFQ 10 bits", 10, (1024,), lambda: LFQ(10, commitment_weight=0.25, channel_first=True), _one_module),
    Candidate("factorised 2 x 1024 (FQGAN)", 16, (1024,) * 2, lambda: FactorizedQuantizer(2, 1024, 8), _branches),
    Candidate("GQ 4 x 8 bits (WeTok)", 32, (256,) * 4, lambda: GroupLFQ(4, 8), _groups),
    Candidate("RVQ 4 x 256", 16, (256,) * 4, lambda: ResidualVQ(16, 256, 4, **LEARNT), _one_module),
)
