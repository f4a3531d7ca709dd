# SPDX-License-Identifier: Apache-2.0
"""nearest: every backend against float64, and exactly where the arithmetic is exact."""

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
from tokernel.kernels.quantize import nearest


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_float64(backend, rng, dtype, metric):
    for size in sizes_for(backend):
        x, c, x64, c64 = both(rng, lambda *s: rng.standard_normal(s), size, dtype)
        index, best, second, second_best = on_host(nearest(x, c, metric, second=True))
        assert tokernel.last_backend() == backend
        slots = np.zeros((*index.shape, 1), int)
        assert_ranked(index[..., None], best[..., None], slots, x64, c64, metric)
        plain = on_host(nearest(x, c, metric))
        assert plain[2:] == (None, None)
        assert_ranked(plain[0][..., None], plain[1][..., None], slots, x64, c64, metric)
        if size[2] > 1:
            assert_ranked(second[..., None], second_best[..., None], slots + 1, x64, c64, metric)
            assert (second != index).all()
        else:
            assert (second == -1).all()
            assert np.isnan(second_best).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_and_lowest_index_on_exact_data(backend, rng, dtype, metric):
    for size in sizes_for(backend):
        x, c, x64, c64 = both(rng, lambda *s: exact_vectors(rng, *s), size, dtype)
        order, value = ranked(x64, c64, metric)
        found = on_host(nearest(x, c, metric, second=True))
        for i in range(min(2, size[2])):
            np.testing.assert_array_equal(found[2 * i], order[..., i])
            np.testing.assert_array_equal(found[2 * i + 1], value[..., i])
        np.testing.assert_array_equal(on_host(nearest(x, c, metric))[:2], found[:2])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_with_and_without_the_second_the_bits_are_the_same(rng, dtype, metric):
    """Large enough that products of rounded pairs come first where a processor has them."""
    for offset in (0, 20):
        x, c, _, _ = both(rng, lambda *s, o=offset: rng.standard_normal(s) + o, (1, 700, 390, 49), dtype)
        plain, two = on_host(nearest(x, c, metric)), on_host(nearest(x, c, metric, True))
        np.testing.assert_array_equal(plain[0], two[0])
        np.testing.assert_array_equal(plain[1], two[1])


def test_golden_ties(backend, golden):
    """Codebooks with exact duplicates: the lowest index is the required answer."""
    case = np.load(golden / "quantizers" / "nearest_ties.npz")
    index, best, second, second_best = nearest(case["x"], case["codebook"], second=True)
    np.testing.assert_array_equal(index, case["indices_lowest"])
    np.testing.assert_array_equal(best, case["sq_dist"].min(-1) if case["sq_dist"].ndim > 1 else case["sq_dist"])
    order, value = ranked(case["x"][None].astype(float), case["codebook"][None].astype(float), "l2")
    np.testing.assert_array_equal(second, order[0, :, 1])
    np.testing.assert_array_equal(second_best, value[0, :, 1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_codes_tie_to_the_lowest(backend, rng, dtype, metric):
    few = backend in ("ref", "simt")
    for width in (3, 37):
        copies = np.repeat(rng.standard_normal((1, width)), 35 if few else 300, axis=0)
        rows = rng.standard_normal((19 if few else 100, width))
        found = on_host(nearest(as_dtype(rows, dtype)[0], as_dtype(copies, dtype)[0], metric, True))
        assert (found[0] == 0).all()
        assert (found[2] == 1).all()
        np.testing.assert_array_equal(found[1], found[3])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_that_are_not_finite(backend, rng, bad, dtype, metric):
    x, c = with_bad_vectors(rng, backend, bad)
    (x, x64), (c, c64) = as_dtype(x, dtype), as_dtype(c, dtype)
    order, value = ranked(x64, c64, metric)
    for found in (on_host(nearest(x, c, metric)), on_host(nearest(x, c, metric, True))):
        np.testing.assert_array_equal(found[0], np.maximum(order[..., 0], 0))
        np.testing.assert_array_equal(found[1], value[..., 0])
    np.testing.assert_array_equal(found[2], order[..., 1])
    np.testing.assert_array_equal(found[3], value[..., 1])
    assert (found[2][1] == -1).all()
    none = np.full_like(np.asarray(x64[0, :2], np.float32), bad)
    index, best, _, _ = on_host(nearest(np.ones_like(none), none, metric))
    assert (index == 0).all()
    assert np.isnan(best).all()


@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_norms_that_overflow_are_not_finite(backend, metric):
    x = np.array([[1e25, 0], [1, 0]], np.float32)
    c = np.array([[2e24, 0], [3, 0]], np.float32)
    index, best, second, _ = nearest(x, c, metric, second=True)
    assert (index.tolist(), second.tolist()) == ([0, 1], [-1, -1])
    np.testing.assert_array_equal(best, [np.nan, 4 if metric == "l2" else 3])


@pytest.mark.parametrize("metric", METRICS)
def test_zero_vectors_and_no_width(backend, metric):
    x = np.array([[0, 0], [1, 0], [-1, 0]], np.float32)
    c = np.array([[-1, 0], [0, 0], [0, 0]], np.float32)
    want = {
        "cosine": ([0, 1, 0], [0, 0, 1]),
        "l2": ([1, 1, 0], [0, 1, 0]),
        "dot": ([0, 1, 0], [0, 0, 1]),
    }[metric]
    index, best, _, _ = nearest(x, c, metric)
    assert (index.tolist(), best.tolist()) == want
    for found in (nearest(x[:, :0], c[:, :0], metric), nearest(x[:, :0], c[:, :0], metric, True)):
        assert (found.index == 0).all()
        assert (found.best == 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4)])
