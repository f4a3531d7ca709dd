# SPDX-License-Identifier: Apache-2.0
"""DyMU's parts: the official outputs, every line of "What must be true" of the paper's page, and its traps."""

import json
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from tokernel.papers import paper
from tokernel.reduce import dymu

ATOL = 1e-5  # of the golden files


def load(golden, name):
    with np.load(golden / "dymu" / f"{name}.npz") as file:
        return {k: torch.from_numpy(v) if v.ndim else v.item() for k, v in file.items()}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def keys(tokens=20, batch=1, width=8, seed=0):
    """Keys whose cosines are positive and all different."""
    return normal(batch, tokens, width, seed=seed) + 1.5


def edges(plan):
    """Which original tokens share an output row, whatever the order of the rows."""
    return [[tuple((row == m).nonzero().flatten().tolist()) for m in row[row >= 0].unique()] for row in plan.map]


def groups(plan):
    return [sorted(group) for group in edges(plan)]


class TestGolden:
    @pytest.mark.parametrize("name", ["cls", "nocls_even"])
    def test_threshold_path(self, golden, name):
        d = load(golden, f"dtome_threshold_{name}")
        plan = dymu.bipartite_threshold_merge(d["metric"], d["threshold"], d["class_token"])
        x, size, pos = dymu.apply_merge(plan, d["x"], d["size_in"])
        torch.testing.assert_close(x, d["y"], atol=ATOL, rtol=0)
        torch.testing.assert_close(size, d["size_out"], atol=ATOL, rtol=0)
        assert torch.equal(pos, d["pos_tracking"].float())
        torch.testing.assert_close(plan.unmerge(x), d["repeated"], atol=ATOL, rtol=0)

    @pytest.mark.parametrize("name", ["cls", "nocls"])
    def test_calibration_path(self, golden, name):
        d = load(golden, f"calib_batch_{name}")
        x, size, pos, pad = d["x0"], None, None, None
        for layer in range(d["layers"]):
            assert pad is None or torch.equal(pad, d[f"padding_in{layer}"])
            plan, tau = dymu.batch_bipartite_merge(d[f"metric{layer}"], d["r"], d["class_token"], pad)
            x, size, pos = dymu.apply_merge(plan, x, size, pos, parity=True)
            pad = torch.zeros(x.shape[:2], dtype=torch.bool) if plan.valid is None else ~plan.valid
            assert tau == pytest.approx(d[f"threshold{layer}"], abs=1e-6)
            torch.testing.assert_close(x, d[f"x{layer + 1}"], atol=ATOL, rtol=0)
            torch.testing.assert_close(size, d[f"size{layer + 1}"], atol=ATOL, rtol=0)
            assert torch.equal(pos, d[f"pos{layer + 1}"].float())
            assert torch.equal(pad, d[f"padding{layer + 1}"])

    def test_virtual_unmerging(self, golden):
        d = load(golden, "vtu_small")
        places = d["cos"], d["sin"], d["mapping"]
        scores = dymu.vtu_scores(d["q_un"], d["k_un"], *places, d["scaling"])
        torch.testing.assert_close(scores, d["scores"], atol=2e-6, rtol=2e-6)
        out = dymu.vtu_attention(d["q_un"], d["k_un"], d["v_un"], *places)
        torch.testing.assert_close(out, d["out_remerged"], atol=ATOL, rtol=0)
        merged = dymu.remerge_mean(d["out_full"], d["mapping"], 13)
        torch.testing.assert_close(merged, d["out_remerged"], atol=ATOL, rtol=0)

    def test_schedules(self, golden):
        for name, expected in load(golden, "r_schedules").items():
            *kind, layers, total = name.split("_")
            assert dymu.r_schedule(int(layers), int(total), "_".join(kind)) == expected.tolist()


