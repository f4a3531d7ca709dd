# SPDX-License-Identifier: Apache-2.0
"""rvq_encode: official codes, an oracle in NumPy, the laws of residual stacks, and what may go wrong."""

import numpy as np
import pytest

import tokernel
from bits import on_one_and_two_threads
from tokernel.kernels import quantize

SIZES = [(1, 1, 1, 1), (2, 2, 2, 3), (5, 3, 17, 8), (13, 2, 33, 16), (49, 2, 31, 17), (65, 2, 40, 33)]
BIG = [(70, 3, 300, 5), (130, 2, 257, 16), (97, 3, 130, 40)]  # short codes by rows in lanes, and pairs of bfloat16


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def oracle(x, codes, n_q=None, metric="l2"):
    """The same decisions from distances in float64; residuals in float32, as the contract says."""
    residual = x.astype(np.float32)
    rows = np.arange(len(x))
    index = np.full((len(x), len(codes)), -1)
    quantized = np.zeros(x.shape, np.float32)
    error = np.zeros(index.shape, np.float32)
    counts = np.full(len(x), len(codes) if n_q is None else n_q)
    for layer, book in enumerate(codes.astype(np.float32)):
        r, c = residual.astype(np.float64), book.astype(np.float64)
        if metric == "l2":
            best = ((r[:, None] - c) ** 2).sum(-1).argmin(1)
        else:
            norms = np.linalg.norm(r, axis=1)[:, None] * np.linalg.norm(c, axis=1)
            best = np.divide(r @ c.T, norms, out=np.zeros_like(norms), where=norms > 0).argmax(1)
        on = counts > layer
        index[on, layer] = best[on]
        quantized[on] += book[best[on]]
        residual[on] -= book[best[on]]
        error[on, layer] = (residual[on].astype(np.float64) ** 2).sum(1)
    assert rows.size == len(x)
    return index, quantized, error


def agrees(found, expected, width):
    index, quantized, error = expected
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_array_equal(found.quantized, quantized)
    np.testing.assert_allclose(found.error, error, rtol=(width + 2) * 2**-23, atol=1e-30)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("size", SIZES)
def test_oracle(backend, rng, size, metric):
    rows, layers, count, width = size
    x, codes = normal(rng, rows, width), normal(rng, layers, count, width)
    agrees(quantize.rvq_encode(x, codes, metric=metric), oracle(x, codes, metric=metric), width)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("size", BIG)
def test_oracle_of_many_codes(backend, rng, size, metric):
    rows, layers, count, width = size
    rows = rows if backend != "simt" else 3
    x, codes = normal(rng, rows, width), normal(rng, layers, count, width)
    n_q = rng.integers(0, layers + 1, rows)
    agrees(quantize.rvq_encode(x, codes, n_q, metric), oracle(x, codes, n_q, metric), width)


def test_many_books_are_packed_in_turns(rng):
    """More codes than are packed at once: residuals wait between the turns."""
    x, codes = normal(rng, 60, 256), normal(rng, 9, 4096, 256)
    with tokernel.use_backend("ref"):
        few = quantize.rvq_encode(x[:3], codes)
    found = quantize.rvq_encode(x, codes)
    np.testing.assert_array_equal(found.index[:3], few.index)
    np.testing.assert_array_equal(found.quantized[:3], few.quantized)
    np.testing.assert_array_equal(quantize.rvq_decode(found.index, codes), found.quantized)


def test_official_rvq(backend, golden):
    d = np.load(golden / "quantizers" / "rvq_q4.npz")
    found = quantize.rvq_encode(d["x"].reshape(-1, 5), d["codebooks"])
    np.testing.assert_array_equal(found.index, d["indices"].reshape(-1, 4))
    np.testing.assert_allclose(found.quantized, d["quantized"].reshape(-1, 5), rtol=1e-5, atol=1e-5)


def test_official_grouped_rvq(backend, golden):
    d = np.load(golden / "quantizers" / "grouped_rvq_g2_q3.npz")
    groups = d["x"].reshape(10, 2, 3).transpose(1, 0, 2)
    assert not groups.flags.c_contiguous
    found = quantize.rvq_encode(groups, d["codebooks"])
    np.testing.assert_array_equal(found.index, d["indices"].reshape(2, 10, 3))
    joined = found.quantized.transpose(1, 0, 2).reshape(d["quantized"].shape)
    np.testing.assert_allclose(joined, d["quantized"], rtol=1e-5, atol=1e-5)


