# SPDX-License-Identifier: Apache-2.0
"""split: the reference against golden splits and against regular expressions, every backend against the reference."""

import codecs
from itertools import pairwise

import numpy as np
import pytest
from bits import on_one_and_two_threads
from hypothesis import example, given, settings
from hypothesis import strategies as st
from split_oracle import GOLDEN, PATTERNS, SCANNED, class_ranges, ends, pieces

import tokernel
from tokernel.kernels._arrays import extension_of
from tokernel.kernels.bpe import split

# What the patterns tell apart, and neighbours that they must not confuse.
ALPHABET = [
    *("'", "'s", "'S", "'ſ", "'ll", "'Re", "'ve", "'d"),
    *("a", "s", "l", "A", "Z", "é", "É", "я", "Я", "日", "ª", "ʰ", "ǅ", "ſ"),
    *("\u0301", "\u093f", "1", "12", "123", "²", "٣"),
    *(" ", "  ", "\t", "\n", "\r", "\r\n", " \n", "\u00a0", "\u3000", "\u2028", "\x85", "\u200b", "\x1c"),
    *("/", "(", "..", "。", "😀", "\U0001d400", "\ufffd", "\0"),
]
ILL_FORMED = [
    *(b"\x80", b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"),
]
LEVELS = [name for name in tokernel.backends()["usable"] if name not in ("ref", "simt", "cuda")]
SAMPLE = "Don't  stop\n\n  HTTPServer's 12345.\t(x/\n/y)  naïve 日本語、Да!\r\n \n we'LL  " * 3


def by_reference(text, pattern):
    with tokernel.use_backend("ref"):
        return split(text, pattern)


def golden_texts(name):
    with np.load(GOLDEN / f"{name}.npz") as data:
        arrays = dict(data)
    flat, cuts = arrays["text_bytes"].astype(np.uint8).tobytes(), arrays["text_off"]
    texts = [flat[a:b] for a, b in pairwise(cuts)]
    return texts, {p: np.split(arrays[f"split_{p}"], arrays[f"split_{p}_off"][1:-1]) for p in PATTERNS}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", ["encode_suite", "encode_fuzz"])
def test_golden_splits(backend, name, pattern):
    texts, expected = golden_texts(name)
    step = 5 if backend == "simt" else 1
    for text, want in list(zip(texts, expected[pattern], strict=True))[::step]:
        assert split(text, pattern).tolist() == want.tolist(), text


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_regular_expressions_are_golden(pattern):
    for name in ("encode_suite", "encode_fuzz"):
        texts, expected = golden_texts(name)
        for text, want in zip(texts, expected[pattern], strict=True):
            assert ends(text.decode(), pattern) == want.tolist()


# ---- every character -----------------------------------------------------------------------------------------------
def in_contexts(points):
    """Every character behind and before a letter, a capital, a blank, a newline, a number, a symbol, and itself."""
    return "".join(f"a{c}b {c}\n{c}\n.{c}. {c}{c}1{c}A{c}B\t{c} \n" for c in map(chr, points))


def characters(first, last):
    return [c for c in range(first, last) if not 0xD800 <= c < 0xE000]


@pytest.mark.parametrize("pattern", SCANNED)
def test_every_character_in_every_context_by_the_reference(pattern):
    for plane in range(17):
        text = in_contexts(characters(plane << 16, (plane + 1) << 16)).encode()
        expected = by_reference(text, pattern)
        for level in LEVELS:
            with tokernel.use_backend(level):
                assert np.array_equal(split(text, pattern), expected), (plane, level)


@pytest.mark.parametrize("pattern", SCANNED)
def test_every_edge_of_a_class_in_every_context_by_regular_expression(pattern):
    edges = {edge + step for ranges in class_ranges().values() for edge in ranges.flat for step in (-1, 0, 1)}
    text = in_contexts(c for c in sorted(edges) if 0 <= c < 0x110000 and not 0xD800 <= c < 0xE000)
    assert by_reference(text, pattern).tolist() == ends(text, pattern)


@pytest.mark.parametrize("pattern", SCANNED)
def test_every_character_by_regular_expression(pattern):
    text = "".join(f"a{chr(c)}B " for c in characters(0, 0x110000))
    assert by_reference(text, pattern).tolist() == ends(text, pattern)


# ---- any text --------------------------------------------------------------------------------------------------------
units = st.sampled_from([*(c.encode() for c in ALPHABET), *ILL_FORMED])
texts = st.lists(st.sampled_from(ALPHABET), max_size=60).map("".join) | st.text(max_size=60)


@settings(max_examples=300, deadline=None)
@given(texts)
@example("a's's'sand")
@example("\u0301ABC")
@example("日AB日Ab")
@example("(\n/\n/(x/\n/x")
def test_the_reference_is_the_regular_expression(text):
    for pattern in SCANNED:
        assert by_reference(text, pattern).tolist() == ends(text, pattern)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(units, st.sampled_from([1, 1, 1, 2, 40, 130])), max_size=100))
