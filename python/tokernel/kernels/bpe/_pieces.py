# SPDX-License-Identifier: Apache-2.0
"""Counted pieces: how often each piece of a pre-tokenizer occurs in texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tokernel import _C
from tokernel.kernels._arrays import Array, fetch
from tokernel.kernels.bpe._text import as_array, utf8

__all__ = ["CountedPieces", "count_pieces"]


class CountedPieces(NamedTuple):
    """Different byte strings and how often each was seen, in ascending order of their bytes."""

    pieces: Array
    """(N) uint8, one string after the other."""
    offsets: Array
    """(P + 1) int64, where each begins in `pieces`."""
    counts: Array
    """(P) int64, how often each was seen."""


def host_bytes(text: str | bytes | Array) -> str | bytes | Array:
    """A text as the counter reads it: arrays on the host, the rest as it is."""
    return fetch(text) if hasattr(text, "__dlpack__") else text


def add_texts(
    counter: _C.PieceCounter, texts: Sequence[str | bytes | Array], pattern: str, threads: int | None
) -> None:
    """Count texts one by one, lone surrogates as U+FFFD; either all of them or none."""
    held = [host_bytes(text) for text in texts]
    try:
        counter.add_texts(held, pattern, threads)
    except UnicodeEncodeError:
        counter.add_texts([utf8(text) if isinstance(text, str) else text for text in held], pattern, threads)


def count_pieces(
    texts: Sequence[str | bytes | Array],
    pattern: str = "none",
    *,
    ends: Sequence[Array] | None = None,
    threads: int | None = None,
) -> CountedPieces:
    """Count how often each piece occurs in texts, pieces as :func:`split` cuts them.

    Args:
        texts: B of str, bytes or (N,) uint8 arrays; no piece goes over the end of one.
        pattern: none, gpt2, cl100k, llama3, o200k, qwen2 or tekken; see :func:`split`.
        ends: for every text the byte ends of its pieces, from outside instead of from the pattern; bytes behind the
            last end are left out.
        threads: how many at most; None: as many as there are. Changes no result.

    Returns:
        CountedPieces(pieces (N) uint8, offsets (P + 1) int64, counts (P) int64), ascending by bytes.

    Raises:
        ValueError: an unknown pattern, `threads` below 1, or ends that do not fit their text.
        TypeError: `texts` is no sequence of texts.

    >>> counted = count_pieces(["to be or", " not to be"], "gpt2")
    >>> counted.counts
    array([2, 1, 1, 1, 1])
    >>> counted.pieces.tobytes()
    b' be not or toto'
    """
    if isinstance(texts, str | bytes | bytearray) or not isinstance(texts, Sequence):
        raise TypeError(f"count_pieces: texts must be a sequence of texts, got {type(texts).__name__}")
    counter = _C.PieceCounter()
    if ends is None:
        add_texts(counter, texts, pattern, threads)
        return CountedPieces(*counter.counted())
    if len(ends) != len(texts):
        raise ValueError(f"count_pieces: ends must be one array for each of {len(texts)} texts, got {len(ends)}")
    for text, cuts in zip(texts, ends, strict=True):
        counter.add_pieces(fetch(as_array("count_pieces", text)), fetch(cuts))
    return CountedPieces(*counter.counted())