def test_official_encodec(backend, golden):
    d = np.load(golden / "audio_tokens" / "encodec_rvq.npz")
    batch, width, steps = d["x"].shape
    rows = d["x"].transpose(0, 2, 1).reshape(-1, width)
    for n_q, decoded in ((None, d["decoded"]), (int(d["n_q"]), d["decoded_n_q"])):
        found = quantize.rvq_encode(rows, d["codebooks"], n_q)
        np.testing.assert_array_equal(found.index[:, :n_q], d["codes"].reshape(4, -1).T[:, :n_q])
        expected = decoded.transpose(0, 2, 1).reshape(batch * steps, width)
        np.testing.assert_allclose(found.quantized, expected, rtol=1e-5, atol=1e-5)
        decoded_again = quantize.rvq_decode(found.index, d["codebooks"])
        np.testing.assert_array_equal(decoded_again, found.quantized)


# ---- laws -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_one_layer_is_nearest(backend, rng, metric):
    x, codes = normal(rng, 21, 12), normal(rng, 30, 12)
    found = quantize.rvq_encode(x, codes[None], metric=metric)
    np.testing.assert_array_equal(found.index[:, 0], quantize.nearest(x, codes, metric).index)


def test_one_group_is_rvq(backend, rng):
    x, codes = normal(rng, 11, 6), normal(rng, 3, 9, 6)
    one, grouped = quantize.rvq_encode(x, codes), quantize.rvq_encode(x[None], codes[None])
    for alone, group in zip(one, grouped, strict=True):
        np.testing.assert_array_equal(alone, group[0])


def test_groups_do_not_see_each_other(backend, rng):
    x, codes = normal(rng, 3, 7, 4), normal(rng, 3, 2, 5, 4)
    together = quantize.rvq_encode(x, codes, rng.integers(0, 3, (3, 7)) * 0 + 2)
    for g in range(3):
        for alone, group in zip(quantize.rvq_encode(x[g], codes[g]), together, strict=True):
            np.testing.assert_array_equal(alone, group[g])


def test_errors_fall_where_zero_is_a_code(backend, rng):
    x, codes = normal(rng, 15, 6), normal(rng, 5, 8, 6)
    codes[:, 3] = 0
    error = quantize.rvq_encode(x, codes).error
    assert (np.diff(error, axis=1) <= 0).all()
    assert (error[:, 0] <= (x**2).sum(1) * (1 + 1e-6)).all()


def test_the_sum_of_codes_is_quantized_exactly(backend, rng):
    x, codes = normal(rng, 15, 6), normal(rng, 4, 8, 6)
    found = quantize.rvq_encode(x, codes, rng.integers(0, 5, 15))
    np.testing.assert_array_equal(quantize.rvq_decode(found.index, codes), found.quantized)


def test_a_code_is_quantized_to_itself(backend, rng):
    codes = normal(rng, 2, 7, 5)
    codes[1, 2] = 0  # nothing is left over, and nothing is added
    found = quantize.rvq_encode(codes[0], codes)
    np.testing.assert_array_equal(found.index, np.stack([np.arange(7), np.full(7, 2)], 1))
    np.testing.assert_array_equal(found.quantized, codes[0])
    assert (found.error == 0).all()


def test_fewer_layers_are_a_prefix(backend, rng):
    x, codes = normal(rng, 9, 6), normal(rng, 4, 8, 6)
    whole = quantize.rvq_encode(x, codes)
    for n_q in range(5):
        part = quantize.rvq_encode(x, codes, n_q)
        np.testing.assert_array_equal(part.index[:, :n_q], whole.index[:, :n_q])
        assert (part.index[:, n_q:] == -1).all()
        assert (part.error[:, n_q:] == 0).all()
        np.testing.assert_array_equal(part.quantized, quantize.rvq_decode(whole.index, codes, n_q))


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_layers_of_each_row(backend, rng, dtype):
    x, codes = normal(rng, 2, 57, 6), normal(rng, 2, 4, 8, 6)
    counts = rng.integers(0, 5, (2, 57)).astype(dtype)
    found = quantize.rvq_encode(x, codes, counts)
    shared = quantize.rvq_encode(x, codes, counts[0])
    for g in range(2):
        agrees(quantize.Residual(*(part[g] for part in found)), oracle(x[g], codes[g], counts[g]), 6)
        agrees(quantize.Residual(*(part[g] for part in shared)), oracle(x[g], codes[g], counts[0]), 6)


# ---- what may go wrong ----------------------------------------------------------------------------------------------
def test_ties_go_to_the_lowest_index(backend):
    codes = np.ones((2, 40, 3), np.float32)
    assert (quantize.rvq_encode(np.zeros((5, 3), np.float32), codes).index == 0).all()


