# SPDX-License-Identifier: Apache-2.0
"""progressive_attention on every backend against float64 over the same whole numbers, and the laws of the paper."""

import numpy as np
import pytest
from bits import on_one_and_two_threads
from spatten_cases import progressive, quantise, softmax

import tokernel
from tokernel.kernels import select

# B, H, G, Q, K, D
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 2, 1, 1, 17, 5),
    (1, 4, 2, 3, 40, 16),
    (1, 2, 2, 5, 65, 33),
    (1, 1, 1, 2, 130, 130),
    (1, 2, 1, 9, 7, 64),
]
# Logits have the rounding of their factors and of two additions: 8 units of 2^-24 of a logit, twice in a weight.
ROUNDING = 2.0**-24


def arrays(rng, shape, spread=1.0, dtype=np.float32):
    batch, heads, groups, queries, keys, width = shape
    q = (spread * rng.standard_normal((batch, heads, queries, width))).astype(dtype)
    k = rng.standard_normal((batch, groups, keys, width)).astype(np.float32)
    return q, k, rng.standard_normal((batch, groups, keys, width)).astype(dtype)


def largest_logit(q, k):
    sizes = [(x.astype(np.float64) ** 2).sum(-1).max(initial=0) for x in (q, k)]
    return np.sqrt(sizes[0] * sizes[1])


def check(q, k, v, threshold, lsb=4, msb=8, **options):
    high, low, scale_k = select.split_bits(k, msb, lsb)
    got, refetched = select.progressive_attention(q, high, low, scale_k, v, threshold, lsb=lsb, **options)
    exact, want, first = progressive(q, high, low, scale_k, v, threshold, lsb=lsb, **options)
    sure = np.abs(first.max(-1, initial=0) - threshold) > 1e-5  # else rounding may decide
    assert got.dtype == q.dtype
    assert refetched.dtype == bool
    np.testing.assert_array_equal(refetched[sure], want[sure])
    size = np.abs(v).astype(np.float64).max(initial=0) * np.max(options.get("scale_v", 1.0), initial=0)
    width = k.shape[-1]
    logits = largest_logit(q, k) * abs(options.get("scale") or width**-0.5)
    bound = (20 * logits + k.shape[-2] + 20) * ROUNDING * size
    bound += (2.0**-11 if q.dtype == np.float16 else 2.0**-24) * np.abs(exact)
    assert (np.abs(got - exact) <= bound)[sure].all()
    return got, refetched


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_float64(backend, shape, dtype, rng):
    q, k, v = arrays(rng, shape, 2.0, dtype)
    for threshold in (0.0, 0.3, 2.0):
        check(q, k, v, threshold)
    check(q, k, v, 0.3, scale=0.2)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize(("msb", "lsb"), [(6, 4), (8, 0), (8, 2)])
def test_other_widths_of_the_planes(backend, msb, lsb, rng):
    q, k, v = arrays(rng, (1, 2, 1, 3, 21, 19), 2.0)
    for threshold in (0.0, 0.3, 2.0):
        check(q, k, v, threshold, lsb, msb)


def test_quantised_values(backend, rng):
    q, k, v = arrays(rng, (2, 4, 2, 3, 37, 35))
    high_v, _, scale_v = select.split_bits(v, 8, 0)
    for threshold in (0.0, 0.15, 2.0):
        check(q, k, high_v, threshold, scale_v=scale_v)


def test_threshold_zero_never_fetches(backend, rng):
    """papers/spatten.md: progressive with thr = 0 never refetches; the answer is that of the high planes."""
    q, k, v = arrays(rng, (1, 2, 2, 4, 50, 20), 0.1)
    high, low, scale_k = select.split_bits(k)
    got, refetched = select.progressive_attention(q, high, low, scale_k, v, 0.0)
    assert not refetched.any()
    blind, _ = select.progressive_attention(q, high, np.full_like(low, 255), scale_k, v, 0.0)
    np.testing.assert_array_equal(got, blind)


def test_threshold_above_one_is_attention_on_joined_keys(backend, rng):
    """papers/spatten.md: thr > 1 always refetches and equals full-precision-of-(msb+lsb) attention."""
    q, k, v = arrays(rng, (2, 4, 2, 3, 50, 20), 2.0)
    high, low, scale_k = select.split_bits(k)
    got, refetched = select.progressive_attention(q, high, low, scale_k, v, 1.5)
    assert refetched.all()
    joined = select.join_bits(high, low, scale_k).astype(np.float64)
    n, scale_q = quantise(q, 32767)
    p = softmax(n * scale_q[..., None].astype(np.float64) @ np.repeat(joined, 2, 1).swapaxes(2, 3) / np.sqrt(20))
    np.testing.assert_allclose(got, p @ np.repeat(v, 2, 1), rtol=0, atol=2e-5)


