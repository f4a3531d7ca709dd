# SPDX-License-Identifier: Apache-2.0
"""Mask policies as a user meets them: clear errors, one answer whatever the framework, and what NaN means."""

from __future__ import annotations

import numpy as np
import pytest
from map_cases import KINDS, exact, make, scores, softmax

import tokernel
from tokernel.kernels.attention import (
    BlockMap,
    Causal,
    Dense,
    Disc,
    Mask,
    PrefixCausal,
    Segments,
    Tree,
    attention,
    attention_column_sums,
    attention_rows,
)

MAP = np.ones((2, 3), bool)
TWO, THREE = np.array([2, 2]), np.array([1, 2, 1])


@pytest.mark.parametrize(
    ("make_one", "error", "message"),
    [
        (lambda: Causal(1.5), TypeError, "Causal: offset must be an integer, got float"),
        (lambda: PrefixCausal("2"), TypeError, "PrefixCausal: prefix must be an integer, got str"),
        (lambda: PrefixCausal(-1), ValueError, "PrefixCausal: prefix must be at least 0, got -1"),
        (lambda: PrefixCausal(2**31), ValueError, "PrefixCausal: prefix must be below 2**31, got 2147483648"),
        (lambda: PrefixCausal(1, 0.0), TypeError, "PrefixCausal: offset must be an integer, got float"),
        (lambda: BlockMap([[1]], TWO, THREE), TypeError, "BlockMap: map must be an array, got list"),
        (lambda: BlockMap(MAP[0], TWO, THREE), ValueError, "BlockMap: map must have 2 to 4 dimensions, got 1"),
        (lambda: BlockMap(MAP, 2, THREE), TypeError, "BlockMap: row_sizes must be an array, got int"),
        (
            lambda: BlockMap(MAP, TWO, THREE[None, None, None]),
            ValueError,
            "BlockMap: col_sizes must have 1 to 3 dimensions, got 4",
        ),
        (lambda: Disc(4, 1.0), TypeError, "Disc: grid must be (height, width), got int"),
        (lambda: Disc((4, 4, 4), 1.0), ValueError, "Disc: grid must be (height, width), got 3 numbers"),
        (lambda: Disc((4, 4.0), 1.0), TypeError, "Disc: width must be an integer, got float"),
        (lambda: Disc((-4, 4), 1.0), ValueError, "Disc: height must be at least 0, got -4"),
        (lambda: Disc((2**40, 2**40), 1.0), ValueError, "Disc: height must be below 2**31, got 1099511627776"),
        (lambda: Disc((4, 4), -1), ValueError, "Disc: radius must be a finite number, at least 0, got -1"),
        (lambda: Disc((4, 4), np.nan), ValueError, "Disc: radius must be a finite number, at least 0, got nan"),
        (lambda: Disc((4, 4), np.inf), ValueError, "Disc: radius must be a finite number, at least 0, got inf"),
        (lambda: Disc((4, 4), "wide"), TypeError, "Disc: radius must be a number, got str"),
        (lambda: Disc((4, 4), None), TypeError, "Disc: radius must be a number, got NoneType"),
        (lambda: Disc((4, 4), 1, prefix=-1), ValueError, "Disc: prefix must be at least 0, got -1"),
        (lambda: Disc((4, 4), 1, pooled=None), TypeError, "Disc: pooled must be an integer, got NoneType"),
        (lambda: Segments([0, 3]), TypeError, "Segments: cu_q must be an array, got list"),
        (
            lambda: Segments(np.zeros((1, 1, 2), int)),
            ValueError,
            "Segments: cu_q must have 1 to 2 dimensions, got 3",
        ),
        (lambda: Segments(TWO, (0, 3)), TypeError, "Segments: cu_k must be an array, got tuple"),
        (lambda: Tree(MAP[0]), ValueError, "Tree: ancestors must have 2 to 3 dimensions, got 1"),
        (lambda: Tree(MAP, -1), ValueError, "Tree: prefix must be at least 0, got -1"),
        (lambda: Mask(True), TypeError, "Mask: mask must be an array, got bool"),
        (lambda: Mask(MAP[0]), ValueError, "Mask: mask must have 2 to 4 dimensions, got 1"),
    ],
)
def test_policies_that_cannot_be(make_one, error, message):
    with pytest.raises(error) as caught:
        make_one()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            BlockMap(MAP, TWO, THREE + 1),
            "block_offsets: col_sizes must be sizes that add up to the number of tokens, 4, got 7 in row 0",
        ),
        (
            BlockMap(MAP, np.array([5, -1]), THREE),
            "block_offsets: row_sizes must be no negative size, got -1 at block 1",
        ),
        (BlockMap(MAP, THREE, THREE), "BlockMap: row_sizes must have the 2 blocks of the map, got 3"),
        (
            BlockMap(MAP, np.array([2**62, 2**62]), THREE),
            "block_offsets: row_sizes must be sizes that fit an integer, got an overflow",
        ),
        (BlockMap(MAP[None].repeat(3, 0), TWO, THREE), "attention: map must be a number of heads of 1 or 2, got 3"),
        (
            BlockMap(MAP, TWO[None].repeat(3, 0), THREE),
            "attention: row_sizes must be a number of heads of 1 or 2, got 3",
        ),
        (
            BlockMap(np.ones((0, 3), bool), np.zeros(0, int), THREE),
            "block_offsets: row_sizes must be sizes that add up to the number of tokens, 4, got 0 in row 0",
        ),
        (Disc((1, 3), 1.0), "attention: q must be as many tokens as prefix and grid, 3, got 4"),
        (Disc((1, 4), 1.0, pooled=1), "attention: k must be as many tokens as prefix, grid and pooled keys, 5, got 4"),
        (Segments(np.array([1, 4])), "attention: cu_q must be 0 at its start, got 1 at flat position 0"),
        (Segments(np.array([0, 3, 2, 4])), "attention: cu_q must be non-decreasing, got 2 at flat position 2"),
        (
            Segments(np.array([0, 5])),
            "attention: cu_q must be equal to the number of tokens at its end, got 5 at flat position 1",
        ),
        (
            Segments(np.array([0])),
            "attention: cu_q must be equal to the number of tokens at its end, got 0 at flat position 0",
        ),
        (Segments(np.zeros(0, int)), "attention: cu_q must be at least one offset long, got none"),
        (
            Segments(np.array([0, 4]), np.array([0, 2, 4])),
            "attention: cu_k must be (B, S) with B = 1, S = 2 or (S,) with S = 2, got (3,) int64",
        ),
        (
            Segments(np.array([[0, 4], [0, 4]])),
            "attention: cu_q must be (B, S) with B = 1 or (S,), got (2, 2) int64",
        ),
        (Tree(np.ones((4, 3), bool)), "Tree: ancestors must be square, got 4 x 3"),
        (Tree(np.ones((4, 4), bool), 3), "attention: k must be as many tokens as prefix and nodes, 7, got 4"),
        (Tree(np.ones((2, 4, 4), bool)), "attention: ancestors must be a batch of 1 or 1, got 2"),
        (
            Mask(np.ones((4, 3), bool)),
            "attention: mask must be (X, Y, N, M) with X = 1, Y = 1, N = 4, M = 4, got (1, 1, 4, 3) bool",
        ),
        (Mask(np.ones((3, 4, 4), bool)), "attention: mask must be a number of heads of 1 or 2, got 3"),
    ],
)
def test_policies_that_do_not_fit(backend, policy, message):
    q = np.zeros((1, 2, 4, 8), np.float32)
    with pytest.raises(ValueError) as caught:
        attention(q, q, q, policy)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "policy", [Mask(np.ones((4, 4))), BlockMap(np.ones((2, 3)), TWO, THREE), Tree(np.ones((4, 4)))]
)
def test_masks_are_bool(policy):
    q = np.zeros((1, 2, 4, 8), np.float32)
    with pytest.raises(TypeError, match=r"must be (uint8 or bool|bool), got float64$"):
        attention(q, q, q, policy)


