# SPDX-License-Identifier: Apache-2.0
"""accumulate_head_scores on every backend against float64: sums, dead rows, strides, threads."""

import numpy as np
import pytest
from bits import on_one_and_two_threads
from spatten_cases import close

import tokernel
from tokernel.kernels import select

SHAPES = [(1, 1, 1, 1), (2, 3, 1, 17), (1, 2, 5, 16), (2, 2, 33, 31), (1, 2, 130, 64), (1, 1, 3, 257)]


def check(e, score=None, live=None, out=None):
    got = select.accumulate_head_scores(e, score, live, out=out)
    assert got.dtype == np.float32
    size = np.abs(e.astype(np.float64))
    if live is not None:
        size = np.where(live.astype(bool)[:, None, :, None], size, 0)
    base = np.zeros(got.shape) if score is None else score.astype(np.float64)
    exact = base + size.sum((2, 3))
    close(got, exact, np.abs(base) + size.sum((2, 3)), e.shape[2] * e.shape[3] + 1)
    return got


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_sum(backend, shape, dtype, rng):
    e = rng.standard_normal(shape).astype(dtype)
    score = rng.random(shape[:2]).astype(np.float32)
    live = rng.random((shape[0], shape[2])) < 0.6
    check(e)
    check(e, score)
    check(e, score, live)
    check(e, None, live.astype(np.uint8))
    assert tokernel.last_backend() == backend


def test_scores_are_not_negative_and_scale_with_v(backend, rng):
    """papers/spatten.md: s_h >= 0 and scales linearly with V; a power of two scales every bit."""
    prob = rng.random((2, 3, 5, 9)).astype(np.float32)
    v = rng.standard_normal((2, 3, 9, 18)).astype(np.float32)
    once, eight = (select.accumulate_head_scores(select.local_value_attention(prob, s * v, 9)) for s in (1, 8))
    assert (once > 0).all()
    np.testing.assert_array_equal(eight, 8 * once)


def test_dead_rows_are_not_read(backend, rng):
    e = rng.standard_normal((2, 2, 6, 19)).astype(np.float32)
    live = np.array([[1, 0, 1, 0, 0, 1], [0] * 6], bool)
    want = select.accumulate_head_scores(e, None, live)
    e[~np.broadcast_to(live[:, None], (2, 2, 6))] = np.nan
    np.testing.assert_array_equal(select.accumulate_head_scores(e, None, live), want)
    assert (want[1] == 0).all()


def test_nan_spoils_its_head_alone(backend):
    e = np.ones((1, 3, 2, 20), np.float32)
    e[0, 1, 1, 19] = np.nan
    np.testing.assert_array_equal(np.isnan(select.accumulate_head_scores(e)), [[False, True, False]])


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 0, 4), (2, 3, 4, 0)], ids=str)
def test_empty(backend, shape):
    score = np.ones(shape[:2], np.float32)
    np.testing.assert_array_equal(select.accumulate_head_scores(np.zeros(shape, np.float32), score), score)
    assert (select.accumulate_head_scores(np.zeros(shape, np.float32)) == 0).all()


def test_strided_views_and_out(backend, rng):
    e = rng.standard_normal((2, 7, 3, 40)).astype(np.float32)
    for view in (e.transpose(0, 2, 1, 3), e[:, ::2, :, 3:30], e[..., ::-1], e[::-1]):
        check(view)
    out = np.full((2, 7), 7, np.float32)
    assert check(e, out=out) is out


def test_bfloat16(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    e = torch.from_numpy(rng.standard_normal((1, 2, 5, 21))).bfloat16()
    exact = e.double().abs().sum((2, 3)).numpy()
    close(select.accumulate_head_scores(e).numpy(), exact, exact, 105)


def test_bits_do_not_depend_on_threads(backend, rng):
    shape = (2, 3, 140, 7) if backend == "simt" else (2, 3, 2000, 64)
    e = rng.standard_normal(shape).astype(np.float32)
    once, twice = on_one_and_two_threads(lambda: select.accumulate_head_scores(e).tobytes())
    assert once == twice
