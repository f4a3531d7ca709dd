# SPDX-License-Identifier: Apache-2.0
"""Tokens that are found by literal search, before any splitting: special tokens, and HF's added tokens."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NoReturn

ALL = "all"
_NOTHING: frozenset[str] = frozenset()


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
    """text[start:end], and the id it stands for; None: ordinary text."""

    start: int
    end: int
    id: int | None


@functools.lru_cache(maxsize=128)
def alternation(tokens: frozenset[str]) -> re.Pattern[str]:
    """Finds the leftmost, and there the longest, of the tokens."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=lambda t: (-len(t), t)))))


class Finder:
    """Literal search for a fixed set of tokens."""

    def __init__(self, tokens: Sequence[AddedToken], normalize: Callable[[str], str] = str) -> None:
        self.tokens = tuple(tokens)
        self._by_content = {written: t for t in tokens if (written := normalize(t.content))}
        self._regex = alternation(frozenset(self._by_content))
        # Most texts hold no token: a search for what all tokens begin with says so at the speed of memchr.
        self._prefix = _common_prefix(self._by_content)
        self._plain = not any(t.lstrip or t.rstrip or t.single_word for t in tokens)

    def may_be_in(self, text: str) -> bool:
        """False: no token is in the text."""
        return bool(self._by_content) and self._prefix in text

    def segments(self, text: str, allowed: AbstractSet[str] | None) -> list[Segment]:
        """The text cut at its tokens; special ones count if `allowed` (None: all of them) names them.

        Leftmost-longest over all tokens. A special token that is not allowed skips one character past its start, so
        that another token may begin inside it (tiktoken's rule); one that fails `single_word` is passed over whole
        (HF's).
        """
        out: list[Segment] = []
        begin = search = 0
        if not self.may_be_in(text):
            return [Segment(0, len(text), None)] if text else []
        while (match := self._regex.search(text, search)) is not None:
            token = self._by_content[match.group()]
            if token.special and allowed is not None and token.content not in allowed:
                search = match.start() + 1
                continue
            search = match.end()
            start, end = match.span()
            if not self._plain:
                if token.single_word and _inside_a_word(text, start, end):
                    continue
                if token.lstrip:
                    start = max(len(text[:start].rstrip()), begin)
                if token.rstrip:
                    end = len(text) - len(text[end:].lstrip())
            if begin < start:
                out.append(Segment(begin, start, None))
            out.append(Segment(start, end, token.id))
            begin = end
        if begin < len(text):
            out.append(Segment(begin, len(text), None))
        return out


def _common_prefix(texts: Collection[str]) -> str:
    if not texts:
        return ""
    first, last = min(texts), max(texts)
    return next((first[:i] for i, char in enumerate(first) if char != last[i]), first)


def _inside_a_word(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start], text[end : end + 1]
    return bool(re.match(r"\w", before) or re.match(r"\w", after))


def check_disallowed(
    text: str,
    special: AbstractSet[str],
    allowed: AbstractSet[str],
    disallowed: str | Collection[str],
    may_hold: Callable[[str], bool],
) -> None:
    """ValueError if the text holds a disallowed token; "all" disallows every special token that is not allowed."""
    if disallowed == ALL:
        if not special or not may_hold(text):
            return
        disallowed = special - allowed
    tokens = disallowed if isinstance(disallowed, frozenset) else frozenset(disallowed)
    if tokens and (match := alternation(tokens).search(text)):
        refuse(match.group())


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
        if ids.setdefault(token.content, token.id) != token.id:
            raise ValueError(f"Encoding: {token.content!r} is two special tokens, {ids[token.content]} and {token.id}")
        yield token


def from_dict(special_tokens: Mapping[str, int]) -> tuple[AddedToken, ...]:
    """The tokens of tiktoken's constructor argument."""
    for content, token in special_tokens.items():
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise ValueError(f"Encoding: special token {content!r}: expected an id >= 0, got {token!r}")
    return tuple(unique([AddedToken(c, int(i)) for c, i in special_tokens.items()]))
