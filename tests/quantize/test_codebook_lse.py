# SPDX-License-Identifier: Apache-2.0
"""codebook_lse on every backend against NumPy in float64."""

import numpy as np
import pytest
from bits import on_one_and_two_threads
from soft_oracle import METRICS, assert_near, soft_codes

import tokernel
from tokernel.kernels.quantize import codebook_entropy, codebook_lse

SHAPES = [(1, 1, 1), (2, 3, 1), (5, 17, 2), (13, 64, 8), (12, 65, 16), (25, 130, 7), (6, 33, 65)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_float64(backend, shape, metric, rng):
    n, k, d = shape
    x, codes = (rng.standard_normal(s).astype(np.float32) for s in ((n, d), (k, d)))
    got = codebook_lse(x, codes, 1.5, metric)
    assert tokernel.last_backend() == backend
    want = soft_codes(x, codes, 1.5, metric)
    naive = soft_codes(x, codes, 1.5, metric, dtype=np.float32)
    assert_near(got.lse, want.lse, naive.lse)
    assert_near(got.best, want.s.max(1), naive.s.max(1))
    gap = want.s.max(1) - np.take_along_axis(want.s, got.index[:, None], 1)[:, 0]
    assert (gap <= 1e-5).all()  # the index is that of the largest score, or of one that float32 cannot tell from it
    assert got.index.dtype == np.int64


@pytest.mark.parametrize("metric", METRICS)
def test_ties_go_to_the_lowest_index(backend, metric, rng):
    codes = rng.integers(-2, 3, (40, 3)).astype(np.float32)
    codes = np.concatenate([codes, codes, codes[::-1]])
    x = rng.integers(-2, 3, (30, 3)).astype(np.float32)
    got = codebook_lse(x, codes, 1.0, metric)
    if metric == "cosine":  # equal codes have equal scores, whatever these are
        assert (got.index < 40).all()
    else:
        np.testing.assert_array_equal(got.index, soft_codes(x, codes, 1.0, metric).s.argmax(1))


def test_many_codes(backend, rng):
    k = 5000 if backend != "simt" else 300
    x, codes = (rng.standard_normal(s).astype(np.float32) for s in ((3, 8), (k, 8)))
    for where in (0, k // 2, k - 1):
        codes[where] = 10 * x[1]
        got, want = codebook_lse(x, codes), soft_codes(x, codes)
        np.testing.assert_array_equal(got.index, want.s.argmax(1))
        np.testing.assert_allclose(got.lse, want.lse, rtol=1e-6)
        codes[where] = 0


def test_lse_is_that_of_codebook_entropy(backend, rng):
    x, codes = (rng.standard_normal(s).astype(np.float32) for s in ((9, 8), (70, 8)))
    np.testing.assert_allclose(codebook_lse(x, codes, 3.0).lse, codebook_entropy(x, codes, 3.0).lse, rtol=1e-6)


def test_the_index_follows_lengths_of_codes(backend):
    """Neither a constant added to all logits nor the temperature changes it, but the length of a code does."""
    x = np.array([[1.0, 0.0]], np.float32)
    codes = np.array([[1.0, 0.0], [0.9, 3.0]], np.float32)
    assert [codebook_lse(x, codes, t).index[0] for t in (0.0, 1.0, 100.0)] == [0, 0, 0]
    codes[1] *= 2
    assert codebook_lse(x, codes).index[0] == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_what_is_not_finite(backend, metric, bad, rng):
    x, codes = (rng.standard_normal(s).astype(np.float32) for s in ((15, 3), (40, 3)))
    want = codebook_lse(x, codes, 1.0, metric)
    x[4, 1] = bad
    got = codebook_lse(x, codes, 1.0, metric)
    assert np.isnan([got.lse[4], got.best[4]]).all()
    assert got.index[4] == 0
    for ours, before in zip(got, want, strict=True):
        np.testing.assert_array_equal(np.delete(ours, 4), np.delete(before, 4))
    codes[35, 0] = bad
    got = codebook_lse(x, codes, 1.0, metric)
    assert np.isnan([got.lse, got.best]).all()
    assert (got.index == 0).all()


def test_halves_books_and_no_rows(backend, rng):
    x, codes = (rng.standard_normal(s).astype(np.float16) for s in ((2, 9, 6), (2, 30, 6)))
    got = codebook_lse(x[..., 1:5], codes[..., 1:5], 2.0, "l2")
    for q in range(2):
        want = soft_codes(x[q, :, 1:5], codes[q, :, 1:5], 2.0, "l2")
        np.testing.assert_allclose(got.lse[q], want.lse, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(got.index[q], want.s.argmax(1))
    assert (got.best <= 0).all()
    shared = codebook_lse(x[0], codes)
    assert shared.lse.shape == (2, 9)
    assert [y.shape for y in codebook_lse(x[0, :0], codes[0])] == [(0,)] * 3


def test_bits_do_not_depend_on_threads(backend, rng):
    n, k = (50, 400) if backend != "simt" else (5, 70)
    x, codes = (rng.standard_normal(s).astype(np.float32) for s in ((n, 8), (k, 8)))
    for one, two in zip(*on_one_and_two_threads(lambda: codebook_lse(x, codes, 2.0, "l2")), strict=True):
        np.testing.assert_array_equal(one, two)


def test_refuses(backend):
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"codebook_lse: codes must be at least one code, got none"):
        codebook_lse(x, x[:0])
    with pytest.raises(ValueError, match=r"codebook_lse: metric must be 'dot', 'l2' or 'cosine', got 'l1'"):
        codebook_lse(x, x, metric="l1")
