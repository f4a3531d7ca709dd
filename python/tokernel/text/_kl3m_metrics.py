# SPDX-License-Identifier: Apache-2.0
"""What KL3M measures a tokenizer by. Works with anything that has ``encode(text) -> ids`` and ``decode_bytes``."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tokernel.text._kl3m_tokenizer import ByteLevelBPE


class Encodes(Protocol):
    """What can be measured."""

    def encode(self, text: str, /) -> Sequence[int] | NDArray[np.int32]:
        """Find the ids of a text."""


def tokens_per_character(tokenizer: Encodes, texts: Sequence[str]) -> float:
    """Tokens of all texts over their characters; NaN where there is none. The less, the better.

    >>> class Words:
    ...     def encode(self, text): return text.split()
    >>> tokens_per_character(Words(), ["the law", "of"])
    0.3333333333333333
    """
    characters = sum(map(len, texts))
    return sum(len(tokenizer.encode(text)) for text in texts) / characters if characters else float("nan")


def term_token_counts(tokenizer: Encodes, terms: Sequence[str]) -> dict[str, int]:
    """How many tokens each term takes, alone and without begin or end tokens.

    >>> class Words:
    ...     def encode(self, text): return text.split()
    >>> term_token_counts(Words(), ["habeas corpus"])
    {'habeas corpus': 2}
    """
    return {term: len(tokenizer.encode(term)) for term in terms}


def token_length_histogram(tokenizer: ByteLevelBPE) -> NDArray[np.int64]:
    """How many tokens have 0, 1, 2, ... characters, special tokens left out.

    Characters of the byte alphabet: an accented letter counts as two, a Chinese one as three.
    """
    special = {token.text for token in tokenizer.added if token.special}
    lengths = [len(text) for text in tokenizer.token_ids if text not in special]
    return np.bincount(np.array(lengths, np.int64)).astype(np.int64)


def boundary_stability(tokenizer: ByteLevelBPE, clean: str, noisy: str) -> float:
    """Share of token boundaries that stay where they are when a text is corrupted.

    Both texts are normalised and aligned, character by character of the byte alphabet (equal characters, and
    replacements of the same length); then ``2 * common / (boundaries of clean + boundaries of noisy)`` over the
    boundaries between tokens. 1 where neither has any. The alignment is our reconstruction; its time grows with the
    square of the texts.
    """
    ours, theirs = (_boundaries(tokenizer, text) for text in (clean, noisy))
    if not ours and not theirs:
        return 1.0
    a, b = (tokenizer.normalize(text).encode() for text in (clean, noisy))
    places: dict[int, int] = {}
    for tag, a1, a2, b1, b2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag == "equal" or (tag == "replace" and a2 - a1 == b2 - b1):
            places.update(zip(range(a1, a2 + 1), range(b1, b2 + 1), strict=True))
    common = sum(places.get(at, -1) in theirs for at in ours)
    return 2 * common / (len(ours) + len(theirs))


def _boundaries(tokenizer: ByteLevelBPE, text: str) -> set[int]:
    """Where tokens end, in bytes of the normalised text; its end left out."""
    sizes = [len(tokenizer.decode_bytes([token])) for token in tokenizer.encode(text).tolist()]
    return set(itertools.accumulate(sizes[:-1]))
