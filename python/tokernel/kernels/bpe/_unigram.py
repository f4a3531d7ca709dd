# SPDX-License-Identifier: Apache-2.0
"""Unigram models: the most likely segmentation of a text, and how often a corpus uses every piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tokernel import _C
from tokernel.kernels._arrays import Array
from tokernel.kernels.bpe._trie import Segmented, Texts, Trie, flat_texts, numbers, unknown_of, whole_number

__all__ = ["UnigramFit", "unigram_em", "unigram_viterbi"]

Doubles = npt.NDArray[np.float64]
_UNKNOWN_PENALTY = 10.0  # SentencePiece's
_MOST_ITERATIONS = 2**31 - 1


class UnigramFit(NamedTuple):
    """What :func:`unigram_em` found."""

    log_probs: Doubles
    """(P,) float64: after the last iteration; -inf for patterns that no text uses."""
    expected: Doubles
    """(P,) float64: how often the texts use each pattern, under the log-probabilities before the last iteration."""
    log_likelihood: Doubles
    """(iterations,) float64: of the texts, before each iteration; it never falls."""


def unigram_viterbi(
    trie: Trie,
    log_probs: Array,
    texts: Texts,
    unk: int | None = None,
    *,
    unk_score: float | None = None,
    fuse_unk: bool = False,
    unit: Literal["char", "byte"] = "char",
) -> Segmented:
    """Cut texts into the pieces whose log-probabilities sum to the most.

    ``max over segmentations p_1 ... p_m of the text: sum_i log_probs[p_i]``; sums run from left to right in float64.
    Among equal sums for a prefix of the text its last piece is the longest. Patterns of -inf are never used. Texts of a
    batch are dealt out to threads; the ids are the same for any number.

    Where a unit (a UTF-8 character: a byte with the continuation bytes after it; or a byte) is no pattern by itself,
    ``unk`` may stand for it at ``unk_score``, and loses to patterns of the same sum.

    Args:
        trie: P pieces; its values are the ids.
        log_probs: (P,) float32 or float64, of the patterns in their order; no NaN, no +inf.
        texts: one text, a list of texts, or a pair of bytes and their offsets (B + 1,).
        unk: the id of an unknown unit; None makes a text that pieces do not cover an error.
        unk_score: the least of log_probs that is finite, minus 10, by default.
        fuse_unk: neighbouring unknown units give one id.
        unit: "char" or "byte".

    Returns:
        Segmented of ids, ends and offsets.

    Raises:
        ValueError: log_probs are not one a pattern, or hold NaN or +inf; a text is not covered and unk is None; offsets
            do not cut the bytes.
        TypeError: a text is neither str, bytes nor an array of uint8, or log_probs are no floats.

    >>> import numpy as np
    >>> trie = Trie([b"a", b"b", b"ab", b"aba"])
    >>> unigram_viterbi(trie, np.log([0.4, 0.3, 0.2, 0.1]), [b"abab", b"aba"]).ids
    array([2, 2, 3])

    Kudo (2018), as in SentencePiece and Hugging Face's Unigram, whose ties and unknown pieces these are.
    """
    op = "unigram_viterbi"
    scores = _log_probs(op, trie, log_probs)
    unknown, whole = unknown_of(op, unk, unit)
    finite = scores[np.isfinite(scores)]
    penalty = float(finite.min(initial=0.0) - _UNKNOWN_PENALTY) if unk_score is None else float(unk_score)
    if not np.isfinite(penalty):
        raise ValueError(f"{op}: unk_score must be finite, got {penalty}")
    flat, offsets = flat_texts(op, texts)
    return Segmented(*_C.unigram_viterbi(trie._native, scores, flat, offsets, unknown, whole, penalty, bool(fuse_unk)))


def unigram_em(
    trie: Trie,
    log_probs: Array,
    pieces: Sequence[str | bytes] | tuple[Array, Array],
    counts: Array | None = None,
    iterations: int = 1,
) -> UnigramFit:
    """Fit the log-probabilities of a unigram model to texts by expectation and maximisation.

    Expectation: ``expected_p = sum_b counts_b * E[times p is used in text b]``, over all segmentations of the text,
    each weighted by its probability given the text. Maximisation: ``log_probs_p = log(expected_p / sum expected)``.
    All in float64 on logarithms; additions have one order, so that the bits are the same for any number of threads.
    Callers with another maximisation (SentencePiece's digamma) ask for one iteration and use ``expected``.

    Args:
        trie: P patterns.
        log_probs: (P,) float32 or float64, no NaN, no +inf; -inf: never used.
        pieces: B texts, which every segmentation covers: a list, or a pair of bytes and offsets.
        counts: (B,) how often each text occurs, finite and not negative; 1 by default.
        iterations: at least 1.

    Returns:
        UnigramFit of log_probs, expected and log_likelihood.

    Raises:
        ValueError: log_probs or counts do not fit or are out of range, a text has no segmentation, or iterations < 1.
        TypeError: a text is neither str, bytes nor an array of uint8, or log_probs or counts are no numbers.

    >>> import numpy as np
    >>> fit = unigram_em(Trie([b"a", b"b", b"ab"]), np.log([0.25, 0.25, 0.5]), [b"ab"], [9])
    >>> fit.expected.round(6)
    array([1., 1., 8.])

    Kudo (2018), section 3.2.
    """
    op = "unigram_em"
    scores = _log_probs(op, trie, log_probs)
    rounds = whole_number(op, "iterations", iterations, 1, _MOST_ITERATIONS)
    if isinstance(pieces, str | bytes):
        raise TypeError(f"{op}: pieces must be a list of texts, or bytes and offsets, got {type(pieces).__name__}")
    flat, offsets = flat_texts(op, pieces, "pieces")
    weights = _counts(op, counts, len(offsets) - 1)
    likelihoods = np.empty(rounds)
    for i in range(rounds):
        expected, likelihoods[i] = _C.unigram_expected(trie._native, scores, flat, offsets, weights)
        total = expected.sum()
        with np.errstate(divide="ignore"):
            scores = np.log(expected / total) if total > 0 else scores
    return UnigramFit(scores, expected, likelihoods)


def _log_probs(op: str, trie: Trie, log_probs: Array) -> Doubles:
    if not isinstance(trie, Trie):
        raise TypeError(f"{op}: trie must be a Trie, got {type(trie).__name__}")
    array = numbers(op, "log_probs", log_probs, "f", "float32 or float64")
    if array.shape != (len(trie),):
        raise ValueError(f"{op}: log_probs must be ({len(trie)},), one a pattern, got {array.shape}")
    scores = np.ascontiguousarray(array, np.float64)
    wrong = np.flatnonzero(np.isnan(scores) | (scores == np.inf))
    if wrong.size:
        raise ValueError(f"{op}: log_probs must be below infinity, got {scores[wrong[0]]} at {wrong[0]}")
    return scores


def _counts(op: str, counts: Array | None, texts: int) -> Doubles:
    if counts is None:
        return np.ones(texts)
    array = numbers(op, "counts", counts, "iuf", "float64, float32 or integers")
    if array.shape != (texts,):
        raise ValueError(f"{op}: counts must be ({texts},), one a text, got {array.shape}")
    weights = np.ascontiguousarray(array, np.float64)
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if wrong.size:
        raise ValueError(f"{op}: counts must be finite and not negative, got {weights[wrong[0]]} at {wrong[0]}")
    return weights
