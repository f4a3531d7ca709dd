# SPDX-License-Identifier: Apache-2.0
"""rotate_to and its gradient: official vectors, the formula in float64, and what makes it a rotation."""

import numpy as np
import pytest

from bits import on_one_and_two_threads
from tokernel.kernels import quantize

WIDTHS = [1, 2, 3, 8, 15, 16, 17, 33, 70, 128]
EPS = 1e-6


def rows(rng, count, width):
    return rng.standard_normal((count, width), dtype=np.float32)


def directions(x, q, eps=EPS):
    """u, v, w and the scale, in float64."""
    norm = lambda a: np.maximum(np.linalg.norm(a, axis=-1, keepdims=True), eps)  # noqa: E731
    x, q = x.astype(np.float64), q.astype(np.float64)
    u, v = x / norm(x), q / norm(q)
    return u, v, (u + v) / norm(u + v), np.linalg.norm(q, axis=-1, keepdims=True) / norm(x)


def forward(x, q):
    u, v, w, scale = directions(x, q)
    dot = lambda a, b: (a * b).sum(-1, keepdims=True)  # noqa: E731
    return scale * (x - 2 * dot(x, w) * w + 2 * dot(x, u) * v)


def backward(grad, x, q):
    u, v, w, scale = directions(x, q)
    dot = lambda a, b: (a * b).sum(-1, keepdims=True)  # noqa: E731
    return scale * (grad - 2 * dot(grad, w) * w + 2 * dot(grad, v) * u)


def close(found, expected, tolerance=4e-6):
    """To a share of each row's length."""
    length = np.linalg.norm(expected, axis=-1, keepdims=True)
    assert (np.abs(found - expected) <= tolerance * length + 1e-30).all()


def test_official(backend, golden):
    d = np.load(golden / "quantizers" / "rotate_to.npz")
    np.testing.assert_allclose(quantize.rotate_to(d["src"], d["tgt"]), d["out"], rtol=1e-5, atol=1e-5)
    found = quantize.rotate_to_backward(d["g"], d["src"], d["tgt"])
    np.testing.assert_allclose(found, d["grad_src"], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("width", WIDTHS)
def test_formula(backend, rng, width):
    x, q, grad = (rows(rng, 9, width) for _ in range(3))
    close(quantize.rotate_to(x, q), forward(x, q))
    close(quantize.rotate_to_backward(grad, x, q), backward(grad, x, q), 2e-5)


def test_forward_equals_q(backend, rng):
    """To 1e-6 of its length: also for vectors that are nearly or exactly opposite, parallel, or of unlike length."""
    q = rows(rng, 40, 12)
    x = rows(rng, 40, 12)
    x[:8], x[8:16] = -q[:8], q[8:16] * 1e-3
    x[16:24] = -q[16:24] * (1 + 1e-4 * rows(rng, 8, 12))
    x[24:32] *= 1e5
    close(quantize.rotate_to(x, q), q, 1e-6)


@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-4])
def test_nearly_opposite_gradients(backend, rng, distance):
    q, grad = rows(rng, 6, 12), rows(rng, 6, 12)
    x = -2 * q * (1 + distance * rows(rng, 6, 12)).astype(np.float32)
    close(quantize.rotate_to_backward(grad, x, q), backward(grad, x, q), 1e-4)


def test_short_vectors(backend, rng):
    x, q, grad = (rows(rng, 6, 5) for _ in range(3))
    x[:2] *= 1e-8
    q[1:4] *= 1e-8
    x[4], q[5] = 0, 0
    close(quantize.rotate_to(x, q), forward(x, q))
    close(quantize.rotate_to_backward(grad, x, q), backward(grad, x, q), 2e-5)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_the_jacobian_is_a_rotation_times_a_number(backend, rng, width):
    x, q = rows(rng, 1, width), rows(rng, 1, width)
    unit = np.eye(width, dtype=np.float32)
    jacobian = quantize.rotate_to_backward(unit, np.repeat(x, width, 0), np.repeat(q, width, 0)).astype(np.float64)
    scale = np.linalg.norm(q.astype(np.float64)) / np.linalg.norm(x.astype(np.float64))
    np.testing.assert_allclose(jacobian @ jacobian.T, scale**2 * np.eye(width), atol=1e-5 * scale**2)
    if width > 1:
        assert np.linalg.det(jacobian) > 0
    np.testing.assert_allclose(jacobian @ x[0], q[0], rtol=1e-5, atol=1e-5)


def test_the_gradient_is_that_of_the_map_held_fixed(backend, rng):
    """Finite differences of the linear map that lengths and directions, once found, make of x."""
    x, q, grad = (rows(rng, 4, 6).astype(np.float64) for _ in range(3))
    u, v, w, scale = directions(x, q)

    def loss(moved):
        dot = lambda a, b: (a * b).sum(-1, keepdims=True)  # noqa: E731
        return (scale * (moved - 2 * dot(moved, w) * w + 2 * dot(moved, u) * v) * grad).sum()

    step = 1e-5
    expected = np.empty_like(x)
    for at in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[at] = step
        expected[at] = (loss(x + moved) - loss(x - moved)) / (2 * step)
    found = quantize.rotate_to_backward(*(a.astype(np.float32) for a in (grad, x, q)))
    close(found, expected, 2e-5)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (2, 0, 3)])
def test_empty(backend, shape):
    x = np.ones(shape, np.float32)
    assert quantize.rotate_to(x, x).shape == shape
    assert quantize.rotate_to_backward(x, x, x).shape == shape


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite(backend, rng, value):
    x, q, grad = (rows(rng, 5, 20) for _ in range(3))
    x[1, 17], q[3, 2] = value, value
    for found in (quantize.rotate_to(x, q), quantize.rotate_to_backward(grad, x, q)):
        assert np.isnan(found[[1, 3]]).all()
        assert np.isfinite(found[[0, 2, 4]]).all()


def test_any_shape_and_half_precision(backend, rng):
    x, q, grad = (rows(rng, 6, 33).reshape(2, 3, 33).astype(np.float16) for _ in range(3))
    found = quantize.rotate_to(x, q)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, q)
    exact = backward(grad.astype(np.float64), x, q)
    back = quantize.rotate_to_backward(grad, x, q)
    np.testing.assert_allclose(back, exact, rtol=2**-10, atol=1e-4)
    np.testing.assert_array_equal(quantize.rotate_to(x[0, 0], q[0, 0]), q[0, 0])


@pytest.mark.parametrize("eps", [0.0, -1.0, np.nan, 2.0])
def test_eps_out_of_range(eps):
    x = np.ones((1, 2), np.float32)
    with pytest.raises(ValueError, match=r"^rotate_to: eps must be"):
        quantize.rotate_to(x, x, eps)


def test_any_number_of_threads(rng):
    x, q, grad = (rows(rng, 3000, 40) for _ in range(3))
    one, two = on_one_and_two_threads(lambda: quantize.rotate_to_backward(grad, x, q))
    np.testing.assert_array_equal(one, two)