def test_nothing_to_look_for(backend, shape, metric):
    books, rows, codes, width = shape
    found = nearest(np.ones((books, rows, width), "f"), np.ones((books, codes, width), "f"), metric, True)
    assert [f.shape for f in found] == [(books, rows)] * 4
    assert nearest(np.ones((0, 4), "f"), np.ones((3, 4), "f"), metric).index.shape == (0,)


@pytest.mark.parametrize("metric", METRICS)
def test_one_code(backend, metric):
    x = np.array([[1, 2], [3, 4]], np.float32)
    index, _, second, second_best = nearest(x, x[:1], metric, second=True)
    assert (index.tolist(), second.tolist()) == ([0, 0], [-1, -1])
    assert np.isnan(second_best).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_strided_and_broadcast_views(backend, rng, dtype, metric):
    base = rng.standard_normal((2, 27, 24)).astype(dtype)
    for view in (base[:, :, 3:20], base[:, 1:, :8], base[::-1], base[:, ::3], base[:, :, ::2]):
        x, c = view[:, ::2], view[:, 1::2]
        packed = nearest(np.ascontiguousarray(x), np.ascontiguousarray(c), metric, True)
        for got, expected in zip(nearest(x, c, metric, True), packed, strict=True):
            np.testing.assert_array_equal(got, expected)
    shared, one = base[0, :9], base[1]
    for got, expected in zip(
        nearest(shared, base, metric, True), nearest(np.stack([shared, shared]), base, metric, True), strict=True
    ):
        np.testing.assert_array_equal(got, expected)
    for got, expected in zip(nearest(base, one, metric), nearest(base, np.stack([one, one]), metric), strict=True):
        assert got is expected or np.array_equal(got, expected)
    np.testing.assert_array_equal(nearest(base[0], one, metric).index, nearest(base, one, metric).index[0])
    row = np.broadcast_to(base[0, :1], (7, 24))
    np.testing.assert_array_equal(nearest(row, one, metric).index, nearest(base[0, :1], one, metric).index.repeat(7))


@pytest.mark.parametrize("metric", METRICS)
def test_permuting_the_codebook_permutes_the_index(backend, rng, metric):
    x, c = rng.standard_normal((20, 6)).astype("f"), rng.standard_normal((40, 6)).astype("f")
    perm = rng.permutation(40)
    plain, moved = nearest(x, c, metric, True), nearest(x, c[perm], metric, True)
    np.testing.assert_array_equal(perm[moved.index], plain.index)
    np.testing.assert_array_equal(perm[moved.second], plain.second)
    np.testing.assert_array_equal(moved.best, plain.best)


def test_cosine_ignores_positive_scale(backend, rng):
    x, c = rng.standard_normal((20, 6)).astype("f"), rng.standard_normal((40, 6)).astype("f")
    scale = 2.0 ** rng.integers(-20, 20, (20, 1)).astype("f")  # exact, so that no near tie can flip
    plain = nearest(x, c, "cosine")
    np.testing.assert_array_equal(nearest(x * scale, c, "cosine").index, plain.index)
    np.testing.assert_allclose(nearest(x * 3, c, "cosine").best, plain.best, rtol=1e-5)


def test_a_code_is_nearest_to_itself(backend, rng):
    c = rng.standard_normal((50, 7)).astype("f")
    np.testing.assert_array_equal(nearest(c, c).index, np.arange(50))
    np.testing.assert_array_equal(nearest(c, c, "cosine").index, np.arange(50))


@pytest.mark.parametrize("metric", METRICS)
def test_same_bits_for_any_number_of_threads(rng, metric):
    for width in (5, 70):
        x, c = rng.standard_normal((3, 410, width)).astype("f"), rng.standard_normal((3, 190, width)).astype("f")
        for second in (False, True):
            one, two = on_one_and_two_threads(lambda w=(x, c), s=second: nearest(*w, metric, s))
            for a, b in zip(one, two, strict=True):
                assert a is b or np.array_equal(a, b)


def test_out_is_filled(backend, rng):
    x, c = exact_vectors(rng, 2, 5, 4), exact_vectors(rng, 2, 6, 4)
    out = tuple(np.empty((2, 5), t) for t in (np.int64, np.float32, np.int64, np.float32))
    found = nearest(x, c, second=True, out=out)
    assert all(a is b for a, b in zip(found, out, strict=True))
    np.testing.assert_array_equal(out[0], nearest(x, c, out=out[:2]).index)


X = np.ones((2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        (([1.0], X), TypeError, "x must be an array"),
        ((X[0, 0], X), ValueError, "x must be"),
        ((X, X[:1]), ValueError, "codes must be"),
        ((X, X[:, :, :3]), ValueError, "codes must be"),
        ((X[0], X[0, :, :3]), ValueError, "codes must be"),
        ((X, X[:, :0]), ValueError, "codes must be at least 1"),
        ((X[0], X[0, :0]), ValueError, "codes must be at least 1"),
        ((X, X.astype(np.float16)), TypeError, "codes must be float32"),
        ((X.astype(np.int32), X), TypeError, "x must be float32, float16 or bfloat16"),
        ((X.astype(np.float64), X), TypeError, "x must be"),
        ((X, X, "manhattan"), ValueError, "metric must be 'l2', 'cosine' or 'dot', got 'manhattan'"),
    ],
)
def test_bad_input(backend, args, error, text):
    with pytest.raises(error, match=f"nearest: {text}"):
        nearest(*args)


def test_nan_is_an_error_on_request():
    spoiled = X.copy()
    spoiled[1, 2, 3] = np.nan
    with tokernel.check_finite(), pytest.raises(ValueError, match="nearest: codes must be finite"):
        nearest(X, spoiled)
