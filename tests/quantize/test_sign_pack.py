# SPDX-License-Identifier: Apache-2.0
"""Sign bits: sign_pack and sign_unpack on every backend against Python's integers and official vectors."""

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels import quantize

ORDERS = ["lsb", "msb"]
WIDTHS = [(5, 1, 6), (63, 1), (8, 8, 10, 6), (1,) * 11 + (2,)]


def numbers(bits, order):
    """(..., width) of 0 and 1 as integers without a limit."""
    weights = np.array([2**j for j in range(bits.shape[-1])], object)
    return (bits.astype(object) * (weights if order == "lsb" else weights[::-1])).sum(-1).astype(np.int64)


@pytest.mark.parametrize(
    ("folder", "name", "bits"),
    [("quantizers", "lfq_d6_c1", 6), ("quantizers", "lfq_d5_c3", 5), ("quantizers", "bsq_d6_c1", 6)],
)
def test_official_lookup_free_codes(backend, golden, folder, name, bits):
    g = np.load(golden / folder / f"{name}.npz")
    ids = quantize.sign_pack(g["x"], bits, "msb")
    assert tokernel.last_backend() == backend
    np.testing.assert_array_equal(ids.reshape(g["indices"].shape), g["indices"])
    scale = np.abs(g["decoded"]).max()
    np.testing.assert_allclose(quantize.sign_unpack(ids, bits, "msb", scale), g["decoded"], atol=1e-6)


def test_official_binary_spherical_codes(backend, golden):
    g = np.load(golden / "quantizers" / "bsq_official_group.npz")
    np.testing.assert_array_equal(quantize.sign_pack(g["z"], 4, "msb"), g["group_indices"])
    np.testing.assert_array_equal(quantize.sign_pack(g["z"], 12, "msb")[..., 0], g["indices"])


@pytest.mark.parametrize("name", ["gq_factorized_8x4", "gq_factorized_uneven"])
def test_official_groups(backend, golden, name):
    g = np.load(golden / "wetok" / f"{name}.npz")
    bits = g["factorized_bits"].tolist()
    batch, channels = g["x"].shape[:2]
    x = g["x"].reshape(batch, channels, -1).transpose(0, 2, 1)
    ids = quantize.sign_pack(x, bits)
    np.testing.assert_array_equal(ids, g["indices"])
    decoded = quantize.sign_unpack(ids, bits).transpose(0, 2, 1).reshape(g["x"].shape)
    np.testing.assert_array_equal(decoded, g["decoded"])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bits", range(1, 64))
def test_lossless_for_every_width(backend, bits, order, rng):
    for rows, groups in ((1, 1), (3, 3)) if backend == "simt" else ((1, 1), (3, 3), (9, 8), (2, 600)):
        x = rng.standard_normal((rows, bits * groups)).astype(np.float32)
        ids = quantize.sign_pack(x, bits, order)
        assert ids.dtype == np.int64
        np.testing.assert_array_equal(ids, numbers((x > 0).reshape(rows, groups, bits), order))
        back = quantize.sign_unpack(ids, bits, order)
        np.testing.assert_array_equal(back, np.where(x > 0, 1, -1).astype(np.float32))
        np.testing.assert_array_equal(quantize.sign_pack(back, bits, order), ids)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_groups_of_any_widths(backend, widths, order, rng):
    x = rng.standard_normal((5, sum(widths))).astype(np.float32)
    ids = quantize.sign_pack(x, widths, order)
    at = np.cumsum((0, *widths))
    for g, width in enumerate(widths):
        np.testing.assert_array_equal(ids[:, g], numbers(x[:, at[g] : at[g] + width] > 0, order))
    np.testing.assert_array_equal(quantize.sign_unpack(ids, widths, order), np.where(x > 0, 1, -1))


def test_four_groups_of_eight_and_one_integer_agree(backend, rng):
    """The same 32 bits, cut in any way."""
    x = rng.standard_normal((7, 32)).astype(np.float32)
    eights, whole = quantize.sign_pack(x, (8, 8, 8, 8)), quantize.sign_pack(x, 32)[:, 0]
    np.testing.assert_array_equal((eights << (8 * np.arange(4))).sum(-1), whole)
    np.testing.assert_array_equal(quantize.sign_pack(x, 8), eights)
    uneven = quantize.sign_pack(x, (20, 12))
    np.testing.assert_array_equal(uneven[:, 0] | uneven[:, 1] << 20, whole)
    high = quantize.sign_pack(x, (8, 8, 8, 8), "msb")
    np.testing.assert_array_equal((high << (8 * np.arange(4)[::-1])).sum(-1), quantize.sign_pack(x, 32, "msb")[:, 0])


def test_wide_ids_are_exact(backend):
    """Floats would lose the low bits from 24 on."""
    x = np.ones((1, 63), np.float32)
    assert quantize.sign_pack(x, 63)[0, 0] == 2**63 - 1
    x[0, 0] = -1
    assert quantize.sign_pack(x, 63)[0, 0] == 2**63 - 2
    assert quantize.sign_pack(x, 63, "msb")[0, 0] == 2**62 - 1


