# SPDX-License-Identifier: Apache-2.0
"""The room's README says what the registry says, and its snippets run."""

from __future__ import annotations

import pytest
from room_readme import registry, run_snippets, table


def test_the_table_is_the_registry():
    assert table("diffusion") == registry("diffusion")


def test_the_snippets_run(capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("torch").manual_seed(0)
    pytest.importorskip("diffusers")
    names = run_snippets("diffusion")
    printed = capsys.readouterr().out
    assert "of the pairs computed" in printed
    assert names["out"].shape == (2, 4, 192, 32)
    assert "0.68% of the pairs at 8192 x 8192" in printed
    assert names["local"].shape == (1, 2, 101, 16)
    assert names["loss"].total.isfinite()
    assert "4.7% of global attention" in printed
    assert names["prediction"].shape == (2, 8, 32, 32)
    assert names["proxies"].shape == (2, 64, 64)
    assert names["mixed"].shape == names["windows"].shape
    assert "torch.Size([16, 1, 2, 2])" in printed
    assert names["keys"].shape == (1, 12, 32)
    assert names["code"].shape == (1024, 16)
