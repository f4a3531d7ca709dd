# SPDX-License-Identifier: Apache-2.0
"""The room's README says what the registry says, and its snippets run."""

from __future__ import annotations

import pytest
from room_readme import registry, run_snippets, table


def test_the_table_is_the_registry():
    assert table("decoding") == registry("decoding")


def test_the_snippets_run(capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("torch")
    pytest.importorskip("transformers", minversion="5")
    run_snippets("decoding")
    printed = capsys.readouterr().out
    assert "tensor([14])" in printed
    assert "(2, 18)" in printed
    assert "16 8 12.0" in printed
    assert "4 [13, 13, 13, 13]" in printed
