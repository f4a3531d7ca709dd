# SPDX-License-Identifier: Apache-2.0
"""Many byte strings at once: which of them begin a text, and where they lie in it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tokernel import _C
from tokernel.kernels._arrays import Array
from tokernel.kernels.bpe._text import utf8

__all__ = ["Found", "Segmented", "Trie"]

Text = str | bytes | Array
Texts = Text | Sequence[str | bytes] | tuple[Array, Array]
Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class Found(NamedTuple):
    """The matches of :meth:`Trie.find_all`, in the order of the text."""

    start: Int64s
    """(M,) int64: first byte."""
    end: Int64s
    """(M,) int64: one past the last byte."""
    value: Int64s
    """(M,) int64: what the pattern stands for."""


class Segmented(NamedTuple):
    """Texts as sequences of ids, one after the other."""

    ids: Int64s
    """(N,) int64."""
    ends: Int64s
    """(N,) int64: one past the last byte of every id, counted from the start of its own text."""
    offsets: Int64s
    """(B + 1,) int64: text b has ids[offsets[b]:offsets[b + 1]]; (0, N) for a single text."""


def flat_bytes(op: str, text: Text, name: str = "text") -> bytes | Bytes:
    """The bytes of one text, in one piece of host memory."""
    if isinstance(text, bytes):
        return text
    if isinstance(text, str):
        return utf8(text)
    if not hasattr(text, "__dlpack__") and not isinstance(text, bytearray | memoryview):
        raise TypeError(f"{op}: {name} must be str, bytes or an array of uint8, got {type(text).__name__}")
    array = np.asarray(text)
    if array.dtype != np.uint8:
        raise TypeError(f"{op}: {name} must be uint8, got {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{op}: {name} must be (N), got {array.shape} {array.dtype}")
    return np.ascontiguousarray(array)


def flat_texts(op: str, texts: Texts, name: str = "texts") -> tuple[bytes | Bytes, Int64s]:
    """The bytes of a batch (one text, a list of texts, or bytes with offsets) and the offsets of its texts."""
    if isinstance(texts, tuple) and len(texts) == 2 and not isinstance(texts[1], str | bytes):
        flat = flat_bytes(op, texts[0], name)
        return flat, cuts_of(op, texts[1], len(flat), "bytes")
    if isinstance(texts, list | tuple):
        parts = [bytes(flat_bytes(op, text, name)) for text in texts]
        return b"".join(parts), offsets_of(parts)
    flat = flat_bytes(op, texts, name)
    return flat, np.array([0, len(flat)], np.int64)


def offsets_of(parts: Sequence[bytes]) -> Int64s:
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=offsets[1:])
    return offsets


def cuts_of(op: str, offsets: object, total: int, unit: str) -> Int64s:
    """Checked offsets of sequences that make up `total` items."""
    cuts = integers(op, "offsets", offsets)
    if cuts.size == 0 or cuts[0] != 0 or cuts[-1] != total or (np.diff(cuts) < 0).any():
        got = f"{cuts[0]} to {cuts[-1]}" if cuts.size else "none"
        raise ValueError(f"{op}: offsets must be ascending from 0 to the {total} {unit}, got {got}")
    return cuts


def numbers(op: str, name: str, values: object, kinds: str, wanted: str) -> npt.NDArray[Any]:
    """One row of numbers whose dtype is of one of the kinds of NumPy."""
    array = np.asarray(values)
    if array.size == 0 and isinstance(values, list | tuple):
        array = array.astype(kinds[0])
    if array.dtype.kind in "OUS":
        raise TypeError(f"{op}: {name} must be an array (or a list, of {wanted}), got {type(values).__name__}")
    if array.dtype.kind not in kinds:
        raise TypeError(f"{op}: {name} must be {wanted}, got {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{op}: {name} must be (N), got {array.shape} {array.dtype}")
    return array


def integers(op: str, name: str, values: object) -> Int64s:
    """One row of integers as int64."""
    array = numbers(op, name, values, "iu", "int64 or int32")
    if array.dtype == np.uint64 and (array > np.iinfo(np.int64).max).any():
        raise ValueError(f"{op}: {name} must be below 2^63, got {array.max()}")
    return np.ascontiguousarray(array, np.int64)


def whole_number(op: str, name: str, value: object, low: int = -(2**63), high: int = 2**63 - 1) -> int:
    """An integer in [low, high]."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{op}: {name} must be an integer, got {type(value).__name__}") from None
    if not low <= number <= high:
        raise ValueError(f"{op}: {name} must be in [{low}, {high}], got {number}")
    return number


def unknown_of(op: str, unk: int | None, unit: str) -> tuple[int | None, bool]:
    """The id of what no pattern covers, and whether whole characters stand for one id."""
    if unit not in ("char", "byte"):
        raise ValueError(f"{op}: unit must be 'char' or 'byte', got {unit!r}")
    return None if unk is None else whole_number(op, "unk", unk), unit == "char"


