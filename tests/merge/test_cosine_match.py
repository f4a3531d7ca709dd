# SPDX-License-Identifier: Apache-2.0
"""cosine_match: every backend against float64, and bit for bit where the arithmetic is exact."""

import numpy as np
import pytest

import tokernel
from tokernel.kernels.merge import cosine_match

DTYPES = ["float32", "float16", "bfloat16"]
SIZES = [(1, 1, 1, 1), (2, 1, 2, 3), (2, 5, 7, 15), (1, 13, 16, 16), (1, 12, 17, 33), (2, 16, 31, 8), (1, 17, 33, 65)]
SIMT_SIZES = [(1, 66, 130, 36)]  # more than one tile of rows, of columns and of d
NATIVE_SIZES = [(2, 131, 97, 64), (1, 48, 300, 130), (40, 9, 20, 5), (3, 300, 260, 40), (1, 7, 40, 1283)]


def sizes_for(backend):
    return SIZES + (SIMT_SIZES if backend == "simt" else NATIVE_SIZES)


def as_dtype(x, dtype):
    """An array of a dtype, and what it holds in float64."""
    if dtype == "bfloat16":
        torch = pytest.importorskip("torch")
        y = torch.from_numpy(x).to(torch.bfloat16)
        return y, y.double().numpy()
    y = x.astype(dtype)
    return y, y.astype(np.float64)


