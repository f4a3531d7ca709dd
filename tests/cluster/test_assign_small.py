# SPDX-License-Identifier: Apache-2.0
"""assign at small widths: rows in lanes and integers first must give the bits of the general search."""

import numpy as np
import pytest
from bits import on_one_and_two_threads
from cluster_cases import DTYPES, METRICS, as_dtype, exact_vectors, nearest

import tokernel
from tokernel.kernels.cluster import assign

NATIVE = [name for name in tokernel.backends()["usable"] if name not in ("ref", "simt", "cuda")]
FEW = 50  # rows that are not worth the way there, so that the general search takes them


@pytest.fixture(params=NATIVE)
def native(request):
    with tokernel.use_backend(request.param):
        yield request.param


def check_bits(x, c, metric):
    """Every answer is that of a search with few rows."""
    labels, best = (np.asarray(a) for a in assign(x, c, metric))
    few = [assign(x[:, i : i + FEW], c, metric) for i in range(0, x.shape[1], FEW)]
    np.testing.assert_array_equal(labels, np.concatenate([np.asarray(f[0]) for f in few], 1))
    np.testing.assert_array_equal(best, np.concatenate([np.asarray(f[1]) for f in few], 1))
    return labels, best


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_widths(native, rng, dtype, metric):
    for width in range(1, 18):
        for rows, clusters in ((64 + width, 256 + 3 * width), (145 - width, 421 + width)):
            x = as_dtype(rng.standard_normal((1, rows, width)), dtype)[0]
            c = as_dtype(rng.standard_normal((1, clusters, width)), dtype)[0]
            check_bits(x, c, metric)


@pytest.mark.parametrize("clusters", [256, 257, 271, 272, 273, 287, 288, 289, 305, 2000])
def test_tails_of_centroids(native, rng, clusters):
    x = rng.standard_normal((1, 65, 6)).astype(np.float32)
    c = 9 + rng.random((1, clusters, 6)).astype(np.float32)
    c[0, -1] = 0  # the last one is the nearest
    assert (check_bits(x, c, "l2")[0] == clusters - 1).all()


@pytest.mark.parametrize("rows", [63, 64, 65, 79, 80, 81, 127, 128, 129, 160, 191, 193])
def test_tails_of_rows(native, rng, rows):
    c = rng.standard_normal((1, 300, 8)).astype(np.float32)
    x = c[:, (np.arange(rows) * 7) % 300]
    labels, best = check_bits(x, c, "l2")
    np.testing.assert_array_equal(labels[0], (np.arange(rows) * 7) % 300)
    assert best.max() < 1e-5


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_data_ties_to_the_lowest(native, rng, dtype, metric):
    for width in (1, 2, 3, 4, 5, 8, 11, 16):
        x, x64 = as_dtype(exact_vectors(rng, 2, 130, width), dtype)
        c, c64 = as_dtype(exact_vectors(rng, 2, 700, width), dtype)
        labels, best = (np.asarray(a) for a in assign(x, c, metric))
        expected_labels, expected = nearest(x64, c64, metric)
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(best, expected)


def test_equal_centroids_far_apart(native, rng):
    x = rng.standard_normal((1, 200, 8)).astype(np.float32)
    c = np.tile(rng.standard_normal((1, 130, 8)).astype(np.float32), (1, 5, 1))
    assert check_bits(x, c, "l2")[0].max() < 130
    same = np.broadcast_to(c[:, :1], (1, 600, 8))
    assert (check_bits(x, same, "l2")[0] == 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("width", [1, 2, 4, 8, 13, 16])
def test_data_of_which_integers_say_little(native, rng, width, metric):
    x = rng.standard_normal((1, 150, width))
    c = rng.standard_normal((1, 400, width))
    twins = c.copy()
    twins[:, 200:] = c[:, :200] * (1 + 2.0**-22)
    uneven = c * 10.0 ** rng.uniform(-3, 2, (1, 400, 1))
    lone = c.copy()
    lone[0, 399] = 1e6
    tall = x * 10.0 ** rng.uniform(-4, 4, (1, 150, 1))
    cases = [(x, c), (x + 50, c + 50), (1e-4 * x + 1, 1e-4 * c + 1), (1e3 * x, c), (x, 1e3 * c), (x, twins)]
    cases += [(x, uneven), (uneven[:, :150], c), (x, lone), (tall, c), (tall, uneven), (x, 0 * c), (0 * x, c)]
    cases += [(s * x, c) for s in (1e-13, 1e-19, 1e13)] + [(x, s * c) for s in (1e-13, 1e-18, 1e13)]
    cases += [(s * x, s * c) for s in (1e-17, 1e17)]
    for rows, centroids in cases:
        check_bits(rows.astype(np.float32), centroids.astype(np.float32), metric)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e25])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("width", [1, 3, 8, 16])
def test_vectors_that_are_not_finite(native, rng, bad, width, metric):
    x, c = exact_vectors(rng, 2, 150, width), exact_vectors(rng, 2, 310, width)
    x[0, 3, 0] = x[0, 100, width - 1] = c[0, 0, width - 1] = c[0, 7, 0] = c[0, 309, 0] = bad
    c[1] = np.where(np.arange(310)[:, None] == 305, c[1], bad)
    labels, best = check_bits(x, c, metric)
    if bad != 1e25:
        expected_labels, expected = nearest(x.astype(float), c.astype(float), metric)
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(best, expected)
    c[:] = bad
    if bad != 1e25 or metric == "l2":
        assert np.isnan(check_bits(x, c, metric)[1]).all()


def test_many_centroids_and_bits_on_two_threads(native, rng):
    """More panels than bounds are kept of at once."""
    x = rng.standard_normal((1, 200, 5)).astype(np.float32)
    c = rng.standard_normal((1, 40000, 5)).astype(np.float32)
    c[0, 36000:] = c[0, :4000]
    labels, best = check_bits(x, c, "l2")
    for answer in on_one_and_two_threads(lambda: assign(x, c)):
        np.testing.assert_array_equal(answer[0], labels)
        np.testing.assert_array_equal(answer[1], best)
