# SPDX-License-Identifier: Apache-2.0
"""A vocabulary learnt from the text alone: more merges, fewer tokens."""

from __future__ import annotations

from dataclasses import dataclass

from tokernel._bpe_view import Piece, pieces
from tokernel._demo.timing import fastest
from tokernel.text import Encoding, train

__all__ = ["Learnt", "learn"]

SIZES = (256, 320, 512, 1024)
PATTERN = "cl100k"
SAMPLE = 600


@dataclass(frozen=True)
class Learnt:
    """One vocabulary.

    Attributes:
        vocabulary: tokens that it has, of those asked for: a short text does not give more.
        seconds: training; encode_seconds: encoding the whole text.
        sample: the beginning of the text as tokens.
    """

    vocabulary: int
    tokens: int
    bytes: int
    seconds: float
    encode_seconds: float
    sample: list[Piece]


def learn(content: bytes) -> list[Learnt]:
    """Train one vocabulary for each size, and encode the text with it."""
    text = content.decode("utf-8", "replace")
    return [_learn(text, len(content), size) for size in SIZES]


def _learn(text: str, size: int, vocabulary: int) -> Learnt:
    seconds, encoding = fastest(lambda: train([text], vocabulary, PATTERN, progress=False))
    encode_seconds, ids = fastest(lambda: encoding.encode_to_numpy(text, disallowed_special=()))
    return Learnt(encoding.n_vocab, len(ids), size, seconds, encode_seconds, _sample(encoding, text))


def _sample(encoding: Encoding, text: str) -> list[Piece]:
    ids = encoding.encode_ordinary(text[:SAMPLE])
    return pieces(ids, encoding.decode_tokens_bytes(ids))
