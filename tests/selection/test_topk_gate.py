# SPDX-License-Identifier: Apache-2.0
"""topk_gate and its gradient on every backend against NumPy in float64: choice, weights, counts, ties, NaN, threads."""

import numpy as np
import pytest

import tokernel
from tokernel.kernels import select

# T, E: around the widths of a vector, a warp, a tile, and what a warp or a lane takes
SHAPES = [(1, 1), (2, 2), (5, 3), (3, 7), (17, 8), (16, 15), (33, 16), (15, 17), (4, 31), (40, 33), (2, 64), (3, 65)]
WIDE = [(3, 257), (2, 511), (2, 513), (1, 1030)]
EPS = 2.0**-23


def softmax(logits):
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        e = np.exp(wide - np.fmax.reduce(wide, axis=-1, keepdims=True, initial=-np.inf))
        return e / e.sum(-1, keepdims=True)


def choice(logits, k):
    """Descending logits, ties and NaN (last) by ascending expert."""
    wide = logits.astype(np.float64)
    position = np.broadcast_to(np.arange(logits.shape[-1]), logits.shape)
    nan = np.isnan(wide)
    return np.lexsort((position, np.where(nan, 0.0, -wide), nan), axis=-1)[..., :k]


def oracle(logits, k, normalize=False):
    index = choice(logits, k)
    weight = np.take_along_axis(softmax(logits), index, -1)
    if normalize:
        weight = weight / weight.sum(-1, keepdims=True)
    experts = logits.shape[-1]
    flat = index.reshape(*index.shape[:-2], -1)
    counts = np.apply_along_axis(np.bincount, -1, flat, minlength=experts) if flat.size else None
    if counts is None:
        counts = np.zeros((*logits.shape[:-2], experts), np.int64)
    return index, weight, counts


def gradient(grad, logits, index, normalize=False):
    """And the sum of the magnitudes of its terms."""
    p = softmax(logits)
    if normalize:
        chosen = np.zeros_like(p)
        np.put_along_axis(chosen, index, np.take_along_axis(p, index, -1), -1)
        p = chosen / np.maximum(chosen.sum(-1, keepdims=True), np.finfo(np.float64).tiny)
    g = np.zeros_like(p)
    np.put_along_axis(g, index, grad.astype(np.float64), -1)
    mean, magnitude = (g * p).sum(-1, keepdims=True), (np.abs(g) * p).sum(-1, keepdims=True)
    return p * (g - mean), p * (np.abs(g) + magnitude)


def weight_bound(logits):
    """An exponential is off by 3 ulp and by half an ulp of its argument; the sum by half an ulp an addition."""
    wide = np.where(np.isfinite(logits), logits.astype(np.float64), 0)
    spread = float(np.ptp(wide, axis=-1).max(initial=0)) if wide.size else 0.0
    return (8 + spread + logits.shape[-1] / 2) * EPS


def check(logits, k):
    for normalize in (False, True):
        index, weight, counts = select.topk_gate(logits, k, normalize)
        want_index, want_weight, want_counts = oracle(logits, k, normalize)
        assert (index.dtype, weight.dtype, counts.dtype) == (np.int64, np.float32, np.int64)
        np.testing.assert_array_equal(index, want_index)
        np.testing.assert_array_equal(counts, want_counts)
        np.testing.assert_allclose(weight, want_weight, rtol=2 * weight_bound(logits), atol=1e-37)


def check_gradient(logits, k, rng):
    grad = rng.standard_normal((*logits.shape[:-1], k)).astype(np.float32)
    index = choice(logits, k)
    for normalize in (False, True):
        got = select.topk_gate_backward(grad, logits, index, normalize)
        want, magnitude = gradient(grad, logits, index, normalize)
        assert got.dtype == logits.dtype
        info = np.finfo(logits.dtype)
        bound = (4 * weight_bound(logits) + k * EPS) * magnitude + info.eps * np.abs(want)
        assert np.all(np.abs(got - want) <= bound + float(info.smallest_subnormal))


