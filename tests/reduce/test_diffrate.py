# SPDX-License-Identifier: Apache-2.0
"""DiffRate: the official outputs, and every line of "What must be true" of the paper's page."""

import copy
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from integrations.timm_like import VisionTransformer, load_golden
from tokernel.integrations import patch_of
from tokernel.papers import paper
from tokernel.reduce import diffrate
from tokernel.reduce.diffrate import BudgetDistribution, DiffRateSearch, policy_softmax, sorted_merge, vit_flops

ATOL, RTOL_GRAD = 1e-5, 1e-4  # of the golden files


def load(golden, name):
    with np.load(golden / "diffrate" / f"{name}.npz") as file:
        return dict(file)


def tensors(golden, name):
    values = load(golden, name)
    return {k: torch.from_numpy(v) if v.ndim else v.item() for k, v in values.items()}


def close(got, want, atol=ATOL, rtol=0.0):
    torch.testing.assert_close(got, want, atol=atol, rtol=rtol)


def close_gradient(got, want):
    close(got, want, atol=1e-7, rtol=RTOL_GRAD)


def image(batch=2):
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def vit(**options):
    torch.manual_seed(0)
    return VisionTransformer(**options).eval()


def budget(logits, patches=16, granularity=1, class_token=True):
    made = BudgetDistribution(patches, granularity, class_token)
    with torch.no_grad():
        made.logits.copy_(torch.as_tensor(logits))
    return made


def concentrate(made, patches):
    """Let a budget be certain to keep so many patches."""
    with torch.no_grad():
        made.logits.copy_(torch.where(made.candidates == patches, 200.0, -200.0))


class TestGolden:
    @pytest.mark.parametrize("name", ["ddp_g1", "ddp_g4"])
    def test_budgets(self, golden, name):
        d = tensors(golden, name)
        made = BudgetDistribution(d["patch_number"], d["granularity"], bool(d["class_token"]))
        assert torch.equal(made.candidates, d["candidates"])
        made.load_state_dict({"logits": d["selected_probability"]})

        def gradient(output):
            return torch.autograd.grad(output, made.logits)[0]

        assert int(made.kept()) == d["kept_token_number"]
        close_gradient(gradient(made.kept()), d["grad_kept"])
        close(made.keep_probability(), d["token_probability"])
        assert torch.equal(made.mask(), d["token_mask"])
        close_gradient(gradient(made.mask() @ d["v"]), d["grad_mask_dot_v"])
        partial = d["partial_token_number"]
        assert torch.equal(made.mask(partial), d["token_mask_partial"])
        close_gradient(gradient(made.mask(partial) @ d["v"]), d["grad_mask_partial_dot_v"])

    @pytest.mark.parametrize("name", ["merge_cls", "merge_nocls"])
    def test_merge(self, golden, name):
        d = tensors(golden, name)
        x, size, kept = d["x"], d["size"], d["kept_number"]
        plan = sorted_merge(x, kept, bool(d["class_token"]))
        assert torch.equal(plan.dst_idx, d["dst_idx"])
        close(plan.node_max, d["node_max"])
        close(plan.merge(x), d["merged_mean"])
        close(torch.cat([plan.merge(x), x[:, kept:]], 1), d["merged_mean_training"])
        scaled = plan.scaled_size(size)
        close(plan.merge_size(scaled), d["size_eval"])
        clamped = scaled.clamp_min(1)
        close(torch.cat([plan.merge_size(clamped), clamped[:, kept:]], 1), d["size_train"])
        assert torch.equal(plan.source(torch.eye(x.shape[1]).repeat(2, 1, 1)), d["source"])

    def test_policy_softmax(self, golden):
        d = tensors(golden, "softmax_policy")
        close(policy_softmax(d["logits"], d["policy"], 1e-6), d["out"])

    @torch.no_grad()
    def test_inference_vit(self, golden):
        d = load(golden, "vit_small")
        model = load_golden(d)
        prune_kept, merge_kept = d["prune_kept"].tolist(), d["merge_kept"].tolist()
        handle = diffrate.patch_vit(model, prune_kept, merge_kept, trace_source=True)
        np.testing.assert_allclose(model(torch.from_numpy(d["image"])), d["logits_eval"], rtol=0, atol=ATOL)
        np.testing.assert_allclose(handle.size, d["final_size"], rtol=0, atol=ATOL)
        np.testing.assert_array_equal(handle.source, d["final_source"])
        assert vit_flops(16, 4, 16, prune_kept, merge_kept, classes=5).item() == d["flops_eval"]

    def test_training_vit(self, golden):
        d = load(golden, "vit_small")
        search = DiffRateSearch(load_golden(d), target_gflops=1e-4, granularity=1)
        for kind, budgets in (("prune", search.prune), ("merge", search.merge)):
            for i, made in enumerate(budgets):
                made.load_state_dict({"logits": torch.from_numpy(d[f"sp.{i}.{kind}_ddp"])})
        logits = search(torch.from_numpy(d["image"]))
        loss = logits.square().mean() + 5 * (search.flops() / 1e5 - 1) ** 2
        loss.backward()
        close(logits.detach(), torch.from_numpy(d["logits_train"]))
        assert search.flops().item() == d["flops_train"]
        assert search.schedule() == (d["train_prune_kept"].tolist(), d["train_merge_kept"].tolist())
        assert loss.item() == pytest.approx(float(d["loss"]), abs=ATOL)
        np.testing.assert_array_equal(patch_of(search.model).masks[-1].detach(), d["final_mask"])
        for kind, budgets in (("prune", search.prune), ("merge", search.merge)):
            for i, made in enumerate(budgets):
                close_gradient(made.logits.grad, torch.from_numpy(d[f"gsp.{i}.{kind}_ddp"]))

    def test_published_schedules_reproduce_the_published_gflops(self, golden):
        d = tensors(golden, "flops_published")
        for i in range(d["n"]):
            shape = (d[f"embed_dim{i}"], d[f"patch{i}"], d[f"num_patches{i}"])
            prune_kept, merge_kept = d[f"prune_kept{i}"].tolist(), d[f"merge_kept{i}"].tolist()
            gflops = vit_flops(*shape, prune_kept, merge_kept, classes=d["num_classes"]).item() / 1e9
            assert gflops == pytest.approx(d[f"gflops{i}"], abs=5e-4)
            dense = [d[f"num_patches{i}"] + 1] * len(prune_kept)
            assert vit_flops(*shape, dense, dense).item() / 1e9 == pytest.approx(d[f"gflops_dense{i}"], abs=5e-4)