def test_zero_and_nan_are_no_ones(backend):
    x = np.array([[0.0, -0.0, np.nan, 1e-45, -1e-45, np.inf, -np.inf, 1.0]] * 17, np.float32)
    assert (quantize.sign_pack(x, 8) == 0b10101000).all()
    assert (quantize.sign_pack(x.astype(np.float16), 8) == 0b10100000).all()


def test_half_precision_and_scale(backend, rng):
    x = rng.standard_normal((9, 40)).astype(np.float16)
    ids = quantize.sign_pack(x, 10)
    np.testing.assert_array_equal(ids, quantize.sign_pack(x.astype(np.float32), 10))
    back = quantize.sign_unpack(ids.astype(np.int32), 10, scale=0.3, dtype=np.float16)
    assert back.dtype == np.float16
    np.testing.assert_array_equal(back, np.where(x > 0, np.float16(0.3), np.float16(-0.3)))


def test_bfloat16(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    x = torch.from_numpy(rng.standard_normal((9, 40))).bfloat16()
    ids = quantize.sign_pack(x, 8, "msb")
    assert torch.equal(ids, quantize.sign_pack(x.float(), 8, "msb"))
    back = quantize.sign_unpack(ids, 8, "msb", 0.3, torch.bfloat16)
    assert torch.equal(back, torch.where(x > 0, 0.3, -0.3).bfloat16())


def test_shapes_strides_and_out(backend, rng):
    x = rng.standard_normal((2, 3, 4, 12)).astype(np.float32)
    want = quantize.sign_pack(x, 4)
    assert want.shape == (2, 3, 4, 3)
    np.testing.assert_array_equal(quantize.sign_pack(x[0, :, ::2], 4), want[0, :, ::2])
    np.testing.assert_array_equal(quantize.sign_pack(x[0, 0, 0], 4), want[0, 0, 0])
    channel_first = np.ascontiguousarray(x[0].transpose(2, 0, 1))
    np.testing.assert_array_equal(quantize.sign_pack(channel_first.transpose(1, 2, 0), 4), want[0])
    out = np.empty((3, 4, 3), np.int64)
    assert quantize.sign_pack(x[0], 4, out=out) is out
    np.testing.assert_array_equal(out, want[0])
    floats = np.empty((3, 4, 12), np.float32)
    assert quantize.sign_unpack(out, 4, out=floats) is floats


@pytest.mark.parametrize("shape", [(0, 6), (2, 0, 6), (3, 0)], ids=str)
def test_empty(backend, shape):
    ids = quantize.sign_pack(np.zeros(shape, np.float32), 3)
    assert ids.shape == (*shape[:-1], shape[-1] // 3)
    assert quantize.sign_unpack(ids, 3).shape == shape


def test_bits_do_not_depend_on_threads(backend, rng):
    x = rng.standard_normal((60 if backend == "simt" else 30_001, 18)).astype(np.float32)
    for bits in (18, 6, (7, 11)):
        one, two = on_one_and_two_threads(lambda bits=bits: quantize.sign_pack(x, bits, "msb"))
        assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize(
    ("bits", "error", "expected"),
    [
        (0, ValueError, r"bits must be an integer of at least 1, got 0"),
        (64, ValueError, r"bits must be at most 63, got 64"),
        ((64, 6), ValueError, r"bits must be integers of at most 63, got 64"),
        ((4, 0, 2), ValueError, r"bits must be an integer of at least 1, got 0"),
        ((), ValueError, r"bits must be 1 to 128 integers, got 0 of them"),
        ((3, 2), ValueError, r"bits must be widths that add up to 6, got 5"),
        (4, ValueError, r"x must be rows of a multiple of 4 channels, got 6"),
        (2.0, TypeError, r"bits must be a sequence of integers, got float"),
        ("3", TypeError, r"bits must be a sequence of integers, got str"),
    ],
)
def test_bad_bits(bits, error, expected):
    with pytest.raises(error, match=rf"^sign_pack: {expected}$"):
        quantize.sign_pack(np.zeros((2, 6), np.float32), bits)


@pytest.mark.parametrize("bad", [-1, 8, 2**62])
def test_ids_out_of_range(bad):
    with pytest.raises(ValueError, match=rf"^sign_unpack: ids must be in \[0, 2\^3\), got {bad} at flat position 1$"):
        quantize.sign_unpack(np.array([[7, bad]]), 3)
    with pytest.raises(ValueError, match=rf"^sign_unpack: ids must be in \[0, 2\^3\), got {bad} at flat position 2$"):
        quantize.sign_unpack(np.array([[7, 1], [bad, 1]]), (3, 1))


def test_other_bad_input():
    with pytest.raises(ValueError, match=r"^sign_pack: order must be 'lsb' or 'msb', got 'big'$"):
        quantize.sign_pack(np.zeros((2, 6), np.float32), 3, "big")
    with pytest.raises(ValueError, match=r"^sign_unpack: dtype must be float32, float16 or bfloat16, got float64$"):
        quantize.sign_unpack(np.zeros((2, 6), np.int64), 3, dtype=np.float64)
    with pytest.raises(ValueError, match=r"^sign_unpack: ids must be .*G = 3.*, got \(2, 2\) int64$"):
        quantize.sign_unpack(np.zeros((2, 2), np.int64), (1, 2, 3))
