# SPDX-License-Identifier: Apache-2.0
"""The room's README says what the registry says, and its snippets run."""

from __future__ import annotations

import pytest
from room_readme import registry, run_snippets, table


def test_the_table_is_the_registry():
    assert table("codecs") == registry("codecs")


def test_the_snippets_run(capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("torch")
    run_snippets("codecs")
    printed = capsys.readouterr().out
    assert "torch.Size([2, 64]) torch.Size([2, 64, 8])" in printed
    assert "rvq 8 torch.Size([2, 50, 8])" in printed
    assert "fsq 1000 True" in printed
    assert "lfq torch.Size([2, 64])" in printed
    assert "bsq torch.Size([2, 64, 2])" in printed
    assert "pq torch.Size([100, 4]) torch.Size([3, 5])" in printed
    assert "best-rq torch.Size([2, 50, 4])" in printed
    assert "wetok torch.Size([2, 64, 4]) ['codebook_entropy', 'commitment', 'entropy', 'per_sample_entropy']" in printed
    assert "fqgan torch.Size([2, 16, 4, 4]) ['codebook', 'commitment', 'disentangle', 'entropy']" in printed
    assert "tokenflow torch.Size([2, 21]) torch.Size([2, 20, 40])" in printed
    assert "tokenbridge tensor(True)" in printed
    assert "audio [10, 20, 40] 525" in printed
