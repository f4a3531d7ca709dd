# SPDX-License-Identifier: Apache-2.0
"""Tokens that are found by literal search, before any splitting: special tokens, and HF's added tokens."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NoReturn

from tokernel.kernels import bpe

ALL = "all"


@dataclass(frozen=True)
class AddedToken:
    """One token outside of the merges. `special` ones are control tokens that a text must be allowed to name; the
    others are words, always found. The flags mean what they mean in tokenizer.json."""

    content: str
    id: int
    special: bool = True
    lstrip: bool = False  # takes the white space before it
    rstrip: bool = False  # takes the white space after it
    single_word: bool = False  # not next to a letter, digit or underscore
    normalized: bool = False  # searched for in the normalized text


@dataclass(frozen=True)
class Segment:
    """data[start:end], and the id it stands for; None: ordinary text."""

    start: int
    end: int
    id: int | None


@functools.lru_cache(maxsize=64)
def _trie(contents: frozenset[str]) -> bpe.Trie:
    return bpe.Trie([c.encode() for c in sorted(contents)])


class Finder:
    """Literal search for a fixed set of tokens, in time linear in the text."""

    def __init__(self, tokens: Sequence[AddedToken], normalize: Callable[[str], str] = str) -> None:
        self.tokens = tuple(tokens)
        self._by_content = {written.encode(): t for t in tokens if (written := normalize(t.content))}
        self._searched = {t.content: content.decode() for content, t in self._by_content.items()}
        self._words = frozenset(t.content for t in tokens if not t.special)
        self._specials = frozenset(t.content for t in tokens if t.special)
        # Most texts hold no token: a search for what all tokens begin with says so at the speed of memchr.
        self._prefix = _common_prefix(self._searched.values())
        self._plain = not any(t.lstrip or t.rstrip or t.single_word for t in tokens)

    def may_be_in(self, text: str) -> bool:
        """False: no token is in the text."""
        return bool(self._by_content) and self._prefix in text

    def segments(self, data: bytes, allowed: AbstractSet[str] | None) -> list[Segment]:
        """The UTF-8 of a text cut at its tokens; special ones count if `allowed` (None: all of them) names them.

        Leftmost-longest over all tokens. A special token that is not allowed skips one character past its start, so
        that another token may begin inside it (tiktoken's rule); one that fails `single_word` is passed over whole
        (HF's).
        """
        active = self._words | (self._specials if allowed is None else self._specials & allowed)
        out: list[Segment] = []
        begin = 0
        for start, end in self._matches(data, active):
            token = self._by_content[data[start:end]]
            if not self._plain:
                if token.single_word and (_word_before(data, start) or _word_after(data, end)):
                    continue
                start = _space_before(data, start, begin) if token.lstrip else start
                end = _space_after(data, end) if token.rstrip else end
            if begin < start:
                out.append(Segment(begin, start, None))
            out.append(Segment(start, end, token.id))
            begin = end
        if begin < len(data):
            out.append(Segment(begin, len(data), None))
        return out

    def places(self, data: bytes, allowed: AbstractSet[str] | None) -> bpe.Found | None:
        """Where tokens lie and what their ids are, all at once; None where that takes flags, or a closer look."""
        if not self._plain or (allowed is not None and not allowed >= self._specials):
            return None
        return self._all.find_all(data)

    @functools.cached_property
    def _all(self) -> bpe.Trie:
        return bpe.Trie(list(self._by_content), [t.id for t in self._by_content.values()])

    def _matches(self, data: bytes, active: AbstractSet[str]) -> Iterator[tuple[int, int]]:
        """Leftmost-longest matches over all tokens, of which those that are not active skip one character."""
        names = frozenset(self._searched[c] for c in active if c in self._searched)
        if not names:
            return
        others = [c for c in self._by_content if c.decode() not in names]
        if any(c.startswith(name.encode()) for c in others for name in names):
            # An active token may lie where a longer one that is not active does: one by one.
            regex, at = _alternation(frozenset(self._by_content)), 0
            while (match := regex.search(data, at)) is not None:
                is_active = match.group().decode() in names
                at = match.end() if is_active else match.start() + 1
                if is_active:
                    yield match.span()
            return
        found = _trie(names).find_all(data)
        yield from zip(found.start.tolist(), found.end.tolist(), strict=True)


@functools.lru_cache(maxsize=16)
def _alternation(contents: frozenset[bytes]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(map(re.escape, sorted(contents, key=lambda c: (-len(c), c)))))


def _common_prefix(texts: Collection[str]) -> str:
    if not texts:
        return ""
    first, last = min(texts), max(texts)
    return next((first[:i] for i, char in enumerate(first) if char != last[i]), first)


_SPACE = re.compile(r"\s")
_WORD = re.compile(r"\w")


def _char_before(data: bytes, at: int) -> str:
    start = at - 1
    while start > 0 and 0x80 <= data[start] < 0xC0:
        start -= 1
    return data[max(start, 0) : at].decode()


def _char_after(data: bytes, at: int) -> str:
    end = at + 1
    while end < len(data) and 0x80 <= data[end] < 0xC0:
        end += 1
    return data[at:end].decode()


def _word_before(data: bytes, at: int) -> bool:
    return _WORD.match(_char_before(data, at)) is not None


def _word_after(data: bytes, at: int) -> bool:
    return _WORD.match(_char_after(data, at)) is not None


def _space_before(data: bytes, at: int, least: int) -> int:
    while at > least and _SPACE.match(char := _char_before(data, at)):
        at -= len(char.encode())
    return max(at, least)


def _space_after(data: bytes, at: int) -> int:
    while _SPACE.match(char := _char_after(data, at)):
        at += len(char.encode())
    return at


def check_disallowed(
    text: str,
    special: frozenset[str],
    allowed: AbstractSet[str] | None,
    disallowed: str | Collection[str],
    may_hold: Callable[[str], bool],
) -> None:
    """ValueError if the text holds a disallowed token; "all" disallows every special token that is not allowed."""
    if isinstance(disallowed, str) and disallowed == ALL:
        if allowed is None or not special or not may_hold(text):
            return
        disallowed = special - allowed if allowed else special
    tokens = disallowed if isinstance(disallowed, frozenset) else frozenset(disallowed)
    if "" in tokens:
        refuse("")
    if tokens and (found := _trie(tokens).find_all(text).value).size:
        refuse(sorted(tokens)[int(found[0])])


def refuse(token: str) -> NoReturn:
    """Raise the error for a text that names a special token it may not."""
    raise ValueError(
        f"encode: text holds {token!r}, a special token that is not allowed here. To encode it as the special token, "
        f"pass allowed_special={{{token!r}}}; to encode it as plain text, pass disallowed_special=() (no token is "
        f"refused) or a set without it"
    )


def unique(tokens: Sequence[AddedToken]) -> Iterator[AddedToken]:
    """The tokens, checked: contents differ, and none is empty. Two may share an id, as in o200k_harmony; decoding gives
    the first."""
    ids: dict[str, int] = {}
    for token in tokens:
        if not isinstance(token.content, str) or not token.content:
            raise ValueError(f"Encoding: special token {token.id}: expected a text, got {token.content!r}")
        if not 0 <= token.id < 2**31:
            raise ValueError(f"Encoding: special token {token.content!r}: expected an id below 2**31, got {token.id}")
        try:
            token.content.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"Encoding: special token {token.content!r}: expected a text that UTF-8 can hold"
            ) from None
        if ids.setdefault(token.content, token.id) != token.id:
            raise ValueError(f"Encoding: {token.content!r} is two special tokens, {ids[token.content]} and {token.id}")
        yield token


def from_dict(special_tokens: Mapping[str, int]) -> tuple[AddedToken, ...]:
    """The tokens of tiktoken's constructor argument."""
    for content, token in special_tokens.items():
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise ValueError(f"Encoding: special token {content!r}: expected an id >= 0, got {token!r}")
    return tuple(unique([AddedToken(c, int(i)) for c, i in special_tokens.items()]))
