# SPDX-License-Identifier: Apache-2.0
"""ToMe and tomesd: the official outputs, and every line of "What must be true" of the paper's page."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from integrations.timm_like import VisionTransformer, load_golden
from tokernel.papers import paper
from tokernel.reduce import tome
from tokernel.reduce._tomesd import grid_at

ATOL, ATOL_VIT = 1e-5, 2e-5  # of the golden files


def load(golden, name):
    with np.load(golden / "tome" / f"{name}.npz") as file:
        return dict(file)


def tensors(golden, name):
    values = load(golden, name)
    return {k: torch.from_numpy(v) if v.ndim else v.item() for k, v in values.items()}


def image(batch=2, edge=16):
    return torch.randn(batch, 3, edge, edge, generator=torch.Generator().manual_seed(1))


def vit(**options):
    torch.manual_seed(0)
    return VisionTransformer(**options).eval()


def metric(tokens=15, batch=2, width=8):
    return torch.randn(batch, tokens, width, generator=torch.Generator().manual_seed(2))


class TestGolden:
    """The torch ops under the paper's names; tests/merge holds the arrays on every backend."""

    @pytest.mark.parametrize("name", ["bsm_cls", "bsm_plain", "bsm_cls_dist"])
    def test_bipartite(self, golden, name):
        d = tensors(golden, name)
        plan = tome.bipartite_match(d["metric"], d["r"], d["class_token"], d["distill_token"])
        for field in ("unm_idx", "src_idx", "dst_idx"):
            assert torch.equal(getattr(plan, field), d[field]), field
        for mode in ("mean", "sum", "amax"):
            torch.testing.assert_close(plan.merge(d["x"], mode), d[f"merged_{mode}"], atol=ATOL, rtol=0)
        for prefix, size in (("wavg", d["size"]), ("wavg1", None)):
            x, size = plan.merge_weighted(d["x"], size)
            torch.testing.assert_close(x, d[f"{prefix}_x"], atol=ATOL, rtol=0)
            torch.testing.assert_close(size, d[f"{prefix}_size"], atol=ATOL, rtol=0)
        assert torch.equal(plan.source(), d["source"])
        if not d["distill_token"]:  # the official unmerge is wrong there
            torch.testing.assert_close(plan.unmerge(d["merged_mean"]), d["unmerged_mean"], atol=ATOL, rtol=0)

    def test_kth(self, golden):
        d = tensors(golden, "kth_k3")
        plan = tome.kth_match(d["metric"], d["k"])
        assert torch.equal(plan.dst_idx, d["dst_idx"])
        torch.testing.assert_close(plan.merge(d["x"]), d["merged_mean"], atol=ATOL, rtol=0)
        unmerged = plan.unmerge(d["merged_mean"])[:, : d["unmerged_mean"].shape[1]]
        torch.testing.assert_close(unmerged, d["unmerged_mean"], atol=ATOL, rtol=0)

    def test_random(self, golden):
        d = tensors(golden, "random_r5")
        plan = tome.random_match(d["metric"], d["r"], partition=(d["a_idx"], d["b_idx"]))
        assert torch.equal(plan.dst_idx, d["dst_idx"])
        torch.testing.assert_close(plan.merge(d["x"]), d["merged_mean"], atol=ATOL, rtol=0)
        torch.testing.assert_close(plan.unmerge(d["merged_mean"]), d["unmerged_mean"], atol=ATOL, rtol=0)

    @pytest.mark.parametrize("name", ["tomesd_norand", "tomesd_rand"])
    def test_tomesd(self, golden, name):
        d = tensors(golden, name)
        plan = tome.match_2d(d["metric"], d["w"], d["h"], d["sx"], d["sy"], d["r"], partition=(d["a_idx"], d["b_idx"]))
        for field in ("unm_idx", "src_idx", "dst_idx"):
            assert torch.equal(getattr(plan, field), d[field]), field
        merged = plan.merge(d["x"])
        torch.testing.assert_close(plan.unmerge(merged), d["unmerged_mean"], atol=ATOL, rtol=0)
        torch.testing.assert_close(merged, d["merged_mean"], atol=ATOL, rtol=0)

    def test_parse_r(self, golden):
        d = tensors(golden, "parse_r")
        for i in range(d["n"]):
            r = d[f"r{i}"].tolist() if d[f"kind{i}"] == 2 else d[f"r{i}"]
            r = (r, d[f"inflect{i}"]) if d[f"kind{i}"] == 1 else r
            assert tome.parse_r(d[f"L{i}"], r) == d[f"out{i}"].tolist()

    @pytest.mark.parametrize("name", ["vit_prop", "vit_noprop"])
    @torch.no_grad()
    def test_whole_vit(self, golden, name):
        d = load(golden, name)
        model, pixels = load_golden(d), torch.from_numpy(d["image"])
        np.testing.assert_allclose(model(pixels), d["logits_dense"], rtol=0, atol=ATOL_VIT)
        handle = tome.patch_vit(model, d["r_list"].tolist(), bool(d["prop_attn"]), trace_source=True)
        np.testing.assert_allclose(model(pixels), d["logits_tome"], rtol=0, atol=ATOL_VIT)
        np.testing.assert_array_equal(handle.size, d["final_size"])
        np.testing.assert_array_equal(handle.source, d["final_source"])


