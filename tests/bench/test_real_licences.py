# SPDX-License-Identifier: Apache-2.0
"""The real check of KL3M's recipes, on a few sentences."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from bench import mixture_texts
from bench import real_licences as real
from typer.testing import CliRunner

VERBS = [("shall", "copy"), ("may", "transfer"), ("must", "sublicense"), ("will", "sell")] * 6
LAW = [
    f"The Licensee {verb} not {act} the Work under Section {n} of this License without permission."
    for n, (verb, act) in enumerate(VERBS)
]
PLACES = [("open", "corner"), ("close", "top"), ("move", "edge"), ("hide", "middle")] * 6
MANUALS = [
    f"Press key {n} to {act} the window, then look at the {part} of the screen for a while."
    for n, (act, part) in enumerate(PLACES)
]


def test_each_is_best_at_what_it_was_trained_on():
    tables = real.run(LAW, MANUALS, sizes=(13 + 256 + 60,), most=5)
    (_, law, manuals), (_, *by_length) = tables.values()
    assert float(law[2]) < float(manuals[2])
    assert float(law[3]) > float(manuals[3])
    assert [row[1] for row in by_length] == ["3", "4", "any"]
    assert float(by_length[0][3]) > float(by_length[2][3])


def test_the_whole_program(tmp_path, monkeypatch):
    path, out = tmp_path / "spdx-full.json", tmp_path / "out.md"
    path.write_text(json.dumps({"L": {"licenseText": "\n\n".join([*LAW, LAW[0], "short"])}}))
    monkeypatch.setattr(real, "read_languages", lambda _: {"en": mixture_texts.Texts(MANUALS[::2], MANUALS[1::2])})
    monkeypatch.setattr(real, "SIZES", (400,))
    app = typer.Typer()
    app.command()(real.main)
    result = CliRunner().invoke(app, [str(path), str(tmp_path), "--markdown", str(out)])
    assert result.exit_code == 0, result.output
    assert out.read_text().count("| licences |") == 2
    assert sorted(real.read_licences(path)) == sorted(LAW)
    assert CliRunner().invoke(app, [str(tmp_path / "none"), str(tmp_path)]).exit_code == 1
    with pytest.raises(mixture_texts.MissingTextError, match="npm pack spdx-license-list"):
        real.read_licences(tmp_path / "none")


def test_only_letters_with_a_likeness_are_misread():
    text = "the old oil lamp, xyz " * 50
    noisy = real.corrupted(text, np.random.default_rng(0))
    wrong = [(a, b) for a, b in zip(text, noisy, strict=True) if a != b]
    assert 10 < len(wrong) < 60
    assert all(real.CONFUSED[a] == b for a, b in wrong)
