# SPDX-License-Identifier: Apache-2.0
"""apply_merges on every CPU level, against one pass of plain Python for each merge of the list."""

import numpy as np
import pytest
from bits import on_one_and_two_threads
from hypothesis import given, settings
from hypothesis import strategies as st

import tokernel
from tokernel.kernels import bpe
import itertools

LEVELS = [name for name in tokernel.backends()["usable"] if name not in ("simt", "cuda")]


@pytest.fixture(params=LEVELS)
def level(request):
    with tokernel.use_backend(request.param):
        yield request.param


def expected(ids, offsets, merges):
    found = []
    for start, end in itertools.pairwise(offsets):
        sequence = list(ids[start:end])
        for left, right, result in merges:
            merged, i = [], 0
            while i < len(sequence):
                joined = sequence[i : i + 2] == [left, right]
                merged.append(result if joined else sequence[i])
                i += 2 if joined else 1
            sequence = merged
        found.append(sequence)
    return [i for sequence in found for i in sequence], [0, *np.cumsum([len(s) for s in found]).tolist()]


def check(ids, offsets, merges, dtype=np.int64):
    out, starts = bpe.apply_merges(np.array(ids, dtype), np.array(offsets), np.array(merges, np.int64).reshape(-1, 3))
    wanted = expected(list(ids), offsets, merges)
    assert out.dtype == dtype
    assert starts.dtype == np.int64
    assert out.tolist() == wanted[0]
    assert starts.tolist() == wanted[1]


# Few ids, so that merges meet each other's results, their own results, and come several times.
IDS = st.integers(0, 3)
MERGES = st.lists(st.tuples(IDS, IDS, IDS), max_size=12)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.lists(IDS, max_size=20), max_size=4), MERGES)
def test_equals_one_pass_for_each_merge(sequences, merges):
    ids = [i for sequence in sequences for i in sequence]
    offsets = [0, *np.cumsum([len(s) for s in sequences]).tolist()]
    for name in LEVELS:
        with tokernel.use_backend(name):
            check(ids, offsets, merges)


@settings(deadline=None, max_examples=60)
@given(st.lists(IDS, min_size=44, max_size=120), MERGES)
def test_long_sequences(ids, merges):
    for name in LEVELS:
        with tokernel.use_backend(name):
            check(ids, [0, len(ids)], merges)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 47, 48, 49, 200])
def test_runs_of_one_id(level, length):
    for merges in ([(1, 1, 2)], [(1, 1, 1)], [(1, 1, 2), (2, 2, 3), (2, 1, 4)], [(1, 1, 1)] * 5):
        check([1] * length, [0, length], merges)
    assert level == "ref" or tokernel.last_backend() == level


def test_a_merge_that_has_had_its_turn_does_not_come_back(level):
    check([1, 2, 3], [0, 3], [(4, 3, 9), (1, 2, 4)])
    assert bpe.apply_merges(np.array([1, 2, 3]), None, np.array([[4, 3, 9], [1, 2, 4]]))[0].tolist() == [4, 3]
    check([1, 2, 3], [0, 3], [(4, 3, 9), (1, 2, 4), (4, 3, 8)])


def test_a_trained_list(level, rng):
    """A list as training makes it: every merge joins the pair that is then most frequent."""
    ids, offsets = rng.integers(0, 5, 600).tolist(), [0, 3, 3, 100, 101, 420, 600]
    now, starts, merges = ids, offsets, []
    for new in range(5, 60):
        pairs, counts = bpe.count_pairs(np.array(now), np.array(starts))
        merges.append((*pairs[counts.argmax()].tolist(), new))
        now, starts = expected(now, starts, merges[-1:])
    check(ids, offsets, merges)
    check(ids, offsets, merges, np.int32)
    check(ids, offsets, merges[::-1])


def test_nothing_to_do(level):
    check([], [0], [])
    check([], [0, 0, 0], [(1, 2, 3)])
    check([1, 2, 1], [0, 1, 3], [])
    check([2**31 - 1, 0], [0, 2], [(2**31 - 1, 0, 2**31 - 1)], np.int32)


def test_views_and_torch(level, rng):
    ids, merges = rng.integers(0, 3, 90), np.array([[1, 1, 3], [0, 3, 1], [1, 2, 0]])
    for view in (ids[::2], ids[::-1], ids.astype(np.int32)[1::3]):
        wanted = expected(view.tolist(), [0, len(view)], merges.tolist())[0]
        assert bpe.apply_merges(view, None, merges)[0].tolist() == wanted
    torch = pytest.importorskip("torch", reason="torch is not installed")
    out, starts = bpe.apply_merges(torch.from_numpy(ids), None, torch.from_numpy(merges))
    assert isinstance(out, torch.Tensor)
    assert out.tolist() == expected(ids.tolist(), [0, 90], merges.tolist())[0]
    assert starts.tolist() == [0, len(out)]


@pytest.mark.parametrize("bad", [-1, 2**31])
def test_out_of_range(level, bad):
    with pytest.raises(
        ValueError, match=rf"^apply_merges: ids must be in \[0, 2\*\*31\), got {bad} at flat position 1$"
    ):
        bpe.apply_merges(np.array([2, bad]), None, np.zeros((0, 3), np.int64))
    with pytest.raises(
        ValueError, match=rf"^apply_merges: merges must be in \[0, {2**31}\), got {bad} at flat position"
    ):
        bpe.apply_merges(np.array([2, 1]), None, np.array([[1, 2, bad]]))


def test_merges_of_another_width(level):
    with pytest.raises(ValueError, match=r"^apply_merges: merges must be \(M, 3\) with M = 1, got \(1, 2\) int64$"):
        bpe.apply_merges(np.array([2, 1]), None, np.array([[1, 2]]))


def test_bits_do_not_depend_on_threads(level, rng):
    ids, cuts = rng.integers(0, 9, 60000), np.sort(rng.integers(0, 60000, 500))
    merges = rng.integers(0, 12, (40, 3))
    offsets = np.array([0, *cuts, 60000])
    one, two = on_one_and_two_threads(lambda: bpe.apply_merges(ids, offsets, merges))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
