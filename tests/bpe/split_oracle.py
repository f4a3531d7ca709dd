# SPDX-License-Identifier: Apache-2.0
"""The patterns as Python's regular expressions, with the classes of Unicode 16.0 spelled out as ranges."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden/bpe"
PATTERNS = ("gpt2", "cl100k", "o200k", "llama3", "qwen2", "tekken")
SCANNED = ("gpt2", "cl100k", "o200k", "qwen2", "tekken")

_LOWER = "'s|'t|'re|'ve|'m|'ll|'d"
_ANY_CASE = "'[sSſ]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_SPACES = r"{s}*[\r\n]+|{s}+(?!{not_s})|{s}+"
_CL100K = "|".join([_ANY_CASE, "{led}?{L}+", "{digits}", r" ?{symbol}+[\r\n]*", _SPACES])
_O200K = "|".join(["{led}?{U}*{V}+(?:{C})?", "{led}?{U}+{V}*(?:{C})?", "{digits}", r" ?{symbol}+[\r\n/]*", _SPACES])
_TEMPLATES = {
    "gpt2": "|".join([_LOWER, " ?{L}+| ?{N}+| ?{symbol}+", "{s}+(?!{not_s})|{s}+"]),
    "cl100k": _CL100K,
    "llama3": _CL100K,
    "qwen2": _CL100K.replace("{digits}", "{N}"),
    "o200k": _O200K.replace("{C}", _ANY_CASE),
    "tekken": _O200K.replace("(?:{C})?", "").replace("{digits}", "{N}"),
}


@cache
def class_ranges() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "unicode_classes.npz") as ranges:
        return {name: ranges[name] for name in ranges.files}


def _inside(*names: str) -> str:
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for name in names for first, last in class_ranges()[name])


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    sets = {
        "s": f"[{_inside('S_white')}]",
        "not_s": f"[^{_inside('S_white')}]",
        "L": f"[{_inside('L')}]",
        "N": f"[{_inside('N')}]",
        "led": rf"[^\r\n{_inside('L', 'N')}]",
        "symbol": f"[^{_inside('S_white', 'L', 'N')}]",
        "U": f"[{_inside('Lu', 'Lt', 'Lm', 'Lo', 'M')}]",
        "V": f"[{_inside('Ll', 'Lm', 'Lo', 'M')}]",
    }
    text = _TEMPLATES[pattern].replace("{digits}", "{N}{{1,3}}")
    return re.compile(text.format(**sets))


def pieces(text: str, pattern: str) -> list[str]:
    found = [match.group() for match in compiled(pattern).finditer(text)]
    assert "".join(found) == text
    return found


def ends(text: str, pattern: str) -> list[int]:
    """Byte ends of the pieces."""
    lengths = [len(piece.encode()) for piece in pieces(text, pattern)]
    return np.cumsum(lengths, dtype=np.int64).tolist()
