# SPDX-License-Identifier: Apache-2.0
"""split_bits and join_bits on every backend against whole numbers in NumPy: planes, packing, rounding, odd rows."""

import numpy as np
import pytest
from bits import on_one_and_two_threads
from spatten_cases import planes, quantise

import tokernel
from tokernel.kernels import select

SHAPES = [(1, 1), (2, 2), (3, 7), (2, 15), (2, 16), (2, 17), (1, 33), (2, 3, 40), (2, 2, 3, 66), (1, 2, 1, 128)]
BITS = [(8, 4), (6, 4), (8, 0), (2, 1), (3, 2), (8, 3)]


def numbers(high, low, lsb):
    wide = np.zeros((*high.shape[:-1], 2 * low.shape[-1]), np.int64)
    wide[..., ::2], wide[..., 1::2] = low & 15, low >> 4
    below = wide[..., : high.shape[-1]] if lsb else 0
    return high.astype(np.int64) * 2**lsb + below


def check(x, msb=8, lsb=4):
    high, low, scale = select.split_bits(x, msb, lsb)
    n, want_scale = quantise(x, 2 ** (msb + lsb - 1) - 1)
    want_high, want_low = planes(n, lsb)
    np.testing.assert_array_equal(scale, want_scale)
    np.testing.assert_array_equal(high, want_high)
    np.testing.assert_array_equal(low, want_low)
    assert (high.dtype, low.dtype, scale.dtype) == (np.int8, np.uint8, np.float32)
    assert low.shape == (*x.shape[:-1], (x.shape[-1] + 1) // 2 if lsb else 0)
    return high, low, scale


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_whole_numbers(backend, shape, dtype, rng):
    x = rng.standard_normal(shape).astype(dtype)
    for msb, lsb in BITS:
        check(x, msb, lsb)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize(("msb", "lsb"), BITS)
def test_planes_recombine_to_the_whole_number_exactly(backend, msb, lsb, rng):
    """papers/spatten.md: MSB/LSB recombination reproduces the 12-bit integer exactly."""
    most = 2 ** (msb + lsb - 1) - 1
    n = np.arange(-most, most + 1).astype(np.float32)[None]  # every number there is; the scale is 1
    high, low, scale = check(n, msb, lsb)
    assert scale[0] == 1
    np.testing.assert_array_equal(numbers(high, low, lsb), n)
    np.testing.assert_array_equal(select.join_bits(high, low, lsb=lsb), n)
    np.testing.assert_array_equal(select.join_bits(high, None, lsb=lsb), n - n % 2**lsb)


def test_rows_read_back_within_half_a_step(backend, rng):
    x = rng.standard_normal((2, 3, 5, 19)).astype(np.float32)
    high, low, scale = select.split_bits(x)
    back = select.join_bits(high, low, scale)
    assert back.dtype == np.float32
    assert (np.abs(back - x) <= scale[..., None] * (0.5 + 2e-4)).all()
    np.testing.assert_array_equal(back, (numbers(high, low, 4).astype(np.float32) * scale[..., None]))
    np.testing.assert_array_equal(select.join_bits(high, None, scale), high.astype(np.float32) * 16 * scale[..., None])


def test_halves_round_to_even(backend):
    x = np.array([[2047, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 17.5]], np.float32)
    high, low, scale = select.split_bits(x)
    np.testing.assert_array_equal(select.join_bits(high, low, scale), [[2047, 0, 2, 2, 0, -2, -2, 18]])


def test_zeros_tiny_rows_and_rows_that_are_not_finite(backend):
    x = np.ones((7, 20), np.float32)
    x[1] = 0
    x[2] = 1e-45  # its scale is below every float32
    x[3] *= np.float32(1e-40)
    x[4, 7] = np.nan
    x[5, 19] = -np.inf
    x[6] = 3e38
    high, low, scale = check(x)
    np.testing.assert_array_equal(scale[1:3], 0)
    assert (high[1:3] == 0).all()
    assert (low[1:3] == 0).all()
    assert np.isnan(scale[4:6]).all()
    assert (high[4:6] == 0).all()
    assert (low[4:6] == 0).all()
    back = select.join_bits(high, low, scale)
    assert np.isnan(back[4:6]).all()
    assert np.isfinite(back[[0, 1, 2, 3, 6]]).all()


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 3, 5), (2, 0, 3, 4), (2, 2, 3, 0)], ids=str)
def test_empty(backend, shape):
    high, low, scale = check(np.zeros(shape, np.float32))
    assert select.join_bits(high, low, scale).shape == shape


def test_strided_views(backend, rng):
    x = rng.standard_normal((3, 4, 5, 30)).astype(np.float32)
    for view in (
        x.transpose(0, 2, 1, 3),
        x[:, ::2, 1:, 3:20],
        x[..., ::-1],
        x[1],
        x[0, 0],
        np.broadcast_to(x[:1], x.shape),
    ):
        check(view)
    high, low, scale = select.split_bits(x)
    want = select.join_bits(high, low, scale)
    cut = np.s_[:, ::2, 1:4]
    np.testing.assert_array_equal(select.join_bits(high[cut], low[cut], scale[cut]), want[cut])


def test_bfloat16(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    x = torch.from_numpy(rng.standard_normal((2, 3, 21))).bfloat16()
    for ours, theirs in zip(select.split_bits(x), check(x.float().numpy()), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)


def test_bits_do_not_depend_on_threads(backend, rng):
    x = rng.standard_normal((2, 3, 9, 20) if backend == "simt" else (2, 3, 900, 100)).astype(np.float32)

    def run():
        high, low, scale = select.split_bits(x)
        return [y.tobytes() for y in (high, low, scale, select.join_bits(high, low, scale))]

    once, twice = on_one_and_two_threads(run)
    assert once == twice


@pytest.mark.parametrize(("msb", "lsb", "name"), [(9, 4, "msb"), (1, 4, "msb"), (8, 5, "lsb"), (8, -1, "lsb")])
def test_bits_out_of_range(msb, lsb, name):
    with pytest.raises(ValueError, match=rf"^split_bits: {name} must be "):
        select.split_bits(np.zeros((2, 4), np.float32), msb, lsb)


def test_planes_that_do_not_belong_together():
    high, low, scale = select.split_bits(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"^join_bits: low must be "):
        select.join_bits(high, low[:, :1], scale)
    with pytest.raises(ValueError, match=r"^join_bits: lsb must be in \[0, 4\], got 5$"):
        select.join_bits(high, low, scale, 5)
    with pytest.raises(TypeError, match=r"^join_bits: high must be int8, got uint8$"):
        select.join_bits(high.view(np.uint8), low, scale)