DEIT_S = (
    [197, 196, 190, 168, 150, 139, 129, 117, 99, 78, 58, 3],
    [197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3],
)


class TestWhatMustBeTrue:
    @pytest.mark.parametrize("kept", [17, 99])
    def test_keeping_everything_is_the_dense_model(self, kept):
        model = vit()
        dense = model(image())
        diffrate.patch_vit(model, [kept] * 3, [kept] * 3)
        assert torch.equal(model(image()), dense)
        full = vit_flops(16, 4, 16, [17] * 3, [17] * 3)
        assert torch.equal(vit_flops(16, 4, 16, [kept] * 3, [kept] * 3), full)

    def test_searching_with_everything_kept_gives_the_dense_logits(self):
        model = vit()
        dense = model(image())
        search = DiffRateSearch(model, 1e-4, granularity=1)
        for made in (*search.prune, *search.merge):
            concentrate(made, 16)
        close(search(image()), dense, atol=2e-5)

    @pytest.mark.parametrize("granularity", [1, 4])
    @pytest.mark.parametrize("class_token", [True, False])
    def test_a_certain_budget_keeps_its_candidate(self, granularity, class_token):
        made = BudgetDistribution(16, granularity, class_token)
        for candidate in made.candidates.tolist():
            concentrate(made, candidate)
            assert int(made.kept()) == candidate + class_token
            assert torch.equal(made.mask(), made.keep_probability())

    def test_keep_probability_falls_and_sums_to_the_expected_count(self):
        made = budget(torch.randn(16, generator=torch.Generator().manual_seed(0)))
        probability = made.keep_probability()
        assert (probability.diff() <= 0).all()
        assert torch.equal(probability[:2], torch.ones(2))
        close(probability.sum(), made.candidates @ made.logits.softmax(0) + 1)

    def test_gradient_of_the_count_is_p_times_distance_to_the_mean(self):
        made = budget(torch.randn(16, generator=torch.Generator().manual_seed(0)))
        made.kept().backward()
        p, c = made.logits.detach().double().softmax(0), made.candidates.double()
        close_gradient(made.logits.grad.double(), p * (c - c @ p))

    @pytest.mark.parametrize("alive", [None, 14])
    def test_gradient_of_the_mask_is_the_softmax_jacobian_of_cumulative_v(self, alive):
        made = budget(torch.randn(16, generator=torch.Generator().manual_seed(0)))
        v = torch.randn(17, generator=torch.Generator().manual_seed(1))
        (made.mask(alive) @ v).backward()
        p = made.logits.detach().double().softmax(0)
        cumulative = torch.stack([v[: int(c) + 1].double().sum() for c in made.candidates])
        close_gradient(made.logits.grad.double(), p * (cumulative - p @ cumulative))

    @torch.no_grad()
    def test_masked_training_and_compacted_inference_agree_on_living_tokens(self):
        # Pruning in every block; merging in the last one, behind which no attention reads the sizes: training clamps
        # them at 1 and inference does not.
        model = vit(depth=4)
        search = DiffRateSearch(model, 1e-4, granularity=1)
        for made, patches in zip(search.prune, (16, 13, 11, 9), strict=True):
            concentrate(made, patches)
        for made, patches in zip(search.merge, (16, 16, 16, 6), strict=True):
            concentrate(made, patches)
        masked, tokens = search(image()), model.forward_features(image())
        mask, kept = patch_of(model).masks[-1], search.finish()
        assert torch.equal(mask, torch.tensor([1.0] * 7 + [0.0] * 10).repeat(2, 1))
        handle = diffrate.patch_vit(model, *kept)
        close(model(image()), masked, atol=2e-5)
        close(model.forward_features(image()), tokens[:, :7], atol=2e-5)
        assert handle.size.shape == (2, 7, 1)

    def test_policy_of_ones_is_softmax(self):
        logits = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
        close(policy_softmax(logits, torch.ones(2, 7)), logits.softmax(-1), atol=1e-6)

    def test_a_masked_key_gets_the_epsilon_share_and_the_diagonal_everything(self):
        logits = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(0))
        policy = torch.tensor([[1.0, 1, 0, 1, 0]])
        attention = policy_softmax(logits, policy, eps=1e-3)
        e = (logits - logits.amax(-1, keepdim=True)).exp()
        for query in range(5):
            seen = [key for key in range(5) if policy[0, key] or key == query]
            total = e[0, :, query, seen].sum(-1) + 1e-3
            for key in range(5):
                expected = ((e[0, :, query, key] if key in seen else 0) + 1e-3 / 5) / total
                close(attention[0, :, query, key], expected, atol=1e-7, rtol=1e-5)
        close(attention.sum(-1), torch.ones(1, 2, 5), atol=1e-6)

    def test_deit_s_schedule_and_dense_models_of_the_paper(self):
        assert round(vit_flops(384, 16, 196, *DEIT_S).item() / 1e9, 4) == 2.9053
        for dim, patch, patches, depth, gflops in [
            (384, 16, 196, 12, 4.599),
            (768, 16, 196, 12, 17.564),
            (1024, 16, 196, 24, 61.555),
            (1280, 14, 256, 32, 167.296),
        ]:
            dense = [patches + 1] * depth
            assert round(vit_flops(dim, patch, patches, dense, dense).item() / 1e9, 3) == gflops

    @torch.no_grad()
    def test_class_token_receives_nothing_and_sources_are_disjoint(self):
        model = vit()
        handle = diffrate.patch_vit(model, [15, 12, 9], [13, 10, 3], trace_source=True)
        model(image())
        source = handle.source
        assert torch.equal(source[:, 0], torch.eye(17)[0].repeat(2, 1))
        assert torch.equal(handle.size[:, 0], torch.ones(2, 1))
        assert source.sum(1).max() == 1
        # Four tokens are pruned on the way, some of them merged ones: their columns are empty.
        assert ((source.sum(1) == 0).sum(1) >= 4).all()
        # No merge reaches the class token, however similar.
        alike = torch.ones(1, 6, 4)
        assert sorted_merge(alike, 3).dst_idx.tolist() == [[1, 1, 1]]

    @pytest.mark.parametrize("share", [0.55, 0.8])
    def test_flops_loss_alone_reaches_the_target(self, share):
        torch.manual_seed(0)
        model = VisionTransformer(image=56, patch=4, dim=192, depth=6, heads=3, mlp_ratio=4.0, classes=10)
        dense = vit_flops(192, 4, 196, [197] * 6, [197] * 6, classes=10).item() / 1e9
        search = DiffRateSearch(model, share * dense)
        optimiser = torch.optim.AdamW(search.parameters(), lr=0.01, weight_decay=0)
        for _ in range(400):
            optimiser.zero_grad()
            search.loss().backward()
            optimiser.step()
        prune_kept, merge_kept = search.finish()
        found = vit_flops(192, 4, 196, prune_kept, merge_kept, classes=10).item() / 1e9
        assert found == pytest.approx(share * dense, rel=0.01)
        assert prune_kept[0] == merge_kept[0] == 197


