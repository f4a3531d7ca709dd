# SPDX-License-Identifier: Apache-2.0
"""bit_entropy and its gradient on every backend against NumPy in float64."""

import numpy as np
import pytest
from bits import on_one_and_two_threads
from soft_oracle import bit_entropy64

import tokernel
from tokernel.kernels.quantize import bit_entropy, bit_entropy_backward

WIDTHS = [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 100]


def gradient64(grad, x, slope):
    z = np.asarray(x).astype(np.float64) * slope
    power = np.exp(-np.minimum(np.abs(z), 700))
    return -np.asarray(grad)[..., None] * slope * z * power / (1 + power) ** 2


@pytest.mark.parametrize("width", WIDTHS)
def test_equals_float64(backend, width, rng):
    x = rng.standard_normal((5, width)).astype(np.float32)
    grad = rng.standard_normal(5).astype(np.float32)
    for slope in (0.0, 1.0, -4.0, 40.0):
        # A few roundings a term, and a sum of terms of one sign; z has one of its own, which costs z of them.
        np.testing.assert_allclose(bit_entropy(x, slope), bit_entropy64(x, slope), rtol=8e-6, atol=1e-12)
        np.testing.assert_allclose(
            bit_entropy_backward(grad, x, slope), gradient64(grad, x, slope), rtol=2e-5, atol=1e-12
        )
    assert tokernel.last_backend() == backend


def test_small_terms_keep_their_digits(backend):
    x = np.linspace(1, 80, 64, dtype=np.float32)[:, None]
    np.testing.assert_allclose(bit_entropy(x, 1.0), bit_entropy64(x, 1.0), rtol=2e-5)
    grad = bit_entropy_backward(np.ones(64, np.float32), x, 1.0)
    np.testing.assert_allclose(grad, gradient64(np.ones(64), x, 1.0), rtol=2e-5)


def test_entropies_lie_between_nothing_and_one_bit_each(backend, rng):
    x = rng.standard_normal((200, 3)).astype(np.float32)
    entropy = bit_entropy(x, 0.01)
    assert (entropy <= np.float32(3 * np.log(2)) * (1 + 1e-6)).all()
    assert (bit_entropy(x, 1e4) >= 0).all()
    np.testing.assert_allclose(bit_entropy(np.zeros((2, 5), np.float32), 7.0), 5 * np.log(2), rtol=1e-6)


def test_the_gradient_is_that_of_finite_differences(backend, rng):
    x = rng.standard_normal((4, 3)).astype(np.float32)
    ones = np.ones(4, np.float32)
    step = 1e-6
    by_steps = np.empty((4, 3))
    for d in range(3):
        ahead, behind = x.astype(np.float64), x.astype(np.float64)
        ahead[:, d] += step
        behind[:, d] -= step
        by_steps[:, d] = (bit_entropy64(ahead, 3.0) - bit_entropy64(behind, 3.0)) / (2 * step)
    np.testing.assert_allclose(bit_entropy_backward(ones, x, 3.0), by_steps, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("far", [1e4, 3e38, np.inf])
def test_saturated_bits_have_neither_entropy_nor_gradient(backend, far):
    x = np.array([[far, -far, 0.0]], np.float32)
    np.testing.assert_allclose(bit_entropy(x, 100.0), np.log(2), rtol=1e-6)
    assert (bit_entropy_backward(np.ones(1, np.float32), x, 100.0) == 0).all()


def test_nan_touches_its_row_alone(backend, rng):
    x = rng.standard_normal((20, 5)).astype(np.float32)
    x[7, 2] = np.nan
    assert np.isnan(bit_entropy(x, 1.0)).nonzero()[0].tolist() == [7]
    grad = bit_entropy_backward(np.ones(20, np.float32), x, 1.0)
    assert np.argwhere(np.isnan(grad)).tolist() == [[7, 2]]


def test_ranks_views_and_out(backend, rng):
    x = rng.standard_normal((2, 3, 4, 10)).astype(np.float32)
    for view in (x, x[0], x[0, 0], x[0, 0, 0], x[..., 2:7], x[::-1, :, ::2]):
        got = bit_entropy(view, 2.0)
        np.testing.assert_allclose(got, bit_entropy64(view, 2.0), rtol=4e-6)
        grad = np.ones(view.shape[:-1], np.float32)
        np.testing.assert_allclose(
            bit_entropy_backward(grad, view, 2.0), gradient64(grad, view, 2.0), rtol=2e-5, atol=1e-9
        )
    out = np.zeros((2, 3, 4), np.float32)
    assert bit_entropy(x, 2.0, out=out) is out
    np.testing.assert_allclose(out, bit_entropy64(x, 2.0), rtol=4e-6)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0), (2, 0, 4)], ids=str)
def test_nothing(backend, shape):
    x = np.zeros(shape, np.float32)
    entropy = bit_entropy(x, 1.0)
    assert entropy.shape == shape[:-1]
    assert (entropy == 0).all() or shape[-1]
    assert bit_entropy_backward(entropy, x, 1.0).shape == shape


def test_half_precision(backend, rng):
    x = rng.standard_normal((9, 21)).astype(np.float16)
    np.testing.assert_allclose(bit_entropy(x, 2.0), bit_entropy64(x, 2.0), rtol=4e-6)
    grad = bit_entropy_backward(np.ones(9, np.float32), x, 2.0)
    assert grad.dtype == np.float16
    np.testing.assert_allclose(grad, gradient64(np.ones(9), x, 2.0), rtol=2**-10, atol=2e-7)
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    y = torch.from_numpy(x).bfloat16()
    np.testing.assert_allclose(bit_entropy(y, 2.0).numpy(), bit_entropy64(y.float().numpy(), 2.0), rtol=4e-6)
    assert bit_entropy_backward(torch.ones(9), y, 2.0).dtype == torch.bfloat16


def test_refuses(backend):
    x = np.zeros((2, 3), np.float32)
    for slope in (np.nan, np.inf, 1e10):
        with pytest.raises(ValueError, match=r"bit_entropy: slope must be .*, got "):
            bit_entropy(x, slope)
    with pytest.raises(ValueError, match=r"bit_entropy: x must be .*, got \(\) float32"):
        bit_entropy(np.zeros((), np.float32), 1.0)


def test_bits_do_not_depend_on_threads(backend, rng):
    x = rng.standard_normal((20000 if backend != "simt" else 50, 7)).astype(np.float32)

    def run():
        entropy = bit_entropy(x, 2.0)
        return entropy, bit_entropy_backward(entropy, x, 2.0)

    for one, two in zip(*on_one_and_two_threads(run), strict=True):
        np.testing.assert_array_equal(one, two)
