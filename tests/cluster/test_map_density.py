# SPDX-License-Identifier: Apache-2.0
"""map_density on every backend: exact counts of pairs, against Python's integers."""

from fractions import Fraction

import numpy as np
import pytest

import tokernel
from tokernel.kernels import cluster

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 2, 33, 31), (2, 1, 9, 300)]


def case(shape, rng, largest=50):
    batch, heads, queries, keys = shape
    map_ = rng.random(shape) < 0.4
    size_q = rng.integers(0, largest, (batch, heads, queries))
    return map_, size_q, rng.integers(0, largest, (batch, heads, keys))


def expected(map_, size_q, size_k):
    out = np.zeros(map_.shape[:2], np.float32)
    for at in np.ndindex(*out.shape):
        queries, keys = size_q[at].tolist(), size_k[at].tolist()
        kept = sum(
            q * sum(k for k, m in zip(keys, row, strict=True) if m) for q, row in zip(queries, map_[at], strict=True)
        )
        total = sum(queries) * sum(keys)
        out[at] = float(Fraction(kept, total)) if total else 0.0
    return out


def check(map_, size_q, size_k):
    np.testing.assert_array_equal(cluster.map_density(map_, size_q, size_k), expected(map_, size_q, size_k))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exact(backend, shape, rng):
    check(*case(shape, rng))
    assert tokernel.last_backend() == backend


def test_sums_that_float_could_not_count(backend, rng):
    map_, size_q, size_k = case((1, 1, 20, 20), rng, 2**26)
    size_q[0, 0, 0] = 1
    check(map_, size_q, size_k)


def test_full_and_empty_maps(backend, rng):
    """Law 10 of svg2: the full map has density 1."""
    map_, size_q, size_k = case((1, 2, 9, 40), rng)
    assert (cluster.map_density(np.ones_like(map_), size_q, size_k) == 1).all()
    assert (cluster.map_density(np.zeros_like(map_), size_q, size_k) == 0).all()


def test_it_is_the_share_of_token_pairs(backend, rng):
    """Law 10: what a kernel that runs over the kept blocks computes, counted token by token."""
    map_, size_q, size_k = case((1, 1, 6, 8), rng, 5)
    rows = np.repeat(np.repeat(map_[0, 0], size_q[0, 0], axis=0), size_k[0, 0], axis=1)
    assert cluster.map_density(map_, size_q, size_k)[0, 0] == np.float32(rows.mean())


@pytest.mark.parametrize("shape", [(0, 1, 2, 3), (1, 0, 2, 3), (2, 2, 0, 3), (2, 2, 3, 0)], ids=str)
def test_nothing_of_nothing_is_zero(backend, shape, rng):
    check(*case(shape, rng))


def test_sizes_of_zero(backend, rng):
    map_, size_q, size_k = case((1, 1, 3, 4), rng)
    check(map_, 0 * size_q, size_k)
    check(map_, size_q, 0 * size_k)


def test_strided_views_and_other_dtypes(backend, rng):
    map_, size_q, size_k = case((2, 3, 8, 10), rng)
    check(map_.astype(np.uint8) * 2, size_q.astype(np.int32), size_k.astype(np.int32))
    check(np.ascontiguousarray(map_.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3), size_q, size_k)
    check(map_[:, ::2, 1::3, ::2], size_q[:, ::2, 1::3], size_k[:, ::2, ::2])


def test_out(backend, rng):
    map_, size_q, size_k = case((2, 3, 8, 10), rng)
    out = np.zeros((2, 3), np.float32)
    assert cluster.map_density(map_, size_q, size_k, out=out) is out
    np.testing.assert_array_equal(out, expected(map_, size_q, size_k))


def test_bad_sizes(backend, rng):
    map_, _, size_k = case((1, 1, 2, 3), rng)
    with pytest.raises(ValueError, match=r"^map_density: size_q must be no less than 0, got -1 at flat position 1$"):
        cluster.map_density(map_, np.array([[[3, -1]]]), size_k)
    for large in (2**40, 2**62):
        with pytest.raises(ValueError, match=r"^map_density: size_q must be small enough that int64 counts all pairs"):
            cluster.map_density(map_, np.full((1, 1, 2), large), np.full((1, 1, 3), large))
