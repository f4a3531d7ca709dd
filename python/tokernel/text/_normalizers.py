# SPDX-License-Identifier: Apache-2.0
"""Normalizers of tokenizer.json, and where each character of their output came from."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tokernel.text._errors import FormatError
from tokernel.text._json_fields import a_list, an_object
from tokernel.text.pretokenizer import compile_regex

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Normalizer:
    """A function of the text, with the JSON that it came from."""

    apply: Callable[[str], str] = field(compare=False)
    spec: Mapping[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        return parse, (self.spec, "normalizer")

    def align(self, text: str) -> tuple[str, Index, Index]:
        """The normalized text and, for each of its characters, where what it stands for begins and ends in `text`.

        Exact to a cluster (a character with its combining marks), and to the whole text where a normalizer looks
        further than that.
        """
        done = self.apply(text)
        if done == text:
            index = np.arange(len(text), dtype=np.int64)
            return done, index, index + 1
        cuts = _clusters(text)
        parts = [self.apply(text[a:b]) for a, b in itertools.pairwise(cuts)]
        if "".join(parts) != done:  # a prefix, a strip, a pattern over several characters
            return done, *_whole(text, done)
        size = [len(p) for p in parts]
        return done, np.repeat(np.array(cuts[:-1], np.int64), size), np.repeat(np.array(cuts[1:], np.int64), size)


def _clusters(text: str) -> list[int]:
    """Where characters that are no combining mark begin, and the end. Marks, and Hangul's vowels and finals, join what
    is before them."""
    cuts = [i for i, c in enumerate(text) if i == 0 or not (unicodedata.combining(c) or "\u1160" <= c <= "\u11ff")]
    return [*cuts, len(text)]


def _whole(text: str, done: str) -> tuple[Index, Index]:
    """What both texts have in common at the front and at the back, one to one; the middle as a whole."""
    n, m = len(text), len(done)
    front = next((i for i, (a, b) in enumerate(zip(text, done, strict=False)) if a != b), min(n, m))
    back = 0
    while back < min(n, m) - front and text[n - 1 - back] == done[m - 1 - back]:
        back += 1
    begin, end = np.full(m, front, np.int64), np.full(m, n - back, np.int64)
    begin[:front] = np.arange(front)
    end[:front] = np.arange(front) + 1
    begin[m - back :] = np.arange(n - back, n)
    end[m - back :] = np.arange(n - back, n) + 1
    return begin, end


def parse(spec: Mapping[str, Any] | None, where: str) -> Normalizer | None:
    """The normalizer of a JSON value; None for none. FormatError names a kind that is not supported."""
    if spec is None:
        return None
    function = _function(spec, where)
    return None if function is None else Normalizer(function, spec)


def _function(spec: Mapping[str, Any], where: str) -> Callable[[str], str] | None:
    kind = an_object(spec, where).get("type")
    if kind in ("NFC", "NFD", "NFKC", "NFKD"):
        return lambda text: text if text.isascii() else unicodedata.normalize(kind, text)
    if kind == "Lowercase":
        # Character by character, so that a final sigma is a sigma.
        return lambda text: text.lower() if text.isascii() else "".join(map(str.lower, text))
    if kind == "Prepend":
        prefix = _text(spec, "prepend", where)
        return lambda text: prefix + text if text else text
    if kind == "Strip":
        left, right = bool(spec.get("strip_left", spec.get("left"))), bool(spec.get("strip_right", spec.get("right")))
        return lambda text: _strip(text, left, right)
    if kind == "Replace":
        return _replace(spec, where)
    if kind == "Sequence":
        specs = a_list(spec.get("normalizers", []), f"{where}.normalizers")
        inner = [_function(s, f"{where}.normalizers[{i}]") for i, s in enumerate(specs)]
        steps = [f for f in inner if f is not None]
        return _chain(steps) if steps else None
    raise FormatError(
        f"{where}: {kind!r} is not supported; expected NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip or a "
        f"Sequence of them"
    )


def _chain(steps: list[Callable[[str], str]]) -> Callable[[str], str]:
    def run(text: str) -> str:
        for step in steps:
            text = step(text)
        return text

    return run


def _text(spec: Mapping[str, Any], key: str, where: str) -> str:
    value = spec.get(key)
    if not isinstance(value, str):
        raise FormatError(f"{where}.{key}: expected a string, got {value!r}")
    return value


def _strip(text: str, left: bool, right: bool) -> str:
    text = text.lstrip() if left else text
    return text.rstrip() if right else text


def _replace(spec: Mapping[str, Any], where: str) -> Callable[[str], str]:
    content, pattern = _text(spec, "content", where), spec.get("pattern")
    if isinstance(pattern, Mapping) and isinstance(pattern.get("String"), str):
        literal: str = pattern["String"]
        return lambda text: text.replace(literal, content) if literal else text
    if isinstance(pattern, Mapping) and isinstance(pattern.get("Regex"), str):
        regex = compile_regex(pattern["Regex"], "ruby")
        return lambda text: str(regex.sub(lambda _: content, text))
    raise FormatError(f'{where}.pattern: expected {{"String": ...}} or {{"Regex": ...}}, got {pattern!r}')
