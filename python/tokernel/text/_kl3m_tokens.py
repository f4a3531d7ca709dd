# SPDX-License-Identifier: Apache-2.0
"""The tokens that KL3M adds by hand."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator

SPECIALS = (
    "<|start|>", "<|end|>", "<|pad|>", "<|unk|>", "<|sep|>", "<|cls|>", "<|mask|>", "<|system|>", "</|system|>",
    "<|user|>", "</|user|>", "<|instruction|>", "</|instruction|>",
)  # fmt: skip
"""Ids 0 to 12, in order. The first line of models, 001, has only the first seven."""

_RUNS = range(2, 9)
_TAGS = (
    "body button code column div form h1 h2 h3 h4 head html iframe img input label li link meta ol option pre row "
    "script select span style svg table tbody td textarea tfoot thead title tr ul"
)


def legal_custom_tokens(lowercase: bool = False, extra: Iterable[str] = ()) -> list[str]:
    """List the strings that a KL3M tokenizer holds as whole tokens, sorted, each once, all longer than one character.

    Runs of white space and of punctuation, pieces of Markdown, HTML, JSON, XML and addresses, years from 1776 to 2049,
    numbers to 999, and enumerations such as "(iv)".

    Args:
        lowercase: for an uncased tokenizer: everything in lower case.
        extra: phrases, whose words (cut at white space) join the list. The official scripts take them from four tables
            of legal abbreviations (reporters-db) on the web.

    >>> tokens = legal_custom_tokens()
    >>> len(tokens), len(legal_custom_tokens(lowercase=True))
    (1655, 1579)
    >>> "(iv)" in tokens, "U.S.C." in legal_custom_tokens(extra=["26 U.S.C. 501"])
    (True, True)
    """
    words = (word for phrase in extra for word in phrase.split())
    every = {*_white_space(), *_punctuation(), *_markup(), *_numbers(), *_enumerations(), *words}
    return sorted({token.lower() if lowercase else token for token in every if len(token) > 1})


def _white_space() -> Iterator[str]:
    yield from ("\r\n", "\t ")
    for character in " \t\r\n":
        yield from (character * length for length in _RUNS)


def _punctuation() -> Iterator[str]:
    for character in ".-=_*~":
        yield from (character * length for length in _RUNS)
    yield from ("#" * length for length in range(2, 7))
    yield from ("![", "```", "http://", "https://", "ftp://", "mailto:", "tel:", "www.", "://")


def _markup() -> Iterator[str]:
    for tag in _TAGS.split():
        yield from (f"<{tag}", f"<{tag.upper()}", f"</{tag}>")
    for attribute in ("alt", "class", "href", "id", "src", "title"):
        yield from (f" {attribute}=", f" {attribute.upper()}=")
    yield from ("<!--", "-->", "<?xml", "<xml", "</xml>", "<![CDATA[", "]]>")
    yield from ('{"', '"}', '["', '"]', '":', '":"', '","', "true", "false", "null")


def _numbers() -> Iterator[str]:
    yield from map(str, range(10, 1000))
    yield from map(str, range(1776, 2050))


def _enumerations() -> Iterator[str]:
    roman = ("ii", "iii", "iv", "vi", "vii", "viii", "ix")
    inside = (*string.ascii_letters, *map(str, range(1, 100)), *roman, *map(str.upper, roman))
    yield from (f"({one})" for one in inside)
