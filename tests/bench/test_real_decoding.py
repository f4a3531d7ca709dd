# SPDX-License-Identifier: Apache-2.0
"""The race of decoding methods: on a tiny model always, on SmolLM2-135M where its package is installed."""

from __future__ import annotations

import importlib.util
import json

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")

import tokernel
import typer
from bench import decoding_methods as methods
from bench import real_decoding as real
from bench import real_models as models
from tokernel.decoding import generate
from typer.testing import CliRunner

from tiny_models import VOCABULARY, prompts, tiny


def _app():
    app = typer.Typer()
    app.command()(real.main)
    return app


def small_prompts(_):
    return [methods.Prompt(kind, prompts(seed=i)) for i, kind in enumerate(("prose", "prose", "code", "code", "chat"))]


class Unlike:
    """A method that says something else."""

    name = "unlike"

    def start(self, model, prompts, sampling, room):
        return self

    def step(self, active):
        return [[1, 2]]


def test_the_whole_program_on_a_small_model(tmp_path, monkeypatch):
    other = methods.Candidate("unlike", lambda model: Unlike(), lambda model: 3 << 20, lossless=False)
    monkeypatch.setattr(real, "load_smollm2", lambda: (tiny(num_hidden_layers=8), None))
    monkeypatch.setattr(real, "prompts", small_prompts)
    monkeypatch.setattr(real, "CANDIDATES", (*real.CANDIDATES, other))
    paths = {"json": tmp_path / "real.json", "markdown": tmp_path / "real.md"}
    threads, ours = torch.get_num_threads(), tokernel.get_num_threads()
    options = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    try:
        result = CliRunner().invoke(_app(), ["--quick", "--threads", "1", "--rounds", "2", *options])
    finally:
        torch.set_num_threads(threads)
        tokernel.set_num_threads(ours)
    assert result.exit_code == 0, result.output
    document = json.loads(paths["json"].read_text())
    names = [real.TRANSFORMERS, *(candidate.name for candidate in real.CANDIDATES)]
    assert list(dict.fromkeys(row["method"] for row in document["rows"])) == names
    for row in document["rows"]:
        assert row["kind"] in ("prose", "code", "chat", "all")
        assert row["tokens"] == real.QUICK_TOKENS * row["prompts"]
        assert row["identical"] == (0 if row["method"] == "unlike" else row["prompts"]) or not row["lossless"]
        if row["method"] in (real.TRANSFORMERS, real.GREEDY):
            assert row["per_step"] == 1
        if row["method"].startswith("token_recycling"):
            assert row["memory"] == VOCABULARY * 8 * 8
            assert row["per_step"] >= 1
    lines = paths["markdown"].read_text().splitlines()
    assert len(lines) == 2 + len(names)
    assert "0 of 3 (need not be) | 3.0 MiB" in lines[-1]


def test_a_round_begins_with_nothing_learnt():
    made = []
    remember = methods.Candidate("greedy", lambda model: made.append(1) or "greedy")
    race = real.Race(tiny(), small_prompts(None), [remember], 2)
    bar = real.Progress(disable=True)
    for _ in range(2):
        race.round(bar, bar.add_task(""))
    assert len(made) == 2
    assert len(race.runs) == 10


def test_rates_are_of_all_tokens_and_seconds():
    runs = {
        (real.TRANSFORMERS, 0): real.Run(real.TRANSFORMERS, "prose", [1, 2, 3, 4], 4, 4.0),
        (real.TRANSFORMERS, 1): real.Run(real.TRANSFORMERS, "code", [5, 6], 2, 2.0),
        (real.GREEDY, 0): real.Run(real.GREEDY, "prose", [1, 2, 3, 4], 4, 2.0),
        (real.GREEDY, 1): real.Run(real.GREEDY, "code", [5, 6], 2, 1.0),
        ("x", 0): real.Run("x", "prose", [1, 2, 3, 4], 2, 1.0),
        ("x", 1): real.Run("x", "code", [5, 7], 1, 0.5),
    }
    row = next(row for row in real.rows_of(runs) if (row.method, row.kind) == ("x", "all"))
    assert (row.per_step, row.ms_per_token, row.speedup, row.speedup_ours) == (2.0, 250.0, 4.0, 2.0)
    assert (row.identical, row.prompts) == (1, 2)


@torch.no_grad()
def test_on_the_real_model_every_lossless_method_says_what_transformers_says():
    """The short version of the real check: prose, code and chat, a few tokens each."""
    try:
        model, tokenizer = models.load_smollm2()
    except models.MissingError as missing:
        pytest.skip(f"the real model cannot be had here: {missing}")
    emitted = {}
    for prompt in methods.prompts(tokenizer)[::2]:
        seen = torch.ones_like(prompt.ids)
        plain = model.generate(prompt.ids, attention_mask=seen, max_new_tokens=8, do_sample=False, pad_token_id=0)
        for candidate in methods.CANDIDATES:
            out = generate(model, prompt.ids, candidate.make(model), max_new_tokens=8)
            emitted[candidate.name] = emitted.get(candidate.name, 0) + 8 / out.steps
            if candidate.lossless:
                assert torch.equal(out.sequences, plain), candidate.name
    assert emitted["token_recycling 2.2.2"] > emitted["greedy"]


def test_the_draft_is_the_model_s_own_first_layers():
    model = tiny(num_hidden_layers=4)
    draft = methods.first_layers(model, 2)
    with torch.no_grad():
        states = model.model(prompts(), output_hidden_states=True).hidden_states[2]
        expected = model.lm_head(model.model.norm(states))
        torch.testing.assert_close(draft(prompts()).logits, expected)
    shared = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in draft.parameters()} <= shared


@pytest.mark.parametrize("options", [["--dtype", "float16"], ["--clock", "sun"], ["--clock", "cpu", "--threads", "2"]])
def test_options_that_do_not_go_together(options):
    result = CliRunner().invoke(_app(), ["--quick", *options])
    assert result.exit_code == 2


def test_what_is_missing_is_said_plainly(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(_app(), ["--quick"])
    assert result.exit_code == 1
    assert "cannot run here" in result.output
