# SPDX-License-Identifier: Apache-2.0
"""compact_rows on every backend: integers, so everything is exact."""

import numpy as np
import pytest

import tokernel
from tokernel.kernels import merge

SHAPES = [(1, 1), (2, 7), (3, 8), (1, 9), (4, 16), (2, 31), (2, 33), (5, 64), (2, 65), (33, 3), (2, 300)]
EMPTY = [(0, 5), (3, 0), (0, 0)]


def expected(mask):
    kept = mask != 0
    return np.flatnonzero(kept), np.concatenate([[0], np.cumsum(kept.sum(1))])


def check(mask):
    index, cu_seqlens = merge.compact_rows(mask)
    assert index.dtype == cu_seqlens.dtype == np.int64
    for mine, right in zip((index, cu_seqlens), expected(mask), strict=True):
        assert np.array_equal(mine, right)


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("shape", SHAPES + EMPTY, ids=str)
def test_equals_numpy(backend, rng, shape, density):
    check(rng.random(shape) < density)
    assert tokernel.last_backend() == backend


def test_any_byte_but_zero_keeps(backend, rng):
    check(rng.integers(0, 4, (3, 70)).astype(np.uint8) * 85)


def test_strided_views(backend, rng):
    mask = rng.random((6, 40)) < 0.5
    for view in (mask[::2], mask[:, 3:29], mask[:, ::2], mask.T, mask[:, ::-1], np.broadcast_to(mask[:1], (4, 40))):
        check(view)


def test_many_tokens(backend, rng):
    """More than one chunk a row."""
    check(rng.random((2, 4_000 if backend == "simt" else 40_000)) < 0.3)
    check(np.ones((1, 3 * (512 if backend == "simt" else 16384)), dtype=bool))


def test_bits_do_not_depend_on_threads(backend, rng):
    mask = rng.random((3, 500 if backend == "simt" else 50_000)) < 0.5
    try:
        for threads in (1, 2):
            tokernel.set_num_threads(threads)
            check(mask)
    finally:
        tokernel.set_num_threads(0)


def test_packs_a_batch(backend, rng):
    x = rng.standard_normal((2, 9, 3)).astype(np.float32)
    mask = rng.random((2, 9)) < 0.5
    index, _ = merge.compact_rows(mask)
    packed = merge.gather_rows(x.reshape(1, 18, 3), index[None])
    assert np.array_equal(packed[0], x[mask])


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.ones(3, dtype=bool), ValueError, r"compact_rows: mask must be \(B, N\), got \(3,\) bool"),
        (np.ones((2, 3)), TypeError, "compact_rows: mask must be uint8 or bool, got float64"),
        ([[True]], TypeError, "compact_rows: mask must be an array"),
    ],
)
def test_bad_input(backend, mask, error, message):
    with pytest.raises(error, match=message):
        merge.compact_rows(mask)