def test_rows_that_are_not_finite(backend, rng):
    x, codes = normal(rng, 6, 4), normal(rng, 2, 40, 4)
    clean = quantize.rvq_encode(x, codes)
    spoiled = x.copy()
    spoiled[1, 2], spoiled[3, 0], spoiled[4] = np.nan, np.inf, 1e25
    found = quantize.rvq_encode(spoiled, codes)
    bad = [1, 3, 4]
    assert (found.index[bad] == 0).all()
    assert np.isnan(found.error[bad]).all()
    for ours, theirs in zip(found, clean, strict=True):
        np.testing.assert_array_equal(np.delete(ours, bad, 0), np.delete(theirs, bad, 0))


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_codes_that_are_not_finite_are_never_chosen(backend, rng, metric):
    x, codes = normal(rng, 9, 4), normal(rng, 1, 40, 4)
    codes[0, [0, 7, 39]] = np.array([np.nan, np.inf, -np.inf])[:, None]
    found = quantize.rvq_encode(x, codes, metric=metric).index[:, 0]
    kept = np.delete(np.arange(40), [0, 7, 39])
    np.testing.assert_array_equal(found, kept[oracle(x, codes[:, kept], metric=metric)[0][:, 0]])
    none = quantize.rvq_encode(x, np.full((1, 5, 4), np.nan, np.float32), metric=metric)
    assert (none.index == 0).all()
    assert np.isnan(none.error).all()


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (3, 0, 5, 4), (3, 2, 5, 0), (3, 2, 1, 4)])
def test_empty_and_single(backend, rng, shape):
    rows, layers, count, width = shape
    found = quantize.rvq_encode(normal(rng, rows, width), normal(rng, layers, count, width))
    assert found.index.shape == found.error.shape == (rows, layers)
    assert found.quantized.shape == (rows, width)
    assert (found.index == 0).all()
    if layers == 0:
        assert (found.quantized == 0).all()


def test_half_precision(backend, rng):
    x, codes = (normal(rng, *shape).astype(np.float16) for shape in ((19, 20), (2, 33, 20)))
    agrees(quantize.rvq_encode(x, codes), oracle(x, codes), 20)
    torch = pytest.importorskip("torch", reason="bfloat16 is torch's")
    x, codes = (torch.from_numpy(a.astype(np.float32)).bfloat16() for a in (x, codes))
    found = quantize.rvq_encode(x, codes)
    expected = oracle(x.float().numpy(), codes.float().numpy())
    agrees(quantize.Residual(*(part.numpy() for part in found)), expected, 20)


def test_strided_and_given_arrays(backend, rng):
    wide, books = normal(rng, 9, 24), normal(rng, 4, 10, 12)
    x, codes = wide[::2, 3:9], books[::2, 1::3, 2:8]
    out = (np.empty((5, 2), np.int64), np.empty((5, 6), np.float32), np.empty((5, 2), np.float32))
    found = quantize.rvq_encode(x, codes, out=out)
    assert all(a is b for a, b in zip(found, out, strict=True))
    agrees(found, oracle(x.copy(), codes.copy()), 6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"codes": np.ones((2, 0, 4), np.float32)}, "codes must be at least 1 and below 2\\^31 codes a book, got 0"),
        ({"codes": np.ones((2, 3, 5), np.float32)}, r"codes must be .*D = 4"),
        ({"n_q": 3}, r"n_q must be in \[0, 2\], got 3"),
        ({"n_q": np.array([0, 3, 1])}, r"n_q must be in \[0, 3\), got 3"),
        ({"n_q": np.array([0, -1, 1])}, r"n_q must be in \[0, 3\), got -1"),
        ({"n_q": np.array([1, 1])}, r"n_q must be \(N,\) with N = 3"),
        ({"metric": "dot"}, "metric must be 'l2' or 'cosine', got 'dot'"),
    ],
)
def test_bad_input(given, message):
    call = {"x": np.ones((3, 4), np.float32), "codes": np.ones((2, 3, 4), np.float32), **given}
    with pytest.raises(ValueError, match=f"^rvq_encode: {message}"):
        quantize.rvq_encode(**call)


@pytest.mark.parametrize("size", [(300, 4, 140, 32), (300, 3, 300, 8), (3100, 2, 130, 16), (3100, 2, 9, 5)])
def test_any_number_of_threads(rng, size):
    rows, layers, count, width = size
    x, codes, n_q = normal(rng, rows, width), normal(rng, layers, count, width), rng.integers(0, layers + 1, rows)
    one, two = on_one_and_two_threads(lambda: quantize.rvq_encode(x, codes, n_q))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    alone = quantize.rvq_encode(x[:1], codes, n_q[:1])
    for a, b in zip(one, alone, strict=True):
        np.testing.assert_array_equal(a[:1], b)
