# SPDX-License-Identifier: Apache-2.0
"""FQGAN: Factorized Visual Tokenization and Generation (Bai et al., 2024).

arXiv 2411.16681. One huge codebook becomes k small ones: the shared features go through k adapters
(:class:`BranchAdapter`), each branch is looked up in its own codebook of unit vectors (:class:`FactorizedQuantizer`),
and the k unit vectors side by side are decoded. K^k combinations cost k lookups among K. A penalty keeps the branches
at right angles (:func:`disentangle_loss`), and a head on a branch ties it to a frozen encoder
(:class:`RepresentationHead`, :func:`info_nce`). The generator (:class:`FactorizedAR`) predicts a position's sub-tokens
by a small autoregressive head (:class:`FactorizedARHead`).

The official code is not for commercial use; this is written from the paper's formulas alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokernel import ops
from tokernel.codecs._far_head import FactorizedARHead
from tokernel.codecs._far_model import FactorizedAR
from tokernel.codecs._fqgan_branches import BranchAdapter, RepresentationHead
from tokernel.codecs._losses import codebook_loss, commitment_loss, entropy_loss
from tokernel.papers import paper

__all__ = [
    "PAPER",
    "BranchAdapter",
    "FactorizedAR",
    "FactorizedARHead",
    "FactorizedCodes",
    "FactorizedQuantizer",
    "RepresentationHead",
    "disentangle_loss",
    "info_nce",
]

PAPER = paper("fqgan")


class FactorizedCodes(NamedTuple):
    """What :class:`FactorizedQuantizer` returns."""

    quantized: Tensor
    """(B, k * dim, *size): the branches' unit vectors side by side."""
    index: list[Tensor]  # type: ignore[assignment]
    """k tensors (B, *size) int64."""
    losses: dict[str, Tensor]
    """Weighted float32 scalars to add up: ``codebook``, ``commitment`` and ``entropy``, sums over the branches, and
    ``disentangle``; empty outside training."""


