# SPDX-License-Identifier: Apache-2.0
"""nearest at small widths: rows in lanes and integers first must give the bits of the general search."""

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels.quantize import nearest

NATIVE = [name for name in tokernel.backends()["usable"] if name not in ("ref", "simt", "cuda")]
DTYPES = ["float32", "float16", "bfloat16"]
METRICS = ["l2", "cosine", "dot"]
FEW = 50  # rows that are not worth the way there, so that the general search takes them


@pytest.fixture(params=NATIVE)
def native(request):
    with tokernel.use_backend(request.param):
        yield request.param


def as_dtype(x, dtype):
    """An array of a dtype, and what it holds in float64."""
    if dtype == "bfloat16":
        torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
        y = torch.from_numpy(np.ascontiguousarray(x)).to(torch.bfloat16)
        return y, y.double().numpy()
    y = x.astype(dtype)
    return y, y.astype(np.float64)


def exact_vectors(rng, *shape):
    """Small integers whose norms are powers of two, so that every step is exact and ties abound."""
    counts = rng.choice([c for c in (0, 1, 4, 16) if c <= shape[-1]], shape[:-1])
    signs = rng.choice(np.array([-1, 1], np.float32), shape)
    return rng.permuted(np.where(np.arange(shape[-1]) < counts[..., None], signs, 0), axis=-1).astype(np.float32)


def exact_answer(x, c, metric):
    """Index and best in float64; the lowest index of equals; index 0 and NaN without a finite pair."""
    with np.errstate(invalid="ignore", divide="ignore"):
        products = np.einsum("qnd,qkd->qnk", x, c)
        norms = np.linalg.norm(x, axis=-1)[:, :, None] * np.linalg.norm(c, axis=-1)[:, None]
        cosines = np.where(norms == 0, 0, products / norms)
        distances = np.square(x[:, :, None] - c[:, None]).sum(-1)
    scores = {"l2": distances, "cosine": cosines, "dot": products}[metric]
    finite = np.isfinite(x).all(-1)[:, :, None] & np.isfinite(c).all(-1)[:, None]
    index = np.where(finite, scores if metric == "l2" else -scores, np.inf).argmin(-1)
    best = np.take_along_axis(scores, index[..., None], -1)[..., 0]
    return index, np.where(finite.any(-1), best, np.nan)


def search(x, c, metric):
    return tuple(np.asarray(a) for a in nearest(x, c, metric)[:2])


def check_bits(x, c, metric):
    """Every answer is that of a search with few rows."""
    index, best = search(x, c, metric)
    few = [search(x[:, i : i + FEW], c, metric) for i in range(0, x.shape[1], FEW)]
    np.testing.assert_array_equal(index, np.concatenate([f[0] for f in few], 1))
    np.testing.assert_array_equal(best, np.concatenate([f[1] for f in few], 1))
    return index, best


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_widths(native, rng, dtype, metric):
    for width in range(1, 18):
        for rows, codes in ((64 + width, 256 + 3 * width), (145 - width, 421 + width)):
            x = as_dtype(rng.standard_normal((1, rows, width)), dtype)[0]
            c = as_dtype(rng.standard_normal((1, codes, width)), dtype)[0]
            check_bits(x, c, metric)


@pytest.mark.parametrize("codes", [256, 257, 271, 272, 273, 287, 288, 289, 305, 2000])
def test_tails_of_codes(native, rng, codes):
    x = rng.standard_normal((1, 65, 6)).astype(np.float32)
    c = 9 + rng.random((1, codes, 6)).astype(np.float32)
    c[0, -1] = 0  # the last one is the nearest
    assert (check_bits(x, c, "l2")[0] == codes - 1).all()


