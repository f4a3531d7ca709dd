# SPDX-License-Identifier: Apache-2.0
"""adc_tables on every backend against NumPy in float64 and faiss's answers."""

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels.quantize import adc_tables

SHAPES = [(1, 1, 1, 1), (3, 2, 15, 2), (2, 3, 17, 5), (5, 4, 64, 4), (1, 2, 65, 16), (2, 1, 130, 3)]


def tables_of(queries, centroids, metric, dtype=np.float64):
    parts = queries.astype(dtype).reshape(len(queries), len(centroids), 1, -1)
    c = centroids.astype(dtype)
    return ((parts - c) ** 2).sum(-1) if metric == "l2" else (parts * c).sum(-1)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("metric", ["l2", "dot"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_float64(backend, shape, metric, dtype, rng):
    b, m, k, d = shape
    queries, centroids = (rng.standard_normal(s).astype(dtype) for s in ((b, m * d), (m, k, d)))
    got = adc_tables(queries, centroids, metric)
    assert tokernel.last_backend() == backend
    want = tables_of(queries, centroids, metric)
    naive = tables_of(queries, centroids, metric, np.float32)
    scale = np.abs(want).max() + np.abs(queries).max() ** 2
    assert got.dtype == np.float32
    assert np.abs(got - want).max() <= 2 * np.abs(naive - want).max() + 1e-7 * scale


def test_official_tables(backend, golden):
    with np.load(golden / "quantizers" / "faiss_pq.npz") as g:
        np.testing.assert_allclose(adc_tables(g["queries"], g["centroids"]), g["tables"], rtol=1e-5, atol=1e-5)


def test_strided_views(backend, rng):
    wide, books = (rng.standard_normal(s).astype(np.float32) for s in ((6, 9), (2, 10, 5)))
    queries, centroids = wide[::2, 1:7], books[:, ::2, 1:4]
    np.testing.assert_array_equal(adc_tables(queries, centroids), adc_tables(queries.copy(), centroids.copy()))


def test_nan_and_nothing(backend):
    queries = np.array([[1.0, np.nan]], np.float32)
    got = adc_tables(queries, np.ones((2, 3, 1), np.float32))
    np.testing.assert_array_equal(got, [[[0, 0, 0], [np.nan] * 3]])
    assert adc_tables(queries[:0], np.ones((2, 3, 1), np.float32)).shape == (0, 2, 3)
    assert adc_tables(queries, np.ones((2, 0, 1), np.float32)).shape == (1, 2, 0)
    np.testing.assert_array_equal(adc_tables(queries[:, :0], np.ones((2, 3, 0), np.float32)), np.zeros((1, 2, 3)))


def test_bad_input(backend):
    with pytest.raises(ValueError, match=r"^adc_tables: queries must be of rows of 2 parts of width 1, got 3 "):
        adc_tables(np.zeros((1, 3), np.float32), np.zeros((2, 3, 1), np.float32))
    with pytest.raises(ValueError, match=r"^adc_tables: metric must be 'l2' or 'dot', got 'cosine'$"):
        adc_tables(np.zeros((1, 2), np.float32), np.zeros((2, 3, 1), np.float32), "cosine")


def test_threads_do_not_matter(rng):
    queries, centroids = (rng.standard_normal(s).astype(np.float32) for s in ((40, 32), (8, 256, 4)))
    one, two = on_one_and_two_threads(lambda: adc_tables(queries, centroids))
    np.testing.assert_array_equal(one, two)
