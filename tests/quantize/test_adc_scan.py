# SPDX-License-Identifier: Apache-2.0
"""adc_scan: every backend bit for bit against a float32 sum in the stated order, and against faiss's answers."""

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels.quantize import adc_scan, adc_tables, pq_decode, pq_encode


def scan(codes, tables, k, largest=False):
    """Sums in ascending m, sorted stably with NaN last."""
    sums = np.zeros((len(tables), len(codes)), np.float32)
    for m in range(codes.shape[1]):
        sums += tables[:, m, codes[:, m].astype(np.int64)]
    order = np.argsort(-sums if largest else sums, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(sums, order, 1), order


def check(codes, tables, k, largest=False):
    value, index = adc_scan(codes, tables, k, largest)
    want_value, want_index = scan(codes, tables, k, largest)
    np.testing.assert_array_equal(index, want_index)
    np.testing.assert_array_equal(value, want_value)
    assert value.dtype == np.float32
    assert index.dtype == np.int64


# Parts in 1, 2, 3, 4 and 8 to 16 of neighbouring rows; rows around 64, 128 and none of these; codes in bytes or not.
@pytest.mark.parametrize("parts", [1, 3, 4, 8, 12, 16, 17, 32])
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 127, 128, 129, 333])
def test_bytes(backend, parts, rows, rng):
    codes = rng.integers(0, 256, (rows, parts)).astype(np.uint8)
    tables = rng.standard_normal((2, parts, 256)).astype(np.float32)
    for largest in (False, True):
        check(codes, tables, min(rows, 7), largest)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("count", [1, 2, 16, 255, 300])
def test_codes_of_every_kind(backend, count, dtype, rng):
    if count > 256 and dtype == np.uint8:
        count = 256
    codes = rng.integers(0, count, (150, 8)).astype(dtype)
    check(codes, rng.standard_normal((3, 8, count)).astype(np.float32), 11)


@pytest.mark.parametrize("k", [0, 1, 2, 100, 199, 200])
def test_ties_and_every_k(backend, k, rng):
    codes = rng.integers(0, 4, (200, 4)).astype(np.uint8)
    tables = rng.integers(-1, 2, (5, 4, 4)).astype(np.float32)
    for largest in (False, True):
        check(codes, tables, k, largest)


def test_many_more_queries_than_share_a_read(backend, rng):
    rows = 70 if backend == "simt" else 700
    check(rng.integers(0, 16, (rows, 8)).astype(np.uint8), rng.standard_normal((35, 8, 16)).astype(np.float32), 3)


def test_many_chunks(backend, rng):
    """Several chunks of rows, with equal sums in different ones."""
    rows = 17000 if backend == "simt" else 100_000
    codes = rng.integers(0, 8, (rows, 4)).astype(np.uint8)
    tables = rng.integers(0, 3, (1, 4, 8)).astype(np.float32)
    check(codes, tables, 20)
    check(codes[:, :3], tables[:, :3] * 0.37, 20, largest=True)


def test_more_than_fits_the_lists_of_a_block(backend, rng):
    rows = 4500
    check(rng.integers(0, 256, (rows, 2)).astype(np.uint8), rng.standard_normal((1, 2, 256)).astype(np.float32), 4200)


@pytest.mark.parametrize("parts", [3, 8])
def test_nan_comes_last_and_never_wins(backend, parts, rng):
    codes = rng.integers(0, 5, (140, parts)).astype(np.uint8)
    tables = rng.standard_normal((2, parts, 5)).astype(np.float32)
    tables[0, 1, 2] = np.nan
    tables[1, :, 0] = [np.inf, -np.inf, 1.0, *[0.5] * (parts - 3)]
    with np.errstate(invalid="ignore"):
        for k in (5, 140):
            for largest in (False, True):
                check(codes, tables, k, largest)
        tables[0] = np.nan
        np.testing.assert_array_equal(adc_scan(codes, tables, 140).index[0], np.arange(140))


def test_zeros_of_either_sign_are_equal(backend):
    tables = np.array([[[-0.0, 0.0, 1.0]]], np.float32)
    for largest, order in ((False, [0, 1, 2]), (True, [2, 0, 1])):
        got = adc_scan(np.array([[0], [1], [2]], np.uint8), tables, 3, largest)
        np.testing.assert_array_equal(got.index, [order])


