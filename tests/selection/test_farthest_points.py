# SPDX-License-Identifier: Apache-2.0
"""farthest_points on every backend: against the greedy rule in float64, golden vectors, and the laws of the rule."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bits import on_one_and_two_threads
from farthest_cases import check_picks, greedy

import tokernel
from tokernel.kernels import select

METRICS = ("cosine", "l2")
MODES = ("maxmin", "maxsum")
# N, D, k; around the widths of vectors, panels and tiles
SHAPES = [(1, 1, 1), (2, 3, 2), (5, 4, 5), (17, 16, 9), (33, 17, 33), (64, 31, 20), (70, 5, 40), (131, 8, 12)]


def pick(x, k, metric="cosine", mode="maxmin", start="maxmin", mask=None):
    return select.farthest_points(x, k, metric, mode, start, mask, return_score=True)


def exact_rows(rng, n, width=16):
    """Rows whose distances are exact in float32: few small integers, and for cosines norms that are powers of two."""
    x = np.zeros((n, width), np.float32)
    for row in x:
        row[rng.choice(width, 4, replace=False)] = rng.choice([-1, 1], 4)
    return x


@pytest.mark.parametrize("case", ["small_random", "llava576", "clustered"])
def test_golden_vectors_of_divprune(backend, case, golden):
    vectors = np.load(golden / "divprune" / f"{case}.npz")
    order, score = pick(vectors["x"], int(vectors["k"]))
    np.testing.assert_array_equal(order, vectors["selected"])
    check_picks(vectors["x"], order, score)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_pick_is_the_best_one(backend, shape, mode, metric, rng):
    n, width, k = shape
    x = rng.standard_normal((n, width)).astype(np.float32)
    for start in ("maxmin", n // 2):
        order, score = pick(x, k, metric, mode, start)
        assert order.dtype == np.int64
        assert score.dtype == np.float32
        check_picks(x, order, score, metric, mode, start)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize(("metric", "mode"), [("cosine", "maxmin"), ("cosine", "maxsum"), ("l2", "maxmin")])
@pytest.mark.parametrize("n", [9, 40, 90])
def test_exact_distances_leave_no_choice(backend, n, metric, mode, rng):
    """Ties everywhere: the lowest index wins each. (Sums of roots are not exact.)"""
    x = exact_rows(rng, n)
    for start in ("maxmin", n - 1):
        order = pick(x, n, metric, mode, start)[0]
        np.testing.assert_array_equal(order, greedy(x, n, metric, mode, start))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mode", MODES)
def test_equal_rows_are_picked_by_index(backend, mode, metric):
    order, score = pick(np.tile(np.float32([2, 0, 0, 0]), (40, 1)), 40, metric, mode)
    np.testing.assert_array_equal(order, np.arange(40))
    np.testing.assert_array_equal(score, np.zeros(40))


def test_duplicates_come_last(backend, rng):
    x = exact_rows(rng, 12, 64)
    doubled = np.concatenate([x, x, x])
    for metric in METRICS:
        order, score = pick(doubled, 36, metric)
        assert sorted(order[:12] % 12) == list(range(12))
        np.testing.assert_array_equal(order[12:], np.setdiff1d(np.arange(36), order[:12]))
        np.testing.assert_array_equal(score[12:], np.zeros(24))


def test_zero_rows_are_at_distance_one(backend):
    x = np.float32([[0, 0], [1, 0], [0, 0], [1, 0], [-1, 0]])
    order, score = pick(x, 5, start=1)
    np.testing.assert_array_equal(order, [1, 4, 0, 2, 3])
    np.testing.assert_array_equal(score, [np.inf, 2, 1, 1, 0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_spoil_nobody(backend, bad, mode, metric, rng):
    x = rng.standard_normal((20, 6)).astype(np.float32)
    spoiled = np.insert(x, [3, 10, 10], 0, axis=0)
    where = [3, 11, 12]
    spoiled[where, [0, 5, 2]] = bad
    names = np.setdiff1d(np.arange(23), where)
    want, want_score = pick(x, 20, metric, mode)
    order, score = pick(spoiled, 23, metric, mode)
    np.testing.assert_array_equal(order, [*names[want], *where])
    np.testing.assert_array_equal(score, [*want_score, *[np.nan] * 3])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mode", MODES)
def test_masked_rows_come_last_and_are_no_partners(backend, mode, metric, rng):
    x = rng.standard_normal((3, 30, 5)).astype(np.float32)
    x[:, 7, 2] = np.nan
    mask = rng.random((3, 30)) < 0.6
    mask[1] = False
    mask[2] = True
    for start in ("maxmin", 4):
        order, score = pick(x, 30, metric, mode, start, mask)
        for b in range(3):
            check_picks(x[b], order[b], score[b], metric, mode, start, mask[b])
    order, score = pick(x, 30, metric, mode, "maxmin", mask)
    np.testing.assert_array_equal(order[1], np.arange(30))
    kept = np.flatnonzero(mask[0])
    alone, alone_score = pick(x[0, kept], len(kept), metric, mode)
    np.testing.assert_array_equal(order[0, : len(kept)], kept[alone])
    np.testing.assert_array_equal(score[0, : len(kept)], alone_score)


def test_a_start_that_is_no_partner(backend):
    """No pick counts yet: the scores of all others stay where they began."""
    x = np.float32([[1, 0], [0, 1], [np.nan, 0], [-1, 0]])
    mask = np.array([True, True, True, False])
    for mode, begin in (("maxmin", np.inf), ("maxsum", 0)):
        for start in (2, 3):
            order, score = pick(x, 3, mode=mode, start=start, mask=mask)
            np.testing.assert_array_equal(order, [start, 0, 1])
            np.testing.assert_array_equal(score, [np.inf, begin, 1])


@pytest.mark.parametrize("metric", METRICS)
def test_without_any_other_the_first_score_is_infinite(backend, metric):
    x = np.float32([[1, 2], [np.nan, 0]])
    for given, want in ((x[:1], [0]), (x, [0, 1])):
        order, score = pick(given, len(given), metric)
        np.testing.assert_array_equal(order, want)
        assert score[0] == np.inf


def test_distances_that_overflow_are_infinite(backend):
    big = np.float32(1.5e19)  # its square is a float32, four times that is none
    x = np.float32([[big], [-big], [0]])
    order, score = pick(x, 3, "l2", start=0)
    np.testing.assert_array_equal(order, [0, 1, 2])
    np.testing.assert_array_equal(score, [np.inf, np.inf, big])
    order, score = pick(np.float32([[1], [3e19], [4]]), 3, "l2", start=0)
    np.testing.assert_array_equal(order, [0, 2, 1])
    assert np.isnan(score[2])


@pytest.mark.parametrize("shape", [(0, 0, 3), (0, 4, 3), (3, 0, 2), (2, 4, 0), (0, 3), (4, 0)], ids=str)
def test_empty(backend, shape):
    x = np.zeros(shape, np.float32)
    for k in (0, shape[-2]):
        order, score = pick(x, k)
        assert order.shape == score.shape == (*shape[:-2], k)
        np.testing.assert_array_equal(order, np.broadcast_to(np.arange(k), order.shape))


def test_a_start_for_every_sample(backend, rng):
    x = rng.standard_normal((4, 21, 7)).astype(np.float32)
    starts = np.array([20, 0, 3, 3])
    for dtype in (np.int64, np.int32):
        order, score = pick(x, 9, start=starts.astype(dtype))
        for b in range(4):
            single, single_score = pick(x[b], 9, start=int(starts[b]))
            np.testing.assert_array_equal(order[b], single)
            np.testing.assert_array_equal(score[b], single_score)
    np.testing.assert_array_equal(pick(x[0], 9, start=starts[:1])[0], order[0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mode", MODES)
def test_a_smaller_k_is_a_prefix(backend, mode, metric, rng):
    x = rng.standard_normal((50, 9)).astype(np.float32)
    order, score = pick(x, 50, metric, mode)
    for k in (0, 1, 2, 17, 49):
        fewer, fewer_score = pick(x, k, metric, mode)
        np.testing.assert_array_equal(fewer, order[:k])
        np.testing.assert_array_equal(fewer_score, score[:k])


@pytest.mark.parametrize("mode", MODES)
def test_cosines_do_not_see_lengths(backend, mode, rng):
    x = rng.standard_normal((40, 12)).astype(np.float32)
    order, score = pick(x, 20, mode=mode)
    powers = np.exp2(rng.integers(-40, 40, (40, 1))).astype(np.float32)
    scaled = pick(x * powers, 20, mode=mode)
    np.testing.assert_array_equal(scaled[0], order)
    np.testing.assert_array_equal(scaled[1], score)
    stretched = x * rng.uniform(0.1, 10, (40, 1)).astype(np.float32)
    check_picks(x, *pick(stretched, 20, mode=mode), mode=mode)


@pytest.mark.parametrize("metric", METRICS)
def test_maxmin_scores_never_rise_and_end_at_the_smallest_distance(backend, metric, rng):
    x = rng.standard_normal((60, 10)).astype(np.float32)
    order, score = pick(x, 25, metric)
    assert (np.diff(score[1:]) <= 0).all()
    chosen = x[order].astype(np.float64)
    gaps = np.linalg.norm(chosen[:, None] - chosen[None], axis=-1)
    if metric == "cosine":
        chosen /= np.linalg.norm(chosen, axis=1, keepdims=True)
        gaps = 1 - chosen @ chosen.T
    assert abs(gaps[~np.eye(25, dtype=bool)].min() - score[-1]) < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_strided_views(backend, mode, rng):
    whole = rng.standard_normal((4, 30, 3, 16)).astype(np.float32)
    for view in (whole[:, :, 1], whole[::2, ::3, 2], whole[1:, 4:, 0, 3:], whole[0, :, 1], whole[0, ::-1, 1, ::2]):
        order, score = pick(view, 7, mode=mode)
        want, want_score = pick(view.copy(), 7, mode=mode)
        np.testing.assert_array_equal(order, want)
        np.testing.assert_array_equal(score, want_score)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_read_as_they_are(backend, dtype, mode, metric, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    x = torch.from_numpy(rng.standard_normal((45, 21))).to(getattr(torch, dtype))
    order, score = pick(x, 15, metric, mode)
    want, want_score = pick(x.float(), 15, metric, mode)
    assert torch.equal(order, want)
    assert torch.equal(score, want_score)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mode", MODES)
def test_the_same_bits_on_one_and_two_threads(backend, mode, metric, rng):
    n, width, k = (150, 9, 6) if backend in ("ref", "simt") else (900, 70, 60)
    x = rng.standard_normal((2, n, width)).astype(np.float32)
    one, two = on_one_and_two_threads(lambda: pick(x, k, metric, mode))
    np.testing.assert_array_equal(one[0], two[0])
    assert one[1].tobytes() == two[1].tobytes()


def kinds_of_points(rng, n, width):
    """Data that a search by bounds meets in different ways."""
    x = rng.standard_normal((n, width))
    centres = rng.standard_normal((9, width))
    clusters = centres[rng.integers(0, 9, n)] + 0.05 * x
    outlier = clusters.copy()
    outlier[n // 3] = -centres[0]
    chain = np.stack([np.cos(np.arange(n) / n), np.sin(np.arange(n) / n), *np.zeros((width - 2, n))], -1)
    pairs = np.repeat(x[: (n + 1) // 2], 2, axis=0)[:n]
    few = centres[rng.integers(0, 3, n)]
    return {"normal": x, "clusters": clusters, "outlier": outlier, "chain": chain, "pairs": pairs, "few": few}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["normal", "clusters", "outlier", "chain", "pairs", "few"])
def test_bounds_lose_no_pick(backend, kind, metric, rng):
    """So many rows that the search goes through all of its steps."""
    n, k = {"ref": (130, 9), "simt": (130, 9)}.get(backend, (700, 90))
    x = kinds_of_points(rng, n, 8)[kind].astype(np.float32)
    for mode in MODES:
        order, score = pick(x, k, metric, mode)
        check_picks(x, order, score, metric, mode)


def test_more_rows_than_are_looked_at_singly(backend, rng):
    """The rows of best bounds are then met in larger groups."""
    n, k = {"ref": (40, 5), "simt": (40, 5)}.get(backend, (1100, 150))
    x = rng.standard_normal((n, 6)).astype(np.float32)
    check_picks(x, *pick(x, k, "l2"), "l2")


@pytest.mark.parametrize("batch", [2, 9, 40])
def test_batches_of_any_size(backend, batch, rng):
    """Few samples are cut, many are spread over the threads: nobody sees it."""
    x = rng.standard_normal((batch, 37, 6)).astype(np.float32)
    for mode in MODES:
        order, score = pick(x, 11, mode=mode)
        for b in (0, batch - 1):
            alone, alone_score = pick(x[b], 11, mode=mode)
            np.testing.assert_array_equal(order[b], alone)
            np.testing.assert_array_equal(score[b], alone_score)


PROBE = """
import numpy as np
from tokernel.kernels import select

