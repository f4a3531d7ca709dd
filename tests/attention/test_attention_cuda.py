# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of attention on the host executor and on a GPU: what is particular to their tiles and key lists."""

import numpy as np
import pytest

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
    attention_backward,
)

pytestmark = pytest.mark.usefixtures("device_backend")
DTYPES = ["float32", "float16", "bfloat16"]


def as_dtype(x, dtype):
    """An array of a dtype, and what it holds in float64."""
    if dtype == "bfloat16":
        torch = pytest.importorskip("torch")
        y = torch.from_numpy(x).to(torch.bfloat16)
        return y, y.double().numpy()
    y = x.astype(dtype)
    return y, y.astype(np.float64)


def oracle(q, k, v, seen, bias=None, extra=0.0):
    """Answers and log-sum-exp in float64. `seen` broadcasts to (B, H, Nq, Nk); hidden keys are never read."""
    heads, groups = q.shape[1], k.shape[1]
    k, v = (np.repeat(x, heads // max(groups, 1), axis=1) for x in (k, v))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        s = np.einsum("bhid,bhjd->bhij", q, k) * q.shape[3] ** -0.5
        if bias is not None:
            s, seen = s + bias[:, :, None], seen & (bias != -np.inf)[:, :, None]
        s = np.where(seen, s, -np.inf)
        most = np.maximum(s.max(-1, initial=-np.inf), 0.0 if extra else -np.inf)[..., None]
        most = np.where(np.isinf(most), 0.0, most)
        p = np.exp(s - most)
        total = p.sum(-1, keepdims=True) + extra * np.exp(-most)
        lse = (most + np.log(total))[..., 0]
        shown = np.where(s[..., None] == -np.inf, 0.0, v[:, :, None])
        return np.einsum("bhij,bhijd->bhid", p / np.where(total == 0, 1.0, total), shown), lse


def bound(dtype, v, width):
    """Weights are a convex combination: rounding them and the answer, and float32 sums of products before."""
    unit = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    return (2 * unit + (width + 40) * 2.0**-23) * max(1.0, np.nanmax(np.abs(v), initial=0.0))


def check(rng, dtype, shape, policy, seen, *, change=None, **extras):
    """Compare one call with the oracle; `change` edits q, k and v before."""
    batch, heads, groups, queries, keys, width = shape
    arrays = [
        rng.standard_normal(s).astype(np.float32)
        for s in ((batch, heads, queries, width), (batch, groups, keys, width), (batch, groups, keys, width))
    ]
    if change:
        change(*arrays)
    (q, q64), (k, k64), (v, v64) = (as_dtype(x, dtype) for x in arrays)
    out, lse = attention(q, k, v, policy, return_lse=True, **extras)
    out = out.double().numpy() if dtype == "bfloat16" else np.asarray(out, np.float64)
    expected, expected_lse = oracle(q64, k64, v64, seen, extras.get("key_bias"), extras.get("extra_denominator", 0.0))
    finite = np.where(np.isfinite(v64), v64, 0)
    np.testing.assert_allclose(out, expected, rtol=0, atol=bound(dtype, finite, width))
    lse_bound = (width + 40) * 2.0**-23 * (1 + np.abs(expected_lse[np.isfinite(expected_lse)]).max(initial=0))
    np.testing.assert_allclose(np.asarray(lse), expected_lse, rtol=0, atol=lse_bound)


def causal(queries, keys):
    return np.arange(keys) <= np.arange(queries)[:, None] + keys - queries


def in_segments(cu_q, cu_k):
    rows, columns = (np.repeat(np.arange(len(cu) - 1), np.diff(cu)) for cu in (cu_q, cu_k))
    return rows[:, None] == columns


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 16, 40, 72, 128, 200, 256])
def test_widths(rng, dtype, width):
    """Every width in shared memory, whole chunks or not, and more than two steps of keys."""
    check(rng, dtype, (1, 2, 1, 19, 70, width), Dense(), True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tiles_of_queries_and_steps_of_keys(rng, dtype):
    for queries, keys in [(1, 1), (2, 63), (64, 64), (65, 65), (3, 129), (66, 200)]:
        check(rng, dtype, (1, 1, 1, queries, keys, 8), Dense(), True)
        check(rng, dtype, (1, 1, 1, queries, keys, 8), Causal(), causal(queries, keys))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_list_of_keys_holds_many_short_spans(rng, dtype):
    """Blocks of one or no key, every other one hidden: lists are cut in the middle of blocks and of nothing."""
    sizes = np.array([1, 0, 1, 2, 1, 0, 3] * 20)
    rows = np.array([70, 0, 1, 0, 5])
    blocks = rng.random((2, 5, sizes.size)) > 0.5
    blocks[1, 2] = False
    blocks[0, 0] = np.arange(sizes.size) % 2 == 0
    seen = np.repeat(np.repeat(blocks, rows, axis=1), sizes, axis=2)[None]
    check(rng, dtype, (1, 2, 2, rows.sum(), sizes.sum(), 8), BlockMap(blocks, rows, sizes), seen)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_short_segments(rng, dtype):
    """Segments that share a tile, that fill several, and that have queries or keys only."""
    q_sizes = np.array([0, 3, 1, 0, 70, 5, 0, 1, 1, 40, 2])
    k_sizes = np.array([2, 1, 0, 4, 90, 1, 0, 1, 7, 3, 70])
    cu_q, cu_k = (np.concatenate([[0], np.cumsum(s)]) for s in (q_sizes, k_sizes))
    check(rng, dtype, (1, 1, 1, cu_q[-1], cu_k[-1], 8), Segments(cu_q, cu_k), in_segments(cu_q, cu_k))
    seen = in_segments(cu_q, cu_q) & causal(cu_q[-1], cu_q[-1])
    check(rng, dtype, (1, 1, 1, cu_q[-1], cu_q[-1], 8), Segments(cu_q, causal=True), seen)


@pytest.mark.parametrize("dtype", DTYPES)
def test_disc_with_text_and_pooled_keys(rng, dtype):
    (height, width), radius, prefix, pooled = (3, 21), 2, 5, 4
    y, x = np.divmod(np.arange(height * width), width)
    near = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2 < radius**2
    seen = np.ones((prefix + y.size, prefix + y.size + pooled), bool)
    seen[:prefix, prefix + y.size :] = False
    seen[prefix:, prefix : prefix + y.size] = near
    check(rng, dtype, (1, 1, 1, *seen.shape, 8), Disc((height, width), radius, prefix, pooled), seen)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tree_and_mask(rng, dtype):
    nodes, prefix = 70, 3
    ancestors = np.tril(rng.random((nodes, nodes)) > 0.8, -1)
    seen = np.concatenate([np.ones((nodes, prefix), bool), ancestors | np.eye(nodes, dtype=bool)], axis=1)
    check(rng, dtype, (1, 1, 1, nodes, nodes + prefix, 8), Tree(ancestors, prefix), seen)
    mask = rng.random((2, 1, 20, 100)) > 0.7
    mask[0, 0, 3] = False
    check(rng, dtype, (2, 2, 1, 20, 100, 8), Mask(mask), mask)
    check(rng, dtype, (2, 2, 1, 20, 100, 8), Mask(mask, causal=True), mask & causal(20, 100))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_are_no_whole_chunks(rng, dtype):
    """Offsets and strides that cp.async cannot take give the same bits as packed arrays."""
    x, _ = as_dtype(rng.standard_normal((1, 2, 40, 3, 17)).astype(np.float32), dtype)
    q, k, v = x[:, :, :21, 0, 1:9], x[:, :1, :, 1, 1:9], x[:, :1, :, 2, 1:9]
    packed = [a.clone() if dtype == "bfloat16" else np.ascontiguousarray(a) for a in (q, k, v)]
    got, expected = attention(q, k, v, Causal()), attention(*packed, Causal())
    assert (np.asarray(got == expected)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [8, 136])
def test_hidden_values_that_are_not_finite(rng, dtype, width):
    """A weight of zero does not let NaN or infinity through, in a step that shows them to other rows."""

    def spoil(q, k, v):
        v[:, :, 37] = np.inf
        k[:, :, 37, :2] = -1.0
        v[:, :, 50, 3] = np.nan
        k[:, :, 68] = v[:, :, 68] = np.nan

    check(rng, dtype, (1, 1, 1, 40, 70, width), PrefixCausal(0, 18), np.arange(70) <= np.arange(40)[:, None] + 18,
          change=spoil)  # fmt: skip
    seen = np.tile(np.arange(70) != 68, (40, 1))
    seen[3] = True
    seen[:9, [37, 50]] = False
    check(rng, dtype, (1, 1, 1, 40, 70, width), Mask(seen), seen, change=spoil)


@pytest.mark.parametrize("dtype", DTYPES)
def test_key_bias_hides_keys_and_what_is_in_them(rng, dtype):
    bias = rng.standard_normal((1, 2, 80)).astype(np.float32)
    bias[0, 0, 3:70] = bias[0, 1] = -np.inf

    def spoil(q, k, v):
        v[:, :, 5] = k[:, :, 6] = np.nan

    check(rng, dtype, (1, 2, 1, 9, 80, 8), Dense(), True, key_bias=bias, change=spoil)
    check(rng, dtype, (1, 2, 1, 9, 80, 8), Causal(), causal(9, 80), key_bias=bias, change=spoil, extra_denominator=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_logits(rng, dtype):
    def stretch(q, k, v):
        q *= 100
        k *= 100

    check(rng, dtype, (1, 1, 1, 5, 70, 1), Dense(), True, change=stretch)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 1, 1, 2, 3, 4), (1, 0, 0, 2, 3, 4), (1, 1, 1, 0, 3, 4), (1, 2, 1, 2, 0, 4)])
