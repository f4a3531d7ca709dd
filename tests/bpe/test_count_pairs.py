# SPDX-License-Identifier: Apache-2.0
"""count_pairs on every backend, against a dictionary that counts one pair at a time."""

import itertools
from collections import Counter

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels import bpe

# N, distinct ids, B; around the widths of a warp, of a tile of the device sort and of the buckets of the host sort
SHAPES = [(1, 1, 1), (2, 1, 1), (3, 2, 2), (33, 5, 4), (257, 3, 1), (700, 40, 9), (2049, 300, 3)]


def case(shape, rng, dtype=np.int64, low=0):
    tokens, distinct, batch = shape
    ids = (low + rng.integers(0, distinct, tokens)).astype(dtype)
    cuts = np.sort(rng.integers(0, tokens + 1, batch - 1))
    return ids, np.array([0, *cuts, tokens])


def expected(ids, offsets, weights=None):
    counts = Counter()
    for b, (start, end) in enumerate(itertools.pairwise(offsets)):
        for pair in itertools.pairwise(ids[start:end].tolist()):
            counts[pair] += 1 if weights is None else int(weights[b])
    pairs = sorted(counts)
    return np.array(pairs, np.int64).reshape(-1, 2), np.array([counts[pair] for pair in pairs], np.int64)


def check(ids, offsets=None, weights=None):
    pairs, counts = bpe.count_pairs(ids, offsets, weights)
    wanted = expected(ids, [0, len(ids)] if offsets is None else offsets, weights)
    assert pairs.dtype == counts.dtype == np.int64
    np.testing.assert_array_equal(pairs, wanted[0])
    np.testing.assert_array_equal(counts, wanted[1])


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_counting_one_by_one(backend, shape, dtype, rng):
    ids, offsets = case(shape, rng, dtype)
    check(ids, offsets)
    check(ids)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weights(backend, shape, rng):
    ids, offsets = case(shape, rng)
    check(ids, offsets, rng.integers(-(2**40), 2**40, shape[2]))
    check(ids, offsets.astype(np.int32), rng.integers(0, 3, shape[2]).astype(np.int32))


def test_overlapping_occurrences_count(backend):
    check(np.array([7, 7, 7]))
    pairs, counts = bpe.count_pairs(np.array([7, 7, 7]))
    assert pairs.tolist() == [[7, 7]]
    assert counts.tolist() == [2]


def test_weights_that_add_up_to_zero_are_listed_and_sums_wrap(backend):
    ids, offsets = np.array([1, 2, 1, 2]), np.array([0, 2, 4])
    assert bpe.count_pairs(ids, offsets, np.array([5, -5]))[1].tolist() == [0]
    assert bpe.count_pairs(ids, offsets, np.array([2**63 - 1, 1]))[1].tolist() == [-(2**63)]


@pytest.mark.parametrize("offsets", [[0], [0, 0], [0, 0, 0]])
def test_no_ids(backend, offsets):
    pairs, counts = bpe.count_pairs(np.zeros(0, np.int64), np.array(offsets))
    assert pairs.shape == (0, 2)
    assert counts.shape == (0,)


def test_sequences_without_a_pair(backend):
    check(np.array([3, 4, 5]), np.array([0, 0, 1, 2, 2, 3, 3]))
    check(np.zeros(3, np.int64))


def test_large_ids(backend, rng):
    for low in (2**16 - 2, 2**31 - 5):
        check(*case((300, 5, 3), rng, low=low))
    check(np.array([2**31 - 1, 0, 2**31 - 1, 2**31 - 1, 0], np.int32))


def test_many_ids_by_short_and_long_keys(rng):
    for distinct in (2, 3000, 2**25):
        ids, offsets = case((40000, distinct, 300), rng)
        check(ids, offsets)
        check(ids, offsets, np.arange(300))


def test_strided_views(backend, rng):
    ids, _ = case((400, 6, 1), rng)
    for view in (ids[::2], ids[::-1], ids[3:], ids.astype(np.int32)[1::3]):
        check(view)


def test_torch_gives_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pairs, counts = bpe.count_pairs(torch.tensor([1, 2, 1, 2, 2]), torch.tensor([0, 3, 5]), torch.tensor([1, 10]))
    assert pairs.tolist() == [[1, 2], [2, 1], [2, 2]]
    assert counts.tolist() == [1, 1, 10]
    assert isinstance(pairs, torch.Tensor)


@pytest.mark.parametrize("bad", [-1, 2**31])
def test_id_out_of_range(backend, bad):
    with pytest.raises(
        ValueError, match=rf"^count_pairs: ids must be in \[0, 2\*\*31\), got {bad} at flat position 1$"
    ):
        bpe.count_pairs(np.array([2, bad, 0, 1]))


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([], "offsets must be at least one offset long, got none"),
        ([1, 3], "offsets must be 0 at its start, got 1 at flat position 0"),
        ([0, 2, 1, 3], "offsets must be non-decreasing, got 1 at flat position 2"),
        ([0, 2], "offsets must be equal to the number of tokens at its end, got 2 at flat position 1"),
    ],
)
def test_bad_offsets(backend, offsets, message):
    with pytest.raises(ValueError, match=f"^count_pairs: {message}$"):
        bpe.count_pairs(np.array([1, 2, 3]), np.array(offsets, np.int64))


def test_weights_of_another_length(backend):
    with pytest.raises(ValueError, match=r"^count_pairs: weights must be \(B,\) with B = 1, got \(2,\) int64$"):
        bpe.count_pairs(np.array([1, 2, 3]), None, np.array([1, 2]))


def test_bits_do_not_depend_on_threads(backend, rng):
    ids, offsets = case((300 if backend == "simt" else 200000, 50, 9), rng)
    one, two = on_one_and_two_threads(lambda: bpe.count_pairs(ids, offsets))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