class TestWhatMustBeTrue:
    @pytest.mark.parametrize("fused", [True, False])
    def test_r_0_is_the_dense_model_bit_for_bit(self, fused):
        model = vit(fused=fused)
        dense = model(image())
        handle = tome.patch_vit(model, 0)
        assert torch.equal(model(image()), dense)
        assert handle.size is None

    @pytest.mark.parametrize(("class_token", "distill_token"), [(False, False), (True, False), (True, True)])
    @pytest.mark.parametrize("tokens", [2, 3, 4, 17])
    def test_output_has_the_promised_number_of_tokens(self, class_token, distill_token, tokens):
        protected = class_token + distill_token
        for r in (0, 1, 3, 99):
            plan = tome.bipartite_match(metric(tokens), r, class_token, distill_token)
            assert plan.kept == tokens - min(r, (tokens - protected) // 2)

    @pytest.mark.parametrize("r", [1, 3, 8, [8, 0, 4]])
    def test_sizes_sum_to_t_and_sources_partition_the_tokens(self, r):
        model = vit()
        handle = tome.patch_vit(model, r, trace_source=True)
        model(image())
        assert all(torch.equal(size.sum((1, 2)), torch.tensor([17.0, 17.0])) for size in handle.sizes)
        for size, source in zip(handle.sizes, handle.sources, strict=True):
            assert torch.equal(source.sum(1), torch.ones(2, 17))
            assert torch.equal(source.sum(2, keepdim=True), size)

    def test_merge_wavg_conserves_the_sum_of_x_times_size(self):
        x, size = metric(15).double().float(), torch.rand(2, 15, 1) + 1
        merged, new_size = tome.bipartite_match(metric(), 6).merge_weighted(x, size)
        torch.testing.assert_close((merged * new_size).sum(1), (x * size).sum(1), atol=1e-5, rtol=0)

    def test_class_and_distillation_tokens_pass_through_with_size_1(self):
        x = metric(18)
        plan = tome.bipartite_match(torch.ones(2, 18, 4), 8, class_token=True, distill_token=True)
        merged, size = plan.merge_weighted(x)
        assert torch.equal(merged[:, :2], x[:, :2])
        assert torch.equal(size[:, :2], torch.ones(2, 2, 1))

    @pytest.mark.parametrize("distill_token", [False, True])
    def test_merge_undoes_unmerge(self, distill_token):
        plan = tome.bipartite_match(metric(), 5, True, distill_token)
        y = torch.randint(-8, 9, (2, plan.kept, 3)).float()
        assert torch.equal(plan.merge(plan.unmerge(y), "mean"), y)

    @pytest.mark.parametrize("distill_token", [False, True])
    def test_unmerge_undoes_merge_where_nothing_was_merged(self, distill_token):
        x = metric(15)
        plan = tome.bipartite_match(x, 5, True, distill_token)
        alone = plan.merge(torch.ones(2, 15, 1), "sum").gather(1, plan.map[..., None]) == 1
        back = plan.unmerge(plan.merge(x))
        assert 15 > alone[0].sum() >= 5
        assert torch.equal(torch.where(alone, back, 0), torch.where(alone, x, 0))

    def test_merged_duplicates_give_the_dense_logits(self):
        # Patches in four groups of four equal ones: two layers merge duplicates only.
        model = vit(depth=3)
        group = torch.arange(16) // 4
        with torch.no_grad():
            model.pos_embed[:, 1:] = model.pos_embed[:, 1:][:, group * 4]
        pixels = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))
        pixels = pixels.repeat_interleave(4, 2).repeat(1, 1, 1, 4)  # every row of patches is one group
        dense = model(pixels)
        handle = tome.patch_vit(model, [8, 4, 0])
        torch.testing.assert_close(model(pixels), dense, atol=1e-5, rtol=1e-5)
        assert torch.equal(handle.size, torch.tensor([1.0, 4, 4, 4, 4]).view(1, 5, 1).repeat(2, 1, 1))
        handle.prop_attn = False
        assert (model(pixels) - dense).abs().max() > 1e-3

    def test_merging_commutes_with_relabelling_of_channels(self):
        x, order = metric(15), torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
        plan = tome.bipartite_match(metric(), 6)
        assert torch.equal(plan.unmerge(plan.merge(x))[..., order], plan.unmerge(plan.merge(x[..., order])))

    @pytest.mark.parametrize("factor", [0.125, 3.7, 1e4])
    def test_a_positive_factor_of_the_metric_changes_nothing(self, factor):
        plan = tome.bipartite_match(metric(), 6)
        assert torch.equal(tome.bipartite_match(metric() * factor, 6).map, plan.map)

    def test_merge_is_differentiable_in_x_and_not_in_the_metric(self):
        keys = metric().requires_grad_()
        x = metric().double().requires_grad_()
        plan = tome.bipartite_match(keys, 6)
        x32 = x.float()
        (plan.merge_weighted(x32)[0].square().sum() + plan.unmerge(plan.merge(x32)).sum()).backward()
        assert x.grad.abs().min() > 0
        assert keys.grad is None

    def test_kth_with_groups_of_two_is_plain_matching_of_all(self):
        even = metric(14)
        kth, plain = tome.kth_match(even, 2), tome.bipartite_match(even, 7)
        assert torch.equal(kth.unmerge(kth.merge(even)), plain.unmerge(plain.merge(even)))

    def test_2d_result_does_not_depend_on_the_order_of_the_lists(self):
        tokens = metric(35)
        first = tome.match_2d(tokens, 7, 5, 2, 2, 17, no_rand=True)
        destinations = torch.tensor([row * 7 + column for row in (0, 2) for column in (0, 2, 4)])
        sources = torch.tensor([i for i in range(35) if i not in destinations.tolist()])
        second = tome.match_2d(tokens, 7, 5, 2, 2, 17, partition=(sources.flip(0), destinations.flip(0)))
        expected = first.unmerge(first.merge(tokens))
        torch.testing.assert_close(second.unmerge(second.merge(tokens)), expected, atol=1e-6, rtol=0)