class TestMergingMustBe:
    @pytest.mark.parametrize("tau", [1.0, 1.5, math.inf])
    def test_the_identity_from_tau_1_on_and_for_r_0(self, tau):
        metric, x = torch.ones(1, 9, 4), normal(1, 9, 3)
        plan = dymu.bipartite_threshold_merge(metric, tau)
        assert dymu.apply_merge(plan, x)[0] is x
        plan, tau = dymu.batch_bipartite_merge(metric, 0)
        assert dymu.apply_merge(plan, x)[0] is x
        assert tau == pytest.approx(1)

    @pytest.mark.parametrize("class_token", [False, True])
    def test_sizes_sum_to_s_and_positions_are_a_partition(self, class_token):
        size, pos, pad, tokens = None, None, None, 25
        for layer in range(3):
            plan, _ = dymu.batch_bipartite_merge(keys(tokens, 3, seed=layer), 4, class_token, pad)
            _, size, pos = dymu.apply_merge(plan, torch.zeros(3, tokens, 2), size, pos)
            tokens, pad = plan.kept, None if plan.valid is None else ~plan.valid
            assert torch.equal(size.sum((1, 2)), torch.full((3,), 25.0))
            assert ((pos == 0) | (pos == 1)).all()
            assert torch.equal(pos.sum(1), torch.ones(3, 25))
            assert torch.equal(pos.sum(2, keepdim=True), size)
        assert plan.valid is not None

    @pytest.mark.parametrize("class_token", [False, True])
    def test_the_sum_of_size_times_x_is_conserved(self, class_token):
        x, size = normal(2, 21, 5), torch.randint(1, 9, (2, 21, 1)).float()
        plan, _ = dymu.batch_bipartite_merge(keys(21, 2), 6, class_token)
        merged, new_size, _ = dymu.apply_merge(plan, x, size)
        torch.testing.assert_close((merged * new_size).sum(1), (x * size).sum(1), atol=1e-5, rtol=1e-6)

    @pytest.mark.parametrize("class_token", [False, True])
    def test_raising_tau_never_merges_more(self, class_token):
        metric = normal(1, 31, 6)
        kept = [
            dymu.bipartite_threshold_merge(metric, float(t), class_token).kept for t in torch.linspace(-1.1, 1.1, 45)
        ]
        assert kept == sorted(kept)
        assert kept[0] == 31 - (31 - class_token) // 2
        assert kept[-1] == 31

    @pytest.mark.parametrize("class_token", [False, True])
    @pytest.mark.parametrize("tokens", [1, 2, 3, 4, 9, 10])
    def test_at_most_half_of_the_free_tokens_merge(self, class_token, tokens):
        half = (tokens - class_token) // 2
        assert dymu.bipartite_threshold_merge(torch.ones(1, tokens, 4), -1, class_token).kept == tokens - half
        many, _ = dymu.batch_bipartite_merge(torch.ones(3, tokens, 4), 99, class_token)
        assert many.kept == tokens - half
        # One image that looks the same everywhere may not take the others' share beyond its half.
        batch = torch.cat([torch.ones(1, tokens, 4), normal(3, tokens, 4)])
        plan, _ = dymu.batch_bipartite_merge(batch, half, class_token)
        lost = tokens - (plan.map.amax(1) + 1)
        assert lost.max() <= half
        assert plan.kept == tokens - lost.min()

    def test_the_class_token_never_merges_and_stays_first(self):
        metric, x = torch.ones(2, 12, 4), normal(2, 12, 3)
        plan, _ = dymu.batch_bipartite_merge(metric, 5, True)
        merged, size, pos = dymu.apply_merge(plan, x)
        assert torch.equal(merged[:, 0], x[:, 0])
        assert size[:, 0].tolist() == [[1.0], [1.0]]
        assert torch.equal(pos[:, 0], torch.eye(12)[:1].expand(2, -1))

    @pytest.mark.parametrize(("class_token", "tokens"), [(False, 20), (True, 21), (False, 21)])
    def test_calibration_merges_b_times_r_edges_and_its_tau_merges_them_again(self, class_token, tokens):
        metric = keys(tokens, 4)
        plan, tau = dymu.batch_bipartite_merge(metric, 3, class_token)
        assert sum(tokens - len(groups) for groups in edges(plan)) == 4 * 3
        again, given = dymu.batch_bipartite_merge(metric, None, class_token, tau=tau)
        assert given == tau
        assert groups(again) == groups(plan)
        assert torch.equal(again.map, plan.map)
        for b in range(4):  # and the path of one image, whose rows have their own order without a class token
            one = dymu.bipartite_threshold_merge(metric[b : b + 1], tau, class_token)
            assert groups(one)[0] == groups(plan)[b]

    @pytest.mark.parametrize("class_token", [False, True])
    def test_repeat_gives_every_position_its_groups_token(self, class_token):
        x = normal(1, 25, 4)
        plan = dymu.bipartite_threshold_merge(keys(25), 0.85, class_token)
        merged, size, pos = dymu.apply_merge(plan, x)
        back = plan.unmerge(merged)
        assert torch.equal(back, pos.mT @ merged)
        alone = plan.unmerge(size)[0, :, 0] == 1
        assert 1 < alone.sum() < 25
        assert torch.equal(back[0, alone], x[0, alone])


