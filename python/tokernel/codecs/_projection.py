# SPDX-License-Identifier: Apache-2.0
"""Random projection quantizer (BEST-RQ, arXiv 2202.01855): nothing is learnt, the tokens are targets to predict."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from tokernel.codecs._checks import check_rows, whole
from tokernel.codecs._quantizer import Float32Module, Quantized
from tokernel.codecs._vector import VectorQuantizer


class RandomProjectionQuantizer(Float32Module):
    """Normalise a row, project it by fixed random matrices, and take the nearest fixed code by cosine.

    A LayerNorm without affine part, `num_codebooks` matrices drawn xavier-normal, and as many codebooks of random unit
    vectors; all of them buffers, drawn with torch's generator when the module is made.

    Args:
        dim: channels of x.
        codebook_size: K.
        codebook_dim: width of a projection.
        num_codebooks: C.
        norm: whether to normalise rows first.
        channel_first: x is (B, dim, ...).

    Returns of ``forward(x, mask=None)``:
        Quantized(quantized, index, {}): the codes found, (B, ..., C * codebook_dim), without gradient to x; index
        (B, ...), or (B, ..., C) of several codebooks.

    >>> quantizer = RandomProjectionQuantizer(dim=16, codebook_size=32, codebook_dim=4, num_codebooks=2)
    >>> quantizer.encode(torch.ones(5, 16)).shape
    torch.Size([5, 2])
    """

    projections: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        codebook_dim: int,
        num_codebooks: int = 1,
        *,
        norm: bool = True,
        channel_first: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.norm, self.channel_first = whole(self, "dim", dim), norm, channel_first
        width = whole(self, "num_codebooks", num_codebooks) * whole(self, "codebook_dim", codebook_dim)
        drawn = torch.empty(num_codebooks, dim, codebook_dim, dtype=torch.float32)
        for projection in drawn:
            torch.nn.init.xavier_normal_(projection)
        self.register_buffer("projections", drawn)
        self.vq = VectorQuantizer(
            width, codebook_size, heads=num_codebooks, separate_heads=True, metric="cosine", mode="frozen"
        )

    @torch.no_grad()
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize; see the class."""
        out = self.vq(self._projected(x), mask)
        quantized = out.quantized.movedim(-1, 1) if self.channel_first else out.quantized
        return Quantized(quantized.to(x.dtype), out.index, {})

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the indices alone."""
        return self.vq.encode(self._projected(x), mask)

    def decode(self, index: Tensor) -> Tensor:
        """Return the codes of `index`, in the space of the projections."""
        codes = self.vq.decode(index)
        return codes.movedim(-1, 1) if self.channel_first else codes

    def _projected(self, x: Tensor) -> Tensor:
        check_rows(self, x, self.dim, self.channel_first)
        rows = x.detach().movedim(1, -1) if self.channel_first else x.detach()
        with torch.autocast(x.device.type, enabled=False):
            rows = layer_norm(rows.float(), (self.dim,)) if self.norm else rows.float()
            return rows @ self.projections.movedim(1, 0).flatten(1)
