# SPDX-License-Identifier: Apache-2.0
"""TokenFlow: Unified Image Tokenizer for Multimodal Understanding and Generation (Qu et al., CVPR 2025).

arXiv 2412.03069. Two encoders, one for meaning and one for pixels, share one index: it names a row in two codebooks at
once and minimises the sum of the two distances (:class:`SharedMappingQuantizer`), so one token serves understanding
and generation. Maps are encoded from coarse to fine (:class:`MultiScaleResidual`), and a language model predicts size
after size (:func:`multi_step_sample`).

The encoders and decoders around it, and the variant whose semantic codebook starts from k-means (off in the official
configurations), are not here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokernel import ops
from tokernel.codecs._losses import codebook_loss, commitment_loss, entropy_loss
from tokernel.codecs._multi_scale import (
    MapQuantizer,
    MultiScaleCodes,
    MultiScaleResidual,
    SharedCodes,
    multi_step_sample,
)
from tokernel.papers import paper

__all__ = [
    "PAPER",
    "SCALES",
    "MapQuantizer",
    "MultiScaleCodes",
    "MultiScaleResidual",
    "SharedCodes",
    "SharedMappingQuantizer",
    "multi_step_sample",
]

PAPER = paper("tokenflow")

SCALES = {
    "clipb_224": (1, 2, 4, 6, 8, 10, 12, 14),
    "vitamin_256": (1, 2, 4, 6, 8, 10, 12, 14, 16),
    "siglip_384": (*range(1, 11), 12, 14, 17, 22, 27),
}
"""The official sizes, by encoder."""


class SharedMappingQuantizer(nn.Module):
    """One index into several codebooks at once: the row whose weighted distances add up to the least.

    The channels are cut into parts; each part, and each codebook's rows, are normalised (eps 1e-12). The index is
    ``argmin_k sum_i weight_i |z_i - e_i[k]|^2``, the lowest of equals: one search among the parts side by side.

    ``codebook = mean (q - sg z)^2`` and ``commitment = beta * mean (sg q - z)^2`` over all channels, z the normalised
    parts; ``entropy = entropy_ratio * (H(p), averaged, minus H of the mean p)`` with p the softmax of -100 times the
    sum of distances.

    Args:
        codebook_size: K rows in each codebook.
        dims: channels of the parts; official: 32 of meaning, then 8 of pixels.
        weights: of their distances, ones by default.
        beta: of the commitment.
        entropy_ratio: of the entropy; 0 leaves it out.

    Raises:
        ValueError: sizes below 1, or weights that are negative or of another number.

    >>> import torch
    >>> quantizer = SharedMappingQuantizer(16, dims=(6, 2)).eval()
    >>> out = quantizer(torch.randn(1, 8, 2, 2))
    >>> out.index.shape, torch.equal(quantizer.lookup(out.index), out.quantized)
    (torch.Size([1, 2, 2]), True)
    """

    def __init__(
        self, codebook_size: int = 32768, dims: Sequence[int] = (32, 8), weights: Sequence[float] | None = None,
        beta: float = 0.25, entropy_ratio: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dims = tuple(dims)
        self.weights = tuple(float(weight) for weight in weights or (1.0,) * len(self.dims))
        if codebook_size < 1 or not self.dims or min(self.dims) < 1:
            raise ValueError(
                "SharedMappingQuantizer: codebook_size and dims must be at least 1, got "
                f"{codebook_size} and {self.dims}"
            )
        if len(self.weights) != len(self.dims) or min(self.weights) < 0:
            raise ValueError(
                f"SharedMappingQuantizer: weights must be {len(self.dims)} numbers of at least 0, got {self.weights}"
            )
        self.beta, self.entropy_ratio = beta, entropy_ratio
        bound = 1 / codebook_size
        self.codebooks = nn.ParameterList(
            functional.normalize(torch.empty(codebook_size, dim).uniform_(-bound, bound), dim=-1) for dim in self.dims
        )

    def forward(self, z: Tensor) -> SharedCodes:
        """Quantize maps.

        Args:
            z: (B, sum of dims, *size) float32, float16 or bfloat16; searched and trained in float32, also under
                autocast.

        Raises:
            ValueError: another number of channels.
        """
        rows, codes = self._unit_rows(z), self._unit_codes()
        near = self._weighted(rows), self._weighted(codes)
        index = ops.nearest(near[0].detach(), near[1].detach()).index
        q = ops.lookup(codes, index)
        size = (z.shape[0], *z.shape[2:])
        passed = ops.straight_through(rows, q.detach()).unflatten(0, size).movedim(-1, 1).to(z.dtype)
        losses = self._losses(rows, q, near) if self.training else {}
        return SharedCodes(passed, index.reshape(size), losses)

    def lookup(self, index: Tensor) -> Tensor:
        """Find the normalised rows (B, sum of dims, *size) float32 of ids (B, *size).

        Raises:
            ValueError: an index out of range.
        """
        codes: Tensor = ops.lookup(self._unit_codes(), index).movedim(-1, 1)
        return codes

    @torch.no_grad()
    def distance_norms(self, z: Tensor) -> list[Tensor]:
        """For each codebook the sum over all its rows of the squared distance, squared, averaged over positions.

        The official code logs these from the whole matrix of distances d = 2 - 2 z.e; the sum of d^2 over the rows e
        needs only their sum and their second moments.
        """
        parts = zip(self._unit_rows(z).split(self.dims, -1), self._unit_codes().split(self.dims, -1), strict=True)
        return [
            4 * (len(code) - 2 * rows.mean(0) @ code.sum(0) + ((rows.T @ rows) * (code.T @ code)).sum() / len(rows))
            for rows, code in parts
        ]

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"codebook_size={len(self.codebooks[0])}, dims={self.dims}, weights={self.weights}"

    def _unit_rows(self, z: Tensor) -> Tensor:
        channels = sum(self.dims)
        if z.ndim < 2 or z.shape[1] != channels:
            raise ValueError(f"SharedMappingQuantizer: z must have shape (B, {channels}, *size), got {tuple(z.shape)}")
        parts = z.movedim(1, -1).reshape(-1, channels).float().split(self.dims, -1)
        return torch.cat([functional.normalize(part, dim=-1) for part in parts], -1)

    def _unit_codes(self) -> Tensor:
        return torch.cat([functional.normalize(book.float(), dim=-1) for book in self.codebooks], -1)

    def _weighted(self, rows: Tensor) -> Tensor:
        if set(self.weights) == {1.0}:
            return rows
        parts = zip(rows.split(self.dims, -1), self.weights, strict=True)
        return torch.cat([part * weight**0.5 for part, weight in parts], -1)

    def _losses(self, rows: Tensor, q: Tensor, near: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        losses = {
            "codebook": codebook_loss(rows, q),
            "commitment": self.beta * commitment_loss(rows, q),
        }
        if self.entropy_ratio:
            losses["entropy"] = self.entropy_ratio * entropy_loss(*near)
        return losses
