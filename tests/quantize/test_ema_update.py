# SPDX-License-Identifier: Apache-2.0
"""ema_update on every backend against NumPy in float64 and the moving averages of vector-quantize-pytorch."""

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels import quantize


def sums_of(x, index, codes):
    """One book in float64, with the sum of magnitudes that bounds the error of each sum."""
    kept = index >= 0
    one_hot = (index[kept, None] == np.arange(codes)).astype(np.float64)
    wide = x[kept].astype(np.float64)
    return one_hot.sum(0).astype(np.int64), one_hot.T @ wide, one_hot.T @ np.abs(wide)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("rows", "width", "codes"), [(1, 1, 1), (33, 8, 5), (70, 17, 3), (40, 64, 100), (600, 3, 2)])
def test_against_float64(backend, rows, width, codes, dtype, rng):
    if backend == "simt":
        rows = min(rows, 40)
    x, index = rng.standard_normal((rows, width)).astype(dtype), rng.integers(-1, codes, rows)
    counts, sums = quantize.ema_update(x, index, codes)
    assert tokernel.last_backend() == backend
    assert counts.dtype == np.int64
    assert sums.dtype == np.float32
    want_counts, want, magnitude = sums_of(x, index, codes)
    np.testing.assert_array_equal(counts, want_counts)
    assert (np.abs(sums - want) <= magnitude * (rows + 1) * 2.0**-24).all()  # one rounding an addition


def test_official_moving_averages(backend, golden):
    """The spec's step from codebook to codebook, on our counts and sums."""
    g = np.load(golden / "quantizers" / "vq_euclid_ste_ema.npz")
    decay, eps = float(g["decay"]), float(g["eps"])
    size, mean = np.ones(12), g["codebook_0"].astype(np.float64)
    for step in (0, 1):
        x = g[f"x_{step}"].reshape(-1, 4)
        counts, sums = quantize.ema_update(x, g[f"indices_{step}"].reshape(-1), 12)
        size, mean = decay * size + (1 - decay) * counts, decay * mean + (1 - decay) * sums
    smooth = (size + eps) / (size.sum() + 12 * eps) * size.sum()
    np.testing.assert_allclose(mean / smooth[:, None], g["codebook_2"], atol=1e-5)
    np.testing.assert_allclose(size, g["cluster_size_2"], atol=1e-5)  # the file holds the last ones under every step
    np.testing.assert_allclose(mean, g["embed_avg_2"], atol=1e-5)


def test_minus_one_belongs_to_no_code(backend, rng):
    x = rng.standard_normal((20, 6)).astype(np.float32)
    index = np.where(np.arange(20) % 3 == 0, -1, np.arange(20) % 4)
    counts, sums = quantize.ema_update(x, index, 4)
    kept = quantize.ema_update(x[index >= 0], index[index >= 0], 4)
    np.testing.assert_array_equal(counts, kept.counts)
    np.testing.assert_array_equal(sums, kept.sums)
    nothing = quantize.ema_update(x, np.full(20, -1), 4)
    assert not nothing.counts.any()
    assert not nothing.sums.any()


def test_counts_do_not_depend_on_the_order_of_rows(backend, rng):
    x, index = rng.integers(-8, 8, (40, 5)).astype(np.float32), rng.integers(0, 6, 40)
    order = rng.permutation(40)
    one, two = quantize.ema_update(x, index, 6), quantize.ema_update(x[order], index[order], 6)
    np.testing.assert_array_equal(one.counts, two.counts)
    np.testing.assert_array_equal(one.sums, two.sums)  # whole numbers have exact sums
    assert one.counts.sum() == 40
    renamed = quantize.ema_update(x, 5 - index, 6)
    np.testing.assert_array_equal(renamed.counts, one.counts[::-1])
    np.testing.assert_array_equal(renamed.sums, one.sums[::-1])


def test_books_and_strides(backend, rng):
    x, index = rng.standard_normal((3, 20, 16)).astype(np.float32), rng.integers(-1, 4, (3, 20))
    counts, sums = quantize.ema_update(x, index.astype(np.int32), 4)
    assert counts.shape == (3, 4)
    for q in range(3):
        alone = quantize.ema_update(x[q], index[q], 4)
        np.testing.assert_array_equal(counts[q], alone.counts)
        np.testing.assert_array_equal(sums[q], alone.sums)
    halves = quantize.ema_update(x[0].reshape(20, 2, 8).transpose(1, 0, 2), index[:2], 4)
    np.testing.assert_array_equal(halves.sums[1], quantize.ema_update(x[0, :, 8:], index[1], 4).sums)
    out = (np.empty(4, np.int64), np.empty((4, 16), np.float32))
    assert quantize.ema_update(x[0], index[0], 4, out=out)[1] is out[1]
    np.testing.assert_array_equal(out[1], sums[0])


def test_nan_reaches_its_code_only(backend, rng):
    x, index = rng.standard_normal((30, 5)).astype(np.float32), np.arange(30) % 3
    x[4, 2], x[5] = np.nan, np.nan
    index[5] = -1
    _, sums = quantize.ema_update(x, index, 3)
    assert np.isnan(sums).sum() == 1
    assert np.isnan(sums[1, 2])


@pytest.mark.parametrize(("rows", "width"), [(0, 4), (5, 0), (0, 0)])
def test_empty(backend, rows, width):
    counts, sums = quantize.ema_update(np.zeros((rows, width), np.float32), np.zeros(rows, np.int64), 3)
    np.testing.assert_array_equal(counts, [rows, 0, 0])
    assert sums.shape == (3, width)
    assert not sums.any()
    assert quantize.ema_update(np.zeros((0, 2, 3), np.float32), np.zeros((0, 2), np.int64), 3).sums.shape == (0, 3, 3)


def test_sums_have_the_same_bits_on_one_and_two_threads(backend, rng):
    rows, codes = (100, 7) if backend == "simt" else (20_001, 50)
    x, index = rng.standard_normal((rows, 9)).astype(np.float32), rng.integers(-1, codes, rows)
    one, two = on_one_and_two_threads(lambda: quantize.ema_update(x, index, codes))
    assert one.sums.tobytes() == two.sums.tobytes()
    assert one.counts.tobytes() == two.counts.tobytes()


@pytest.mark.parametrize("bad", [-2, 3, 2**40])
def test_index_out_of_range(bad):
    with pytest.raises(ValueError, match=rf"^ema_update: index must be in \[-1, 3\), got {bad} at flat position 1$"):
        quantize.ema_update(np.zeros((2, 2), np.float32), np.array([0, bad]), 3)


def test_no_codes():
    with pytest.raises(ValueError, match=r"^ema_update: K must be an integer of at least 1, got 0$"):
        quantize.ema_update(np.zeros((2, 2), np.float32), np.array([-1, -1]), 0)
