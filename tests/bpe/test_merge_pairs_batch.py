# SPDX-License-Identifier: Apache-2.0
"""Merges of a batch: the incremental form and the reference against a rescan in Python; the laws of the loop."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

import tokernel
from tokernel.kernels.bpe import merge_pairs_batch


@pytest.fixture(params=["ref", "host"])
def code(request):
    """The reference, and what runs otherwise (the same on every level)."""
    if request.param == "host":
        yield "host"
        return
    with tokernel.use_backend("ref"):
        yield "ref"


def rescan(rows, max_merges, valid, next_id, join):
    """The rule, word for word: (rows, [(pair, id, count, replaced)])."""
    rows, done = [list(row) for row in rows], []
    while max_merges is None or len(done) < max_merges:
        counts = {}
        for row in rows:
            for pair in itertools.pairwise(row):
                if valid(*pair):
                    counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = max(counts, key=counts.get)  # the first of equals, in the order of the scan
        new = join(*best, next_id)
        next_id = max(next_id, new + 1)
        replaced = 0
        for r, row in enumerate(rows):
            out, i = [], 0
            while i < len(row):
                here = tuple(row[i : i + 2]) == best
                out.append(new if here else row[i])
                replaced += here
                i += 1 + here
            rows[r] = out
        done.append((best, new, counts[best], replaced))
    return rows, done


def flat(rows):
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return np.array([i for row in rows for i in row], np.int64), offsets


def rows_of(merged):
    return [merged.ids[a:b].tolist() for a, b in itertools.pairwise(merged.offsets)]


def check(rows, max_merges=None, valid=None, next_id=None, join=None):
    ids, offsets = flat(rows)
    got = merge_pairs_batch(ids, offsets, max_merges, valid, next_id=next_id, join=join)
    first = int(ids.max(initial=-1)) + 1 if next_id is None else next_id
    expected, done = rescan(rows, max_merges, valid or (lambda a, b: True), first, join or (lambda a, b, new: new))
    assert rows_of(got) == expected
    steps = list(
        zip(
            map(tuple, got.parts.tolist()),
            got.results.tolist(),
            got.counts.tolist(),
            got.replaced.tolist(),
            strict=True,
        )
    )
    assert steps == done
    return got


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("letters", [1, 2, 3, 40])
def test_against_a_rescan(code, letters, seed):
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, letters, n).tolist() for n in rng.integers(0, 30, 6)]
    check(rows)
    check(rows, 3)
    check(rows, 5, valid=lambda a, b: (a * 7 + b * 3) % 4 != 0, next_id=1000)


@pytest.mark.parametrize("seed", range(12))
def test_a_concatenation_may_be_a_token_that_exists(code, seed):
    """Ids stand for strings of two letters: the same string is made in many ways, in any order."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, 2, n).tolist() for n in rng.integers(0, 40, 4)]

    class Names:
        def __init__(self):
            self.text = ["a", "b", "aba", "bb"]
            self.id = {t: i for i, t in enumerate(self.text)}

        def join(self, a, b, new):
            text = self.text[a] + self.text[b]
            if text not in self.id:
                assert new == len(self.text)
                self.id[text] = new
                self.text.append(text)
            return self.id[text]

    ids, offsets = flat(rows)
    for budget in (1, 4, None):
        got = merge_pairs_batch(ids, offsets, budget, next_id=4, join=Names().join)
        expected, done = rescan(rows, budget, lambda a, b: True, 4, Names().join)
        assert rows_of(got) == expected
        assert [tuple(p) for p in got.parts.tolist()] == [d[0] for d in done]
        assert got.results.tolist() == [d[1] for d in done]


def test_runs_merge_from_the_left_without_overlap(code):
    got = check([[5, 5, 5], [5, 5, 5, 5]], 1)
    assert rows_of(got) == [[6, 5], [6, 6]]
    assert got.counts.tolist() == [5]
    assert got.replaced.tolist() == [3]


