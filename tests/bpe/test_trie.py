# SPDX-License-Identifier: Apache-2.0
"""Tries: every question against a scan over all patterns; linear time where a scan from every start is not."""

from __future__ import annotations

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels.bpe import Trie

CPU = [name for name in tokernel.backends()["usable"] if name not in ("cuda", "simt")]


@pytest.fixture(params=["ref", "host"])
def code(request):
    """The reference, and what runs otherwise (the same on every level)."""
    if request.param == "host":
        yield "host"
        return
    with tokernel.use_backend("ref"):
        yield "ref"


def random_patterns(rng, letters, count, longest):
    drawn = {bytes(rng.choice(letters, rng.integers(1, longest + 1)).astype(np.uint8)) for _ in range(count)}
    return sorted(drawn, key=lambda p: (len(p), p[::-1]))


def prefixes(patterns, text, start):
    return sorted((len(p), i) for i, p in enumerate(patterns) if text.startswith(p, start))


def leftmost_longest(patterns, text):
    at, found = 0, []
    while at < len(text):
        here = prefixes(patterns, text, at)
        if here:
            found.append((at, at + here[-1][0], here[-1][1]))
        at = found[-1][1] if here else at + 1
    return found


@pytest.mark.parametrize("letters", [[97], [97, 98], list(range(256)), [0, 32, 255]])
@pytest.mark.parametrize("count", [1, 5, 400])
def test_every_question_against_a_scan(code, rng, letters, count):
    patterns = random_patterns(rng, letters, count, 6)
    trie = Trie(patterns)
    assert len(trie) == len(patterns)
    for length in (0, 1, 2, 7, 60):
        text = bytes(rng.choice(letters, length).astype(np.uint8))
        for start in range(length + 1):
            here = prefixes(patterns, text, start)
            values, ends = trie.prefixes(text, start)
            assert list(zip((ends - start).tolist(), values.tolist(), strict=True)) == here
            assert trie.longest(text, start) == ((here[-1][1], start + here[-1][0]) if here else None)
            assert trie.second_longest(text, start) == ((here[-2][1], start + here[-2][0]) if len(here) > 1 else None)
        found = trie.find_all(text)
        assert list(zip(*(a.tolist() for a in found), strict=True)) == leftmost_longest(patterns, text)


def test_patterns_with_a_prefix_come_in_the_order_of_their_bytes(code, rng):
    patterns = random_patterns(rng, [0, 97, 98, 255], 300, 5)
    values = rng.permutation(len(patterns))
    trie = Trie(patterns, values)
    for prefix in (b"", b"a", b"ab", b"\xff", b"\xff\xff", b"\x00a", b"zz", b"aaaaaaaaaa"):
        expected = [int(values[patterns.index(p)]) for p in sorted(patterns) if p.startswith(prefix)]
        assert trie.with_prefix(prefix).tolist() == expected


def test_a_trie_of_nothing_finds_nothing(code):
    trie = Trie([])
    assert len(trie) == 0
    assert trie.longest(b"abc") is None
    assert trie.second_longest(b"") is None
    assert [a.size for a in trie.find_all(b"abc")] == [0, 0, 0]
    assert trie.with_prefix(b"").size == 0
    assert trie.tokenize_longest([]).offsets.tolist() == [0]
    assert trie.tokenize_longest([b"", b"ab"], unk=9).ids.tolist() == [9, 9]


def test_greedy_ids_are_the_longest_at_every_position(code):
    trie = Trie([b"a", b"b", b"ab", b"abc", b"c", b"bcd"], values=[10, 11, 12, 13, 14, 15])
    got = trie.tokenize_longest([b"abcd" * 2, b"", b"bcdab"], unk=-1)
    assert got.ids.tolist() == [13, -1, 13, -1, 15, 12]
    assert got.ends.tolist() == [3, 4, 7, 8, 3, 5]
    assert got.offsets.tolist() == [0, 4, 4, 6]
    flat = trie.tokenize_longest((np.frombuffer(b"abcbcd", np.uint8), np.array([0, 3, 6], np.int32)))
    assert flat.ids.tolist() == [13, 15]
    assert trie.tokenize_longest("cab").ids.tolist() == [14, 12]


def test_an_unknown_character_or_byte_is_one_id(code):
    trie = Trie([b"a", "é".encode()])
    text = "ö€aé\N{GRINNING FACE}".encode() + b"\x80\x80a\xff"
    assert trie.tokenize_longest(text, unk=7).ids.tolist() == [7, 7, 0, 1, 7, 0, 7]
    assert trie.tokenize_longest(text, unk=7).ends.tolist() == [2, 5, 6, 8, 14, 15, 16]
    assert trie.tokenize_longest(text, unk=7, unit="byte").ids.tolist() == [7] * 5 + [0, 1] + [7] * 6 + [0, 7]


@pytest.mark.parametrize("seed", range(6))
def test_the_automaton_agrees_with_the_walk(seed):
    """Patterns long enough that walking from every start is given up."""
    rng = np.random.default_rng(seed)
    patterns = [b"a" * int(n) + tail for n in rng.integers(300, 900, 6) for tail in (b"", b"b", b"ba")]
    patterns = sorted(set(patterns) | {b"ab", b"b" * 5})
    trie = Trie(patterns)
    pieces = [
        b"a" * int(rng.integers(1, 1500)) + bytes(rng.choice([97, 98, 99], 5).astype(np.uint8)) for _ in range(40)
    ]
    text = b"".join(pieces)
    found = trie.find_all(text)
    assert trie._native.reads_backward()
    lengths = np.array([len(p) for p in patterns])
    assert (found.end - found.start == lengths[found.value]).all()
    for start, end, value in zip(*(a.tolist() for a in found), strict=True):
        assert text[start:end] == patterns[value]
        assert trie.longest(text, start) == (value, end)
    gaps = np.ones(len(text), bool)
    for start, end, _ in zip(*found, strict=True):
        gaps[start:end] = False
    assert all(trie.longest(text, int(at)) is None for at in np.flatnonzero(gaps))


