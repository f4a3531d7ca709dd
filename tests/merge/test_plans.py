# SPDX-License-Identifier: Apache-2.0
"""Merge plans over arrays: the official vectors, and what must be true of any plan."""

import numpy as np
import pytest

from tokernel.kernels import merge
from tokernel.kernels.merge import bipartite_match, kth_match, match_2d, random_match, threshold_match

ATOL = 1e-5  # of the golden files


def load(golden, name):
    with np.load(golden / f"{name}.npz") as file:
        return {k: v if v.ndim else v.item() for k, v in file.items()}


def assert_lists(plan, d):
    for name in ("unm_idx", "src_idx", "dst_idx"):
        np.testing.assert_array_equal(getattr(plan, name), d[name], err_msg=name)


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=ATOL)


@pytest.mark.parametrize("name", ["bsm_cls", "bsm_plain", "bsm_cls_dist"])
def test_bipartite_golden(backend, golden, name):
    d = load(golden, f"tome/{name}")
    plan = bipartite_match(d["metric"], d["r"], d["class_token"], d["distill_token"])
    assert_lists(plan, d)
    assert plan.kept == plan.tokens - d["r_effective"]
    for mode in ("mean", "sum", "amax"):
        close(plan.merge(d["x"], mode), d[f"merged_{mode}"])
    for prefix, size in (("wavg", d["size"]), ("wavg", d["size"][:, :, 0]), ("wavg1", None)):
        x, new_size = plan.merge_weighted(d["x"], size)
        close(x, d[f"{prefix}_x"])
        close(new_size, d[f"{prefix}_size"])
    np.testing.assert_array_equal(plan.source(), d["source"])
    if not d["distill_token"]:  # the official unmerge is wrong there
        close(plan.unmerge(d["merged_mean"]), d["unmerged_mean"])


def test_kth_golden(backend, golden):
    d = load(golden, "tome/kth_k3")
    plan = kth_match(d["metric"], d["k"])
    np.testing.assert_array_equal(plan.dst_idx, d["dst_idx"])
    close(plan.merge(d["x"]), d["merged_mean"])
    close(plan.merge(d["x"], "sum"), d["merged_sum"])
    whole = d["unmerged_mean"].shape[1]
    close(plan.unmerge(d["merged_mean"])[:, :whole], d["unmerged_mean"])
    assert (plan.map[:, whole:] == -1).all()
    assert (plan.unmerge(d["merged_mean"])[:, whole:] == 0).all()


def test_random_golden(backend, golden):
    d = load(golden, "tome/random_r5")
    plan = random_match(d["metric"], d["r"], partition=(d["a_idx"], d["b_idx"]))
    np.testing.assert_array_equal(plan.dst_idx, d["dst_idx"])
    close(plan.merge(d["x"]), d["merged_mean"])
    close(plan.unmerge(d["merged_mean"]), d["unmerged_mean"])


@pytest.mark.parametrize("name", ["tomesd_norand", "tomesd_rand"])
def test_2d_golden(backend, golden, name):
    d = load(golden, f"tome/{name}")
    grid = [d[k] for k in ("w", "h", "sx", "sy", "r")]
    plan = match_2d(d["metric"], *grid, partition=(d["a_idx"], d["b_idx"]))
    assert_lists(plan, d)
    close(plan.merge(d["x"]), d["merged_mean"])
    close(plan.unmerge(d["merged_mean"]), d["unmerged_mean"])
    ordered = match_2d(d["metric"], *grid, partition=(np.sort(d["a_idx"]), np.sort(d["b_idx"])))
    close(ordered.unmerge(ordered.merge(d["x"])), d["unmerged_mean"])  # whatever the order of the lists
    if d["no_rand"]:
        np.testing.assert_array_equal(match_2d(d["metric"], *grid, no_rand=True).map, ordered.map)


@pytest.mark.parametrize("name", ["cls", "nocls_even"])
def test_threshold_golden(backend, golden, name):
    d = load(golden, f"dymu/dtome_threshold_{name}")
    plan, tau = threshold_match(d["metric"], d["threshold"], class_token=d["class_token"])
    assert tau == d["threshold"]
    assert plan.valid is None
    np.testing.assert_array_equal(plan.source(), d["pos_tracking"])
    x, size = plan.merge_weighted(d["x"], d["size_in"])
    close(x, d["y"])
    close(size, d["size_out"])
    close(plan.unmerge(x), d["repeated"])