def counts_of(experts):
    return sorted({0, 1, min(2, experts), min(3, experts), min(8, experts), min(9, experts), experts // 2, experts})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_softmax_and_sort(backend, shape, rng):
    logits = (3 * rng.standard_normal(shape)).astype(np.float32)
    for k in counts_of(shape[1]):
        check(logits, k)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("shape", WIDE, ids=str)
def test_many_experts(backend, shape, rng):
    logits = (3 * rng.standard_normal(shape)).astype(np.float32)
    for k in (1, 6, 33, shape[1] - 1, shape[1]):
        check(logits, k)
    check_gradient(logits, 6, rng)


def test_four_thousand_experts(backend, rng):
    logits = rng.standard_normal((2, 4096)).astype(np.float32)
    check(logits, 8)
    check_gradient(logits, 8, rng)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient(backend, shape, rng):
    logits = (2 * rng.standard_normal(shape)).astype(np.float32)
    for k in counts_of(shape[1]):
        check_gradient(logits, k, rng)


def test_gradient_equals_finite_differences(backend, rng):
    logits = rng.standard_normal((2, 5))
    grad = rng.standard_normal((2, 3)).astype(np.float32)
    index = choice(logits, 3)
    for normalize in (False, True):

        def loss(x, normalize=normalize):
            w = np.take_along_axis(softmax(x), index, -1)
            return float((grad * (w / w.sum(-1, keepdims=True) if normalize else w)).sum())

        got = select.topk_gate_backward(grad, logits.astype(np.float32), index, normalize)
        for at in np.ndindex(logits.shape):
            step = np.zeros_like(logits)
            step[at] = 1e-5
            assert abs((loss(logits + step) - loss(logits - step)) / 2e-5 - got[at]) < 1e-5


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_ties_go_to_the_lowest_expert(backend, dtype, rng):
    for shape in ((19, 9), (6, 40), (2, 300)):
        check(rng.integers(-2, 3, shape).astype(dtype), min(6, shape[1]))
        zeros = np.where(rng.random(shape) < 0.5, dtype(0), dtype(-0.0))
        index, weight, counts = select.topk_gate(zeros, 4)
        np.testing.assert_array_equal(index, np.broadcast_to(np.arange(4), (shape[0], 4)))
        np.testing.assert_allclose(weight, 1 / shape[1], rtol=1e-6)
        np.testing.assert_array_equal(counts, [shape[0]] * 4 + [0] * (shape[1] - 4))


def test_a_larger_logit_comes_first_where_probabilities_underflow(backend):
    logits = np.array([[0.0, -400.0, -300.0, -500.0]], np.float32)
    index, weight, _ = select.topk_gate(logits, 3)
    np.testing.assert_array_equal(index, [[0, 2, 1]])
    np.testing.assert_array_equal(weight, [[1, 0, 0]])


def test_large_logits_do_not_overflow(backend):
    logits = np.array([[1e30, -1e30, 0.0], [3e38, 3e38, -3e38]], np.float32)
    _, weight, _ = select.topk_gate(logits, 2)
    np.testing.assert_array_equal(weight, [[1, 0], [0.5, 0.5]])


@pytest.mark.parametrize("experts", [4, 700])
def test_a_row_without_softmax_has_nan_weights_and_a_choice(backend, experts):
    logits = np.full((5, experts), -1.0, np.float32)
    logits[0, 1:3] = [np.nan, 2.0]
    logits[1] = np.nan
    logits[2] = -np.inf
    logits[3, 2] = np.inf
    logits[4, 3] = -np.inf
    for normalize in (False, True):
        index, weight, counts = select.topk_gate(logits, 2, normalize)
        np.testing.assert_array_equal(index, choice(logits, 2))
        np.testing.assert_array_equal(index, [[2, 0], [0, 1], [0, 1], [2, 0], [0, 1]])
        assert np.isnan(weight[:4]).all()
        assert np.isfinite(weight[4]).all()
        assert counts.sum() == 10
        back = select.topk_gate_backward(np.ones((5, 2), np.float32), logits, index, normalize)
        assert np.isnan(np.take_along_axis(back, index, -1)[:4]).all()
        assert np.isfinite(back[4]).all()


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0), (2, 0, 4), (0, 2, 4), (2, 3, 0)], ids=str)
def test_empty(backend, shape, rng):
    logits = np.zeros(shape, np.float32)
    for k in (0, 2) if shape[-1] else (0,):
        index, weight, counts = select.topk_gate(logits, k)
        assert index.shape == weight.shape == (*shape[:-1], k)
        np.testing.assert_array_equal(counts, np.zeros((*shape[:-2], shape[-1])))
        assert select.topk_gate_backward(weight, logits, index).shape == shape


def test_nothing_chosen_counts_nothing(backend, rng):
    logits = rng.standard_normal((2, 5, 6)).astype(np.float32)
    index, weight, counts = select.topk_gate(logits, 0, True)
    assert index.shape == weight.shape == (2, 5, 0)
    np.testing.assert_array_equal(counts, np.zeros((2, 6)))
    for normalize in (False, True):
        np.testing.assert_array_equal(select.topk_gate_backward(weight, logits, index, normalize), 0)


