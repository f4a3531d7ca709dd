# SPDX-License-Identifier: Apache-2.0
"""Grids: fsq_encode, its gradient and fsq_decode on every backend against float64, official vectors and ref."""

import math

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels import quantize

# By steps (up to 16 levels) with 3 and 4 probes, 1 to 9 dimensions; by the formula; 2^31 codes and nearly 2^63.
GRIDS = [
    (8,),
    (3, 4),
    (8, 8, 8),
    (8, 5, 5, 5),
    (16, 3, 5, 7),
    (5, 5, 5, 5, 5),
    (8, 6, 5, 4, 3, 7),
    (7,) * 7,
    (8,) * 8,
    (15,) * 8,
    (4,) * 9,
    (1000, 3),
    (2001, 7, 65536),
    (3,) * 39,
    (16,) * 15,
]
ROWS = [1, 2, 15, 16, 17, 33]


def variants():
    return [(False, False), (False, True), (True, False), (True, True)]


def formula(z, levels, symmetric=False, hard_clamp=False):
    """Levels before they are rounded, in float64: what papers/quantizers.md says."""
    levels, z = np.array(levels, np.float64), z.astype(np.float64)
    if symmetric:
        place = np.clip(z, -1, 1) if hard_clamp else np.tanh(z)
        return (levels - 1) * (place + 1) / 2
    h, o = (levels - 1) * 1.001 / 2, np.where(levels % 2 == 0, 0.5, 0)
    place = np.clip(z + o / h, -1, 1) if hard_clamp else np.tanh(z + np.arctanh(o / h))
    return place * h - o + levels // 2


def numbers(level, levels):
    """The mixed radix number of a row of levels, in Python's integers."""
    weights = [math.prod(levels[:d]) for d in range(len(levels))]
    return np.array([sum(int(n) * w for n, w in zip(row, weights, strict=True)) for row in level], np.int64)


@pytest.mark.parametrize("name", ["fsq_8555", "fsq_symmetric_4237"])
def test_official_vectors(backend, golden, name):
    g = np.load(golden / "quantizers" / f"{name}.npz")
    levels, symmetric = g["levels"].tolist(), bool(g["preserve_symmetry"])
    codes, index = quantize.fsq_encode(g["z"], levels, symmetric)
    assert tokernel.last_backend() == backend
    np.testing.assert_array_equal(index, g["indices"])
    np.testing.assert_allclose(codes, g["codes"], atol=1e-6)
    np.testing.assert_array_equal(quantize.fsq_decode(index, levels, symmetric), codes)
    np.testing.assert_allclose(codes, g["roundtrip"], atol=1e-6)
    grad = quantize.fsq_encode_backward(g["g"], g["z"], levels, symmetric)
    np.testing.assert_allclose(grad, g["grad_z"], atol=2e-5)


@pytest.mark.parametrize("levels", GRIDS, ids=str)
def test_the_level_is_that_of_the_formula(levels, rng):
    """But where it lies within float32 of a step."""
    with tokernel.use_backend("ref"):
        for symmetric, hard_clamp in variants():
            z = (rng.standard_normal((200, len(levels))) * 1.2).astype(np.float32)
            codes, _ = quantize.fsq_encode(z, levels, symmetric, hard_clamp)
            n = np.array(levels)
            level = codes.astype(np.float64) * ((n - 1) / 2 if symmetric else n // 2) + (
                (n - 1) / 2 if symmetric else n // 2
            )
            exact = formula(z, levels, symmetric, hard_clamp)
            rounded = np.clip(np.floor(exact + 0.5), 0, n - 1)
            near = np.abs(exact + 0.5 - np.round(exact + 0.5)) < n * 1e-6
            assert (near | (np.abs(level - rounded) < 1e-2)).all()
            assert near.mean() < 0.1 or max(levels) >= 1000


