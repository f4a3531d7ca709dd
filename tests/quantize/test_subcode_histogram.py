# SPDX-License-Identifier: Apache-2.0
"""subcode_histogram and its gradient on every backend against NumPy in float64."""

import numpy as np
import pytest
from bits import on_one_and_two_threads
from soft_oracle import sign_codes, soft_codes

import tokernel
from tokernel.kernels.quantize import subcode_histogram, subcode_histogram_backward

BITS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11]


def shares(x, slope, msb):
    """Probability of each code, (N, G, 2^bits), and of each code but for one bit, (bits, N, G, 2^bits)."""
    bits = x.shape[-1]
    p = 1 / (1 + np.exp(-np.clip(x.astype(np.float64) * slope, -700, 700)))
    signs = sign_codes(bits, msb=msb) > 0
    each = np.where(signs.T[:, None, None, :], p.transpose(2, 0, 1)[..., None], (1 - p).transpose(2, 0, 1)[..., None])
    but = np.stack([np.delete(each, j, 0).prod(0) for j in range(bits)])
    return p, each.prod(0), but, np.where(signs, 1, -1)


def histogram64(x, slope, order="lsb", pool=True):
    codes = shares(x, slope, order == "msb")[1]
    return codes.mean((0, 1) if pool else 0)


def gradient64(grad, x, slope, order="lsb", pool=True):
    p, _, but, signs = shares(x, slope, order == "msb")
    averaged = x.shape[0] * (x.shape[1] if pool else 1)
    sums = np.einsum("jngc,gc,cj->ngj", but, np.broadcast_to(grad, (x.shape[1], grad.shape[-1])), signs)
    return slope * p * (1 - p) / averaged * sums


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("order", ["lsb", "msb"])
@pytest.mark.parametrize("bits", BITS)
def test_equals_float64(backend, bits, order, pool, rng):
    for n, g in ((1, 1), (7, 3), (37, 2)):
        if backend == "simt" and n * 2**bits > 5000:
            continue
        x = rng.standard_normal((n, g, bits)).astype(np.float32)
        got = subcode_histogram(x, 1.7, order, pool)
        # One product of `bits` factors a term, each of a few roundings, and sums of one sign.
        np.testing.assert_allclose(got, histogram64(x, 1.7, order, pool), rtol=2e-7 * (8 + 4 * bits), atol=1e-12)
        grad = rng.standard_normal(got.shape).astype(np.float32)
        want = gradient64(grad, x, 1.7, order, pool)
        np.testing.assert_allclose(
            subcode_histogram_backward(grad, x, 1.7, order, pool), want, rtol=1e-5, atol=3e-6 * np.abs(want).max()
        )
    assert tokernel.last_backend() == backend


def test_sixteen_bits(backend, rng):
    if backend == "simt":
        pytest.skip("65536 codes by 256 threads take the host executor a minute; 11 bits cut the codes the same way")
    x = rng.standard_normal((3, 1, 16)).astype(np.float32)
    got = subcode_histogram(x, 2.0)
    np.testing.assert_allclose(got, histogram64(x, 2.0), rtol=2e-5, atol=1e-12)
    grad = rng.standard_normal(2**16).astype(np.float32)
    want = gradient64(grad, x, 2.0)
    np.testing.assert_allclose(
        subcode_histogram_backward(grad, x, 2.0), want, rtol=1e-5, atol=1e-5 * np.abs(want).max()
    )


@pytest.mark.parametrize("bits", [1, 4, 6])
def test_is_the_mean_softmax_over_sign_codes(backend, bits, rng):
    x = rng.standard_normal((40, 1, bits)).astype(np.float32)
    want = soft_codes(x[:, 0], sign_codes(bits), 2 * 0.8).mean_prob
    np.testing.assert_allclose(subcode_histogram(x, 4 * 0.8), want, rtol=1e-5, atol=1e-9)
    assert abs(subcode_histogram(x, 4 * 0.8).sum() - 1) < 1e-5


def test_many_rows(backend, rng):
    n = 5000 if backend != "simt" else 60
    x = rng.standard_normal((n, 3, 5)).astype(np.float32)
    for pool in (True, False):
        np.testing.assert_allclose(subcode_histogram(x, 3.0, "msb", pool), histogram64(x, 3.0, "msb", pool), rtol=2e-5)


