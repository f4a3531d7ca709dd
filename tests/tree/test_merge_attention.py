# SPDX-License-Identifier: Apache-2.0
"""merge_attention and its gradient on every backend against NumPy in float64."""

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels import tree

# (K, B, H, N, D): around a vector of 4, 8 or 16 numbers, four vectors of each, and vectors of rows.
SHAPES = [
    (1, 1, 1, 1, 1), (2, 1, 1, 1, 2), (3, 2, 3, 1, 15), (2, 1, 2, 4, 16), (4, 1, 1, 15, 17), (2, 2, 1, 16, 63),
    (3, 1, 2, 17, 64), (33, 1, 1, 3, 65), (2, 1, 1, 2, 300), (70, 1, 1, 2, 3),
]  # fmt: skip


def parts(rng, shape, dtype=np.float32):
    outs = rng.standard_normal(shape).astype(dtype)
    return outs, (3 * rng.standard_normal(shape[:-1])).astype(np.float32)


def merged64(outs, lses):
    """Weights, answer and lse; a part without keys may hold anything."""
    seen = lses != -np.inf
    most = np.where(seen, lses, -np.inf).max(0, initial=-np.inf).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.where(seen, np.exp(lses - np.where(np.isfinite(most), most, 0)), 0)
        total = weights.sum(0)
        lse = np.where(total > 0, most + np.log(total), -np.inf)
    weights = weights / np.where(total > 0, total, 1)
    held = np.where(seen[..., None], outs, 0).astype(np.float64)
    return weights, (weights[..., None] * held).sum(0), lse


def check(outs, lses, unit=2**-24):
    o, lse = tree.merge_attention(outs, lses)
    _, want, want_lse = merged64(np.asarray(outs), np.asarray(lses))
    # An exponential of a few roundings, K products, a quotient, and the dtype's own rounding; lse: one logarithm.
    bound = (8 + len(lses)) * 2.0**-24 * np.abs(np.asarray(outs, np.float64)[np.isfinite(outs)]).max(initial=1)
    np.testing.assert_allclose(np.asarray(o, np.float64), want, rtol=unit, atol=2 * bound)
    np.testing.assert_allclose(lse, want_lse, rtol=3e-7, atol=1e-6)
    assert o.dtype == outs.dtype
    return o, lse


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_float64(backend, shape, rng):
    check(*parts(rng, shape))
    assert tokernel.last_backend() == backend


def test_half_precision(backend, rng):
    check(*parts(rng, (3, 1, 2, 5, 72), np.float16), unit=2**-11)
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    outs, lses = parts(rng, (3, 1, 2, 5, 72))
    rounded = torch.from_numpy(outs).bfloat16()
    o, lse = tree.merge_attention(rounded, torch.from_numpy(lses))
    want, want_lse = tree.merge_attention(rounded.float().numpy(), lses)
    np.testing.assert_array_equal(o.float(), torch.from_numpy(want).bfloat16().float())
    np.testing.assert_array_equal(lse, want_lse)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_one_part_is_copied(backend, dtype, rng):
    outs, lses = parts(rng, (1, 2, 2, 5, 19), dtype)
    lses[0, 0, 0] = [1e4, -1e4, 0, 88, -104]
    o, lse = tree.merge_attention(outs, lses)
    np.testing.assert_array_equal(o, outs[0])
    np.testing.assert_array_equal(lse, lses[0])


def test_no_parts(backend):
    o, lse = tree.merge_attention(np.zeros((0, 1, 2, 3, 4), np.float32), np.zeros((0, 1, 2, 3), np.float32))
    np.testing.assert_array_equal(o, np.zeros((1, 2, 3, 4)))
    np.testing.assert_array_equal(lse, np.full((1, 2, 3), -np.inf))


@pytest.mark.parametrize("held", [np.nan, np.inf, 1e38])
def test_a_part_without_keys_weighs_nothing_whatever_it_holds(backend, held, rng):
    outs, lses = parts(rng, (4, 1, 2, 6, 21))
    lses[1], lses[3, :, :, ::2] = -np.inf, -np.inf
    outs[1], outs[3, :, :, ::2] = held, held
    o, lse = check(outs, lses)
    few, few_lse = tree.merge_attention(outs[[0, 2]], lses[[0, 2]])
    np.testing.assert_array_equal(o[:, :, ::2], few[:, :, ::2])
    np.testing.assert_array_equal(lse[:, :, ::2], few_lse[:, :, ::2])


def test_nothing_seen_by_any_part(backend, rng):
    outs, lses = parts(rng, (3, 1, 1, 4, 5))
    lses[:, :, :, 2] = -np.inf
    outs[:, :, :, 2] = np.nan
    o, lse = check(outs, lses)
    np.testing.assert_array_equal(o[0, 0, 2], np.zeros(5))
    assert lse[0, 0, 2] == -np.inf


