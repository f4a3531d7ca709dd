# SPDX-License-Identifier: Apache-2.0
"""Cases of the bpe family: tries, unigram models and merges of one batch, against tokenizers, re and rescans.

Texts are made here: words of random letters, drawn by Zipf's law.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import tokernel
from tokernel.kernels import bpe

from bench.core import Case, Work

MOST_PIECE_BYTES = 8


def _words(count: int, seed: int = 0) -> tuple[list[bytes], npt.NDArray[np.int64]]:
    """A lexicon of 5000 words, and `count` draws from it."""
    rng = np.random.default_rng(seed)
    letters = rng.integers(97, 123, (5000, 12)).astype(np.uint8)
    lengths = rng.integers(1, 12, 5000)
    lexicon = [bytes(row[:n]) for row, n in zip(letters, lengths, strict=True)]
    return lexicon, np.minimum(rng.zipf(1.3, count) - 1, 4999)


def _text(size: int) -> bytes:
    lexicon, draws = _words(size // 4)
    return b" ".join(lexicon[i] for i in draws)[:size]


def _pieces(text: bytes) -> list[bytes]:
    """Single bytes, and what occurs most in the text, as a trained unigram vocabulary would have it."""
    lexicon, _ = _words(1)
    found = {bytes([b]) for b in sorted(set(text))}
    found |= {word[:n] for word in lexicon for n in range(2, min(len(word), MOST_PIECE_BYTES) + 1)}
    return sorted(found)


def _same_arrays(ours: Any, peer: Any) -> None:
    for a, b in zip(ours, peer, strict=True):
        assert np.array_equal(a, b)


def _by_reference(call: Any) -> Any:
    with tokernel.use_backend("ref"):
        return call()


def _find_specials(quick: bool) -> Work:
    """Sixteen special tokens, one every 2 KB."""
    names = [b"<|%s|>" % name for name in (b"start", b"end", b"pad", b"unk", b"user", b"system", b"tool", b"call")]
    names += [b"</" + name[1:] for name in names]
    text = _text(1 << 14 if quick else 1 << 22)
    text = b"".join(text[i : i + 2048] + names[i // 2048 % 16] for i in range(0, len(text), 2048))
    trie = bpe.Trie(names)
    pattern = re.compile(b"|".join(map(re.escape, sorted(names, key=len, reverse=True))))

    def by_re() -> tuple[list[int], list[int]]:
        found = [m.span() for m in pattern.finditer(text)]
        return [a for a, _ in found], [b for _, b in found]

    return Work(lambda: trie.find_all(text)[:2], {"re": by_re}, _same_arrays, moved_bytes=len(text))


def _find_runs(quick: bool) -> Work:
    """The white space of kl3m: runs of up to 950 spaces, in a text that is mostly white space."""
    names = [b" " * n for n in range(2, 951)] + [b"\n" * n for n in range(2, 951)]
    text = b"".join(b" " * (i * 37 % 900) + b"x\n" for i in range(20 if quick else 9000))
    trie = bpe.Trie(names)
    pattern = re.compile(b" {2,950}|\n{2,950}")

    def by_re() -> tuple[list[int], list[int]]:
        found = [m.span() for m in pattern.finditer(text)]
        return [a for a, _ in found], [b for _, b in found]

    return Work(lambda: trie.find_all(text)[:2], {"re, ranges": by_re}, _same_arrays, moved_bytes=len(text))


def _longest(quick: bool) -> Work:
    text = _text(1 << 12 if quick else 1 << 20)
    texts = [text[i : i + 4096] for i in range(0, len(text), 4096)]
    pieces = _pieces(text)
    trie = bpe.Trie(pieces)
    ids = {piece: i for i, piece in enumerate(pieces)}

    def by_dict() -> tuple[list[int], list[int]]:
        found, offsets = [], [0]
        for one in texts:
            at = 0
            while at < len(one):
                n = next(n for n in range(MOST_PIECE_BYTES, 0, -1) if one[at : at + n] in ids)
                found.append(ids[one[at : at + n]])
                at += len(pieces[found[-1]])
            offsets.append(len(found))
        return found, offsets

    def ours() -> tuple[Any, Any]:
        got = trie.tokenize_longest(texts)
        return got.ids, got.offsets

    return Work(ours, {"Python dict": by_dict}, _same_arrays)


def _model(text: bytes) -> tuple[list[bytes], npt.NDArray[np.float64]]:
    pieces = _pieces(text)
    weight = np.random.default_rng(1).random(len(pieces)) * [len(p) ** 2 for p in pieces]
    return pieces, np.log(weight / weight.sum())


def _viterbi(size: int, quick: bool) -> Work:
    from tokenizers import Tokenizer, models

    text = _text(1 << 12 if quick else 1 << 20)
    texts = [text[i : i + size] for i in range(0, len(text), size)]
    pieces, scores = _model(text)
    trie = bpe.Trie(pieces)
    model = models.Unigram([("<unk>", 0.0), *zip([p.decode() for p in pieces], scores.tolist(), strict=True)], unk_id=0)
    peer, decoded = Tokenizer(model), [one.decode() for one in texts]

    def by_tokenizers() -> list[int]:
        return [i - 1 for encoding in peer.encode_batch_fast(decoded) for i in encoding.ids]

    return Work(
        lambda: bpe.unigram_viterbi(trie, scores, texts).ids,
        {"tokenizers": by_tokenizers},
        lambda mine, theirs: _same_arrays([mine], [theirs]),
    )


def _em(quick: bool) -> Work:
    lexicon, draws = _words(1 << 20)
    words = lexicon[:50] if quick else lexicon
    counts = np.bincount(draws, minlength=5000)[: len(words)]
    pieces, scores = _model(b" ".join(lexicon))
    trie = bpe.Trie(pieces)

    def nearly_equal(ours: Any, peer: Any) -> None:
        np.testing.assert_allclose(ours.expected, peer.expected, rtol=1e-9, atol=1e-12)

    def ours() -> bpe.UnigramFit:
        return bpe.unigram_em(trie, scores, words, counts)

    def by_python() -> bpe.UnigramFit:
        """Forward and backward sums over a dict of pieces, word by word."""
        known, expected = {piece: i for i, piece in enumerate(pieces)}, np.zeros(len(pieces))
        for word, count in zip(words, counts, strict=True):
            n = len(word)
            edges = [(a, b, known[word[a:b]]) for a in range(n) for b in range(a + 1, n + 1) if word[a:b] in known]
            before, after = [1.0] + [0.0] * n, [0.0] * n + [1.0]
            for a, b, i in edges:
                before[b] += before[a] * np.exp(scores[i])
            for a, b, i in reversed(edges):
                after[a] += np.exp(scores[i]) * after[b]
            for a, b, i in edges:
                expected[i] += count * before[a] * np.exp(scores[i]) * after[b] / after[0]
        return bpe.UnigramFit(scores, expected, expected)

    return Work(ours, {"Python": by_python}, nearly_equal)


def _merges(rows: int, length: int, budget: int, quick: bool) -> Work:
    rows, length, budget = (2, 64, 20) if quick else (rows, length, budget)
    ids = np.minimum(np.random.default_rng(0).zipf(1.3, rows * length), 5000).astype(np.int32)
    offsets = np.arange(0, ids.size + 1, length)

    def ours() -> bpe.MergedBatch:
        return bpe.merge_pairs_batch(ids, offsets, budget)

    return Work(ours, {"C++ rescan": lambda: _by_reference(ours)}, _same_arrays)


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    return [
        Case("bpe", "Trie.find_all", "16 special tokens, 4 MB", "bytes", _find_specials, parallel=False),
        Case("bpe", "Trie.find_all", "runs to 950, 4 MB", "bytes", _find_runs, parallel=False),
        Case("bpe", "Trie.tokenize_longest", "256 x 4 KB", "bytes", _longest),
        Case("bpe", "unigram_viterbi", "256 x 4 KB", "bytes", partial(_viterbi, 4096)),
        Case("bpe", "unigram_viterbi", "8192 x 128 B", "bytes", partial(_viterbi, 128)),
        Case("bpe", "unigram_em", "5000 words", "bytes", _em),
        Case("bpe", "merge_pairs_batch", "32 x 128, 50 merges", "int32", partial(_merges, 32, 128, 50), parallel=False),
        Case(
            "bpe",
            "merge_pairs_batch",
            "1 x 8192, 1000 merges",
            "int32",
            partial(_merges, 1, 8192, 1000),
            parallel=False,
        ),
    ]
