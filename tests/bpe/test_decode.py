# SPDX-License-Identifier: Apache-2.0
"""Decoding: bytes one after the other, on every level; ids out of range."""

from __future__ import annotations

import numpy as np
import pytest
import tokernel
from tokernel.kernels import bpe

from vocabularies import gpt2, texts_of

LEVELS = [name for name in tokernel.backends()["usable"] if name not in ("cuda", "simt")]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [np.int32, np.int64, list])
def test_decoding_gives_the_text_back(level, dtype):
    text = b"".join(texts_of("encode_suite"))
    ids = bpe.encode(gpt2(), text, "gpt2")
    with tokernel.use_backend(level):
        assert bpe.decode(gpt2(), ids.tolist() if dtype is list else ids.astype(dtype)) == text
        assert tokernel.last_backend() == level


@pytest.mark.parametrize("count", [0, 1, 2, 16383, 16384, 16385, 40000])
def test_parts(count, rng):
    """Whatever lies at the border of two parts, which two threads may write at once."""
    ids = rng.integers(0, gpt2().size, count)
    expected = b"".join(gpt2().token_bytes(i) for i in ids.tolist())
    assert bpe.decode(gpt2(), ids) == expected
    assert (
        bpe.decode_offsets(gpt2(), ids).tolist()
        == np.cumsum([len(gpt2().token_bytes(i)) for i in ids.tolist()]).tolist()
    )


def test_a_huge_token():
    vocab = bpe.Vocab([b"a", b"b" * 1_000_000])
    assert bpe.decode(vocab, [0, 1, 0]) == b"a" + b"b" * 1_000_000 + b"a"
    assert bpe.encode(vocab, b"b" * 1_000_000).tolist() == [1]


@pytest.mark.parametrize("bad", [-1, 50256, 2**31, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("kind", [list, np.int64])
def test_ids_out_of_range(bad, kind):
    ids = [1, bad] if kind is list else np.array([1, bad])
    with pytest.raises(ValueError, match=rf"^decode: ids must be ids of tokens, got {bad} at position 1$"):
        bpe.decode(gpt2(), ids)


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"^decode: ids must be an integer"):
        bpe.decode(gpt2(), [1, "2"])
    with pytest.raises(TypeError, match=r"^decode: ids must be int32 or int64, got float64"):
        bpe.decode(gpt2(), np.zeros(2))
    with pytest.raises(ValueError, match=r"^decode_batch: offsets must ascend from 0 to the 2 ids"):
        bpe.decode_batch(gpt2(), np.zeros(2, np.int64), np.array([0, 1]))
