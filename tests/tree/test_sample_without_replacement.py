# SPDX-License-Identifier: Apache-2.0
"""sample_without_replacement on every backend: the order of the race in float64, and the law of sequential draws."""

import itertools

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels import tree

WIDTHS = [1, 2, 3, 15, 16, 17, 63, 64, 65, 300, 2047, 2048, 2049]
LEAST = float(np.finfo(np.float32).tiny)


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(np.float32)


def masses(q):
    q = np.asarray(q).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.where((q > 0) & (q < np.inf), q, 0)


def arrival(q, u):
    """Times in float64; infinity for items without mass."""
    m = masses(q)
    with np.errstate(divide="ignore"):
        return np.where(m > 0, -np.log(np.clip(u.astype(np.float64), LEAST, 1)) / np.where(m > 0, m, 1), np.inf)


def shares(q, index):
    """q[y_i] / (what is left before draw i) in float64."""
    m = masses(q)
    left = m.sum() - np.concatenate([[0], np.cumsum(m[index])])
    rest = np.delete(m, index).sum()
    back = rest + np.cumsum(m[index][::-1])[::-1]
    assert np.allclose(back, left[:-1], atol=1e-12 * m.sum())
    return m[index] / back


def check(q, u, k):
    """The index is that of the float64 race but for arrivals closer than float32 can tell; prob follows the index."""
    index, prob = tree.sample_without_replacement(q, k, u)
    assert index.dtype == np.int64
    assert prob.dtype == np.float32
    for row in range(len(q)):
        time = arrival(q[row], u[row])
        drawn = min(k, int(np.isfinite(time).sum()))
        chosen = index[row, :drawn]
        assert len(set(chosen.tolist())) == drawn
        np.testing.assert_array_equal(index[row, drawn:], -1)
        np.testing.assert_array_equal(prob[row, drawn:], 0)
        best = np.sort(time)[:drawn]
        # A logarithm to 0.9 ulp and a division: 1.4 units in the last place.
        np.testing.assert_allclose(time[chosen], best, rtol=3e-7)
        np.testing.assert_allclose(prob[row, :drawn], shares(q[row], chosen), rtol=2e-7)
    return index, prob


