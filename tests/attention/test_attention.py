# SPDX-License-Identifier: Apache-2.0
"""attention on every backend and policy, against the definition in float64 over an explicit mask."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the oracle is torch in float64")

from attention_bounds import hold_to_definition
from attention_cases import DTYPES, POLICIES, cut, formula, inputs, offsets, oracle, owner, policy_case
from hypothesis import given, settings
from hypothesis import strategies as st
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels.attention import BlockMap, Causal, Dense, Mask, Segments, attention

NATIVE = [name for name in tokernel.backends()["usable"] if name in ("v2", "v3", "v4", "neon")]
WIDTHS = [1, 3, 16, 40, 64, 72, 128, 256]


def run(q, k, v, policy, scale=None, bias=None, extra=0.0):
    return attention(q, k, v, policy, scale=scale, key_bias=bias, extra_denominator=extra, return_lse=True)


def check(q, k, v, policy, seen, **options):
    """Hold an answer to twice the error of the definition computed in the dtype, plus one rounding."""
    out, lse = run(q, k, v, policy, **options)
    assert out.dtype == q.dtype
    assert out.shape == q.shape
    if out.numel():
        reach = float(v.double().abs().max()) if v.numel() else 0.0
        exact, plain = oracle(q, k, v, seen, **options), formula(q, k, v, seen, **options)
        hold_to_definition((out, lse), exact, plain, reach)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy(backend, rng, name, dtype):
    batch, heads, groups, queries, keys, width = (1, 2, 1, 11, 13, 8) if backend == "simt" else (2, 4, 2, 37, 53, 24)
    policy, seen, (queries, keys) = policy_case(name, rng, (batch, heads, queries, keys))
    check(*inputs((batch, heads, groups, queries, keys, width), dtype), policy, seen)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_width(backend, width, dtype):
    queries, keys = (3, 5) if backend == "simt" else (13, 37)
    q, k, v = inputs((1, 2, 2, queries, keys, width), dtype)
    check(q, k, v, Dense(), np.ones((1, 2, queries, keys), bool))


@pytest.mark.parametrize("name", ["dense", "causal", "segments_causal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sizes_around_every_tile(backend, rng, name, dtype):
    sizes = [(0, 3), (3, 0), (1, 1), (2, 17), (9, 3)]
    if backend != "simt":
        sizes += [(5, 16), (6, 31), (7, 64), (64, 63), (65, 65), (97, 129), (193, 255), (23, 257), (1, 600)]
    for queries, keys in sizes:
        policy, seen, _ = policy_case(name, rng, (1, 2, queries, keys))
        check(*inputs((1, 2, 1, queries, keys, 17), dtype), policy, seen)


@pytest.mark.parametrize("shape", [(0, 2, 1, 3, 3, 4), (2, 0, 1, 3, 3, 4), (2, 0, 0, 3, 3, 4), (1, 2, 2, 0, 3, 4)])
def test_empty_extents(backend, shape):
    q, k, v = inputs(shape)
    out, lse = run(q, k, v, Dense())
    assert out.shape == q.shape
    assert lse.shape == q.shape[:3]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("level", NATIVE)
def test_many_tiles_of_keys(rng, level, name):
    """Logits that rise along the keys move the maximum in every tile."""
    queries, keys = (230, 300) if name == "tree" else (230, 560)
    policy, seen, (queries, keys) = policy_case(name, rng, (1, 1, queries, keys))
    q, k, v = inputs((1, 1, 1, queries, keys, 32))
    q[..., 0], k[..., 0] = 4.0, torch.linspace(-20, 20, keys)
    with tokernel.use_backend(level):
        check(q, k, v, policy, seen)
        check(q.bfloat16(), k.bfloat16(), v.bfloat16(), policy, seen)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("queries", [1, 5])
def test_query_heads_share_the_heads_of_keys(backend, groups, queries):
    keys = 7 if backend == "simt" else 75
    q, k, v = inputs((2, 6, groups, queries, keys, 20))
    check(q, k, v, Causal(), policy_case("causal", None, (2, 6, queries, keys))[1])
    wide = [x.repeat_interleave(6 // groups, 1) for x in (k, v)]
    assert torch.equal(attention(q, k, v), attention(q, *wide))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_arrays(backend, dtype):
    """Heads inside the tokens, every second token, and columns of a wider array."""
    q, k, v = inputs((2, 2, 2, 6, 9, 16), dtype)
    expected = attention(q, k, v)
    inside = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    assert torch.equal(attention(*inside), expected)
    sparse = [x.repeat_interleave(2, 2)[:, :, ::2] for x in (q, k, v)]
    assert torch.equal(attention(*sparse), expected)
    wide = [torch.cat([x, x, x], -1)[..., 16:32] for x in (q, k, v)]
    assert torch.equal(attention(*wide), expected)


def test_rows_without_keys(backend):
    q, k, v = inputs((1, 2, 1, 6, 6, 8))
    for policy, empty in (
        (Causal(-2), [0, 1]),
        (Segments(torch.tensor([0, 2, 6]), torch.tensor([0, 0, 6])), [0, 1]),
        (BlockMap(torch.tensor([[True], [False]]), torch.tensor([4, 2]), torch.tensor([6])), [4, 5]),
        (Mask(torch.zeros(6, 6, dtype=torch.bool)), [0, 1, 2, 3, 4, 5]),
    ):
        out, lse = run(q, k, v, policy)
        assert (lse == -torch.inf).all(1)[0].nonzero().flatten().tolist() in ([], empty)
        assert not out[:, :, empty].any()
        assert (lse[:, :, empty] == -torch.inf).all()
        out, lse = run(q, k, v, policy, extra=2.0)
        assert not out[:, :, empty].any()
        torch.testing.assert_close(lse[:, :, empty], torch.full_like(lse[:, :, empty], np.log(2.0)))
        assert torch.isfinite(lse).all()


@pytest.mark.parametrize("extra", [1e-6, 1.0, 1e6])
def test_extra_denominator(backend, extra):
    q, k, v = inputs((1, 2, 2, 5, 9, 8))
    seen = np.ones((1, 2, 5, 9), bool)
    check(q, k, v, Dense(), seen, extra=extra)
    check(100 * q, k, v, Dense(), seen, extra=extra)  # scores far above and far below it


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_key_bias(backend, rng, dtype):
    batch, heads, queries, keys = (1, 2, 3, 7) if backend == "simt" else (2, 4, 9, 70)
    q, k, v = inputs((batch, heads, 2, queries, keys, 8), dtype)
    seen = np.ones((batch, heads, queries, keys), bool)
    for extents in ((1, 1), (1, heads), (batch, 1), (batch, heads)):
        bias = torch.from_numpy(rng.standard_normal((*extents, keys)).astype(np.float32))
        bias[..., 1::3] = -torch.inf
        check(q, k, v, Dense(), seen, bias=bias)
        check(q, k, v, Dense(), seen, bias=torch.full_like(bias, -torch.inf))


def test_any_scale(backend):
    q, k, v = inputs((1, 2, 2, 5, 9, 8))
    for scale in (-0.7, 0.0, 3.0):
        check(q, k, v, Dense(), np.ones((1, 2, 5, 9), bool), scale=scale)


@pytest.mark.parametrize("sign", [1, -1])
def test_logits_of_ten_thousand(backend, sign):
    q, k, v = inputs((1, 1, 1, 4, 7, 8))
    q[..., 0], k[..., 0] = 100.0 * sign, torch.linspace(90, 100, 7)
    check(q, k, v, Dense(), np.ones((1, 1, 4, 7), bool), scale=1.0)
    out, lse = run(q, k, v, Dense(), scale=1.0, extra=1.0)
    assert torch.isfinite(out).all()
    assert torch.isfinite(lse).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", POLICIES)
def test_what_is_hidden_is_never_read(backend, rng, name, dtype):
    """NaN and infinities in a key or a value reach the queries that see it; all others keep their very bits."""
    policy, seen, (queries, keys) = policy_case(name, rng, (1, 2, 13, 19))
    q, k, v = inputs((1, 2, 2, queries, keys, 20), dtype)
    clean, clean_lse = run(q, k, v, policy)
    for bad in (torch.nan, torch.inf):
        for where in (k, v):
            poisoned = where.clone()
            key = keys * 2 // 3
            poisoned[:, :, key, 5] = bad
            out, lse = run(q, *((poisoned, v) if where is k else (k, poisoned)), policy)
            touched = torch.from_numpy(seen[..., key].copy())
            assert torch.equal(out[~touched], clean[~touched])
            assert torch.equal(lse[~touched], clean_lse[~touched])
            if where is v:
                assert not torch.isfinite(out[touched][:, 5]).any()
                torch.testing.assert_close(out[touched][:, :5], clean[touched][:, :5])
                torch.testing.assert_close(lse, clean_lse)
            elif bad != bad:
                assert torch.isnan(out[touched]).all()
                assert torch.isnan(lse[touched]).all()


def test_a_nan_query_touches_its_row_only(backend):
    q, k, v = inputs((1, 2, 2, 9, 5, 8))
    clean = attention(q, k, v)
    q[0, 1, 4, 2] = torch.nan
    out, lse = run(q, k, v, Dense())
    assert torch.isnan(out[0, 1, 4]).all()
    assert torch.isnan(lse[0, 1, 4])
    out[0, 1, 4] = clean[0, 1, 4]
    assert torch.equal(out, clean)


def test_a_bias_hides_nan(backend):
    q, k, v = inputs((1, 2, 2, 4, 9, 8))
    bias = torch.zeros(1, 1, 9)
    bias[..., 3] = -torch.inf
    clean = run(q, k, v, Dense(), bias=bias)
    k[:, :, 3] = torch.nan
    v[:, :, 3] = torch.inf
    for mine, theirs in zip(run(q, k, v, Dense(), bias=bias), clean, strict=True):
        assert torch.equal(mine, theirs)


def test_answers_go_where_they_are_asked_for(backend):
    q, k, v = inputs((1, 2, 1, 4, 9, 8))
    expected, expected_lse = run(q, k, v, Dense())
    out, lse = torch.full_like(q, torch.nan), torch.full((1, 2, 4), torch.nan)
    attention(q, k, v, out=out, lse=lse, return_lse=True)
    assert torch.equal(out, expected)
    assert torch.equal(lse, expected_lse)


@pytest.mark.parametrize("name", ["dense", "causal", "block_map_of_heads", "segments", "disc", "mask"])
@pytest.mark.parametrize("level", NATIVE)
def test_the_bits_do_not_depend_on_threads(rng, level, name):
    policy, _, (queries, keys) = policy_case(name, rng, (1, 4, 220, 150))
    q, k, v = inputs((1, 4, 2, queries, keys, 24))
    with tokernel.use_backend(level):
        one, two = on_one_and_two_threads(lambda: run(q, k, v, policy))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 90), st.integers(1, 20), st.integers(1, 20))
def test_any_block_map_and_any_segments(seed, queries, keys, rows, columns):
    rng = np.random.default_rng(seed)
    q, k, v = inputs((1, 2, 1, queries, keys, 9), seed=seed % 1000)
    sizes_q, sizes_k, flags = cut(rng, queries, rows), cut(rng, keys, columns), rng.random((rows, columns)) < 0.4
    cu_k = offsets(cut(rng, keys, rows))
    seen = owner(sizes_q)[:, None] == owner(np.diff(cu_k))
    for level in NATIVE:
        with tokernel.use_backend(level):
            blocks = np.broadcast_to(flags[owner(sizes_q)][:, owner(sizes_k)], (1, 2, queries, keys))
            check(q, k, v, BlockMap(*map(torch.from_numpy, (flags, sizes_q, sizes_k))), blocks)
            check(
                q,
                k,
                v,
                Segments(*map(torch.from_numpy, (offsets(sizes_q), cu_k))),
                np.broadcast_to(seen, (1, 2, queries, keys)),
            )


@pytest.mark.parametrize("level", NATIVE)
def test_thousands_of_tiny_segments(rng, level):
    sizes = rng.integers(0, 9, 3000)
    n = int(sizes.sum())
    q, k, v = inputs((1, 1, 1, n, n, 8))
    with tokernel.use_backend(level):
        out = attention(q, k, v, Segments(torch.from_numpy(offsets(sizes))))
    for s in range(0, 3000, 37):
        part = slice(offsets(sizes)[s], offsets(sizes)[s + 1])
        alone = [x[:, :, part] for x in (q, k, v)]
        expected, _ = oracle(*alone, np.ones((1, 1, sizes[s], sizes[s]), bool))
        torch.testing.assert_close(out[:, :, part].double(), expected, rtol=0, atol=4e-6)