def test_empty_extents(rng, dtype, shape):
    check(rng, dtype, shape, Dense(), True)
    check(rng, dtype, shape, Dense(), True, extra_denominator=1.0)


# ---- gradients ------------------------------------------------------------------------------------------------------
def gradients(q, k, v, grad, seen, bias=None, extra=0.0):
    """Gradients of q, k, v and, for a bias, of the bias of every sample and head, in float64."""
    groups, repeats = k.shape[1], q.shape[1] // k.shape[1]
    out, lse = oracle(q, k, v, seen, bias, extra)
    k, v = (np.repeat(x, repeats, axis=1) for x in (k, v))
    scale = q.shape[3] ** -0.5
    with np.errstate(invalid="ignore", over="ignore"):
        s = np.einsum("bhid,bhjd->bhij", q, k) * scale
        if bias is not None:
            s, seen = s + bias[:, :, None], seen & (bias != -np.inf)[:, :, None]
        shown = np.broadcast_to(seen & np.isfinite(lse)[..., None] | (seen & np.isnan(lse)[..., None]), s.shape)
        p = np.where(shown, np.exp(s - np.where(lse == -np.inf, 0, lse)[..., None]), 0)
        slope = np.einsum("bhid,bhjd->bhij", grad, v) - np.einsum("bhid,bhid->bhi", grad, out)[..., None]
        slope = np.where(shown, p * slope, 0)

        def over_keys(weights, x):
            return np.einsum("bhij,bhijd->bhid", weights, np.where(shown[..., None], x[:, :, None], 0))

        def over_queries(weights, x):
            y = np.einsum("bhij,bhijd->bhjd", weights, np.where(shown[..., None], x[:, :, :, None], 0))
            return y.reshape(len(y), groups, repeats, *y.shape[2:]).sum(2)

        answers = [over_keys(slope, k) * scale, over_queries(slope, q) * scale, over_queries(p, grad)]
    return answers if bias is None else [*answers, slope.sum(2)]