def test_every_level_is_the_reference(repeated):
    text = b"".join(unit * times for unit, times in repeated)
    for pattern in PATTERNS:
        expected = by_reference(text, pattern).tolist()
        for level in LEVELS:
            with tokernel.use_backend(level):
                assert split(text, pattern).tolist() == expected


@pytest.mark.parametrize("pattern", [*SCANNED, "none"])
def test_every_length(backend, pattern):
    """Around the 64 bytes that are read at a time, and cut off inside characters."""
    text = SAMPLE.encode()
    lengths = [0, 1, 2, 63, 64, 65, 127, 200] if backend == "simt" else range(len(text))
    for size in lengths:
        assert split(text[:size], pattern).tolist() == by_reference(text[:size], pattern).tolist()


def test_no_pattern_and_no_text(backend):
    assert split("two words", "none").tolist() == [9]
    for pattern in [*PATTERNS, "none"]:
        found = split(b"", pattern)
        assert found.shape == (0,)
        assert found.dtype == np.int64


# ---- bytes that are no text ------------------------------------------------------------------------------------------
codecs.register_error("one_byte", lambda error: ("\ue000", error.start + 1))


def ends_of_bytes(text, pattern):
    """Each byte that is part of no character becomes one of private use, which has no class."""
    found = pieces(text.decode("utf-8", "one_byte"), pattern)
    lengths = [sum(1 if c == "\ue000" else len(c.encode()) for c in piece) for piece in found]
    return np.cumsum(lengths, dtype=np.int64).tolist()


@settings(max_examples=200, deadline=None)
@given(st.lists(units, max_size=30).map(b"".join))
@example(b"\xe2\x82")
@example(b"a\xf0\x9f\x98 \x85\xc2")
def test_an_ill_formed_byte_is_a_character_of_no_class(text):
    for pattern in SCANNED:
        assert by_reference(text, pattern).tolist() == ends_of_bytes(text, pattern)


@pytest.mark.parametrize("pattern", SCANNED)
def test_one_byte_and_two(backend, pattern):
    for first in range(0, 256, 16 if backend == "simt" else 1):
        assert split(bytes([first]), pattern).tolist() == [1]
        for second in (0x20, 0x41, 0x80, 0xA0, 0xBF):
            text = bytes([first, second])
            assert split(text, pattern).tolist() == ends_of_bytes(text, pattern)


# ---- parts -----------------------------------------------------------------------------------------------------------
def in_parts(text, pattern, part):
    """Cut wherever a cut is safe, once in every `part` bytes."""
    array = np.frombuffer(text, np.uint8)
    found, count = extension_of("split", "text", array).split(array, pattern, part)
    return found[: int(count[0])].tolist()


CUTTING = ["a", "A", "'s", "'", "1", ".", "/", " ", "\n", "\t", "日", "é", "\u0301", "。", "\u3000"]


@pytest.mark.parametrize("pattern", SCANNED)
def test_safe_cuts_are_boundaries(pattern):
    """Of every text of four characters, cut at every place that is called safe."""
    alphabet = [c.encode() for c in CUTTING]
    quadruples = np.array(np.meshgrid(*[range(len(alphabet))] * 4)).reshape(4, -1).T
    for chosen in quadruples:
        text = b"".join(alphabet[i] for i in chosen)
        assert in_parts(text, pattern, 1) == in_parts(text, pattern, 0), text


@pytest.mark.parametrize("pattern", [*SCANNED, "none"])
def test_parts_change_nothing(backend, pattern, rng):
    alphabet = [*(c.encode() for c in ALPHABET), *ILL_FORMED]
    for _ in range(3 if backend == "simt" else 100):
        times = rng.choice([1, 1, 1, 40, 130], size=60)
        text = b"".join(alphabet[i] * n for i, n in zip(rng.integers(len(alphabet), size=60), times, strict=True))
        expected = by_reference(text, pattern).tolist()
        for part in (1, 3, 50, 100):
            assert in_parts(text, pattern, part) == expected


def test_threads_change_nothing():
    text = (SAMPLE * 8000).encode()  # several parts
    for pattern in SCANNED:
        one, two = on_one_and_two_threads(lambda pattern=pattern: split(text, pattern))
        assert np.array_equal(one, two)
        assert np.array_equal(one, by_reference(text, pattern))
