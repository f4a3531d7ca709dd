# SPDX-License-Identifier: Apache-2.0
"""The prefill of bench/vtu_prefill.py on a tiny decoder."""

import json

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("transformers", reason="transformers is an extra")

from bench import vtu_prefill
from tokernel.integrations import patch_of


def test_mappings_hold_every_token():
    for tokens in vtu_prefill.TOKENS:
        mapping = vtu_prefill.merged(tokens)
        assert len(mapping) == 640
        assert torch.equal(mapping.unique(), torch.arange(tokens + 64))
        assert (mapping.diff() >= 0).all()


def test_rows_of_a_tiny_decoder(tmp_path):
    model = vtu_prefill.build(64, 1)
    rows = vtu_prefill.measure(model, rounds=1)
    assert [row.rows for row in rows] == [640, 458, 259, 153]
    assert rows[0].speedup == 1
    assert patch_of(model) is None
    vtu_prefill.main(width=64, layers=1, rounds=1, json_path=tmp_path / "rows.json")
    assert len(json.loads((tmp_path / "rows.json").read_text())["rows"]) == 4
