# SPDX-License-Identifier: Apache-2.0
"""bench.gpu_time without a GPU: its cases are there, its figures are written, and it says what is missing."""

import importlib

import pytest

torch = pytest.importorskip("torch", reason="bench.gpu_time races torch")
pytest.importorskip("typer", reason="bench needs the bench extra")
from bench import gpu_time
from typer.testing import CliRunner


def test_every_case_has_a_name_of_its_own():
    found = [case for name in gpu_time.CASES for case in importlib.import_module(f"bench.{name}").cases()]
    names = [(case.op, case.case, case.dtype) for case in found]
    assert len(set(names)) == len(names)
    assert len(found) > 90


def test_differences():
    x = torch.arange(6.0).reshape(2, 3)
    assert gpu_time.difference((x, x.long()), (x, x.long())) == 0
    assert gpu_time.difference(x, 1.1 * x) == pytest.approx(1 / 11, rel=1e-5)
    assert gpu_time.difference(x.long(), x.long() + (x > 4)) == pytest.approx(1 / 6)
    assert gpu_time.difference(x, x[:1]) == float("inf")


def test_the_table(tmp_path):
    row = gpu_time.Row("gather_rows", "8x8", "float32", 2e-3, 0.01, "index_select", 1e-3, 0.5, 0.25, None, None, 0.0)
    about = {
        "gpu": "some card", "driver": "1", "torch": "2", "date": "2026-01-01", "copy_bytes_per_second": 3e12,
        "matmul_flops_per_second": {"float32": 5e13},
    }  # fmt: skip
    gpu_time.write_markdown(tmp_path / "gpu.md", about, [row])
    text = (tmp_path / "gpu.md").read_text()
    assert "| gather_rows | 8x8 | float32 | 2 | index_select | 1 | 0.50x | 25% | - | 0.0e+00 |" in text
    assert "copy 3.00 TB/s" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: this would time every op")
def test_without_a_gpu():
    result = CliRunner().invoke(gpu_time.app, [])
    assert result.exit_code == 2
    assert "needs a CUDA GPU" in result.output
