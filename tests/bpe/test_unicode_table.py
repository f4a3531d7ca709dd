# SPDX-License-Identifier: Apache-2.0
"""The table of character classes holds the golden ranges, for every code point, and is what its script writes."""

import importlib.util
import re
from pathlib import Path

import numpy as np

from split_oracle import class_ranges

ROOM = Path(__file__).parents[2] / "csrc/bpe"


def load_script():
    spec = importlib.util.spec_from_file_location("make_unicode_table", ROOM / "make_unicode_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table_classes():
    """The class of every code point, by the look-up of unicode.h."""
    text = (ROOM / "unicode_table.inc").read_text()
    block, classes = (
        np.array(body.replace("\n", "").strip(" ,").split(","), np.int64)
        for body in re.findall(r"\{\n(.*?)\};", text, re.S)
    )
    points = np.arange(0x110000)
    inside = points < len(block) * 128
    found = np.zeros(0x110000, np.int64)
    found[inside] = classes[block[points[inside] // 128] * 128 + points[inside] % 128]
    return found


# By the numbers of `enum Class`.
SETS = {
    "S_white": (1, 2),
    "N": (3,),
    "M": (4,),
    "Lu": (5,),
    "Lt": (6,),
    "Ll": (7,),
    "Lm": (8,),
    "Lo": (9,),
    "L": (5, 6, 7, 8, 9),
}


def test_every_code_point_has_the_golden_class():
    found = table_classes()
    assert set(SETS) == set(class_ranges())
    for name, numbers in SETS.items():
        expected = np.zeros(0x110000, bool)
        for first, last in class_ranges()[name]:
            expected[first : last + 1] = True
        assert np.array_equal(np.isin(found, numbers), expected), name
    assert np.nonzero(found == 2)[0].tolist() == [0x0A, 0x0D]


def test_numbers_are_those_of_the_header():
    names = re.search(r"enum class Class : uint8_t \{(.*?)\}", (ROOM / "unicode.h").read_text()).group(1)
    script = load_script()
    order = [name.strip() for name in names.split(",")]
    assert order == ["other", "space", "newline", "number", "mark", "upper", "title", "lower", "modifier", "letter"]
    assert [script.CLASSES[name] for name in ("S_white", "N", "M", "Lu", "Lt", "Ll", "Lm", "Lo")] == [
        order.index(name) for name in ("space", "number", "mark", "upper", "title", "lower", "modifier", "letter")
    ]
    assert order.index("newline") == script.NEWLINE


def test_the_script_writes_the_same_file():
    assert load_script().table() == (ROOM / "unicode_table.inc").read_text()
