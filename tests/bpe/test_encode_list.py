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
