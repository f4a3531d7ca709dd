# SPDX-License-Identifier: Apache-2.0
"""sort_by_label on every backend: the stable argsort of the labels, and where each label starts."""

import numpy as np
import pytest

import tokernel
from tokernel.kernels import cluster

# B, N, K; around the widths of a warp, a block and the chunks of the device sort, and more labels than tokens
SHAPES = [(1, 1, 1), (2, 2, 1), (1, 31, 7), (3, 33, 40), (2, 257, 5), (1, 1025, 1), (1, 70, 5000)]
EMPTY = [(0, 3, 2), (2, 0, 3), (2, 0, 0), (2, 0, 5000), (0, 0, 0)]


def case(shape, rng, dtype=np.int64):
    batch, tokens, labels = shape
    return rng.integers(0, max(labels, 1), (batch, tokens)).astype(dtype)


def expected(labels, K):
    counts = np.array([np.bincount(row, minlength=K)[:K] for row in labels], np.int64).reshape(len(labels), K)
    return np.argsort(labels, axis=1, kind="stable"), np.pad(counts.cumsum(1), ((0, 0), (1, 0)))


def check(labels, K):
    perm, offsets = cluster.sort_by_label(labels, K)
    wanted = expected(labels, K)
    assert perm.dtype == offsets.dtype == np.int64
    np.testing.assert_array_equal(perm, wanted[0])
    np.testing.assert_array_equal(offsets, wanted[1])


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_stable_argsort(backend, shape, dtype, rng):
    check(case(shape, rng, dtype), shape[2])
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_empty(backend, shape, rng):
    check(case(shape, rng), shape[2])


def test_rows_of_several_chunks(backend, rng):
    """Longer than what one block of the device kernel sorts alone."""
    labels = case((1, 4099, 3), rng)
    labels[:, :50] = 2
    check(labels, 3)


def test_empty_labels_and_strided_views(backend, rng):
    labels = 3 + 2 * rng.integers(0, 4, (4, 60))
    check(labels, 20)
    for view in (labels[::2], labels[:, 1::3], labels[:, ::-1], labels.T, labels.astype(np.int32)[:, 5:]):
        check(view, 20)


def test_out(backend, rng):
    labels = case((2, 9, 4), rng)
    out = np.full((2, 9), -7), np.full((2, 5), -7)
    perm, offsets = cluster.sort_by_label(labels, 4, out=out)
    assert perm is out[0]
    assert offsets is out[1]
    np.testing.assert_array_equal(perm, expected(labels, 4)[0])
    np.testing.assert_array_equal(offsets, expected(labels, 4)[1])


@pytest.mark.parametrize("bad", [-1, 3, 2**40])
def test_label_out_of_range(backend, bad):
    out = np.full((1, 4), 7), np.full((1, 4), 7)
    with pytest.raises(ValueError, match=rf"^sort_by_label: labels must be in \[0, 3\), got {bad} at flat position 1$"):
        cluster.sort_by_label(np.array([[2, bad, 0, 1]]), 3, out=out)
    assert (out[0] == 7).all()
    assert (out[1] == 7).all()


def test_bits_do_not_depend_on_threads(backend, rng):
    labels = case((6, 100 if backend == "simt" else 20000, 9), rng)
    try:
        for threads in (1, 2):
            tokernel.set_num_threads(threads)
            check(labels, 9)
    finally:
        tokernel.set_num_threads(0)
