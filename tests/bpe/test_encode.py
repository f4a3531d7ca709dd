# SPDX-License-Identifier: Apache-2.0
"""Encoding: golden ids of tiktoken on every level, batches, threads, kinds of text, dtypes."""

from __future__ import annotations

import pickle

import bpe_files
import numpy as np
import pytest
import tokernel
from tokernel.kernels import bpe

from vocabularies import GOLDEN, gpt2, texts_of

LEVELS = [name for name in tokernel.backends()["usable"] if name not in ("cuda", "simt")]
FILES = ("encode_suite", "encode_fuzz", "encode_doc")


def published(name: str) -> bpe.Vocab:
    return bpe_files.published(f"{name}_base").vocab


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("rule", ["ranks", "merges"])
@pytest.mark.parametrize("level", LEVELS)
def test_gpt2_gives_the_golden_ids(level, rule, file):
    golden, texts = np.load(GOLDEN / f"{file}.npz"), texts_of(file)
    with tokernel.use_backend(level):
        ids, offsets = bpe.encode_batch(gpt2(rule), texts, "gpt2")
        assert tokernel.last_backend() == level
    np.testing.assert_array_equal(ids, golden["ids_gpt2"])
    np.testing.assert_array_equal(offsets, golden["ids_gpt2_off"])


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", ["cl100k", "o200k"])
def test_published_vocabularies_give_the_golden_ids(name, file):
    golden = np.load(GOLDEN / f"{file}.npz")
    ids, _ = bpe.encode_batch(published(name), texts_of(file), name)
    np.testing.assert_array_equal(ids, golden[f"ids_{name}"])


def test_raw_pieces_give_the_golden_ids():
    vocab, golden = published("cl100k"), np.load(GOLDEN / "special_and_bytes.npz")
    raw, offsets = golden["raw"].astype(np.uint8), golden["raw_off"]
    ids, bounds = bpe.encode_batch(vocab, (raw, offsets))
    np.testing.assert_array_equal(ids, golden["raw_piece_ids_cl100k"])
    np.testing.assert_array_equal(bounds, golden["raw_piece_ids_cl100k_off"])


@pytest.mark.parametrize("part", [1, 7, 64, 1000])
def test_parts_and_threads_change_nothing(part):
    text = b"\n".join(texts_of("encode_suite"))[:60_000]
    core = gpt2()._core
    expected = bpe.encode(gpt2(), text, "gpt2")
    for threads in (1, 2):
        tokernel.set_num_threads(threads)
        found = np.asarray(tokernel._C.encode_text(core, text, "gpt2", None, None, part))
        tokernel.set_num_threads(0)
        np.testing.assert_array_equal(found, expected)


def test_a_batch_is_its_texts():
    texts = texts_of("encode_fuzz")
    ids, offsets = bpe.encode_batch(gpt2(), texts, "gpt2", threads=2)
    for i, text in enumerate(texts[:50]):
        np.testing.assert_array_equal(ids[offsets[i] : offsets[i + 1]], bpe.encode(gpt2(), text, "gpt2"))
    flat = np.frombuffer(b"".join(texts), np.uint8), np.cumsum([0, *map(len, texts)])
    np.testing.assert_array_equal(bpe.encode_batch(gpt2(), flat, "gpt2")[0], ids)


def test_ends_from_outside_are_those_of_the_pattern():
    texts = texts_of("encode_suite")
    ends = [bpe.split(text, "gpt2") for text in texts]
    ids, offsets = bpe.encode_batch(gpt2(), texts, ends=ends)
    expected, bounds = bpe.encode_batch(gpt2(), texts, "gpt2")
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(offsets, bounds)


def test_kinds_of_text_and_dtypes():
    text = "Zwölf Boxkämpfer\n"
    expected = bpe.encode(gpt2(), text.encode(), "gpt2")
    assert expected.dtype == np.int32
    for other in (text, bytearray(text.encode()), np.frombuffer(text.encode(), np.uint8)):
        np.testing.assert_array_equal(bpe.encode(gpt2(), other, "gpt2"), expected)
    assert bpe.encode(gpt2(), text, "gpt2", dtype=np.int64).dtype == np.int64