def test_ties_go_to_the_pair_met_first_after_the_merges_before(code):
    # (8, 9) is met before (1, 2) and has the larger ids; a sorted table would take (1, 2).
    assert check([[8, 9, 0, 1, 2], [1, 2, 3, 8, 9]], 1).parts.tolist() == [[8, 9]]
    # The merge of (7, 7) takes the first (7, 1) away: of the two pairs that occur twice, (4, 5) now comes first.
    rows = [[7, 7, 1], [4, 5], [4, 5], [7, 1], [7, 1], [7, 7], [7, 7], [7, 7]]
    assert check(rows, 2).parts.tolist() == [[7, 7], [4, 5]]


def test_empty_batches(code):
    for rows in ([], [[]], [[], [3], []]):
        got = check(rows)
        assert got.parts.shape == (0, 2)
    assert merge_pairs_batch([1, 1, 1]).offsets.tolist() == [0, 1]


def test_no_budget_no_change_and_more_budget_goes_on(code, rng):
    rows = [rng.integers(0, 4, 50).tolist() for _ in range(3)]
    ids, offsets = flat(rows)
    assert rows_of(merge_pairs_batch(ids, offsets, 0)) == rows
    every = merge_pairs_batch(ids, offsets)
    for budget in range(len(every.parts)):
        some = merge_pairs_batch(ids, offsets, budget)
        assert (some.parts == every.parts[:budget]).all()
        assert len(ids) - len(some.ids) == every.replaced[:budget].sum()


def test_a_pair_is_asked_about_once(code, rng):
    asked = []

    def valid(a, b):
        asked.append((a, b))
        return (a + b) % 2 == 0

    merge_pairs_batch(rng.integers(0, 6, 300), valid=valid)
    assert len(asked) == len(set(asked))


def test_errors_of_callables_reach_the_caller(code):
    with pytest.raises(ZeroDivisionError):
        merge_pairs_batch([0, 1], valid=lambda a, b: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        merge_pairs_batch([0, 1], join=lambda a, b, new: 1 // 0)
    for wrong in (0, 1, 5, -1):
        with pytest.raises(ValueError, match=r"^merge_pairs_batch: join must return an id in \[0, 2\] that is neither"):
            merge_pairs_batch([0, 1], join=lambda a, b, new, wrong=wrong: wrong)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"ids": [1.0]}, TypeError, r"ids must be int64 or int32, got float64$"),
        ({"ids": [[1]]}, ValueError, r"ids must be \(N\), got \(1, 1\) int64$"),
        ({"ids": [0, -1]}, ValueError, r"ids must be in \[0, 2147483647\), got -1 at 1$"),
        ({"ids": [2**31 - 1]}, ValueError, r"ids must be in \[0, 2147483647\), got 2147483647 at 0$"),
        ({"ids": [0, 1], "offsets": [0, 1]}, ValueError, r"offsets must be ascending from 0 to the 2 ids, got 0 to 1$"),
        (
            {"ids": [0, 1], "offsets": [0, 3, 2]},
            ValueError,
            r"offsets must be ascending from 0 to the 2 ids, got 0 to 2$",
        ),
        ({"ids": [0, 1], "offsets": []}, ValueError, r"offsets must be ascending from 0 to the 2 ids, got none$"),
        ({"ids": [0, 1], "max_merges": -1}, ValueError, r"max_merges must be in \[0, 2147483647\], got -1$"),
        ({"ids": [0, 1], "max_merges": 1.5}, TypeError, r"max_merges must be an integer, got float$"),
        ({"ids": [0, 7], "next_id": 7}, ValueError, r"next_id must be in \[8, 2147483647\], got 7$"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match="^merge_pairs_batch: " + message):
        merge_pairs_batch(**call)


def test_a_merge_costs_its_occurrences_alone(rng):
    """16 documents of 8192 tokens, 10,000 merges: a rescan would read a billion tokens."""
    ids = np.minimum(rng.zipf(1.3, 16 * 8192), 5000)
    start = time.perf_counter()
    got = merge_pairs_batch(ids, np.arange(0, ids.size + 1, 8192), 10_000)
    assert time.perf_counter() - start < 2.0
    assert len(got.parts) == 10_000