class FactorizedQuantizer(nn.Module):
    """k independent codebooks of unit vectors, one for each branch.

    Rows and codes are normalised (eps 1e-12); the nearest code wins, the lowest of equals. ``codebook = mean (q - sg
    z)^2``, ``commitment = beta * mean (sg q - z)^2`` with z the normalised rows; ``entropy = entropy_ratio * (H(p) of a
    row, averaged, minus H of the mean p)`` with p the softmax of ``-100 |z - e|^2``.

    Args:
        k: branches; 2 and 3 in the paper.
        codebook_size: K codes in each.
        dim: width of a code.
        beta: of the commitment.
        entropy_ratio: of the entropy; 0 leaves it out.
        disentangle: weight of :func:`disentangle_loss`.

    Raises:
        ValueError: k, codebook_size or dim below 1.

    >>> import torch
    >>> quantizer = FactorizedQuantizer(k=2, codebook_size=16, dim=4).eval()
    >>> out = quantizer([torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)])
    >>> out.quantized.shape, torch.equal(quantizer.lookup(out.index), out.quantized)
    (torch.Size([1, 8, 2, 2]), True)
    """

    def __init__(
        self, k: int = 2, codebook_size: int = 16384, dim: int = 8, beta: float = 0.25, entropy_ratio: float = 0.03,
        disentangle: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(k, codebook_size, dim) < 1:
            raise ValueError(
                f"FactorizedQuantizer: k, codebook_size and dim must be at least 1, got {k}, {codebook_size} and {dim}"
            )
        self.beta, self.entropy_ratio, self.disentangle = beta, entropy_ratio, disentangle
        start = torch.empty(k, codebook_size, dim).uniform_(-1 / codebook_size, 1 / codebook_size)
        self.codebooks = nn.Parameter(functional.normalize(start, dim=-1))

    def forward(self, branches: Sequence[Tensor]) -> FactorizedCodes:
        """Quantize every branch by its own codebook.

        Args:
            branches: k tensors (B, dim, *size) of one shape, float32, float16 or bfloat16. Searched and trained in
                float32, also under autocast.

        Raises:
            ValueError: another number of branches, or a shape that does not fit.
        """
        shape = self._check(branches)
        z = torch.stack([functional.normalize(branch.float().flatten(2), dim=1) for branch in branches])
        rows = z.transpose(2, 3).flatten(1, 2)  # (k, N, dim)
        codes = functional.normalize(self.codebooks.float(), dim=-1)
        index = ops.nearest(rows.detach(), codes.detach(), "cosine").index
        q = ops.lookup(codes, index)
        passed = ops.straight_through(rows, q.detach())
        parts = [self._folded(part, shape) for part in passed]
        losses = self._losses(rows, q, codes, parts) if self.training else {}
        ids = [each.reshape(shape[0], *shape[2:]) for each in index]
        return FactorizedCodes(torch.cat(parts, 1).to(branches[0].dtype), ids, losses)

    def lookup(self, index: Sequence[Tensor]) -> Tensor:
        """Rebuild what the decoder gets, (B, k * dim, *size) float32, from k tensors (B, *size) of ids.

        Raises:
            ValueError: another number of tensors, or an index out of range.
        """
        if len(index) != len(self.codebooks):
            raise ValueError(
                f"FactorizedQuantizer.lookup: index must hold {len(self.codebooks)} tensors, got {len(index)}"
            )
        codes = functional.normalize(self.codebooks.float(), dim=-1)
        parts = [ops.lookup(book, ids).movedim(-1, 1) for book, ids in zip(codes, index, strict=True)]
        return torch.cat(parts, 1)

    def extra_repr(self) -> str:
        """Show the sizes."""
        k, size, dim = self.codebooks.shape
        return f"k={k}, codebook_size={size}, dim={dim}"

    def _losses(self, rows: Tensor, q: Tensor, codes: Tensor, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        books = len(rows)  # every branch has as many elements, so k means add up to k times the mean
        losses = {
            "codebook": books * codebook_loss(rows, q),
            "commitment": self.beta * books * commitment_loss(rows, q),
        }
        if self.entropy_ratio:
            losses["entropy"] = self.entropy_ratio * books * entropy_loss(rows, codes)
        if books > 1:
            losses["disentangle"] = disentangle_loss(parts, self.disentangle)
        return losses

    @staticmethod
    def _folded(rows: Tensor, shape: torch.Size) -> Tensor:
        return rows.reshape(shape[0], math.prod(shape[2:]), shape[1]).transpose(1, 2).reshape(shape)

    def _check(self, branches: Sequence[Tensor]) -> torch.Size:
        k, _, dim = self.codebooks.shape
        if len(branches) != k:
            raise ValueError(f"FactorizedQuantizer: branches must be {k} tensors, got {len(branches)}")
        shape = branches[0].shape
        if len(shape) < 3 or shape[1] != dim or any(branch.shape != shape for branch in branches):
            shapes = [tuple(branch.shape) for branch in branches]
            raise ValueError(f"FactorizedQuantizer: branches must all have shape (B, {dim}, *size), got {shapes}")
        return shape


def disentangle_loss(branches: Sequence[Tensor], weight: float = 0.1) -> Tensor:
    """Penalise branches that point the same way.

    For two branches ``weight * mean (a.b)^2`` over positions, a and b normalised over channels; for more, the mean over
    all pairs.

    Args:
        branches: at least two tensors (B, dim, *size), quantized, gradients passing to the encoders.
        weight: of the penalty.

    Returns:
        a scalar in [0, weight].

    Raises:
        ValueError: fewer than two branches.

    >>> import torch
    >>> a = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    >>> disentangle_loss([a, a]), disentangle_loss([a, a.flip(1)])
    (tensor(0.1000), tensor(0.))
    """
    if len(branches) < 2:
        raise ValueError(f"disentangle_loss: branches must be at least two tensors, got {len(branches)}")
    unit = [functional.normalize(branch.float(), dim=1) for branch in branches]
    pairs = [(a * b).sum(1).square().mean() for a, b in itertools.combinations(unit, 2)]
    return weight * torch.stack(pairs).mean()


def info_nce(student: Tensor, teacher: Tensor) -> Tensor:
    """Tell every image's own teacher feature from those of the batch: ``-mean log softmax(s f^T)`` on the diagonal.

    Args:
        student, teacher: (B, D); both are normalised, the temperature is 1, and only rows compete. No gradient reaches
            the teacher.

    Returns:
        a scalar of at least 0; log B where all features are alike.

    Raises:
        ValueError: shapes that differ.

    >>> import torch
    >>> info_nce(torch.ones(4, 3), torch.ones(4, 3))
    tensor(1.3863)
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"info_nce: student and teacher must both have shape (B, D), got {shapes}")
    logits = functional.normalize(student.float(), dim=-1) @ functional.normalize(teacher.detach().float(), dim=-1).T
    return functional.cross_entropy(logits, torch.arange(len(student), device=student.device))
