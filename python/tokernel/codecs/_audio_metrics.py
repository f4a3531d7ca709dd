# SPDX-License-Identifier: Apache-2.0
"""What the survey of audio tokens measures: use of codebooks, rates, and how near a signal comes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tokernel import ops


class Utilization(NamedTuple):
    """Means over the codebooks of :class:`CodebookUtilization`."""

    utilization: float
    """Distinct ids over K; a codebook of which only one id is used counts 0, as in the benchmark."""
    normalized_entropy: float
    """H of the ids over log2 of the number of *used* ids; 0 where only one is used."""
    perplexity: float
    """2^H."""


class CodebookUtilization:
    """Count how often every id of every codebook is used, batch by batch, over a whole corpus.

    Args:
        codebook_size: K, of all codebooks.

    >>> import torch
    >>> counter = CodebookUtilization(4)
    >>> counter.update(torch.tensor([[0, 1], [2, 1]]))
    >>> counter.compute()
    Utilization(utilization=0.25, normalized_entropy=0.5, perplexity=1.5)

    Discrete Audio Tokens (arXiv 2506.10274).
    """

    def __init__(self, codebook_size: int) -> None:
        if codebook_size < 1:
            raise ValueError(f"CodebookUtilization: codebook_size must be at least 1, got {codebook_size}")
        self.codebook_size = codebook_size
        self.counts: Tensor | None = None

    def update(self, tokens: Tensor) -> None:
        """Count tokens (..., Q); -1 is no token.

        Raises:
            ValueError: another number of codebooks than before, or a token out of range.
        """
        books = tokens.shape[-1]
        if self.counts is not None and len(self.counts) != books:
            raise ValueError(f"CodebookUtilization.update: tokens must be of {len(self.counts)} codebooks, got {books}")
        rows = tokens.reshape(-1, books).T.contiguous()
        counts = ops.codebook_stats(rows, self.codebook_size, per_book=True).counts
        self.counts = counts if self.counts is None else self.counts + counts

    def compute(self) -> Utilization:
        """Measure what was counted.

        Raises:
            ValueError: nothing was counted.
        """
        if self.counts is None or not bool(self.counts.any()):
            raise ValueError("CodebookUtilization.compute: nothing was counted")
        share = self.counts.double() / self.counts.sum(1, keepdim=True).clamp(min=1)
        entropy = torch.special.entr(share).sum(1) / math.log(2)
        used = (self.counts > 0).sum(1)
        several = used > 1
        utilization = torch.where(several, used / self.codebook_size, 0.0)
        normalized = torch.where(several, entropy / used.double().clamp(min=2).log2(), 0.0)
        return Utilization(*(float(each.mean()) for each in (utilization, normalized, entropy.exp2())))


def token_rate(frame_rates: Sequence[float]) -> float:
    """Tokens a second of codebooks with so many frames a second.

    >>> token_rate([75.0] * 8)
    600.0
    """
    return float(sum(frame_rates))


def bitrate(frame_rates: Sequence[float], codebook_sizes: Sequence[int]) -> float:
    """Bits a second of codebooks with so many frames a second and so many codes: the sum of F log2 K.

    >>> round(bitrate([24000 / 512 / stride for stride in (4, 2, 1)], [4096] * 3), 1)  # SNAC at 24 kHz
    984.4
    """
    return sum(rate * math.log2(size) for rate, size in zip(frame_rates, codebook_sizes, strict=True))


def sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Signal-to-distortion ratio in dB: 10 log10 (|s|^2 / |s - s'|^2) over the last dimension.

    >>> import torch
    >>> sdr(torch.tensor([0.9, -0.9]), torch.tensor([1.0, -1.0]))
    tensor(20.0000)
    """
    signal, noise = reference.square().sum(-1), (reference - estimate).square().sum(-1)
    return 10 * (signal / noise).log10()


def si_snr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-noise ratio in dB over the last dimension, both signals centred first.

    The part of the estimate along the reference is the signal, the rest the noise.

    >>> import torch
    >>> reference = torch.tensor([1.0, -1.0, 1.0, -1.0])
    >>> si_snr(3 * reference + torch.tensor([1.0, 1.0, -1.0, -1.0]), reference)
    tensor(9.5424)
    """
    estimate = estimate - estimate.mean(-1, keepdim=True)
    reference = reference - reference.mean(-1, keepdim=True)
    along = (estimate * reference).sum(-1, keepdim=True) / reference.square().sum(-1, keepdim=True)
    return sdr(estimate, along * reference)
