# SPDX-License-Identifier: Apache-2.0
"""codebook_entropy and its gradient on every backend against NumPy in float64."""

import subprocess
import sys

import numpy as np
import pytest
from bits import on_one_and_two_threads
from soft_oracle import METRICS, assert_near, gradients, scores, sign_codes, soft_codes

import tokernel
from tokernel.kernels.quantize import bit_entropy, codebook_entropy, codebook_entropy_backward

# Around a vector, a register tile, a panel of codes.
SHAPES = [(1, 1, 1), (2, 3, 1), (5, 17, 2), (7, 63, 4), (13, 64, 8), (12, 65, 16), (25, 130, 7), (6, 33, 65)]
LONG = [(3, 1000, 8), (200, 40, 5), (50, 300, 33)]
GUARDS = [(0.0, 0.0), (1e-5, 0.0), (0.0, 1e-5), (1e-8, 1e-3)]


def draw(rng, n, k, d, scale=1.0):
    return (scale * rng.standard_normal((n, d))).astype(np.float32), rng.standard_normal((k, d)).astype(np.float32)


def check(x, codes, inv_temperature=1.0, metric="dot", weight=None, log_add=0.0, log_floor=0.0, seed=1):
    """Forward and backward."""
    options = (inv_temperature, metric, weight, log_add, log_floor)
    got = codebook_entropy(x, codes, *options)
    want = soft_codes(x, codes, *options)
    naive = soft_codes(x, codes, *options, dtype=np.float32)
    for name in ("entropy", "mean_prob", "lse"):
        assert_near(getattr(got, name), getattr(want, name), getattr(naive, name))
    rng = np.random.default_rng(seed)
    grads = [rng.standard_normal(y.shape).astype(np.float32) for y in (got.entropy, got.mean_prob, got.lse)]
    found = codebook_entropy_backward(
        x, codes, got.lse, *grads, inv_temperature, metric, weight, log_add=log_add, log_floor=log_floor
    )
    by_double = gradients(want, inv_temperature, metric, log_floor, *grads)
    by_float = gradients(naive, np.float32(inv_temperature), metric, np.float32(log_floor), *grads)
    for ours, exact, plain in zip(found, by_double, by_float, strict=True):
        assert_near(ours, exact, plain, 3e-6)
    return got


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_float64(backend, shape, metric, rng):
    check(*draw(rng, *shape), 1.5, metric)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("shape", LONG, ids=str)
