# SPDX-License-Identifier: Apache-2.0
"""rvq_encode as CUDA kernels, on the host executor and on a GPU: residuals in shared memory and in the workspace,
rows that drop layers, steps of d, tiles of rows and of codes. Where data are small integers, every answer is that of
the reference."""

import numpy as np
import pytest

import tokernel
from tokernel.kernels.quantize import rvq_encode

pytestmark = pytest.mark.usefixtures("device_backend")

METRICS = ["l2", "cosine"]
FEW, MANY = 60, 130  # codes: one tile, so that residuals stay in shared memory; and more, cut into ranges


def integers(rng, *shape):
    return rng.integers(-2, 3, shape).astype(np.float32)


def check(*args, **kwargs):
    with tokernel.use_backend("ref"):
        reference = rvq_encode(*args, **kwargs)
    for got, expected in zip(rvq_encode(*args, **kwargs), reference, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("codes_count", [1, FEW, MANY])
@pytest.mark.parametrize("width", [1, 4, 15, 16, 24])
def test_widths(rng, width, codes_count, dtype):
    x, codes = integers(rng, 5, width).astype(dtype), integers(rng, 3, codes_count, width).astype(dtype)
    check(x, codes)


@pytest.mark.parametrize("codes_count", [FEW, MANY])
@pytest.mark.parametrize("width", [256, 260])
def test_wide_rows(rng, width, codes_count):
    """260 is too wide for shared memory."""
    check(integers(rng, 2, width), integers(rng, 2, codes_count, width))


@pytest.mark.parametrize("codes_count", [FEW, MANY])
def test_two_tiles_of_rows_and_dropped_layers(rng, codes_count):
    x, codes = integers(rng, 66, 8), integers(rng, 3, codes_count, 8)
    check(x, codes, n_q=rng.integers(0, 4, 66))
    check(x[:3], codes, n_q=np.zeros(3, np.int64))
    check(x[:3], codes, n_q=2)


@pytest.mark.parametrize("codes_count", [FEW, MANY])
def test_groups_of_channels_of_one_array(rng, codes_count):
    x = integers(rng, 5, 2 * 8).reshape(5, 2, 8).swapaxes(0, 1)
    check(x, integers(rng, 2, 2, codes_count, 8))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("codes_count", [FEW, MANY])
def test_what_is_not_finite(rng, codes_count, metric):
    x, codes = 2.0 ** rng.integers(-1, 2, (4, 1)) * np.eye(4)[:4], np.tile(np.eye(4), (codes_count // 4, 1))
    x, codes = x.astype(np.float32), np.stack([codes, codes]).astype(np.float32)
    x[1, 2] = np.nan
    codes[0, 1] = np.inf
    check(x, codes, metric=metric)
    codes[1] = np.nan
    check(x, codes, metric=metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_residuals_have_the_same_bits_wherever_they_are(rng, dtype, metric):
    """Enough groups keep residuals in shared memory; one group alone has them in the workspace."""
    x, codes = rng.standard_normal((3, 20)).astype(dtype), rng.standard_normal((2, 70, 20)).astype(dtype)
    one = rvq_encode(x, codes, metric=metric)
    many = rvq_encode(np.broadcast_to(x, (96, *x.shape)), np.broadcast_to(codes, (96, *codes.shape)), metric=metric)
    for alone, among in zip(one, many, strict=True):
        np.testing.assert_array_equal(among, np.broadcast_to(alone, among.shape))