@pytest.mark.parametrize("offset", [1e4, -1e4, 3e38])
def test_large_lses(backend, offset, rng):
    outs, lses = parts(rng, (3, 1, 1, 4, 5))
    lses = np.float32(offset) + np.round(4 * lses) / 4
    check(outs, lses.astype(np.float32))
    lses[0] = -offset
    check(outs, lses.astype(np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_lse_that_is_no_number_spoils_its_row_alone(backend, bad, rng):
    outs, lses = parts(rng, (3, 1, 2, 20, 5))
    want, want_lse = tree.merge_attention(outs, lses)
    lses[1, 0, 1, 7] = bad
    o, lse = tree.merge_attention(outs, lses)
    assert np.isnan(o[0, 1, 7]).all()
    assert np.isnan(lse[0, 1, 7])
    others = np.ones(lse.shape, bool)
    others[0, 1, 7] = False
    np.testing.assert_array_equal(o[others], want[others])
    np.testing.assert_array_equal(lse[others], want_lse[others])


def test_parts_are_joined_in_their_order(backend, rng):
    """A tree of merges is a merge: the lse carries what the answer leaves out."""
    outs, lses = parts(rng, (4, 1, 2, 3, 8))
    whole, lse = tree.merge_attention(outs, lses)
    pairs = [tree.merge_attention(outs[i : i + 2], lses[i : i + 2]) for i in (0, 2)]
    twice, twice_lse = tree.merge_attention(*(np.stack(x) for x in zip(*pairs, strict=True)))
    np.testing.assert_allclose(twice, whole, rtol=0, atol=1e-5)
    np.testing.assert_allclose(twice_lse, lse, rtol=0, atol=1e-5)


def test_strided_views_and_out(backend, rng):
    outs, lses = parts(rng, (6, 4, 4, 6, 24))
    views = [
        lambda x: x[::2], lambda x: x[::-1], lambda x: x[:, ::2, 1:], lambda x: x.swapaxes(0, 1),
        lambda x: x.swapaxes(2, 3)[1:3],
    ]  # fmt: skip
    for view in views:
        check(view(outs), view(lses))
    check(outs[..., 3:20], lses)
    out = (np.zeros(outs.shape[1:], np.float32), np.zeros(lses.shape[1:], np.float32))
    assert all(a is b for a, b in zip(tree.merge_attention(outs, lses, out=out), out, strict=True))
    np.testing.assert_array_equal(out[0], tree.merge_attention(outs, lses)[0])


@pytest.mark.parametrize("shape", [(2, 0, 1, 1, 3), (2, 1, 1, 0, 3), (2, 1, 1, 3, 0), (0, 0, 0, 0, 0)], ids=str)
def test_empty(backend, shape):
    lses = np.ones(shape[:-1], np.float32)
    o, lse = tree.merge_attention(np.zeros(shape, np.float32), lses)
    assert o.shape == shape[1:]
    np.testing.assert_allclose(lse, np.full(shape[1:-1], 1 + np.log(2), np.float32), rtol=1e-6)
    d_outs, d_lses = tree.merge_attention_backward(o, np.zeros(shape, np.float32), lses, lse)
    assert d_outs.shape == shape
    assert d_lses.shape == shape[:-1]


def test_bits_do_not_depend_on_threads(backend, rng):
    outs, lses = parts(rng, (3, 2, 4, 70 if backend != "simt" else 9, 64))
    for one, two in zip(*on_one_and_two_threads(lambda: tree.merge_attention(outs, lses)), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient_formula(backend, shape, rng):
    outs, lses = parts(rng, shape)
    if shape[0] > 1:
        lses[0, ..., ::2] = -np.inf
        outs[0, ..., ::2, :] = np.nan
    grad = rng.standard_normal(shape[1:]).astype(np.float32)
    grad_lse = rng.standard_normal(shape[1:-1]).astype(np.float32)
    for given in (grad_lse, None):
        d_outs, d_lses = tree.merge_attention_backward(grad, outs, lses, given)
        weights, o, _ = merged64(outs, lses)
        held = np.where(np.isnan(outs), 0, outs)
        change = (grad * (held - o)).sum(-1) + (0 if given is None else given)
        np.testing.assert_allclose(d_outs, weights[..., None] * grad, rtol=4e-6, atol=1e-6)
        np.testing.assert_allclose(d_lses, weights * change, rtol=1e-5, atol=1e-6 * shape[-1] + 1e-6)


def test_gradient_in_half_precision_and_of_views(backend, rng):
    outs, lses = parts(rng, (4, 2, 3, 5, 20), np.float16)
    grad = rng.standard_normal((2, 3, 5, 40)).astype(np.float16)[..., 7:27]
    d_outs, d_lses = tree.merge_attention_backward(grad, outs[::2], lses[::2])
    wide, wide_lses = tree.merge_attention_backward(grad.astype(np.float32), outs[::2].astype(np.float32), lses[::2])
    assert d_outs.dtype == np.float16
    np.testing.assert_array_equal(d_outs, wide.astype(np.float16))
    np.testing.assert_array_equal(d_lses, wide_lses)


def test_gradient_where_nothing_is_seen_is_zero(backend):
    outs = np.full((2, 1, 1, 1, 3), np.nan, np.float32)
    none = np.full((2, 1, 1, 1), -np.inf, np.float32)
    ones = np.ones((1, 1, 1, 3), np.float32)
    d_outs, d_lses = tree.merge_attention_backward(ones, outs, none, ones[..., 0])
    np.testing.assert_array_equal(d_outs, np.zeros_like(outs))
    np.testing.assert_array_equal(d_lses, np.zeros_like(none))