def test_refetched_are_exactly_the_flat_rows(backend, rng):
    """papers/spatten.md: refetched rows are exactly those with max P < thr, P from the high planes."""
    q, k, v = arrays(rng, (1, 4, 4, 8, 33, 16), 1.0)
    q *= np.geomspace(0.1, 30, 8, dtype=np.float32)[:, None]
    high, low, scale_k = select.split_bits(k)
    _, _, first = progressive(q, high, low, scale_k, v, 0.0)
    most = first.max(-1)
    for threshold in (0.05, 0.1, 0.4, 0.9):
        assert (np.abs(most - threshold) > 1e-5).all()
        _, refetched = select.progressive_attention(q, high, low, scale_k, v, threshold)
        np.testing.assert_array_equal(refetched, most < threshold)
        assert 0 < refetched.mean() < 1


def test_an_error_of_one_logit_moves_p_by_at_most_half_of_it(rng):
    """papers/spatten.md: a logit error e on one key changes P by at most 2e p(1-p) <= e/2 in L1."""
    logits = 2 * rng.standard_normal((200, 12))
    p = softmax(logits)
    for error in (1e-4, 1e-2):
        moved = logits.copy()
        moved[:, 3] += error
        changed = np.abs(softmax(moved) - p).sum(-1)
        worst = 2 * error * (p[:, 3] * (1 - p[:, 3]) + error / 8)  # p(1-p) at the point where it is largest on the way
        assert (changed <= worst).all()
        assert (changed <= error / 2).all()


def test_the_low_planes_move_p_within_the_bound_of_their_logits(backend, rng):
    """The same bound for all keys at once: P of the high planes is within max |e| of P of both planes in L1, if the
    middle of the errors is taken off, which softmax does not see."""
    q, k, _ = arrays(rng, (1, 1, 1, 6, 40, 16))
    high, low, scale_k = select.split_bits(k)
    eye = np.eye(40, dtype=np.float32)[None, None, :, :16]
    first, _ = select.progressive_attention(q, high, low, scale_k, eye, 0.0)
    second, _ = select.progressive_attention(q, high, low, scale_k, eye, 2.0)
    error = q @ (select.join_bits(high, low, scale_k) - select.join_bits(high, None, scale_k)).swapaxes(2, 3) / 4
    span = (error.max(-1) - error.min(-1)) / 2
    assert (np.abs(first - second).sum(-1) <= span + 1e-5).all()


def test_keys_that_are_not_seen_leave_no_trace(backend, rng):
    q, k, v = arrays(rng, (2, 4, 2, 3, 41, 18), 2.0)
    valid = rng.random((2, 41)) < 0.6
    valid[:, 0] = True
    for threshold in (0.0, 0.3, 2.0):
        want, _ = check(q, k, v, threshold, key_valid=valid)
        high, low, scale_k = select.split_bits(k)
        spoiled = v.copy()
        spoiled[~np.broadcast_to(valid[:, None], (2, 2, 41))] = np.nan
        scale_k[~np.broadcast_to(valid[:, None], (2, 2, 41))] = np.nan
        got, _ = select.progressive_attention(q, high, low, scale_k, spoiled, threshold, key_valid=valid)
        np.testing.assert_array_equal(got, want)


def test_causal(backend, rng):
    for queries, keys in ((5, 5), (7, 40), (6, 3), (20, 20)):
        q, k, v = arrays(rng, (1, 4, 2, queries, keys, 8), 2.0)
        valid = rng.random((1, keys)) < 0.7
        for threshold in (0.0, 0.4, 2.0):
            check(q, k, v, threshold, causal=True)
            check(q, k, v, threshold, causal=True, key_valid=valid)
    v[:, :, -1] = np.nan
    high, low, scale_k = select.split_bits(k)
    got, _ = select.progressive_attention(q, high, low, scale_k, v, 0.4, causal=True)
    assert np.isfinite(got[:, :, :-1]).all()
    assert np.isnan(got[:, :, -1]).all()


def test_a_row_without_keys_is_zero_and_not_fetched(backend, rng):
    q, k, v = arrays(rng, (2, 2, 1, 3, 9, 8))
    valid = np.array([[1] * 9, [0] * 9], bool)
    got, refetched = check(q, k, v, 2.0, key_valid=valid)
    assert (got[1] == 0).all()
    np.testing.assert_array_equal(refetched, np.array([True, False])[:, None, None] & np.ones((2, 2, 3), bool))
    got, refetched = check(q, k[:, :, :0], v[:, :, :0], 2.0)
    assert (got == 0).all()
    assert not refetched.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_and_keys_that_are_not_finite(backend, bad, rng):
    q, k, v = arrays(rng, (1, 2, 2, 3, 20, 8))
    q[0, 0, 1, 3] = bad
    k[0, 1, 5, 2] = bad
    got, refetched = select.progressive_attention(q, *select.split_bits(k), v, 0.9)
    spoiled = np.array([[False, True, False], [True] * 3])
    np.testing.assert_array_equal(np.isnan(got[0]).all(-1), spoiled)
    np.testing.assert_array_equal(np.isnan(got[0]).any(-1), spoiled)
    assert not refetched[0][spoiled].any()