@pytest.mark.parametrize("levels", GRIDS, ids=str)
def test_every_backend_has_the_bits_of_ref(backend, levels, rng):
    for symmetric, hard_clamp in variants():
        for rows in ROWS[:3] if backend == "simt" else ROWS:
            z = (rng.standard_normal((rows, len(levels))) * 1.5).astype(np.float32)
            z[0, 0], z[-1, -1] = np.nan, np.inf
            codes, index = quantize.fsq_encode(z, levels, symmetric, hard_clamp)
            with tokernel.use_backend("ref"):
                want = quantize.fsq_encode(z, levels, symmetric, hard_clamp)
            np.testing.assert_array_equal(index, want.index)
            np.testing.assert_array_equal(codes, want.codes)


def test_same_bits_on_a_dense_grid_of_numbers(backend):
    """Of the tanh of the formula: levels fine enough to show each of its digits that a level can show."""
    count = 3000 if backend == "simt" else 60_000
    z = np.linspace(-9.5, 9.5, count, dtype=np.float32)[:, None]
    for levels in ((65536,), (4097,), (16,)):
        codes, index = quantize.fsq_encode(z, levels, symmetric=True)
        with tokernel.use_backend("ref"):
            want = quantize.fsq_encode(z, levels, symmetric=True)
        np.testing.assert_array_equal(index, want.index)
        np.testing.assert_array_equal(codes, want.codes)
        np.testing.assert_allclose(codes[:, 0], np.tanh(z[:, 0].astype(np.float64)), atol=4e-7 + 1 / (levels[0] - 1))
        if levels[0] == 16:
            assert (np.diff(index) >= 0).all()


def test_tanh_against_float64(backend):
    """tanh is known to 4e-7 of itself: 1 - tanh^2, which the gradient shows, to twice that and three roundings."""
    z = np.linspace(-9.5, 9.5, 4001 if backend == "simt" else 400_001, dtype=np.float32)[:, None]
    got = quantize.fsq_encode_backward(np.ones_like(z), z, (3,), symmetric=True)
    t = np.tanh(z.astype(np.float64))
    assert np.abs(got - (1 - t * t)).max() <= 2 * 4e-7 + 3 * 2.0**-24
    assert (got >= 0).all()


