# SPDX-License-Identifier: Apache-2.0
"""Vocabularies: what they know of their tokens, files of ranks, and what they refuse."""

from __future__ import annotations

import base64
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokernel.kernels import bpe

from vocabularies import any_ranks, gpt2

AB = [b"a", b"b", b"ab"]


def test_tokens_and_ids():
    vocab = gpt2()
    assert vocab.size == len(vocab) == 50256
    for i in (0, 255, 31373, 50255):
        assert vocab.id_of(vocab.token_bytes(i)) == i
    assert vocab.id_of(b"") is None
    assert vocab.id_of(b"no such token, surely") is None
    assert vocab.complete
    assert vocab.ascending
    assert gpt2("merges").ascending


def test_ranks_against_the_order_of_merging():
    assert not bpe.Vocab([b"abc", b"a", b"b", b"c", b"ab"]).ascending  # ab, then abc of a smaller rank
    assert bpe.Vocab([b"a", b"b", b"c", b"abc"]).ascending  # abc is never made


@settings(max_examples=60, deadline=None)
@given(any_ranks(), st.text("abcd", max_size=3))
def test_tokens_with_a_prefix(vocab, prefix):
    tokens = sorted(vocab.token_bytes(i) for i in range(vocab.size))
    expected = [vocab.id_of(token) for token in tokens if token.startswith(prefix.encode())]
    assert bpe.tokens_with_prefix(vocab, prefix).tolist() == expected


@settings(max_examples=30, deadline=None)
@given(any_ranks())
def test_a_pickle_is_the_same_vocabulary(vocab):
    copy = pickle.loads(pickle.dumps(vocab))
    assert repr(copy) == repr(vocab)
    for name, table in vocab.tables().items():
        np.testing.assert_array_equal(copy.tables()[name], table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": [b"a", b""]}, "tokens must have at least one byte, got an empty token for id 1"),
        ({"tokens": [b"a", b"b", b"a"]}, "tokens must be distinct, got b'a' for ids 0 and 2"),
        ({"tokens": AB, "ids": [0, 1, 1]}, "ids must be distinct, got 1 twice"),
        ({"tokens": AB, "ids": [0, 1, -1]}, "ids must be in "),
        ({"tokens": AB, "merges": [[0, 1, 3]]}, "merges must name ids of tokens, got 3 as result of merge 0"),
        ({"tokens": AB, "merges": [[1, 0, 2]]}, "merges must join the bytes of their tokens, got b'b' "),
        ({"tokens": AB, "missing": "ignore"}, "missing must be 'error' or 'drop', got 'ignore'"),
    ],
)
def test_what_a_vocabulary_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"^vocab: {message}"):
        bpe.Vocab(**arguments)


def test_the_empty_vocabulary():
    vocab = bpe.Vocab([])
    assert vocab.size == 0
    assert bpe.encode(vocab, "").tolist() == []
    with pytest.raises(ValueError, match="got byte 97 at position 0"):
        bpe.encode(vocab, "a")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=20), unique=True, max_size=10))
def test_rank_files(tokens):
    data = b"".join(b"%s %d\n" % (base64.b64encode(token), i) for i, token in enumerate(tokens))
    found, offsets, ranks = bpe.parse_ranks(data)
    vocab = bpe.Vocab((found, offsets), ranks)
    assert [vocab.token_bytes(i) for i in range(vocab.size)] == tokens


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"YQ== x", "expected a rank"),
        (b"YQ==", "expected a token in base64, a space and a rank"),
        (b"YQ= 1", "not base64"),
        (b"Y!== 1", "not base64"),
        (b"YR== 1", "not base64"),  # bits behind the last byte
        (b" 1", "not base64"),
        (b"Yg== 0", "rank 0 is that of a line before"),
        (b"YQ== 12345678901", "expected a rank"),
    ],
)
def test_bad_lines_are_named(line, message):
    with pytest.raises(ValueError, match=f"^line 3: {message}"):
        bpe.parse_ranks(b"YQ== 0\n\n" + line + b"\n")