class TestTraps:
    def test_minimum_passes_its_gradient_to_both_counts_and_none_to_n(self):
        prune = torch.tensor(9.0, requires_grad=True)
        merge = torch.tensor(7.0, requires_grad=True)
        last = torch.tensor(5.0, requires_grad=True)
        vit_flops(1, 1, 16, [prune, last], [merge, last]).backward()
        # d/dn of 8 n behind the first block and of 4 n + 2 n^2 before the second, at n = 7; none flows from the last.
        assert prune.grad == merge.grad == 8 + 4 + 4 * 7
        assert last.grad == 2 * 8

    def test_a_negative_cosine_leaves_a_legal_size(self):
        x = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [-1.0, -0.1]]])
        plan = sorted_merge(x, 2)
        size = plan.merge_size(plan.scaled_size(torch.tensor([[[1.0], [1.0], [3.0]]])))
        assert plan.node_max < 0
        assert size.log().isfinite().all()

    def test_mean_ignores_sizes(self):
        x = torch.tensor([[[5.0], [1.0], [3.0]]])
        assert sorted_merge(x, 2).merge(x).tolist() == [[[5.0], [2.0]]]

    def test_a_dead_dominating_key_underflows_the_living(self):
        logits = torch.zeros(1, 1, 3, 3)
        logits[..., 2] = 200
        attention = policy_softmax(logits, torch.tensor([[1.0, 1, 0]]))
        close(attention[0, 0, 0], torch.full((3,), 1 / 3), atol=1e-6)
        assert attention.isfinite().all()

    @torch.no_grad()
    def test_counts_may_rise_from_block_to_block(self):
        model = vit()
        diffrate.patch_vit(model, [17, 9, 9], [17, 9, 9])
        expected = model(image())
        diffrate.patch_vit(model, [17, 9, 14], [17, 9, 12])
        assert torch.equal(model(image()), expected)

    def test_counts_are_not_stale_after_loading(self):
        made = BudgetDistribution(16)
        made.load_state_dict(budget([-9.0] * 15 + [9.0]).state_dict())
        assert int(made.kept()) == 3
        assert list(made.state_dict()) == ["logits"]

    @torch.no_grad()
    def test_the_last_block_may_keep_three_tokens_for_a_class_head(self):
        model = vit()
        diffrate.patch_vit(model, [17, 12, 3], [17, 10, 3])
        assert model.forward_features(image()).shape == (2, 3, 16)

    def test_ties_of_importance_keep_the_order(self):
        assert diffrate.importance_order(torch.zeros(1, 5)).tolist() == [[0, 1, 2, 3, 4]]
        assert diffrate.importance_order(torch.tensor([[0.0, 1, 2]]), class_token=False).tolist() == [[2, 1, 0]]

    def test_parameters_are_the_budgets_and_all_of_them(self):
        model = vit()
        search = DiffRateSearch(model, 1e-4, granularity=4)
        assert [tuple(p.shape) for p in search.parameters()] == [(1,), (4,), (4,)] * 2
        assert not any(p.requires_grad for p in model.parameters())


