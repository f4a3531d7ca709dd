# SPDX-License-Identifier: Apache-2.0
"""Unigram models against enumeration of all segmentations, and against Hugging Face's Unigram."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels.bpe import Trie, unigram_em, unigram_viterbi


@pytest.fixture(params=["ref", "host"])
def code(request):
    """The reference, and what runs otherwise (the same on every level)."""
    if request.param == "host":
        yield "host"
        return
    with tokernel.use_backend("ref"):
        yield "ref"


def segmentations(patterns, text):
    """All ways to cut a text into patterns, as lists of pattern numbers."""
    if not text:
        yield []
    for i, pattern in enumerate(patterns):
        if text.startswith(pattern):
            for rest in segmentations(patterns, text[len(pattern) :]):
                yield [i, *rest]


def random_model(rng, letters=b"abc", count=20):
    patterns = [bytes([b]) for b in letters]
    drawn = {bytes(rng.choice(list(letters), rng.integers(2, 5)).astype(np.uint8)) for _ in range(count)}
    patterns += sorted(drawn)
    p = rng.random(len(patterns)) + 0.01
    return patterns, np.log(p / p.sum())


@pytest.mark.parametrize("seed", range(8))
def test_the_score_is_the_best_of_all_segmentations(code, seed):
    rng = np.random.default_rng(seed)
    patterns, log_probs = random_model(rng)
    trie = Trie(patterns)
    texts = [bytes(rng.choice(list(b"abc"), n).astype(np.uint8)) for n in (0, 1, 2, 5, 12, 11)]
    got = unigram_viterbi(trie, log_probs, texts)
    for b, text in enumerate(texts):
        ids = got.ids[got.offsets[b] : got.offsets[b + 1]].tolist()
        assert b"".join(patterns[i] for i in ids) == text
        assert (
            got.ends[got.offsets[b] : got.offsets[b + 1]].tolist()
            == np.cumsum([len(patterns[i]) for i in ids]).tolist()
        )
        best = max(math.fsum(log_probs[way]) for way in segmentations(patterns, text))
        assert math.fsum(log_probs[ids]) == pytest.approx(best, rel=1e-13, abs=1e-13)


@pytest.mark.parametrize("seed", range(6))
def test_ties_give_the_longest_last_piece(code, seed):
    """Scores in quarters, so that sums are exact and ties many."""
    rng = np.random.default_rng(seed)
    patterns, _ = random_model(rng, b"ab", 8)
    log_probs = -rng.integers(1, 5, len(patterns)) / 4
    got = unigram_viterbi(Trie(patterns), log_probs, text := bytes(rng.choice(list(b"ab"), 10).astype(np.uint8)))
    ways = list(segmentations(patterns, text))
    best = max(log_probs[way].sum() for way in ways)
    tied = [way for way in ways if log_probs[way].sum() == best]
    # The longest last piece, before it the longest again, and so on.
    assert got.ids.tolist() == max(tied, key=lambda way: [len(patterns[i]) for i in reversed(way)])


def test_adding_a_piece_never_lowers_the_score(rng):
    patterns, log_probs = random_model(rng)
    text = bytes(rng.choice(list(b"abc"), 200).astype(np.uint8))
    before = -np.inf
    for k in range(3, len(patterns) + 1):
        now = log_probs[unigram_viterbi(Trie(patterns[:k]), log_probs[:k], text).ids].sum()
        assert now >= before - 1e-9
        before = now


def test_unknown_units(code):
    trie = Trie([b"a", "bé".encode(), b"b"], values=[5, 6, 7])
    log_probs = np.array([-1.0, -2.0, -1.5])
    text = "aébéé€éb".encode()
    assert unigram_viterbi(trie, log_probs, text, unk=0).ids.tolist() == [5, 0, 6, 0, 0, 0, 7]
    assert unigram_viterbi(trie, log_probs, text, unk=0, fuse_unk=True).ids.tolist() == [5, 0, 6, 0, 7]
    assert unigram_viterbi(trie, log_probs, text, unk=0, fuse_unk=True).ends.tolist() == [1, 3, 6, 13, 14]
    assert unigram_viterbi(trie, log_probs, text, unk=0, unit="byte").ids.tolist() == [5, 0, 0, 6, *[0] * 7, 7]
    assert unigram_viterbi(trie, log_probs, "é", unk=0, unk_score=-3).ids.tolist() == [0]
    # A cheap unknown may stand where a longer piece could, but not where the unit is a piece itself.
    assert unigram_viterbi(trie, log_probs, "bé", unk=0, unk_score=-0.1).ids.tolist() == [7, 0]
    assert unigram_viterbi(trie, log_probs, "b", unk=0, unk_score=-0.1).ids.tolist() == [7]
    assert unigram_viterbi(trie, np.array([-np.inf, -2.0, -1.5]), "ab", unk=0).ids.tolist() == [0, 7]


def test_an_uncovered_text_is_an_error(code):
    trie, log_probs = Trie([b"a", b"bc"]), np.zeros(2)
    message = (
        "unigram_viterbi: text must be covered by the patterns where unk is None, got byte 98 at position 1 of text 1"
    )
    with pytest.raises(ValueError, match=message):
        unigram_viterbi(trie, log_probs, [b"abc", b"ab"])


def test_against_hugging_face(rng):
    tokenizers = pytest.importorskip("tokenizers")
    letters = "abcé€"
    words = {"".join(rng.choice(list(letters), rng.integers(2, 6))) for _ in range(60)}
    vocabulary = [("<unk>", 0.0)] + [(c, float(-rng.integers(8, 40)) / 4) for c in "abc€"]
    vocabulary += [(word, float(-rng.integers(8, 60)) / 4) for word in sorted(words)]
    model = tokenizers.models.Unigram(vocabulary, unk_id=0, byte_fallback=False)
    peer = tokenizers.Tokenizer(model)
    trie = Trie([token.encode() for token, _ in vocabulary[1:]], range(1, len(vocabulary)))
    log_probs = np.array([score for _, score in vocabulary[1:]])
    texts = ["".join(rng.choice([*letters, "z"], n)) for n in rng.integers(0, 40, 200)]
    got = unigram_viterbi(trie, log_probs, texts, unk=0, fuse_unk=True)
    for b, encoding in enumerate(peer.encode_batch(texts)):
        assert got.ids[got.offsets[b] : got.offsets[b + 1]].tolist() == encoding.ids, texts[b]


@pytest.mark.parametrize("seed", range(5))
def test_expected_counts_equal_enumeration(code, seed):
    rng = np.random.default_rng(seed)
    patterns, log_probs = random_model(rng)
    log_probs[4] = -np.inf
    texts = [bytes(rng.choice(list(b"abc"), n).astype(np.uint8)) for n in (0, 1, 3, 6, 9)]
    counts = np.array([3, 2, 0.5, 7, 1])
    expected, likelihood = np.zeros(len(patterns)), 0.0
    for text, count in zip(texts, counts, strict=True):
        ways = list(segmentations(patterns, text))
        weights = np.array([math.exp(math.fsum(log_probs[way])) if way else 1.0 for way in ways])
        likelihood += count * math.log(weights.sum())
        for way, weight in zip(ways, weights / weights.sum(), strict=True):
            np.add.at(expected, way, count * weight)
    fit = unigram_em(Trie(patterns), log_probs, texts, counts)
    # 9 letters, at most 9 * 20 ways through a position: a few hundred roundings of 1.1e-16.
    np.testing.assert_allclose(fit.expected, expected, rtol=1e-13, atol=1e-14)
    assert fit.log_likelihood == pytest.approx([likelihood], rel=1e-13)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(fit.log_probs, np.log(expected / expected.sum()), rtol=1e-12, atol=1e-13)


def test_likelihood_never_falls(rng):
    patterns, log_probs = random_model(rng, count=40)
    texts = [bytes(rng.choice(list(b"abc"), n, p=[0.6, 0.3, 0.1]).astype(np.uint8)) for n in rng.integers(1, 60, 50)]
    fit = unigram_em(Trie(patterns), log_probs, texts, rng.integers(1, 9, 50), iterations=12)
    assert (np.diff(fit.log_likelihood) > -1e-9).all()
    assert np.exp(fit.log_probs).sum() == pytest.approx(1.0)


def test_long_texts_do_not_underflow():
    """exp(-700,000) is no float64."""
    fit = unigram_em(Trie([b"a", b"aa"]), np.array([-7.0, -14.0]), [b"a" * 100_000])
    assert fit.expected @ [1, 2] == pytest.approx(100_000, rel=1e-9)
    assert np.isfinite(fit.log_likelihood).all()


def test_threads_give_the_same_bits(rng):
    patterns, log_probs = random_model(rng, b"abcdefgh", 500)
    trie = Trie(patterns)
    texts = [bytes(rng.choice(list(b"abcdefgh"), int(n)).astype(np.uint8)) for n in rng.integers(0, 900, 400)]
    for run in (
        lambda: unigram_viterbi(trie, log_probs, texts),
        lambda: unigram_em(trie, log_probs, texts, iterations=2),
    ):
        one, two = on_one_and_two_threads(run)
        for a, b in zip(one, two, strict=True):
            assert a.tobytes() == b.tobytes()


def test_nothing_to_do(code):
    trie = Trie([b"a"])
    assert unigram_viterbi(trie, np.zeros(1), []).offsets.tolist() == [0]
    assert unigram_viterbi(trie, np.zeros(1), b"").ids.size == 0
    assert unigram_viterbi(Trie([]), np.zeros(0), b"xy", unk=3).ids.tolist() == [3, 3]
    fit = unigram_em(trie, np.array([-2.0]), [])
    assert fit.expected.tolist() == [0.0]
    assert fit.log_probs.tolist() == [-2.0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"log_probs": [0]}, TypeError, r"log_probs must be float32 or float64, got int64$"),
        ({"log_probs": [0.0, 1.0]}, ValueError, r"log_probs must be \(1,\), one a pattern, got \(2,\)$"),
        ({"log_probs": [math.nan]}, ValueError, r"log_probs must be below infinity, got nan at 0$"),
        ({"log_probs": [math.inf]}, ValueError, r"log_probs must be below infinity, got inf at 0$"),
        ({"trie": [b"a"]}, TypeError, r"trie must be a Trie, got list$"),
    ],
)
def test_bad_models(call, error, message):
    good = {"trie": Trie([b"a"]), "log_probs": [0.0]}
    with pytest.raises(error, match="^unigram_viterbi: " + message):
        unigram_viterbi(**{**good, **call}, texts=b"a")
    with pytest.raises(error, match="^unigram_em: " + message):
        unigram_em(**{**good, **call}, pieces=[b"a"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            {"counts": ["x"]},
            TypeError,
            r"counts must be an array \(or a list, of float64, float32 or integers\), got list$",
        ),
        ({"counts": [1, 2]}, ValueError, r"counts must be \(1,\), one a text, got \(2,\)$"),
        ({"counts": [-1]}, ValueError, r"counts must be finite and not negative, got -1\.0 at 0$"),
        ({"counts": [math.inf]}, ValueError, r"counts must be finite and not negative, got inf at 0$"),
        ({"iterations": 0}, ValueError, r"iterations must be in \[1, 2147483647\], got 0$"),
        ({"pieces": b"a"}, TypeError, r"pieces must be a list of texts, or bytes and offsets, got bytes$"),
        ({"pieces": [b"ab"]}, ValueError, r"pieces must be covered by the patterns, got one that is not at 0$"),
    ],
)
def test_bad_corpora(call, error, message):
    with pytest.raises(error, match="^unigram_em: " + message):
        unigram_em(**{"trie": Trie([b"a"]), "log_probs": [0.0], "pieces": [b"a"], **call})


def test_bad_unknown():
    with pytest.raises(ValueError, match=r"^unigram_viterbi: unk_score must be finite, got -inf$"):
        unigram_viterbi(Trie([b"a"]), [0.0], b"a", unk=1, unk_score=-math.inf)
