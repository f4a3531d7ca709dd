# SPDX-License-Identifier: Apache-2.0
"""update and its two halves: every backend against float64, and exactly where the arithmetic is exact."""

import numpy as np
import pytest
from cluster_cases import DTYPES, METRICS, as_dtype, exact_vectors, to_float64

import tokernel
from tokernel.kernels.cluster import cluster_means, cluster_sums, update

SIZES = [(1, 1, 1, 1), (2, 5, 3, 15), (1, 33, 4, 16), (2, 40, 50, 17), (1, 70, 5, 65)]
SIMT_SIZES = [(1, 2100, 3, 4)]  # clusters of more than one block
NATIVE_SIZES = [(1, 2600, 7, 64), (3, 1025, 2, 130), (1, 513, 600, 20)]
EPSILON = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def sizes_for(backend):
    return SIZES + (SIMT_SIZES if backend == "simt" else NATIVE_SIZES)


def case(rng, batch, rows, clusters, width, dtype):
    x, x64 = as_dtype(rng.standard_normal((batch, rows, width)), dtype)
    old, old64 = as_dtype(rng.standard_normal((batch, clusters, width)), dtype)
    # Some clusters are large, and the last one is empty if there are several.
    labels = (clusters * rng.random((batch, rows)) ** 3).astype(np.int64) % max(1, clusters - 1)
    return x, labels, old, x64, old64


def sums_of(x, labels, clusters, metric):
    if metric == "cosine":
        norms = np.linalg.norm(x, axis=-1, keepdims=True)
        x = np.divide(x, norms, out=np.zeros_like(x), where=norms != 0)
    member = labels[:, None] == np.arange(clusters)[:, None]
    return member.astype(float) @ x, np.abs(member.astype(float) @ np.abs(x)), member.sum(-1)


def oracle(x, labels, old, metric):
    sums, sizes, counts = sums_of(x, labels, old.shape[1], metric)
    divisor = np.linalg.norm(sums, axis=-1) if metric == "cosine" else counts
    keeps = (counts == 0) | (divisor == 0)
    divisor = np.where(keeps, 1, divisor)[..., None]
    return np.where(keeps[..., None], old, sums / divisor), sizes / divisor, counts


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_float64(backend, rng, dtype, metric):
    for size in sizes_for(backend):
        x, labels, old, x64, old64 = case(rng, *size, dtype)
        centroids, counts, shift = update(x, labels, old, metric)
        expected, magnitude, members = oracle(x64, labels, old64, metric)
        np.testing.assert_array_equal(np.asarray(counts), members)
        # Blocks of at most 2048 rows, then their sums; a norm, a root and a division; one rounding to the dtype.
        chain = (min(size[1], 2048) + size[1] / 512 + size[3] + 8) * 2.0**-24
        allowed = chain * magnitude + EPSILON[dtype] * np.abs(expected) + 1e-7 * (dtype == "float16")
        error = np.abs(to_float64(centroids) - expected)
        np.testing.assert_array_less(error, 2 * allowed + 1e-30)
        moved = np.linalg.norm(to_float64(centroids) - old64, axis=-1).max(-1)
        np.testing.assert_allclose(np.asarray(shift), moved, rtol=(size[3] + 4) * 2.0**-24)
        assert np.asarray(shift).dtype == np.float32


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_on_exact_data(backend, rng, dtype):
    for batch, rows, clusters, width in sizes_for(backend):
        x, _ = as_dtype(exact_vectors(rng, batch, rows, width), dtype)
        labels = rng.integers(0, clusters, (batch, rows))
        sums, counts = cluster_sums(x, labels.astype(np.int32), clusters)
        expected, _, members = sums_of(to_float64(x), labels, clusters, "l2")
        np.testing.assert_array_equal(np.asarray(sums), expected)
        np.testing.assert_array_equal(np.asarray(counts), members)
        assert np.asarray(sums).dtype == np.float32


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_halves_make_the_whole(backend, rng, dtype, metric):
    for size in sizes_for(backend):
        x, labels, old, _, _ = case(rng, *size, dtype)
        centroids, counts, shift = update(x, labels, old, metric)
        sums, sizes = cluster_sums(x, labels, size[2], metric)
        halves = cluster_means(sums, sizes, old, metric)
        np.testing.assert_array_equal(to_float64(halves[0]), to_float64(centroids))
        np.testing.assert_array_equal(np.asarray(sizes), np.asarray(counts))
        np.testing.assert_array_equal(np.asarray(halves[1]), np.asarray(shift))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_an_empty_cluster_keeps_its_centroid_bit_for_bit(backend, dtype, metric):
    old, old64 = as_dtype(np.array([[[0.1, -0.0], [np.nan, 3], [5, 5]]]), dtype)
    x, _ = as_dtype(np.array([[[3.0, 4.0]]]), dtype)
    centroids, counts, shift = update(x, np.array([[2]]), old, metric)
    np.testing.assert_array_equal(to_float64(centroids)[0, :2], old64[0, :2])
    assert np.signbit(to_float64(centroids)[0, 0, 1])
    assert np.asarray(counts).tolist() == [[0, 0, 1]]
    assert np.isfinite(np.asarray(shift)).all()


