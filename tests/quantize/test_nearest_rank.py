# SPDX-License-Identifier: Apache-2.0
"""nearest_rank: the slots of nearest_topk, one a row."""

import numpy as np
import pytest
from bits import on_one_and_two_threads
from nearest_cases import DTYPES, METRICS, as_dtype, both, exact_vectors, on_host, ranked, sizes_for, with_bad_vectors

import tokernel
from tokernel.kernels.quantize import nearest_rank, nearest_topk


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_and_lowest_index_on_exact_data(backend, rng, dtype, metric):
    for size in sizes_for(backend):
        x, c, x64, c64 = both(rng, lambda *s: exact_vectors(rng, *s), size, dtype)
        rank = rng.integers(0, size[2], size[:2])
        index, best = on_host(nearest_rank(x, c, rank, metric))
        assert tokernel.last_backend() == backend
        assert (index.dtype, best.dtype, index.shape) == (np.int64, np.float32, rank.shape)
        for got, expected in zip((index, best), ranked(x64, c64, metric), strict=True):
            np.testing.assert_array_equal(got, np.take_along_axis(expected, rank[..., None], -1)[..., 0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_has_the_bits_of_topk(backend, rng, dtype, metric):
    size = (2, 12, 40, 5) if backend in ("ref", "simt") else (2, 60, 700, 33)
    x, c, _, _ = both(rng, lambda *s: rng.standard_normal(s), size, dtype)
    everything = on_host(nearest_topk(x, c, size[2], metric))
    for rank in (np.zeros(size[1], np.int32), rng.integers(0, size[2], size[1]), np.full(size[1], size[2] - 1)):
        found = on_host(nearest_rank(x, c, rank, metric))
        slots = np.broadcast_to(rank, size[:2])[..., None]
        for got, expected in zip(found, everything, strict=True):
            np.testing.assert_array_equal(got, np.take_along_axis(expected, slots, -1)[..., 0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_that_are_not_finite(backend, rng, dtype, metric):
    x, c = with_bad_vectors(rng, backend, np.nan)
    rank = rng.integers(0, c.shape[1], x.shape[:2])
    rank[:, -1] = c.shape[1] - 1
    (x, x64), (c, c64) = as_dtype(x, dtype), as_dtype(c, dtype)
    for got, expected in zip(on_host(nearest_rank(x, c, rank, metric)), ranked(x64, c64, metric), strict=True):
        np.testing.assert_array_equal(got, np.take_along_axis(expected, rank[..., None], -1)[..., 0])
        assert got[0, -1] == -1 or np.isnan(got[0, -1])


def test_empty_rows_and_no_width(backend):
    index, best = nearest_rank(np.ones((0, 4), "f"), np.ones((3, 4), "f"), np.zeros(0, np.int64))
    assert index.shape == best.shape == (0,)
    index, best = nearest_rank(np.ones((3, 0), "f"), np.ones((3, 0), "f"), np.arange(3))
    assert (index.tolist(), best.tolist()) == ([0, 1, 2], [0, 0, 0])


@pytest.mark.parametrize("metric", METRICS)
def test_same_bits_for_any_number_of_threads(rng, metric):
    x, c = rng.standard_normal((2, 210, 33)).astype("f"), rng.standard_normal((2, 190, 33)).astype("f")
    rank = rng.integers(0, 190, (2, 210))
    one, two = on_one_and_two_threads(lambda: nearest_rank(x, c, rank, metric))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_out_is_filled(backend, rng):
    x, c = exact_vectors(rng, 5, 4), exact_vectors(rng, 6, 4)
    out = np.empty(5, np.int64), np.empty(5, np.float32)
    assert nearest_rank(x, c, np.arange(5), out=out)[0] is out[0]
    np.testing.assert_array_equal(out[1], nearest_rank(x, c, np.arange(5))[1])


X = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        ((X, X, np.array([0, 1, 3])), ValueError, r"rank must be in \[0, 3\), got 3 at flat position 2"),
        ((X, X, np.array([0, -1, 0])), ValueError, r"rank must be in \[0, 3\), got -1 at flat position 1"),
        ((X, X, np.array([0, 1])), ValueError, "rank must be"),
        ((X, X, np.zeros((1, 3), int)), ValueError, "rank must be"),
        ((X, X, np.zeros(3, np.float32)), TypeError, "rank must be"),
        ((X, X[:0], np.zeros(3, int)), ValueError, "codes must be at least 1"),
        ((X, X, np.zeros(3, int), "L2"), ValueError, "metric must be 'l2', 'cosine' or 'dot', got 'L2'"),
    ],
)
def test_bad_input(backend, args, error, text):
    with pytest.raises(error, match=f"nearest_rank: {text}"):
        nearest_rank(*args)
