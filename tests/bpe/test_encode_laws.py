# SPDX-License-Identifier: Apache-2.0
"""What must be true of every encoder, on random vocabularies: with ranks in the order of merging, and in any order."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import tokernel
from hypothesis import given, settings
from hypothesis import strategies as st
from tokernel.kernels import bpe

from vocabularies import any_ranks, gpt2, grown, merge_lists, naive

METHODS = ("scan", "heap", "backtrack", "table", "auto")
VOCABS = st.one_of(grown(), any_ranks(), merge_lists())
PIECES = st.one_of(
    st.text("abcd", min_size=1, max_size=30),
    st.integers(1, 150).map(lambda n: "a" * n),
    st.tuples(st.text("abcd", min_size=1, max_size=3), st.integers(1, 120)).map(lambda x: x[0] * x[1]),
    st.text("ab", min_size=60, max_size=300),
).map(str.encode)


@settings(max_examples=150, deadline=None)
@given(VOCABS, PIECES)
def test_all_encoders_give_what_merging_by_hand_gives(vocab, piece):
    expected = naive(vocab, piece)
    for method in METHODS:
        assert bpe.encode_piece(vocab, piece, method).tolist() == expected, method


@pytest.mark.parametrize("level", [name for name in tokernel.backends()["usable"] if name not in ("cuda", "simt")])
@settings(max_examples=40, deadline=None)
@given(vocab=VOCABS, pieces=st.lists(PIECES, max_size=8))
def test_every_level_gives_the_same_ids(level, vocab, pieces):
    text = b"".join(pieces)
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    with tokernel.use_backend(level):
        found = bpe.encode(vocab, text, ends=ends).tolist()
    assert found == list(itertools.chain(*(naive(vocab, piece) for piece in pieces)))


@settings(max_examples=60, deadline=None)
@given(VOCABS, st.lists(PIECES, max_size=5))
def test_decoding_gives_the_text_back(vocab, pieces):
    ids, offsets = bpe.encode_batch(vocab, pieces)
    assert bpe.decode(vocab, ids) == b"".join(pieces)
    data, bounds = bpe.decode_batch(vocab, ids, offsets)
    assert [data[i:j].tobytes() for i, j in itertools.pairwise(bounds)] == pieces


@settings(max_examples=60, deadline=None)
@given(grown(), PIECES)
def test_any_slice_of_an_encoding_is_the_encoding_of_its_bytes(vocab, piece):
    ids = bpe.encode_piece(vocab, piece).tolist()
    for i, j in itertools.islice(itertools.combinations(range(len(ids) + 1), 2), 60):
        assert bpe.encode_piece(vocab, bpe.decode(vocab, ids[i:j])).tolist() == ids[i:j]


@settings(max_examples=60, deadline=None)
@given(VOCABS)
def test_a_pair_is_valid_if_its_bytes_become_just_it(vocab):
    for a, b in itertools.product(range(vocab.size), repeat=2):
        expected = naive(vocab, vocab.token_bytes(a) + vocab.token_bytes(b)) == [a, b]
        assert bpe.is_valid_pair(vocab, a, b) == expected


@settings(max_examples=60, deadline=None)
@given(grown(), PIECES)
def test_the_table_has_the_encoding_of_every_prefix(vocab, piece):
    last = bpe.prefix_tokens(vocab, piece)
    assert last[0] == -1
    for k in range(1, min(len(piece), 40) + 1):
        ids, at = [], k
        while at > 0:
            ids.append(int(last[at]))
            at -= len(vocab.token_bytes(ids[-1]))
        assert ids[::-1] == naive(vocab, piece[:k])


@settings(max_examples=60, deadline=None)
@given(VOCABS, st.lists(PIECES, max_size=5))
def test_byte_spans_tile_the_text(vocab, pieces):
    text = b"".join(pieces)
    ids, ends = bpe.encode(vocab, text, offsets=True)
    begins = [0, *ends.tolist()]
    assert begins[-1] == len(text)
    assert [text[i:j] for i, j in itertools.pairwise(begins)] == [vocab.token_bytes(i) for i in ids.tolist()]


@pytest.mark.parametrize("text", [b"a", b" ", b"ab", b"\xff", b"aab-"])
def test_time_is_linear_in_one_piece(text):
    vocab = gpt2()

    def seconds(n: int) -> float:
        piece = text * (n // len(text))
        times = []
        for _ in range(3):
            start = time.thread_time()
            bpe.encode(vocab, piece)
            times.append(time.thread_time() - start)
        return min(times)

    seconds(1000)
    assert seconds(400_000) < 40 * max(seconds(40_000), 1e-3)  # n log n is 12, n squared is 100


@pytest.mark.parametrize("method", METHODS)
def test_random_bytes_in_one_long_piece(method, rng):
    piece = rng.integers(97, 123, 3000, dtype=np.uint8).tobytes() + rng.integers(0, 256, 500, dtype=np.uint8).tobytes()
    assert (bpe.encode_piece(gpt2(), piece, method) == bpe.encode_piece(gpt2(), piece, "scan")).all()
