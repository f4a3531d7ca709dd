# SPDX-License-Identifier: Apache-2.0
"""The room's README says what the registry says, and its snippets run."""

from __future__ import annotations

import pytest
from room_readme import registry, run_snippets, table


def test_the_table_is_the_registry():
    assert table("text") == registry("text")


def test_the_snippets_run(capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("scipy", reason="the linear program is solved by SciPy, extra lp")
    names = run_snippets("text")
    printed = capsys.readouterr().out
    assert names["ids"] == [259, 32, 240, 159, 145, 141, 260]
    assert names["text"] == "hello 👍<|end|>"
    assert names["shown"] == ["hello", " ", "", "", "", "👍", "<|end|>", ""]
    assert names["spans"].tolist() == [[0, 5], [5, 6], *[[6, 7]] * 4]
    assert "domain 2048 " in printed
    assert "chunks 300 " in printed
    assert "mixture {'law': 0." in printed
    assert "merges 6" in printed
    assert "dynamic [b'hello', b' hello', b' world', b'<|end|>'] [b'world', b' of', b' hello', b'<|end|>']" in printed
