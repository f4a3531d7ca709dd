# SPDX-License-Identifier: Apache-2.0
"""segment_reduce: every backend against the reference, the reference against NumPy in float64."""

import numpy as np
import pytest

import tokernel
from tokernel.kernels import merge

BLOCK = 2048  # kSegmentBlock
MODES = ("mean", "sum", "amax")


def labels(rng, batch, tokens, segments):
    """Labels with holes: some tokens dropped, some segments empty."""
    return rng.integers(-1, max(segments, 1), (batch, tokens)) if segments else np.full((batch, tokens), -1)


def cuts(rng, batch, tokens, segments):
    inner = np.sort(rng.integers(0, tokens + 1, (batch, segments - 1)), axis=1)
    edge = np.zeros((batch, 1), np.int64)
    return np.concatenate([edge, inner, edge + tokens], axis=1)


def ids_of(offsets, tokens):
    return np.stack([np.searchsorted(row[1:], np.arange(tokens), side="right") for row in offsets])


def oracle(x, ids, segments, mode, weight=None):
    """The definition, in float64."""
    batch, tokens, width = x.shape
    w = np.ones((batch, tokens)) if weight is None else weight.astype(np.float64)
    out = np.zeros((batch, segments, width))
    mass = np.zeros((batch, segments))
    for b in range(batch):
        for s in range(segments):
            members = np.flatnonzero(ids[b] == s)
            mass[b, s] = w[b, members].sum()
            if members.size == 0:
                continue
            rows = x[b, members].astype(np.float64)
            if mode == "amax":
                out[b, s] = rows.max(axis=0)
            elif mode == "sum" or mass[b, s] != 0:
                out[b, s] = (w[b, members, None] * rows).sum(axis=0) / (mass[b, s] if mode == "mean" else 1)
    return out, mass


def naive(x, ids, segments, mode, weight=None):
    """The definition in the dtype of x: the yardstick of rounding."""
    out = np.zeros((x.shape[0], segments, x.shape[2]), x.dtype)
    for b in range(x.shape[0]):
        for s in range(segments):
            members = np.flatnonzero(ids[b] == s)
            w = np.ones(len(members), x.dtype) if weight is None else weight[b, members].astype(x.dtype)
            if mode == "amax":
                out[b, s] = x[b, members].max(axis=0) if members.size else 0
                continue
            total = np.zeros(x.shape[2], x.dtype)
            for i, n in enumerate(members):
                total = total + w[i] * x[b, n]
            out[b, s] = total / w.sum() if mode == "mean" and members.size else total
    return out


def assert_close(got, x, ids, segments, mode, weight=None):
    exact, _ = oracle(x, ids, segments, mode, weight)
    allowed = 2 * np.abs(naive(x, ids, segments, mode, weight).astype(np.float64) - exact).max(initial=0)
    unit = np.finfo(x.dtype).eps * (1 + np.abs(exact))
    assert got.dtype == x.dtype
    assert (np.abs(got.astype(np.float64) - exact) <= allowed + unit).all()


SHAPES = [(1, 1, 1, 1), (2, 5, 3, 1), (1, 17, 4, 3), (2, 9, 2, 15), (1, 6, 6, 16), (2, 33, 5, 17), (1, 4, 2, 63)]
SHAPES += [(1, 5, 2, 64), (1, 3, 1, 65), (1, 40, 2, 131)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("mode", MODES)
def test_close_to_float64(backend, rng, shape, dtype, mode):
    batch, tokens, segments, width = shape
    x = rng.standard_normal((batch, tokens, width)).astype(dtype)
    weight = None if mode == "amax" else rng.random((batch, tokens)).astype(np.float32)
    ids = labels(rng, batch, tokens, segments)
    assert_close(merge.segment_reduce(x, ids=ids, segments=segments, mode=mode), x, ids, segments, mode)
    got = merge.segment_reduce(x, ids=ids, segments=segments, mode=mode, weight=weight)
    assert_close(got, x, ids, segments, mode, weight)
    offsets = cuts(rng, batch, tokens, segments)
    got, mass = merge.segment_reduce(x, offsets=offsets, mode=mode, weight=weight, return_mass=True)
    ids = ids_of(offsets, tokens)
    assert_close(got, x, ids, segments, mode, weight)
    np.testing.assert_allclose(mass, oracle(x, ids, segments, mode, weight)[1], rtol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_bits_of_the_reference(backend, rng, mode):
    x = rng.standard_normal((2, 70, 37)).astype(np.float32)
    ids = labels(rng, 2, 70, 4)
    got = merge.segment_reduce(x, ids=ids, segments=4, mode=mode)
    with tokernel.use_backend("ref"):
        expected = merge.segment_reduce(x, ids=ids, segments=4, mode=mode)
    assert np.array_equal(got, expected)
