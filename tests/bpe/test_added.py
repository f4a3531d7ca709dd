# SPDX-License-Identifier: Apache-2.0
"""Added tokens: encoding between them, decoding over them."""

import numpy as np
import pytest
from bpe_files import gpt2

from tokernel.kernels import bpe

VOCAB = bpe.Vocab([b"a", b"b", b"ab"])
ADDED = {9: b"<s>", 10**12: b"", -3: b"!"}


def places(*rows):
    return [np.array(column, np.int64) for column in zip(*rows, strict=True)] if rows else [np.zeros(0, np.int64)] * 3


def test_decoding_over_added_tokens():
    assert bpe.decode_added(VOCAB, [2, 9, 0, 10**12, -3], ADDED) == b"ab<s>a!"
    assert bpe.decode_each(VOCAB, [2, 9, 0, 10**12, -3], ADDED) == [b"ab", b"<s>", b"a", b"", b"!"]
    assert bpe.decode_added(VOCAB, [], ADDED) == b""
    assert bpe.decode_each(VOCAB, [], {}) == []


@pytest.mark.parametrize("decode", [bpe.decode_added, bpe.decode_each])
def test_ids_of_nothing(decode):
    for wrong in (3, -1, 2**31, 2**63, 2**70, -(2**70)):
        with pytest.raises(ValueError, match=rf"decode: ids must be ids of tokens, got {wrong} at position 1"):
            decode(VOCAB, [0, wrong], ADDED)
    for wrong in ("a", 1.5, None, [1]):
        with pytest.raises(TypeError, match="ids"):
            decode(VOCAB, [0, wrong], ADDED)
    with pytest.raises(TypeError):
        decode(VOCAB, (0, 1), ADDED)
    with pytest.raises(TypeError, match="vocab must be a Vocab"):
        decode(None, [0], ADDED)
    with pytest.raises(ValueError, match="position 0"):
        decode(VOCAB, [7], {7: "text, and no bytes"})


def test_encoding_between_added_tokens(backend):
    vocab = gpt2().vocab
    text = "<s>Hello  <s>world<t>"
    got = bpe.encode_between(vocab, text, "gpt2", *places((0, 3, 2**18), (10, 13, 7), (18, 21, 2**33)))
    pieces = [bpe.encode_list(vocab, part, "gpt2") for part in ("Hello  ", "world")]
    assert got == [2**18, *pieces[0], 7, *pieces[1], 2**33]
    assert bpe.encode_between(vocab, text, "gpt2", *places()) == bpe.encode_list(vocab, text, "gpt2")
    assert bpe.encode_between(vocab, "", "gpt2", *places((0, 0, 5))) == [5]
    assert bpe.encode_between(vocab, "ab", "gpt2", *places((0, 1, 5), (1, 2, 6))) == [5, 6]


@pytest.mark.parametrize("rows", [[(1, 0, 5)], [(-1, 0, 5)], [(0, 3, 5)], [(0, 2, 5), (1, 2, 5)]])
def test_places_outside_of_the_text(rows):
    with pytest.raises(ValueError, match="encode: starts must be places in the text"):
        bpe.encode_between(VOCAB, "ab", "none", *places(*rows))


def test_places_must_be_as_many():
    with pytest.raises(ValueError, match="encode: ends"):
        bpe.encode_between(VOCAB, "ab", "none", np.zeros(1, np.int64), np.zeros(2, np.int64), np.zeros(1, np.int64))