def resident(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

x = np.random.default_rng(0).standard_normal((20000, 32), dtype=np.float32)
select.farthest_points(x[:500], 9, mode={mode!r})
before = resident("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
select.farthest_points(x, 40, mode={mode!r}, start={start!r})
print(resident("VmHWM") - before)
"""


@pytest.mark.parametrize(("mode", "start"), [("maxmin", "maxmin"), ("maxsum", 0)])
def test_memory_grows_with_n_alone(mode, start):
    """The distances of 20000 rows would take 1.6 GB. Max-sum keeps some of the rows of it, 64 at most."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not say how much memory a process had at most")
    run = subprocess.run(
        [sys.executable, "-c", PROBE.format(mode=mode, start=start)], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < 20000 * 64 * 4 + (8 << 20)


def test_out(backend, rng):
    x = rng.standard_normal((2, 9, 4)).astype(np.float32)
    out = np.full((2, 3), 7), np.full((2, 3), 7, np.float32)
    order = select.farthest_points(x, 3, out=out)
    assert order is out[0]
    np.testing.assert_array_equal(out[0], pick(x, 3)[0])
    np.testing.assert_array_equal(out[1], pick(x, 3)[1])


@pytest.mark.parametrize("k", [-1, 5])
def test_k_out_of_range(k):
    rule = r"in \[0, 4\]" if k > 0 else "an integer of at least 0"
    with pytest.raises(ValueError, match=rf"^farthest_points: k must be {rule}, got {k}$"):
        select.farthest_points(np.zeros((4, 2), np.float32), k)


@pytest.mark.parametrize(
    ("spoiled", "error", "message"),
    [
        ({"start": 4}, ValueError, r"start must be in \[0, 4\), got 4"),
        ({"start": -1}, ValueError, "start must be an integer of at least 0, got -1"),
        ({"start": 1.5}, TypeError, "start must be an integer of at least 0, got float"),
        ({"start": "far"}, ValueError, "start must be 'maxmin', an index, or an array of indices, got 'far'"),
        ({"start": np.array([4])}, ValueError, r"start must be in \[0, 4\), got 4 at flat position 0"),
        ({"start": np.array([-1])}, ValueError, r"start must be in \[0, 4\), got -1 at flat position 0"),
        ({"start": np.array([0, 1])}, ValueError, r"start must be \(B,\) with B = 1, got \(2,\) int64"),
        ({"start": np.array([0.0])}, TypeError, "start must be int32 or int64, got float64"),
        ({"metric": "l1"}, ValueError, "metric must be 'l2' or 'cosine', got 'l1'"),
        ({"mode": "min"}, ValueError, "mode must be 'maxmin' or 'maxsum', got 'min'"),
    ],
)
def test_bad_arguments(spoiled, error, message):
    with pytest.raises(error, match=f"^farthest_points: {message}$"):
        select.farthest_points(np.zeros((4, 2), np.float32), 2, **spoiled)
