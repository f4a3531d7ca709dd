# SPDX-License-Identifier: Apache-2.0
"""Rows and column sums of the attention map: every backend, every policy, against the map in float64."""

from __future__ import annotations

import numpy as np
import pytest
from map_cases import KINDS, exact, half, make, scores, softmax

import tokernel
from tokernel.kernels.attention import Causal, Dense, attention_column_sums, attention_rows

EPS = {"float32": 2.0**-23, "float16": 2.0**-23, "bfloat16": 2.0**-23}  # scores are float32 for every dtype


class Case:
    def __init__(self, rng, kind, shape, dtype="float32", scale=None, bias=False, extra=0.0):
        batch, heads, groups, queries, keys, width = shape
        self.policy, self.mask = make(kind, rng, batch, heads, queries, keys)
        queries, keys = self.mask.shape[2:]
        self.q = half(rng.standard_normal((batch, heads, queries, width)), dtype)
        self.k = half(rng.standard_normal((batch, groups, keys, width)), dtype)
        self.bias = rng.standard_normal((batch, 1, keys)).astype(np.float32) if bias else None
        self.scale = scale
        s = scores(self.q, self.k, self.mask, scale, self.bias)
        self.map, lse = softmax(s, extra)
        self.lse = lse.astype(np.float32)
        if dtype == "bfloat16":
            import torch

            self.lse = torch.from_numpy(self.lse)
        self.size = float(np.abs(np.where(np.isfinite(s), s, 0)).max(initial=0.0))
        self.width, self.dtype = width, dtype

    def options(self):
        bias = self.bias
        if self.dtype == "bfloat16" and bias is not None:
            import torch

            bias = torch.from_numpy(bias)
        return {"scale": self.scale, "key_bias": bias}

    def bound(self):
        """Relative error of exp(s - lse): a float32 dot product, the roundings of s and lse, and exp itself."""
        norm = 1.0 + self.size * (2 + self.width)
        return EPS[self.dtype] * (norm + 8)


def close(got, expected, bound):
    got = exact(got)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=bound, atol=bound)


SMALL = (2, 2, 1, 9, 11, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_policy(backend, rng, kind):
    case = Case(rng, kind, SMALL, bias=True)
    rows = rng.integers(0, case.q.shape[2], (2, 5))
    got = attention_rows(case.q, case.k, rows, case.lse, case.policy, **case.options())
    expected = np.stack([case.map[b][:, rows[b]] for b in range(2)])
    close(got, expected, case.bound())
    hidden = np.broadcast_to(case.mask, case.map.shape)
    assert (got[~np.stack([hidden[b][:, rows[b]] for b in range(2)])] == 0).all()
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("kind", KINDS)
def test_column_sums_of_every_policy(backend, rng, kind):
    case = Case(rng, kind, SMALL, bias=True)
    got = attention_column_sums(case.q, case.k, case.lse, case.policy, **case.options())
    close(got, case.map.sum(2), case.bound() * case.q.shape[2])
    assert tokernel.last_backend() == backend


SIZES = ((1, 1, 1), (2, 15, 7), (3, 17, 33), (65, 63, 8), (63, 66, 20), (5, 129, 130))
TAILS = [(1, 1, 1, *sizes) for sizes in SIZES]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [*TAILS, (1, 4, 2, 6, 10, 24), (2, 3, 3, 4, 5, 256)])
def test_dtypes_and_tails(backend, rng, dtype, shape):
    if dtype == "bfloat16":
        pytest.importorskip("torch", reason="NumPy has no bfloat16")
    case = Case(rng, "causal", shape, dtype, scale=0.3, extra=1.0)
    rows = np.array([case.q.shape[2] - 1, 0], np.int32)
    if dtype == "bfloat16":
        import torch

        rows = torch.from_numpy(rows)
    got = attention_rows(case.q, case.k, rows, case.lse, case.policy, **case.options())
    close(got, case.map[:, :, [-1, 0]], case.bound())
    sums = attention_column_sums(case.q, case.k, case.lse, case.policy, **case.options())
    close(sums, case.map.sum(2), case.bound() * case.q.shape[2])


