# SPDX-License-Identifier: Apache-2.0
"""The room's README says what the registry says, and its snippets run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tokernel
from tokernel.papers import papers

README = (Path(tokernel.__file__).parent / "decoding" / "README.md").read_text(encoding="utf-8")


def test_the_table_is_the_registry():
    rows = [
        f"| `{p.slug}` | {p.title} | [{p.arxiv}](https://arxiv.org/abs/{p.arxiv}) | {p.venue} | {p.status} | "
        f"{p.verified_against} |"
        for p in papers()
        if p.module.startswith("tokernel.decoding.")
    ]
    assert re.findall(r"^\| `.*$", README, re.MULTILINE) == rows


def test_the_snippets_run(capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("torch")
    pytest.importorskip("transformers", minversion="5")
    names: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(snippet, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "tensor([14])" in printed
    assert "(2, 18)" in printed
    assert "16 8 12.0" in printed
    assert "4 [13, 13, 13, 13]" in printed
