# SPDX-License-Identifier: Apache-2.0
"""assign: every backend against float64, and exactly where the arithmetic is exact."""

import numpy as np
import pytest
from cluster_cases import DTYPES, METRICS, as_dtype, bound, exact_vectors, nearest, scores

import tokernel
from tokernel.kernels.cluster import assign

SIZES = [(1, 1, 1, 1), (2, 1, 2, 3), (2, 5, 7, 15), (1, 13, 16, 16), (1, 12, 17, 33), (2, 16, 31, 8), (1, 17, 33, 65)]
SIMT_SIZES = [(1, 66, 130, 36)]  # more than one tile of rows, of centroids and of d
NATIVE_SIZES = [(2, 131, 97, 64), (1, 48, 300, 130), (40, 9, 20, 5), (3, 300, 260, 40), (1, 7, 40, 1283)]
LARGE = (1, 1000, 515, 67)  # cut into row blocks; enough centroids that products of rounded pairs come first


def sizes_for(backend):
    return SIZES + (SIMT_SIZES if backend == "simt" else [*NATIVE_SIZES, LARGE] if backend != "ref" else NATIVE_SIZES)


def on_host(answer):
    return tuple(np.asarray(a) for a in answer)


def check(x, c, x64, c64, metric):
    labels, best = on_host(assign(x, c, metric))
    assert (labels.dtype, best.dtype) == (np.int64, np.float32)
    s, allowed = scores(x64, c64, metric), bound(x64, c64, metric)
    _, expected = nearest(x64, c64, metric)
    np.testing.assert_array_less(np.abs(best - expected), allowed + 1e-30)
    chosen = np.take_along_axis(s, labels[..., None], -1)[..., 0]
    np.testing.assert_array_less(np.abs(chosen - expected), 2 * allowed + 1e-30)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_float64(backend, rng, dtype, metric):
    for batch, rows, clusters, width in sizes_for(backend):
        x, x64 = as_dtype(rng.standard_normal((batch, rows, width)), dtype)
        c, c64 = as_dtype(rng.standard_normal((batch, clusters, width)), dtype)
        check(x, c, x64, c64, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_and_lowest_index_on_exact_data(backend, rng, dtype, metric):
    for batch, rows, clusters, width in sizes_for(backend):
        x, x64 = as_dtype(exact_vectors(rng, batch, rows, width), dtype)
        c, c64 = as_dtype(exact_vectors(rng, batch, clusters, width), dtype)
        labels, best = on_host(assign(x, c, metric))
        expected_labels, expected = nearest(x64, c64, metric)
        np.testing.assert_array_equal(best, expected)
        np.testing.assert_array_equal(labels, expected_labels)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_large_problems_have_the_bits_of_small_ones(rng, dtype, metric):
    """No answer may depend on whether rounded pairs were looked at first. Far from the origin these say little; where
    norms differ widely, or centroids by their last bits, they must not say too much."""
    x = rng.standard_normal((1, 700, 49))
    c = rng.standard_normal((1, 390, 49))
    c[:, 130:260] = c[:, :130]
    twins = c.copy()
    twins[:, 260:] = c[:, :130] * (1 + 2.0**-22)
    uneven = c * 10.0 ** rng.uniform(-3, 2, (1, 390, 1))
    cases = [(x, c), (x + 50, c + 50), (1e-3 * x, 1e-3 * c), (1e-4 * x + 1, 1e-4 * c + 1), (1e2 * x, 1e2 * c)]
    cases += [(x, twins), (x, uneven), (x + 3, uneven), (uneven, c), (x, np.zeros_like(c)), (np.zeros_like(x), c)]
    if dtype == "float32":
        huge = np.where(np.arange(390)[:, None] % 3 == 0, 1e16, 1) * c
        cases += [(scale * x, c) for scale in (1e-13, 1e-16, 1e-19, 1e-20, 1e-22)]
        cases += [(x, 1e-18 * c), (x, 1e-21 * c), (1e-19 * x, 1e-19 * c), (1e16 * x, huge), (x, huge)]
    for rows, centroids in cases:
        a, b = as_dtype(rows, dtype)[0], as_dtype(centroids, dtype)[0]
        labels, best = assign(a, b, metric)
        few = [assign(a[:, i : i + 20], b, metric) for i in range(0, a.shape[1], 20)]  # too few rows for two passes
        np.testing.assert_array_equal(labels, np.concatenate([f[0] for f in few], 1))
        np.testing.assert_array_equal(best, np.concatenate([f[1] for f in few], 1))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_many_short_samples(backend, rng, dtype):
    """Enough blocks that a CUDA block walks over more than one tile of centroids."""
    x = np.tile(np.array([1, 1, 1, 1], np.float32), (96, 1, 1))
    c = exact_vectors(rng, 96, 130, 4)
    c[np.arange(96), np.arange(96) + 20] = 1  # each sample's nearest centroid is another one
    labels, best = assign(x.astype(dtype), c.astype(dtype))
    expected_labels, expected = nearest(x.astype(float), c.astype(float), "l2")
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(best, expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_centroids_tie_to_the_lowest(backend, rng, dtype, metric):
    centroid = rng.standard_normal((1, 1, 37))
    copies = np.repeat(centroid, 35 if backend == "simt" else 300, axis=1)
    rows = rng.standard_normal((1, 19 if backend == "simt" else 100, 37))
    x, c = as_dtype(rows, dtype)[0], as_dtype(copies, dtype)[0]
    assert (np.asarray(assign(x, c, metric)[0]) == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_that_are_not_finite(backend, rng, bad, dtype, metric):
    rows, clusters = (9, 18) if backend == "simt" else (150, 290)
    x, c = exact_vectors(rng, 2, rows, 17), exact_vectors(rng, 2, clusters, 17)
    x[0, 3, 5] = c[0, 0, 16] = c[0, 7, 0] = c[1, 17, 3] = bad
    c[1] = np.where(np.arange(clusters)[:, None] == 17, c[1], bad)  # no centroid of the second sample is finite
    (x, x64), (c, c64) = as_dtype(x, dtype), as_dtype(c, dtype)
    labels, best = on_host(assign(x, c, metric))
    expected_labels, expected = nearest(x64, c64, metric)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(best, expected)
    assert np.isnan(best[0, 3])
    assert labels[0, 3] == 0
    assert np.isnan(best[1]).all()


def test_norms_that_overflow_are_not_finite(backend):
    x = np.array([[[1e25, 0], [1, 0]]], np.float32)
    c = np.array([[[2e24, 0], [3, 0]]], np.float32)
    labels, best = assign(x, c)
    assert labels.tolist() == [[0, 1]]
    np.testing.assert_array_equal(best, [[np.nan, 4]])


def test_zero_vectors(backend):
    x = np.array([[[0, 0], [1, 0], [-1, 0]]], np.float32)
    c = np.array([[[-1, 0], [0, 0], [0, 0]]], np.float32)
    labels, best = assign(x, c, "cosine")
    assert (labels.tolist(), best.tolist()) == ([[0, 1, 0]], [[0, 0, 1]])
    labels, best = assign(x, c)
    assert (labels.tolist(), best.tolist()) == ([[1, 1, 0]], [[0, 1, 0]])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 4, 0), (0, 0, 1, 0)])
