# SPDX-License-Identifier: Apache-2.0
"""Histories of pair counts: golden vectors, and laws 7 to 9 of papers/data_mixture_inference."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trained_words import ragged

import tokernel
from tokernel.kernels.bpe import pair_count_history, train_merges
import itertools


@pytest.fixture(params=["ref", "host"])
def code(request):
    """The reference, and what runs otherwise (the same on every level)."""
    if request.param == "host":
        yield "host"
        return
    with tokernel.use_backend("ref"):
        yield "ref"


def merges_with_results(pairs, tokens):
    ids = {}
    for i, token in enumerate(tokens):
        ids.setdefault(token, i)
    return np.array([[a, b, ids[tokens[a] + tokens[b]]] for a, b in pairs.tolist()], np.int64).reshape(-1, 3)


def texts_of(data, name):
    chars, off = data[f"{name}_chars"], data[f"{name}_off"]
    return ["".join(map(chr, chars[a:b])) for a, b in itertools.pairwise(off)]


@pytest.mark.parametrize("case", ["three_categories", "four_categories", "exact_counts"])
def test_golden(case, golden, code):
    data = np.load(golden / "data_mixture_inference" / f"{case}.npz")
    tokens = texts_of(data, "vocab")
    ids = {token: i for i, token in enumerate(tokens)}
    merges = merges_with_results(data["merges"][: int(data["num_merges"])], tokens)
    for i in range(len(data["denoms"])):
        words = [[ids[c] for c in word] for word in texts_of(data, f"words{i}")]
        history = pair_count_history(words, data[f"words{i}_count"], merges)
        assert np.array_equal(history.delta_pairs, data[f"delta{i}"][:, :2])
        assert np.array_equal(history.delta_counts, data[f"delta{i}"][:, 2])
        assert np.array_equal(history.off, data[f"delta{i}_off"])
        assert [a.dtype for a in history] == [np.int32, np.int64, np.int64]
        assert history.delta_counts[: history.off[1]].sum() == data["denoms"][i]


def count(words, counts):
    total = Counter()
    for word, times in zip(words, counts, strict=True):
        for pair in itertools.pairwise(word):
            total[pair] += times
    return {pair: n for pair, n in total.items() if n}


def apply(word, left, right, result):
    out, i = [], 0
    while i < len(word):
        here = word[i : i + 2] == [left, right]
        out.append(result if here else word[i])
        i += 2 if here else 1
    return out


# Results are any ids, old ones and parts of the pair included.
MERGES = st.lists(st.tuples(*[st.integers(0, 5)] * 3), max_size=12)
WORDS = st.lists(st.tuples(st.lists(st.integers(0, 3), max_size=10), st.integers(0, 4)), max_size=8)


@given(WORDS, MERGES)
@settings(max_examples=200, deadline=None)
def test_deltas_add_up_to_a_recount(words, merges):
    """Laws 7 and 8, for host and reference."""
    counts = np.array([c for _, c in words], np.int64)
    words = [list(w) for w, _ in words]
    steps = np.array(merges, np.int64).reshape(-1, 3)
    history = pair_count_history(words, counts, steps)
    with tokernel.use_backend("ref"):
        for mine, slow in zip(history, pair_count_history(words, counts, steps), strict=True):
            assert np.array_equal(mine, slow)
    first = history.delta_counts[: history.off[1]].sum()
    assert first == sum(int(c) * max(0, len(w) - 1) for w, c in zip(words, counts, strict=True))
    state = {}
    for t in range(len(merges) + 1):
        if t:
            words = [apply(w, *merges[t - 1]) for w in words]
        here = slice(history.off[t], history.off[t + 1])
        pairs = [tuple(p) for p in history.delta_pairs[here].tolist()]
        assert pairs == sorted(set(pairs))
        for pair, n in zip(pairs, history.delta_counts[here].tolist(), strict=True):
            assert state.get(pair, 0) != n
            state[pair] = n
        assert {p: n for p, n in state.items() if n} == count(words, counts.tolist())


def test_a_merged_pair_is_gone(rng, code):
    """Law 9, runs of one symbol included."""
    words = ["".join(rng.choice(list("aab"), 9)).encode() for _ in range(40)] + [b"aaaa", b"aaa"]
    counts = rng.integers(1, 9, len(words))
    merges = train_merges(*ragged(words), counts, 270)
    history = pair_count_history(words, counts, merges)
    for t, (left, right, _) in enumerate(merges.tolist(), 1):
        here = slice(history.off[t], history.off[t + 1])
        gone = (history.delta_pairs[here] == [left, right]).all(1)
        assert history.delta_counts[here][gone].tolist() == [0]


def test_own_merges_stay_on_top(rng):
    """Law 12: replayed, every merge of a trainer is the most frequent pair of its step."""
    words = ["".join(rng.choice(list("abcd"), 7)).encode() for _ in range(200)]
    counts = rng.integers(1, 9, len(words))
    merges = train_merges(*ragged(words), counts, 330)
    history = pair_count_history(words, counts, merges)
    state = {}
    for t, merge in enumerate(merges.tolist()):
        here = slice(history.off[t], history.off[t + 1])
        state |= dict(
            zip(map(tuple, history.delta_pairs[here].tolist()), history.delta_counts[here].tolist(), strict=True)
        )
        assert state[tuple(merge[:2])] == max(state.values())


def test_merges_that_apply_nowhere_give_empty_steps(code):
    history = pair_count_history([[0, 1]], np.array([3]), np.array([[5, 6, 7], [0, 1, 2], [0, 1, 2]]))
    assert history.off.tolist() == [0, 1, 1, 2, 2]
    assert history.delta_counts.tolist() == [3, 0]


def test_nothing(code):
    history = pair_count_history([], np.array([], np.int64), np.empty((0, 3), np.int64))
    assert [a.shape for a in history] == [(0, 2), (0,), (2,)]
    assert history.off.tolist() == [0, 0]


def test_arrays_of_words():
    ids, offsets = np.array([0, 1, 0, 1], np.int32), np.array([0, 2, 4], np.int32)
    history = pair_count_history((ids, offsets), np.array([1, 2], np.int32), np.array([[0, 1, 2]], np.int32))
    assert history.delta_counts.tolist() == [3, 0]


@pytest.mark.parametrize(
    ("spoiled", "error", "message"),
    [
        ({"words": "ab"}, TypeError, "words must be a list of words or a pair .*, got str"),
        ({"words": [[-1]]}, ValueError, r"words must be in \[0, 2147483648\), got -1 at flat position 0"),
        ({"counts": np.array([1, 1])}, ValueError, r"counts must be one for each of 1 words, got 2"),
        ({"merges": np.zeros((1, 2), np.int64)}, ValueError, r"merges must be \(T, 3\) of .*, got \(1, 2\)"),
    ],
)
def test_bad_input(spoiled, error, message):
    call = {"words": [[0, 1]], "counts": np.array([1]), "merges": np.array([[0, 1, 2]])}
    with pytest.raises(error, match=f"^pair_count_history: {message}"):
        pair_count_history(**{**call, **spoiled})
