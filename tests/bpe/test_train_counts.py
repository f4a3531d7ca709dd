# SPDX-License-Identifier: Apache-2.0
"""Counted pieces against a counter in Python, for every pattern, text and cut."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from bits import on_one_and_two_threads
from hypothesis import given, settings
from hypothesis import strategies as st

import tokernel
from tokernel import _C
from tokernel.kernels.bpe import count_pieces, split
import itertools

PATTERNS = ["none", "gpt2", "cl100k", "llama3", "o200k", "qwen2", "tekken"]


@pytest.fixture(params=["ref", "host"])
def code(request):
    """The reference, and what runs otherwise (the same on every level)."""
    if request.param == "host":
        yield "host"
        return
    with tokernel.use_backend("ref"):
        yield "ref"


def as_dict(counted):
    data, off = counted.pieces.tobytes(), counted.offsets.tolist()
    pieces = [data[a:b] for a, b in itertools.pairwise(off)]
    assert pieces == sorted(set(pieces))
    return dict(zip(pieces, counted.counts.tolist(), strict=True))


def expected(texts, pattern):
    total = Counter()
    for text in texts:
        begin = 0
        for end in split(text, pattern).tolist():
            total[text[begin:end]] += 1
            begin = end
    return dict(total)


# What patterns look at: letters of both cases, digits, white space, symbols, wide characters, broken ones.
TEXT = st.lists(
    st.sampled_from(["a", "B", "é", "'s", "'", "1", " ", "  ", "\n", "\r\n", "/", "!", "中", "\u3000", "\u0301", "😀"]),
    max_size=60,
).map(lambda parts: "".join(parts).encode())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern(pattern, code):
    texts = [b"Don't  stop 12345 times!\n\n  ", b"", b"\xff\xfe a", "naïve 中文  \u3000x".encode(), b"a" * 100]
    assert as_dict(count_pieces(texts, pattern)) == expected(texts, pattern)


@given(st.lists(st.one_of(TEXT, st.binary(max_size=40)), max_size=5), st.sampled_from(PATTERNS))
@settings(max_examples=100, deadline=None)
def test_host_equals_reference(texts, pattern):
    host = as_dict(count_pieces(texts, pattern))
    with tokernel.use_backend("ref"):
        assert as_dict(count_pieces(texts, pattern)) == host
    assert host == expected(texts, pattern)


@pytest.mark.parametrize("size", [*range(1, 20), 31, 32, 33, 1000])
@pytest.mark.parametrize("behind", [0, 1, 20])
def test_pieces_of_every_length(size, behind, code):
    """Short ones are keys in place, long ones lie elsewhere; near the end of a text nothing behind it is read."""
    text = np.frombuffer(b"\0" * size + b"y" * behind, np.uint8)
    ends = [size, *([size + behind] if behind else [])]
    found = as_dict(count_pieces([text, text], ends=[np.array(ends)] * 2))
    assert found == {b"\0" * size: 2, **({b"y" * behind: 2} if behind else {})}


def test_many_different_pieces(rng, code):
    """Tables grow."""
    words = [rng.bytes(int(n)) for n in rng.integers(1, 40, 3000)]
    data, ends = b"".join(words), np.cumsum([len(w) for w in words])
    assert as_dict(count_pieces([data], ends=[ends])) == dict(Counter(words))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_threads_and_parts_change_nothing(pattern, rng):
    letters = np.frombuffer("ab  c1\n/'s中é!".encode(), np.uint8)
    long = rng.choice(letters, 600_000).tobytes()
    short = [rng.choice(letters, int(n)).tobytes() for n in rng.integers(0, 50, 2000)]
    texts = [*short, long, *short]
    one, two = on_one_and_two_threads(lambda: count_pieces(texts, pattern))
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a, b)
    assert as_dict(one) == expected(texts, pattern)
    assert as_dict(count_pieces(texts, pattern, threads=1)) == as_dict(one)


@given(TEXT, st.sampled_from(PATTERNS), st.lists(st.integers(1, 30), max_size=6))
@settings(max_examples=150, deadline=None)
def test_a_text_that_comes_in_parts(text, pattern, sizes):
    """What is counted before the end of a text is known is what the whole text has."""
    counter = _C.PieceCounter()
    rest, at = b"", 0
    for size in sizes:
        rest += text[at : at + size]
        at += size
        rest = rest[counter.add_stream(rest, pattern, False, None) :]
    counter.add_stream(rest + text[at:], pattern, True, None)
    pieces, offsets, counts = counter.counted()
    data, off = pieces.tobytes(), offsets.tolist()
    assert dict(zip((data[a:b] for a, b in itertools.pairwise(off)), counts.tolist(), strict=True)) == expected(
        [text], pattern
    )


def test_kinds_of_text():
    texts = ["é \ud800", b"b c", bytearray(b"b c"), memoryview(b"b c"), np.frombuffer(b"b c", np.uint8)]
    found = as_dict(count_pieces(texts, "gpt2"))
    assert found == {b"b": 4, b" c": 4, "é".encode(): 1, " \ufffd".encode(): 1}
    torch = pytest.importorskip("torch", reason="torch is an extra")
    assert as_dict(count_pieces([torch.tensor([98], dtype=torch.uint8)], "gpt2")) == {b"b": 1}


def test_no_texts():
    counted = count_pieces([], "gpt2")
    assert [a.shape for a in counted] == [(0,), (1,), (0,)]
    assert [a.dtype for a in counted] == [np.uint8, np.int64, np.int64]


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        (("ab", "gpt2"), {}, TypeError, "texts must be a sequence of texts, got str"),
        ((["a", 5], "gpt2"), {}, TypeError, "texts must be str, bytes or flat arrays of uint8, got int at position 1"),
        (([np.zeros(2)], "gpt2"), {}, TypeError, "texts must be str, bytes or .*, got numpy.ndarray at position 0"),
        ((["a"], "bert"), {}, ValueError, "pattern must be 'none', .*, got 'bert'"),
        ((["a"], "gpt2"), {"threads": 0}, ValueError, "threads must be .*, got 0"),
        ((["a"],), {"ends": []}, ValueError, "ends must be one array for each of 1 texts, got 0"),
        ((["ab"],), {"ends": [np.array([3])]}, ValueError, "ends must be non-decreasing and at most 2, got 3 at .* 0"),
        ((["ab"],), {"ends": [np.array([1, 0])]}, ValueError, "ends must be .*, got 0 at flat position 1"),
    ],
)
def test_bad_input(args, options, error, message):
    with pytest.raises(error, match=f"^count_pieces: {message}"):
        count_pieces(*args, **options)
