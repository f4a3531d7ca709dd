# SPDX-License-Identifier: Apache-2.0
"""accumulate_importance on every backend against float64: sums, dead rows, strides, threads."""

import numpy as np
import pytest
from bits import on_one_and_two_threads
from spatten_cases import close, softmax

import tokernel
from tokernel.kernels import select

# B, H, Q, K; around the widths of a vector, a chunk of rows and a block of keys
SHAPES = [(1, 1, 1, 1), (2, 3, 1, 17), (1, 2, 5, 16), (2, 2, 33, 31), (1, 3, 67, 130), (1, 1, 2, 1025)]


def check(prob, score=None, live=None, out=None):
    got = select.accumulate_importance(prob, score, live, out=out)
    assert got.dtype == np.float32
    rows = prob.astype(np.float64)
    if live is not None:
        rows = np.where(live.astype(bool)[:, None, :, None], rows, 0)
    base = np.zeros(got.shape) if score is None else score.astype(np.float64)
    exact = base + rows.sum((1, 2))
    close(got, exact, np.abs(base) + np.abs(rows).sum((1, 2)), prob.shape[1] * prob.shape[2] + 1)
    return got


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_sum(backend, shape, dtype, rng):
    prob = softmax(rng.standard_normal(shape)).astype(dtype)
    score = rng.random((shape[0], shape[3])).astype(np.float32)
    live = rng.random((shape[0], shape[2])) < 0.6
    check(prob)
    check(prob, score)
    check(prob, score, live)
    check(prob, None, live.astype(np.uint8))
    assert tokernel.last_backend() == backend


def test_the_sum_of_scores_grows_by_heads_times_live_queries(backend, rng):
    """papers/spatten.md: after each layer the increment of sum(s_t) equals heads * live queries."""
    score = rng.random((2, 40)).astype(np.float32)
    live = rng.random((2, 9)) < 0.5
    prob = softmax(3 * rng.standard_normal((2, 5, 9, 40))).astype(np.float32)
    grown = select.accumulate_importance(prob, score, live).sum(1, dtype=np.float64) - score.sum(1, dtype=np.float64)
    np.testing.assert_allclose(grown, 5 * live.sum(1), rtol=1e-5)


def test_dead_rows_are_not_read(backend, rng):
    prob = softmax(rng.standard_normal((2, 2, 6, 19))).astype(np.float32)
    live = np.array([[1, 0, 1, 0, 0, 1], [0] * 6], bool)
    want = select.accumulate_importance(prob, None, live)
    prob[~np.broadcast_to(live[:, None], (2, 2, 6))] = np.nan
    np.testing.assert_array_equal(select.accumulate_importance(prob, None, live), want)
    assert (want[1] == 0).all()


def test_nan_spoils_its_column_alone(backend):
    prob = np.full((1, 2, 3, 20), 0.05, np.float32)
    prob[0, 1, 2, 7] = np.nan
    np.testing.assert_array_equal(np.isnan(select.accumulate_importance(prob)[0]), np.arange(20) == 7)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 0, 4), (2, 3, 4, 0)], ids=str)
def test_empty(backend, shape):
    score = np.ones((shape[0], shape[3]), np.float32)
    np.testing.assert_array_equal(select.accumulate_importance(np.zeros(shape, np.float32), score), score)
    assert (select.accumulate_importance(np.zeros(shape, np.float32)) == 0).all()


def test_strided_views_and_out(backend, rng):
    prob = softmax(rng.standard_normal((2, 7, 3, 40))).astype(np.float32)
    for view in (prob.transpose(0, 2, 1, 3), prob[:, ::2, :, 3:30], prob[..., ::-1], prob[::-1]):
        check(view)
    out = np.full((2, 40), 7, np.float32)
    assert check(prob, out=out) is out


def test_bfloat16(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    prob = torch.from_numpy(softmax(rng.standard_normal((1, 2, 5, 21)))).bfloat16()
    got = select.accumulate_importance(prob).numpy()
    close(got, prob.double().sum((1, 2)).numpy(), prob.double().sum((1, 2)).numpy(), 10)


def test_bits_do_not_depend_on_threads(backend, rng):
    shape = (2, 3, 70, 40) if backend == "simt" else (2, 8, 200, 1100)
    prob = softmax(rng.standard_normal(shape)).astype(np.float32)
    live = rng.random((2, shape[2])) < 0.9
    once, twice = on_one_and_two_threads(lambda: select.accumulate_importance(prob, None, live).tobytes())
    assert once == twice
