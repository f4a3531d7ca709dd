# SPDX-License-Identifier: Apache-2.0
"""segment_reduce_backward: every backend against torch's autograd of a composition in float64."""

import functools

import numpy as np
import pytest

import tokernel
from segment_cases import BLOCK, EMPTY, SHAPES, cuts, ids_of, labels, where_told
from tokernel.kernels import merge

torch = pytest.importorskip("torch", reason="the oracle is torch's autograd")


def composition(x, ids, segments, mode, weight):
    """segment_reduce out of index_add and scatter_reduce, one batch row at a time."""
    outs, masses = [], []
    for b in range(len(x)):
        keep = ids[b] >= 0
        index, rows, w = ids[b][keep], x[b][keep], weight[b][keep]
        mass = torch.zeros(segments, dtype=x.dtype).index_add(0, index, w)
        if mode == "amax":
            spread = index[:, None].expand(-1, x.shape[2])
            start = torch.zeros(segments, x.shape[2], dtype=x.dtype)
            out = start.scatter_reduce(0, spread, rows, "amax", include_self=False)
        else:
            out = torch.zeros(segments, x.shape[2], dtype=x.dtype).index_add(0, index, rows * w[:, None])
            if mode == "mean":
                out = torch.where(mass[:, None] == 0, 0.0, out / torch.where(mass == 0, 1.0, mass)[:, None])
        outs.append(out)
        masses.append(mass)
    return torch.stack(outs), torch.stack(masses)


def expected_gradients(x, ids, segments, mode, weight, grad, grad_mass):
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    out, mass = composition(x, torch.tensor(ids), segments, mode, weight)
    loss = (out * torch.tensor(grad, dtype=torch.float64)).sum() + (mass * torch.tensor(grad_mass)).sum()
    return [g.numpy() for g in torch.autograd.grad(loss, (x, weight))]


def assert_close(got, exact, magnitude, dtype):
    """Rounding of the result and, for dot products, of the terms that went into it."""
    unit = np.finfo(dtype).eps
    assert (np.abs(got.astype(np.float64) - exact) <= 2 * unit * np.abs(exact) + 8 * magnitude).all()


def inputs(shape, form):
    batch, tokens, segments, width = shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, tokens, width))
    grad = rng.standard_normal((batch, segments, width))
    weight = rng.random((batch, tokens)).astype(np.float32) + np.float32(0.1)
    grad_mass = rng.standard_normal((batch, segments)).astype(np.float32)
    offsets = cuts(rng, batch, tokens, segments)
    ids = ids_of(offsets, tokens) if form == "offsets" else labels(rng, batch, tokens, segments)
    return x, grad, weight, grad_mass, ids, {"offsets": offsets} if form == "offsets" else {"ids": ids}


@functools.cache
def case(shape, dtype, mode, form):
    """Inputs and gradients with and without weights, computed once for all backends."""
    x, grad, weight, grad_mass, ids, index = inputs(shape, form)
    x, grad = x.astype(dtype), grad.astype(dtype)
    weighted = expected_gradients(x, ids, shape[2], mode, weight, grad, grad_mass)
    plain = expected_gradients(x, ids, shape[2], mode, np.ones_like(weight), grad, grad_mass)
    return x, grad, weight, grad_mass, index, weighted, plain


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("mode", ["mean", "sum"])
@pytest.mark.parametrize("form", ["offsets", "ids"])
def test_sum_and_mean(backend, shape, dtype, mode, form):
    x, grad, weight, grad_mass, index, (exact_x, exact_weight), (plain_x, _) = case(shape, dtype, mode, form)
    if form == "offsets":
        index = index | where_told(backend, shape[1])
    grad_x, grad_weight = merge.segment_reduce_backward(
        grad, x, **index, mode=mode, weight=weight, grad_mass=grad_mass, weight_grad=True
    )
    assert grad_x.dtype == dtype
    assert grad_weight.dtype == np.float32
    smallest = np.finfo(dtype).smallest_subnormal
    assert_close(grad_x, exact_x, smallest, dtype)
    largest = np.abs(x.astype(float)).max() * np.abs(grad.astype(float)).max() * shape[3] * 10
    assert_close(grad_weight, exact_weight, np.finfo(np.float32).eps * largest, np.float32)
    assert_close(merge.segment_reduce_backward(grad, **index, mode=mode), plain_x, smallest, dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ["offsets", "ids"])
def test_amax(backend, shape, form):
    x, grad, _, _, index, _, (exact, _) = case(shape, np.float32, "amax", form)
    if form == "offsets":
        index = index | where_told(backend, shape[1])
    assert np.array_equal(merge.segment_reduce_backward(grad, x, **index, mode="amax"), exact.astype(np.float32))


