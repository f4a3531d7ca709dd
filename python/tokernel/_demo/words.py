# SPDX-License-Identifier: Apache-2.0
"""A text as tokens: every byte is one, the bytes of a word become one by their mean, and like words are matched."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokernel._demo import plain
from tokernel._demo.timing import fastest
from tokernel.kernels import merge

WIDTH = 128
BUCKETS = 1 << 14
WORD = re.compile(rb"[a-z]{4,}")
BOUNDARY = re.compile(rb"(?<=[a-z])(?=[^a-z])|(?<=[^a-z])(?=[a-z])")
SHOWN = 8

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Words:
    """What became of the text."""

    bytes: int
    segments: int
    seconds: float
    plain_seconds: float
    vocabulary: int
    match_seconds: float
    alike: list[tuple[str, str]]  # most alike first


def embed(text: bytes) -> Floats:
    """Give each byte the vectors of the letter pair and triple that start with it, hashed into a random table."""
    table = np.random.default_rng(0).standard_normal((BUCKETS, WIDTH), dtype=np.float32)
    codes = np.frombuffer(text + b"  ", np.uint8).astype(np.int64)
    pairs = codes[:-2] * 257 + codes[1:-1]
    triples = pairs * 263 + codes[2:] + 7919
    embedded: Floats = table[pairs % BUCKETS] + table[triples % BUCKETS]
    return embedded


def segment_offsets(text: bytes) -> Ints:
    """Cut between letters and everything else; the last cut is the end of the text."""
    inner = [m.start() for m in BOUNDARY.finditer(text)]
    return np.array([0, *inner, len(text)], np.int64)


def merge_words(content: bytes) -> Words:
    """Merge bytes into words, then find the pairs of words that matching would merge first."""
    text = content.lower()
    x, offsets = embed(text), segment_offsets(text)
    seconds, vectors = fastest(lambda: merge.segment_reduce(x, offsets=offsets))
    plain_seconds, _ = fastest(lambda: plain.segment_mean(x, offsets))
    pieces = [text[a:b] for a, b in itertools.pairwise(offsets)]
    first_seen = {word: i for i, word in reversed(list(enumerate(pieces))) if WORD.fullmatch(word)}
    vocabulary = sorted(first_seen)
    # In alphabetical order a word and its inflections are neighbours, so one is even and the next one odd.
    known = vectors[[first_seen[word] for word in vocabulary]][None]
    match_seconds, plan = fastest(lambda: merge.bipartite_match(known, SHOWN))
    sources, targets = (np.asarray(i).reshape(-1) for i in (plan.src_idx, plan.dst_idx))
    alike = [
        (vocabulary[2 * s].decode(), vocabulary[2 * t + 1].decode()) for s, t in zip(sources, targets, strict=True)
    ]
    return Words(len(text), len(pieces), seconds, plain_seconds, len(vocabulary), match_seconds, alike)