class TestTraps:
    def test_a_zero_metric_vector_has_cosine_0(self):
        keys = metric(8, batch=1)
        keys[0, 2] = 0
        plan = tome.bipartite_match(keys, 3)
        assert 1 not in plan.src_idx  # token 2 is row 1; the official NaN would go first
        assert plan.merge(keys).isfinite().all()

    def test_ties_go_to_the_lowest_index(self):
        plan = tome.bipartite_match(torch.ones(1, 8, 4, dtype=torch.float16), 2)
        assert plan.src_idx.tolist() == [[0, 1]]
        assert plan.dst_idx.tolist() == [[0, 0]]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_low_precision_payloads_are_summed_in_float32(self, dtype):
        x = (metric(64, batch=1, width=4) * 100).to(dtype)
        plan = tome.match_2d(metric(64, batch=1), 8, 8, 8, 8, 63, no_rand=True)
        exact = x.double().mean(1)
        half_ulp = torch.finfo(dtype).eps / 2
        assert ((plan.merge(x)[:, 0].double() - exact).abs() <= half_ulp * exact.abs() * 1.01 + 1e-4).all()

    def test_one_layer_takes_the_mean_of_its_line(self):
        assert tome.parse_r(1, (8, -1.0)) == [8]
        assert tome.parse_r(0, (8, -1.0)) == []

    def test_longer_lists_are_kept(self):
        assert tome.parse_r(2, [1, 2, 3]) == [1, 2, 3]
        model = vit(depth=2)
        assert tome.patch_vit(model, [1, 2, 3]).schedule == [1, 2, 3]
        model(image())

    def test_metric_width_is_the_heads_width_while_x_is_full(self):
        plan = tome.bipartite_match(metric(15, width=4), 6)
        assert plan.merge(metric(15, width=16)).shape == (2, 9, 16)
        with pytest.raises(ValueError, match="must be"):
            plan.merge(metric(14, width=16))