def test_torch_text_gives_torch_ids():
    torch = pytest.importorskip("torch")
    text = torch.tensor(list(b"hello world"), dtype=torch.uint8)
    ids, ends = bpe.encode(gpt2(), text, "gpt2", dtype=torch.int64, offsets=True)
    assert ids.dtype == torch.int64
    assert ids.tolist() == [31373, 995]
    assert ends.tolist() == [5, 11]


def test_empty_and_one_byte():
    assert bpe.encode(gpt2(), "").tolist() == []
    assert bpe.encode(gpt2(), "", "gpt2", offsets=True)[1].tolist() == []
    assert bpe.encode_batch(gpt2(), [])[1].tolist() == [0]
    assert bpe.encode(gpt2(), b"\xff").tolist() == [gpt2().id_of(b"\xff")]


def test_the_cache_is_bounded_and_exact():
    """More different pieces than it holds, twice."""
    words = [f" w{i * 7919 % 1_000_003}x{i}" for i in range(60_000)]
    text = "".join(words + words)
    ids = bpe.encode(gpt2(), text, "gpt2")
    with tokernel.use_backend("ref"):
        np.testing.assert_array_equal(bpe.encode(gpt2(), text, "gpt2"), ids)


def test_missing_bytes():
    vocab = bpe.Vocab([b"a", b"b", b"ab"])
    with pytest.raises(
        ValueError, match=r"^encode: text must be made of bytes that are tokens, got byte 99 at position 2"
    ):
        bpe.encode(vocab, "abcb")
    for level in LEVELS:
        with tokernel.use_backend(level):
            dropping = bpe.Vocab([b"a", b"b", b"ab"], missing="drop")
            assert bpe.encode(dropping, "acbcc").tolist() == [2]  # neighbours across what was dropped merge
    ids, ends = bpe.encode(dropping, "cabcb", offsets=True)
    assert (ids.tolist(), ends.tolist()) == ([2, 1], [3, 5])


def test_counting_stops_at_the_limit():
    text = "hello world " * 5000
    exact = len(bpe.encode(gpt2(), text, "gpt2"))
    assert bpe.count_till_limit(gpt2(), text, exact, "gpt2") == exact
    assert bpe.count_till_limit(gpt2(), text, exact - 1, "gpt2") is None
    assert bpe.count_till_limit(gpt2(), "", 0) == 0


def test_ids_need_not_be_dense():
    vocab = bpe.Vocab([b"ab", b"a", b"b"], ids=[2_000_000_000, 5, 70])
    assert bpe.encode(vocab, "abba").tolist() == [2_000_000_000, 70, 5]
    assert bpe.decode(vocab, [2_000_000_000, 5]) == b"aba"
    copy = pickle.loads(pickle.dumps(vocab))
    assert bpe.encode(copy, "abba").tolist() == [2_000_000_000, 70, 5]


@pytest.mark.parametrize(
    ("spoiled", "error", "message"),
    [
        ({"text": object()}, TypeError, r"^encode: text must be str, bytes or a dense array of uint8, got object$"),
        (
            {"text": np.zeros(3, np.float32)},
            TypeError,
            r"^encode: text must be .*, got numpy.ndarray of another dtype",
        ),
        ({"text": np.zeros((1, 3), np.uint8)}, TypeError, r"^encode: text must be .*of another rank$"),
        ({"text": "a\ud800"}, ValueError, r"^encode: text must be .*, got a lone surrogate at position 1$"),
        ({"pattern": "perl"}, ValueError, r"^encode: pattern must be 'none', .*, got 'perl'$"),
        ({"ends": np.array([1])}, ValueError, r"^encode: ends must be complete, .*, got 1 for 2 bytes$"),
        ({"ends": np.array([2, 1, 2])}, ValueError, r"^encode: ends must be ascending .*, got 1 at flat position 1$"),
        ({"ends": np.array([3])}, ValueError, r"^encode: ends must be ascending and inside the text, got 3"),
        ({"dtype": np.float32}, TypeError, r"^encode: dtype must be int32 or int64, got float32$"),
        ({"vocab": None}, TypeError, r"^encode: vocab must be a Vocab, got NoneType$"),
    ],
)
def test_bad_arguments(spoiled, error, message):
    with pytest.raises(error, match=message):
        bpe.encode(**{"vocab": gpt2(), "text": "ab", **spoiled})
