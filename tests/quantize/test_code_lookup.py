# SPDX-License-Identifier: Apache-2.0
"""lookup, rvq_decode and their gradients for codes: every backend against NumPy, and what may go wrong."""

import numpy as np
import pytest

from bits import on_one_and_two_threads
from tokernel.kernels import quantize

WIDTHS = [0, 1, 3, 4, 8, 15, 16, 17, 33, 128, 130]
DTYPES = [np.float32, np.float16]


def normal(rng, *shape, dtype=np.float32):
    return rng.standard_normal(shape, dtype=np.float32).astype(dtype)


def read(codes, index):
    return np.where(index[..., None] < 0, 0, codes[index]).astype(codes.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_lookup(backend, rng, width, dtype):
    codes, index = normal(rng, 7, width, dtype=dtype), rng.integers(-1, 7, 13)
    np.testing.assert_array_equal(quantize.lookup(codes, index), read(codes, index))


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 1, 3), (2, 0), (2, 1, 2, 3)])
def test_lookup_of_any_shape(backend, rng, shape):
    codes, index = normal(rng, 5, 6), rng.integers(-1, 5, shape).astype(np.int32)
    np.testing.assert_array_equal(quantize.lookup(codes, index), read(codes, index))
    books = normal(rng, shape[0], 5, 6)
    expected = np.stack([read(books[q], index[q]) for q in range(shape[0])])
    np.testing.assert_array_equal(quantize.lookup(books, index), expected)
    np.testing.assert_array_equal(quantize.lookup(books[:, ::-1][:, ::-1, :5][..., ::1], index), expected[..., :5])