def call(op, **changed):
    """Call an op on arrays that fit, but for what is changed."""
    x = np.zeros((2, 4, 3, 8), np.float32)
    given = {"q": x, "k": x[:, :2], "v": x[:, :2], "lse": x[..., 0], "rows": np.array([0])} | changed
    names = {attention: "qkv", attention_rows: ("q", "k", "rows", "lse"), attention_column_sums: ("q", "k", "lse")}[op]
    return op(
        *(given[n] for n in names), **{n: v for n, v in changed.items() if n not in ("q", "k", "v", "lse", "rows")}
    )


OPS = [attention, attention_rows, attention_column_sums]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (
            {"k": np.zeros((2, 3, 3, 8), np.float32)},
            ValueError,
            "k must be .*(heads that divides the 4 heads of q, got 3)?",
        ),
        ({"k": np.zeros((2, 0, 3, 8), np.float32)}, ValueError, "k must be "),
        (
            {"q": np.zeros((2, 4, 3, 0), np.float32), "k": np.zeros((2, 2, 3, 0), np.float32)},
            ValueError,
            "(q|v) must be ",
        ),
        (
            {"q": np.zeros((2, 4, 3, 257), np.float32), "k": np.zeros((2, 2, 3, 257), np.float32)},
            ValueError,
            "(q|v) must be ",
        ),
        ({"k": np.zeros((2, 2, 3, 8), np.float16)}, TypeError, "k must be float32, got float16"),
        ({"q": np.zeros((2, 4, 3, 8), np.float64)}, TypeError, "q must be float32, float16 or bfloat16, got float64"),
        (
            {"q": np.zeros((4, 3, 8), np.float32)},
            ValueError,
            r"q must be \(B, heads, tokens, D\), got \(4, 3, 8\) float32",
        ),
        ({"scale": np.nan}, ValueError, "scale must be a finite number, got nan"),
        ({"scale": -np.inf}, ValueError, "scale must be a finite number, got -inf"),
        ({"scale": "large"}, TypeError, "scale must be a finite number, got str"),
        (
            {"key_bias": np.zeros((1, 3, 3), np.float32)},
            ValueError,
            "key_bias must be a number of heads of 1 or 4, got 3",
        ),
        ({"key_bias": np.zeros((1, 1, 4), np.float32)}, ValueError, r"key_bias must be \(U, V, M\) with .*M = 3, got "),
        ({"key_bias": np.zeros((1, 1, 3))}, TypeError, "key_bias must be float32, got float64"),
        ({"policy": Causal(None), "k": np.zeros((2, 2, 3), np.float32)}, ValueError, "k must be "),
    ],
)
def test_arguments_that_do_not_fit(op, changed, error, message):
    with pytest.raises(error, match=f"^{op.__name__}: {message}"):
        call(op, **changed)


