# SPDX-License-Identifier: Apache-2.0
"""gumbel_argmax on every backend: the scores in float64, and the law of its draws."""

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels import tree

WIDTHS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 300, 2050]
LEAST, MOST = 2.0**-126, 1 - 2.0**-24


def scores(logits, u, temperature):
    u = np.clip(u.astype(np.float64), LEAST, MOST)
    return np.asarray(logits).astype(np.float64) / temperature - np.log(-np.log(u))


def check(logits, u, temperature=1.0):
    """The chosen item is the best, but for items closer than float32 can tell."""
    got = tree.gumbel_argmax(logits, u, temperature)
    assert got.shape == logits.shape[:1]
    z = scores(logits, u, temperature)
    chosen = z[np.arange(len(z)), got]
    # The noise is below 17 and its two logarithms are good to an ulp; x and the difference are rounded once each.
    np.testing.assert_allclose(chosen, z.max(-1), rtol=2.4e-7, atol=2e-6)
    return got


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("temperature", [1.0, 0.3, 1e-6, 1e6])
def test_equals_float64(backend, width, temperature, rng):
    check((3 * rng.standard_normal((4, width))).astype(np.float32), rng.random((4, width), np.float32), temperature)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("width", [16383, 16384, 16385, 50000])
def test_long_rows(backend, width, rng):
    if backend == "simt":
        width //= 8
    logits = rng.standard_normal((3, width)).astype(np.float32)
    check(logits, rng.random((3, width), np.float32))
    u = np.full((1, width), 0.5, np.float32)
    for where in (0, width // 2, width - 1):  # in every segment in turn
        u[0, where] = 0.99
        assert check(np.zeros((1, width), np.float32), u).tolist() == [where]
        u[0, where] = 0.5


def test_the_same_index_on_every_backend(rng):
    """Near ties included: no backend may see another order."""
    logits = (1e-6 * rng.standard_normal((300, 40))).astype(np.float32)
    u = np.float32(0.75) + np.float32(2.0**-22) * rng.integers(-2, 3, (300, 40)).astype(np.float32)
    found = {}
    for name in tokernel.backends()["usable"]:
        if name != "cuda":
            with tokernel.use_backend(name):
                found[name] = tree.gumbel_argmax(logits, u, 0.7)
    for name, index in found.items():
        np.testing.assert_array_equal(index, found["ref"], err_msg=name)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_have_the_law_of_the_softmax(backend, temperature):
    n = 20000 if backend != "simt" else 1500
    logits = np.log(np.array([0.05, 0.1, 0.15, 0.3, 0.4]))
    p = np.exp(logits / temperature)
    p /= p.sum()
    u = np.random.default_rng(3).random((n, 5), np.float32)
    drawn = tree.gumbel_argmax(np.broadcast_to(logits.astype(np.float32), (n, 5)), u, temperature)
    seen = np.bincount(drawn, minlength=5)
    chi = ((seen - n * p) ** 2 / (n * p)).sum()
    assert chi < 18.5  # 0.1 % of the law with 4 degrees of freedom; the seed is fixed


@pytest.mark.parametrize("width", [1, 5, 17, 700])
def test_temperature_zero_is_the_argmax(backend, width, rng):
    """Ties and all; u is not read."""
    logits = rng.integers(0, 4, (5, width)).astype(np.float32)
    u = np.full_like(logits, np.nan)
    np.testing.assert_array_equal(tree.gumbel_argmax(logits, u, 0), logits.argmax(-1))


def test_ties_go_to_the_lowest_index(backend):
    u = np.full((1, 100), 0.25, np.float32)
    assert tree.gumbel_argmax(np.zeros((1, 100), np.float32), u).tolist() == [0]
    u[0, [40, 90]] = 0.75
    assert tree.gumbel_argmax(np.zeros((1, 100), np.float32), u).tolist() == [40]


def test_minus_infinity_is_not_drawn(backend):
    """Not even where the only other uniform is 0."""
    logits = np.full((2, 50), -np.inf, np.float32)
    logits[0, 33] = -1e30
    u = np.full((2, 50), 0.999, np.float32)
    u[0, 33] = 0
    assert tree.gumbel_argmax(logits, u).tolist() == [33, 0]
    assert tree.gumbel_argmax(logits, u, 0).tolist() == [33, 0]


def test_nan_comes_last(backend):
    logits = np.zeros((4, 40), np.float32)
    u = np.full((4, 40), 0.5, np.float32)
    logits[0, :39] = np.nan
    u[1, :7] = np.nan
    logits[2] = np.nan
    logits[3, :20], logits[3, 20:] = np.nan, -np.inf
    assert tree.gumbel_argmax(logits, u).tolist() == [39, 7, 0, 20]
    assert tree.gumbel_argmax(logits, u, 0).tolist() == [39, 0, 0, 20]


def test_the_ends_of_u(backend):
    """0 and below is the least uniform, 1 and above the largest below 1; infinite logits win."""
    logits = np.zeros((4, 3), np.float32)
    u = np.array([[0, 2e-38, 0], [1, 2, 0.9], [MOST, 1, 5], [0.5, 0, 0.9]], np.float32)
    logits[3, 1] = np.inf
    assert tree.gumbel_argmax(logits, u).tolist() == [1, 0, 0, 1]
    u[0] = [-1, 0, 1e-45]
    assert tree.gumbel_argmax(logits, u)[0] == 0
    logits[1] = [0, 1e-3, 0]  # the noise is finite: the logit decides between equals
    assert tree.gumbel_argmax(logits, u)[1] == 1


def test_half_precision(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    u = torch.from_numpy(rng.random((3, 130), np.float32))
    for dtype in (torch.float16, torch.bfloat16):
        logits = torch.from_numpy(rng.standard_normal((3, 130)).astype(np.float32)).to(dtype)
        assert torch.equal(tree.gumbel_argmax(logits, u, 0.8), tree.gumbel_argmax(logits.float(), u, 0.8))


def test_views_and_out(backend, rng):
    logits, u = rng.standard_normal((6, 90)).astype(np.float32), rng.random((6, 90), np.float32)
    for view in ((slice(None, None, 2),), (slice(None, None, -1),), (slice(None), slice(7, 60)), (slice(0, 0),)):
        want = tree.gumbel_argmax(logits[view].copy(), u[view].copy())
        np.testing.assert_array_equal(tree.gumbel_argmax(logits[view], u[view]), want)
    out = np.zeros(6, np.int64)
    assert tree.gumbel_argmax(logits, u, out=out) is out
    np.testing.assert_array_equal(out, tree.gumbel_argmax(logits, u))


def test_refuses(backend):
    logits = np.zeros((2, 3), np.float32)
    for temperature in (-1, 1e-7, 1e7, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"gumbel_argmax: temperature must be .*, got "):
            tree.gumbel_argmax(logits, logits, temperature)
    with pytest.raises(ValueError, match=r"gumbel_argmax: logits must be rows of at least one item, got none"):
        tree.gumbel_argmax(logits[:, :0], logits[:, :0])
    assert tree.gumbel_argmax(logits[:0, :0], logits[:0, :0]).shape == (0,)


def test_bits_do_not_depend_on_threads(backend, rng):
    width = 60000 if backend != "simt" else 600
    logits, u = rng.standard_normal((3, width)).astype(np.float32), rng.random((3, width), np.float32)
    one, two = on_one_and_two_threads(lambda: tree.gumbel_argmax(logits, u))
    np.testing.assert_array_equal(one, two)
