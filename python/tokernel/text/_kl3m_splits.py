# SPDX-License-Identifier: Apache-2.0
"""Pre-tokenizers that cut at random, for training only: merges then reach over white space, or never settle on words.

Our reconstruction: KL3M's 005 line uses such splits, in a private fork of its library.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable

import numpy as np

Split = Callable[[str], list[str]]
"""Cuts a text into pieces that together are the text."""


def random_whitespace_split(p: float = 0.3, seed: int = 0) -> Split:
    """Cut before a run of white space with probability p, so that a piece may hold several words [ours].

    A text is cut the same way whenever, and after whatever else, it is cut.

    Raises:
        ValueError: a p outside [0, 1].

    >>> random_whitespace_split(p=1.0)("of the  law")
    ['of', ' the', '  law']
    >>> random_whitespace_split(p=0.0)("of the  law")
    ['of the  law']
    """
    if not 0 <= p <= 1:
        raise ValueError(f"random_whitespace_split: p must be between 0 and 1, got {p}")

    def split(text: str) -> list[str]:
        starts = [run.start() for run in re.finditer(r"\s+", text) if run.start()]
        chosen = _draws(seed, text).random(len(starts)) < p
        return _cut(text, [start for start, cut in zip(starts, chosen, strict=True) if cut])

    return split


def random_chunk_split(lo: int = 2, hi: int = 5, seed: int = 0) -> Split:
    """Cut into chunks of lo to hi characters, all lengths equally likely; the last may be shorter [ours].

    Raises:
        ValueError: unless 1 <= lo <= hi.

    >>> "".join(random_chunk_split()("hereinafter")), random_chunk_split(3, 3)("hereinafter")
    ('hereinafter', ['her', 'ein', 'aft', 'er'])
    """
    if not 1 <= lo <= hi:
        raise ValueError(f"random_chunk_split: expected 1 <= lo <= hi, got {lo} and {hi}")

    def split(text: str) -> list[str]:
        ends = np.cumsum(_draws(seed, text).integers(lo, hi + 1, len(text) // lo + 1))
        return _cut(text, ends[ends < len(text)].tolist())

    return split


def _draws(seed: int, text: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(text.encode("utf-8", "surrogatepass"))])


def _cut(text: str, at: list[int]) -> list[str]:
    pieces = [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]
    return [piece for piece in pieces if piece]