def test_many_codes_or_rows(backend, shape, rng):
    n, k, d = shape
    if backend == "simt":
        n, k = max(n // 4, 3), k // 4
    check(*draw(rng, n, k, d), 2.0)


@pytest.mark.parametrize(("log_add", "log_floor"), GUARDS)
@pytest.mark.parametrize("inv_temperature", [0.0, 0.3, 10.0, 100.0])
def test_guards_and_temperatures(backend, inv_temperature, log_add, log_floor, rng):
    check(*draw(rng, 9, 40, 6), inv_temperature, "cosine", None, log_add, log_floor)


@pytest.mark.parametrize("metric", METRICS)
def test_the_gradient_is_that_of_finite_differences(metric, rng):
    """The oracle's own gradient, checked by central differences in float64: it is what kernels are held against."""
    x, codes = (rng.standard_normal(s) for s in ((4, 3), (5, 3)))
    weight = np.array([1, 0, 2, 0.5])
    grads = [rng.standard_normal(n) for n in (4, 5, 4)]
    for log_add, log_floor in GUARDS:
        options = (2.0, metric, weight, log_add, log_floor)

        def loss(x, codes, options=options):
            f = soft_codes(x, codes, *options)
            return sum((g * y).sum() for g, y in zip(grads, (f.entropy, f.mean_prob, f.lse), strict=True))

        found = gradients(soft_codes(x, codes, *options), 2.0, metric, log_floor, *grads)
        for which, grad in enumerate(found):
            for at in np.ndindex(grad.shape):
                pair = [x.copy(), codes.copy()]
                pair[which][at] += 1e-6
                above = loss(*pair)
                pair[which][at] -= 2e-6
                np.testing.assert_allclose((above - loss(*pair)) / 2e-6, grad[at], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("metric", METRICS)
def test_weights(backend, metric, rng):
    x, codes = draw(rng, 11, 20, 4)
    check(x, codes, 2.0, metric, rng.uniform(0, 2, 11).astype(np.float32))
    mask = (np.arange(11) % 3 > 0).astype(np.float32)
    kept = codebook_entropy(x[mask > 0], codes, 2.0, metric)
    np.testing.assert_allclose(codebook_entropy(x, codes, 2.0, metric, mask).mean_prob, kept.mean_prob, rtol=1e-6)


def test_a_row_of_weight_zero_is_dropped_even_if_nan(backend, rng):
    x, codes = draw(rng, 4, 9, 3)
    want = codebook_entropy(x[:3], codes).mean_prob
    x[3] = np.nan
    got = codebook_entropy(x, codes, weight=np.array([1, 1, 1, 0], np.float32))
    np.testing.assert_allclose(got.mean_prob, want, rtol=1e-6)
    assert np.isnan(got.entropy).tolist() == [False, False, False, True]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_a_nan_row_touches_only_its_own_entropy(backend, metric, bad, rng):
    x, codes = draw(rng, 15, 21, 3)
    want = codebook_entropy(x, codes, 1.0, metric)
    x[4, 1] = bad
    got = codebook_entropy(x, codes, 1.0, metric)
    assert np.isnan([got.entropy[4], got.lse[4]]).all()
    others = np.arange(15) != 4
    np.testing.assert_array_equal(got.entropy[others], want.entropy[others])
    np.testing.assert_array_equal(got.lse[others], want.lse[others])
    assert np.isnan(got.mean_prob).all()
    ones = np.ones(15, np.float32)
    grad_x, grad_codes = codebook_entropy_backward(x, codes, got.lse, ones, metric=metric)
    assert np.isnan(grad_x).any(1).tolist() == (~others).tolist()
    assert np.isnan(grad_codes).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_a_code_that_is_not_finite_spoils_every_row(backend, metric, bad, rng):
    x, codes = draw(rng, 3, 40, 2)
    codes[35, 1] = bad
    for found in codebook_entropy(x, codes, 1.0, metric):
        assert np.isnan(found).all()


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_to_average_gives_zeros(backend, metric, rng):
    x, codes = draw(rng, 3, 5, 2)
    empty = codebook_entropy(x[:0], codes, 1.0, metric)
    assert empty.entropy.shape == empty.lse.shape == (0,)
    assert empty.mean_prob.tolist() == [0] * 5
    grad_x, grad_codes = codebook_entropy_backward(
        x[:0], codes, empty.lse, empty.lse, np.ones(5, np.float32), metric=metric
    )
    assert grad_x.shape == (0, 2)
    assert (grad_codes == 0).all()
    weightless = codebook_entropy(x, codes, 1.0, metric, np.zeros(3, np.float32))
    assert weightless.mean_prob.tolist() == [0] * 5
    assert np.isfinite(weightless.entropy).all()
    found = codebook_entropy_backward(
        x, codes, weightless.lse, None, np.ones(5, np.float32), None, 1.0, metric, np.zeros(3, np.float32)
    )
    assert all((grad == 0).all() for grad in found)


def test_one_code_is_certain(backend, rng):
    x, codes = draw(rng, 6, 1, 3)
    found = codebook_entropy(x, codes, 3.0)
    np.testing.assert_allclose(found.entropy, 0, atol=1e-6)
    np.testing.assert_allclose(found.mean_prob, 1, rtol=1e-6)
    np.testing.assert_allclose(found.lse, 3 * (x @ codes.T)[:, 0], rtol=1e-5, atol=1e-6)
    for grad in codebook_entropy_backward(x, codes, found.lse, np.ones(6, np.float32), np.ones(1, np.float32)):
        np.testing.assert_allclose(grad, 0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 64, 1000])
def test_uniform_logits_give_log_k(backend, count, rng):
    x = rng.standard_normal((3, 4)).astype(np.float32)
    for codes, inv_temperature in ((np.ones((count, 4), np.float32), 1.0), (np.eye(count, 4, dtype=np.float32), 0.0)):
        found = codebook_entropy(x, codes, inv_temperature)
        np.testing.assert_allclose(found.entropy, np.log(count), rtol=1e-6, atol=2e-6)
        np.testing.assert_allclose(found.mean_prob, 1 / count, rtol=2e-6)


def test_no_width_is_a_uniform_softmax(backend):
    found = codebook_entropy(np.zeros((2, 0), np.float32), np.zeros((3, 0), np.float32))
    np.testing.assert_allclose(found.entropy, np.log(3), rtol=1e-6)
    grads = codebook_entropy_backward(np.zeros((2, 0), np.float32), np.zeros((3, 0), np.float32), found.lse, found.lse)
    assert [g.shape for g in grads] == [(2, 0), (3, 0)]


def test_a_constant_added_to_all_logits_changes_nothing(backend, rng):
    """The last number of every code is 1, so that the last one of a row is added to all its logits."""
    x, codes = draw(rng, 8, 30, 5)
    codes[:, -1] = 1
    x[:, -1] = 0
    want = codebook_entropy(x, codes, 2.0)
    x[:, -1] = 16
    got = codebook_entropy(x, codes, 2.0)
    np.testing.assert_allclose(got.entropy, want.entropy, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(got.mean_prob, want.mean_prob, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.lse - want.lse, 32, rtol=1e-6)


def test_identical_tokens_make_both_entropies_equal(backend, rng):
    x, codes = draw(rng, 1, 50, 6)
    found = codebook_entropy(np.repeat(x, 20, 0), codes, 1.5)
    mean = found.mean_prob.astype(np.float64)
    np.testing.assert_allclose(-(mean * np.log(mean)).sum(), found.entropy, rtol=1e-5)
    assert (found.entropy <= np.log(50)).all()


@pytest.mark.parametrize("bits", [1, 4, 6])
def test_a_softmax_over_sign_codes_falls_apart_into_bits(backend, bits, rng):
    """p = sigmoid(4 inv_T x): the sum of the entropies of bits, in [0, D log 2]."""
    x = rng.standard_normal((30, bits)).astype(np.float32)
    codes = sign_codes(bits)
    for inv_temperature in (0.1, 1.0, 30.0):
        entropy = codebook_entropy(x, codes, 2 * inv_temperature).entropy
        np.testing.assert_allclose(entropy, bit_entropy(x, 4 * inv_temperature), rtol=1e-4, atol=3e-6)
        assert (entropy > -1e-6).all()
        assert (entropy <= bits * np.log(2) * (1 + 1e-6)).all()


@pytest.mark.parametrize("metric", METRICS)
def test_saturated_inputs_have_no_gradient_and_no_nan(backend, metric, rng):
    codes = sign_codes(4)
    x = 100 * np.sign(rng.standard_normal((5, 4))).astype(np.float32)
    found = codebook_entropy(x, codes, 1000.0, metric)
    np.testing.assert_allclose(found.entropy, 0, atol=1e-6)
    for log_add, log_floor in GUARDS:
        grads = codebook_entropy_backward(
            x, codes, found.lse, np.ones(5, np.float32), np.ones(16, np.float32), None, 1000.0, metric,
            log_add=log_add, log_floor=log_floor,
        )  # fmt: skip
        for grad in grads:
            np.testing.assert_allclose(grad, 0, atol=2.5e-2)  # a rounding times 1000 * 2 * 100


def test_zero_vectors_have_cosine_zero(backend, rng):
    x, codes = draw(rng, 4, 9, 3)
    x[1] = 0
    codes[2] = 0
    check(x, codes, 3.0, "cosine")
    found = codebook_entropy(x, codes, 3.0, "cosine")
    np.testing.assert_allclose(found.entropy[1], np.log(9), rtol=1e-6)
    ones = np.ones(4, np.float32)
    grad_x, grad_codes = codebook_entropy_backward(x, codes, found.lse, ones, None, ones, 3.0, "cosine")
    assert (grad_x[1] == 0).all()
    assert (grad_codes[2] == 0).all()


def test_cosine_forgets_lengths(backend, rng):
    x, codes = draw(rng, 6, 20, 5)
    want = codebook_entropy(x, codes, 10.0, "cosine")
    got = codebook_entropy(x * 8, codes * 0.25, 10.0, "cosine")
    np.testing.assert_allclose(got.entropy, want.entropy, rtol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_half_precision(backend, metric, rng):
    x, codes = (v.astype(np.float16) for v in draw(rng, 9, 50, 7))
    got = codebook_entropy(x, codes, 2.0, metric)
    want = soft_codes(x, codes, 2.0, metric)
    naive = soft_codes(x, codes, 2.0, metric, dtype=np.float32)
    for name in ("entropy", "mean_prob", "lse"):
        assert_near(getattr(got, name), getattr(want, name), getattr(naive, name))
    ones = [np.ones(y.shape, np.float32) for y in (got.entropy, got.mean_prob, got.lse)]
    found = codebook_entropy_backward(x, codes, got.lse, *ones, 2.0, metric)
    for ours, exact in zip(found, gradients(want, 2.0, metric, 0.0, *ones), strict=True):
        assert ours.dtype == np.float16
        np.testing.assert_allclose(ours, exact, rtol=2**-10, atol=2e-5)


def test_bfloat16(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    x, codes = (torch.from_numpy(v).bfloat16() for v in draw(rng, 9, 70, 11))
    got = codebook_entropy(x, codes, 2.0)
    want = codebook_entropy(x.float().numpy(), codes.float().numpy(), 2.0)
    for ours, exact in zip(got, want, strict=True):
        np.testing.assert_allclose(ours.numpy(), exact, rtol=2e-5, atol=2e-6)
    ones = torch.ones(9)
    grads = codebook_entropy_backward(x, codes, got.lse, ones, None, ones, 2.0)
    exact = codebook_entropy_backward(
        x.float().numpy(), codes.float().numpy(), want.lse, ones.numpy(), None, ones.numpy(), 2.0
    )
    for ours, single in zip(grads, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        np.testing.assert_allclose(ours.float().numpy(), single, rtol=2**-7, atol=1e-4)


def test_books_equal_one_by_one(backend, rng):
    """Rows, codes and weights with or without books; strided views."""
    x = rng.standard_normal((3, 10, 8)).astype(np.float32)
    codes = rng.standard_normal((3, 12, 8)).astype(np.float32)
    weight = rng.uniform(0, 1, (3, 10)).astype(np.float32)
    for many_x, many_codes, many_weight in ((x, codes, weight), (x[0], codes, weight[0]), (x, codes[1], None)):
        for view in (slice(None), slice(1, 6)):
            a, b = many_x[..., view], many_codes[..., view]
            got = codebook_entropy(a, b, 1.5, "l2", many_weight)
            g = np.ones((3, 10), np.float32)
            grads = codebook_entropy_backward(a, b, got.lse, g, got.mean_prob, g, 1.5, "l2", many_weight)
            for q in range(3):
                one_x, one_codes = (v[q] if v.ndim == 3 else v for v in (a, b))
                w = many_weight[q] if many_weight is not None and many_weight.ndim == 2 else many_weight
                want = codebook_entropy(one_x, one_codes, 1.5, "l2", w)
                for ours, single in zip(got, want, strict=True):
                    np.testing.assert_allclose(ours[q], single, rtol=1e-6, atol=1e-7)
                singles = codebook_entropy_backward(
                    one_x, one_codes, want.lse, g[q], want.mean_prob, g[q], 1.5, "l2", w
                )
                for ours, single in zip(grads, singles, strict=True):
                    np.testing.assert_allclose(ours[q], single, rtol=1e-5, atol=1e-6)


def test_strided_views_and_out(backend, rng):
    x, codes = rng.standard_normal((20, 12)).astype(np.float32), rng.standard_normal((30, 12)).astype(np.float32)
    for view in (np.s_[::2], np.s_[::-1], np.s_[:, 3:8]):
        check(x[view], codes[view], 1.5)
    out = tuple(np.zeros_like(y) for y in codebook_entropy(x, codes))
    assert all(a is b for a, b in zip(codebook_entropy(x, codes, out=out), out, strict=True))
    np.testing.assert_array_equal(out[1], codebook_entropy(x, codes).mean_prob)


def test_only_what_is_needed(backend, rng):
    x, codes = draw(rng, 5, 6, 3)
    lse = codebook_entropy(x, codes).lse
    both = codebook_entropy_backward(x, codes, lse, lse, None, lse)
    only_x, none = codebook_entropy_backward(x, codes, lse, lse, None, lse, need_codes=False)
    assert none is None
    np.testing.assert_array_equal(only_x, both[0])
    none, only_codes = codebook_entropy_backward(x, codes, lse, lse, None, lse, need_x=False)
    assert none is None
    np.testing.assert_array_equal(only_codes, both[1])
    with pytest.raises(
        ValueError, match=r"^codebook_entropy_backward: need must be a gradient that is wanted, got none"
    ):
        codebook_entropy_backward(x, codes, lse, lse, need_x=False, need_codes=False)


def test_refuses(backend):
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"codebook_entropy: codes must be at least one code, got none"):
        codebook_entropy(x, x[:0])
    with pytest.raises(ValueError, match=r"codebook_entropy: metric must be 'dot', 'l2' or 'cosine', got 'l1'"):
        codebook_entropy(x, x, metric="l1")
    for bad in (-1, np.nan, np.inf, 1e7):
        with pytest.raises(ValueError, match=r"codebook_entropy: inv_temperature must be .*, got "):
            codebook_entropy(x, x, bad)
    for bad in (-1, np.nan, 2, 1e-40):
        with pytest.raises(ValueError, match=r"codebook_entropy: log_add must be .*, got "):
            codebook_entropy(x, x, log_add=bad)
        with pytest.raises(ValueError, match=r"codebook_entropy: log_floor must be .*, got "):
            codebook_entropy(x, x, log_floor=bad)
    with pytest.raises(ValueError, match=r"codebook_entropy: codes must be .*, got "):
        codebook_entropy(x, np.zeros((2, 4), np.float32))


def test_bits_do_not_depend_on_threads(backend, rng):
    shapes = ((40, 300, 8), (300, 20, 4), (30, 100, 70)) if backend != "simt" else ((5, 70, 3),)
    for shape in shapes:
        x, codes = draw(rng, *shape)

        def run(x=x, codes=codes):
            found = codebook_entropy(x, codes, 1.5, "l2", log_floor=1e-5)
            return *found, *codebook_entropy_backward(x, codes, found.lse, found.lse, found.mean_prob, None, 1.5, "l2")

        for one, two in zip(*on_one_and_two_threads(run), strict=True):
            np.testing.assert_array_equal(one, two)


def test_codes_in_another_order_are_the_same_codes(backend, rng):
    x, codes = draw(rng, 6, 90, 4)
    order = rng.permutation(90)
    want, got = codebook_entropy(x, codes, 2.0), codebook_entropy(x, codes[order], 2.0)
    np.testing.assert_allclose(got.mean_prob, want.mean_prob[order], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(got.entropy, want.entropy, rtol=1e-5)


def test_far_logits(backend, rng):
    """Scores of thousands: what exp sees is their difference to the largest."""
    x, codes = draw(rng, 7, 60, 4, 30.0)
    found = codebook_entropy(x, codes, 100.0)
    z = 100.0 * scores(x.astype(np.float64), codes.astype(np.float64), "dot")
    np.testing.assert_allclose(found.lse, z.max(1), rtol=1e-5)
    assert np.isfinite(found.entropy).all()


ONE_CALL = """
import pathlib, sys
import numpy as np
from tokernel.kernels import quantize

def resident(field):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(field)[1].split()[0]) * 1024

rng = np.random.default_rng(0)
x, codes = (rng.standard_normal(s).astype(np.float32) for s in ((256, 8), (131072, 8)))
found = quantize.codebook_entropy(x[:2], codes[:100])
quantize.codebook_entropy_backward(x[:2], codes[:100], found.lse, found.lse)
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS:")
found = quantize.codebook_entropy(x, codes)
quantize.codebook_entropy_backward(x, codes, found.lse, found.lse, found.mean_prob)
print(resident("VmHWM:") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_matrix_of_probabilities_is_never_stored():
    """256 x 131072 of them would take 128 MiB."""
    run = subprocess.run([sys.executable, "-c", ONE_CALL], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 48 << 20
