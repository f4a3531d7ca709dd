# SPDX-License-Identifier: Apache-2.0
"""Counts of a corpus: texts and files, whole and in parts, here and by tasks of other libraries."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokernel.kernels import bpe
from tokernel.text import FormatError, Pattern, PieceCounts, _corpus, count_texts

TEXTS = ["Don't stop:  12345 times!\n\n", "", " naïve \n 中文。\n\u3000x", b"bytes, too \xff", "Don't"]
# As a tokenizer that has no compiled scanner.
REGEX = r"\p{L}+|\P{L}"


def expected(texts, pattern="gpt2"):
    total = Counter()
    for text in texts:
        data = text if isinstance(text, bytes) else text.encode()
        total.update(data[a:b] for a, b in itertools.pairwise([0, *bpe.split(data, pattern).tolist()]))
    return dict(total)


@pytest.fixture
def small_batches(monkeypatch):
    """Parts of a file and of a corpus that end everywhere."""
    monkeypatch.setattr(_corpus, "BATCH", 7)


@pytest.fixture
def corpus(tmp_path):
    """Two files, and texts between them."""
    for name, text in (("a.txt", "one two\n  three\n/four don't"), ("b.txt", "中文。\n  five 12345\n")):
        (tmp_path / name).write_bytes(text.encode())
    return [tmp_path / "a.txt", "a text", b"one two", tmp_path / "b.txt"]


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "llama3", "o200k", "qwen2", "tekken", "none"])
def test_texts(pattern):
    assert dict(count_texts(TEXTS, pattern)) == expected(TEXTS, pattern)
    assert dict(count_texts(iter(TEXTS), Pattern(pattern))) == expected(TEXTS, pattern)


def test_batches_of_texts_change_nothing(small_batches):
    assert dict(count_texts(TEXTS)) == expected(TEXTS)


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k", "none"])
def test_a_file_is_one_text(pattern, corpus, small_batches):
    texts = [item if isinstance(item, str | bytes) else item.read_bytes() for item in corpus]
    assert dict(count_texts(corpus, pattern)) == expected(texts, pattern)
    assert dict(count_texts(corpus[0], pattern)) == expected(texts[:1], pattern)


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k", "none"])
def test_lines_of_a_file_as_texts(pattern, corpus, small_batches):
    """What the tokenizers library does with files: a line keeps its end."""
    lines = [item.read_bytes().splitlines(keepends=True) for item in (corpus[0], corpus[3])]
    texts = [*corpus[1:3], *lines[0], *lines[1]]
    assert dict(count_texts(corpus, pattern, lines=True)) == expected(texts, pattern)


def test_lines_are_those_of_the_tokenizers_library(corpus):
    peer = pytest.importorskip("tokenizers", reason="tokenizers is the trainer to compare with")
    files = [str(item) for item in corpus if not isinstance(item, str | bytes)]
    theirs = peer.Tokenizer(peer.models.BPE())
    theirs.pre_tokenizer = peer.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.train(files, peer.trainers.BpeTrainer(vocab_size=400, show_progress=False, initial_alphabet=[]))
    counts = count_texts([corpus[0], corpus[3]], lines=True)
    made = bpe.train_merges(counts.pieces, counts.offsets, counts.counts, 10_000)
    seen = len(set(counts.pieces.tolist()))
    assert theirs.get_vocab_size() == seen + len(made)


@given(st.text("ab1 \n\r'/中é\u3000", max_size=40), st.integers(1, 12), st.sampled_from(["gpt2", "cl100k", "o200k"]))
@settings(max_examples=100, deadline=None)
def test_parts_of_a_file_change_nothing(tmp_path_factory, text, size, pattern):
    path = tmp_path_factory.getbasetemp() / "parts.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_corpus, "BATCH", size)
        assert dict(count_texts(path, pattern)) == expected([text], pattern)


def test_a_regex_without_scanner(corpus, small_batches):
    regex = pytest.importorskip("regex", reason="patterns without a compiled scanner need it")
    texts = [item if isinstance(item, str | bytes) else item.read_bytes() for item in corpus]
    found = Counter(
        m.encode() for t in texts for m in regex.findall(REGEX, t if isinstance(t, str) else t.decode("utf-8"))
    )
    assert dict(count_texts(corpus, REGEX)) == dict(found)
    lines = count_texts(corpus, r"[\s\S]+", lines=True)
    assert lines == count_texts(corpus, "none", lines=True)


def test_white_space_at_the_end_as_tiktoken_cuts_it():
    pattern = Pattern(
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
        r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    )
    assert dict(count_texts(["a\n  "], pattern)) == {b"a": 1, b"\n  ": 1}
    assert dict(count_texts(["a\n  "], "cl100k")) == {b"a": 1, b"\n": 1, b"  ": 1}


def test_normalizers(tmp_path, small_batches):
    text = "ﬁne ÀÉ\nA\u0300 ΟΔΟΣ"
    path = tmp_path / "text"
    path.write_bytes(text.encode())
    wanted = expected(["fine àé\nà οδοσ"])
    for source in ([text], [text.encode()], path):
        assert dict(count_texts(source, normalizer=["nfkc", "lower"])) == wanted
    assert dict(count_texts([text], normalizer="nfc")) == expected(["ﬁne ÀÉ\nÀ ΟΔΟΣ"])


@pytest.mark.parametrize("shards", ["dask", "ray"])
def test_tasks_of_other_libraries_count_the_same(shards, corpus, small_batches):
    library = pytest.importorskip(shards, reason=f"the extra {shards}")
    wanted = count_texts(corpus, "cl100k")
    if shards == "dask":
        for scheduler in ("synchronous", "threads"):
            with library.config.set(scheduler=scheduler):
                assert count_texts(corpus, "cl100k", shards="dask") == wanted
                assert count_texts(iter([]), shards="dask") == PieceCounts()
        return
    library.init(num_cpus=1, log_to_driver=False, include_dashboard=False)
    try:
        assert count_texts(corpus, "cl100k", shards="ray") == wanted
    finally:
        library.shutdown()


def test_processes_of_dask_count_the_same(corpus):
    dask = pytest.importorskip("dask", reason="the extra dask")
    with dask.config.set(scheduler="processes", num_workers=1):
        assert count_texts(corpus, shards="dask") == count_texts(corpus)


# PieceCounts


def test_counts_add_up():
    parts = [count_texts([text]) for text in TEXTS]
    whole = count_texts(TEXTS)
    assert sum(parts, PieceCounts()) == whole
    assert parts[0] + (parts[2] + parts[4]) == (parts[4] + parts[2]) + parts[0]
    assert PieceCounts() + whole == whole
    assert whole.total == sum(n for _, n in whole)
    assert [piece for piece, _ in whole] == sorted(dict(whole))
    with pytest.raises(TypeError):
        whole + {}


def test_counts_beyond_32_bits():
    a = PieceCounts.from_mapping({"x": 2**40, "long piece of more than 15 bytes": 2**33})
    assert dict(a + a) == {b"x": 2**41, b"long piece of more than 15 bytes": 2**34}


def test_counts_from_arrays():
    counts = PieceCounts(np.frombuffer(b"baba", np.uint8), [0, 1, 2, 2, 3, 4], [1, 2, 9, 3, 0])
    assert dict(counts) == {b"a": 2, b"b": 4}
    assert counts.pieces.flags.writeable is False
    assert repr(counts) == "<PieceCounts of 2 different pieces, 6 in all>"
    with pytest.raises(ValueError, match=r"counts must be not negative, got -1"):
        PieceCounts(np.frombuffer(b"a", np.uint8), [0, 1], [-1])


def test_counts_in_a_file(tmp_path):
    counts = count_texts(TEXTS)
    path = tmp_path / "counts.npz"
    counts.save(path)
    assert PieceCounts.load(path) == counts
    assert [p.name for p in tmp_path.iterdir()] == ["counts.npz"]
    assert pickle.loads(pickle.dumps(counts)) == counts
    PieceCounts().save(path)
    assert len(PieceCounts.load(path)) == 0


def test_other_files(tmp_path):
    path = tmp_path / "counts.npz"
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(FormatError, match=r"counts.npz: not a file of counted pieces"):
        PieceCounts.load(path)
    np.savez(path, pieces=np.zeros(1))
    with pytest.raises(FormatError, match=r"not a file of counted pieces"):
        PieceCounts.load(path)
    np.savez(path, pieces=np.zeros(1), offsets=np.array([0, 1]), counts=np.array([1]))
    with pytest.raises(FormatError, match=r"pieces: expected flat uint8, got float64"):
        PieceCounts.load(path)


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        ("a text", {}, TypeError, "texts must be an iterable of str, bytes or paths, got str"),
        (5, {}, TypeError, "texts must be an iterable of str, bytes or paths, got int"),
        (["a", 5], {}, TypeError, "texts must hold str, bytes or paths, got int at 1"),
        (["a"], {"pattern": 5}, TypeError, "pattern must be a str or a Pattern, got int"),
        (["a"], {"normalizer": "NFC"}, ValueError, "normalizer must be of nfc, .*, got 'NFC'"),
        (["a"], {"shards": "spark"}, ValueError, "shards must be 'local', 'dask' or 'ray', got 'spark'"),
    ],
)
def test_bad_input(texts, options, error, message):
    with pytest.raises(error, match=f"^count_texts: {message}"):
        count_texts(texts, **options)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dask", None)
    with pytest.raises(ImportError, match=r"^count_texts: shards='dask' needs dask: pip install 'tokernel\[dask\]'$"):
        count_texts(["a"], shards="dask")