@pytest.mark.parametrize("levels", [(3, 4, 5), (8, 6, 5), (2, 3, 4)], ids=str)
def test_every_index_is_reachable_and_decodes_to_its_codes(backend, levels):
    symmetric = 2 in levels
    index = np.arange(math.prod(levels))
    codes = quantize.fsq_decode(index, levels, symmetric)
    assert len(np.unique(codes, axis=0)) == len(index)
    assert np.abs(codes).max() <= 1
    np.testing.assert_array_equal(codes[0], -1)  # index 0: the lowest level everywhere
    n = np.array(levels)
    tops = np.ones(len(n)) if symmetric else np.where(n % 2, 1, 1 - 1 / (n // 2))
    np.testing.assert_allclose(codes.max(0), tops, atol=1e-7)
    z = np.arctanh(np.clip(codes.astype(np.float64), -0.9999, 0.9999))  # draws every code from its own cell or beyond
    again = quantize.fsq_encode(z.astype(np.float32), levels, symmetric)
    if symmetric:
        np.testing.assert_array_equal(again.index, index)
    seen = quantize.fsq_encode((codes * 1.001).astype(np.float32), levels, symmetric, hard_clamp=True).index
    np.testing.assert_array_equal(seen, index)


@pytest.mark.parametrize("levels", GRIDS, ids=str)
def test_codes_are_fixed_points_of_a_hard_clamp(backend, levels, rng):
    if max(levels) > 1000:
        levels = (999, 7, 998)
    for symmetric in (False, True):
        z = (rng.standard_normal((20, len(levels))) * 1.5).astype(np.float32)
        codes, index = quantize.fsq_encode(z, levels, symmetric, hard_clamp=True)
        again = quantize.fsq_encode(codes, levels, symmetric, hard_clamp=True)
        np.testing.assert_array_equal(again.index, index)
        np.testing.assert_array_equal(again.codes, codes)


@pytest.mark.parametrize("levels", GRIDS, ids=str)
def test_decode_gives_the_codes_bit_for_bit(backend, levels, rng):
    for symmetric in (False, True):
        for dtype in (np.float32, np.float16):
            z = (rng.standard_normal((19, len(levels))) * 2).astype(dtype)
            codes, index = quantize.fsq_encode(z, levels, symmetric)
            assert codes.dtype == dtype
            level = np.stack([index // math.prod(levels[:d]) % n for d, n in enumerate(levels)], -1)
            np.testing.assert_array_equal(numbers(level, levels), index)
            back = quantize.fsq_decode(index, levels, symmetric, dtype)
            assert back.dtype == dtype
            np.testing.assert_array_equal(back, codes)
            assert np.abs(codes.astype(np.float32)).max() <= 1


def test_bfloat16(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    z = torch.from_numpy(rng.standard_normal((21, 4)).astype(np.float32) * 1.5).bfloat16()
    for levels in ((8, 5, 5, 5), (7, 100, 3, 3)):
        codes, index = quantize.fsq_encode(z, levels)
        wide, want = quantize.fsq_encode(z.float(), levels)
        assert torch.equal(index, want)
        assert torch.equal(codes, wide.bfloat16())
        assert torch.equal(quantize.fsq_decode(index, levels, dtype=torch.bfloat16), codes)


def test_nan_and_infinities(backend):
    z = np.array([[np.nan, np.inf, -np.inf, 0.0]] * 17, np.float32)
    for levels, zero in (((5, 5, 5, 5), 2), ((100, 100, 100, 101), 50)):
        codes, index = quantize.fsq_encode(z, levels)
        tops = [np.nan, 1 if levels[1] % 2 else 1 - 2 / levels[1], -1, 0]
        np.testing.assert_allclose(codes, np.array([tops] * 17, np.float32), atol=1e-7)
        assert (index == (levels[1] - 1) * levels[0] + zero * math.prod(levels[:3])).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_gradient(backend, dtype, rng):
    for levels in ((8, 5, 4), (6,) * 5):
        z, grad = ((rng.standard_normal((33, len(levels))) * 1.5).astype(dtype) for _ in range(2))
        n = np.array(levels, np.float64)
        h, o = (n - 1) * 1.001 / 2, np.where(n % 2 == 0, 0.5, 0)
        wide, g = z.astype(np.float64), grad.astype(np.float64)
        for symmetric, hard_clamp in variants():
            got = quantize.fsq_encode_backward(grad, z, levels, symmetric, hard_clamp)
            assert got.dtype == dtype
            slope = 1 if symmetric else h / (n // 2)
            shift = 0 if symmetric else (o / h if hard_clamp else np.arctanh(o / h))
            inner = (np.abs(wide + shift) <= 1) if hard_clamp else 1 - np.tanh(wide + shift) ** 2
            tolerance = 2e-6 * np.abs(g).max() + np.finfo(dtype).eps * np.abs(g * slope)
            assert (np.abs(got - g * slope * inner) <= tolerance).all()


def test_gradient_of_nan(backend):
    z = np.array([[np.nan, 0.5, 3.0]] * 17, np.float32)
    ones = np.ones_like(z)
    assert np.isnan(quantize.fsq_encode_backward(ones, z, (3, 3, 3))[:, 0]).all()
    np.testing.assert_array_equal(
        quantize.fsq_encode_backward(ones, z, (3, 3, 3), True, True), np.array([[0, 1, 0]] * 17, np.float32)
    )


def test_shapes_strides_and_out(backend, rng):
    z = rng.standard_normal((2, 3, 6, 4)).astype(np.float32)
    want = quantize.fsq_encode(z, (5, 4, 3, 7))
    assert want.codes.shape == z.shape
    assert want.index.shape == (2, 3, 6)
    part = quantize.fsq_encode(z[1, :, ::2], (5, 4, 3, 7))
    np.testing.assert_array_equal(part.index, want.index[1, :, ::2])
    turned = quantize.fsq_encode(z.transpose(0, 2, 1, 3), (5, 4, 3, 7))
    np.testing.assert_array_equal(turned.codes, want.codes.transpose(0, 2, 1, 3))
    single = quantize.fsq_encode(z[0, 0, 0], (5, 4, 3, 7))
    assert single.index.shape == (1,)
    assert single.index[0] == want.index[0, 0, 0]
    out = (np.empty((3, 6, 4), np.float32), np.empty((3, 6), np.int64))
    assert quantize.fsq_encode(z[0], (5, 4, 3, 7), out=out)[0] is out[0]
    np.testing.assert_array_equal(out[1], want.index[0])
    np.testing.assert_array_equal(quantize.fsq_decode(out[1].astype(np.int32), (5, 4, 3, 7)), out[0])


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3)], ids=str)
def test_empty(backend, shape):
    empty = np.zeros(shape, np.float32)
    codes, index = quantize.fsq_encode(empty, (5, 5, 5))
    assert codes.shape == shape
    assert index.shape == shape[:-1]
    assert quantize.fsq_decode(index, (5, 5, 5)).shape == shape
    assert quantize.fsq_encode_backward(empty, empty, (5, 5, 5)).shape == shape


def test_large_answers_past_the_caches(rng):
    """From 16 MB on they are written another way."""
    z = rng.standard_normal(((1 << 20) + 5, 4)).astype(np.float32)
    codes, index = quantize.fsq_encode(z, (8, 5, 5, 5))
    part = quantize.fsq_encode(z[-1000:], (8, 5, 5, 5))
    np.testing.assert_array_equal(codes[-1000:], part.codes)
    np.testing.assert_array_equal(index[-1000:], part.index)


def test_bits_do_not_depend_on_threads(backend, rng):
    z = rng.standard_normal((300 if backend == "simt" else 50_001, 4)).astype(np.float32)
    for levels in ((8, 5, 5, 5), (17, 5, 5, 5)):
        one, two = on_one_and_two_threads(lambda levels=levels: quantize.fsq_encode(z, levels))
        assert one.codes.tobytes() == two.codes.tobytes()
        assert one.index.tobytes() == two.index.tobytes()


@pytest.mark.parametrize(
    ("levels", "symmetric", "expected"),
    [
        ((5, 2), False, r"an integer of at least 3, got 2"),
        ((5, 1), True, r"an integer of at least 2, got 1"),
        ((5, -4), False, r"an integer of at least 3, got -4"),
        ((5, 70000), False, r"integers of at most 65536, got 70000"),
        ((65536,) * 4, False, r"of a product below 2\^63, got a larger one"),
        ((), False, r"1 to 62 integers, got 0 of them"),
        ((2,) * 63, True, r"1 to 62 integers, got 63 of them"),
    ],
)
def test_bad_levels(levels, symmetric, expected):
    z = np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match=rf"^fsq_encode: levels must be {expected}$"):
        quantize.fsq_encode(z, levels, symmetric)
    with pytest.raises(ValueError, match=rf"^fsq_decode: levels must be {expected}$"):
        quantize.fsq_decode(np.zeros(2, np.int64), levels, symmetric)


def test_other_bad_input():
    z = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"^fsq_encode: z must be .*D = 2.*, got \(2, 3\) float32$"):
        quantize.fsq_encode(z, (5, 5))
    with pytest.raises(TypeError, match=r"^fsq_encode: levels must be a sequence of integers, got int$"):
        quantize.fsq_encode(z, 5)
    with pytest.raises(TypeError, match=r"^fsq_encode: levels must be an integer of at least 3, got float$"):
        quantize.fsq_encode(z, (5, 5.5, 5))
    with pytest.raises(ValueError, match=r"^fsq_decode: index must be in \[0, 125\), got 125 at flat position 1$"):
        quantize.fsq_decode(np.array([0, 125]), (5, 5, 5))
    with pytest.raises(ValueError, match=r"^fsq_decode: index must be in \[0, 125\), got -1 at flat position 0$"):
        quantize.fsq_decode(np.array([-1]), (5, 5, 5))
    with pytest.raises(ValueError, match=r"^fsq_decode: dtype must be float32, float16 or bfloat16, got int64$"):
        quantize.fsq_decode(np.array([1]), (5, 5, 5), dtype="int64")