@pytest.mark.parametrize("shape", [(0, 2, 1, 3, 4, 8), (1, 0, 1, 3, 4, 8), (1, 2, 1, 0, 4, 8), (1, 2, 1, 3, 0, 8)])
def test_nothing(backend, shape):
    batch, heads, groups, queries, keys, width = shape
    q, k = np.ones((batch, heads, queries, width), np.float32), np.ones((batch, groups, keys, width), np.float32)
    lse = np.zeros((batch, heads, queries), np.float32)
    assert attention_rows(q, k, np.zeros(0, np.int64), lse).shape == (batch, heads, 0, keys)
    sums = attention_column_sums(q, k, lse)
    assert sums.shape == (batch, heads, keys)
    assert (sums > 0).all() or (queries == 0 and (sums == 0).all())
    if queries:
        assert attention_rows(q, k, np.array([0, 2]), lse).shape == (batch, heads, 2, keys)


def test_weights_of_queries(backend, rng):
    case = Case(rng, "causal", (2, 2, 1, 70, 70, 8))
    weight = (rng.random((2, 70)) * (rng.random((2, 70)) < 0.6)).astype(np.float32)
    for w in (weight, weight[0]):
        expected = (case.map * np.broadcast_to(w, (2, 70))[:, None, :, None]).sum(2)
        got = attention_column_sums(case.q, case.k, case.lse, case.policy, query_weight=w)
        close(got, expected, case.bound() * 70)


def test_a_query_of_weight_zero_is_left_out_whatever_it_holds(backend, rng):
    case = Case(rng, "dense", (1, 1, 1, 5, 6, 8))
    weight = np.array([1, 0, 1, 0, 1], np.float32)
    expected = attention_column_sums(case.q, case.k, case.lse, query_weight=weight)
    case.q[0, 0, 1] = np.nan
    case.lse[0, 0, 3] = np.nan
    assert (attention_column_sums(case.q, case.k, case.lse, query_weight=weight) == expected).all()
    assert np.isnan(attention_column_sums(case.q, case.k, case.lse)).all()


def test_nan_shows_where_it_is_seen(backend, rng):
    case = Case(rng, "causal", (1, 1, 1, 6, 6, 8))
    case.q[0, 0, 2] = np.nan
    got = attention_rows(case.q, case.k, np.arange(6), case.lse, Causal())[0, 0]
    assert np.isnan(got[2, :3]).all()
    assert (got[2, 3:] == 0).all()
    assert not np.isnan(np.delete(got, 2, axis=0)).any()
    sums = attention_column_sums(case.q, case.k, case.lse, Causal())[0, 0]
    assert np.isnan(sums[:3]).all()
    assert not np.isnan(sums[3:]).any()
    case = Case(rng, "causal", (1, 1, 1, 6, 6, 8))
    case.k[0, 0, 4] = np.nan  # hidden from the queries 0 to 3; lse is that of another k, and finite
    got = attention_rows(case.q, case.k, np.arange(6), case.lse, Causal())[0, 0]
    assert np.isnan(got[4:, 4]).all()
    assert np.isnan(got).sum() == 2


def test_a_query_without_keys_gives_zeros(backend, rng):
    case = Case(rng, "dense", (1, 2, 1, 4, 5, 8))
    case.lse[:, :, 1] = -np.inf
    got = attention_rows(case.q, case.k, np.array([1, 0]), case.lse)
    assert (got[:, :, 0] == 0).all()
    assert (got[:, :, 1] > 0).all()
    sums = attention_column_sums(case.q, case.k, case.lse)
    close(sums, np.delete(case.map, 1, axis=2).sum(2), case.bound() * 4)
    nothing = np.full((1, 2, 4), -np.inf, np.float32)
    assert (attention_column_sums(case.q, case.k, nothing, key_bias=np.full((1, 1, 5), -np.inf, np.float32)) == 0).all()


def test_strided_and_shared_inputs(backend, rng):
    q = rng.standard_normal((2, 7, 3, 9)).astype(np.float32)[..., 1:].transpose(0, 2, 1, 3)
    k = rng.standard_normal((2, 7, 1, 8)).astype(np.float32).transpose(0, 2, 1, 3)
    map_, lse = softmax(scores(q, k, True))
    lse = lse.astype(np.float32)
    close(attention_rows(q, k, np.array([6, 1]), lse), map_[:, :, [6, 1]], 1e-5)
    close(attention_column_sums(q, k, lse), map_.sum(2), 1e-5)


