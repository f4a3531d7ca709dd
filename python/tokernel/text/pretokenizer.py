# SPDX-License-Identifier: Apache-2.0
"""Cut a text into the pieces that pairs are merged in: by a compiled scanner where the regex is a known one, else by
the `regex` package."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from tokernel.kernels import bpe
from tokernel.text._errors import FormatError

__all__ = ["Pattern"]

Ends = npt.NDArray[np.int64]

_TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_MARK = r"[^\r\n\p{L}\p{N}]?"


def _cl100k(digits: str) -> str:
    return _SUFFIX + "|" + _MARK + r"\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + _TAIL


def _o200k(suffix: str, digits: str) -> str:
    words = f"{_MARK}{_UPPER}*{_LOWER}+{suffix}|{_MARK}{_UPPER}+{_LOWER}*{suffix}|"
    return words + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _TAIL


# What a tokenizer.json, a tekken file or the trainers write for a scanner: the classic spelling.
CLASSIC: dict[str, str] = {
    "none": r"[\s\S]+",
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": _cl100k(r"\p{N}{1,3}"),
    "qwen2": _cl100k(r"\p{N}"),
    "o200k": _o200k(_SUFFIX + "?", r"\p{N}{1,3}"),
    "tekken": _o200k("", r"\p{N}"),
}
# The one known spelling whose pieces differ: its `\s++$` takes all white space at the end of the text as one piece.
_CL100K_POSSESSIVE = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
_KNOWN: dict[str, str] = {
    **{regex: name for name, regex in CLASSIC.items()},
    **{name: name for name in CLASSIC},
    "llama3": "cl100k",
    _CL100K_POSSESSIVE: "cl100k",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": "gpt2",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+": "cl100k",
}
_SPACE = re.compile(
    rb"(?:[\t-\r ]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80)+"
)


class Pattern:
    r"""A pre-tokenizer from its regex.

    Every known spelling of the patterns of GPT-2, cl100k, o200k, Llama-3, Qwen2 and tekken (classic, possessive as in
    tiktoken >= 0.8, and as tokenizer.json files have it) runs as the compiled scanner `scanner`, on Unicode 16.0. The
    names of the scanners are accepted too. Any other regex runs in the `regex` package (extra `text`): its Unicode
    version is that package's own, so letters newer than 16.0 may be cut in other places than tiktoken cuts them.

    `dialect` says what `$` and `^` mean in such a regex: "rust" (tiktoken: `$` is the end of the text) or "ruby"
    (tokenizer.json: ends and starts of lines).

    >>> Pattern(r"\p{N}|\P{N}+").pieces("a 12")[1]
    array([2, 3, 4])
    >>> Pattern("gpt2").scanner
    'gpt2'
    """

    def __init__(self, regex: str, *, dialect: str = "rust") -> None:
        if not isinstance(regex, str):
            raise TypeError(f"Pattern: regex: expected a str, got {type(regex).__name__}")
        self.regex = CLASSIC.get(regex, regex) if regex != "llama3" else CLASSIC["cl100k"]
        self.dialect = dialect
        self.scanner: str | None = _KNOWN.get(regex)
        #: Whether white space at the end of the text is one piece, which the scanner alone does not do.
        self.joins_trailing_space = regex == _CL100K_POSSESSIVE
        self._compiled = None if self.scanner else compile_regex(regex, dialect)

    def __repr__(self) -> str:
        return f"Pattern({self.scanner or self.regex!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and (self.regex, self.dialect) == (other.regex, other.dialect)

    def __hash__(self) -> int:
        return hash((self.regex, self.dialect))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.regex, self.dialect)

    @property
    def finditer(self) -> Any:
        """The `finditer(text, from, to)` of a regex that has no scanner."""
        assert self._compiled is not None
        return self._compiled.finditer

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Start and end, in characters, of every match, empty ones too unless right behind another; what lies between
        matches belongs to none."""
        if self._compiled is not None:
            spans, last = [], -1
            for match in self._compiled.finditer(text):
                if match.start() != match.end() or match.start() != last:
                    spans.append(match.span())
                last = match.end()
            return spans
        data, ends = self.pieces(text)
        if not text.isascii():
            ends = characters_before(data)[ends]
        return list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=False))

    def pieces(self, text: str) -> tuple[bytes, Ends]:
        """The matches as bytes, one after the other, and the end of each. A text that the regex does not cover loses
        what lies between the matches, as in tiktoken."""
        if self._compiled is not None:
            parts = [m.group().encode() for m in self._compiled.finditer(text)]
            ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
            return b"".join(parts), ends[np.diff(ends, prepend=0) > 0]
        data = text.encode()
        assert self.scanner is not None
        ends = bpe.split(data, self.scanner)
        return data, join_trailing_space(data, ends) if self.joins_trailing_space else ends


def _restore(regex: str, dialect: str) -> Pattern:
    return Pattern(regex, dialect=dialect)


def join_trailing_space(data: bytes, ends: Ends) -> Ends:
    """The ends with the pieces of white space at the end of the text made one."""
    kept = len(ends)
    while kept and _SPACE.fullmatch(data, int(ends[kept - 2]) if kept > 1 else 0, int(ends[kept - 1])):
        kept -= 1
    return ends if kept >= len(ends) - 1 else np.append(ends[:kept], ends[-1])


def characters_before(data: bytes) -> npt.NDArray[np.int64]:
    """For every position of UTF-8 data, 0 to its length, how many characters begin before it."""
    starts = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    count = np.zeros(len(data) + 1, np.int64)
    np.cumsum(starts, out=count[1:])
    return count


def compile_regex(regex: str, dialect: str) -> Any:
    """The regex in the `regex` package; ImportError without it, FormatError if it is none."""
    try:
        import regex as engine
    except ImportError:
        raise ImportError(
            f"Pattern: {regex!r} has no compiled scanner and needs the regex package: pip install 'tokernel[text]'"
        ) from None
    try:
        return engine.compile(_anchors(regex, dialect))
    except engine.error as error:
        raise FormatError(f"Pattern: {regex!r} is no regex that the regex package reads: {error}") from None


def _anchors(regex: str, dialect: str) -> str:
    """The regex with `$` and `^` spelled as Python means them."""
    end, start = (r"\Z", "^") if dialect == "rust" else (r"(?m:$)", "(?m:^)")
    out, in_class, at = [], 0, 0
    while at < len(regex):
        char = regex[at]
        if char == "\\":
            out.append(regex[at : at + 2])
            at += 2
            continue
        in_class += (char == "[") - (char == "]" and in_class > 0)
        out.append(end if char == "$" and not in_class else start if char == "^" and not in_class else char)
        at += 1
    return "".join(out)