@pytest.mark.parametrize("name", ["cls", "nocls"])
def test_calibration_golden(backend, golden, name):
    d = load(golden, f"dymu/calib_batch_{name}")
    x, source, valid = d["x0"], None, None
    size = np.ones((*x.shape[:2], 1), np.float32)
    for layer in range(d["layers"]):
        plan, tau = threshold_match(d[f"metric{layer}"], r=d["r"], class_token=d["class_token"], valid=valid)
        assert tau == pytest.approx(d[f"threshold{layer}"], abs=1e-6)
        sums = plan.merge(x * size, "sum")
        _, size = plan.merge_weighted(x, size)
        x = sums / (size + np.float32(1e-4))  # as the official batched path divides
        source = plan.source(source)
        valid = np.ones(x.shape[:2], bool) if plan.valid is None else plan.valid
        close(x, d[f"x{layer + 1}"])
        close(size, d[f"size{layer + 1}"])
        np.testing.assert_array_equal(source, d[f"pos{layer + 1}"])
        np.testing.assert_array_equal(valid, ~d[f"padding{layer + 1}"])


def random_plans(rng):
    """One plan of every kind over the same number of tokens."""
    metric = rng.standard_normal((2, 15, 8)).astype(np.float32)
    yield bipartite_match(metric, 4)
    yield bipartite_match(metric, 99, class_token=True)
    yield bipartite_match(metric, 3, class_token=True, distill_token=True)
    yield bipartite_match(metric, 0)
    yield kth_match(metric, 5)
    yield random_match(metric, 6, generator=1)
    yield match_2d(metric, 5, 3, 2, 2, 7, generator=2)
    yield threshold_match(metric, 0.4)[0]
    yield threshold_match(metric, r=3, class_token=True)[0]


def test_every_plan_keeps_its_promises(backend, rng):
    for plan in random_plans(rng):
        batch, tokens = plan.map.shape
        assert tokens == plan.tokens
        x = rng.integers(-8, 9, (batch, tokens, 3)).astype(np.float32)
        size = rng.integers(1, 5, (batch, tokens, 1)).astype(np.float32)
        assert plan.merge(x).shape == (batch, plan.kept, 3)
        np.testing.assert_array_equal(plan.merge(x, "sum").sum(1), x.sum(1))
        merged, new_size = plan.merge_weighted(x, size)
        np.testing.assert_array_equal(new_size.sum(1), size.sum(1))
        np.testing.assert_allclose((merged * new_size).sum(1), (x * size).sum(1), atol=1e-4)
        source = plan.source()
        np.testing.assert_array_equal(source.sum(1), np.ones((batch, tokens)))
        np.testing.assert_array_equal(plan.merge(np.ones_like(size), "sum"), source.sum(2, keepdims=True))
        y = rng.integers(-8, 9, (batch, plan.kept, 3)).astype(np.float32)
        filled = np.ones((batch, plan.kept, 1), bool) if plan.valid is None else plan.valid[:, :, None]
        np.testing.assert_array_equal(plan.merge(plan.unmerge(y)), np.where(filled, y, 0))


def test_protected_tokens_pass_through(backend, rng):
    metric = np.repeat(rng.standard_normal((1, 1, 8)), 18, 1).astype(np.float32)  # everything alike
    x = rng.standard_normal((1, 18, 4)).astype(np.float32)
    plan = bipartite_match(metric, 8, class_token=True, distill_token=True)
    assert plan.kept == 10
    merged, size = plan.merge_weighted(x)
    np.testing.assert_array_equal(merged[:, :2], x[:, :2])
    assert size[0, :2, 0].tolist() == [1, 1]
    assert bipartite_match(metric, 99, class_token=True).map[0, 0] == 0