def test_lookup_keeps_every_bit(backend):
    bits = np.array([[0x80000000, 0x7FC12345, 0x00000001, 0xFF800000]], np.uint32)
    found = quantize.lookup(bits.view(np.float32), np.array([0, 0]))
    np.testing.assert_array_equal(found.view(np.uint32), np.repeat(bits, 2, 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_lookup_gradient(backend, rng, width, dtype):
    grad, index = normal(rng, 29, width, dtype=dtype), rng.integers(-1, 5, 29)
    expected = np.zeros((6, width))
    np.add.at(expected, index[index >= 0], grad[index >= 0].astype(np.float64))
    found = quantize.lookup_backward(grad, index, 6)
    assert found.dtype == dtype
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(found.astype(np.float64), expected, rtol=eps, atol=32 * 2**-23 * 4)
    assert (found[5] == 0).all()


def test_lookup_gradient_of_books(backend, rng):
    grad, index = normal(rng, 3, 2, 4, 5), rng.integers(-1, 6, (3, 2, 4))
    found = quantize.lookup_backward(grad, index, 6, True)
    for q in range(3):
        np.testing.assert_array_equal(found[q], quantize.lookup_backward(grad[q], index[q], 6))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_decode(backend, rng, width, dtype):
    codes, index = normal(rng, 4, 9, width, dtype=dtype), rng.integers(-1, 9, (13, 4))
    for n_q in (None, 0, 1, 3, 4):
        expected = np.zeros((13, width), np.float32)
        for q in range(4 if n_q is None else n_q):
            expected += read(codes[q], index[:, q]).astype(np.float32)
        np.testing.assert_array_equal(quantize.rvq_decode(index, codes, n_q), expected.astype(dtype))


def test_official_decode_of_dropped_layers(backend, golden):
    d = np.load(golden / "quantizers" / "rvq_q4.npz")
    found = quantize.rvq_decode(d["partial_indices"].reshape(-1, 4), d["codebooks"])
    np.testing.assert_allclose(found, d["partial_output"].reshape(-1, 5), rtol=1e-5, atol=1e-5)
    d = np.load(golden / "quantizers" / "grouped_rvq_g2_q3.npz")
    found = quantize.rvq_decode(d["partial_indices"].reshape(2, 10, 3), d["codebooks"])
    joined = found.transpose(1, 0, 2).reshape(d["partial_output"].shape)
    np.testing.assert_allclose(joined, d["partial_output"], rtol=1e-5, atol=1e-5)


def test_one_layer_is_lookup(backend, rng):
    codes, index = normal(rng, 9, 5), rng.integers(-1, 9, 13)
    codes[3] = -0.0
    ours, theirs = quantize.rvq_decode(index[:, None], codes[None]), quantize.lookup(codes, index)
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("n_q", [None, 0, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_decode_gradient(backend, rng, n_q, dtype):
    grad, index = normal(rng, 2, 19, 11, dtype=dtype), rng.integers(-1, 6, (2, 19, 3))
    found = quantize.rvq_decode_backward(grad, index, 6, n_q)
    assert found.shape == (2, 3, 6, 11)
    assert found.dtype == dtype
    for g in range(2):
        for q in range(3):
            if n_q is not None and q >= n_q:
                assert (found[g, q] == 0).all()
                continue
            expected = quantize.lookup_backward(grad[g], np.ascontiguousarray(index[g, :, q]), 6)
            np.testing.assert_array_equal(found[g, q], expected)


def test_wide_strides(backend, rng):
    index, books = rng.integers(-1, 6, (2, 8, 3)), normal(rng, 2, 6, 12, 14)
    codes = books[:, ::2, ::2, 3:10]
    np.testing.assert_array_equal(quantize.rvq_decode(index, codes), quantize.rvq_decode(index, codes.copy()))
    grad = normal(rng, 8, 2, 7).transpose(1, 0, 2)
    np.testing.assert_array_equal(
        quantize.rvq_decode_backward(grad, index, 6), quantize.rvq_decode_backward(grad.copy(), index, 6)
    )


def test_nothing_to_read(backend):
    codes = np.ones((0, 3), np.float32)
    np.testing.assert_array_equal(quantize.lookup(codes, np.array([-1, -1])), np.zeros((2, 3)))
    assert quantize.lookup(codes, np.zeros(0, np.int64)).shape == (0, 3)
    assert quantize.lookup_backward(codes, np.zeros(0, np.int64), 2).tolist() == [[0] * 3] * 2
    assert quantize.rvq_decode(np.zeros((2, 0), np.int64), np.ones((0, 4, 3), np.float32)).tolist() == [[0] * 3] * 2
    assert quantize.rvq_decode_backward(np.ones((2, 3), np.float32), np.zeros((2, 0), np.int64), 4).shape == (0, 4, 3)


@pytest.mark.parametrize("bad", [-2, 4, 2**40])
def test_an_index_out_of_range(backend, bad):
    codes, grad, index = np.ones((1, 4, 2), np.float32), np.ones((2, 2), np.float32), np.array([[0], [bad]])
    with pytest.raises(ValueError, match=rf"^lookup: index must be in \[-1, 4\), got {bad} at flat position 1$"):
        quantize.lookup(codes[0], index[:, 0])
    with pytest.raises(ValueError, match=r"^lookup_backward: index must be in \[-1, 4\)"):
        quantize.lookup_backward(grad, index[:, 0], 4)
    with pytest.raises(ValueError, match=r"^rvq_decode: index must be in \[-1, 4\)"):
        quantize.rvq_decode(index, codes)
    with pytest.raises(ValueError, match=r"^rvq_decode_backward: index must be in \[-1, 4\)"):
        quantize.rvq_decode_backward(grad, index, 4)


def test_layers_out_of_range():
    with pytest.raises(ValueError, match=r"^rvq_decode: n_q must be in \[0, 1\], got 2$"):
        quantize.rvq_decode(np.array([[0]]), np.ones((1, 4, 2), np.float32), 2)


def test_any_number_of_threads(rng):
    grad, index = normal(rng, 5000, 40), rng.integers(-1, 7, (5000, 3))
    one, two = on_one_and_two_threads(lambda: quantize.rvq_decode_backward(grad, index, 7))
    np.testing.assert_array_equal(one, two)