@pytest.mark.parametrize(
    ("op", "changed", "error", "message"),
    [
        (
            attention,
            {"extra_denominator": -1.0},
            ValueError,
            "extra_denominator must be a finite number, at least 0, got -1.0",
        ),
        (
            attention,
            {"extra_denominator": np.nan},
            ValueError,
            "extra_denominator must be a finite number, at least 0, got nan",
        ),
        (
            attention,
            {"extra_denominator": "1"},
            TypeError,
            "extra_denominator must be a finite number, at least 0, got str",
        ),
        (attention_rows, {"rows": np.array([3])}, ValueError, r"rows must be in \[0, 3\), got 3 at flat position 0"),
        (attention_rows, {"rows": np.array([-1])}, ValueError, r"rows must be in \[0, 3\), got -1 at flat position 0"),
        (
            attention_rows,
            {"rows": np.zeros((3, 1), int)},
            ValueError,
            r"rows must be \(B, R\) with B = 2 or \(R,\), got \(3, 1\)",
        ),
        (attention_rows, {"lse": np.zeros((2, 4, 2), np.float32)}, ValueError, r"lse must be \(B, H, N\) "),
        (attention_column_sums, {"lse": np.zeros((2, 4, 3))}, TypeError, "lse must be float32, got float64"),
        (
            attention_column_sums,
            {"query_weight": np.zeros(4, np.float32)},
            ValueError,
            r"query_weight must be \(B, N\) ",
        ),
        (attention_column_sums, {"groups": 3}, ValueError, "key_groups must be given together with groups, got None"),
        (
            attention_column_sums,
            {"key_groups": np.zeros(3, int)},
            ValueError,
            "groups must be given together with key_groups, got None",
        ),
        (
            attention_column_sums,
            {"key_groups": np.array([0, 2, -1]), "groups": 2},
            ValueError,
            r"key_groups must be in \[-1, 2\), got 2 at flat position 1",
        ),
        (
            attention_column_sums,
            {"key_groups": np.zeros(4, int), "groups": 2},
            ValueError,
            r"key_groups must be \(B, M\) with B = 2, M = 3 or \(M,\) with M = 3, got \(4,\)",
        ),
    ],
)
def test_arguments_of_one_op(op, changed, error, message):
    tokernel._C.forget_last_level()
    before = tokernel.last_backend()
    with pytest.raises(error, match=f"^{op.__name__}: {message}"):
        call(op, **changed)
    assert tokernel.last_backend() == before


