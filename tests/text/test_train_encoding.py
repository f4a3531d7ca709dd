# SPDX-License-Identifier: Apache-2.0
"""Training at the user's level: golden vocabularies and ids of the tokenizers library and rustbpe, laws, options."""

from __future__ import annotations

import _thread
import itertools
import json
import pickle
import signal
import threading

import numpy as np
import pytest
from bits import on_one_and_two_threads
from hypothesis import given, settings
from hypothesis import strategies as st

from tokernel.kernels import bpe
from tokernel.text import Encoding, PieceCounts, count_texts, train


def strings(data, values, offsets):
    flat, off = data[values].astype(np.uint8), data[offsets]
    return [flat[a:b].tobytes() for a, b in itertools.pairwise(off)]


def merges_of(enc):
    """(M, 3): left id, right id, and the id they give."""
    return enc._state.merges


def ids_of(data, case):
    return [data[f"{case}_probe_ids"][a:b].tolist() for a, b in itertools.pairwise(data[f"{case}_probe_ids_off"])]


@pytest.fixture(scope="module")
def runs(golden):
    data = np.load(golden / "bpe" / "train.npz")
    texts = [t.decode() for t in strings(data, "train_text_bytes", "train_text_off")]
    probes = [t.decode() for t in strings(data, "probe_bytes", "probe_off")]
    return data, texts, probes


@pytest.mark.parametrize("case", ["hf_gpt2", "hf_minfreq3", "hf_maxlen5", "hf_cl100k"])
def test_golden_runs_of_the_tokenizers_library(case, runs):
    data, texts, probes = runs
    limit = int(data[f"{case}_max_token_length"])
    specials = [] if case == "hf_cl100k" else ["<|endoftext|>"]
    enc = train(
        texts,
        int(data[f"{case}_vocab_size"]),
        "cl100k" if case == "hf_cl100k" else "gpt2",
        specials,
        min_frequency=int(data[f"{case}_min_frequency"]),
        max_token_length=None if limit < 0 else limit,
    )
    vocab = strings(data, f"{case}_vocab_bytes", f"{case}_vocab_off")
    assert enc.n_vocab == len(vocab)
    assert [enc.decode_single_token_bytes(i) for i in range(len(vocab))] == vocab
    assert np.array_equal(merges_of(enc)[:, :2], data[f"{case}_merges"])
    assert [enc.encode_ordinary(probe) for probe in probes] == ids_of(data, case)


def test_golden_run_of_rustbpe(runs):
    pytest.importorskip("regex", reason="the golden run split with a pattern that has no compiled scanner")
    data, texts, probes = runs
    pattern = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
        r"|\s+(?!\S)|\s+|(?!)"
    )  # the last alternative never matches: without it the compiled scanner would be taken
    enc = train(texts, 700, pattern, ids="bytes")
    assert [enc.decode_single_token_bytes(i) for i in range(700)] == strings(
        data, "rustbpe_vocab_bytes", "rustbpe_vocab_off"
    )
    assert [enc.encode_ordinary(probe) for probe in probes] == ids_of(data, "rustbpe")


