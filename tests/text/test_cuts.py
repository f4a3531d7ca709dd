# SPDX-License-Identifier: Apache-2.0
"""Chains of cutting steps as positions: the same pieces as step by step."""

import numpy as np
import pytest
from bpe_files import small_json
from hypothesis import given, settings
from hypothesis import strategies as st

from tokernel.text import Encoding
from tokernel.text._cuts import looks_behind


def split(regex):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
DEEPSEEK = [
    split(r"\p{N}{1,3}"),
    split("[一-龥぀-ゟ゠-ヿ]+"),
    split(
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    LEVEL,
]
CHAINS = {
    "deepseek": DEEPSEEK,
    "smollm": [{"type": "Digits", "individual_digits": True}, {**LEVEL, "use_regex": True}],
    "empty matches": [split(r"(?=[a-z])"), split(r"$"), LEVEL],
}


def encoding_of(name):
    return Encoding.from_hf(small_json() | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": CHAINS[name]}})


@pytest.mark.parametrize("name", CHAINS)
@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="ab1٣½一ァ ,.!\n\r\t ’'s👍", max_size=30) | st.text(max_size=20))
def test_cuts_are_the_pieces(name, text):
    front = encoding_of(name)._state.front
    assert front.cuts is not None
    text = text.encode("utf-8", "replace").decode()
    pieces = [p.of(text) for p in front.pieces(text)]
    data, ends = front.cuts.parts(text)
    begins = np.append(np.zeros(1, np.int64), ends)[: len(ends)]
    parts = [data[a:b].decode() for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
    if front.cuts.scanner is None:
        assert parts == pieces
    else:
        assert "".join(parts) == "".join(pieces) == text
    enc = encoding_of(name)
    assert enc.encode_ordinary(text) == [i for p in pieces for i in enc._encode_single_piece(p)]
    assert enc.encode_with_offsets(text)[0] == enc.encode_ordinary(text)


@pytest.mark.parametrize(
    ("regex", "behind"),
    [
        (r"\p{N}{1,3}", False),
        (r"[^a]\^[!\]^_]", False),
        (r"\\b", False),
        (r"^a", True),
        (r"a|\bx", True),
        (r"(?<!a)b", True),
        (r"(?<name>a)", False),
    ],
)
def test_what_looks_behind_is_done_step_by_step(regex, behind):
    assert looks_behind(regex) == behind
