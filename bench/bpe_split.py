# SPDX-License-Identifier: Apache-2.0
"""Cases of the bpe family: pre-tokenizers, against the `regex` package and against tokenizers.

Code comes from the interpreter's standard library; prose and translations are there where TOKERNEL_BPE_DATA is set,
see bpe_corpora.py. The regular expressions are possessive, as tiktoken's are: these backtrack least. `regex` knows
another Unicode version, of which these texts show nothing.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from tokernel.kernels import bpe

from bench.bpe_corpora import corpus
from bench.core import Case, Work

Ends = npt.NDArray[np.int64]

_TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_SUFFIX = r"(?:'(?i:[sdmt]|ll|ve|re))?+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s+(?!\S)|\s+",
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+" + _TAIL,
    "o200k": rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n/]*+" + _TAIL,
}


def _byte_ends(pieces: list[str]) -> Ends:
    return np.cumsum([len(piece.encode()) for piece in pieces], dtype=np.int64)


def _peers(pattern: str, text: str) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    if importlib.util.find_spec("regex"):
        import regex

        found["regex"] = partial(regex.compile(PATTERNS[pattern]).findall, text)
    if importlib.util.find_spec("tokenizers"):
        from tokenizers import Regex, pre_tokenizers

        cutter = pre_tokenizers.Split(Regex(PATTERNS[pattern]), "isolated")
        found["tokenizers"] = partial(cutter.pre_tokenize_str, text)
    return found


def _same(ours: Ends, peer: list[Any]) -> None:
    pieces = [piece if isinstance(piece, str) else piece[0] for piece in peer]
    assert np.array_equal(ours, _byte_ends(pieces))


def _split(pattern: str, name: str, quick: bool) -> Work:
    text = corpus(name)[: 10_000 if quick else 1_000_000]
    data = text.encode()
    pieces = len(bpe.split(data, pattern))
    return Work(lambda: bpe.split(data, pattern), _peers(pattern, text), _same, moved_bytes=len(data) + 8.0 * pieces)


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    names = ("code", "prose", "multi") if "TOKERNEL_BPE_DATA" in os.environ else ("code",)
    return [
        Case("bpe", "split", f"{name}, 10^6 characters, {pattern}", "utf-8", partial(_split, pattern, name))
        for name in names
        for pattern in PATTERNS
    ]