@given(st.lists(st.text("abc d\n1é", max_size=30), max_size=6), st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_no_pair_of_the_merge_list_is_left(texts, merges):
    """Law 9 of papers/bpe, on the texts of the training; and law 1."""
    enc = train(texts, 256 + merges)
    pairs = {tuple(m) for m in merges_of(enc)[:, :2].tolist()}
    for text in texts:
        assert enc.decode(enc.encode_ordinary(text)) == text
        data, ends = text.encode(), enc.split(text).tolist()
        for begin, end in itertools.pairwise([0, *ends]):
            ids = bpe.encode_piece(enc.vocab, data[begin:end]).tolist()
            assert not pairs & set(itertools.pairwise(ids))


def test_threads_change_nothing(runs):
    """Law 8: the vocabulary is independent of the number of threads."""
    _, texts, _ = runs
    one, two = on_one_and_two_threads(lambda: merges_of(train(texts * 3, 500)))
    assert np.array_equal(one, two)
    assert np.array_equal(one, merges_of(train(reversed(texts * 3), 500, threads=1)))


def test_from_counts(runs):
    _, texts, _ = runs
    counts = count_texts(texts[:20]) + count_texts(texts[20:])
    assert np.array_equal(merges_of(train(counts, 500)), merges_of(train(texts, 500)))


def test_counts_beyond_32_bits():
    counts = PieceCounts.from_mapping({"ab": 2**40, "cd": 2**40 + 1})
    enc = train(counts, 258)
    assert [enc.decode_single_token_bytes(i) for i in (256, 257)] == [b"cd", b"ab"]


def test_an_empty_corpus_gives_the_alphabet():
    enc = train([], 1000, specials=["<s>"])
    assert enc.n_vocab == 257
    assert enc.decode(enc.encode_ordinary("any text")) == "any text"
    assert train([], 2, specials=["<s>"], alphabet="seen").n_vocab == 1


@pytest.mark.parametrize("ids", ["hf", "bytes"])
def test_special_tokens(ids):
    enc = train(["abab cdcd"] * 3, 262, specials=["<s>", "<pad>"], ids=ids)
    first = 0 if ids == "hf" else enc.n_vocab - 2
    assert enc.encode("ab<s><pad>", allowed_special="all")[-2:] == [first, first + 1]
    assert enc.special_tokens_set == {"<s>", "<pad>"}
    assert enc.n_vocab == 262


def test_a_special_token_that_is_also_a_merge():
    """As in the tokenizers library: the merge has the id of the special token."""
    enc = train(["the then the"], 262, specials=["the"])
    assert enc.encode_ordinary("the")[0] == 0
    assert 0 in merges_of(enc)[:, 2]


def test_alphabets():
    seen = train(["abab"], 3, alphabet="seen")
    assert seen.n_vocab == 3
    assert seen.encode_ordinary("abxab") == [2, 2]  # a byte without a token is dropped
    more = train(["abab"], 4, alphabet=b"z")
    assert [more.decode_single_token_bytes(i) for i in range(4)] == [b"a", b"b", b"z", b"ab"]


def test_normalizers_go_into_the_encoding():
    enc = train(["ÀÀÀ ÀÀÀ"], 260, normalizer=["nfkc", "lower"])
    assert enc.encode_ordinary("ÀÀÀ") == enc.encode_ordinary("a\u0300àÀ")
    assert enc.decode(enc.encode_ordinary("ÀÀ")) == "àà"


def test_max_token_length(runs):
    _, texts, _ = runs
    for limit in range(2, 7):
        enc = train(texts, 500, max_token_length=limit)
        longest = max(len(enc.decode_single_token_bytes(i)) for i in range(enc.n_vocab))
        assert longest == max(2, limit - 1)


def test_files_of_the_trained(runs, tmp_path):
    _, texts, probes = runs
    enc = train(texts, 600, "cl100k", ["<|end|>"], name="mine")
    enc.save_hf(tmp_path / "tokenizer.json")
    again = Encoding.from_hf(tmp_path / "tokenizer.json")
    ranks = train(texts, 600, "cl100k", ids="bytes")
    ranks.save_tiktoken(tmp_path / "ranks")
    for probe in probes:
        assert again.encode_ordinary(probe) == enc.encode_ordinary(probe)
        assert pickle.loads(pickle.dumps(enc)).encode_ordinary(probe) == enc.encode_ordinary(probe)
    assert enc.name == "mine"
    peer = pytest.importorskip("tokenizers", reason="tokenizers reads what was saved")
    theirs = peer.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [theirs.encode(p).ids for p in probes] == [enc.encode(p, allowed_special="all") for p in probes]
    assert json.loads((tmp_path / "tokenizer.json").read_text())["model"]["type"] == "BPE"


def test_progress_is_told(rng):
    told = []
    texts = ["".join(rng.choice(list("abcdefgh"), 200_000))]
    enc = train(texts, 3000, "none", progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert all(256 <= done <= 3000 == total for done, total in told)
    assert enc.n_vocab == 3000


def test_a_bar_changes_nothing(capfd):
    pytest.importorskip("rich", reason="bars are drawn by rich")
    shown, quiet = train(["abab cdcd"], 260, progress=True), train(["abab cdcd"], 260)
    assert np.array_equal(merges_of(shown), merges_of(quiet))
    assert capfd.readouterr().out == ""


def test_ctrl_c_ends_training(rng):
    """A run of seconds, ended after a fifth of one."""
    counts = PieceCounts(rng.integers(0, 256, 3_000_000).astype(np.uint8), [0, 3_000_000], [1])
    timer = threading.Timer(0.2, _thread.interrupt_main)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts the tests may have it ignored
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            train(counts, 2_000_000)
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"vocab_size": 256, "specials": ["<s>"]}, ValueError, "vocab_size must be at least 257, .*, got 256"),
        ({"vocab_size": 257, "specials": ["<s>", "</s>"], "ids": "bytes"}, ValueError, "vocab_size must be .* 258"),
        ({"vocab_size": "300"}, TypeError, "vocab_size must be an integer"),
        ({"specials": "<s>"}, TypeError, "specials must be a sequence of str, got '<s>'"),
        ({"specials": ["a", "a"]}, ValueError, "specials must be different"),
        ({"specials": [""]}, ValueError, "specials must be different and not empty"),
        ({"min_frequency": -1}, ValueError, "min_frequency must be"),
        ({"max_token_length": 0}, ValueError, "max_token_length must be"),
        ({"alphabet": "all"}, ValueError, "alphabet must be 'bytes', 'seen' or bytes, got 'all'"),
        ({"alphabet": [256]}, ValueError, r"alphabet must be of bytes in \[0, 256\)"),
        ({"alphabet": "seen", "ids": "bytes"}, ValueError, "alphabet must be 'bytes' where ids='bytes'"),
        ({"ids": "tiktoken"}, ValueError, "ids must be 'hf' or 'bytes', got 'tiktoken'"),
        ({"normalizer": "NFC"}, ValueError, "normalizer must be"),
        ({"texts": "abc"}, TypeError, "texts must be an iterable"),
        ({"pattern": None}, TypeError, "pattern must be a str or a Pattern"),
        ({"shards": "spark"}, ValueError, "shards must be"),
    ],
)
def test_bad_input(options, error, message):
    with pytest.raises(error, match=f"^(train|train_merges|count_texts): {message}"):
        train(**{"texts": ["abc"], "vocab_size": 300, **options})