def test_cosine_keeps_a_centroid_whose_rows_cancel(backend):
    x = np.array([[[2, 0], [-4, 0], [0, 0], [0, 7]]], np.float32)
    old = np.array([[[1, 0], [0, -1], [1, 0]]], np.float32)
    centroids, counts, shift = update(x, np.array([[0, 0, 2, 1]]), old, "cosine")
    assert centroids.tolist() == [[[1, 0], [0, 1], [1, 0]]]
    assert counts.tolist() == [[2, 1, 1]]
    assert shift.tolist() == [2]


@pytest.mark.parametrize("metric", METRICS)
def test_a_nan_stays_with_its_cluster(backend, rng, metric):
    x = rng.standard_normal((2, 30, 18)).astype("f")
    labels = rng.integers(0, 4, (2, 30))
    labels[0, 3] = 2
    old = rng.standard_normal((2, 4, 18)).astype("f")
    clean = update(x, labels, old, metric)
    x[0, 3, 7] = np.nan
    centroids, _, shift = update(x, labels, old, metric)
    assert np.isnan(centroids[0, 2, 7])
    others = np.arange(4) != 2
    np.testing.assert_array_equal(centroids[0, others], clean[0][0, others])
    np.testing.assert_array_equal(centroids[1], clean[0][1])
    assert np.isnan(shift).tolist() == [True, False]


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 4, 0), (0, 0, 1, 0)])
def test_empty_extents(backend, shape):
    batch, rows, clusters, width = shape
    old = np.ones((batch, clusters, width), "f")
    centroids, counts, shift = update(np.ones((batch, rows, width), "f"), np.zeros((batch, rows), np.int64), old)
    np.testing.assert_array_equal(centroids, old)
    assert counts.shape == (batch, clusters)
    assert (counts.sum(-1) == rows).all()
    assert shift.tolist() == [0] * batch


def test_arrays_without_memory(backend):
    """The memory of an empty torch tensor has no address."""
    torch = pytest.importorskip("torch", reason="other frameworks give empty arrays an address")
    sums, counts = cluster_sums(torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.int64), 4)
    assert not sums.any()
    assert not counts.any()
    _, _, shift = update(torch.zeros(2, 5, 0), torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 4, 0))
    assert shift.tolist() == [0, 0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_strided_and_offset_views(backend, rng, dtype, metric):
    base = rng.standard_normal((2, 27, 24)).astype(dtype)
    labels = rng.integers(0, 5, (2, 27))
    for view in (base[:, :, 3:20], base[:, :, :8], base[::-1], base[:, ::-1], base[:, :, ::2]):
        x, old, own = view[:, ::2], view[:, 1:6], labels[:, ::2]
        packed = update(np.ascontiguousarray(x), np.ascontiguousarray(own), np.ascontiguousarray(old), metric)
        for got, expected in zip(update(x, own, old, metric), packed, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("metric", METRICS)
def test_same_bits_for_any_number_of_threads(rng, metric):
    x, labels, old, _, _ = case(rng, 2, 5000, 9, 70, "float32")
    answers = []
    for threads in (1, 2, 5):
        tokernel.set_num_threads(threads)
        answers.append(update(x, labels, old, metric))
    tokernel.set_num_threads(0)
    for answer in answers[1:]:
        for got, expected in zip(answer, answers[0], strict=True):
            np.testing.assert_array_equal(got, expected)


def test_out_is_filled(backend, rng):
    x, labels, old, _, _ = case(rng, 2, 9, 3, 4, "float32")
    out = np.empty_like(old), np.empty((2, 3), np.int64), np.empty(2, np.float32)
    answer = update(x, labels, old, out=out)
    for got, given, fresh in zip(answer, out, update(x, labels, old), strict=True):
        assert got is given
        np.testing.assert_array_equal(got, fresh)


X, LABELS = np.ones((2, 3, 4), np.float32), np.zeros((2, 3), np.int64)


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        ((X, LABELS[:1], X), ValueError, "labels must be"),
        ((X, LABELS + 3, X), ValueError, r"labels must be in \[0, 3\), got 3 at flat position 0"),
        ((X, LABELS - 1, X), ValueError, r"labels must be in \[0, 3\), got -1"),
        ((X, LABELS.astype(float), X), TypeError, "labels must be int32 or int64"),
        ((X, LABELS, X.astype(np.float16)), TypeError, "old must be float32"),
        ((X, LABELS, X[:, :, :2]), ValueError, "old must be"),
        ((X, LABELS, X[:, :0]), ValueError, "old must be at least 1"),
        ((X, LABELS, X, "l1"), ValueError, "metric must be"),
    ],
)
def test_bad_input(backend, args, error, text):
    with pytest.raises(error, match=f"update: {text}"):
        update(*args)


def test_bad_counts(backend):
    with pytest.raises(ValueError, match=r"cluster_means: counts must be in \[0, .*, got -1"):
        cluster_means(X, LABELS - 1, X)
