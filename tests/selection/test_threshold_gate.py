# SPDX-License-Identifier: Apache-2.0
"""threshold_gate and its straight-through gradient on every backend against NumPy in float64."""

import numpy as np
import pytest

import tokernel
from tokernel.kernels import select

SIZES = [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 257]


def logistic(rng, shape):
    return (np.log(rng.exponential(size=shape)) - np.log(rng.exponential(size=shape))).astype(np.float32)


def gradient(grad, logits, noise, tau):
    s = 1 / (1 + np.exp(-(logits.astype(np.float64) + noise) / tau))
    return grad.astype(np.float64) * s * (1 - s) / tau


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("n", SIZES)
def test_exact_gates(backend, n, dtype, rng):
    logits = rng.standard_normal(n).astype(dtype)
    logits[:: max(n // 3, 1)] = 0
    noise = logistic(rng, n)
    for given in (None, noise):
        gate = select.threshold_gate(logits, noise=given)
        total = logits.astype(np.float32) if given is None else logits.astype(np.float32) + given
        assert gate.dtype == dtype
        np.testing.assert_array_equal(gate, (total > 0).astype(dtype))
    assert tokernel.last_backend() == backend


def test_the_threshold_is_strict_and_nan_is_off(backend):
    tiny = np.array([0.0, -0.0, np.nan, 1e-45, -1e-45, np.inf, -np.inf, 1e-30, -np.nan] * 3, np.float32)
    np.testing.assert_array_equal(select.threshold_gate(tiny), [0, 0, 0, 1, 0, 1, 0, 1, 0] * 3)
    noise = np.where(np.isinf(tiny), -tiny, 0).astype(np.float32)
    np.testing.assert_array_equal(select.threshold_gate(tiny, noise=noise), [0, 0, 0, 1, 0, 0, 0, 1, 0] * 3)


def test_temperature_does_not_move_the_threshold(backend, rng):
    logits, noise = rng.standard_normal(50).astype(np.float32), logistic(rng, 50)
    want = select.threshold_gate(logits, noise=noise)
    for tau in (1e-3, 1, 5.0, 1e6):
        np.testing.assert_array_equal(select.threshold_gate(logits, tau, noise), want)
        s = 0.5 + 0.5 * np.tanh((logits.astype(np.float64) + noise) / tau / 2)
        np.testing.assert_array_equal(want, s > 0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("n", SIZES)
def test_gradient(backend, n, dtype, rng):
    logits, grad = (rng.standard_normal(n) * 4).astype(dtype), rng.standard_normal(n).astype(dtype)
    noise = logistic(rng, n)
    for tau in (0.7, 5.0):
        got = select.threshold_gate_backward(grad, logits, noise, tau)
        want = gradient(grad, logits, noise, tau)
        assert got.dtype == dtype
        # the exponential is off by 3 ulp and by an ulp of its argument, the rest by five roundings
        bound = (9 + np.abs(logits.astype(np.float64) + noise).max() / tau) * 2.0**-23 + np.finfo(dtype).eps
        np.testing.assert_allclose(got.astype(np.float64), want, rtol=bound, atol=np.finfo(dtype).smallest_subnormal)


def test_gradient_at_zero_is_a_quarter_over_tau(backend):
    zeros = np.zeros(19, np.float32)
    np.testing.assert_allclose(select.threshold_gate_backward(zeros + 1, zeros, zeros, 5.0), 0.05, rtol=1e-6)


def test_gradient_far_away_is_zero_and_nan_propagates(backend):
    logits = np.array([1e30, -1e30, np.inf, -np.inf, np.nan, 1.0], np.float32)
    grad = np.array([1, 1, 1, 1, 1, np.nan], np.float32)
    got = select.threshold_gate_backward(grad, logits, np.zeros(6, np.float32))
    np.testing.assert_array_equal(got, [0, 0, 0, 0, np.nan, np.nan])


def test_bfloat16(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    logits, noise = torch.from_numpy(rng.standard_normal(45)).bfloat16(), torch.from_numpy(logistic(rng, 45))
    gate = select.threshold_gate(logits, noise=noise)
    assert gate.dtype == torch.bfloat16
    assert torch.equal(gate.float(), (logits.float() + noise > 0).float())
    grad = select.threshold_gate_backward(torch.ones_like(logits), logits, noise)
    want = gradient(np.ones(45), logits.float().numpy(), noise.numpy(), 5.0)
    np.testing.assert_allclose(grad.float().numpy(), want, rtol=2.0**-8)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2, 1)], ids=str)
def test_empty(backend, shape):
    empty = np.zeros(shape, np.float32)
    assert select.threshold_gate(empty, noise=empty).shape == shape
    assert select.threshold_gate_backward(empty, empty, empty).shape == shape


def test_shapes_strides_and_out(backend, rng):
    logits = rng.standard_normal((3, 4, 5, 6)).astype(np.float32)
    noise = logistic(rng, logits.shape)
    for view, at in ((logits, noise), (logits.transpose(3, 1, 0, 2), noise.transpose(3, 1, 0, 2))):
        np.testing.assert_array_equal(select.threshold_gate(view, noise=at), view + at > 0)
    for view in (logits[1, ::2], logits[0, 0, ::-1, ::-2], np.broadcast_to(logits[0, 0, :1], (4, 6))):
        np.testing.assert_array_equal(select.threshold_gate(view), view > 0)
        back = select.threshold_gate_backward(view, view, view)
        np.testing.assert_allclose(back, gradient(view, view, view, 5.0), rtol=1e-5)
    out = np.full((3, 6), 7, np.float32)
    assert select.threshold_gate(logits[0, :3, 0], out=out) is out
    np.testing.assert_array_equal(out, logits[0, :3, 0] > 0)


def test_bits_do_not_depend_on_threads(backend, rng):
    n = 3000 if backend == "simt" else 200_001
    logits, noise = rng.standard_normal(n).astype(np.float32), logistic(rng, n)
    answers = []
    try:
        for threads in (1, 2):
            tokernel.set_num_threads(threads)
            gate = select.threshold_gate(logits, noise=noise)
            answers.append((gate.tobytes(), select.threshold_gate_backward(gate, logits, noise).tobytes()))
    finally:
        tokernel.set_num_threads(0)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf"), 1e-60])
def test_tau_out_of_range(tau):
    zeros = np.zeros(2, np.float32)
    for op, call in ((select.threshold_gate, (zeros,)), (select.threshold_gate_backward, (zeros, zeros, zeros))):
        with pytest.raises(ValueError, match=rf"^{op.__name__}: tau must be a positive number of float32, got "):
            op(*call, tau=tau)


def test_other_bad_input():
    zeros = np.zeros((2, 3), np.float32)
    with pytest.raises(TypeError, match=r"^threshold_gate: tau must be a number, got str$"):
        select.threshold_gate(zeros, "5")
    with pytest.raises(ValueError, match=r"^threshold_gate: noise must be .*, got \(3,\) float32$"):
        select.threshold_gate(zeros, noise=zeros[0])
    with pytest.raises(TypeError, match=r"^threshold_gate: noise must be float32, got float16$"):
        select.threshold_gate(zeros, noise=zeros.astype(np.float16))
    with pytest.raises(TypeError, match=r"^threshold_gate_backward: grad must be float32, got float16$"):
        select.threshold_gate_backward(zeros.astype(np.float16), zeros, zeros)