@pytest.mark.parametrize("width", WIDTHS)
def test_equals_float64(backend, width, rng):
    q = softmax(3 * rng.standard_normal((3, width)))
    u = rng.random((3, width), np.float32)
    for k in {0, 1, min(5, width), width // 2, width}:
        check(q, u, k)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("width", [32767, 32768, 32769, 70000])
def test_long_rows(backend, width, rng):
    if backend == "simt":
        width //= 8
    q = softmax(4 * rng.standard_normal((2, width)))
    check(q, rng.random((2, width), np.float32), 40)


def test_most_of_a_long_row(backend, rng):
    """Lists of a whole part each; on a device, more pairs than shared memory holds."""
    width, k = (70000, 40000) if backend != "simt" else (8300, 8200)
    check(softmax(rng.standard_normal((1, width))), rng.random((1, width), np.float32), k)


def test_equal_weights_come_in_the_order_of_their_uniforms(backend, rng):
    """Neighbouring floats, near 1, near 1/2 and over all exponents: the logarithm never falls."""
    steps = np.arange(1, 501, dtype=np.float64)
    u = np.concatenate([1 - steps * 2.0**-24, 0.5 + (steps - 250) * 2.0**-24, np.exp(-steps / 6)]).astype(np.float32)
    u = rng.permutation(np.unique(u))[None]
    index, _ = tree.sample_without_replacement(np.full(u.shape, 0.5, np.float32), u.shape[1], u)
    time = arrival(np.full(u.shape, 0.5), u)[0, index[0]]
    assert (np.diff(time) >= -1e-7 * time[1:]).all()
    near_one = u[0, index[0, :500]]
    np.testing.assert_array_equal(near_one, np.sort(near_one)[::-1])


def test_the_same_indices_on_every_backend(rng):
    """Bit for bit, over the whole range of u and q: no backend may see another order."""
    shape = (4, 3000)
    q = np.exp(rng.uniform(-80, 0, shape)).astype(np.float32)
    u = np.concatenate([1 - np.exp(rng.uniform(-17, 0, (2, 3000))), np.exp(rng.uniform(-90, 0, (2, 3000)))])
    u = u.astype(np.float32)
    found = {}
    for name in tokernel.backends()["usable"]:
        if name != "cuda":
            with tokernel.use_backend(name):
                found[name] = tree.sample_without_replacement(q, 3000, u)
    for name, (index, prob) in found.items():
        np.testing.assert_array_equal(index, found["ref"][0], err_msg=name)
        np.testing.assert_allclose(prob, found["ref"][1], rtol=2e-7, err_msg=name)


def test_ties_go_to_the_lowest_index(backend):
    q = np.full((1, 50), 0.25, np.float32)
    u = np.full((1, 50), 0.5, np.float32)
    u[0, 30] = 0.75
    index, _ = tree.sample_without_replacement(q, 50, u)
    assert index.tolist() == [[30, *range(30), *range(31, 50)]]


def test_order_has_the_law_of_sequential_draws(backend):
    """All 24 orders of 4 items, and every prefix of them, against their exact probabilities."""
    q = np.array([0.1, 0.2, 0.3, 0.4])
    n = 20000 if backend != "simt" else 1500
    u = np.random.default_rng(7).random((n, 4), np.float32)
    index, _ = tree.sample_without_replacement(np.broadcast_to(q.astype(np.float32), (n, 4)), 4, u)
    for k in (1, 2, 4):
        orders = list(itertools.permutations(range(4), k))
        law = [np.prod([q[y] / (1 - q[list(o[:i])].sum()) for i, y in enumerate(o)]) for o in orders]
        assert np.isclose(sum(law), 1)
        names = {o: i for i, o in enumerate(orders)}
        seen = np.bincount([names[tuple(o)] for o in index[:, :k].tolist()], minlength=len(orders))
        chi = ((seen - n * np.array(law)) ** 2 / (n * np.array(law))).sum()
        degrees = len(orders) - 1
        assert chi < degrees + 4 * np.sqrt(2 * degrees) + 4  # about 4 standard deviations; the seed is fixed


def test_no_mass_is_no_draw(backend):
    q = np.array([[0, 0.5, 0, 0.25], [0, 0, 0, 0], [np.nan, -1, np.inf, 1], [0, 0, 1e-45, 0]], np.float32)
    u = np.full((4, 4), 0.5, np.float32)
    u[:, 0] = 1
    index, prob = check(q, u, 3)
    assert index.tolist() == [[1, 3, -1], [-1, -1, -1], [3, -1, -1], [2, -1, -1]]
    np.testing.assert_allclose(prob[0], [2 / 3, 1, 0])
    assert prob[:, 0].tolist()[1:] == [0, 1, 1]


def test_a_zero_is_the_least_uniform(backend):
    """u = 0 and NaN come after every other uniform of their weight, but before nothing."""
    q = np.full((1, 4), 0.25, np.float32)
    u = np.array([[0.0, 1e-30, np.nan, 1e-38]], np.float32)
    index, _ = tree.sample_without_replacement(q, 4, u)
    assert index.tolist() == [[1, 0, 2, 3]]  # 1e-38 is below 2^-126: equal to 0, and after it
    index, _ = tree.sample_without_replacement(q, 4, np.array([[0.5, 1.0, 0.9, 2.0]], np.float32))
    assert index.tolist() == [[1, 3, 2, 0]]


def test_a_sharp_distribution_does_not_cancel(backend):
    """What is left behind an item of nearly all the mass keeps its proportions."""
    q = np.array([[1.0, 3e-9, 1e-9, 0.0]], np.float32)
    u = np.full((1, 4), 0.5, np.float32)
    _, prob = tree.sample_without_replacement(q, 3, u)
    np.testing.assert_allclose(prob, [[1, 0.75, 1]], rtol=1e-6)
    _, prob = tree.sample_without_replacement(q, 2, u)
    np.testing.assert_allclose(prob, [[1, 0.75]], rtol=1e-6)


def test_weights_need_no_sum(backend, rng):
    q = softmax(rng.standard_normal((2, 40)))
    u = rng.random((2, 40), np.float32)
    index, prob = tree.sample_without_replacement(q, 12, u)
    for scale in (2.0**-30, 2.0**20):
        again = tree.sample_without_replacement(q * np.float32(scale), 12, u)
        np.testing.assert_array_equal(again[0], index)
        np.testing.assert_allclose(again[1], prob, rtol=2e-7)


def test_half_precision(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    u = torch.from_numpy(rng.random((2, 130), np.float32))
    for dtype in (torch.float16, torch.bfloat16):
        q = torch.from_numpy(softmax(2 * rng.standard_normal((2, 130)))).to(dtype)
        index, prob = tree.sample_without_replacement(q, 20, u)
        want, shares = tree.sample_without_replacement(q.float(), 20, u)
        assert torch.equal(index, want)
        torch.testing.assert_close(prob, shares)


def test_views_and_out(backend, rng):
    q, u = softmax(rng.standard_normal((6, 90))), rng.random((6, 90), np.float32)
    for view in ((slice(None, None, 2),), (slice(None, None, -1),), (slice(None), slice(7, 60)), (slice(0, 0),)):
        got = tree.sample_without_replacement(q[view], 9, u[view])
        want = tree.sample_without_replacement(q[view].copy(), 9, u[view].copy())
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)
    out = (np.zeros((6, 9), np.int64), np.zeros((6, 9), np.float32))
    got = tree.sample_without_replacement(q, 9, u, out=out)
    assert all(a is b for a, b in zip(got, out, strict=True))


@pytest.mark.parametrize("shape", [(0, 5), (0, 0), (2, 0)], ids=str)
def test_nothing_to_draw(backend, shape):
    index, prob = tree.sample_without_replacement(np.zeros(shape, np.float32), 0, np.zeros(shape, np.float32))
    assert index.shape == prob.shape == (shape[0], 0)


def test_refuses(backend):
    q = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"sample_without_replacement: k must be in \[0, 3\], got 4"):
        tree.sample_without_replacement(q, 4, q)
    with pytest.raises(TypeError, match=r"sample_without_replacement: u must be float32, got float64"):
        tree.sample_without_replacement(q, 1, q.astype(np.float64))


def test_bits_do_not_depend_on_threads(backend, rng):
    width = 80000 if backend != "simt" else 800
    q, u = softmax(2 * rng.standard_normal((3, width))), rng.random((3, width), np.float32)
    for one, two in zip(*on_one_and_two_threads(lambda: tree.sample_without_replacement(q, 64, u)), strict=True):
        np.testing.assert_array_equal(one, two)