def test_empty_extents(backend, shape, metric):
    batch, rows, clusters, width = shape
    labels, best = assign(np.ones((batch, rows, width), "f"), np.ones((batch, clusters, width), "f"), metric)
    assert labels.shape == best.shape == (batch, rows)
    assert (labels == 0).all()
    assert (best == 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_strided_and_offset_views(backend, rng, dtype, metric):
    base = rng.standard_normal((2, 27, 24)).astype(dtype)
    for view in (base[:, :, 3:20], base[:, 1:, :8], base[::-1], base[:, ::3], base[:, :, ::2]):
        x, c = view[:, ::2], view[:, 1::2]
        packed = assign(np.ascontiguousarray(x), np.ascontiguousarray(c), metric)
        for got, expected in zip(assign(x, c, metric), packed, strict=True):
            np.testing.assert_array_equal(got, expected)
    shared = np.broadcast_to(base[:1], base.shape)
    np.testing.assert_array_equal(assign(base, shared)[0][0], np.arange(27))


@pytest.mark.parametrize("metric", METRICS)
def test_same_bits_for_any_number_of_threads(rng, metric):
    x, c = rng.standard_normal((3, 410, 70)).astype("f"), rng.standard_normal((3, 190, 70)).astype("f")
    answers = []
    for threads in (1, 2, 5):
        tokernel.set_num_threads(threads)
        answers.append(assign(x, c, metric))
    tokernel.set_num_threads(0)
    for labels, best in answers[1:]:
        np.testing.assert_array_equal(labels, answers[0][0])
        np.testing.assert_array_equal(best, answers[0][1])


def test_out_is_filled(backend, rng):
    x, c = exact_vectors(rng, 2, 5, 4), exact_vectors(rng, 2, 6, 4)
    out = np.empty((2, 5), np.int64), np.empty((2, 5), np.float32)
    labels, best = assign(x, c, out=out)
    assert labels is out[0]
    assert best is out[1]
    np.testing.assert_array_equal(labels, assign(x, c)[0])


X = np.ones((2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        (([1.0], X), TypeError, "x must be an array"),
        ((X[0], X), ValueError, "x must be"),
        ((X, X[:1]), ValueError, "centroids must be"),
        ((X, X[:, :, :3]), ValueError, "centroids must be"),
        ((X, X[:, :0]), ValueError, "centroids must be at least 1"),
        ((X, X.astype(np.float16)), TypeError, "centroids must be float32"),
        ((X.astype(np.float64), X), TypeError, "x must be"),
        ((X, X, "manhattan"), ValueError, "metric must be 'l2' or 'cosine', got 'manhattan'"),
    ],
)
def test_bad_input(backend, args, error, text):
    with pytest.raises(error, match=f"assign: {text}"):
        assign(*args)