def test_amax_ties_go_to_the_lowest_token(backend):
    x = np.array([[2, 1], [2, np.nan], [2, 5], [1, np.nan]], np.float32)
    got = merge.segment_reduce_backward(np.array([[7, 9]], np.float32), x, ids=np.array([-1, 0, 0, 0]), mode="amax")
    assert got.tolist() == [[0, 0], [7, 9], [0, 0], [0, 0]]
    low = np.full((3, 2), -np.inf, np.float32)
    offsets = {"offsets": np.array([0, 3]), **where_told(backend, 3)}
    got = merge.segment_reduce_backward(np.ones((1, 2), np.float32), low, **offsets, mode="amax")
    assert got.tolist() == [[1, 1], [0, 0], [0, 0]]


def test_no_mass_no_gradient(backend):
    x = np.ones((1, 3, 18), np.float32)
    weight = np.array([[1, -1, 2]], np.float32)
    grad_x, grad_weight = merge.segment_reduce_backward(
        np.ones((1, 2, 18), np.float32), x, ids=np.array([[0, 0, -1]]), weight=weight, weight_grad=True,
        grad_mass=np.array([[3, 4]], np.float32),
    )  # fmt: skip
    assert not grad_x.any()
    assert grad_weight.tolist() == [[3, 3, 0]]


@pytest.mark.parametrize("shape", EMPTY)
@pytest.mark.parametrize("mode", ["mean", "sum", "amax"])
def test_nothing(backend, shape, mode):
    batch, tokens, segments, width = shape
    grad = np.ones((batch, segments, width), np.float32)
    x = np.ones((batch, tokens, width), np.float32)
    ids = np.full((batch, tokens), -1)
    got = merge.segment_reduce_backward(grad, x, ids=ids, mode=mode)
    assert got.shape == (batch, tokens, width)
    assert not got.any()
    if mode != "amax":
        _, grad_weight = merge.segment_reduce_backward(grad, x, ids=ids, mode=mode, weight_grad=True)
        assert grad_weight.shape == (batch, tokens)
        assert not grad_weight.any()


def test_long_segments_views_and_threads(rng):
    tokens = 2 * BLOCK + 9
    x = rng.standard_normal((1, tokens, 300)).astype(np.float32)
    grad = rng.standard_normal((1, 3, 600)).astype(np.float32)[..., ::2]
    weight = rng.random((1, tokens)).astype(np.float32)
    index = {"offsets": np.array([0, tokens - 5, tokens - 5, tokens])}
    answers = []
    for threads in (1, 2, 0):
        tokernel.set_num_threads(threads)
        mean = merge.segment_reduce_backward(grad, x, **index, weight=weight, weight_grad=True)
        answers.append([*mean, merge.segment_reduce_backward(grad, x, **index, mode="amax")])
    tokernel.set_num_threads(0)
    for other in answers[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(other, answers[0], strict=True))
    with tokernel.use_backend("ref"):
        assert np.array_equal(answers[0][2], merge.segment_reduce_backward(grad, x, **index, mode="amax"))


GRAD = np.zeros((2, 2, 3), np.float32)
X = np.zeros((2, 4, 3), np.float32)
OFFSETS = np.array([0, 2, 4])


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "x must be given for mode 'amax' and for grad_weight, got None", {"mode": "amax"}),
        (ValueError, "x must be given for mode 'amax' and for grad_weight, got None", {"weight_grad": True}),
        (ValueError, "weight must be None with mode 'amax'", {"x": X, "mode": "amax", "weight": X[..., 0]}),
        (ValueError, "weight must be None with mode 'amax'", {"x": X, "mode": "amax", "weight_grad": True}),
        (ValueError, r"x must be \(B, N, C\) with B = 2, N = 4, C = 3", {"x": X[:, :3]}),
        (TypeError, "x must be float32, got float16", {"x": X.astype(np.float16)}),
        (ValueError, "offsets must be one longer than grad has rows", {"offsets": OFFSETS[:2]}),
        (ValueError, "tokens must be an integer of at least 0, got -1", {"tokens": -1}),
        (ValueError, "offsets must be equal to the number of tokens at its end, got 4", {"tokens": 5}),
        (ValueError, r"grad_mass must be \(B, S\) with B = 2, S = 2", {"grad_mass": X[..., 0]}),
    ],
)
def test_bad_arguments(error, message, arguments):
    with pytest.raises(error, match=f"segment_reduce_backward: {message}"):
        merge.segment_reduce_backward(GRAD, **{"offsets": OFFSETS, **arguments})
