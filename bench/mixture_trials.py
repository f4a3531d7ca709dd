# SPDX-License-Identifier: Apache-2.0
"""One trial of mixture inference: a tokenizer is trained on a mixture that is known, and the mixture is inferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokernel.kernels import bpe
from tokernel.text import data_mixture_inference as inference

from bench.mixture_texts import Texts

PATTERN = "gpt2"
TOLERANCE = 1e-5  # of a pair's share; half the time of 1e-6, and the same answer
LARGEST_STEP = 3000  # constraints a program
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Trial(NamedTuple):
    """A tokenizer whose mixture is known."""

    names: list[str]
    shares: Floats
    """Of bytes of its training text."""
    trained_bytes: int
    merges: Ints


@dataclass(frozen=True)
class Language:
    """The paragraphs of one language, and what is counted in them once."""

    texts: Texts

    @cached_property
    def train_bytes(self) -> int:
        return sum(len(text.encode()) for text in self.texts.train)

    @cached_property
    def sample(self) -> bpe.CountedPieces:
        return bpe.count_pieces(self.texts.sample, PATTERN)

    def part_of_sample(self, share: float) -> bpe.CountedPieces:
        return bpe.count_pieces(self.texts.sample[: max(1, round(share * len(self.texts.sample)))], PATTERN)

    def alone(self, merges: int) -> Ints:
        """The tokenizer that is trained on this language alone."""
        if merges not in self._alone:
            self._alone[merges] = bpe.train_merges(*bpe.count_pieces(self.texts.train, PATTERN), 256 + merges)
        return self._alone[merges]

    @cached_property
    def _alone(self) -> dict[int, Ints]:
        return {}


def draw(languages: Mapping[str, Language], n: int, merges: int, rng: np.random.Generator) -> Trial:
    """Train on n languages in shares drawn uniformly from the simplex, on as much text as the shares allow."""
    names = sorted(rng.choice(sorted(languages), n, replace=False).tolist())
    wanted = rng.dirichlet(np.ones(n))
    total = min(languages[name].train_bytes / share for name, share in zip(names, wanted, strict=True))
    mixed: list[str] = []
    sizes = []
    for name, share in zip(names, wanted, strict=True):
        part, size = [], 0
        for text in languages[name].texts.train:
            if size >= total * share:
                break
            part.append(text)
            size += len(text.encode())
        mixed += part
        sizes.append(size)
    learnt = bpe.train_merges(*bpe.count_pieces(mixed, PATTERN), vocab_size=256 + merges)
    return Trial(names, np.array(sizes) / sum(sizes), sum(sizes), np.asarray(learnt))


def inferred(trial: Trial, samples: Sequence[bpe.CountedPieces], merges: int) -> Floats:
    """Shares of bytes, by the linear program."""
    found = inference.infer_from_merges(
        trial.merges[:merges], dict(zip(trial.names, samples, strict=True)), max_add=LARGEST_STEP, tol=TOLERANCE
    )
    return np.array(list(found.values()))


def token_counts(pieces: bpe.CountedPieces, merges: Ints) -> Ints:
    """How often every token occurs in a sample."""
    flat, offsets, counts = pieces
    ids, ends = bpe.apply_merges(flat.astype(np.int64), offsets, merges)
    return np.bincount(ids, np.repeat(counts, np.diff(ends)), 256 + len(merges)).astype(np.int64)


def efficiencies(trial: Trial, languages: Mapping[str, Language], merges: int) -> Floats:
    """What TEE sees: how well each sample is encoded, beside a tokenizer of its own."""
    samples = [languages[name].sample for name in trial.names]
    sizes = [int(np.diff(each.offsets) @ each.counts) for each in samples]
    ours = [int(token_counts(each, trial.merges[:merges]).sum()) for each in samples]
    alone = [
        int(token_counts(each, languages[name].alone(merges)).sum())
        for name, each in zip(trial.names, samples, strict=True)
    ]
    return inference.efficiency(sizes, ours, alone)


def classified(trial: Trial, languages: Mapping[str, Language], merges: int) -> Floats:
    """Shares by token classification; the 256 bytes are no evidence and left out."""
    counts = [token_counts(languages[name].sample, trial.merges[:merges]) for name in trial.names]
    return inference.token_classification(np.array(counts)[:, 256:])
