# SPDX-License-Identifier: Apache-2.0
"""JAX arrays go in and come back; 64-bit indices become JAX's own index type. Run by test_jax.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokernel.kernels import attention, merge


@pytest.fixture
def tokens():
    return np.random.default_rng(0).standard_normal((2, 17, 8)).astype(np.float32)


def assert_same(ours, expected):
    assert isinstance(ours, jax.Array)
    np.testing.assert_array_equal(np.asarray(ours), expected)


def test_plans_give_the_bits_of_numpy(tokens):
    plan = merge.bipartite_match(jnp.asarray(tokens), r=4, class_token=True)
    expected = merge.bipartite_match(tokens, r=4, class_token=True)
    merged, size = plan.merge_weighted(jnp.asarray(tokens))
    expected_merged, expected_size = expected.merge_weighted(tokens)
    assert_same(plan.map, expected.map)
    assert_same(merged, expected_merged)
    assert_same(size, expected_size)
    assert_same(plan.unmerge(merged), expected.unmerge(expected_merged))


@pytest.mark.parametrize(
    "make",
    [
        lambda x: merge.kth_match(x, 3),
        lambda x: merge.random_match(x, 4, generator=1),
        lambda x: merge.match_2d(x[:, :16], 4, 4, 2, 2, 8, generator=1),
        lambda x: merge.threshold_match(x, tau=0.3)[0],
    ],
    ids=["kth", "random", "2d", "threshold"],
)
def test_every_plan(make, tokens):
    assert_same(make(jnp.asarray(tokens)).map, make(tokens).map)


def test_answers_of_one_op_feed_the_next(tokens):
    mask = tokens[..., 0] > 0
    index, cu_seqlens = merge.compact_rows(jnp.asarray(mask))
    assert_same(index, np.flatnonzero(mask))
    packed = merge.gather_rows(jnp.asarray(tokens).reshape(1, -1, 8), index[None])
    assert_same(packed[0], tokens[mask])
    assert_same(
        merge.segment_reduce(packed, offsets=cu_seqlens, mode="sum"),
        merge.segment_reduce(np.asarray(packed), offsets=np.asarray(cu_seqlens), mode="sum"),
    )


def test_arrays_are_never_written(tokens):
    x = jnp.asarray(tokens)
    out = jnp.zeros((2, 1, 8))
    with pytest.raises(ValueError, match="gather_rows: out must be writable"):
        merge.gather_rows(x, jnp.array([[0], [1]]), out=out)
    assert not np.asarray(out).any()


def test_bfloat16_answers_are_refused(tokens):
    with pytest.raises(TypeError, match="bfloat16 results cannot be returned for ArrayImpl"):
        merge.gather_rows(jnp.asarray(tokens, jnp.bfloat16), jnp.array([[0], [1]]))


def attention_policies():
    rng = np.random.default_rng(1)
    ids, seen = rng.integers(-1, 3, 9), np.tril(rng.random((9, 9)) < 0.3, -1)
    cuts = np.array([0, 4, 9])
    yield attention.Regions, (ids,)
    yield attention.Tree, (seen,)
    yield attention.BlockMap, (np.eye(2, dtype=bool), np.diff(cuts), np.array([3, 6]))
    yield attention.Segments, (cuts,)


@pytest.mark.parametrize(("policy", "arrays"), list(attention_policies()))
def test_attention_takes_policies_of_either_framework(policy, arrays):
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 9, 8)).astype(np.float32)
    expected, wanted = attention.attention(q, k, v, policy(*arrays), extras=attention.Extras(np.array([1]), True))
    for of_jax in (policy(*arrays), policy(*map(jnp.asarray, arrays))):
        extras = attention.Extras(jnp.asarray([1]), True)
        got, more = attention.attention(*map(jnp.asarray, (q, k, v)), of_jax, extras=extras)
        assert_same(got, expected)
        assert_same(more.rows, wanted.rows)
        assert_same(more.column_sums, wanted.column_sums)
