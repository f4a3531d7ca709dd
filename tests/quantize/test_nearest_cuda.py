# SPDX-License-Identifier: Apache-2.0
"""nearest, nearest_topk and nearest_rank as CUDA kernels, on the host executor and on a GPU: where tiles,
lists and ranges of codes meet. All data are small integers, so every answer is that of the reference, ties and all."""

import numpy as np
import pytest

import tokernel
from tokernel.kernels.quantize import nearest, nearest_rank, nearest_topk

pytestmark = pytest.mark.usefixtures("device_backend")

METRICS = ["l2", "cosine", "dot"]
DTYPES = ["float32", "float16"]


def vectors(rng, *shape):
    """Small integers whose norms are powers of two."""
    width = shape[-1]
    counts = rng.choice([c for c in (0, 1, 4, 16) if c <= width], shape[:-1])
    signs = rng.choice(np.array([-1, 1], np.float32), shape)
    return rng.permuted(np.where(np.arange(width) < counts[..., None], signs, 0), axis=-1).astype(np.float32)


def both(call):
    with tokernel.use_backend("ref"):
        expected = call()
    return zip(expected, call(), strict=True)


def check(call):
    for expected, got in both(call):
        if expected is None:
            assert got is None
        else:
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 33])
def test_widths(rng, width, dtype, metric):
    x, codes = (vectors(rng, n, width) if width else np.zeros((n, 0), np.float32) for n in (5, 70))
    x, codes = x.astype(dtype), codes.astype(dtype)
    check(lambda: nearest(x, codes, metric, second=True))
    check(lambda: nearest(x, codes, metric))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codes_count", [1, 2, 63, 64, 65, 128, 129])
def test_edges_of_tiles(rng, codes_count, dtype):
    for rows in (1, 63, 65):
        x, codes = vectors(rng, rows, 20).astype(dtype), vectors(rng, codes_count, 20).astype(dtype)
        check(lambda x=x, codes=codes: nearest(x, codes, second=True))


@pytest.mark.parametrize("width", [3, 24])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_codes_of_other_ranges_tie_to_the_lowest(rng, dtype, width):
    """Few rows: each tile of 64 codes is a range of its own."""
    codes = np.tile(vectors(rng, 65, width), (4, 1)).astype(dtype)
    x = codes[rng.permutation(260)[:6]]
    check(lambda: nearest(x, codes, second=True))
    check(lambda: nearest_topk(x, codes, 7))
    check(lambda: nearest_rank(x, codes, np.array([0, 1, 2, 3, 200, 259])))
    index, _, second, _ = nearest(codes[:65], np.tile(np.ones((1, width), dtype), (200, 1)), second=True)
    assert (index == 0).all()
    assert (second == 1).all()


def test_more_codes_than_a_narrow_block_stages(rng):
    """Enough rows that no codes are cut into ranges, and a second stage of them."""
    codes = np.concatenate([np.full((515, 2), 9), vectors(rng, 60, 2)]).astype(np.float32)
    x = np.broadcast_to(vectors(rng, 1, 3, 2), (96, 3, 2))
    check(lambda: nearest(x, codes))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_books(rng, dtype, metric):
    x, codes = vectors(rng, 3, 5, 18).astype(dtype), vectors(rng, 3, 70, 18).astype(dtype)
    for rows, books in ((x, codes), (x[0], codes), (x, codes[0])):
        check(lambda rows=rows, books=books: nearest(rows, books, metric, second=True))
        check(lambda rows=rows, books=books: nearest_topk(rows, books, 3, metric))
        rank = rng.integers(0, 70, (3, 5))
        check(lambda rows=rows, books=books, rank=rank: nearest_rank(rows, books, rank, metric))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [4, 20])
def test_lists_longer_than_a_warp(rng, dtype, metric, width):
    x, codes = vectors(rng, 3, width).astype(dtype), vectors(rng, 70, width).astype(dtype)
    for k in (1, 31, 32, 33, 70):
        check(lambda k=k: nearest_topk(x, codes, k, metric))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [4, 20])
def test_all_ranks(rng, dtype, metric, width):
    codes = vectors(rng, 67, width).astype(dtype)
    x = np.repeat(vectors(rng, 1, width), 67, 0).astype(dtype)
    rank = np.arange(67)
    check(lambda: nearest_rank(x, codes, rank, metric))
    index, best = nearest_rank(x, codes, rank, metric)
    top = nearest_topk(x[:1], codes, 67, metric)
    np.testing.assert_array_equal(index, top.index[0])
    np.testing.assert_array_equal(best, top.best[0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [4, 20])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite(rng, bad, width, dtype, metric):
    x, codes = vectors(rng, 4, width), vectors(rng, 40, width)
    x[1, 2] = bad
    codes[rng.permutation(40)[:37], 1] = bad
    x, codes = x.astype(dtype), codes.astype(dtype)
    check(lambda: nearest(x, codes, metric, second=True))
    check(lambda: nearest(x, codes[:1], metric, second=True))
    check(lambda: nearest_topk(x, codes, 35, metric))
    check(lambda: nearest_rank(x, codes, np.array([0, 0, 2, 3]), metric))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [4, 7, 16, 20])
def test_the_first_of_a_list_is_what_nearest_finds(rng, dtype, metric, width):
    """Bit for bit, on data that round."""
    x, codes = rng.standard_normal((4, width)).astype(dtype), rng.standard_normal((70, width)).astype(dtype)
    index, best, second, second_best = nearest(x, codes, metric, second=True)
    top = nearest_topk(x, codes, 2, metric)
    ranked = nearest_rank(x, codes, np.array([0, 1, 0, 1]), metric)
    np.testing.assert_array_equal(top.index, np.stack([index, second], 1))
    np.testing.assert_array_equal(top.best, np.stack([best, second_best], 1))
    np.testing.assert_array_equal(ranked[0], top.index[np.arange(4), [0, 1, 0, 1]])
    np.testing.assert_array_equal(ranked[1], top.best[np.arange(4), [0, 1, 0, 1]])
