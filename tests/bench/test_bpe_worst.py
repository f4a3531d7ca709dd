# SPDX-License-Identifier: Apache-2.0
"""The race of hard texts, on little text and a small vocabulary."""

from __future__ import annotations

import base64
import json

import pytest

pytest.importorskip("torch", reason="torch is an extra")

import typer
from bench import bpe_corpora
from bench import bpe_worst as worst
from typer.testing import CliRunner


def test_the_whole_program(tmp_path, monkeypatch):
    tokens = [bytes([b]) for b in range(256)] + [b"ab", b"abab", b"  ", b"th", b"the", b" the"]
    ranks = tmp_path / "small.tiktoken"
    ranks.write_bytes(b"".join(base64.b64encode(t) + b" %d\n" % i for i, t in enumerate(tokens)))
    monkeypatch.setattr(worst, "rank_file", lambda name: ranks.read_bytes())
    monkeypatch.setattr(worst, "path_of_ranks", lambda name: ranks)
    monkeypatch.setattr(worst, "corpus", lambda name: "the cat and the dog. " * 50)
    load = worst.Encoding.from_tiktoken
    monkeypatch.setattr(worst.Encoding, "from_tiktoken", lambda path: load(path, pat_str="cl100k"))
    app = typer.Typer()
    app.command()(worst.main)
    out, table = tmp_path / "worst.json", tmp_path / "worst.md"
    options = ["--megabytes", "0.002", "--rounds", "1", "--json", str(out), "--markdown", str(table)]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())["found"]
    assert all(value > 0 for value in found["cl100k"].values())
    assert table.read_text().count("| o200k |") == 10


def test_missing_files_are_named(monkeypatch):
    monkeypatch.delenv("TOKERNEL_BPE_DATA", raising=False)
    with pytest.raises(bpe_corpora.MissingError, match="TOKERNEL_BPE_DATA"):
        bpe_corpora.path_of_ranks("cl100k")
