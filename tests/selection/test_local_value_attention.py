# SPDX-License-Identifier: Apache-2.0
"""local_value_attention on every backend against a sort and a sum in float64: what is kept, bounds, NaN, strides."""

import numpy as np
import pytest
from bits import on_one_and_two_threads
from spatten_cases import close, kept, softmax

import tokernel
from tokernel.kernels import select

# B, H, G, Q, K, D
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 2, 1, 1, 17, 5),
    (1, 4, 2, 3, 40, 16),
    (1, 2, 2, 2, 33, 33),
    (1, 1, 1, 2, 130, 130),
    (1, 1, 1, 1, 300, 64),
]


def arrays(rng, shape, dtype=np.float32):
    batch, heads, groups, queries, keys, width = shape
    prob = softmax(3 * rng.standard_normal((batch, heads, queries, keys))).astype(dtype)
    return prob, rng.standard_normal((batch, groups, keys, width)).astype(dtype)


def shared(v, heads):
    return np.repeat(v, heads // max(v.shape[1], 1), axis=1)


def check(prob, v, keep, out=None):
    got = select.local_value_attention(prob, v, keep, out=out)
    assert got.dtype == prob.dtype
    weight = np.where(kept(prob, keep), prob.astype(np.float64), 0)
    values = shared(v.astype(np.float64), prob.shape[1])
    close(got, weight @ values, np.abs(weight) @ np.abs(values), keep)
    return got


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_sort(backend, shape, dtype, rng):
    prob, v = arrays(rng, shape, dtype)
    keys = shape[4]
    for keep in sorted({0, 1, keys // 3, keys - 1, keys}):
        check(prob, v, keep)
    assert tokernel.last_backend() == backend


def test_keeping_every_key_is_the_plain_product(backend, rng):
    """papers/spatten.md: local V pruning with k_v = L1 is exact."""
    prob, v = arrays(rng, (2, 4, 2, 3, 37, 19))
    values = shared(v.astype(np.float64), 4)
    close(select.local_value_attention(prob, v, 37), prob @ values, prob @ np.abs(values), 37)


def test_dropped_mass_bounds_the_error(backend, rng):
    """papers/spatten.md: dropped probability mass bounds the output error by mass * max|V|."""
    prob, v = arrays(rng, (1, 2, 2, 4, 60, 24))
    exact = prob.astype(np.float64) @ v
    for keep in (0, 5, 30, 55):
        mass = np.where(kept(prob, keep), 0, prob.astype(np.float64)).sum(-1, keepdims=True)
        most = np.abs(v).max((2, 3))[..., None, None]
        error = np.abs(select.local_value_attention(prob, v, keep) - exact)
        assert (error <= mass * most + 1e-5).all()


def test_keeping_nothing_is_zero(backend, rng):
    prob, v = arrays(rng, (1, 2, 1, 2, 9, 5))
    v[:] = np.nan
    assert (select.local_value_attention(prob, v, 0) == 0).all()


def test_ties_take_the_lowest_index_and_nan_comes_last(backend):
    v = np.eye(6, dtype=np.float32)[None, None]
    prob = np.array([[[[0.25, 0.5, 0.25, 0.25, 0.0, -0.0], [np.nan, 0.5, 0.1, -1.0, 0.3, 0.2]]]], np.float32)
    np.testing.assert_array_equal(
        select.local_value_attention(prob, v, 3)[0, 0],
        np.array([[0.25, 0.5, 0.25, 0, 0, 0], [0, 0.5, 0, 0, 0.3, 0.2]], np.float32),
    )
    assert not np.isnan(select.local_value_attention(prob, v, 5)).any()
    assert np.isnan(select.local_value_attention(prob, v, 6)[0, 0, 1]).all()


def test_values_that_are_not_kept_are_not_read(backend, rng):
    prob, v = arrays(rng, (1, 1, 1, 1, 50, 12))
    want = select.local_value_attention(prob, v, 20)
    v[:, :, ~kept(prob, 20)[0, 0, 0]] = np.nan
    np.testing.assert_array_equal(select.local_value_attention(prob, v, 20), want)


@pytest.mark.parametrize(
    ("prob", "v"),
    [
        ((0, 2, 3, 4), (0, 1, 4, 5)),
        ((2, 0, 3, 4), (2, 0, 4, 5)),
        ((1, 2, 0, 4), (1, 2, 4, 5)),
        ((1, 2, 3, 0), (1, 2, 0, 5)),
        ((1, 2, 3, 4), (1, 2, 4, 0)),
    ],
    ids=str,
)
def test_empty(backend, prob, v):
    for keep in {0, prob[3]}:
        got = select.local_value_attention(np.zeros(prob, np.float32), np.zeros(v, np.float32), keep)
        assert got.shape == (*prob[:3], v[3])
        assert (got == 0).all()


def test_strided_views_and_out(backend, rng):
    prob, v = arrays(rng, (2, 4, 4, 4, 40, 24))
    for keep in (7, 30):
        check(prob.transpose(0, 2, 1, 3), v[:, :2], keep)
        check(prob[:, ::2, 1:], v[:, ::2, :, 3:20], keep)
        check(prob[..., ::-1], v.transpose(0, 1, 2, 3)[..., ::-1], keep)
        check(prob, np.ascontiguousarray(v.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3), keep)
    out = np.full((2, 4, 4, 24), 7, np.float32)
    assert check(prob, v, 11, out) is out


def test_bfloat16(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    prob, v = (torch.from_numpy(x).bfloat16() for x in arrays(rng, (1, 2, 1, 2, 50, 20)))
    got = select.local_value_attention(prob, v, 20)
    assert got.dtype == torch.bfloat16
    weight = np.where(kept(prob.float().numpy(), 20), prob.double().numpy(), 0)
    exact = weight @ shared(v.double().numpy(), 2)
    np.testing.assert_allclose(got.double().numpy(), exact, rtol=2.0**-8, atol=1e-5)


def test_bits_do_not_depend_on_threads(backend, rng):
    prob, v = arrays(rng, (1, 3, 3, 2, 70, 20) if backend == "simt" else (1, 3, 3, 40, 3000, 72))
    once, twice = on_one_and_two_threads(lambda: select.local_value_attention(prob, v, prob.shape[3] // 3).tobytes())
    assert once == twice


def test_a_row_of_several_parts(backend, rng):
    """Rows longer than what one thread counts alone."""
    keys = 600 if backend == "simt" else 70001
    prob = softmax(rng.standard_normal((1, 1, 1, keys))).astype(np.float32)
    check(prob, rng.standard_normal((1, 1, keys, 3)).astype(np.float32), keys // 2)


def test_keep_out_of_range():
    prob, v = np.zeros((1, 2, 3, 4), np.float32), np.zeros((1, 2, 4, 5), np.float32)
    with pytest.raises(ValueError, match=r"^local_value_attention: keep must be in \[0, 4\], got 5$"):
        select.local_value_attention(prob, v, 5)
    with pytest.raises(ValueError, match=r"^local_value_attention: v must be a number of heads that divides 2, got 3$"):
        select.local_value_attention(prob, np.zeros((1, 3, 4, 5), np.float32), 1)