def inputs(rng, mask, width=8):
    queries, keys = mask.shape[2:]
    q = rng.standard_normal((2, 2, queries, width)).astype(np.float32)
    k, v = rng.standard_normal((2, 2, 1, keys, width)).astype(np.float32)
    return q, k, v


@pytest.mark.parametrize("kind", KINDS)
def test_every_framework_gives_one_answer(rng, kind):
    torch = pytest.importorskip("torch", reason="torch is an extra")
    policy, mask = make(kind, rng, 2, 2, 9, 11)
    q, k, v = inputs(rng, mask)
    expected = attention(q, k, v, policy)
    map_, _ = softmax(scores(q, k, mask))
    np.testing.assert_allclose(expected, map_ @ exact(v).repeat(2, 1), rtol=2e-5, atol=2e-5)
    got = attention(*(torch.from_numpy(x) for x in (q, k, v)), policy)  # the arrays of the policy stay NumPy's
    assert isinstance(got, torch.Tensor)
    assert (got.numpy() == expected).all()
    translated = type(policy)(
        **{
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in vars(policy).items()
        }
    )
    assert (attention(q, k, v, translated) == expected).all()
    assert (attention(q, k, v, policy) == expected).all()


@pytest.mark.parametrize("kind", KINDS)
def test_policies_can_be_used_again_with_other_extents_or_refuse(rng, kind):
    policy, mask = make(kind, rng, 2, 2, 9, 11)
    q, k, v = inputs(rng, mask)
    first = attention(q, k, v, policy)
    longer = np.zeros((2, 2, q.shape[2] + 5, 8), np.float32)
    if isinstance(policy, (Dense, Causal, PrefixCausal)):
        assert attention(longer, k, v, policy).shape == longer.shape
    else:
        with pytest.raises(ValueError, match=r" must "):
            attention(longer, k, v, policy)
    assert (attention(q, k, v, policy) == first).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_reach_the_queries_that_see_them_and_no_others(backend, rng, kind, value):
    policy, mask = make(kind, rng, 2, 2, 7, 9)
    mask = np.broadcast_to(mask, (2, 2, *mask.shape[2:]))
    q, k, v = inputs(rng, mask)
    expected = attention(q, k, v, policy)
    key = int(mask.sum((0, 1, 2)).argmin())  # seen by few
    k[:, :, key, 3] = np.nan if value is np.nan else np.inf
    q[..., 3] = np.abs(q[..., 3]) + 0.1  # so that inf gives +inf, which no finite lse can hold
    k_clean = k.copy()
    k_clean[:, :, key] = 0.0
    clean = attention(q, k_clean, v, policy)
    got = attention(q, k, v, policy)
    sees = mask[:, :, :, key]
    assert np.isnan(got[sees]).all()
    assert (got[~sees] == clean[~sees]).all()
    assert not np.isnan(expected).any()