def cosines(a, b):
    """(B, Na, Nb) in float64; 0 for a zero vector, NaN for one that is not finite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        norms = np.linalg.norm(a, axis=-1)[:, :, None] * np.linalg.norm(b, axis=-1)[:, None]
        return np.where(norms == 0, 0, a @ b.swapaxes(1, 2) / norms)


def oracle(a, b, mask_a=None, mask_b=None):
    s = cosines(a, b)
    s = np.where(np.isnan(s), -np.inf, s)
    if mask_b is not None:
        s = np.where(mask_b[:, None, :], s, -np.inf)
    if mask_a is not None:
        s = np.where(mask_a[:, :, None], s, -np.inf)
    score, index = s.max(-1), s.argmax(-1)
    lowest = np.zeros(a.shape[0], int) if mask_b is None else mask_b.argmax(1)
    return score, np.where(score == -np.inf, lowest[:, None], index)


def bound(width):
    """Three sums of `width` float32 products of unit vectors, halved where a root follows, and four roundings."""
    return (2 * width + 8) * 2.0**-24


def exact_vectors(rng, *shape):
    """Small integers whose norms are powers of two, so that every step is exact and ties abound."""
    width = shape[-1]
    counts = rng.choice([c for c in (0, 1, 4, 16) if c <= width], shape[:-1])
    signs = rng.choice(np.array([-1, 1], np.float32), shape)
    return rng.permuted(np.where(np.arange(width) < counts[..., None], signs, 0), axis=-1).astype(np.float32)


def host(x):
    return np.asarray(x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_against_float64(backend, rng, dtype):
    for batch, rows, columns, width in sizes_for(backend):
        a, a64 = as_dtype(rng.standard_normal((batch, rows, width)).astype(np.float32), dtype)
        b, b64 = as_dtype(rng.standard_normal((batch, columns, width)).astype(np.float32), dtype)
        score, index = map(host, cosine_match(a, b))
        best, _ = oracle(a64, b64)
        assert score.dtype == np.float32
        assert index.dtype == np.int64
        np.testing.assert_allclose(score, best, rtol=0, atol=bound(width))
        chosen = np.take_along_axis(cosines(a64, b64), index[:, :, None], 2)[:, :, 0]
        assert (chosen >= best - 2 * bound(width)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_and_lowest_index_on_exact_data(backend, rng, dtype):
    for batch, rows, columns, width in sizes_for(backend):
        a, a64 = as_dtype(exact_vectors(rng, batch, rows, width), dtype)
        b, b64 = as_dtype(exact_vectors(rng, batch, columns, width), dtype)
        score, index = map(host, cosine_match(a, b))
        best, lowest = oracle(a64, b64)
        np.testing.assert_array_equal(score, best)
        np.testing.assert_array_equal(index, lowest)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_many_short_samples(backend, rng, dtype):
    """Enough blocks that a CUDA block walks over more than one tile of columns."""
    a = np.tile(np.array([1, 1, 1, 1], np.float32), (96, 1, 1))
    b = exact_vectors(rng, 96, 130, 4)
    b[np.arange(96), np.arange(96) + 20] = 1  # each sample's best column is another one
    score, index = cosine_match(a.astype(dtype), b.astype(dtype))
    best, lowest = oracle(a.astype(float), b.astype(float))
    np.testing.assert_array_equal(score, best)
    np.testing.assert_array_equal(index, lowest)


def test_equal_columns_tie_to_the_lowest(backend, rng):
    column = rng.standard_normal((1, 1, 37)).astype(np.float32)
    b = np.repeat(column, 70 if backend != "simt" else 35, axis=1)
    a = rng.standard_normal((1, 19, 37)).astype(np.float32)
    assert (cosine_match(a, b)[1] == 0).all()
    b[:, :3] = -column if (a[0, 0] @ column[0, 0]) > 0 else column * 0
    index = cosine_match(a, b)[1]
    assert set(np.unique(index)) <= {0, 3}


def test_masks(backend, rng):
    for batch, rows, columns, width in [(2, 9, 21, 5), (3, 14, 34, 16)]:
        a, b = exact_vectors(rng, batch, rows, width), exact_vectors(rng, batch, columns, width)
        mask_a, mask_b = rng.random((batch, rows)) > 0.3, rng.random((batch, columns)) > 0.5
        mask_b[0] = False
        for used_a, used_b in [(mask_a, None), (None, mask_b), (mask_a, mask_b), (mask_a.astype(np.uint8), mask_b)]:
            score, index = cosine_match(a, b, used_a, used_b)
            bool_a = None if used_a is None else used_a.astype(bool)
            best, lowest = oracle(a.astype(float), b.astype(float), bool_a, used_b)
            np.testing.assert_array_equal(score, best)
            np.testing.assert_array_equal(index, lowest)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_that_are_not_finite_never_match(backend, rng, bad, dtype):
    a, b = exact_vectors(rng, 2, 9, 17), exact_vectors(rng, 2, 18, 17)
    a[0, 3, 5] = b[0, 0, 16] = b[0, 7, 0] = b[1, 17, 3] = bad
    b[1, :17] = np.nan  # one candidate is left, and that one is bad as well
    (a, a64), (b, b64) = as_dtype(a, dtype), as_dtype(b, dtype)
    score, index = map(host, cosine_match(a, b))
    best, lowest = oracle(a64, b64)
    np.testing.assert_array_equal(score, best)
    np.testing.assert_array_equal(index, lowest)
    assert (score[1] == -np.inf).all()
    assert (index[1] == 0).all()
    assert score[0, 3] == -np.inf


def test_zero_vectors_have_cosine_zero(backend):
    a = np.array([[[0, 0], [1, 0], [-1, 0]]], np.float32)
    b = np.array([[[-1, 0], [0, 0], [0, 0]]], np.float32)
    score, index = cosine_match(a, b)
    assert score.tolist() == [[0, 0, 1]]
    assert index.tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 0, 4), (2, 3, 4, 0), (0, 0, 0, 0)])
def test_empty_extents(backend, shape):
    batch, rows, columns, width = shape
    score, index = cosine_match(np.ones((batch, rows, width), np.float32), np.ones((batch, columns, width), np.float32))
    assert score.shape == index.shape == (batch, rows)
    assert (index == 0).all()
    assert (score == (-np.inf if columns == 0 else 0)).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_strided_and_offset_views(backend, rng, dtype):
    metric = rng.standard_normal((2, 27, 24)).astype(dtype)
    for view in (metric[:, :, 3:20], metric[:, 1:, :8], metric[::-1], metric[:, ::3], metric[:, :, ::2]):
        a, b = view[:, ::2], view[:, 1::2]
        score, index = cosine_match(a, b)
        packed = cosine_match(np.ascontiguousarray(a), np.ascontiguousarray(b))
        np.testing.assert_array_equal(score, packed[0])
        np.testing.assert_array_equal(index, packed[1])
    shared = np.broadcast_to(metric[:1], metric.shape)
    np.testing.assert_array_equal(cosine_match(metric, shared)[1][0], cosine_match(metric[:1], metric[:1])[1][0])


def test_scaling_by_a_power_of_two_changes_no_bit(backend, rng):
    a, b = (rng.standard_normal((1, 9, 20)).astype(np.float32) for _ in range(2))
    score, index = cosine_match(a, b)
    for p, q in [(20, -20), (-20, -20), (30, 25)]:
        scaled = cosine_match(a * np.float32(2.0**p), b * np.float32(2.0**q))
        np.testing.assert_array_equal(scaled[0], score)
        np.testing.assert_array_equal(scaled[1], index)


def test_extreme_magnitudes_on_the_host(backend, rng):
    if backend in ("simt", "cuda"):
        pytest.skip("devices sum raw products in float32, as the contract says")
    a, b = (rng.standard_normal((1, 9, 20)).astype(np.float32) for _ in range(2))
    score, index = cosine_match(a, b)
    for p, q in [(120, 120), (-120, -110), (-100, 100)]:
        scaled = cosine_match(a * np.float32(2.0**p), b * np.float32(2.0**q))
        np.testing.assert_allclose(scaled[0], score, rtol=0, atol=2 * bound(20))
        np.testing.assert_array_equal(scaled[1], index)


def test_same_bits_for_any_number_of_threads(rng):
    a, b = rng.standard_normal((3, 210, 70)).astype(np.float32), rng.standard_normal((3, 190, 70)).astype(np.float32)
    answers = []
    for threads in (1, 2, 5):
        tokernel.set_num_threads(threads)
        answers.append(cosine_match(a, b))
    tokernel.set_num_threads(0)
    for score, index in answers[1:]:
        np.testing.assert_array_equal(score, answers[0][0])
        np.testing.assert_array_equal(index, answers[0][1])


def test_out_is_filled(backend, rng):
    a, b = exact_vectors(rng, 2, 5, 4), exact_vectors(rng, 2, 6, 4)
    out = np.empty((2, 5), np.float32), np.empty((2, 5), np.int64)
    score, index = cosine_match(a, b, out=out)
    assert score is out[0]
    assert index is out[1]
    np.testing.assert_array_equal(score, cosine_match(a, b)[0])


X = np.ones((2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        (([1.0], X), TypeError, "a must be an array"),
        ((X[0], X), ValueError, "a must be"),
        ((X, X[:1]), ValueError, "b must be"),
        ((X, X[:, :, :3]), ValueError, "b must be"),
        ((X, X.astype(np.float16)), TypeError, "b must be float32"),
        ((X.astype(np.float64), X), TypeError, "a must be"),
        ((X, X, np.ones((2, 4), bool)), ValueError, "mask_a must be"),
        ((X, X, None, np.ones((2, 3))), TypeError, "mask_b must be"),
    ],
)
def test_bad_input(backend, args, error, text):
    with pytest.raises(error, match=f"cosine_match: {text}"):
        cosine_match(*args)