@pytest.mark.parametrize("rows", [63, 64, 65, 79, 80, 81, 127, 128, 129, 160, 191, 193])
def test_tails_of_rows(native, rng, rows):
    c = rng.standard_normal((1, 300, 8)).astype(np.float32)
    x = c[:, (np.arange(rows) * 7) % 300]
    index, best = check_bits(x, c, "l2")
    np.testing.assert_array_equal(index[0], (np.arange(rows) * 7) % 300)
    assert best.max() < 1e-5


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_data_ties_to_the_lowest(native, rng, dtype, metric):
    for width in (1, 2, 3, 4, 5, 8, 11, 16):
        x, x64 = as_dtype(exact_vectors(rng, 2, 130, width), dtype)
        c, c64 = as_dtype(exact_vectors(rng, 2, 700, width), dtype)
        index, best = search(x, c, metric)
        expected_index, expected = exact_answer(x64, c64, metric)
        np.testing.assert_array_equal(index, expected_index)
        np.testing.assert_array_equal(best, expected)


@pytest.mark.parametrize("metric", METRICS)
def test_against_float64(native, rng, metric):
    """What rounding may do: sums of D products in float32 for the product and both norms."""
    for width in (1, 2, 3, 4, 7, 8, 16):
        x = rng.standard_normal((2, 140, width)).astype(np.float32)
        c = rng.standard_normal((2, 333, width)).astype(np.float32)
        index, best = search(x, c, metric)
        every = [exact_answer(x.astype(float), c[:, k : k + 1].astype(float), metric)[1] for k in range(333)]
        scores = np.stack(every, -1)
        expected = scores.min(-1) if metric == "l2" else scores.max(-1)
        norms = np.square(x).sum(-1) + np.square(c).sum(-1).max(-1)[:, None]
        allowed = 2 * (width + 8) * 2.0**-24 * (1 if metric == "cosine" else norms)
        np.testing.assert_array_less(np.abs(best - expected), allowed)
        chosen = np.take_along_axis(scores, index[..., None], -1)[..., 0]
        np.testing.assert_array_less(np.abs(chosen - expected), 2 * allowed)


def test_books_share_rows_and_views_are_strided(native, rng):
    x = rng.standard_normal((90, 24)).astype(np.float32)
    c = rng.standard_normal((3, 320, 19)).astype(np.float32)
    index, best = (np.asarray(a) for a in nearest(x[:, 5:13], c[:, ::-1, 9:17])[:2])
    assert index.shape == (3, 90)
    for q in range(3):
        own = nearest(np.ascontiguousarray(x[:, 5:13]), np.ascontiguousarray(c[q, ::-1, 9:17]))
        np.testing.assert_array_equal(index[q], own.index)
        np.testing.assert_array_equal(best[q], own.best)


def test_equal_codes_far_apart(native, rng):
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
    for rows, codes in cases:
        check_bits(rows.astype(np.float32), codes.astype(np.float32), metric)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e25])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("width", [1, 3, 8, 16])
def test_vectors_that_are_not_finite(native, rng, bad, width, metric):
    x, c = exact_vectors(rng, 2, 150, width), exact_vectors(rng, 2, 310, width)
    x[0, 3, 0] = x[0, 100, width - 1] = c[0, 0, width - 1] = c[0, 7, 0] = c[0, 309, 0] = bad
    c[1] = np.where(np.arange(310)[:, None] == 305, c[1], bad)
    index, best = check_bits(x, c, metric)
    if bad != 1e25:
        expected_index, expected = exact_answer(x.astype(float), c.astype(float), metric)
        np.testing.assert_array_equal(index, expected_index)
        np.testing.assert_array_equal(best, expected)
    c[:] = bad
    if bad != 1e25 or metric != "cosine":
        assert np.isnan(check_bits(x, c, metric)[1]).all()


def test_many_codes_and_bits_on_two_threads(native, rng):
    """More panels than bounds are kept of at once."""
    x = rng.standard_normal((1, 200, 5)).astype(np.float32)
    c = rng.standard_normal((1, 40000, 5)).astype(np.float32)
    c[0, 36000:] = c[0, :4000]
    index, best = check_bits(x, c, "l2")
    for answer in on_one_and_two_threads(lambda: search(x, c, "l2")):
        np.testing.assert_array_equal(answer[0], index)
        np.testing.assert_array_equal(answer[1], best)
