# SPDX-License-Identifier: Apache-2.0
"""The room's README says what the registry says, and its snippets run."""

from __future__ import annotations

import pytest
from room_readme import registry, run_snippets, table


def test_the_table_is_the_registry():
    assert table("reduce") == registry("reduce")


def test_the_snippets_run(capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("torch").manual_seed(0)
    pytest.importorskip("transformers")
    names = run_snippets("reduce")
    printed = capsys.readouterr().out
    assert "many-to-many merge 16.0" in printed
    assert "22% fewer FLOPs" in printed
    assert "[(32, 4), (32, 4), (27, 4), (18, 3)]" in printed
    assert "[40, 40, 20, 10]" in printed
    assert "torch.Size([2, 101, 64]) tensor(100)\n15.8%\n20 [0, 1]\ntensor([False, False])\n[20, 20, 4, 4]" in printed
    assert "20\ntorch.Size([2, 16, 64]) torch.Size([2, 16])" in printed
    assert names["every_patch"].shape == (2, 65, 64)
    assert names["found"].score in (0.0, 0.5, 1.0)
    assert [t.shape[1] for t in names["short"].tokens] == [8, 4, 4, 4]
    assert names["g"].tolist() == [[0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11, 11, 12]]
