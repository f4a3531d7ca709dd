# SPDX-License-Identifier: Apache-2.0
"""Writes unicode_table.inc, the character classes of Unicode 16.0, from tests/golden/bpe/unicode_classes.npz.

Run from anywhere: ``python csrc/bpe/make_unicode_table.py``. The ranges were read off the engines of tiktoken and
tokenizers; Python's own tables are of another version of Unicode.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
RANGES = HERE.parents[1] / "tests/golden/bpe/unicode_classes.npz"
TABLE = HERE / "unicode_table.inc"

# In the order of `enum Class` in unicode.h. Class 0 is any other character, class 2 is CR and LF.
CLASSES = {"S_white": 1, "N": 3, "M": 4, "Lu": 5, "Lt": 6, "Ll": 7, "Lm": 8, "Lo": 9}
NEWLINE = 2
CODE_POINTS = 0x110000
BLOCK = 128  # the largest power of two for which the number of different blocks fits a byte


def classes() -> NDArray[np.uint8]:
    """Return the class of every code point."""
    found = np.zeros(CODE_POINTS, np.uint8)
    with np.load(RANGES) as ranges:
        for name, number in CLASSES.items():
            for first, last in ranges[name]:
                found[first : last + 1] = number
    found[[0x0A, 0x0D]] = NEWLINE
    return found


def stages(found: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return which block each BLOCK code points have, up to the last one with a class, and the different blocks."""
    blocks, number = np.unique(found.reshape(-1, BLOCK), axis=0, return_inverse=True)
    number = number.reshape(-1)
    last = np.nonzero(found)[0][-1] // BLOCK
    return number[: last + 1].astype(np.uint8), blocks.reshape(-1)


def array(name: str, values: NDArray[np.uint8]) -> str:
    """Write one array as C++."""
    lines, line = [], ""
    for value in map(str, values):
        if len(line) + len(value) > 116:
            lines.append(line)
            line = ""
        line += value + ","
    body = "\n".join("    " + text for text in [*lines, line])
    return f"TK_UNICODE_TABLE uint8_t {name}[{len(values)}] = {{\n{body}\n}};\n"


def table() -> str:
    """Return the text of the file."""
    number, blocks = stages(classes())
    return (
        "// SPDX-License-Identifier: Apache-2.0\n"
        "// Written by make_unicode_table.py: class of c = kUnicodeClass[kUnicodeBlock[c / 128] * 128 + c % 128].\n"
        "// clang-format off\n"
        + array("kUnicodeBlock", number)
        + array("kUnicodeClass", blocks)
        + "// clang-format on\n"
    )


if __name__ == "__main__":
    TABLE.write_text(table())