def test_large_scores_are_safe(backend):
    q = np.full((1, 1, 2, 4), 100.0, np.float32)
    k = np.stack([np.full((4,), 100.0), np.full((4,), -100.0)]).astype(np.float32)[None, None]
    lse = np.full((1, 1, 2), 40000.0, np.float32)
    got = attention_rows(q, k, np.array([0]), lse, scale=1.0)
    assert got.tolist() == [[[[1.0, 0.0]]]]
    assert attention_column_sums(q, k, lse, scale=1.0).tolist() == [[[2.0, 0.0]]]


def test_over_heads_and_groups(backend, rng):
    case = Case(rng, "causal", (2, 3, 1, 10, 40, 8))
    bound = case.bound() * 40
    columns = case.map.sum(2)
    ids = rng.integers(-1, 4, (2, 40))
    for groups in (ids, ids[1].astype(np.int32)):
        member = np.broadcast_to(groups, (2, 40))[:, None] == np.arange(5)[:, None]  # (2, 5, 40); nobody in group 4
        expected = np.einsum("bhj,bgj->bhg", columns, member.astype(float))
        by = {"key_groups": groups, "groups": 5}
        close(attention_column_sums(case.q, case.k, case.lse, case.policy, **by), expected, bound)
        both = attention_column_sums(case.q, case.k, case.lse, case.policy, over_heads=True, **by)
        close(both, expected.sum(1), bound * 3)
    close(attention_column_sums(case.q, case.k, case.lse, case.policy, over_heads=True), columns.sum(1), bound * 3)


@pytest.mark.parametrize(("queries", "keys"), [(0, 0), (3, 0), (0, 3)])
def test_groups_of_nothing_get_zero(queries, keys, backend):
    torch = pytest.importorskip("torch", reason="torch's empty arrays have no address")
    q, k, lse = torch.zeros(2, 1, queries, 8), torch.zeros(2, 1, keys, 8), torch.zeros(2, 1, queries)
    groups = torch.zeros(2, keys, dtype=torch.int64)
    for over_heads in (False, True):
        got = attention_column_sums(q, k, lse, over_heads=over_heads, key_groups=groups, groups=9)
        assert got.flatten().tolist() == [0.0] * 18


@pytest.mark.parametrize("kind", ["causal", "blocks", "segments"])
def test_bits_do_not_depend_on_threads(rng, kind):
    case = Case(rng, kind, (1, 2, 1, 700, 300, 16))
    answers = []
    for threads in (1, 2, 5):
        tokernel.set_num_threads(threads)
        try:
            sums = attention_column_sums(case.q, case.k, case.lse, case.policy, over_heads=True)
            answers.append((sums, attention_rows(case.q, case.k, np.arange(9), case.lse, case.policy)))
        finally:
            tokernel.set_num_threads(0)
    for sums, rows in answers[1:]:
        assert (sums == answers[0][0]).all()
        assert (rows == answers[0][1]).all()


def test_float64_is_exact_on_ref(rng):
    q, k = rng.standard_normal((2, 1, 2, 6, 8))
    map_, lse = softmax(scores(q, k, True))
    with tokernel.use_backend("ref"):
        close(attention_rows(q, k, np.array([3]), lse), map_[:, :, [3]], 2.0**-23)
        close(attention_column_sums(q, k, lse), map_.sum(2), 2.0**-23)


def test_rows_add_up_to_the_column_sums(backend, rng):
    case = Case(rng, "mask", (1, 2, 2, 8, 9, 16))
    rows = attention_rows(case.q, case.k, np.arange(8), case.lse, case.policy)
    sums = attention_column_sums(case.q, case.k, case.lse, case.policy)
    close(sums, exact(rows).sum(2), 1e-5)


def test_a_dense_map_has_as_much_attention_as_queries(backend, rng):
    case = Case(rng, "dense", (1, 2, 1, 33, 20, 16))
    total = attention_column_sums(case.q, case.k, case.lse, Dense()).sum(-1)
    np.testing.assert_allclose(total, 33, rtol=case.bound() * 2)