def check_gradients(rng, dtype, shape, policy, seen, *, change=None, bias=None, extra=0.0):
    """Compare one call with the oracle, given answers and lse of the oracle."""
    batch, heads, groups, queries, keys, width = shape
    shapes = [(heads, queries), (groups, keys), (groups, keys), (heads, queries)]
    arrays = [rng.standard_normal((batch, h, n, width)).astype(np.float32) for h, n in shapes]
    if change:
        change(*arrays)
    (q, q64), (k, k64), (v, v64), (grad, grad64) = (as_dtype(x, dtype) for x in arrays)
    out, lse = attention(q, k, v, policy, return_lse=True, key_bias=bias, extra_denominator=extra)
    got = attention_backward(grad, q, k, v, out, lse, policy, key_bias=bias)
    expected = gradients(q64, k64, v64, grad64, seen, bias, extra)
    unit = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    for x, y in zip(got, expected, strict=True):
        x = x.double().numpy() if str(getattr(x, "dtype", "")) == "torch.bfloat16" else np.asarray(x, np.float64)
        size = np.abs(np.where(np.isfinite(y), y, 0)).max(initial=1.0)
        # Weights, slopes, the answer behind the slopes and the result are rounded: a few units of the largest entry.
        np.testing.assert_allclose(x, y, rtol=0, atol=(6 * unit + (width + queries + keys) * 2.0**-23) * size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 40, 72, 256])
