# SPDX-License-Identifier: Apache-2.0
"""core/simd.h and core/dtype.h on every level of this machine, against NumPy: all 16-bit values, roundings, e^x."""

import ctypes
import mmap

import numpy as np
import pytest
from native import build

import tokernel

LEVELS = [n for n in tokernel.backends()["usable"] if n not in ("ref", "cuda", "simt")]
FLAGS = {
    "v2": ("-march=x86-64-v2",),
    "v3": ("-march=x86-64-v3",),
    "v4": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "neon": ("-march=armv8-a",),
}
HALVES = np.arange(2**16, dtype=np.uint32).astype(np.uint16)


@pytest.fixture(scope="module", params=LEVELS)
def probe(request, tmp_path_factory):
    library = build("simd_probe.cpp", tmp_path_factory.mktemp(request.param), *FLAGS[request.param])
    library.level = request.param
    library.sum.restype = library.largest.restype = ctypes.c_float
    return library


def pointer(a: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(a.ctypes.data)


def apply(function, x: np.ndarray, dtype) -> np.ndarray:
    out = np.zeros(x.shape, dtype)
    function(pointer(x), pointer(out), ctypes.c_int64(x.size))
    return out


def mapped(probe, name: str, *arrays) -> np.ndarray:
    a, b, c = ([np.ascontiguousarray(x, np.float32) for x in arrays] * 3)[:3]
    out = np.zeros_like(a)
    getattr(probe, f"map_{name}")(pointer(a), pointer(b), pointer(c), pointer(out), ctypes.c_int64(a.size))
    return out


def bfloat_value(bits: np.ndarray) -> np.ndarray:
    """The exact value, where the pattern of infinity stands for the number that would come next."""
    value = (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.where(np.isinf(value), np.copysign(2.0**128, value), value)


def nearest_bfloat(x: np.ndarray) -> np.ndarray:
    """Round by comparing distances to the two neighbours, in float64, where both are exact."""
    below = (x.view(np.uint32) >> 16).astype(np.uint16)
    above = below + np.uint16(1)
    with np.errstate(invalid="ignore"):
        down, up = (np.abs(x.astype(np.float64) - bfloat_value(bits)) for bits in (below, above))
    choose_above = (up < down) | ((up == down) & (below & 1 == 1))
    return np.where(np.isinf(x) | ~choose_above, below, above)


@pytest.fixture(scope="module")
def floats() -> np.ndarray:
    """Every half and bfloat16, every midpoint between neighbours, one ulp to both sides, and random bit patterns."""
    grids = [HALVES.view(np.float16).astype(np.float32), (HALVES.astype(np.uint32) << 16).view(np.float32)]
    bits = [np.random.default_rng(0).integers(0, 2**32, 2**18, dtype=np.uint32)]
    for grid in grids:
        finite = np.unique(grid[np.isfinite(grid)].astype(np.float64))
        middles = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
        for centre in (grid, middles):
            bits += [centre.view(np.uint32) + np.uint32(d) for d in (0, 1, 0xFFFFFFFF)]
    all_bits = np.concatenate(bits)
    return np.resize(all_bits, all_bits.size + -all_bits.size % 16).view(np.float32)


@pytest.mark.parametrize("prefix", ["", "scalar_"])
def test_every_half_is_widened_exactly(probe, prefix):
    got = apply(getattr(probe, prefix + "load_f16"), HALVES, np.float32)
    assert np.array_equal(got, HALVES.view(np.float16).astype(np.float32), equal_nan=True)
    assert np.array_equal(np.signbit(got), HALVES >= 0x8000)


@pytest.mark.parametrize("prefix", ["", "scalar_"])
def test_every_bfloat_is_widened_exactly(probe, prefix):
    got = apply(getattr(probe, prefix + "load_bf16"), HALVES, np.float32)
    assert np.array_equal(got.view(np.uint32), HALVES.astype(np.uint32) << 16)


@pytest.mark.parametrize("prefix", ["", "scalar_"])
def test_floats_round_to_the_nearest_half(probe, prefix, floats):
    got = apply(getattr(probe, prefix + "store_f16"), floats, np.uint16).view(np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = floats.astype(np.float16)
    assert np.array_equal(got, expected, equal_nan=True)
    assert np.array_equal(np.signbit(got), np.signbit(floats))


@pytest.mark.parametrize("prefix", ["", "scalar_"])
def test_floats_round_to_the_nearest_bfloat(probe, prefix, floats):
    got = apply(getattr(probe, prefix + "store_bf16"), floats, np.uint16)
    nan = np.isnan(floats)
    assert np.array_equal(got[~nan], nearest_bfloat(floats[~nan]))
    assert np.isnan((got[nan].astype(np.uint32) << 16).view(np.float32)).all()
    assert np.array_equal(got >= 0x8000, np.signbit(floats))


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_partial_vectors_touch_nothing_else(probe, dtype):
    """The elements end where the next page, which nobody may read or write, begins."""
    kind = np.float32 if dtype == "f32" else np.uint16
    width, size = probe.width(), np.dtype(kind).itemsize
    pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    end = base + mmap.PAGESIZE
    protect = ctypes.CDLL(None).mprotect
    assert protect(ctypes.c_void_p(end), mmap.PAGESIZE, 0) == 0
    try:
        one = np.float32(1) if dtype == "f32" else np.uint16(0x3C00 if dtype == "f16" else 0x3F80)
        memory = np.frombuffer(pages, kind, mmap.PAGESIZE // size)
        for n in range(width):
            memory[:] = one
            lanes = np.zeros(width, np.float32)
            start = ctypes.c_void_p(end - n * size)
            getattr(probe, f"load_n_{dtype}")(start, n, ctypes.c_float(-7), pointer(lanes))
            assert lanes.tolist() == [1.0] * n + [-7.0] * (width - n)
            getattr(probe, f"store_n_{dtype}")(start, pointer(np.zeros(width, np.float32)), n)
            assert memory.tolist() == [one.item()] * (memory.size - n) + [0] * n
    finally:
        assert protect(ctypes.c_void_p(end), mmap.PAGESIZE, 3) == 0


def exponents() -> np.ndarray:
    """Arguments of e^x by bit pattern: dense around 0 as floats are, up to infinity on both sides."""
    positive = np.arange(0, 0x42B40000, 1009, dtype=np.uint32).view(np.float32)
    edges = np.float32([87.33654, 88.0, 88.5, 88.722, 88.72283, 88.72284, 88.8, 100, 1e30, np.inf, np.nan, 0])
    edges = np.concatenate([edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(np.inf))])
    x = np.concatenate([positive, -positive, edges, -edges])
    return np.resize(x, x.size + -x.size % 16)


def test_exp_is_within_two_ulp(probe):
    x = exponents()
    got = mapped(probe, "exp", x)
    with np.errstate(over="ignore"):
        exact = np.exp(x.astype(np.float64))
    assert np.array_equal(np.isnan(got), np.isnan(x))
    assert (got[x < -87.34] == 0).all()
    assert np.isposinf(got[x > 88.723]).all()
    middle = (x > -87.33) & (x < 88.722)
    ulp = np.spacing(exact[middle].astype(np.float32)).astype(np.float64)
    assert np.max(np.abs(got[middle] - exact[middle]) / ulp) <= 2.0
    assert (got[x == 0] == 1).all()
    edge = ~middle & (x >= -87.34) & (x <= 88.723)
    assert np.isin(got[edge], (0, np.inf)).any()
    assert (np.abs(got[edge & np.isfinite(got) & (got > 0)]) > 1e-38).all()


SPECIAL = np.float32([0, -0.0, 1, -1, 1e-45, -1e-45, 3.4e38, np.inf, -np.inf, np.nan])


def pairs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    a, b = (grid.ravel() for grid in np.meshgrid(SPECIAL, SPECIAL))
    a, b = (np.concatenate([x, rng.standard_normal(412).astype(np.float32)]) for x in (a, b))
    return a, b


def test_max_min_and_select_follow_the_comparison(probe):
    a, b = pairs()
    c = np.random.default_rng(2).standard_normal(a.size).astype(np.float32)
    for name, expected in (
        ("max", np.where(a > b, a, b)),  # b where either is NaN
        ("min", np.where(a < b, a, b)),
        ("select", np.where(a < b, b, c)),
    ):
        got = mapped(probe, name, a, b, c)
        assert np.array_equal(got.view(np.uint32), expected.view(np.uint32)), name


def test_abs_clears_the_sign_alone(probe):
    a, _ = pairs()
    assert np.array_equal(mapped(probe, "abs", a).view(np.uint32), a.view(np.uint32) & 0x7FFFFFFF)


def test_fma_rounds_once_where_the_instruction_exists(probe):
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 4096)).astype(np.float32)
    product = a * b
    rest = (a.astype(np.float64) * b.astype(np.float64) - product).astype(np.float32)
    assert rest.any()
    got = mapped(probe, "fma", a, b, -product)
    assert np.array_equal(got, np.zeros_like(rest) if probe.level == "v2" else rest)


def test_constants_and_integers(probe):
    width = probe.width()
    lanes, ints = np.zeros(width, np.float32), np.zeros(width, np.int32)
    for value in (0.0, -0.0, 1.5, np.inf, -np.inf, 1e-45):
        probe.fill(ctypes.c_float(value), pointer(lanes))
        assert lanes.tobytes() == np.full(width, value, np.float32).tobytes()
    probe.fill(ctypes.c_float(np.nan), pointer(lanes))
    assert np.isnan(lanes).all()
    probe.fill_zero(pointer(lanes))
    assert lanes.tobytes() == bytes(4 * width)
    for value in (0, -1, 2**31 - 1, -(2**31)):
        probe.fill_int(value, pointer(ints))
        assert ints.tolist() == [value] * width
    probe.count_from(-3, pointer(ints))
    assert ints.tolist() == list(range(-3, width - 3))
    a, b = np.random.default_rng(4).integers(-(2**31), 2**31, (2, width), dtype=np.int32)
    probe.select_ints(pointer(a), pointer(b), pointer(ints))
    assert np.array_equal(ints, np.minimum(a, b))


def folded(lanes: np.ndarray, combine) -> np.ndarray:
    """Reduce by the documented tree: lane i with lane i + half."""
    while lanes.size > 1:
        lanes = combine(*np.split(lanes, 2))
    return lanes[0]


def test_reductions_use_one_fixed_tree(probe):
    rng = np.random.default_rng(5)
    for _ in range(50):
        lanes = (rng.standard_normal(probe.width()) * 10.0 ** rng.integers(-8, 8, probe.width())).astype(np.float32)
        assert probe.sum(pointer(lanes)) == folded(lanes, np.add)
        assert probe.largest(pointer(lanes)) == lanes.max()
    lanes[0] = -np.inf
    lanes[1:] = -np.inf
    assert probe.largest(pointer(lanes)) == -np.inf