def rope(tokens, width, seed=3):
    angle = normal(tokens, width // 2, seed=seed).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotated(x, cos, sin):
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin


class TestUnmergingMustBe:
    mapping = torch.tensor([0, 1, 2, 2, 1, 2, 3, 4])

    def qkv(self):
        return normal(2, 3, 5, 8, seed=4), normal(2, 3, 5, 8, seed=5), normal(2, 3, 5, 8, seed=6)

    def test_dense_rotary_logits_and_the_literal_identity(self):
        q, k, _ = self.qkv()
        cos, sin = rope(8, 8)
        scores = dymu.vtu_scores(q, k, cos, sin, self.mapping)
        full_q, full_k = (rotated(x[:, :, self.mapping].double(), cos.double(), sin.double()) for x in (q, k))
        dense = full_q @ full_k.mT * 8**-0.5
        torch.testing.assert_close(scores.double(), dense, atol=2e-6, rtol=2e-6)
        (q1, q2), (k1, k2) = q.double().chunk(2, -1), k.double().chunk(2, -1)
        dot = q1[:, :, :, None] * k1[:, :, None] + q2[:, :, :, None] * k2[:, :, None]
        cross = q2[:, :, :, None] * k1[:, :, None] - q1[:, :, :, None] * k2[:, :, None]
        c, s = cos[:, :4].double(), sin[:, :4].double()
        pair = dot[:, :, self.mapping][:, :, :, self.mapping] * (c[:, None] * c + s[:, None] * s)
        pair += cross[:, :, self.mapping][:, :, :, self.mapping] * (c[:, None] * s - s[:, None] * c)
        torch.testing.assert_close(scores.double(), pair.sum(-1) * 8**-0.5, atol=2e-6, rtol=2e-6)

    @pytest.mark.parametrize("causal", [True, False])
    def test_ordinary_attention_for_the_identity_mapping(self, causal):
        q, k, v = self.qkv()
        cos, sin = rope(5, 8)
        ours = dymu.vtu_attention(q, k, v, cos, sin, torch.arange(5), causal)
        plain = torch.nn.functional.scaled_dot_product_attention(
            rotated(q, cos, sin), rotated(k, cos, sin), v, is_causal=causal
        )
        torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-5)

    @pytest.mark.parametrize("causal", [True, False])
    def test_positions_of_a_token_differ_and_come_back_as_their_mean(self, causal):
        q, k, v = self.qkv()
        cos, sin = rope(8, 8)
        logits = dymu.vtu_scores(q, k, cos, sin, self.mapping).double()
        if causal:
            logits = logits.masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf)
        full = logits.softmax(-1) @ v[:, :, self.mapping].double()
        assert (full[:, :, 2] - full[:, :, 3]).abs().max() > 1e-3
        ours = dymu.vtu_attention(q, k, v, cos, sin, self.mapping, causal)
        for token in range(5):
            mean = full[:, :, self.mapping == token].mean(2)
            torch.testing.assert_close(ours[:, :, token].double(), mean, atol=1e-6, rtol=1e-5)
        # Text rows hold one position: exact.
        dense = dymu.vtu_attention(*(x[:, :, self.mapping] for x in (q, k, v)), cos, sin, torch.arange(8), causal)
        assert torch.equal(ours[:, :, [0, 3, 4]], dense[:, :, [0, 6, 7]])

    def test_grouped_keys(self):
        q, k, v = self.qkv()
        q = normal(2, 6, 5, 8, seed=7)
        places = *rope(8, 8), self.mapping
        twice = [x.repeat_interleave(2, 1) for x in (k, v)]
        assert torch.equal(dymu.vtu_scores(q, k, *places), dymu.vtu_scores(q, twice[0], *places))
        torch.testing.assert_close(dymu.vtu_attention(q, k, v, *places), dymu.vtu_attention(q, *twice, *places))
        with pytest.raises(ValueError, match="divide"):
            dymu.vtu_scores(q[:, :4], k, *places)

    def test_remerging_wide_rows(self):
        x = normal(2, 8, 300)
        merged = dymu.remerge_mean(x, self.mapping, 6)
        expected = torch.stack([x[:, self.mapping == u].mean(1) for u in range(5)] + [torch.zeros(2, 300)], 1)
        torch.testing.assert_close(merged, expected)
        per_sample = torch.stack([self.mapping, self.mapping.flip(0)])
        assert torch.equal(dymu.remerge_mean(x, per_sample, 6)[0], merged[0])
        with pytest.raises(ValueError, match="remerge_mean: x expected"):
            dymu.remerge_mean(x[0], self.mapping, 6)


