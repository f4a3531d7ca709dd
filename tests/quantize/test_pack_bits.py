# SPDX-License-Identifier: Apache-2.0
"""pack_bits and unpack_bits on every backend against NumPy's bits and the streams of EnCodec and faiss."""

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels import quantize


def string_of(ids, bits):
    """(..., M) ids as bytes, by way of single bits."""
    single = ids[..., None] >> np.arange(bits) & 1
    return np.packbits(single.reshape(*ids.shape[:-1], -1).astype(np.uint8), axis=-1, bitorder="little")


def test_official_streams(backend, golden):
    g = np.load(golden / "audio_tokens" / "bitstream.npz")
    packed = quantize.pack_bits(g["values"], int(g["bits"]))
    assert tokernel.last_backend() == backend
    np.testing.assert_array_equal(packed, g["packed"])
    np.testing.assert_array_equal(quantize.unpack_bits(packed, int(g["bits"]), len(g["values"])), g["values"])
    g = np.load(golden / "quantizers" / "faiss_pq.npz")
    np.testing.assert_array_equal(quantize.pack_bits(g["codes"], 4), g["packed"])


@pytest.mark.parametrize("bits", range(1, 17))
def test_lossless_for_every_width(backend, bits, rng):
    for shape in ((1,), (3, 7), (2, 8)) if backend == "simt" else ((1,), (3, 7), (2, 8), (3, 9), (5, 41), (1, 3000)):
        ids = rng.integers(0, 1 << bits, shape)
        ids.flat[0], ids.flat[-1] = (1 << bits) - 1, (1 << bits) - 1
        packed = quantize.pack_bits(ids, bits)
        assert packed.dtype == np.uint8
        np.testing.assert_array_equal(packed, string_of(ids, bits))
        back = quantize.unpack_bits(packed, bits, shape[-1])
        assert back.dtype == np.int64
        np.testing.assert_array_equal(back, ids)


def test_only_the_bytes_of_an_answer_are_written(backend, rng):
    for bits in (3, 9, 16):
        for count in range(1, 20):
            ids = rng.integers(0, 1 << bits, (2, count))
            size = (count * bits + 7) // 8
            room = np.full(2 * size + 16, 0xAB, np.uint8)
            quantize.pack_bits(ids, bits, out=room[8 : 8 + 2 * size].reshape(2, size))
            np.testing.assert_array_equal(room[8 : 8 + 2 * size].reshape(2, size), string_of(ids, bits))
            assert (room[:8] == 0xAB).all()
            assert (room[8 + 2 * size :] == 0xAB).all()
            if backend == "simt":
                break


def test_what_fills_the_last_byte_is_not_looked_at(backend):
    packed = quantize.pack_bits(np.array([[5, 6, 7]] * 3), 3)
    assert (packed[:, -1] < 2).all()
    packed[:, -1] |= 0xFE
    np.testing.assert_array_equal(quantize.unpack_bits(packed, 3, 3), [[5, 6, 7]] * 3)


def test_shapes_and_int32(backend, rng):
    ids = rng.integers(0, 1024, (2, 3, 4, 6))
    want = quantize.pack_bits(ids, 10)
    assert want.shape == (2, 3, 4, 8)
    np.testing.assert_array_equal(quantize.pack_bits(ids[0, :, ::2].astype(np.int32), 10), want[0, :, ::2])
    np.testing.assert_array_equal(quantize.unpack_bits(want[:, 1], 10, 6), ids[:, 1])


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)], ids=str)
def test_empty(backend, shape):
    packed = quantize.pack_bits(np.zeros(shape, np.int64), 5)
    assert packed.shape == (*shape[:-1], (shape[-1] * 5 + 7) // 8)
    assert quantize.unpack_bits(packed, 5, shape[-1]).shape == shape


def test_bits_do_not_depend_on_threads(backend, rng):
    ids = rng.integers(0, 1024, (3, 101 if backend == "simt" else 100_001))
    for given in (ids, ids[:1]):
        one, two = on_one_and_two_threads(lambda given=given: quantize.pack_bits(given, 10))
        assert one.tobytes() == two.tobytes()
        np.testing.assert_array_equal(quantize.unpack_bits(one, 10, given.shape[-1]), given)


@pytest.mark.parametrize("bad", [-1, 8, 2**40])
def test_ids_out_of_range(bad):
    with pytest.raises(ValueError, match=rf"^pack_bits: ids must be in \[0, 8\), got {bad} at flat position 1$"):
        quantize.pack_bits(np.array([[7, bad]]), 3)


def test_other_bad_input():
    ids, packed = np.zeros((2, 3), np.int64), np.zeros((2, 3), np.uint8)
    for bits, expected in ((0, "an integer of at least 1"), (17, "at most 16")):
        with pytest.raises(ValueError, match=rf"^pack_bits: bits must be {expected}, got {bits}$"):
            quantize.pack_bits(ids, bits)
        with pytest.raises(ValueError, match=rf"^unpack_bits: bits must be {expected}, got {bits}$"):
            quantize.unpack_bits(packed, bits, 3)
    with pytest.raises(ValueError, match=r"^unpack_bits: bytes must be .*P = 4.*, got \(2, 3\) uint8$"):
        quantize.unpack_bits(packed, 10, 3)
    with pytest.raises(TypeError, match=r"^unpack_bits: bytes must be uint8, got int64$"):
        quantize.unpack_bits(ids, 8, 3)
