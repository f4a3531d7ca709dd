# SPDX-License-Identifier: Apache-2.0
"""split takes a time in proportion to its text, whatever the text repeats, and its text in any form."""

import time

import numpy as np
import pytest
from split_oracle import SCANNED

from tokernel.kernels.bpe import split

REPEATED = [" ", "\n", "\r\n", "a", "A", "'", "1", "é", "日", "\u0301", "\u3000"]
MIXED = [" \n", "\n ", "a\n  ", "A\u0301", "\u0301A", "日A", "ªA", "(\n/", "/\n", "'s", "a's", " 1", "\t\t\n  "]


def fastest(text, pattern):
    """In seconds of this process: others may share the machine."""
    times = []
    for _ in range(3):
        start = time.process_time()
        split(text, pattern)
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize("unit", REPEATED + MIXED)
def test_time_is_in_proportion_to_the_text(unit):
    """As many bytes of one unit as of prose. A scanner that read a run again from each of its characters would take
    a hundred thousand times as long; 12 ns a byte are several times what a slow machine needs."""
    text = unit.encode() * ((1 << 21) // len(unit.encode()))
    for pattern in SCANNED:
        assert fastest(text, pattern) < 12e-9 * len(text) + 0.01, pattern


@pytest.mark.parametrize("pattern", SCANNED)
def test_runs_of_ten_million_characters(pattern):
    count = 10_000_000
    for unit in (" ", "\n", "a", "'"):
        assert split(unit * count, pattern).tolist() == [count]
    assert split(" " * count + "a", pattern).tolist() == [count - 1, count + 1]


# ---- forms of a text -------------------------------------------------------------------------------------------------
TEXT = "naïve  日本 'tis 12345"


def test_str_bytes_and_arrays_are_one(backend):
    data = TEXT.encode()
    expected = split(TEXT, "o200k").tolist()
    strided = np.repeat(np.frombuffer(data, np.uint8), 2)[::2]
    for form in (data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8), strided):
        assert split(form, "o200k").tolist() == expected


def test_tensors_give_tensors(backend):
    torch = pytest.importorskip("torch")
    found = split(torch.tensor(list(TEXT.encode()), dtype=torch.uint8), "cl100k")
    assert found.dtype == torch.int64
    assert found.tolist() == split(TEXT, "cl100k").tolist()
    assert found.untyped_storage().nbytes() == found.numel() * 8


def test_pairs_of_surrogates_are_characters_and_lone_ones_are_replaced():
    assert split("a\ud83d\ude00b", "gpt2").tolist() == split("a\U0001f600b", "gpt2").tolist()
    assert split("a\ud83db", "gpt2").tolist() == split("a\ufffdb", "gpt2").tolist()


def test_llama3_is_cl100k():
    assert split(TEXT, "llama3").tolist() == split(TEXT, "cl100k").tolist()


def test_errors():
    with pytest.raises(ValueError, match=r"^split: pattern must be 'none', 'gpt2', .*, got 'gpt9'$"):
        split("text", "gpt9")
    with pytest.raises(TypeError, match=r"^split: text must be str, bytes or an array of uint8, got int$"):
        split(1, "gpt2")
    with pytest.raises(TypeError, match=r"^split: text must be uint8, got int64$"):
        split(np.array([1]), "gpt2")
    with pytest.raises(ValueError, match=r"^split: text must be \(N,\), got \(1, 1\) uint8$"):
        split(np.ones((1, 1), np.uint8), "gpt2")