def test_all_experts_are_the_full_softmax(backend, rng):
    logits = rng.standard_normal((7, 12)).astype(np.float32)
    index, weight, counts = select.topk_gate(logits, 12)
    np.testing.assert_allclose(weight.sum(-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(np.sort(index), np.broadcast_to(np.arange(12), (7, 12)))
    np.testing.assert_array_equal(counts, 7)


def test_normalized_weights_sum_to_one(backend, rng):
    logits = (9 * rng.standard_normal((30, 20))).astype(np.float32)
    np.testing.assert_allclose(select.topk_gate(logits, 5, True)[1].sum(-1), 1, rtol=1e-6)


def test_counts_are_of_each_sample(backend, rng):
    logits = rng.standard_normal((3, 50, 9)).astype(np.float32)
    check(logits, 2)
    for b in range(3):
        for whole, alone in zip(select.topk_gate(logits, 2), select.topk_gate(logits[b], 2), strict=True):
            np.testing.assert_array_equal(whole[b], alone)


def test_dtypes(backend, rng):
    logits = (2 * rng.standard_normal((21, 13))).astype(np.float16)
    check(logits, 3)
    check_gradient(logits, 3, rng)
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    rounded = torch.from_numpy(logits).bfloat16()
    index, weight, counts = select.topk_gate(rounded, 3)
    want = oracle(rounded.float().numpy(), 3)
    np.testing.assert_array_equal(index.numpy(), want[0])
    np.testing.assert_allclose(weight.numpy(), want[1], rtol=1e-5)
    np.testing.assert_array_equal(counts.numpy(), want[2])
    back = select.topk_gate_backward(torch.ones(21, 3), rounded, index)
    assert back.dtype == torch.bfloat16
    exact, _ = gradient(np.ones((21, 3)), rounded.float().numpy(), want[0])
    np.testing.assert_allclose(back.float().numpy(), exact, rtol=2.0**-8, atol=1e-6)


def test_strided_views(backend, rng):
    logits = rng.standard_normal((4, 6, 5, 24)).astype(np.float32)
    for view in (
        logits[0],
        logits[:, :, 2, :17],
        logits[:, 1, :, 3:20],
        logits[1, ::2, ::2],
        logits[2, 3, :, 5:9],
        logits[0, :, :, ::-1],
        np.broadcast_to(logits[0, 0, :1], (20, 24)),
        logits.transpose(2, 1, 0, 3)[1],
    ):
        check(view, 3)
        check_gradient(view, 3, rng)


def test_index_of_32_bits_and_out(backend, rng):
    logits = rng.standard_normal((9, 6)).astype(np.float32)
    grad = rng.standard_normal((9, 2)).astype(np.float32)
    out = np.zeros((9, 2), np.int64), np.zeros((9, 2), np.float32), np.full(6, 7)
    answer = select.topk_gate(logits, 2, out=out)
    assert all(a is o for a, o in zip(answer, out, strict=True))
    np.testing.assert_array_equal(out[2], oracle(logits, 2)[2])
    into = np.zeros((9, 6), np.float32)
    assert select.topk_gate_backward(grad, logits, out[0].astype(np.int32), out=into) is into
    np.testing.assert_array_equal(into, select.topk_gate_backward(grad, logits, out[0]))


@pytest.mark.parametrize(("experts", "k"), [(8, 2), (60, 6), (600, 9)])
def test_bits_do_not_depend_on_threads(backend, experts, k, rng):
    tokens = 90 if backend == "simt" else 2500
    logits = rng.standard_normal((3, tokens, experts)).astype(np.float32)[:, : 60 if experts > 100 else tokens]
    answers = []
    try:
        for threads in (1, 2, 3):
            tokernel.set_num_threads(threads)
            index, weight, counts = select.topk_gate(logits, k, True)
            back = select.topk_gate_backward(weight, logits, index)
            answers.append((index.tobytes(), weight.tobytes(), counts.tobytes(), back.tobytes()))
    finally:
        tokernel.set_num_threads(0)
    assert len(set(answers)) == 1
    np.testing.assert_array_equal(index, choice(logits, k))
    np.testing.assert_array_equal(counts, oracle(logits, k)[2])


@pytest.mark.parametrize("k", [-1, 5])
def test_k_out_of_range(k):
    rule = r"in \[0, 4\]" if k > 0 else ".*"
    with pytest.raises(ValueError, match=rf"^topk_gate: k must be {rule}, got {k}$"):
        select.topk_gate(np.zeros((2, 4), np.float32), k)


def test_too_many_experts():
    with pytest.raises(ValueError, match=r"^topk_gate: logits must be of at most 8192 experts, got 8193$"):
        select.topk_gate(np.zeros((1, 8193), np.float32), 1)


@pytest.mark.parametrize("bad", [-1, 4])
def test_index_out_of_range_writes_nothing(bad, backend):
    out = np.full((1, 4), 7, np.float32)
    call = np.ones((1, 2), np.float32), np.zeros((1, 4), np.float32), np.array([[1, bad]])
    with pytest.raises(ValueError, match=rf"^topk_gate_backward: index must be in \[0, 4\), got {bad} at flat"):
        select.topk_gate_backward(*call, out=out)
    assert (out == 7).all()
