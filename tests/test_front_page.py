# SPDX-License-Identifier: Apache-2.0
"""The snippets of the front page run, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_snippets_run():
    torch = pytest.importorskip("torch", reason="torch is an extra")
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(snippet, "README.md", "exec"), names)
    assert isinstance(names["back"], np.ndarray)
    assert names["back"].shape == (1, 197, 64)
    assert names["tokens"].shape == (8, 181, 768)
    q, out, more = names["q"], names["out"], names["more"]
    assert q.grad.shape == q.shape
    assert more.rows.shape == (1, 8, 1, 1024)
    assert more.column_sums.shape == (1, 1024)
    assert float(more.column_sums.sum()) == pytest.approx(8 * 1024, rel=1e-4)
    assert out.shape == q.shape