class TestTraps:
    def test_parity_shrinks_unmerged_tokens_too_and_the_default_does_not(self):
        x = normal(2, 8, 3)
        plan, _ = dymu.batch_bipartite_merge(keys(8, 2), 1)
        exact, size, _ = dymu.apply_merge(plan, x)
        shrunk, _, _ = dymu.apply_merge(plan, x, parity=True)
        torch.testing.assert_close(shrunk, exact * size / (size + 1e-4), atol=1e-7, rtol=1e-6)
        assert (x[0] == exact[0, plan.map[0]]).all(-1).sum() >= 4

    def test_rows_have_a_stable_order(self):
        plan, _ = dymu.batch_bipartite_merge(keys(20, 3), 4)
        _, _, pos = dymu.apply_merge(plan, torch.zeros(3, 20, 1))
        for b in range(3):
            first = pos[b].argmax(1)[: int(plan.map[b].max()) + 1]
            odd = (pos[b, : len(first), 1::2].sum(1) > 0).long()
            assert odd.tolist() == sorted(odd.tolist())
            assert first[odd == 0].tolist() == sorted(first[odd == 0].tolist())

    def test_equal_keys_do_not_merge_at_the_default_threshold(self):
        metric = torch.full((1, 64, 7), 1 / 3)  # whatever its cosine rounds to
        assert dymu.bipartite_threshold_merge(metric, 1.0).kept == 64
        pad = torch.zeros(1, 64, dtype=torch.bool)
        assert dymu.batch_bipartite_merge(metric, pad=pad, tau=1.0)[0].kept == 64
        assert dymu.bipartite_threshold_merge(metric, 0.999).kept == 32

    def test_heavy_padding_merges_no_padding_and_no_class_token(self):
        metric = keys(12, 3)
        pad = torch.zeros(3, 12, dtype=torch.bool)
        pad[0, 3:], pad[1, 2:] = True, True
        plan, tau = dymu.batch_bipartite_merge(metric, 5, True, pad)
        assert tau == 0  # no edge missed
        lost = (~pad).sum(1) - (plan.map.amax(1) + 1)
        assert lost.tolist() == [1, 0, 5]
        assert (plan.map[pad] == -1).all()
        assert plan.valid.sum(1).tolist() == [2, 2, 7]
        x, size, _ = dymu.apply_merge(plan, normal(3, 12, 2), (~pad)[..., None].float())
        assert torch.equal(x[~plan.valid], torch.zeros_like(x[~plan.valid]))
        assert torch.equal(size[..., 0] > 0, plan.valid)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_the_logarithm_of_padding_is_masked(self, dtype):
        from tokernel.integrations.attention import proportional_attention

        q, k, v = (normal(2, 2, 6, 8, seed=i).to(dtype) for i in range(3))
        valid = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
        size = valid[..., None].float() * 2
        v[1, :, 4:] = 1000.0
        padded = proportional_attention(q, k, v, size, valid=valid)
        alone = proportional_attention(*(x[1:, :, :4] for x in (q, k, v)), size[1:, :4])
        torch.testing.assert_close(padded[1:, :, :4], alone)
        assert padded.isfinite().all()

    def test_the_threshold_compares_cosines_whatever_the_norms(self):
        metric = keys(20)
        scaled = metric * torch.rand(1, 20, 1).add(0.1) * 100
        assert torch.equal(
            dymu.bipartite_threshold_merge(scaled, 0.9).map, dymu.bipartite_threshold_merge(metric, 0.9).map
        )

    def test_cap_per_image(self):
        metric = keys(20, 3)
        assert dymu.bipartite_threshold_merge(metric[:1], -1, max_r=4).kept == 16
        plan, _ = dymu.batch_bipartite_merge(metric, 9, max_r=2)
        assert plan.kept == 18
        best = dymu.bipartite_threshold_merge(metric[:1], -1, max_r=2)
        assert groups(plan)[0] == groups(best)[0]

    def test_nan_rows_never_merge(self):
        metric = keys(10)
        metric[0, 4], metric[0, 7] = math.nan, math.nan
        plan = dymu.bipartite_threshold_merge(metric, -1)
        assert (4,) in edges(plan)[0]
        assert (7,) in edges(plan)[0]


