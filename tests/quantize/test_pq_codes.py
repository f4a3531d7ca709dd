# SPDX-License-Identifier: Apache-2.0
"""pq_encode and pq_decode on every backend, against NumPy in float64, faiss's answers and nearest."""

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels.quantize import nearest, pq_decode, pq_encode

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 2), (17, 2, 16, 8), (33, 4, 17, 3), (65, 8, 33, 4)]


def nearest_parts(x, centroids):
    """Squared distances (N, M, K) in float64."""
    parts = x.astype(np.float64).reshape(len(x), len(centroids), 1, -1)
    return ((parts - centroids.astype(np.float64)) ** 2).sum(-1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_encode_equals_float64(backend, shape, rng):
    n, m, k, d = shape
    x, centroids = (rng.standard_normal(s).astype(np.float32) for s in ((n, m * d), (m, k, d)))
    codes = pq_encode(x, centroids)
    assert tokernel.last_backend() == backend
    assert codes.dtype == np.uint8
    distance = nearest_parts(x, centroids)
    got = np.take_along_axis(distance, codes[..., None].astype(np.int64), -1)[..., 0]
    assert (got <= distance.min(-1) + 1e-5).all()
    np.testing.assert_array_equal(pq_encode(x, centroids, "int64"), codes)


def test_official_codes(backend, golden):
    with np.load(golden / "quantizers" / "faiss_pq.npz") as g:
        codes = pq_encode(g["x"], g["centroids"])
        np.testing.assert_array_equal(codes, g["codes"])
        np.testing.assert_array_equal(pq_decode(codes, g["centroids"]), g["decoded"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_one_part_is_nearest(backend, dtype, rng):
    x, centroids = (rng.standard_normal(s).astype(dtype) for s in ((40, 6), (21, 6)))
    codes = pq_encode(x, centroids[None])
    np.testing.assert_array_equal(codes[:, 0], nearest(x, centroids).index)
    np.testing.assert_array_equal(pq_decode(codes, centroids[None]), centroids[codes[:, 0]])


def test_ties_go_to_the_lowest_code(backend):
    centroids = np.array([[[1.0], [-1.0], [1.0], [-1.0]], [[2.0], [2.0], [0.0], [0.0]]], np.float32)
    x = np.array([[0.0, 1.0], [-3.0, 3.0], [1.0, 0.0]], np.float32)
    np.testing.assert_array_equal(pq_encode(x, centroids), [[0, 0], [1, 0], [0, 2]])


def test_what_is_not_finite(backend):
    centroids = np.array([[[np.nan], [5.0], [np.inf]], [[0.0], [1.0], [2.0]]], np.float32)
    x = np.array([[0.0, np.nan], [9.0, 2.0]], np.float32)
    np.testing.assert_array_equal(pq_encode(x, centroids), [[1, 0], [1, 2]])


def test_strided_views_are_read_in_place(backend, rng):
    wide, books = (rng.standard_normal(s).astype(np.float32) for s in ((20, 14), (3, 16, 4)))
    x, centroids = wide[::2, 2:8], books[:, ::2, 1:3]
    np.testing.assert_array_equal(pq_encode(x, centroids), pq_encode(x.copy(), centroids.copy()))
    codes = rng.integers(0, 8, (12, 9)).astype(np.uint8)[::3, 4:7]
    np.testing.assert_array_equal(pq_decode(codes, centroids), pq_decode(codes.copy(), centroids.copy()))


@pytest.mark.parametrize("code_dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("width", [0, 1, 2, 4, 5, 8, 16, 17])
def test_decode_copies_bits(backend, width, code_dtype, rng):
    codes = rng.integers(0, 11, (23, 3)).astype(code_dtype)
    for dtype in (np.float32, np.float16):
        centroids = rng.standard_normal((3, 11, width)).astype(dtype)
        want = np.concatenate([centroids[m, codes[:, m].astype(np.int64)] for m in range(3)], axis=1)
        np.testing.assert_array_equal(pq_decode(codes, centroids), want)


def test_nothing_to_do(backend):
    centroids = np.zeros((2, 3, 2), np.float32)
    assert pq_encode(np.zeros((0, 4), np.float32), centroids).shape == (0, 2)
    assert pq_decode(np.zeros((0, 2), np.uint8), centroids).shape == (0, 4)
    assert pq_encode(np.zeros((3, 0), np.float32), np.zeros((0, 4, 2), np.float32)).shape == (3, 0)


def test_how_codes_are_numbered(backend):
    x = np.zeros((2, 1), np.float32)
    assert pq_encode(x, np.zeros((1, 256, 1), np.float32)).dtype == np.uint8
    assert pq_encode(x, np.zeros((1, 257, 1), np.float32)).dtype == np.int64
    many = np.arange(300, dtype=np.float32).reshape(1, 300, 1)
    np.testing.assert_array_equal(pq_encode(np.float32([[299], [256.2]]), many, np.int64), [[299], [256]])
    with pytest.raises(ValueError, match=r"^pq_encode: dtype must be int64 for more than 256 centroids"):
        pq_encode(x, many, "uint8")
    with pytest.raises(ValueError, match=r"^pq_encode: dtype must be uint8 or int64, got float32$"):
        pq_encode(x, many, np.float32)


def test_bad_input(backend):
    centroids = np.zeros((2, 3, 2), np.float32)
    with pytest.raises(ValueError, match=r"^pq_encode: x must be of rows of 2 parts of width 2, got 5 channels$"):
        pq_encode(np.zeros((1, 5), np.float32), centroids)
    with pytest.raises(ValueError, match=r"^pq_encode: centroids must be at least 1 .*, got 0$"):
        pq_encode(np.zeros((1, 4), np.float32), np.zeros((2, 0, 2), np.float32))
    for dtype, bad in ((np.uint8, 3), (np.int32, -1), (np.int64, 2**40)):
        out = np.full((2, 4), 7, np.float32)
        with pytest.raises(ValueError, match=rf"^pq_decode: codes must be in \[0, 3\), got {bad} in row 1, part 0$"):
            pq_decode(np.array([[0, 1], [bad, 0]], dtype), centroids, out=out)
        assert (out == 7).all()


def test_threads_do_not_matter(rng):
    x, centroids = (rng.standard_normal(s).astype(np.float32) for s in ((20000, 8), (4, 16, 2)))
    one, two = on_one_and_two_threads(lambda: pq_encode(x, centroids))
    np.testing.assert_array_equal(one, two)
    one, two = on_one_and_two_threads(lambda: pq_decode(two, centroids))
    np.testing.assert_array_equal(one, two)
