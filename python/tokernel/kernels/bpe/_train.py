# SPDX-License-Identifier: Apache-2.0
"""Training: merges from counted words, and how the counts of pairs change under merges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tokernel import _C
from tokernel.kernels._arrays import Array, extension_of

__all__ = ["PairHistory", "pair_count_history", "train_merges"]

Progress: TypeAlias = Callable[[int], object]
_RawBytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
_Offsets: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


class PairHistory(NamedTuple):
    """How the counts of pairs change; what step t changed is ``[off[t], off[t + 1])`` of the other two."""

    delta_pairs: Array
    """(K, 2) int32, left and right id; ascending in each step."""
    delta_counts: Array
    """(K) int64, the new count; 0 when the pair is gone."""
    off: Array
    """(T + 2) int64; step 0 has every pair that occurs."""


def ragged_bytes(items: Sequence[bytes]) -> tuple[_RawBytes, _Offsets]:
    """Join byte strings, and say where each begins."""
    offsets = np.fromiter(accumulate((len(item) for item in items), initial=0), np.int64, len(items) + 1)
    return np.frombuffer(b"".join(items), np.uint8), offsets


def _word_array(op: str, words: Any) -> tuple[Array, Array]:
    if isinstance(words, tuple) and len(words) == 2 and hasattr(words[0], "__dlpack__"):
        return words
    if hasattr(words, "__dlpack__") or not isinstance(words, Sequence) or isinstance(words, str):
        raise TypeError(
            f"{op}: words must be a list of words or a pair (ids, offsets) of arrays, got {type(words).__name__}"
        )
    lengths = (len(word) for word in words)
    offsets = np.fromiter(accumulate(lengths, initial=0), np.int64, len(words) + 1)
    flat = [np.frombuffer(w, np.uint8) if isinstance(w, bytes) else np.asarray(w, np.int64) for w in words]
    return np.concatenate([*flat, np.empty(0, np.int64)]).astype(np.int64, copy=False), offsets


def train_merges(
    pieces: Array | bytes,
    offsets: Array,
    counts: Array,
    vocab_size: int,
    *,
    tokens: Sequence[bytes] | int | None = None,
    byte_ids: Array | None = None,
    min_frequency: int = 0,
    max_token_length: int | None = None,
    most_merges: int | None = None,
    progress: Progress | None = None,
) -> Array:
    """Learn byte-pair merges: the most frequent pair of neighbours becomes one token, again and again.

    The count of a pair is the sum over words of the word's count times the places where the pair stands. The largest
    count is next; among equals the pair with the smaller left id, then the smaller right id. It is replaced in every
    word from left to right without overlap by the token spelled as both together: an old one of that spelling (as the
    tokenizers library does), or the next free id. The order of words changes nothing, nor does the number of threads.

    Args:
        pieces: (N) uint8 array or bytes: the words one after the other; or (N) int64 or int32 of ids below `tokens`.
        offsets: (P + 1) int64, where each word begins in `pieces`.
        counts: (P) int64 or int32, how often each occurs; not negative.
        vocab_size: training ends with this many tokens, or earlier when no pair is frequent enough.
        tokens: the spellings of ids 0, 1, ...; or how many there are when no spelling matters. None: the 256 bytes.
            None of them that occurs in `pieces` may be spelled as a merge.
        byte_ids: (256) int64, the id of every byte of uint8 pieces; -1 leaves the byte out. None: its value.
        min_frequency: pairs of smaller count are not merged; pairs of count 0 never are.
        max_token_length: a pair with a merged token in it is eligible only if both lengths, in symbols of words, add up
            to less than this; a pair of two symbols of words always is (as the tokenizers library does).
        most_merges: training ends after this many merges.
        progress: called with the number of merges made so far, at most every 50 ms; what it raises ends training.

    Returns:
        (M, 3) int64: left id, right id and the id they give, in order.

    Raises:
        ValueError: an extent, id or count does not fit, or `vocab_size` is smaller than the number of `tokens`.
        TypeError: not an array, or a dtype that is not listed.

    Source: papers/bpe of the package; R. Sennrich et al., arXiv 1508.07909; the order of ties is that of the
    tokenizers library.

    >>> import numpy as np
    >>> train_merges(b"aabaab", np.array([0, 3, 6]), np.array([2, 1]), 258)
    array([[ 97,  97, 256],
           [256,  98, 257]])
    """
    if isinstance(pieces, bytes | bytearray | memoryview):
        pieces = np.frombuffer(pieces, np.uint8)
    spelled: tuple[_RawBytes | None, _Offsets | None] = (None, None)
    if tokens is None:
        tokens = [bytes([b]) for b in range(256)]
    if isinstance(tokens, Sequence) and not isinstance(tokens, str | bytes):
        spelled = ragged_bytes(tokens)
        tokens = len(tokens)
    if byte_ids is None and getattr(pieces, "dtype", None) == np.uint8:
        byte_ids = np.arange(256)
    extension_of("train_merges", "pieces", pieces)
    return _C.train_merges(
        pieces,
        offsets,
        counts,
        vocab_size,
        *spelled,
        tokens,
        byte_ids,
        min_frequency,
        max_token_length,
        most_merges,
        progress,
    )


def pair_count_history(
    words: Sequence[Any] | tuple[Array, Array],
    counts: Array,
    merges: Array,
    *,
    progress: Progress | None = None,
) -> PairHistory:
    """Record how the counts of all pairs change while merges are applied in a given order.

    Step 0 holds every pair that occurs, with its count: the sum over words of the word's count times the places where
    the pair stands, overlapping ones included. Step t holds, in ascending order, the pairs whose count merge t changed,
    with the new count, 0 when the pair is gone. A merge is applied in every word from left to right without overlap;
    one that applies nowhere gives an empty step.

    Args:
        words: list of W words (sequences of ids, or bytes), or (ids (N) int64, offsets (W + 1) int64).
        counts: (W) int64 or int32, how often each word occurs; words of count 0 are left out.
        merges: (T, 3) int64 or int32: left id, right id and the id they give, as :func:`train_merges` returns.
        progress: called with the step at work, at most every 50 ms; what it raises ends the run.

    Returns:
        PairHistory(delta_pairs (K, 2) int32, delta_counts (K) int64, off (T + 2) int64).

    Raises:
        ValueError: an extent, id or count does not fit.
        TypeError: not an array, or a dtype that is not listed.

    Source: J. Hayase et al., arXiv 2407.16607, section 3.

    >>> import numpy as np
    >>> history = pair_count_history([[0, 0, 1]], np.array([5]), np.array([[0, 1, 2]]))
    >>> np.column_stack([history.delta_pairs, history.delta_counts])
    array([[0, 0, 5],
           [0, 1, 5],
           [0, 0, 0],
           [0, 1, 0],
           [0, 2, 5]])
    >>> history.off
    array([0, 2, 5])
    """
    ids, offsets = _word_array("pair_count_history", words)
    extension_of("pair_count_history", "words", ids)
    return PairHistory(*_C.pair_count_history(ids, offsets, counts, merges, progress))