def test_strided_codes_are_read_in_place(backend, rng):
    wide = rng.integers(0, 256, (300, 40)).astype(np.uint8)
    for parts in (4, 8, 16, 24):
        tables = rng.standard_normal((1, parts, 256)).astype(np.float32)
        check(wide[::2, 5 : 5 + parts], tables, 4)
        check(wide[150:, :parts], tables, 4)


def test_official_answers(backend, golden):
    with np.load(golden / "quantizers" / "faiss_pq.npz") as g:
        got = adc_scan(g["codes"], adc_tables(g["queries"], g["centroids"]), g["adc_ids"].shape[1])
        np.testing.assert_array_equal(got.index, g["adc_ids"])
        np.testing.assert_allclose(got.value, g["adc_dist"], rtol=1e-5, atol=1e-5)


def test_distance_is_that_to_the_decoded_vector(backend, rng):
    x, centroids, queries = (rng.standard_normal(s).astype(np.float32) for s in ((90, 24), (8, 32, 3), (4, 24)))
    codes = pq_encode(x, centroids)
    decoded = pq_decode(codes, centroids)
    value, index = adc_scan(codes, adc_tables(queries, centroids), 90)
    exact = ((queries[:, None].astype(np.float64) - decoded) ** 2).sum(-1)
    np.testing.assert_allclose(value, np.take_along_axis(exact, index, 1), rtol=1e-5)
    value, index = adc_scan(codes, adc_tables(queries, centroids, "dot"), 90, largest=True)
    np.testing.assert_allclose(value, np.take_along_axis(queries @ decoded.T, index, 1), atol=1e-5)


def test_nothing_to_do(backend):
    tables = np.zeros((2, 3, 4), np.float32)
    assert adc_scan(np.zeros((0, 3), np.uint8), tables, 0).index.shape == (2, 0)
    assert adc_scan(np.zeros((5, 3), np.uint8), tables[:0], 2).value.shape == (0, 2)
    got = adc_scan(np.zeros((3, 0), np.uint8), np.zeros((1, 0, 4), np.float32), 2)  # sums of nothing
    np.testing.assert_array_equal(got.index, [[0, 1]])
    np.testing.assert_array_equal(got.value, [[0, 0]])


def test_bad_input(backend):
    tables = np.zeros((1, 2, 4), np.float32)
    codes = np.zeros((3, 2), np.uint8)
    with pytest.raises(ValueError, match=r"^adc_scan: k must be at most 3 \(the rows of codes\), got 4$"):
        adc_scan(codes, tables, 4)
    for dtype, bad in ((np.uint8, 4), (np.int32, -1), (np.int64, 2**40)):
        value, index = np.full((1, 2), 7, np.float32), np.full((1, 2), 7)
        spoiled = np.array([[0, 1], [0, bad], [3, 3]], dtype)
        with pytest.raises(ValueError, match=rf"^adc_scan: codes must be in \[0, 4\), got {bad} in row 1, part 1$"):
            adc_scan(spoiled, tables, 2, out=(value, index))
        assert (value == 7).all()
        assert (index == 7).all()
    with pytest.raises(ValueError, match=r"^adc_scan: codes must be in \[0, 0\), got 0 in row 0, part 0$"):
        adc_scan(codes, tables[:, :, :0], 1)


def test_threads_do_not_matter(rng):
    codes = rng.integers(0, 3, (150_000, 8)).astype(np.uint8)
    tables = rng.integers(0, 2, (3, 8, 3)).astype(np.float32)
    one, two = on_one_and_two_threads(lambda: adc_scan(codes, tables, 50))
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_equals_faiss(rng):
    faiss = pytest.importorskip("faiss")
    x, queries = (rng.standard_normal(s).astype(np.float32) for s in ((600, 16), (4, 16)))
    index = faiss.IndexPQ(16, 8, 4)
    index.train(x)
    index.add(x)
    centroids = faiss.vector_to_array(index.pq.centroids).reshape(8, 16, 2)
    want_value, want_index = index.search(queries, 5)
    got = adc_scan(pq_encode(x, centroids), adc_tables(queries, centroids), 5)
    np.testing.assert_allclose(got.value, want_value, rtol=1e-5)
    assert (got.index == want_index).mean() >= 0.9  # equal distances may be in another order there
