# SPDX-License-Identifier: Apache-2.0
"""residual_sample on every backend: bit for bit against its contract in NumPy, and its distribution."""

import numpy as np
import pytest
from bits import on_one_and_two_threads
from trees import BROKEN_ROWS

import tokernel
from tokernel.kernels import tree

# Around a vector, around a block of 512, around the widths at which a GPU takes more threads.
WIDTHS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 511, 512, 513, 1025, 4095, 4096, 4097]
UNIT = 2.0**42
LAST_COIN = np.float32(1 - 2.0**-24)


def units(x):
    """Whole units of mass, rounded to nearest, ties to even."""
    return np.rint(x.astype(np.float64) * UNIT).astype(np.int64)


def scaled(row):
    """The row and what makes it sum to 1, whose product is exact in float64."""
    return row.astype(np.float64), np.float64(np.float32(UNIT / np.float64(units(row).sum())))


def contract(p, q, u):
    """What csrc/tree/inverse_cdf.h says, in NumPy."""
    (p, p_scale), (q, q_scale) = scaled(p), scaled(q)
    left = np.maximum(p * p_scale - q * q_scale, 0).astype(np.float32)
    row, scale = scaled(left) if units(left).sum() > 0 else (p, p_scale)
    mass = units(row * scale)
    drawn = int(np.float64(u) * np.float64(mass.sum()))
    return int(np.flatnonzero(np.cumsum(mass) > drawn)[0])


def pair(rng, rows, width, kind=np.float32, near=0.5):
    p = rng.dirichlet(np.full(width, 0.3), rows)
    q = near * p + (1 - near) * rng.dirichlet(np.full(width, 0.3), rows)
    return p.astype(kind), q.astype(kind)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("width", WIDTHS)
def test_equals_its_contract(backend, width, kind, rng):
    rows = 4 if backend == "simt" else 20
    p, q = pair(rng, rows, width, kind)
    u = rng.random(rows, dtype=np.float32)
    u[:3] = 0, LAST_COIN, 1e-30
    found = tree.residual_sample(p, q, u)
    np.testing.assert_array_equal(found, [contract(*row) for row in zip(p, q, u, strict=True)])
    assert tokernel.last_backend() == backend


def test_draws_what_is_left(rng):
    """100 000 draws against the residual in float64. Fixed coins: it passes or fails for good. The bound is the value
    that chi-square with 9 degrees of freedom exceeds once in 10 000 times."""
    p, q = pair(rng, 1, 10)
    left = np.maximum(p[0].astype(np.float64) - q[0], 0)
    draws = 100_000
    u = rng.random(draws, dtype=np.float32)
    found = tree.residual_sample(np.repeat(p, draws, 0), np.repeat(q, draws, 0), u)
    counts, want = np.bincount(found, minlength=10), draws * left / left.sum()
    assert (counts[want == 0] == 0).all()
    assert ((counts - want)[want > 0] ** 2 / want[want > 0]).sum() < 33.72


def test_where_nothing_is_left_it_draws_from_p(backend, rng):
    p, _ = pair(rng, 30, 50)
    u = rng.random(30, dtype=np.float32)
    running = np.cumsum(p.astype(np.float64), 1)
    clear = np.abs(running / running[:, -1:] - u[:, None]).min(1) > 1e-6
    want = (running <= (u * running[:, -1])[:, None]).sum(1)
    np.testing.assert_array_equal(tree.residual_sample(p, p, u)[clear], want[clear])


def test_never_draws_what_has_no_mass(backend):
    p = np.array([[0, 0.5, 0, 0.5, 0]] * 4, np.float32)
    q = np.array([[0.5, 0.25, 0, 0.25, 0]] * 4, np.float32)
    found = tree.residual_sample(p, q, np.array([0, 0.4999, 0.5, LAST_COIN], np.float32))
    np.testing.assert_array_equal(found, [1, 1, 3, 3])


def test_rows_are_normalised_first(backend):
    """Twice as far from 1 as the other, within the tolerance: p and q are the same distribution, so nothing is left."""
    p = np.full((1, 4), 0.25, np.float32)
    for factor in (0.9995, 1.0005):
        assert tree.residual_sample(p, (p * np.float32(factor)), np.array([0.3], np.float32)) == 1


def test_strided_rows(backend, rng):
    p, q = pair(rng, 6, 40)
    u = rng.random(6, dtype=np.float32)
    want = tree.residual_sample(p, q, u)
    wide = np.zeros((6, 3, 50), np.float32)
    wide[:, 1, 5:45] = p
    np.testing.assert_array_equal(tree.residual_sample(wide[:, 1, 5:45], q, u), want)
    apart = np.repeat(q, 2, 1)[:, ::2]
    np.testing.assert_array_equal(tree.residual_sample(p, apart, np.repeat(u, 2)[::2]), want)


def test_no_rows(backend):
    nothing = np.zeros((0, 5), np.float32)
    assert tree.residual_sample(nothing, nothing, np.zeros(0, np.float32)).shape == (0,)


def test_threads_give_the_same(rng):
    p, q = pair(rng, 300, 700)
    u = rng.random(300, dtype=np.float32)
    one, two = on_one_and_two_threads(lambda: tree.residual_sample(p, q, u))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("row", "got"), BROKEN_ROWS)
@pytest.mark.parametrize("name", ["p", "q"])
def test_refuses_what_is_no_distribution(backend, row, got, name):
    given = {"p": np.full((3, 2), 0.5, np.float32), "q": np.full((3, 2), 0.5, np.float32)}
    given[name][2] = row
    rule = f"^residual_sample: {name} must be of rows of probabilities that sum to 1 within 0.001, got {got} in row 2$"
    with pytest.raises(ValueError, match=rule):
        tree.residual_sample(**given, u=np.zeros(3, np.float32))


def test_half_rows_may_be_as_far_off_as_rounding_makes_them(backend, rng):
    p, q = pair(rng, 3, 3000, np.float16)
    assert (np.abs(p.astype(np.float64).sum(1) - 1) < 1e-3 + 2.0**-10 + 3000 * 2.0**-24).all()
    tree.residual_sample(p, q, np.zeros(3, np.float32))
    few = np.array([[0.5, 0.503]], np.float16)
    with pytest.raises(ValueError, match=r"sum to 1 within 0\.002, got a sum of 1\.00293 in row 0$"):
        tree.residual_sample(few, few, np.zeros(1, np.float32))


@pytest.mark.parametrize("coin", [-0.1, 1.0, np.nan, np.inf])
def test_refuses_coins_out_of_range(backend, coin):
    p = np.full((2, 2), 0.5, np.float32)
    with pytest.raises(ValueError, match=r"^residual_sample: u must be in \[0, 1\), got .* at flat position 1$"):
        tree.residual_sample(p, p, np.array([0, coin], np.float32))


def test_refuses_rows_of_no_width_and_of_too_much():
    for width in (0, 2**20 + 1):
        rows = np.zeros((1, width), np.float32)
        rule = rf"^residual_sample: p must be rows of 1 to 1048576 items, got {width}$"
        with pytest.raises(ValueError, match=rule):
            tree.residual_sample(rows, rows, np.zeros(1, np.float32))
