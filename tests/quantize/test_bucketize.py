# SPDX-License-Identifier: Apache-2.0
"""bucketize on every backend against NumPy's search and the scalar quantizer of TokenBridge."""

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels import quantize

# Around the sizes of registers (15, 31, 63) and beyond.
SIZES = [0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 62, 63, 64, 127, 200, 255, 256, 1000, 1025]


def special(rng, count, boundaries):
    x = rng.standard_normal(count).astype(np.float32)
    x[:5] = np.nan, np.inf, -np.inf, 0.0, -0.0
    if len(boundaries):
        x[5:8] = boundaries[0], boundaries[len(boundaries) // 2], boundaries[-1]
    return x


@pytest.mark.parametrize("size", SIZES)
def test_against_numpy(backend, size, rng):
    boundaries = np.sort(rng.standard_normal(size)).astype(np.float32)
    for count in (8, 9) if backend == "simt" else (8, 15, 16, 17, 40):
        x = special(rng, count, boundaries)
        index = quantize.bucketize(x, boundaries)
        assert tokernel.last_backend() == backend
        assert index.dtype == np.int64
        np.testing.assert_array_equal(index, np.searchsorted(boundaries, x, side="left"))
        if size < 256:
            small = quantize.bucketize(x, boundaries, "uint8")
            assert small.dtype == np.uint8
            np.testing.assert_array_equal(small, index)


@pytest.mark.parametrize("name", ["ptq_b3", "ptq_b6"])
def test_the_nearest_value_of_a_table(backend, golden, name):
    """argmin |y - v_k|, the lowest at a tie, is the bucket between midpoints."""
    g = np.load(golden / "tokenbridge" / f"{name}.npz")
    values, low, high, reach = g["reconstruction_values"], g["quant_min"], g["quant_max"], g["std_range"]
    y = np.clip((g["x"] - low) / (high - low) * 2 * reach - reach, -reach, reach).astype(np.float32)
    midpoints = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    np.testing.assert_array_equal(quantize.bucketize(y, midpoints), g["indices"])
    exact = np.array([0.0, 1.0, 3.0, 7.0], np.float32)
    ties = np.array([0.5, 2.0, 5.0], np.float32)
    np.testing.assert_array_equal(quantize.bucketize(ties, (exact[1:] + exact[:-1]) / 2), [0, 1, 2])


def test_equal_boundaries_and_infinite_ones(backend):
    boundaries = np.array([-np.inf, 0.0, 0.0, 0.0, 1.0, np.inf, np.inf], np.float32)
    x = np.array([-np.inf, -1.0, 0.0, 0.5, 1.0, 2.0, np.inf, np.nan] * 3, np.float32)
    np.testing.assert_array_equal(quantize.bucketize(x, boundaries), [0, 1, 1, 4, 4, 5, 5, 7] * 3)


def test_half_precision(backend, rng):
    x = rng.standard_normal(37).astype(np.float16)
    boundaries = np.linspace(-2, 2, 40, dtype=np.float32)
    np.testing.assert_array_equal(
        quantize.bucketize(x, boundaries), np.searchsorted(boundaries, x.astype(np.float32), side="left")
    )
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    wide = torch.from_numpy(x).float().bfloat16()
    got = quantize.bucketize(wide, torch.from_numpy(boundaries), torch.uint8)
    assert torch.equal(got.long(), torch.bucketize(wide.float(), torch.from_numpy(boundaries)))


def test_shapes_strides_and_out(backend, rng):
    x, boundaries = rng.standard_normal((2, 3, 4, 5)).astype(np.float32), np.array([-0.5, 0.5], np.float32)
    want = np.searchsorted(boundaries, x)
    np.testing.assert_array_equal(quantize.bucketize(x, boundaries), want)
    np.testing.assert_array_equal(
        quantize.bucketize(x[0, :, ::2].transpose(2, 0, 1), boundaries), want[0, :, ::2].transpose(2, 0, 1)
    )
    out = np.empty((3, 5), np.uint8)
    assert quantize.bucketize(x[0, :, 0], boundaries, np.uint8, out=out) is out
    np.testing.assert_array_equal(out, want[0, :, 0])
    np.testing.assert_array_equal(
        quantize.bucketize(x[0, 0, 0], np.array([5, -0.5, 0.5], np.float32)[1:]), want[0, 0, 0]
    )


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3)], ids=str)
def test_empty(backend, shape):
    assert quantize.bucketize(np.zeros(shape, np.float32), np.zeros(3, np.float32)).shape == shape


def test_bits_do_not_depend_on_threads(backend, rng):
    x = rng.standard_normal(900 if backend == "simt" else 100_001).astype(np.float32)
    boundaries = np.sort(rng.standard_normal(300)).astype(np.float32)
    one, two = on_one_and_two_threads(lambda: quantize.bucketize(x, boundaries))
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize(
    ("boundaries", "got"),
    [
        ([0.0, 2.0, 1.0], "1.000000 at position 2"),
        ([0.0, np.nan], "nan at position 1"),
        ([np.nan], "nan at position 0"),
    ],
)
def test_boundaries_that_do_not_ascend(boundaries, got):
    with pytest.raises(ValueError, match=rf"^bucketize: boundaries must be ascending numbers, got {got}$"):
        quantize.bucketize(np.zeros(2, np.float32), np.array(boundaries, np.float32))


def test_other_bad_input():
    x, many = np.zeros(2, np.float32), np.arange(256, dtype=np.float32)
    with pytest.raises(ValueError, match=r"^bucketize: boundaries must be at most 255 for uint8, got 256$"):
        quantize.bucketize(x, many, "uint8")
    with pytest.raises(ValueError, match=r"^bucketize: dtype must be int64 or uint8, got int32$"):
        quantize.bucketize(x, many, "int32")
