# SPDX-License-Identifier: Apache-2.0
"""The trainer: the reference against a plain recount and golden vocabularies, the fast one against the reference."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from bits import on_one_and_two_threads
from hypothesis import given, settings
from hypothesis import strategies as st
from trained_words import byte_chars, counted, ragged, spelled, split_ends, start_vocabulary

import tokernel
from tokernel.kernels.bpe import train_merges
import itertools
import unicodedata


@pytest.fixture(params=["ref", "host"])
def code(request):
    """The reference, and what runs otherwise (the same on every level)."""
    if request.param == "host":
        yield "host"
        return
    with tokernel.use_backend("ref"):
        yield "ref"


def by_reference(*args, **options):
    with tokernel.use_backend("ref"):
        return train_merges(*args, **options)


def recount(words, counts, merges, tokens=256, min_frequency=0, limit=None):
    """The rule in Python, independent of both."""
    words = [list(word) for word in words]
    length = {}
    made = []
    while len(made) < merges:
        pairs = Counter()
        for word, count in zip(words, counts, strict=True):
            for pair in itertools.pairwise(word):
                joined = sum(length.get(i, 1) for i in pair)
                if limit is None or joined < limit or not any(i in length for i in pair):
                    pairs[pair] += count
        if not pairs:
            break
        pair, count = min(pairs.items(), key=lambda item: (-item[1], item[0]))
        if count < max(1, min_frequency):
            break
        new = tokens + len(made)
        length[new] = sum(length.get(i, 1) for i in pair)
        made.append([*pair, new])
        for word in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == pair:
                    word[i : i + 2] = [new]
                i += 1
    return made


def test_golden_words(golden, code):
    """Every golden run of the tokenizers library and of rustbpe: merges, ids and vocabularies."""
    data = np.load(golden / "bpe" / "train.npz")
    texts = strings(data, "train_text_bytes", "train_text_off")
    for case, pattern, specials in (
        ("hf_gpt2", "gpt2", ["<|endoftext|>"]),
        ("hf_minfreq3", "gpt2", ["<|endoftext|>"]),
        ("hf_maxlen5", "gpt2", ["<|endoftext|>"]),
        ("hf_cl100k", "cl100k", []),
    ):
        tokens, byte_ids = start_vocabulary(specials)
        limit = int(data[f"{case}_max_token_length"])
        merges = train_merges(
            *counted(texts, split_ends(pattern)),
            int(data[f"{case}_vocab_size"]),
            tokens=tokens,
            byte_ids=byte_ids,
            min_frequency=int(data[f"{case}_min_frequency"]),
            max_token_length=None if limit < 0 else limit,
        )
        assert np.array_equal(merges[:, :2], data[f"{case}_merges"])
        assert np.array_equal(merges[:, 2], data[f"{case}_merge_result_id"])
        bytes_of = {c: b for b, c in enumerate(byte_chars())}
        shown = [
            t.encode() if t in specials else bytes(bytes_of[c] for c in t)
            for t in (t.decode() for t in spelled(merges, tokens))
        ]
        assert shown == strings(data, f"{case}_vocab_bytes", f"{case}_vocab_off")


def test_golden_rustbpe(golden, code):
    """Ids 0 to 255 are the raw bytes there."""
    regex = pytest.importorskip("regex", reason="the golden run split with a pattern that has no compiled scanner")
    pattern = regex.compile(
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    )

    def ends(text):
        return np.cumsum([len(m.encode()) for m in pattern.findall(text.decode())], dtype=int).tolist()

    data = np.load(golden / "bpe" / "train.npz")
    texts = strings(data, "train_text_bytes", "train_text_off")
    merges = train_merges(*counted(texts, ends), 700)
    tokens = spelled(merges, [bytes([b]) for b in range(256)])
    assert tokens == strings(data, "rustbpe_vocab_bytes", "rustbpe_vocab_off")


@pytest.mark.parametrize("case", ["char", "cased"])
def test_golden_kl3m(case, golden, code):
    """Raw characters as an alphabet, bytes without a token, and a limit of the length of tokens."""
    data = dict(np.load(golden / "kl3m" / f"train_{case}.npz"))
    docs = ["".join(map(chr, data["doc_cp"][a:b])) for a, b in itertools.pairwise(data["doc_off"])]
    docs = [unicodedata.normalize("NFKC", doc).encode() for doc in docs]
    vocab = ["".join(map(chr, data["vocab_cp"][a:b])) for a, b in itertools.pairwise(data["vocab_off"])]
    seen = {byte_chars()[b] for doc in docs for b in doc}
    alphabet = seen.union(map(chr, range(255))) if case == "char" else None
    tokens, byte_ids = start_vocabulary(vocab[:13], alphabet)
    longest = int(data["max_chars"])
    custom = 0 if case == "char" else 1655
    merges = train_merges(
        *counted(docs, split_ends("gpt2")),
        int(data["vocab_size"]) - 13 - custom,
        tokens=tokens,
        byte_ids=byte_ids,
        min_frequency=int(data["min_frequency"]),
        max_token_length=longest + 1 if longest else None,
    )
    assert merges[:, 0].tolist() == data["merge_left"].tolist()
    assert merges[:, 1].tolist() == data["merge_right"].tolist()
    assert [token.decode() for token in spelled(merges, tokens)] == vocab


def strings(data, values, offsets):
    flat, off = data[values].astype(np.uint8), data[offsets]
    return [flat[a:b].tobytes() for a, b in itertools.pairwise(off)]


WORDS = st.lists(st.tuples(st.binary(min_size=0, max_size=12), st.integers(0, 5)), max_size=12)
# Few letters, so that runs and equal counts are everywhere.
TIED = st.lists(st.tuples(st.text("aab", max_size=14).map(str.encode), st.integers(0, 3)), max_size=10)


@given(st.one_of(WORDS, TIED), st.integers(0, 40), st.integers(0, 4), st.sampled_from([None, 1, 2, 3, 4, 5, 6]))
@settings(max_examples=150, deadline=None)
def test_host_equals_reference_equals_recount(words, merges, min_frequency, limit):
    pieces, counts = [w for w, _ in words], np.array([c for _, c in words], np.int64)
    args = (*ragged(pieces), counts, 256 + merges)
    options = {"min_frequency": min_frequency, "max_token_length": limit}
    fast, slow = train_merges(*args, **options), by_reference(*args, **options)
    assert fast.tolist() == slow.tolist()
    assert slow.tolist() == recount(pieces, counts.tolist(), merges, 256, min_frequency, limit)


@given(st.lists(st.text("abc ", max_size=20), max_size=8), st.integers(0, 60), st.integers(0, 3), st.integers(2, 7))
@settings(max_examples=60, deadline=None)
def test_merges_are_those_of_the_tokenizers_library(texts, merges, min_frequency, limit):
    """Law 8 of papers/bpe, on texts of ties and runs."""
    peer = pytest.importorskip("tokenizers", reason="tokenizers is the trainer to compare with")
    limit = None if limit == 7 else limit
    chars = byte_chars()
    theirs = peer.Tokenizer(peer.models.BPE())
    theirs.pre_tokenizer = peer.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = peer.trainers.BpeTrainer(
        vocab_size=256 + merges,
        min_frequency=min_frequency,
        max_token_length=limit,
        show_progress=False,
        initial_alphabet=chars,
    )
    theirs.train_from_iterator(texts, trainer)
    vocab = {token.encode(): i for token, i in theirs.get_vocab().items()}
    tokens, byte_ids = start_vocabulary()
    made = train_merges(
        *counted([t.encode() for t in texts], split_ends("gpt2")),
        256 + merges,
        tokens=tokens,
        byte_ids=byte_ids,
        min_frequency=min_frequency,
        max_token_length=limit,
    )
    assert {token: i for i, token in enumerate(spelled(made, tokens))} == vocab


def test_runs_of_one_letter(code):
    assert train_merges(b"aaaa", np.array([0, 4]), np.array([1]), 400).tolist() == [[97, 97, 256], [256, 256, 257]]
    assert train_merges(b"aaaaa", np.array([0, 5]), np.array([1]), 400).tolist() == [
        [97, 97, 256],
        [256, 97, 257],
        [256, 257, 258],
    ]


@pytest.mark.parametrize("length", [1, 2, 3, 64, 1000])
def test_a_long_run_is_halved(length, code):
    made = train_merges(b"a" * length, np.array([0, length]), np.array([3]), 300)
    assert made.tolist() == recount([b"a" * length], [3], 44)


def test_nothing_to_learn_from(code):
    for pieces, offsets, counts in (
        (b"", [0], []),
        (b"", [0, 0], [5]),
        (b"ab", [0, 1, 2], [3, 4]),
        (b"ab", [0, 2], [0]),
    ):
        made = train_merges(pieces, np.array(offsets), np.array(counts, np.int64), 300)
        assert made.shape == (0, 3)
        assert made.dtype == np.int64


def test_a_full_vocabulary_learns_nothing(code):
    assert len(train_merges(b"abab", np.array([0, 4]), np.array([1]), 256)) == 0
    assert len(train_merges(b"abab", np.array([0, 4]), np.array([1]), 300, most_merges=0)) == 0
    assert len(train_merges(b"abab", np.array([0, 4]), np.array([1]), 300, most_merges=1)) == 1


def test_counts_beyond_32_bits(code):
    """The tokenizers library adds in 32 bits and wraps: papers/bpe, Traps."""
    words, counts = [b"ab", b"cd", b"xcd"], np.array([2**40, 2**40 - 1, 2])
    made = train_merges(*ragged(words), counts, 258)
    assert made[:, :2].tolist() == [[99, 100], [97, 98]]
    assert train_merges(*ragged(words), counts, 300, min_frequency=2**40)[:, :2].tolist() == [[99, 100], [97, 98]]


def test_counts_whose_sum_is_beyond_64_bits(code):
    with pytest.raises(
        ValueError, match=r"^train_merges: counts must be of less than 2\*\*63 symbols in all, got more$"
    ):
        train_merges(b"abc", np.array([0, 3]), np.array([2**62]), 300)


def test_a_special_token_spelled_as_a_merge_is_that_merge(code):
    tokens, byte_ids = start_vocabulary(["the", "<|end|>"])
    made = train_merges(*ragged([b"the", b"then"]), np.array([9, 5]), 261, tokens=tokens, byte_ids=byte_ids)
    assert made[:, 2].tolist() == [258, 0, 259, 260][: len(made)]
    assert spelled(made, tokens)[258:] == [b"he", b"then"]


def test_bytes_without_a_token_are_left_out(code):
    byte_ids = np.full(256, -1)
    byte_ids[[97, 98]] = [0, 1]
    assert train_merges(b"axbab", np.array([0, 3, 5]), np.array([1, 1]), 5, tokens=[b"a", b"b"], byte_ids=byte_ids)[
        0
    ].tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_words_of_ids(dtype, code):
    """Ids beyond bytes, without spellings: every merge is a new token."""
    ids = np.array([1000, 7, 1000, 7, 7], dtype)
    made = train_merges(ids, np.array([0, 2, 5], dtype), np.array([1, 1], dtype), 1003, tokens=1001)
    assert made.tolist() == [[1000, 7, 1001], [1001, 7, 1002]]


def test_a_symbol_of_words_cannot_be_a_merge(code):
    with pytest.raises(ValueError, match=r"^train_merges: tokens must be spelled unlike any merge .*, got token 2$"):
        train_merges(np.array([0, 1, 2]), np.array([0, 3]), np.array([1]), 9, tokens=[b"a", b"b", b"ab"])


def test_a_vocabulary_smaller_than_its_start(code):
    with pytest.raises(ValueError, match=r"^train_merges: vocab_size must be at least the 256 tokens .*, got 255$"):
        train_merges(b"ab", np.array([0, 2]), np.array([1]), 255)


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ({"counts": np.array([-1, 1])}, r"counts must be not negative, got -1 at flat position 0"),
        ({"offsets": np.array([0, 2, 1])}, r"offsets must be non-decreasing, got 1 at flat position 2"),
        ({"offsets": np.array([0, 4])}, r"counts must be one for each of 1 words, got 2"),
        ({"byte_ids": np.full(256, 256)}, r"byte_ids must be in \[-1, 256\), got 256 at flat position 0"),
        ({"byte_ids": np.zeros(3, np.int64)}, r"byte_ids must be 256 ids, got 3"),
        ({"max_token_length": 0}, r"max_token_length must be .*, got 0"),
        ({"min_frequency": -1}, r"min_frequency must be .*, got -1"),
    ],
)
def test_bad_input(spoiled, message):
    call = {"pieces": b"abcd", "offsets": np.array([0, 2, 4]), "counts": np.array([1, 1]), "vocab_size": 300}
    with pytest.raises(ValueError, match=f"^train_merges: {message}"):
        train_merges(**{**call, **spoiled})


def test_threads_change_nothing(rng):
    letters = rng.integers(97, 105, 20000).astype(np.uint8)
    offsets = np.unique(np.concatenate([[0, 20000], rng.integers(0, 20000, 4000)]))
    counts = rng.integers(1, 50, len(offsets) - 1)
    one, two = on_one_and_two_threads(lambda: train_merges(letters, offsets, counts, 600))
    assert np.array_equal(one, two)
    order = rng.permutation(len(counts))
    pieces = [letters[offsets[i] : offsets[i + 1]].tobytes() for i in order]
    assert np.array_equal(one, train_merges(*ragged(pieces), counts[order], 600))


def test_what_progress_raises_ends_training(rng):
    class EnoughError(Exception):
        pass

    def stop(done):
        raise EnoughError

    letters = rng.integers(97, 123, 3_000_000).astype(np.uint8)
    with pytest.raises(EnoughError):
        train_merges(letters, np.array([0, len(letters)]), np.array([1]), 300_000, progress=stop)