class TestProportionalAttention:
    def test_equals_the_written_formula(self):
        q, k, v = torch.randn(3, 2, 2, 7, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
        size = torch.arange(1.0, 8).view(1, 7, 1).repeat(2, 1, 1)
        logits = (q @ k.mT).double() / 2 + size.double().log().mT[:, None]
        expected = (logits.softmax(-1) @ v.double()).float()
        torch.testing.assert_close(tome.proportional_attention(q, k, v, size), expected, atol=1e-6, rtol=1e-5)
        logits = (q @ k.mT).double() * 3
        expected = (logits.softmax(-1) @ v.double()).float()
        torch.testing.assert_close(tome.proportional_attention(q, k, v, scale=3.0), expected, atol=1e-6, rtol=1e-5)

    def test_runs_on_the_fused_kernel(self):
        q, k, v = torch.randn(3, 2, 2, 7, 4).unbind(0)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
            tome.proportional_attention(q, k, v, torch.ones(2, 7, 1))

    def test_training_keeps_the_fused_kernel(self):
        model = vit().train()
        handle = tome.patch_vit(model, 3)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
            model(image()).sum().backward()
        assert not handle.size.requires_grad

    def test_sizes_of_another_length_are_refused(self):
        q, k, v = torch.randn(3, 2, 2, 7, 4).unbind(0)
        with pytest.raises(ValueError, match="size expected shape"):
            tome.proportional_attention(q, k, v, torch.ones(2, 6, 1))


@pytest.mark.parametrize(
    ("r", "error", "message"),
    [
        (-1, ValueError, "at least 0"),
        ([3, -2], ValueError, "at least 0"),
        ((8, 1.5), ValueError, "between -1 and 1"),
        ((8,), ValueError, "pair"),
        ([1.5], TypeError, "integers"),
        ((1.5, 0.0), TypeError, "integers"),
        (True, TypeError, "integers"),
    ],
)
def test_bad_rates(r, error, message):
    with pytest.raises(error, match=message):
        tome.parse_r(3, r)


def test_the_smallest_inputs():
    for tokens in (1, 2):
        plan = tome.bipartite_match(metric(tokens), 5, class_token=True)
        assert plan.kept == tokens
    model = vit()
    tome.patch_vit(model, 99)
    assert model(image(batch=0)).shape == (0, 5)
    assert model(image(batch=1)).shape == (1, 5)


def test_grids_of_a_unet():
    assert grid_at(64, 64, 4096) == (64, 64, 1)
    assert grid_at(64, 96, 1536) == (32, 48, 2)
    assert grid_at(9, 9, 25) == (5, 5, 2)


def test_registered():
    assert tome.PAPER is paper("tome")
