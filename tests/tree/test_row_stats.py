# SPDX-License-Identifier: Apache-2.0
"""row_stats and its gradient on every backend against NumPy in float64."""

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels import tree

# Around a vector, around a chunk of 2048, around a segment of 16384.
WIDTHS = [1, 2, 3, 15, 16, 17, 63, 64, 65, 300, 2047, 2048, 2049, 4100]
LONG = [16383, 16384, 16385, 40000]


def softmax64(logits, temperature=1.0):
    z = logits.astype(np.float64) / temperature
    top = z.max(-1, keepdims=True)
    lse = top + np.log(np.exp(z - top).sum(-1, keepdims=True))
    log_p = z - lse
    p = np.exp(log_p)
    return p, lse[..., 0], -(p * np.where(p > 0, log_p, 0)).sum(-1)


def first_two(logits):
    """Indices by value, NaN last, ties by index; -1 past the end."""
    order = np.argsort(np.where(np.isnan(logits), np.inf, -logits.astype(np.float64)), -1, kind="stable")
    padded = np.concatenate([order, np.full((*order.shape[:-1], 2), -1)], -1)
    return padded[..., :2]


def check(logits, ids=None, temperature=1.0, rounded=1e-6):
    stats = tree.row_stats(logits, ids, temperature)
    p, lse, entropy = softmax64(np.asarray(logits), temperature)
    best = first_two(np.asarray(logits))
    np.testing.assert_array_equal(stats.best, best)
    want = np.where(best < 0, 0, np.take_along_axis(p, best.clip(0), -1))
    # One exponential of a few roundings, and a sum of V positive terms in chains of V / 64.
    np.testing.assert_allclose(stats.p_best, want, rtol=4e-6 if rounded < 1e-5 else rounded, atol=1e-12)
    np.testing.assert_allclose(stats.lse, lse, rtol=3e-7, atol=2 * rounded)
    np.testing.assert_allclose(stats.entropy, entropy, rtol=4e-6, atol=4 * rounded)
    if ids is not None:
        np.testing.assert_allclose(stats.p_ids, np.take_along_axis(p, ids, -1), rtol=4e-5, atol=1e-12)
    return stats


@pytest.mark.parametrize("width", WIDTHS)
def test_equals_float64(backend, width, rng):
    logits = (4 * rng.standard_normal((3, width))).astype(np.float32)
    check(logits, rng.integers(0, width, (3, 2)))
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("width", LONG)
def test_long_rows(backend, width, rng):
    if backend == "simt":
        width //= 8
    logits = (3 * rng.standard_normal((2, width))).astype(np.float32)
    check(logits)
    for where in (0, width // 2, width - 1):  # the largest in every segment in turn
        spiked = logits.copy()
        spiked[:, where] = 30
        check(spiked, np.full((2, 1), where))


def test_ties_go_to_the_lowest_index(backend, rng):
    few = rng.integers(0, 3, (6, 5000 if backend != "simt" else 500)).astype(np.float32)
    few[0] = 1
    few[1, :-1] = 0
    few[1, -1] = 2
    few[2] = [*np.zeros(few.shape[1] - 2), 2, 2]
    check(few)
    zeros = np.array([[-0.0, 0.0, -1.0]], np.float32)
    np.testing.assert_array_equal(tree.row_stats(zeros).best, [[0, 1]])


def test_a_rising_row_moves_the_shift(backend):
    """Every chunk is larger than all before: the sums so far shrink, to nothing in the end."""
    logits = np.linspace(-300, 300, 9000 if backend != "simt" else 900, dtype=np.float32)[None]
    check(logits)
    check(logits[:, ::-1].copy())


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_large_logits(backend, offset, rng):
    """A constant added to a row changes only its lse; 2^-10 is what float32 tells apart at 10,000."""
    steps = rng.integers(-20, 20, (2, 700)).astype(np.float32) / 4
    near = check(steps)
    far = check((steps + offset).astype(np.float32), rounded=1e-6 if offset == 0 else 2e-3)
    np.testing.assert_array_equal(near.best, far.best)


@pytest.mark.parametrize(
    ("top", "temperature"), [(1e10, 1e3), (-1e10, 1e3), (3e12, 1e5), (20.0, 1e-6), (1e30, 1.0), (3e38, 1e-6)]
)
def test_differences_of_logits_of_any_size(backend, top, temperature, rng):
    """Logits that are neighbours among floats: their products with log2 e / temperature have no digits left."""
    steps = rng.integers(-8, 1, (2, 3000 if backend != "simt" else 300))
    logits = (np.float32(top) + steps * np.spacing(np.float32(abs(top)))).astype(np.float32)
    stats = tree.row_stats(logits, temperature=temperature)
    z = logits.astype(np.float64) / temperature
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(stats.p_best, np.take_along_axis(p, stats.best, 1), rtol=2e-6)
    entropy = -(p * np.log(p, where=p > 0, out=np.zeros_like(p))).sum(1)
    np.testing.assert_allclose(stats.entropy, entropy, rtol=1e-5)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(stats.lse, (z.max(1) - np.log(p.max(1))).astype(np.float32), rtol=2e-7)


def test_minus_infinity_counts_nothing(backend, rng):
    logits = (2 * rng.standard_normal((4, 4200 if backend != "simt" else 420))).astype(np.float32)
    logits[0, ::2] = -np.inf
    logits[1, 3:] = -np.inf
    logits[2, :-1] = -np.inf
    stats = check(logits)
    assert stats.entropy[2] <= np.finfo(np.float32).eps  # log2(2^f) - f, f below 1
    assert stats.p_best[2].tolist() == [1, 0]


def test_nothing_but_minus_infinity(backend):
    stats = tree.row_stats(np.full((1, 5), -np.inf, np.float32), np.array([[1]]))
    assert stats.best.tolist() == [[0, 1]]
    assert stats.lse[0] == -np.inf
    assert np.isnan([*stats.p_best[0], *stats.entropy, *stats.p_ids[0]]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", [0, 7, 2300])
def test_nan_and_infinity_spoil_their_row_alone(backend, bad, where, rng):
    logits = rng.standard_normal((3, 2400)).astype(np.float32)
    want = tree.row_stats(logits)
    logits[1, where] = bad
    stats = tree.row_stats(logits)
    np.testing.assert_array_equal(stats.best[1], first_two(logits)[1])
    assert np.isnan([*stats.p_best[1], stats.lse[1], stats.entropy[1]]).all()
    for got, expected in zip(stats, want, strict=True):
        np.testing.assert_array_equal(got[::2], expected[::2])


def test_nan_among_minus_infinity(backend):
    logits = np.full((2, 40), -np.inf, np.float32)
    logits[0, 5] = np.nan
    logits[1] = np.nan
    stats = tree.row_stats(logits)
    assert stats.best.tolist() == [[0, 1], [0, 1]]
    assert np.isnan(stats.lse).all()


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0, 1000.0])
def test_temperature(backend, temperature, rng):
    check(rng.standard_normal((2, 130)).astype(np.float32), np.array([[0], [129]]), temperature)


