# SPDX-License-Identifier: Apache-2.0
"""Two books in many languages, for the check of mixture inference: what to train on, and what to count in.

Debian's installation guide and administrator's handbook. A paragraph that is word for word in the English edition was
not translated and is left out of the others. Paragraphs are shuffled; half of them are for training, the rest for
counting: the two never share one, but speak of the same things in the same style, as samples of one source do.
"""

from __future__ import annotations

import gzip
import html
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("installation-guide-amd64", "debian-handbook")
HOW = f"mkdir DIR && cd DIR && apt-get download {' '.join(PACKAGES)} && for deb in *.deb; do dpkg -x $deb .; done"
GUIDE = "usr/share/doc/installation-guide-amd64"
HANDBOOK = "usr/share/doc/debian-handbook/html"
ENGLISH = "en"
LEAST_BYTES = 500_000
SHORTEST = 40  # characters of a paragraph: shorter ones are titles, commands and table cells


class MissingTextError(Exception):
    """The folder does not hold the two books."""


class Texts(NamedTuple):
    """Paragraphs of one language."""

    train: list[str]
    sample: list[str]


def read_languages(folder: Path) -> dict[str, Texts]:
    """Every language with at least half a megabyte of paragraphs, by code, in the order of the alphabet."""
    books: dict[str, list[str]] = {}
    for path in sorted((folder / GUIDE).glob("*/install.*.txt.gz")):
        books.setdefault(_code(path.parent.name), []).extend(_guide(path))
    for edition in sorted((folder / HANDBOOK).glob("*-*")):
        books.setdefault(_code(edition.name), []).extend(_handbook(edition))
    english = set(books.get(ENGLISH, ()))
    if not english or len(books) < 2:
        raise MissingTextError(f"no books in several languages below {folder}: {HOW}")
    chosen = {code: _unique(text, set() if code == ENGLISH else english) for code, text in sorted(books.items())}
    return {
        code: Texts(text[::2], text[1::2])
        for code, text in chosen.items()
        if sum(len(each.encode()) for each in text) >= LEAST_BYTES
    }


def _code(name: str) -> str:
    """zh_CN and zh-CN are one language; zh-TW and pt-BR are others than zh and pt."""
    language, _, country = name.replace("-", "_").partition("_")
    return f"{language}-{country}" if (language, country) in {("zh", "TW"), ("pt", "BR")} else language


def _handbook(edition: Path) -> Iterator[str]:
    for page in sorted(edition.glob("*.html")):
        body = re.sub(r"(?s)<(pre|script|style)\b.*?</\1>", " ", page.read_text(encoding="utf-8"))
        blocks = re.split(r"(?i)</?(?:p|div|li|dt|dd|h[1-6]|td|tr|table|ul|ol|dl|title)\b[^>]*>", body)
        yield from _kept(html.unescape(re.sub(r"(?s)<[^>]*>", "", block)) for block in blocks)


def _guide(path: Path) -> Iterator[str]:
    raw = gzip.decompress(path.read_bytes())
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("koi8-r")  # the Russian edition
    yield from _kept(re.split(r"\n\s*\n", text))


def _kept(blocks: Iterable[str]) -> Iterator[str]:
    for block in blocks:
        words = " ".join(block.split())
        if len(words) >= SHORTEST:
            yield words


def _unique(paragraphs: list[str], without: set[str]) -> list[str]:
    kept = [each for each in dict.fromkeys(paragraphs) if each not in without]
    random.Random(0).shuffle(kept)
    return kept