def test_gradients_of_widths(rng, dtype, width):
    check_gradients(rng, dtype, (1, 2, 1, 19, 37, width), Causal(), causal(19, 37))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_tiles(rng, dtype):
    for queries, keys in [(1, 1), (65, 3), (2, 130), (66, 70)]:
        check_gradients(rng, dtype, (1, 1, 1, queries, keys, 8), Dense(), np.True_)
        check_gradients(rng, dtype, (1, 1, 1, queries, keys, 8), Causal(0), np.tril(np.ones((queries, keys), bool)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_policies(rng, dtype):
    sizes, rows = np.array([1, 0, 1, 2, 1, 0, 3] * 9), np.array([70, 0, 1, 0, 5])
    blocks = rng.random((2, 5, sizes.size)) > 0.5
    seen = np.repeat(np.repeat(blocks, rows, axis=1), sizes, axis=2)[None]
    check_gradients(rng, dtype, (1, 2, 1, rows.sum(), sizes.sum(), 8), BlockMap(blocks, rows, sizes), seen)
    cu = np.concatenate([[0], np.cumsum([3, 0, 1, 66, 9, 2, 2])])
    check_gradients(rng, dtype, (1, 1, 1, cu[-1], cu[-1], 8), Segments(cu), in_segments(cu, cu))
    seen = in_segments(cu, cu) & causal(cu[-1], cu[-1])
    check_gradients(rng, dtype, (1, 1, 1, cu[-1], cu[-1], 8), Segments(cu, causal=True), seen)
    ancestors = np.tril(rng.random((35, 35)) > 0.6, -1)
    seen = np.concatenate([np.ones((35, 3), bool), ancestors | np.eye(35, dtype=bool)], axis=1)
    check_gradients(rng, dtype, (1, 1, 1, 35, 38, 8), Tree(ancestors, 3), seen)
    y, x = np.divmod(np.arange(63), 21)
    seen = np.ones((68, 72), bool)
    seen[:5, 68:] = False
    seen[5:, 5:68] = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2 < 4
    check_gradients(rng, dtype, (1, 1, 1, 68, 72, 8), Disc((3, 21), 2, 5, 4), seen)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [8, 136])
def test_gradients_beside_hidden_values_that_are_not_finite(rng, dtype, width):
    """What no longer counts after a weight of zero: hidden keys, hidden queries, and queries that attend to nothing."""
    seen = rng.random((40, 70)) > 0.3
    seen[:9, [37, 50]] = seen[:, 68] = seen[5] = False
    seen[7, :30] = False

    def spoil(q, k, v, grad):
        k[:, :, 37] = v[:, :, 50, 3] = np.nan
        k[:, :, 68] = v[:, :, 68] = np.inf
        q[:, :, 7, 0] = grad[:, :, 7] = np.nan
        q[:, :, 5] = grad[:, :, 5] = np.nan

    check_gradients(rng, dtype, (1, 1, 1, 40, 70, width), Mask(seen), seen, change=spoil)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_a_key_bias(rng, dtype):
    bias = rng.standard_normal((2, 4, 70)).astype(np.float32)
    bias[0, 1, 3:60] = bias[1, 2] = -np.inf
    for policy, seen in [(Dense(), np.True_), (Causal(), causal(9, 70))]:
        check_gradients(rng, dtype, (2, 4, 2, 9, 70, 8), policy, seen, bias=bias, extra=1.0)