@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 4, 5])
def test_short_sequences(backend, tokens):
    metric = np.ones((2, tokens, 3), np.float32)
    for class_token in (False, True):
        for distill_token in (False, True):
            plan = bipartite_match(metric, 99, class_token, distill_token)
            most = max(0, (tokens - class_token - distill_token) // 2) if tokens // 2 > distill_token else 0
            assert plan.kept == tokens - most
            assert plan.merge(metric).shape == (2, plan.kept, 3)
            assert plan.unmerge(plan.merge(metric)).shape == metric.shape
    assert kth_match(metric, 2).kept == tokens // 2
    assert random_match(metric, 99).kept == min(tokens, 1)
    assert threshold_match(metric, 0.5)[0].kept == tokens - tokens // 2
    assert threshold_match(metric[:0], 0.5)[0].map.shape == (0, tokens)


def test_identity_returns_the_payload_itself(backend, rng):
    x = rng.standard_normal((2, 6, 3)).astype(np.float32)
    size = np.full((2, 6), 2, np.float32)
    for plan in (bipartite_match(x, 0), kth_match(x, 1), random_match(x, -1), match_2d(x, 3, 2, 4, 4, 9)):
        assert plan.is_identity
        assert plan.merge(x) is x
        assert plan.unmerge(x) is x
        assert plan.merge_weighted(x)[0] is x
        assert (plan.merge_weighted(x)[1] == 1).all()
        np.testing.assert_array_equal(plan.merge_weighted(x, size)[1], size[:, :, None])
        np.testing.assert_array_equal(plan.merge(x, "sum", weight=size), 2 * x)
        np.testing.assert_array_equal(plan.source(), np.tile(np.eye(6), (2, 1, 1)))


def test_relations_between_the_matches(backend, rng):
    metric = rng.standard_normal((2, 12, 8)).astype(np.float32)
    half = bipartite_match(metric, 6)
    pairs = kth_match(metric, 2)
    np.testing.assert_array_equal(half.map, pairs.map)
    np.testing.assert_array_equal(bipartite_match(metric * np.float32(4), 6).map, half.map)


def test_random_partitions(backend, rng):
    metric = rng.standard_normal((3, 20, 8)).astype(np.float32)
    one, same, other = (random_match(metric, 7, generator=seed).map for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    for w, h, sx, sy in [(5, 4, 2, 2), (4, 5, 3, 2), (10, 2, 1, 2), (20, 1, 7, 1)]:
        plan = match_2d(metric, w, h, sx, sy, 99, generator=3)
        assert plan.kept == (w // sx) * (h // sy)  # all sources merge, one destination a cell
        destinations = [
            np.flatnonzero(plan.merge(np.eye(20, dtype=np.float32)[None].repeat(3, 0))[0, i] > 0)
            for i in range(plan.kept)
        ]
        assert len(destinations) == plan.kept
        np.testing.assert_array_equal(match_2d(metric, w, h, sx, sy, 99, generator=3).map, plan.map)


def test_threshold_is_monotone_and_strict(backend, rng):
    metric = rng.standard_normal((1, 41, 8)).astype(np.float32)
    kept = [threshold_match(metric, tau)[0].kept for tau in np.linspace(-1, 1, 21)]
    assert kept == sorted(kept)
    assert kept[0] == 41 - 20
    assert kept[-1] == 41
    exact = np.array([[[1, 0], [1, 0], [0, 1], [0, 2]]], np.float32)
    assert threshold_match(exact, 1.0)[0].is_identity
    assert threshold_match(exact, 0.999)[0].kept == 2


def test_calibration_merges_the_budget_and_its_threshold_does_the_same(backend, rng):
    metric = rng.standard_normal((4, 33, 8)).astype(np.float32)
    for class_token in (False, True):
        for max_r in (None, 6):
            plan, tau = threshold_match(metric, r=5, class_token=class_token, max_r=max_r)
            assert (plan.src_idx >= 0).sum() == 20
            again, _ = threshold_match(metric, tau, class_token=class_token, max_r=max_r)
            np.testing.assert_array_equal(again.map, plan.map)
            if max_r:
                assert (plan.src_idx >= 0).sum(1).max() <= max_r
    everything, tau = threshold_match(metric, r=99)
    assert (everything.src_idx >= 0).sum() == 4 * 16
    assert tau == 0 or tau > 0


def test_padding_takes_no_part(backend, rng):
    metric = rng.standard_normal((2, 22, 8)).astype(np.float32)
    valid = np.ones((2, 22), bool)
    valid[0, 15:] = False
    metric[0, 15:] = metric[0, 0]  # the best partners of all, were they admitted
    plan, _ = threshold_match(metric, 0.3, class_token=True, valid=valid)
    alone, _ = threshold_match(metric[:1, :15], 0.3, class_token=True)
    np.testing.assert_array_equal(plan.map[0, :15], alone.map[0])
    assert (plan.map[0, 15:] == -1).all()
    counts = plan.kept if plan.valid is None else plan.valid.sum(1)[0]
    assert counts == alone.kept
    padded, tau = threshold_match(metric, r=11, valid=np.zeros((2, 22), bool))
    assert padded.kept == 0
    assert tau == 0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda m: bipartite_match(m[0], 1), r"bipartite_match: metric must be \(B, N, D\)"),
        (lambda m: kth_match(m[0], 2), "kth_match: metric"),
        (lambda m: random_match(m[0], 2), "random_match: metric"),
        (lambda m: match_2d(m[0], 3, 2, 1, 1, 1), "match_2d: metric"),
        (lambda m: threshold_match(m[0], 0.5), "threshold_match: metric"),
        (lambda m: match_2d(m, 3, 3, 1, 1, 1), "match_2d: w \\* h must be the number of tokens, 6"),
        (lambda m: match_2d(m, 3, 2, 0, 1, 1), "match_2d: sx and sy must be at least 1"),
        (lambda m: match_2d(m, 3, 2, 2, 2, 1, partition=(np.arange(3), np.array([2, 4, 5]))), "token 2 twice"),
        (lambda m: random_match(m, 1, partition=(np.array([7]), np.arange(5))), r"index must be in \[0, 6\)"),
        (lambda m: threshold_match(m), "exactly one of tau and r"),
        (lambda m: threshold_match(m, 0.5, 2), "exactly one of tau and r"),
        (lambda m: threshold_match(m, 0.5, valid=np.ones((2, 5), bool)), r"valid must be \(2, 6\)"),
        (lambda m: bipartite_match(m, 1).merge(m[:, :5]), r"MergePlan: x must be \(2, 6, C\)"),
        (lambda m: bipartite_match(m, 0).merge(m[:, :5]), r"MergePlan: x must be \(2, 6, C\)"),
        (lambda m: bipartite_match(m, 1).unmerge(m), r"MergePlan: y must be \(2, 5, C\)"),
        (lambda m: bipartite_match(m, 1).merge(m, "median"), "mode"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call(np.ones((2, 6, 4), np.float32))


def test_no_sample_gives_more_than_half_of_its_tokens_to_the_batch(backend, rng):
    metric = rng.standard_normal((3, 9, 4)).astype(np.float32)
    metric[0] = 1  # all five even tokens of this sample are the best edges of the batch
    plan, tau = threshold_match(metric, r=2)
    assert plan.map[0].max() + 1 == 9 - 4
    assert sum(9 - (row.max() + 1) for row in plan.map) == 6
    np.testing.assert_array_equal(threshold_match(metric, tau)[0].map, plan.map)


def test_samples_of_one_token_or_none(backend):
    one = np.ones((3, 1, 4), np.float32)
    plan, tau = threshold_match(one, r=1, valid=np.array([[True], [False], [True]]))
    assert tau == 0
    assert plan.map.tolist() == [[0], [-1], [0]]
    assert plan.valid.tolist() == [[True], [False], [True]]
    assert plan.merge(one).tolist() == [[[1] * 4], [[0] * 4], [[1] * 4]]
    assert threshold_match(one, 0.5, valid=np.zeros((3, 1), bool))[0].kept == 0
    assert threshold_match(one[:, :0], 0.5, valid=np.zeros((3, 0), bool))[0].kept == 0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda m: bipartite_match([1], 1), "bipartite_match: metric must be an array, got list"),
        (lambda m: bipartite_match(m.astype(np.float64), 1), "cosine_match: a must be float32"),
        (lambda m: bipartite_match(m, 1.5), "r must be an integer"),
        (lambda m: threshold_match(m, "0.5"), "threshold_match: tau must be a number, got str"),
        (lambda m: threshold_match(m, 0.5, valid=np.ones((2, 6))), "mask_a must be"),
    ],
)
def test_wrong_types(call, text):
    with pytest.raises(TypeError, match=text):
        call(np.ones((2, 6, 4), np.float32))


def test_vectors_that_are_not_finite_merge_last(backend, rng):
    metric = rng.standard_normal((1, 12, 4)).astype(np.float32)
    metric[0, 4] = np.nan
    plan = bipartite_match(metric, 3)
    assert 2 not in plan.src_idx
    assert plan.unm_idx[0, -1] == 2
    nothing = np.full((2, 10, 4), np.nan, np.float32)
    assert threshold_match(nothing, r=3)[0].is_identity
    assert threshold_match(nothing, float("nan"))[0].is_identity
    assert (bipartite_match(nothing, 3).map[:, :6:2] == 2).all()  # the count is fixed: they meet in column 0


def test_public_names():
    assert {"MergePlan", "bipartite_match", "cosine_match", "select_edges", "threshold_match"} <= set(merge.__all__)
