# SPDX-License-Identifier: Apache-2.0
"""kmeans: the official code's answers, a float64 loop written from the paper, and what must hold for any data."""

import numpy as np
import pytest
from cluster_cases import DTYPES, METRICS, as_dtype, exact_vectors, scores, to_float64
from hypothesis import given, settings
from hypothesis import strategies as st

import tokernel
from tokernel.kernels.cluster import KMeans, assign, kmeans


def oracle(x, centroids, max_iters, tol):
    """The loop of the paper's code in float64."""
    for _ in range(max_iters):
        labels = scores(x, centroids, "l2").argmin(-1)
        member = labels[:, None] == np.arange(centroids.shape[1])[:, None]
        sizes = member.sum(-1)
        means = member.astype(float) @ x / np.maximum(sizes, 1)[..., None]
        moved = np.where(sizes[..., None] > 0, means, centroids)
        if np.linalg.norm(moved - centroids, axis=-1).max() < tol:
            break
        centroids = moved
    return labels, centroids, sizes


def inertia(x, result):
    own = np.take_along_axis(to_float64(result.centroids), np.asarray(result.labels)[..., None], 1)
    return np.square(to_float64(x) - own).sum()


@pytest.mark.parametrize("name", ["2iter", "converge"])
def test_golden(backend, golden, name):
    g = np.load(golden / "svg2" / f"kmeans_{name}.npz")
    result = kmeans(g["x"], g["init"].shape[1], int(g["max_iters"]), float(g["tol"]), g["init"])
    np.testing.assert_array_equal(result.labels, g["labels"])
    np.testing.assert_array_equal(result.sizes, g["sizes"])
    assert result.n_iter == g["n_iters"]
    np.testing.assert_allclose(result.centroids, g["centroids"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_against_float64(backend, rng, dtype):
    """Well separated groups, so that no rounding moves a row."""
    centres = 8 * rng.standard_normal((2, 5, 6))
    rows = np.concatenate([centres + 0.1 * rng.standard_normal(centres.shape) for _ in range(9)], 1)
    x, x64 = as_dtype(rows, dtype)
    result = kmeans(x, 5, 10, 1e-2, x[:, :5])
    labels, centroids, sizes = oracle(x64, x64[:, :5], 10, 1e-2)
    assert isinstance(result, KMeans)
    np.testing.assert_array_equal(np.asarray(result.labels), labels)
    np.testing.assert_array_equal(np.asarray(result.sizes), sizes)
    epsilon = {"float32": 2.0**-22, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    # One more or one less iteration than in float64 moves a centroid by less than tol.
    np.testing.assert_allclose(to_float64(result.centroids), centroids, rtol=epsilon, atol=1e-2)


def test_the_first_of_equal_centroids_takes_all(backend):
    """Law 6: the higher index is empty and keeps its centroid."""
    x = np.array([[[0], [1], [2], [9]]], np.float32)
    start = np.array([[[1], [1], [9]]], np.float32)
    result = kmeans(x, 3, 1, 0.0, start)
    assert result.labels.tolist() == [[0, 0, 0, 2]]
    assert result.sizes.tolist() == [[3, 0, 1]]
    assert result.centroids.tolist() == [[[1], [1], [9]]]


def test_stopping_returns_the_centroids_behind_the_labels(backend):
    """A last step that is short, but not zero, is not taken; after the last iteration it is."""
    x = np.array([[[0.0], [1.0], [10.0]]], np.float32)
    start = np.array([[[0.45], [10.0]]], np.float32)
    stopped = kmeans(x, 2, 9, 0.1, start)
    assert stopped.n_iter == 1
    np.testing.assert_array_equal(stopped.centroids, start)
    last = kmeans(x, 2, 1, 0.01, start)
    assert (last.n_iter, last.centroids.tolist()) == (1, [[[0.5], [10.0]]])
    assert kmeans(x, 2, 9, 0.0, start).n_iter == 9  # nothing is below 0
    assert kmeans(x, 2, 9, 1e-9, start).n_iter == 2


def test_one_decision_for_the_whole_batch(backend):
    still, moving = [[0.0], [4.0], [4.0]], [[0.0], [1.0], [10.0]]
    x = np.array([still, moving], np.float32)
    start = np.array([[[0.0], [4.0]], [[0.0], [1.0]]], np.float32)
    assert kmeans(x[:1], 2, 9, 1e-4, start[:1]).n_iter == 1
    assert kmeans(x, 2, 9, 1e-4, start).n_iter == kmeans(x[1:], 2, 9, 1e-4, start[1:]).n_iter > 1


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_warm_start_on_unchanged_rows_stops_at_once(backend, rng, dtype, metric):
    """Law 8."""
    x, _ = as_dtype(rng.standard_normal((2, 40, 8)), dtype)
    first = kmeans(x, 4, 60, 1e-4, metric=metric, generator=0)
    again = kmeans(x, 4, 60, 1e-2 if metric == "cosine" else 1e-4, first.centroids, metric=metric)
    assert first.n_iter < 60
    assert again.n_iter == 1
    np.testing.assert_array_equal(np.asarray(again.labels), np.asarray(first.labels))


def test_no_iteration_only_assigns(backend, rng):
    x = rng.standard_normal((2, 20, 3)).astype("f")
    result = kmeans(x, 4, 0, init=x[:, :4])
    np.testing.assert_array_equal(result.labels, assign(x, x[:, :4])[0])
    np.testing.assert_array_equal(result.sizes, [np.bincount(labels, minlength=4) for labels in result.labels])
    np.testing.assert_array_equal(result.centroids, x[:, :4])
    assert result.n_iter == 0


@pytest.mark.parametrize("init", [None, "random"])
def test_more_clusters_than_rows(backend, rng, init):
    """Law 7."""
    x = rng.standard_normal((2, 3, 4)).astype("f")
    result = kmeans(x, 8, 5, init=init, generator=3)
    assert result.sizes.sum(1).tolist() == [3, 3]
    assert (result.sizes == 0).sum() >= 10
    np.testing.assert_array_equal(result.sizes, [np.bincount(labels, minlength=8) for labels in result.labels])


@pytest.mark.parametrize("init", ["random", "++"])
@pytest.mark.parametrize("metric", METRICS)
def test_drawn_centroids_are_rows(backend, rng, init, metric):
    x = rng.standard_normal((3, 30, 5)).astype("f")
    result = kmeans(x, 6, 0, init=init, metric="l2", generator=1)
    for b in range(3):
        assert all((x[b] == c).all(1).any() for c in result.centroids[b])
    one, same, other = (kmeans(x, 6, 3, init=init, metric=metric, generator=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.centroids, same.centroids)
    assert (one.centroids != other.centroids).any()
    seeded = kmeans(x, 6, 3, init=init, metric=metric, generator=np.random.default_rng(1))
    np.testing.assert_array_equal(one.labels, seeded.labels)


@pytest.mark.parametrize("metric", METRICS)
def test_plus_plus_finds_every_distant_group(backend, rng, metric):
    """Rows of weight 0 are never drawn while others are left; when none is, any row is."""
    groups = np.eye(6, dtype=np.float32)[None] * 5
    x = np.repeat(groups, 4, axis=1)
    for seed in range(5):
        result = kmeans(x, 6, 2, init="++", metric=metric, generator=seed)
        assert result.sizes.tolist() == [[4] * 6]
    assert kmeans(x, 9, 2, init="++", metric=metric, generator=0).sizes.sum() == 24
    x[0, 3] = np.nan
    assert np.isfinite(kmeans(x, 5, 0, init="++", metric=metric, generator=12).centroids[0, 1:]).all()


def test_plus_plus_draws_by_squared_distance():
    """Of rows at distance 0, 1 and 2 the second draw takes the far one four times as often."""
    x = np.array([[[0.0], [1.0], [-2.0]]], np.float32)
    drawn = [kmeans(x, 2, 0, init="++", generator=seed).centroids[0, :, 0] for seed in range(1500)]
    second = np.array([c[1] for c in drawn if c[0] == 0])
    assert abs((second == -2).mean() - 0.8) < 4 * np.sqrt(0.8 * 0.2 / len(second))


def test_cosine_centroids_are_unit_sums_of_unit_rows(backend, rng):
    x = rng.standard_normal((2, 50, 6)).astype("f") * rng.uniform(0.1, 30, (2, 50, 1)).astype("f")
    result = kmeans(x, 4, 3, 0.0, init=5 * x[:, :4], metric="cosine")
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    for b in range(2):
        sums = np.stack([unit[b, result.labels[b] == k].sum(0, dtype=np.float64) for k in range(4)])
        sums /= np.linalg.norm(sums, axis=-1, keepdims=True)
        np.testing.assert_allclose(result.centroids[b], sums, atol=60 * 2.0**-24)
    start = kmeans(x, 4, 0, init=5 * x[:, :4], metric="cosine").centroids
    np.testing.assert_allclose(np.linalg.norm(start, axis=-1), 1, atol=16 * 2.0**-24)


def test_a_nan_row_takes_only_its_cluster(backend, rng):
    x = rng.standard_normal((2, 40, 4)).astype("f")
    x[0, 7] = np.nan
    result = kmeans(x, 3, 4, init=x[:, :3])
    assert result.labels[0, 7] == 0
    assert np.isnan(result.centroids[0, 0]).all()
    assert np.isfinite(result.centroids[0, 1:]).all()
    assert result.sizes[0].tolist() == np.bincount(result.labels[0], minlength=3).tolist()
    assert result.sizes[0, 0] == 1
    np.testing.assert_array_equal(result.labels[1], kmeans(x[1:], 3, 4, init=x[1:, :3]).labels[0])


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_empty_extents(backend, shape):
    x = np.ones(shape, np.float32)
    start = np.ones((shape[0], 2, shape[2]), np.float32)
    result = kmeans(x, 2, 3, init=start)
    assert result.labels.shape == shape[:2]
    np.testing.assert_array_equal(result.centroids, start)
    assert (result.sizes.sum(1) == shape[1]).all()
    if shape[0] == 0:
        assert kmeans(x, 2, 3, init="++", generator=0).centroids.shape == (0, 2, 4)


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 40),
    clusters=st.integers(1, 12),
    width=st.integers(1, 20),
    grid=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_inertia_never_rises_and_centroids_are_means(seed, rows, clusters, width, grid):
    """Law 6, up to the rounding of float32."""
    rng = np.random.default_rng(seed)
    x = (exact_vectors(rng, 1, rows, width) if grid else rng.standard_normal((1, rows, width))).astype("f")
    start = x[:, rng.integers(0, rows, clusters)]
    previous = np.inf
    for iterations in range(1, 6):
        result = kmeans(x, clusters, iterations, 0.0, start)
        assert result.sizes.sum() == rows
        now = inertia(x, result)
        slack = 64 * width * 2.0**-24 * (np.square(x, dtype=np.float64).sum() + 1)
        assert now <= previous + slack
        previous = now
    for k in range(clusters):
        members = x[0, result.labels[0] == k].astype(np.float64)
        if len(members):
            np.testing.assert_allclose(result.centroids[0, k], members.mean(0), atol=(rows + 2) * 2.0**-24 * 5)


def test_same_bits_for_any_number_of_threads(rng):
    x = rng.standard_normal((2, 3000, 40)).astype("f")
    answers = []
    for threads in (1, 2, 5):
        tokernel.set_num_threads(threads)
        answers.append(kmeans(x, 150, 4, init="++", generator=0))
    tokernel.set_num_threads(0)
    for answer in answers[1:]:
        for got, expected in zip(answer, answers[0], strict=True):
            np.testing.assert_array_equal(got, expected)


X = np.ones((2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"x": X[0]}, ValueError, "x must be"),
        ({"x": X.astype(np.int32)}, TypeError, "x must be"),
        ({"x": X[:, :0]}, ValueError, "x must be at least one row long"),
        ({"K": 0}, ValueError, "K must be at least 1"),
        ({"K": 2.0}, TypeError, "K must be an integer"),
        ({"K": 4, "init": "++"}, ValueError, "K must be at most 3"),
        ({"max_iters": -1}, ValueError, "max_iters must be"),
        ({"tol": -1e-9}, ValueError, "tol must be a number of at least 0, got -1e-09"),
        ({"tol": float("nan")}, ValueError, "tol must be"),
        ({"tol": -(10**400)}, ValueError, "tol must be"),
        ({"tol": "0"}, TypeError, "tol must be a number, got str"),
        ({"init": "best"}, ValueError, "init must be 'random'"),
        ({"init": X}, ValueError, r"init must be \(B, K, D\) with B = 2, K = 2, D = 4, got"),
        ({"init": X[:, :2].astype(np.float16)}, TypeError, "init must be float32"),
        ({"metric": "L2"}, ValueError, "metric must be"),
    ],
)
def test_bad_input(backend, changes, error, text):
    with pytest.raises(error, match=f"kmeans: {text}"):
        kmeans(**{"x": X, "K": 2, "max_iters": 3, **changes})
