# SPDX-License-Identifier: Apache-2.0
"""Ids as a list, and how tokens come about."""

import pytest
from bpe_files import gpt2, golden, texts

from tokernel.kernels import bpe


def test_the_list_is_the_array(backend):
    vocab = gpt2().vocab
    for text in texts("encode_suite")[::4]:
        want = bpe.encode(vocab, text, "gpt2").tolist()
        assert bpe.encode_list(vocab, text, "gpt2") == bpe.encode_list(vocab, text.encode(), "gpt2") == want
    assert bpe.encode_list(vocab, "") == []


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_lists_are_those_of_single_texts(threads):
    vocab = gpt2().vocab
    inputs = [*texts("encode_suite"), b"bytes", ""]
    assert bpe.encode_lists(vocab, inputs, "gpt2", threads) == [bpe.encode_list(vocab, t, "gpt2") for t in inputs]
    assert bpe.encode_lists(vocab, []) == []
    with pytest.raises(ValueError, match="threads"):
        bpe.encode_lists(vocab, inputs, "gpt2", 0)
    with pytest.raises(TypeError, match="encode_batch: texts must be a sequence"):
        bpe.encode_lists(vocab, "text")


def test_ids_beyond_those_that_are_shared():
    vocab = bpe.Vocab([b"a", b"b"], [2**31 - 2, 2**18])
    assert bpe.encode_list(vocab, "abba") == [2**31 - 2, 2**18, 2**18, 2**31 - 2]


@pytest.mark.parametrize(("text", "error"), [(3, TypeError), ("\ud800", ValueError)])
def test_what_is_no_text(text, error):
    with pytest.raises(error, match="encode: text must be"):
        bpe.encode_list(gpt2().vocab, text)
    with pytest.raises(ValueError, match="pattern"):
        bpe.encode_list(gpt2().vocab, "a", "gpt9")


def test_history_is_the_list_of_merges():
    vocab = gpt2().vocab
    left, right, order = vocab.history()
    assert (order[:256] == -1).all()
    assert [left[256:].tolist(), right[256:].tolist()] == golden("gpt2_merges")["merges"].T.tolist()
    assert order[256:].tolist() == list(range(256, 50256))
    assert vocab.ranked