@pytest.mark.parametrize(
    "patterns",
    [
        [b" " * n for n in range(2, 951)],  # the runs of kl3m
        [b"a", b"a" * 1000 + b"b"],
        [b"a" * 1000 + b"b"],
        [b"ab" * 500 + b"b", b"a", b"ba"],
    ],
)
def test_time_is_linear_in_the_text(patterns):
    trie = Trie(patterns)
    text = patterns[0][:2] * (1 << 21)
    start = time.perf_counter()
    trie.find_all(text)
    assert time.perf_counter() - start < 2.0  # 4 MB; walks from every start would read 4 GB


def test_threads_give_the_same_ids(rng):
    patterns = [bytes([b]) for b in range(256)] + random_patterns(rng, list(range(97, 105)), 800, 6)[8:]
    patterns = list(dict.fromkeys(patterns))
    trie = Trie(patterns)
    texts = [bytes(rng.integers(97, 105, int(n)).astype(np.uint8)) for n in rng.integers(0, 20000, 40)]
    one, two = on_one_and_two_threads(lambda: trie.tokenize_longest(texts))
    for a, b in zip(one, two, strict=True):
        assert (a == b).all()
    for b, text in enumerate(texts[:5]):
        ids = one.ids[one.offsets[b] : one.offsets[b + 1]]
        assert b"".join(patterns[i] for i in ids) == text
        assert ids.tolist() == [v for _, _, v in leftmost_longest(patterns, text[:300])][: len(ids)] or len(text) > 300


def test_many_python_threads_use_one_trie():
    trie = Trie([b"a", b"a" * 2000 + b"b"])
    text = b"a" * 300000
    with ThreadPoolExecutor(4) as pool:
        counts = [f.start.size for f in pool.map(trie.find_all, [text] * 8)]
    assert counts == [len(text)] * 8


def test_it_pickles():
    trie = Trie([b"a", b"\x00\xff"], values=[5, -7])
    again = pickle.loads(pickle.dumps(trie))
    assert again.patterns == trie.patterns
    assert again.values.tolist() == [5, -7]
    assert again.longest(b"\x00\xff") == (-7, 2)


def test_a_large_vocabulary(rng):
    """100k random tokens: slots are well filled, and every token is found."""
    lengths = rng.integers(2, 12, 100_000)
    drawn = rng.integers(97, 123, (100_000, 12)).astype(np.uint8)
    patterns = list(dict.fromkeys(bytes(row[:n]) for row, n in zip(drawn, lengths, strict=True)))
    trie = Trie(patterns)
    for i in rng.integers(0, len(patterns), 500):
        assert trie.longest(patterns[i]) == (int(i), len(patterns[i]))


@pytest.mark.parametrize(
    ("patterns", "values", "error", "message"),
    [
        ([b"a", b""], None, ValueError, r"^Trie: patterns must be at least one byte long, got an empty one at 1$"),
        ([b"a", b"b", b"a"], None, ValueError, r"^Trie: patterns must be all different, got the same at 0 and 2$"),
        ([b"a", "b"], None, TypeError, r"^Trie: patterns must be bytes, got str at 1$"),
        ([b"a"], [1, 2], ValueError, r"^Trie: values must be as many as the 1 patterns, got 2$"),
        ([b"a"], [1.5], TypeError, r"^Trie: values must be int64 or int32, got float64$"),
        ([b"a"], [[1]], ValueError, r"^Trie: values must be \(N\), got \(1, 1\) int64$"),
    ],
)
def test_bad_patterns(patterns, values, error, message):
    with pytest.raises(error, match=message):
        Trie(patterns, values)


def test_bad_questions():
    trie = Trie([b"a"])
    with pytest.raises(ValueError, match=r"^Trie: start must be in \[0, 2\], got 3$"):
        trie.longest(b"aa", 3)
    with pytest.raises(ValueError, match=r"^Trie: start must be in \[0, 2\], got -1$"):
        trie.prefixes(b"aa", -1)
    with pytest.raises(TypeError, match=r"^Trie: start must be an integer, got float$"):
        trie.longest(b"aa", 1.0)
    with pytest.raises(TypeError, match=r"^Trie: text must be str, bytes or an array of uint8, got int$"):
        trie.find_all(3)
    with pytest.raises(TypeError, match=r"^Trie: text must be uint8, got int64$"):
        trie.find_all(np.zeros(3, np.int64))
    with pytest.raises(ValueError, match=r"^Trie: text must be \(N\), got \(2, 2\) uint8$"):
        trie.find_all(np.zeros((2, 2), np.uint8))
    with pytest.raises(
        ValueError,
        match=r"^tokenize_longest: text must be covered by the patterns where unk is None, got byte 98 at position 1 "
        r"of text 2$",
    ):
        trie.tokenize_longest([b"a", b"", b"ab", b"b"])
    with pytest.raises(
        ValueError, match=r"^tokenize_longest: offsets must be ascending from 0 to the 2 bytes, got 0 to 1$"
    ):
        trie.tokenize_longest((b"aa", np.array([0, 1])))
    with pytest.raises(ValueError, match=r"^tokenize_longest: unit must be 'char' or 'byte', got 'word'$"):
        trie.tokenize_longest(b"a", unit="word")


def test_views_are_read_as_they_are():
    text = np.frombuffer(b"axbxaxbx", np.uint8)
    assert Trie([b"ab"]).find_all(text[::2]).start.tolist() == [0, 2]