class TestSearch:
    def test_the_model_comes_back_as_it_was(self):
        model = vit()
        model.cls_token.requires_grad_(False)
        trainable = [p.requires_grad for p in model.parameters()]
        before = {name: set(vars(part)) for name, part in model.named_modules()}
        dense = model(image())
        search = DiffRateSearch(model, 1e-4, granularity=1)
        search.loss(search(image()).square().mean()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in search.parameters())
        schedule = search.finish()
        assert [p.requires_grad for p in model.parameters()] == trainable
        assert {name: set(vars(part)) for name, part in model.named_modules()} == before
        assert torch.equal(model(image()), dense)
        assert all(p.grad is None for p in model.parameters())
        diffrate.patch_vit(model, *schedule)

    def test_copies_search_on_their_own(self):
        search = DiffRateSearch(vit(), 1e-4, granularity=1)
        search(image())
        twin = copy.deepcopy(search)
        concentrate(twin.prune[1], 3)
        assert twin.schedule().prune_kept[1] == 4
        assert search.schedule().prune_kept[1] == 10
        assert not torch.equal(twin(image()), search(image()))

    def test_heads_that_average_keep_the_last_block(self):
        search = DiffRateSearch(vit(global_pool="avg"), 1e-4, granularity=1)
        assert len(search.prune[-1].logits) == len(search.merge[-1].logits) == 1
        search(image()).sum().backward()

    def test_models_without_a_class_token_are_refused(self):
        with pytest.raises(ValueError, match="class token"):
            DiffRateSearch(vit(class_token=False, global_pool="avg"), 1e-4)