class Trie:
    r"""An immutable set of byte strings that finds those that begin a text, in one step a byte.

    A double array (12 bytes a node, at most one node a byte of the patterns): a step is one load. Positions are bytes,
    also in a str, which counts as its UTF-8. Many threads may use one trie; it pickles as its patterns.

    Args:
        patterns: P byte strings, all different, none empty; less than 2^30 bytes in all.
        values: P integers, what the patterns stand for; 0..P-1 by default. They may repeat.

    Raises:
        ValueError: an empty pattern, the same pattern twice, too many bytes, or values that are not P.
        TypeError: a pattern that is not bytes, or values that are no integers.

    >>> trie = Trie([b"a", b"ab", b"abcd", b"b"])
    >>> trie.longest(b"abcx"), trie.second_longest(b"abcx"), trie.longest(b"xab")
    ((1, 2), (0, 1), None)
    >>> trie.find_all(b"xabcab").end
    array([3, 6])
    >>> trie.tokenize_longest([b"abcd", b"bab"]).ids
    array([2, 3, 1])

    Aho and Corasick (1975); Aoe (1989) for the double array.
    """

    def __init__(self, patterns: Sequence[bytes], values: Sequence[int] | Array | None = None) -> None:
        self._patterns = list(patterns)
        for i, pattern in enumerate(self._patterns):
            if not isinstance(pattern, bytes):
                raise TypeError(f"Trie: patterns must be bytes, got {type(pattern).__name__} at {i}")
        count = len(self._patterns)
        given = np.arange(count, dtype=np.int64) if values is None else integers("Trie", "values", values)
        if given.size != count:
            raise ValueError(f"Trie: values must be as many as the {count} patterns, got {given.size}")
        self._values = given.copy()
        self._native = _C.Trie(b"".join(self._patterns), offsets_of(self._patterns), self._values)

    def __len__(self) -> int:
        return len(self._patterns)

    def __reduce__(self) -> tuple[type[Trie], tuple[list[bytes], Int64s]]:
        return type(self), (self._patterns, self._values)

    @property
    def patterns(self) -> list[bytes]:
        """The patterns, in the order given."""
        return list(self._patterns)

    @property
    def values(self) -> Int64s:
        """(P,) int64: what they stand for."""
        copy: Int64s = self._values.copy()
        return copy

    def longest(self, text: Text, start: int = 0) -> tuple[int, int] | None:
        """The longest pattern at ``start``: its value and its end, or None.

        Raises:
            ValueError: start is outside [0, N].
            TypeError: text is neither str, bytes nor an array of uint8.
        """
        found: tuple[int, int] | None = self._native.longest(
            flat_bytes("Trie", text), whole_number("Trie", "start", start)
        )
        return found

    def second_longest(self, text: Text, start: int = 0) -> tuple[int, int] | None:
        """The longest but one of the patterns at ``start``: its value and its end, or None. Raises as longest."""
        found: tuple[int, int] | None = self._native.second_longest(
            flat_bytes("Trie", text), whole_number("Trie", "start", start)
        )
        return found

    def prefixes(self, text: Text, start: int = 0) -> tuple[Int64s, Int64s]:
        """All patterns at ``start``, the shortest first: values (M,) and ends (M,), int64. Raises as longest."""
        values, ends = self._native.prefixes(flat_bytes("Trie", text), whole_number("Trie", "start", start))
        return values, ends

    def with_prefix(self, prefix: bytes) -> Int64s:
        """Values (M,) int64 of the patterns that begin with ``prefix``, in the order of their bytes.

        Raises:
            TypeError: prefix is neither str, bytes nor an array of uint8.
        """
        values: Int64s = self._native.with_prefix(flat_bytes("Trie", prefix))
        return values

    def find_all(self, text: Text) -> Found:
        """Leftmost-longest matches: the longest pattern at the first position that has any, and on from its end.

        Time is linear in N whatever the patterns and the text.

        Raises:
            TypeError: text is neither str, bytes nor an array of uint8.
        """
        return Found(*self._native.find_all(flat_bytes("Trie", text)))

    def tokenize_longest(
        self,
        texts: Texts,
        unk: int | None = None,
        unit: Literal["char", "byte"] = "char",
    ) -> Segmented:
        """Cut texts greedily: at every position the longest pattern that matches there; its value is the id.

        Texts of a batch are dealt out to threads; the ids are the same for any number.

        Args:
            texts: one text, a list of texts, or a pair of bytes and their offsets (B + 1,).
            unk: the id of what no pattern covers; None makes that an error.
            unit: what gives one ``unk``: a UTF-8 character (a byte with the continuation bytes after it), or a byte.

        Raises:
            ValueError: a text is not covered and unk is None, or offsets do not cut the bytes.
            TypeError: a text is neither str, bytes nor an array of uint8.
        """
        flat, offsets = flat_texts("tokenize_longest", texts)
        return Segmented(
            *self._native.tokenize_longest(flat, offsets, *unknown_of("tokenize_longest", unk, unit)),
        )