def test_the_gradient_is_that_of_finite_differences(backend, rng):
    x = rng.standard_normal((3, 2, 3)).astype(np.float32)
    grad = rng.standard_normal(8).astype(np.float32)
    got = subcode_histogram_backward(grad, x, 2.0, "msb")
    for at in np.ndindex(x.shape):
        ahead, behind = x.astype(np.float64), x.astype(np.float64)
        ahead[at] += 1e-6
        behind[at] -= 1e-6
        by_steps = (grad * (histogram64(ahead, 2.0, "msb") - histogram64(behind, 2.0, "msb"))).sum() / 2e-6
        np.testing.assert_allclose(got[at], by_steps, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("far", [1e6, 3e38, np.inf])
def test_saturated_bits_are_counts_without_gradient(backend, far, rng):
    signs = rng.integers(0, 2, (20, 2, 4))
    x = np.where(signs, far, -far).astype(np.float32)
    codes = (signs * 2 ** np.arange(4)).sum(-1)
    want = np.bincount(codes.ravel(), minlength=16) / 40
    np.testing.assert_allclose(subcode_histogram(x, 4.0), want, atol=1e-7)
    assert (subcode_histogram_backward(np.ones(16, np.float32), x, 4.0) == 0).all()


def test_a_constant_gradient_is_none(backend, rng):
    """The probabilities of a row add up to 1."""
    x = rng.standard_normal((6, 2, 5)).astype(np.float32)
    grad = subcode_histogram_backward(np.ones(32, np.float32), x, 2.0)
    np.testing.assert_allclose(grad, 0, atol=1e-7)


def test_nan_spoils_its_histogram(backend, rng):
    x = rng.standard_normal((40, 3, 4)).astype(np.float32)
    x[5, 1, 2] = np.nan
    assert np.isnan(subcode_histogram(x, 2.0)).all()
    each = subcode_histogram(x, 2.0, pool=False)
    assert np.isnan(each[1]).all()
    assert np.isfinite(each[[0, 2]]).all()
    grad = subcode_histogram_backward(np.ones(16, np.float32), x, 2.0)
    assert np.unique(np.argwhere(np.isnan(grad))[:, :2], axis=0).tolist() == [[5, 1]]


def test_strided_views_halves_and_out(backend, rng):
    x = rng.standard_normal((12, 4, 9)).astype(np.float32)
    for view in (x[::2], x[:, 1:3], x[..., 2:7], x.transpose(1, 0, 2), x[::-1].astype(np.float16)):
        np.testing.assert_allclose(subcode_histogram(view, 1.0), histogram64(view, 1.0), rtol=1e-5)
        grad = np.linspace(-1, 1, 2 ** view.shape[-1], dtype=np.float32)
        got = subcode_histogram_backward(grad, view, 1.0)
        assert got.dtype == view.dtype
        np.testing.assert_allclose(got, gradient64(grad, view, 1.0), rtol=1e-3, atol=1e-6)
    out = np.zeros((4, 512), np.float32)
    assert subcode_histogram(x, 1.0, pool=False, out=out) is out
    np.testing.assert_allclose(out, histogram64(x, 1.0, pool=False), rtol=1e-5)


def test_bfloat16(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    x = torch.from_numpy(rng.standard_normal((12, 2, 5)).astype(np.float32)).bfloat16()
    np.testing.assert_allclose(subcode_histogram(x, 1.0).numpy(), histogram64(x.float().numpy(), 1.0), rtol=1e-5)
    assert subcode_histogram_backward(torch.ones(32), x, 1.0).dtype == torch.bfloat16


def test_nothing_to_average_gives_zeros(backend):
    for shape in ((0, 2, 3), (3, 0, 3)):
        x = np.zeros(shape, np.float32)
        assert subcode_histogram(x, 1.0).tolist() == [0] * 8
        assert subcode_histogram(x, 1.0, pool=False).tolist() == [[0] * 8] * shape[1]
        assert subcode_histogram_backward(np.ones(8, np.float32), x, 1.0).shape == shape


def test_refuses(backend):
    for bits in (0, 17):
        with pytest.raises(ValueError, match=rf"subcode_histogram: x must be of 1 to 16 bits, got {bits}"):
            subcode_histogram(np.zeros((2, 2, bits), np.float32), 1.0)
    with pytest.raises(ValueError, match=r"subcode_histogram: order must be 'lsb' or 'msb', got 'big'"):
        subcode_histogram(np.zeros((2, 2, 3), np.float32), 1.0, "big")
    with pytest.raises(ValueError, match=r"subcode_histogram: slope must be .*, got nan"):
        subcode_histogram(np.zeros((2, 2, 3), np.float32), np.nan)


def test_bits_do_not_depend_on_threads(backend, rng):
    x = rng.standard_normal((3000 if backend != "simt" else 40, 2, 6)).astype(np.float32)

    def run():
        found = subcode_histogram(x, 2.0)
        each = subcode_histogram(x, 2.0, pool=False)
        return found, each, subcode_histogram_backward(found, x, 2.0)

    for one, two in zip(*on_one_and_two_threads(run), strict=True):
        np.testing.assert_array_equal(one, two)