def test_half_precision_and_batches(backend, rng):
    logits = (3 * rng.standard_normal((2, 3, 77))).astype(np.float16)
    check(logits, rng.integers(0, 77, (2, 3, 1), dtype=np.int32))


def test_bfloat16(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    logits = torch.from_numpy(rng.standard_normal((2, 130)).astype(np.float32)).bfloat16()
    got = tree.row_stats(logits)
    want = tree.row_stats(logits.float().numpy())
    np.testing.assert_allclose(got.entropy.numpy(), want.entropy, rtol=1e-5)
    np.testing.assert_array_equal(got.best.numpy(), want.best)


def test_strided_views_and_out(backend, rng):
    logits = rng.standard_normal((4, 6, 90)).astype(np.float32)
    for view in (logits[:, ::2], logits[::-1], logits[..., 5:70], logits[1, :, ::2], logits.transpose(1, 0, 2)):
        check(view)
    out = tuple(np.zeros_like(x) for x in tree.row_stats(logits))
    assert all(a is b for a, b in zip(tree.row_stats(logits, out=out), out, strict=True))
    check(logits)


@pytest.mark.parametrize("shape", [(0, 5), (0, 0), (2, 0, 4), (0, 3, 4)], ids=str)
def test_no_rows(backend, shape):
    stats = tree.row_stats(np.zeros(shape, np.float32))
    assert stats.best.shape == (*shape[:-1], 2)
    assert stats.p_ids.shape == (*shape[:-1], 0)


def test_refuses(backend):
    logits = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"row_stats: logits must be rows of at least one item, got none"):
        tree.row_stats(np.zeros((2, 0), np.float32))
    with pytest.raises(ValueError, match=r"row_stats: ids must be .*, got 3"):
        tree.row_stats(logits, np.array([[0], [3]]))
    for temperature in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"row_stats: temperature must be .*, got "):
            tree.row_stats(logits, temperature=temperature)


def test_bits_do_not_depend_on_threads(backend, rng):
    logits = rng.standard_normal((3, 50000 if backend != "simt" else 500)).astype(np.float32)
    for one, two in zip(*on_one_and_two_threads(lambda: tree.row_stats(logits)), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("width", [1, 7, 16, 100, 8195])
def test_gradient_formula(backend, width, rng):
    if backend == "simt":
        width = min(width, 2100)
    logits = (3 * rng.standard_normal((2, width))).astype(np.float32)
    level, slope = rng.standard_normal((2, 2)).astype(np.float32)
    p, lse, _ = softmax64(logits, 0.5)
    got = tree.row_stats_backward(logits, lse.astype(np.float32), level, slope, 0.5)
    want = p * (level[:, None] - slope[:, None] * np.log(p)) / 0.5
    np.testing.assert_allclose(got, want, rtol=3e-5, atol=3e-6)
    assert got.dtype == logits.dtype


def test_gradient_of_minus_infinity_is_zero(backend):
    logits = np.array([[0, -np.inf, 0]], np.float32)
    ones = np.ones(1, np.float32)
    got = tree.row_stats_backward(logits, np.log(2 * ones), ones, ones)
    assert got[0, 1] == 0
    assert np.isfinite(got).all()
