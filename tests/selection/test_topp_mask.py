# SPDX-License-Identifier: Apache-2.0
"""topp_mask on every backend against a sort and running sum in exact integers."""

import math

import numpy as np
import pytest

import tokernel
from tokernel.kernels import select

SHAPES = [(1, 1), (2, 2), (3, 7), (2, 15), (2, 16), (2, 17), (1, 33), (2, 65), (1, 300), (1, 1025)]
UNIT = 2.0**43


def oracle(prob, p, min_keep=1, weight=None):
    out = np.zeros(prob.shape, bool)
    for row in np.ndindex(prob.shape[:-1]):
        mass = prob[row].astype(np.float32)
        if weight is not None:
            mass = mass * weight[row]
        if p == 1 or np.isnan(mass).any():
            out[row] = True
            continue
        units = [int(np.float64(m) * UNIT) for m in np.clip(mass, 0, 1)]
        before = 0
        order = sorted(range(len(units)), key=lambda j: (-np.clip(mass[j], 0, 1), j))
        for position, j in enumerate(order):
            out[row][j] = before < math.ceil(p * UNIT) or position < min_keep
            before += units[j]
    return out


def check(prob, p, min_keep=1, weight=None):
    got = select.topp_mask(prob, p, min_keep, weight)
    assert got.dtype == bool
    np.testing.assert_array_equal(got, oracle(prob, p, min_keep, weight))


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_running_sum(backend, shape, rng):
    prob = softmax(3 * rng.standard_normal(shape))
    for p in (0.0, 0.1, 0.5, 0.9, 0.999, 1.0):
        check(prob, p)
    assert tokernel.last_backend() == backend


def test_the_crossing_item_is_kept_and_nothing_after_it(backend):
    prob = np.array([0.125, 0.5, 0.125, 0.25], np.float32)
    for p, want in ((0.5, [0, 1, 0, 0]), (0.51, [0, 1, 0, 1]), (0.75, [0, 1, 0, 1]), (0.8, [1, 1, 0, 1])):
        np.testing.assert_array_equal(select.topp_mask(prob, p), np.array(want, bool))


def test_min_keep(backend, rng):
    prob = softmax(4 * rng.standard_normal((3, 40)))
    for min_keep in (0, 1, 2, 17, 40):
        for p in (0.0, 0.6):
            check(prob, p, min_keep)


def test_ties_zeros_and_values_out_of_range(backend, rng):
    check(np.full((2, 64), 1 / 64, np.float32), 0.5)
    check(np.zeros((1, 20), np.float32), 0.3, 4)
    few = rng.choice(np.array([0, -0.0, 0.01, 0.02, 0.25], np.float32), (3, 90))
    check(few, 0.7)
    wild = rng.choice(np.array([-1, 0.1, 2, np.inf, -np.inf, 1e-40, 1e-12], np.float32), (4, 50))
    for p in (0.0, 0.9):
        check(wild, p)


def test_nan_keeps_its_row(backend, rng):
    prob = softmax(rng.standard_normal((3, 35)))
    prob[1, 34] = np.nan
    prob[2, 0] = np.nan
    check(prob, 0.4)
    assert select.topp_mask(prob, 0.4)[1:].all()


def test_weights_and_dtypes(backend, rng):
    size = rng.integers(0, 9, (2, 3, 37)).astype(np.float32)
    prob = softmax(rng.standard_normal((2, 3, 37)) + np.log(size + 1e-9)) / np.maximum(size, 1)
    check(prob, 0.8, 1, size)
    check(prob.astype(np.float16), 0.8, 1, size)
    check(softmax(rng.standard_normal((2, 67))).astype(np.float16), 0.5)


def test_bfloat16(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    prob = torch.from_numpy(softmax(rng.standard_normal((2, 67)))).bfloat16()
    np.testing.assert_array_equal(select.topp_mask(prob, 0.6).numpy(), oracle(prob.float().numpy(), 0.6))


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0)], ids=str)
def test_empty(backend, shape):
    assert select.topp_mask(np.zeros(shape, np.float32), 0.5).shape == shape


def test_strided_views_and_out(backend, rng):
    prob = softmax(rng.standard_normal((4, 3, 5, 30)))
    for view in (prob, prob.transpose(2, 0, 1, 3), prob[1, ::2], prob[0, 0, 0, ::-1], prob[..., 4:20]):
        check(view, 0.6)
    out = np.zeros((3, 5, 30), bool)
    assert select.topp_mask(prob[0], 0.6, out=out) is out
    np.testing.assert_array_equal(out, oracle(prob[0], 0.6))


def test_bits_do_not_depend_on_threads(backend, rng):
    prob = softmax(3 * rng.standard_normal((6, 60 if backend == "simt" else 9000)))
    try:
        for threads in (1, 2):
            tokernel.set_num_threads(threads)
            check(prob, 0.9)
    finally:
        tokernel.set_num_threads(0)


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_p_out_of_range(p):
    with pytest.raises(ValueError, match=r"^topp_mask: p must be .*, got "):
        select.topp_mask(np.zeros((2, 4), np.float32), p)


def test_min_keep_above_the_row():
    with pytest.raises(ValueError, match=r"^topp_mask: min_keep must be at most 4, got 5$"):
        select.topp_mask(np.zeros((2, 4), np.float32), 0.5, 5)