@torch.no_grad()
def test_without_class_token_the_attention_of_all_queries_ranks():
    model = vit(class_token=False, global_pool="avg", depth=2)
    handle = diffrate.patch_vit(model, [10, 10], [10, 10], trace_source=True)
    model(image())
    view = handle.vit.views[0]
    x = model.patch_embed(image()) + model.pos_embed
    q, k, _ = view.heads(x)
    received = (q @ k.mT * view.scale).softmax(-1).mean((1, 2))
    expected = received.sort(dim=1, descending=True, stable=True)[1][:, :10]
    assert torch.equal(handle.source.argmax(2), expected)


def test_schedule_files(tmp_path):
    published = {"deit_s": {"2.9": {"prune_kept_num": str(DEIT_S[0]), "merge_kept_num": str(DEIT_S[1])}}}
    path = tmp_path / "rates.json"
    path.write_text(json.dumps(published))
    assert diffrate.load_schedule(path, "deit_s", "2.9") == DEIT_S
    assert diffrate.load_schedule({"prune_kept": [5, 4], "merge_kept": [5, 3]}) == ([5, 4], [5, 3])
    with pytest.raises(ValueError, match=r"expected one of 2\.9; got '3\.1'"):
        diffrate.load_schedule(path, "deit_s", "3.1")
    with pytest.raises(ValueError, match="merge_kept expected a list"):
        diffrate.load_schedule({"prune_kept": [5, 4]})
    with pytest.raises(TypeError, match="integers"):
        diffrate.load_schedule({"prune_kept": [5, 4.5], "merge_kept": [5, 4]})


def test_schedule_may_change_later():
    model = vit()
    handle = diffrate.patch_vit(model, [17, 12, 9], [17, 10, 5])
    handle.schedule = diffrate.Schedule([17, 12, 12], [17, 12, 8])
    assert model.forward_features(image()).shape[1] == 8
    with pytest.raises(ValueError, match="at least 2"):
        handle.schedule = diffrate.Schedule([17, 12, 1], [17, 12, 1])
    assert handle.schedule.merge_kept == [17, 12, 8]


def test_bad_arguments():
    with pytest.raises(ValueError, match="at least 1"):
        BudgetDistribution(0)
    with pytest.raises(ValueError, match="policy expected shape"):
        policy_softmax(torch.zeros(2, 1, 3, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match="one length"):
        vit_flops(16, 4, 16, [17], [17, 9])
    with pytest.raises(ValueError, match="kept expected at least 2"):
        sorted_merge(torch.zeros(1, 5, 3), 1)


def test_the_smallest_inputs():
    assert sorted_merge(torch.zeros(2, 5, 3), 9).merge(torch.ones(2, 5, 3)).shape == (2, 5, 3)
    assert sorted_merge(torch.zeros(0, 5, 3), 3).merge(torch.ones(0, 5, 3)).shape == (0, 3, 3)
    assert diffrate.prune(torch.zeros(1, 5, 3), 9).shape == (1, 5, 3)
    model = vit()
    diffrate.patch_vit(model, [17, 12, 9], [17, 10, 5])
    assert model(image(batch=0)).shape == (0, 5)
    assert model(image(batch=1)).shape == (1, 5)


def test_registered():
    assert diffrate.PAPER is paper("diffrate")
