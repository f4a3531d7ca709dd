# SPDX-License-Identifier: Apache-2.0
"""Regions and Window: tokens sorted, attended in segments, and put back, against the dense mask each means."""

from __future__ import annotations

import numpy as np
import pytest
from map_cases import exact, scores, softmax

from tokernel.kernels.attention import (
    Extras,
    Regions,
    Window,
    attention,
    attention_column_sums,
    attention_rows,
)

BOUND = 2e-5


def arrays(rng, batch, heads, groups, queries, keys, width=8):
    q = rng.standard_normal((batch, heads, queries, width)).astype(np.float32)
    k, v = rng.standard_normal((2, batch, groups, keys, width)).astype(np.float32)
    return q, k, v


def region_mask(ids_q, ids_k):
    ids_q, ids_k = np.atleast_2d(ids_q), np.atleast_2d(ids_k)
    return ((ids_q[:, :, None] == ids_k[:, None]) & (ids_q[:, :, None] >= 0))[:, None]


def expected(q, k, v, mask, bias=None):
    map_, lse = softmax(scores(q, k, mask, bias=bias))
    return map_ @ np.repeat(exact(v), q.shape[1] // k.shape[1], axis=1), lse, map_


def close(got, wanted):
    np.testing.assert_allclose(exact(got), wanted, rtol=BOUND, atol=BOUND)


def check(arrays, policy, mask, bias=None):
    """Attention, lse, rows and column sums, with extras and alone."""
    q, k, v = arrays
    o, lse, map_ = expected(q, k, v, mask, bias)
    extras = Extras(rows=np.array([0, q.shape[2] - 1]), column_sums=True)
    got, got_lse, more = attention(q, k, v, policy, key_bias=bias, return_lse=True, extras=extras)
    close(got, o)
    close(got_lse, lse)
    close(more.rows, map_[:, :, [0, -1]])
    close(more.column_sums, map_.sum(2))
    assert (attention(q, k, v, policy, key_bias=bias) == got).all()


CASES = {
    "shared": (13, 17, np.int64),
    "batch": ((2, 13), (2, 17), np.int32),
    "mixed": ((2, 13), 17, np.int64),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [None, 9])
def test_regions(rng, case, count):
    queries, keys, dtype = CASES[case]
    ids_q, ids_k = rng.integers(-1, 5, queries).astype(dtype), rng.integers(-1, 5, keys).astype(dtype)
    inputs = arrays(rng, 2, 4, 2, 13, 17)
    for bias in (None, rng.standard_normal((1, 1, 17)).astype(np.float32)):
        check(inputs, Regions(ids_q, ids_k, count=count), region_mask(ids_q, ids_k), bias)


def test_every_backend(backend, rng):
    ids = np.array([1, 0, -1, 1, 0])
    q, k, v = arrays(rng, 1, 2, 1, 5, 5)
    o, lse, _ = expected(q, k, v, region_mask(ids, ids))
    got, got_lse = attention(q, k, v, Regions(ids), return_lse=True)
    close(got, o)
    close(got_lse, lse)


def test_a_token_without_a_region_sees_nothing_and_is_seen_by_nobody(rng):
    ids = np.array([0, -1, 0, 1])
    q, k, v = arrays(rng, 1, 1, 1, 4, 4)
    k[0, 0, 1], v[0, 0, 1] = np.nan, np.nan
    o, lse, more = attention(q, k, v, Regions(ids), return_lse=True, extras=Extras(np.arange(4), True))
    assert (o[0, 0, 1] == 0).all()
    assert lse[0, 0, 1] == -np.inf
    assert not np.isnan(o).any()
    assert (more.rows[0, 0, 1] == 0).all()
    assert (more.rows[0, 0, :, 1] == 0).all()
    assert more.column_sums[0, 0, 1] == 0


def test_causal_within_regions(rng):
    ids = np.array([1, 0, 1, 0, 0])
    inputs = arrays(rng, 1, 2, 2, 5, 5)
    check(inputs, Regions(ids, causal=True), region_mask(ids, ids) & np.tril(np.ones((5, 5), bool)))


def test_ids_in_order_move_nothing(rng):
    ids = np.array([0, 0, 1, 3, 3, 3])
    inputs = arrays(rng, 1, 1, 1, 6, 6)
    policy = Regions(ids)
    check(inputs, policy, region_mask(ids, ids))
    assert all(order[0] is None and order[1] is None for order in policy._orders.values())
    out, lse = np.zeros((1, 1, 6, 8), np.float32), np.zeros((1, 1, 6), np.float32)
    got, got_lse = attention(*inputs, policy, return_lse=True, out=out, lse=lse)
    assert got is out
    assert got_lse is lse
    close(out, expected(*inputs, region_mask(ids, ids))[0])


def test_given_outputs_are_filled(rng):
    ids = np.array([1, 0, 1, 0])
    inputs = arrays(rng, 2, 1, 1, 4, 4)
    out, lse = np.zeros((2, 1, 4, 8), np.float32), np.zeros((2, 1, 4), np.float32)
    got, got_lse = attention(*inputs, Regions(ids), return_lse=True, out=out, lse=lse)
    o, expected_lse, _ = expected(*inputs, region_mask(ids, ids))
    assert got is out
    assert got_lse is lse
    close(out, o)
    close(lse, expected_lse)


def test_the_order_is_found_once(rng, monkeypatch):
    policy = Regions(np.array([1, 0, 1, 0]))
    inputs = arrays(rng, 1, 1, 1, 4, 4)
    first = attention(*inputs, policy)
    monkeypatch.setattr(Regions, "_order", None)
    assert (attention(*inputs, policy) == first).all()


def test_nothing(rng):
    ids = np.zeros(0, np.int64)
    q, k, v = arrays(rng, 1, 1, 1, 0, 0)
    assert attention(q, k, v, Regions(ids)).shape == (1, 1, 0, 8)
    q, k, v = arrays(rng, 0, 2, 1, 3, 3)
    assert attention(q, k, v, Regions(np.array([1, 0, 1]))).shape == (0, 2, 3, 8)
    q, k, v = arrays(rng, 1, 2, 1, 3, 0)
    got, lse = attention(q, k, v, Regions(np.array([1, 0, 1]), ids), return_lse=True)
    assert (got == 0).all()
    assert (lse == -np.inf).all()


def test_rows_and_column_sums_alone(rng):
    ids_q, ids_k = rng.integers(-1, 3, (2, 9)), rng.integers(-1, 3, (2, 12))
    q, k, v = arrays(rng, 2, 2, 1, 9, 12)
    policy = Regions(ids_q, ids_k)
    _, lse, map_ = expected(q, k, v, region_mask(ids_q, ids_k))
    lse = lse.astype(np.float32)
    for rows in (np.array([3, 0, 3]), rng.integers(0, 9, (2, 4)).astype(np.int32)):
        each = np.broadcast_to(rows, (2, rows.shape[-1]))
        close(attention_rows(q, k, rows, lse, policy), np.stack([map_[b][:, each[b]] for b in range(2)]))
    weight = rng.random((2, 9)).astype(np.float32)
    for w in (weight, weight[0]):
        each = np.broadcast_to(w, (2, 9))[:, None, :, None]
        sums = (map_ * each).sum(2)
        close(attention_column_sums(q, k, lse, policy, query_weight=w), sums)
        groups = rng.integers(-1, 2, 12)
        got = attention_column_sums(q, k, lse, policy, query_weight=w, over_heads=True, key_groups=groups, groups=2)
        close(got, np.stack([sums.sum(1)[:, groups == g].sum(1) for g in range(2)], axis=1))


def window_mask(grid, window, shift):
    """The definition, pair by pair: after rolling, the same window, and wrapped around on the same axes."""
    tokens = np.stack(np.unravel_index(np.arange(np.prod(grid)), grid), axis=1)
    rolled = (tokens - shift) % grid
    parts = np.concatenate([rolled // window, rolled >= np.array(grid) - shift], axis=1)
    return (parts[:, None] == parts[None]).all(-1)[None, None]


GRIDS = [
    ((1, 4, 6), (1, 2, 3), (0, 0, 0)),
    ((1, 4, 6), (1, 2, 3), (0, 1, 1)),
    ((2, 4, 4), (1, 2, 2), (0, 1, 1)),
    ((4, 2, 4), (2, 2, 4), (1, 1, 2)),
    ((1, 1, 5), (1, 1, 5), (0, 0, 2)),
    ((3, 1, 2), (1, 1, 1), (0, 0, 0)),
]


@pytest.mark.parametrize(("grid", "window", "shift"), GRIDS)
def test_windows(rng, grid, window, shift):
    tokens = int(np.prod(grid))
    check(arrays(rng, 2, 2, 1, tokens, tokens), Window(grid, window, shift), window_mask(grid, window, shift))


def test_half_a_window_is_the_paper_s_shift():
    """Regions [0, L - p), [L - p, L - p // 2) and [L - p // 2, L) of the rolled axes, papers/qihoo_t2x, step 4."""
    grid, window = (1, 9, 8), (1, 3, 4)
    shift = tuple(p // 2 for p in window)
    rolled = np.roll(np.arange(72).reshape(grid), [-s for s in shift], axis=(0, 1, 2))
    region = np.zeros(grid, np.int64)
    for axis, (length, size) in enumerate(zip(grid, window, strict=True)):
        if size // 2:
            part = np.searchsorted([length - size, length - size // 2], np.arange(length), side="right")
            region = region * 3 + part.reshape([-1 if i == axis else 1 for i in range(3)])
    place = np.indices(grid).reshape(3, -1).T // window
    same = (place[:, None] == place[None]).all(-1) & (region.reshape(-1)[:, None] == region.reshape(-1))
    mask = np.zeros((72, 72), bool)
    mask[np.ix_(rolled.reshape(-1), rolled.reshape(-1))] = same
    assert (mask == window_mask(grid, window, shift)[0, 0]).all()


def test_one_window_over_the_grid_is_dense_attention(rng):
    q, k, v = arrays(rng, 1, 2, 2, 12, 12)
    close(attention(q, k, v, Window((1, 3, 4), (1, 3, 4))), expected(q, k, v, np.ones((1, 1, 12, 12), bool))[0])


def test_windows_of_one_token_give_the_values(rng):
    q, k, v = arrays(rng, 1, 2, 2, 12, 12)
    assert (attention(q, k, v, Window((1, 3, 4), (1, 1, 1))) == v).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Regions([0, 1]), TypeError, r"^Regions: ids_q must be an array, got list$"),
        (lambda: Regions(np.zeros(2)), TypeError, r"^Regions: ids_q must be int64 or int32, got float64$"),
        (
            lambda: Regions(np.zeros((1, 1, 2), int)),
            ValueError,
            r"^Regions: ids_q must have 1 to 2 dimensions, got 3$",
        ),
        (
            lambda: Regions(np.zeros(2, int), np.zeros(2)),
            TypeError,
            r"^Regions: ids_k must be int64 or int32, got float64$",
        ),
        (
            lambda: Regions(np.zeros(2, int), count=-1),
            ValueError,
            r"^Regions: count must be at least 0, got -1$",
        ),
        (lambda: Window(4, (1, 1, 1)), TypeError, r"^Window: grid must be \(frames, height, width\), got int$"),
        (
            lambda: Window((4, 4), (1, 2, 2)),
            ValueError,
            r"^Window: grid must be \(frames, height, width\), got 2 numbers$",
        ),
        (
            lambda: Window((1, 4, 4), (1, 2, 2.0)),
            TypeError,
            r"^Window: window must be an integer, got float$",
        ),
        (lambda: Window((1, 4, 4), (1, 0, 2)), ValueError, r"^Window: window must be at least 1, got 0$"),
        (
            lambda: Window((1, 4, 5), (1, 2, 2)),
            ValueError,
            r"^Window: grid must be a multiple of the window on every axis, got 5 and 2$",
        ),
        (
            lambda: Window((1, 4, 4), (1, 2, 2), (0, 2, 0)),
            ValueError,
            r"^Window: shift must be less than the window on every axis, got 2 and 2$",
        ),
    ],
)
def test_policies_that_cannot_be(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Regions(np.zeros(3, int)), r"^attention: ids_q must be \(4,\) or \(1, 4\), got \(3,\)$"),
        (Regions(np.zeros((2, 4), int)), r"^attention: ids_q must be \(4,\) or \(1, 4\), got \(2, 4\)$"),
        (
            Regions(np.zeros(4, int), np.zeros(5, int)),
            r"^attention: ids_k must be \(4,\) or \(1, 4\), got \(5,\)$",
        ),
        (Regions(np.array([0, 1, 2, -2])), r"^attention: ids_q must be in \[-1, 3\), got -2$"),
        (Regions(np.array([0, 1, 2, 3]), count=3), r"^attention: ids_q must be in \[-1, 3\), got 3$"),
        (Window((1, 2, 3), (1, 2, 3)), r"^attention: q must have the 6 tokens of the grid, got 4$"),
    ],
)
def test_policies_that_do_not_fit(policy, message):
    q = np.zeros((1, 1, 4, 8), np.float32)
    with pytest.raises(ValueError, match=message):
        attention(q, q, q, policy)