class TestCalibrator:
    def test_batches_weigh_the_same(self):
        found = dymu.ThresholdCalibrator(3)
        for tau in (0.5, 0.7, 0.9):
            found.update(1, tau)
        assert found.thresholds == [1.0, pytest.approx(0.7), 1.0]

    def test_saved_thresholds_come_back_exactly_as_a_list_of_floats(self, tmp_path):
        found = dymu.ThresholdCalibrator(2)
        found.update(0, 1 / 3)
        found.save(tmp_path / "tau.json")
        assert json.loads((tmp_path / "tau.json").read_text()) == [1 / 3, 1.0]
        loaded = dymu.ThresholdCalibrator.load(tmp_path / "tau.json")
        assert loaded.thresholds == found.thresholds
        with pytest.raises(ValueError, match="got loaded ones"):
            loaded.update(0, 0.5)

    @pytest.mark.parametrize(
        ("text", "error"), [("{}", ValueError), ("[1, null]", TypeError), ("[NaN]", ValueError), ("[", ValueError)]
    )
    def test_other_files_are_refused(self, tmp_path, text, error):
        (tmp_path / "tau.json").write_text(text)
        with pytest.raises(error):
            dymu.ThresholdCalibrator.load(tmp_path / "tau.json")

    def test_bad_updates(self):
        found = dymu.ThresholdCalibrator(2)
        with pytest.raises(ValueError, match="layer expected in"):
            found.update(2, 0.5)
        with pytest.raises(ValueError, match="finite"):
            found.update(0, math.nan)


@pytest.mark.parametrize("kind", ["constant", "linear", "reverse_linear"])
def test_schedules_share_out_the_total(kind):
    for layers in range(1, 9):
        for total in range(60):
            counts = dymu.r_schedule(layers, total, kind)
            assert len(counts) == layers
            assert sum(counts) == total
            assert min(counts) >= 0
    assert dymu.r_schedule(0, 0, kind) == []


def bad(call, error, match):
    return pytest.param(call, error, match, id=match)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        bad(lambda m: dymu.bipartite_threshold_merge(m[0], 0.5), ValueError, r"metric expected \(B, N, D\)"),
        bad(lambda m: dymu.bipartite_threshold_merge([1], 0.5), TypeError, "metric expected a tensor"),
        bad(lambda m: dymu.bipartite_threshold_merge(m, math.nan), ValueError, "got NaN"),
        bad(lambda m: dymu.bipartite_threshold_merge(m, "1"), TypeError, "tau expected a number"),
        bad(lambda m: dymu.bipartite_threshold_merge(m, 0.5, max_r=-1), ValueError, "max_r expected at least 0"),
        bad(lambda m: dymu.batch_bipartite_merge(m), ValueError, "exactly one of r and tau expected; got neither"),
        bad(lambda m: dymu.batch_bipartite_merge(m, 2, tau=0.5), ValueError, "got both"),
        bad(lambda m: dymu.batch_bipartite_merge(m, -2), ValueError, "r expected at least 0"),
        bad(lambda m: dymu.batch_bipartite_merge(m, 1.5), TypeError, "r expected an integer"),
        bad(lambda m: dymu.batch_bipartite_merge(m, 1, pad=torch.zeros(1, 5).bool()), ValueError, "pad expected"),
        bad(lambda m: dymu.batch_bipartite_merge(m, 1, pad=torch.zeros(1, 6)), TypeError, "pad expected a bool"),
        bad(lambda m: dymu.r_schedule(-1, 2), ValueError, "layers expected at least 0"),
        bad(lambda m: dymu.r_schedule(0, 2), ValueError, "total expected 0 without layers"),
        bad(lambda m: dymu.r_schedule(2, 2, "cubic"), ValueError, "kind expected"),
        bad(lambda m: dymu.r_schedule(2, 2.0), TypeError, "total expected an integer"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call(torch.ones(1, 6, 4))


@pytest.mark.parametrize("tokens", [0, 1, 2])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_the_smallest_inputs(tokens, batch):
    metric = torch.ones(batch, tokens, 4)
    plan = dymu.bipartite_threshold_merge(metric, 0.5)
    assert dymu.apply_merge(plan, metric)[0].shape[0] == batch
    assert plan.kept == (tokens - tokens // 2 if batch else plan.kept)
    dymu.batch_bipartite_merge(metric, 1)
    dymu.batch_bipartite_merge(metric, 1, pad=torch.ones(batch, tokens, dtype=torch.bool))


def test_registered():
    assert dymu.PAPER is paper("dymu")
