# SPDX-License-Identifier: Apache-2.0
"""Pruning of real models: the experiment of bench/real_pruning.py on small models without a download."""

import importlib.util
import json

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")

import tokernel
import typer
from bench import digits_vit, pruning_tasks
from bench import pruning_cascades as cascades
from bench import pruning_methods as methods
from bench import real_pruning as real
from tokernel.integrations.vit import Vit
from tokernel.reduce import zero_tprune
from typer.testing import CliRunner

ALL = list(methods.CHOOSERS)


def vit(depth=6, image=24):
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": depth, "num_attention_heads": 4, "intermediate_size": 64}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=image, patch_size=4, num_labels=4)).eval()


def pictures(count=6, edge=24):
    return torch.randn(count, 3, edge, edge, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _no_gradient():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def seen():
    with torch.inference_mode():
        return methods.look(Vit(vit()), pictures(), 2)


class TestMethods:
    def test_looking_and_finishing_is_the_model(self):
        model = vit()
        found = methods.look(Vit(model), pictures(), 2)
        assert found.patches == 36
        assert found.grid == (6, 6)
        assert torch.equal(model.classifier(methods.finish(Vit(model), found.x, 2)), model(pictures()).logits)
        torch.testing.assert_close(found.attn.sum(-1), torch.ones(6, 4, 37))
        torch.testing.assert_close(found.spatten.token_score.sum(-1), torch.full((6,), 3.0 * 4 * 37))
        torch.testing.assert_close(found.middle.sum(-1), torch.ones(6))

    @pytest.mark.parametrize("name", ALL)
    @pytest.mark.parametrize("kept", [27, 18, 9, 2])
    def test_every_chooser_keeps_as_many_distinct_patches_as_told_in_their_order(self, seen, name, kept):
        keep = methods.CHOOSERS[name](seen, kept, 0)
        assert keep.shape == (6, kept)
        assert (keep.diff(dim=1) > 0).all()
        assert keep.min() >= 0
        assert keep.max() < 36
        assert torch.equal(methods.CHOOSERS[name](seen, kept, 0), keep)

    def test_only_chance_depends_on_the_seed(self, seen):
        for name, choose in methods.CHOOSERS.items():
            assert torch.equal(choose(seen, 9, 0), choose(seen, 9, 1)) == (name != methods.BASELINE)

    def test_a_chooser_in_the_middle_is_the_paper_s_patch_there(self, seen):
        model = vit()
        keep = methods.CHOOSERS["zero_tprune"](seen, 9, 0)
        x = seen.x.gather(
            1, torch.cat([torch.zeros(6, 1, dtype=torch.int64), keep + 1], 1)[..., None].expand(-1, -1, 32)
        )
        handle = zero_tprune.patch_vit(model, {2: (5, 9 / 23, 13)})
        logits = model(pictures()).logits
        assert torch.equal(handle.kept[:, 1:] - 1, keep)
        torch.testing.assert_close(model.classifier(methods.finish(Vit(vit()), x, 2)), logits, atol=1e-5, rtol=1e-5)


def plan(patches=36, kept=12, at=2, seed=0):
    return cascades.Plan(patches, kept, at, pictures(4), seed)


class TestCascades:
    @pytest.mark.parametrize(
        ("patches", "kept", "layers"), [(64, 8, 3), (64, 48, 3), (256, 16, 6), (256, 128, 6), (9, 2, 3)]
    )
    def test_schedules_arrive_and_halve_at_most(self, patches, kept, layers):
        asked = plan(patches, kept, layers - 1)
        assert asked.reachable
        left = patches
        for count in asked.schedule:
            assert 0 <= count <= left // 2
            left -= count
        assert left == kept

    def test_what_merging_cannot_reach(self):
        assert not plan(64, 4, 2).reachable
        assert plan(64, 8, 2).reachable

    @pytest.mark.parametrize("name", list(cascades.CASCADES))
    def test_every_cascade_shortens_up_to_the_middle_and_leaves_the_model_alone(self, name):
        model = vit()
        before = model(pictures()).logits
        lengths = []
        with cascades.CASCADES[name](model, plan()) as run:
            hook = model.vit.layers[3].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
            short = run(pictures())
            hook.remove()
        assert short.state.shape == (6, 32)
        held, left = short.source.sum(1), (short.source.sum(-1) > 0).sum(-1)
        if name in ("tome", "dymu"):
            assert torch.equal(held, torch.ones(6, 36))  # nothing is lost
        else:
            assert torch.equal(held, (held > 0).float())
        if name == "dymu":
            assert lengths == [1 + left.max().item()]
            assert 5 <= left.float().mean() <= 36
        else:
            assert lengths == [13]
            assert left.tolist() == [12] * 6
        assert torch.equal(model(pictures()).logits, before)

    def test_dropping_is_traced_to_the_patches_it_leaves(self):
        model = vit()
        drop = cascades.Drop(model, plan())
        drop.install(range(3))
        methods.finish(drop.vit, methods.embed(drop.vit, pictures()), -1)
        drop.unpatch()
        x = methods.embed(Vit(model), pictures())
        kept = drop.kept
        again = cascades.Drop(model, plan())
        index = torch.arange(36).expand(6, -1)
        for block, count in enumerate(plan().schedule):
            keep = again.choose(block, torch.zeros(6, 4, x.shape[1], x.shape[1]), x.shape[1] - 1 - count)
            x = model.vit.layers[block](x)
            x = torch.cat([x[:, :1], x[:, 1:].take_along_dim(keep[..., None], 1)], 1)
            index = index.gather(1, keep)
        assert torch.equal(kept, index)

    def test_only_the_baseline_depends_on_the_seed(self):
        model = vit()
        for name, cascade in cascades.CASCADES.items():
            sources = []
            for seed in (0, 1):
                with cascade(model, plan(seed=seed)) as run:
                    sources.append(run(pictures()).source)
            assert torch.equal(*sources) == (name != cascades.STEPWISE_BASELINE)


class TestCoverage:
    def test_by_hand(self):
        x = torch.tensor([[[9.0, 9], [1, 0], [2, 0.1], [0, 1], [0.1, 3]]])
        reference = real.Reference(x, 2)
        both = reference.of_kept(torch.tensor([[0, 2]]))
        unit = torch.nn.functional.normalize(x[0, 1:], dim=-1)
        expected = (1 - (unit @ unit[[0, 2]].T).amax(1)).mean()
        torch.testing.assert_close(both.distance, expected[None], atol=1e-6, rtol=0)
        assert both.clusters.tolist() == [1.0]
        one = reference.of_kept(torch.tensor([[0, 1]]))
        assert one.clusters.tolist() == [0.5]
        assert one.distance > both.distance

    def test_groups_count_by_their_mean_and_padding_not_at_all(self):
        x = torch.tensor([[[9.0, 9], [1, 0], [2, 0.1], [0, 1], [0.1, 3]]])
        reference = real.Reference(x, 2)
        source = torch.tensor([[[1.0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]])
        merged = reference.of_merged(source)
        means = torch.nn.functional.normalize(torch.tensor([[1.5, 0.05], [0.05, 2.0]]), dim=-1)
        expected = (1 - (torch.nn.functional.normalize(x[0, 1:], dim=-1) @ means.T).amax(1)).mean()
        torch.testing.assert_close(merged.distance, expected[None], atol=1e-6, rtol=0)
        assert merged.clusters.tolist() == [1.0]
        assert reference.of_merged(source * torch.tensor([1.0, 0, 0])[:, None]).clusters.tolist() == [0.5]

    def test_everything_kept_covers_everything(self, seen):
        covered = real.Reference(seen.x, 5).of_kept(torch.arange(36).expand(6, -1))
        torch.testing.assert_close(covered.distance, torch.zeros(6), atol=1e-6, rtol=0)
        assert torch.equal(covered.clusters, torch.ones(6))


def test_retrieval_asks_for_the_owner_of_the_nearest_gallery_crop():
    gallery = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    queries = torch.tensor([[5.0, 0.1], [0, 2], [1, 0.3], [0.1, 1], [3, 0], [0, 1]])
    assert pruning_tasks.retrieval(gallery, 2)(queries).tolist() == [1, 0, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("better", "worse", "word"),
    [(0.9, 0.5, "holds"), (0.5, 0.9, "reversed"), (0.7, 0.7, "no difference seen")],
)
def test_a_verdict_is_beyond_two_standard_errors_image_by_image(monkeypatch, better, worse, word):
    monkeypatch.setattr(real, "CLAIMS", (("a", "b", "a beats b"),))
    task = real.Task("t", "", None, torch.zeros(0), torch.zeros(0), 0, 1, lambda x: x)
    generator = torch.Generator().manual_seed(0)
    right = {
        (method, share): (torch.rand(200, generator=generator) < p).float()
        for method, p in (("a", better), ("b", worse))
        for share in (0.5, 0.25)
    }
    right["a", 0.125] = torch.zeros(200)  # b has no such share: not compared
    right["a", 0.0625] = right["b", 0.0625] = torch.zeros(200)  # b keeps twice as many there: neither
    rows = [real.Row("t", m, s, 64 * s * (1 + (m == "b" and s < 0.1)), 0, 0, 0, 0, 0) for m, s in right]
    (verdict,) = real.verdicts(task, rows, right)
    paired = (right["a", 0.5] - right["b", 0.5] + right["a", 0.25] - right["b", 0.25]) / 2
    assert verdict.difference == pytest.approx(paired.mean().item(), abs=1e-6)
    assert verdict.error == pytest.approx(paired.std().item() / 200**0.5, abs=1e-6)
    assert verdict.verdict == word


def test_crops_are_the_same_every_time_and_of_the_size_asked():
    if importlib.util.find_spec("skimage") is None:
        pytest.skip("scikit-image brings the photographs: pip install --no-deps scikit-image==0.26.0")
    some = pruning_tasks.PHOTOS[:2]
    cut = pruning_tasks.crops(2, 0, some)
    assert cut.shape == (4, 3, 224, 224)
    assert torch.equal(pruning_tasks.crops(2, 0, some), cut)
    assert not torch.equal(pruning_tasks.crops(2, 1, some), cut)


def _app():
    app = typer.Typer()
    app.command()(real.main)
    return app


def small_task(*_):
    model = vit()
    score = pruning_tasks.retrieval(torch.randn(6, 32), 2)
    return real.Task("made up", "nothing", model, pictures(), pictures(4), 2, 4, score)


def test_the_whole_program_on_small_models(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is an extra")
    monkeypatch.setattr(real, "photographs_task", small_task)
    monkeypatch.setattr(digits_vit, "train", lambda *_: 0.0)
    paths = {"json": tmp_path / "real.json", "plot": tmp_path / "real.png", "markdown": tmp_path / "real.md"}
    threads, ours = torch.get_num_threads(), tokernel.get_num_threads()
    options = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    try:
        result = CliRunner().invoke(_app(), ["--quick", "--threads", "1", *options])
    finally:
        torch.set_num_threads(threads)
        tokernel.set_num_threads(ours)
    assert result.exit_code == 0, result.output
    document = json.loads(paths["json"].read_text())
    assert {row["method"] for row in document["rows"]} == {real.UNREDUCED, *methods.CHOOSERS, *cascades.CASCADES}
    for row in document["rows"]:
        assert 0 <= row["accuracy"] <= 1
        if row["method"] not in (real.UNREDUCED, "dymu"):
            assert row["patches"] == round(row["share"] * (64 if row["task"] == "digits ViT" else 36))
        if row["method"] == real.UNREDUCED:
            assert row["fidelity"] == pytest.approx(1, abs=1e-5)
            assert row["clusters"] == 1
    assert len(document["verdicts"]) == 2 * len(real.CLAIMS)
    assert paths["markdown"].read_text().count("| random |") == 2 * len(real.MEASURES)
    assert paths["plot"].read_bytes().startswith(b"\x89PNG")


def test_what_is_missing_is_said_plainly(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(_app(), ["--quick"])
    assert result.exit_code == 1
    assert "cannot run here" in result.output
