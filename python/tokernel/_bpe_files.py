# SPDX-License-Identifier: Apache-2.0
"""Files of the command line: tokenizers of every kind by path or name, input from files or a pipe, whole output."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokernel.text import Encoding

__all__ = ["STDIN", "is_rank_file", "load", "open_input", "save", "write"]

STDIN = Path("-")
"""Stands for standard input."""


def load(source: str, pattern: str = "") -> Encoding:
    """Open a tokenizer.

    Args:
        source: a tokenizer.json, tekken.json, rank file (.tiktoken), a folder with tokenizer.json or with vocab.json
            and merges.txt, or the name of an encoding, such as ``cl100k_base``.
        pattern: pre-tokenizer of a rank file; empty: that of the published file.

    Raises:
        ValueError: nothing of that name, or its content is not a tokenizer we know.
        OSError: the file cannot be read.
    """
    from tokernel.text import Encoding, get_encoding

    path = Path(source)
    if path.is_dir():
        if (path / "tokenizer.json").exists():
            return Encoding.from_hf(path / "tokenizer.json")
        return Encoding.from_hf((path / "vocab.json", path / "merges.txt"))
    if path.exists() and "tekken" in path.name:
        return Encoding.from_tekken(path)
    if path.exists() and path.suffix == ".json":
        return Encoding.from_hf(path)
    if path.exists():
        return Encoding.from_tiktoken(path, pat_str=pattern or None)
    if path.suffix or os.sep in source:
        raise ValueError(f"--tokenizer: no such file: {source}")
    return get_encoding(source)


def is_rank_file(path: Path) -> bool:
    """Whether a file of this name holds ranks."""
    return path.suffix == ".tiktoken"


def save(encoding: Encoding, path: Path) -> None:
    """Write an encoding whole: a rank file where the name ends in .tiktoken, else a tokenizer.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_rank_file(path):
        encoding.save_tiktoken(path)
    else:
        encoding.save_hf(path)


def open_input(path: Path) -> bytes:
    """Read a file, or standard input where the path is ``-``."""
    return sys.stdin.buffer.read() if path == STDIN else path.read_bytes()


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, in a folder that is made where it is missing."""
    from tokernel.text import _atomic

    path.parent.mkdir(parents=True, exist_ok=True)
    _atomic.write(path, data)
