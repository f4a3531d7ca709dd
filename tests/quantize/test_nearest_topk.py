# SPDX-License-Identifier: Apache-2.0
"""nearest_topk: every backend against float64, and exactly where the arithmetic is exact."""

import numpy as np
import pytest
from bits import on_one_and_two_threads
from nearest_cases import (
    DTYPES,
    METRICS,
    as_dtype,
    assert_ranked,
    both,
    exact_vectors,
    on_host,
    ranked,
    sizes_for,
    with_bad_vectors,
)

import tokernel
from tokernel.kernels.quantize import nearest, nearest_topk


def counts_for(codes):
    return sorted({1, min(2, codes), min(5, codes), codes // 2 or 1, codes})


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_float64(backend, rng, dtype, metric):
    for size in sizes_for(backend):
        x, c, x64, c64 = both(rng, lambda *s: rng.standard_normal(s), size, dtype)
        for k in counts_for(size[2]):
            index, best = on_host(nearest_topk(x, c, k, metric))
            assert tokernel.last_backend() == backend
            assert index.shape == best.shape == (*size[:2], k)
            assert_ranked(index, best, np.broadcast_to(np.arange(k), index.shape), x64, c64, metric)
            assert (np.diff(np.sort(index), axis=-1) > 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_and_lowest_index_on_exact_data(backend, rng, dtype, metric):
    for size in sizes_for(backend):
        x, c, x64, c64 = both(rng, lambda *s: exact_vectors(rng, *s), size, dtype)
        order, value = ranked(x64, c64, metric)
        for k in counts_for(size[2]):
            index, best = on_host(nearest_topk(x, c, k, metric))
            np.testing.assert_array_equal(index, order[..., :k])
            np.testing.assert_array_equal(best, value[..., :k])


@pytest.mark.parametrize("metric", METRICS)
def test_slots_do_not_depend_on_how_many_are_asked_for(backend, rng, metric):
    few = backend in ("ref", "simt")
    x, c = rng.standard_normal((9, 6)).astype("f"), rng.standard_normal((30 if few else 700, 6)).astype("f")
    c[5:10] = c[:5]
    everything = nearest_topk(x, c, len(c), metric)
    for k in (1, 3, 20):
        some = nearest_topk(x, c, k, metric)
        np.testing.assert_array_equal(some.index, everything.index[:, :k])
        np.testing.assert_array_equal(some.best, everything.best[:, :k])
    first = nearest(x, c, metric, second=True)
    np.testing.assert_array_equal(first.index, everything.index[:, 0])
    np.testing.assert_array_equal(first.second, everything.index[:, 1])


def test_codes_in_ascending_and_descending_order(rng):
    """Where every code is nearer than all before it, each joins the list."""
    c = np.linspace(5, 0, 3000, dtype=np.float32)[:, None]
    x = np.zeros((3, 1), np.float32)
    for k in (1, 70, 1500, 3000):
        np.testing.assert_array_equal(nearest_topk(x, c, k).index[1], np.arange(2999, 2999 - k, -1))
        np.testing.assert_array_equal(nearest_topk(x, c[::-1], k).index[2], np.arange(k))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_that_are_not_finite(backend, rng, bad, dtype, metric):
    x, c = with_bad_vectors(rng, backend, bad)
    (x, x64), (c, c64) = as_dtype(x, dtype), as_dtype(c, dtype)
    order, value = ranked(x64, c64, metric)
    for k in (1, 3, c.shape[1]):
        index, best = on_host(nearest_topk(x, c, k, metric))
        np.testing.assert_array_equal(index, order[..., :k])
        np.testing.assert_array_equal(best, value[..., :k])
    assert (index[0, 3] == -1).all()
    assert (index[1, 1:, 1:] == -1).all()


@pytest.mark.parametrize("metric", METRICS)
def test_empty_rows_and_no_width(backend, metric):
    found = nearest_topk(np.ones((0, 4), "f"), np.ones((3, 4), "f"), 2, metric)
    assert found.index.shape == found.best.shape == (0, 2)
    found = nearest_topk(np.ones((2, 0), "f"), np.ones((3, 0), "f"), 2, metric)
    assert found.index.tolist() == [[0, 1], [0, 1]]
    assert (found.best == 0).all()


def test_strided_and_broadcast_views(backend, rng):
    base = rng.standard_normal((2, 27, 24)).astype("f")
    for view in (base[:, :, 3:20], base[::-1], base[:, ::3], base[:, :, ::2]):
        x, c = view[:, ::2], view[:, 1::2]
        packed = nearest_topk(np.ascontiguousarray(x), np.ascontiguousarray(c), 3)
        for got, expected in zip(nearest_topk(x, c, 3), packed, strict=True):
            np.testing.assert_array_equal(got, expected)
    shared = base[0, :9]
    np.testing.assert_array_equal(
        nearest_topk(shared, base, 3).index, nearest_topk(np.stack([shared, shared]), base, 3).index
    )


@pytest.mark.parametrize("metric", METRICS)
def test_same_bits_for_any_number_of_threads(rng, metric):
    for width in (5, 70):
        x, c = rng.standard_normal((2, 210, width)).astype("f"), rng.standard_normal((2, 190, width)).astype("f")
        one, two = on_one_and_two_threads(lambda w=(x, c): nearest_topk(*w, 7, metric))
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)


def test_out_is_filled(backend, rng):
    x, c = exact_vectors(rng, 2, 5, 4), exact_vectors(rng, 2, 6, 4)
    out = np.empty((2, 5, 3), np.int64), np.empty((2, 5, 3), np.float32)
    found = nearest_topk(x, c, 3, out=out)
    assert found.index is out[0]
    np.testing.assert_array_equal(out[0], nearest_topk(x, c, 3).index)


X = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        ((X, X, 0), ValueError, r"k must be in \[1, 3\], got 0"),
        ((X, X, 4), ValueError, r"k must be in \[1, 3\], got 4"),
        ((X, X, 1.5), TypeError, "k must be an integer"),
        ((X, X[:0], 1), ValueError, "codes must be at least 1"),
        ((X, X[:, :3], 1), ValueError, "codes must be"),
        ((X, X, 1, "L2"), ValueError, "metric must be 'l2', 'cosine' or 'dot', got 'L2'"),
    ],
)
def test_bad_input(backend, args, error, text):
    with pytest.raises(error, match=f"nearest_topk: {text}"):
        nearest_topk(*args)