def test_large_logits_are_safe(backend, rng):
    q, k, v = arrays(rng, (1, 1, 1, 3, 40, 16), 1e4)
    got, _ = select.progressive_attention(q, *select.split_bits(k), v, 2.0)
    assert np.isfinite(got).all()


@pytest.mark.parametrize(
    "shape", [(0, 2, 1, 3, 4, 5), (2, 0, 0, 3, 4, 5), (2, 0, 1, 3, 4, 5), (1, 2, 1, 0, 4, 5)], ids=str
)
def test_empty(backend, shape, rng):
    got, refetched = check(*arrays(rng, shape), 0.5)
    assert got.shape == (shape[0], shape[1], shape[3], shape[5])
    assert refetched.shape == got.shape[:3]


def test_views_of_a_growing_cache(backend, rng):
    q, k, v = arrays(rng, (2, 2, 2, 2, 30, 20), 2.0)
    room = [np.zeros((2, 50, 2, x.shape[3]), x.dtype) for x in (*select.split_bits(k)[:2], v)]
    scale = np.zeros((2, 2, 50), np.float32)
    high, low, scale_k = select.split_bits(k)
    views = [x.transpose(0, 2, 1, 3)[:, :, 7:37] for x in room]
    for view, value in zip((*views, scale[:, :, 7:37]), (high, low, v, scale_k), strict=True):
        view[...] = value
    want = select.progressive_attention(q, high, low, scale_k, v, 0.3)
    got = select.progressive_attention(
        q.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3), *views[:2], scale[:, :, 7:37], views[2], 0.3
    )
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_bfloat16(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    q, k, v = (torch.from_numpy(x) for x in arrays(rng, (1, 2, 1, 2, 30, 20)))
    planes_k = select.split_bits(k)
    got, refetched = select.progressive_attention(q.bfloat16(), *planes_k, v.bfloat16(), 0.3)
    assert got.dtype == torch.bfloat16
    want, fetched, _ = progressive(
        q.bfloat16().float().numpy(), *(x.numpy() for x in planes_k), v.bfloat16().float().numpy(), 0.3
    )
    np.testing.assert_allclose(got.float().numpy(), want, rtol=2.0**-8, atol=1e-5)
    np.testing.assert_array_equal(refetched.numpy(), fetched)


def test_bits_do_not_depend_on_threads(backend, rng):
    q, k, v = arrays(rng, (1, 4, 2, 3, 40, 20) if backend == "simt" else (1, 8, 4, 11, 1000, 72))
    high_k = select.split_bits(k)
    once, twice = on_one_and_two_threads(
        lambda: [x.tobytes() for x in select.progressive_attention(q, *high_k, v, 0.02)]
    )
    assert once == twice


def test_bits_do_not_depend_on_company(backend, rng):
    """A row alone, and among others that share its keys."""
    q, k, v = arrays(rng, (1, 4, 1, 5, 70, 48), 2.0)
    planes_k = select.split_bits(k)
    together, refetched = select.progressive_attention(q, *planes_k, v, 0.3)
    for h, i in ((0, 0), (2, 3), (3, 4)):
        alone, fetched = select.progressive_attention(q[:, h : h + 1, i : i + 1], *planes_k, v, 0.3)
        np.testing.assert_array_equal(alone[0, 0, 0], together[0, h, i])
        assert fetched[0, 0, 0] == refetched[0, h, i]


def test_arguments_that_do_not_fit(rng):
    q, k, v = arrays(rng, (1, 2, 1, 3, 4, 6))
    high, low, scale_k = select.split_bits(k)
    start = "^progressive_attention: "
    for threshold in (-0.1, np.nan):
        with pytest.raises(ValueError, match=start + "threshold must be in .*, got "):
            select.progressive_attention(q, high, low, scale_k, v, threshold)
    with pytest.raises(ValueError, match=start + "scale_v must be given exactly where v is int8, got none$"):
        select.progressive_attention(q, high, low, scale_k, high)
    with pytest.raises(
        ValueError, match=start + "scale_v must be given exactly where v is int8, got one for a float v$"
    ):
        select.progressive_attention(q, high, low, scale_k, v, scale_v=scale_k)
    with pytest.raises(ValueError, match=start + "low_k must be "):
        select.progressive_attention(q, high, low, scale_k, v, lsb=0)
    with pytest.raises(ValueError, match=start + "high_k must be a number of heads that divides 2, got 3$"):
        select.progressive_attention(q, *select.split_bits(np.repeat(k, 3, 1)), np.repeat(v, 3, 1))
    with pytest.raises(ValueError, match=start + "q must be 1 to 256 channels wide, got 257$"):
        select.progressive_attention(np.zeros((1, 2, 3, 257), np.float32), high, low, scale_k, v)
