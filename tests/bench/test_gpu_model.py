# SPDX-License-Identifier: Apache-2.0
"""The GPU model: its arithmetic, and that no CUDA kernel is missing from it."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("typer", reason="bench needs the bench extra")
from bench import gpu_compile, gpu_model
from bench.gpu_costs import COSTS, Cost

KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(")


def kernel(**changes) -> gpu_compile.Kernel:
    values = {"source": "a.cu", "arch": "sm_80", "name": "gather_rows_kernel", "instance": "gather_rows_kernel<float>"}
    figures = {"registers": 32, "static_shared": 0, "stack": 0, "spill_stores": 0, "spill_loads": 0, "threads": 256}
    return gpu_compile.Kernel(**{**values, **figures, **changes})


def kernels_in_sources() -> set[str]:
    folder = gpu_compile.ROOT / "csrc"
    texts = [p.read_text() for p in folder.glob("*/*.cu*") if p.parent.name != "simt"]
    return {name for text in texts for name in KERNEL.findall(text)}


def test_every_kernel_has_a_cost_and_every_cost_a_kernel():
    assert set(COSTS) == kernels_in_sources()


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "expected"),
    [
        ("sm_80", 256, 32, 0, 1.0),
        ("sm_80", 256, 33, 0, 0.75),  # 40 a thread in units of 256 a warp: 6 blocks of 8 warps
        ("sm_80", 1024, 64, 0, 0.5),
        ("sm_80", 128, 255, 0, 0.125),
        ("sm_80", 32, 32, 0, 0.5),  # 32 blocks of one warp
        ("sm_80", 256, 32, 81 * 1024, 0.25),  # two blocks of 81 + 1 KB fill 164 KB
        ("sm_90a", 256, 32, 81 * 1024, 0.25),
        ("sm_90a", 256, 32, 227 * 1024, 0.125),
    ],
)
def test_occupancy(arch, threads, registers, shared, expected):
    assert gpu_model.occupancy(arch, threads, registers, shared) == expected


def test_floor_is_the_larger_of_bytes_and_flops():
    assert gpu_model.h100_floor(Cost("", moved_bytes=3.35e12)) == pytest.approx(1.0)
    assert gpu_model.h100_floor(Cost("", moved_bytes=1, flops=66.9e12)) == pytest.approx(1.0)
    assert gpu_model.h100_floor(Cost("", moved_bytes=1, flops=989.4e12, tensor_cores=True)) == pytest.approx(1.0)


def test_names_are_read_from_mangled_ones():
    assert gpu_compile.template_name("_ZN2tk5merge3gpu18gather_rows_kernelItEEvPKT_") == "gather_rows_kernel"
    assert gpu_compile.template_name("_Z3fooi") == "foo"


def test_log_of_ptxas_is_understood():
    log = (
        "ptxas info    : Compiling entry function '_Z3fooi' for 'sm_80'\n"
        "    8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads\n"
        "ptxas info    : Used 40 registers, used 1 barriers, 4096 bytes smem, 424 bytes cmem[0]\n"
    )
    (block,) = gpu_compile._blocks(log)
    found = gpu_compile._parse(block, "a.cu", "sm_80", {"_Z3fooi": 128})
    assert (found.name, found.registers, found.static_shared, found.stack) == ("foo", 40, 4096, 8)
    assert (found.spill_stores, found.spill_loads, found.threads, found.spills) == (16, 24, 128, True)
    with pytest.raises(gpu_compile.ToolchainError, match="unknown"):
        gpu_compile._parse(log.splitlines()[0], "a.cu", "sm_80", {})


def test_check_names_spills_and_gaps():
    assert gpu_model.problems([kernel()]) == []
    (spill,) = gpu_model.problems([kernel(spill_stores=8)])
    assert "spills 8 bytes" in spill
    (bounds,) = gpu_model.problems([kernel(threads=None)])
    assert "__launch_bounds__" in bounds
    (cost,) = gpu_model.problems([kernel(name="unheard_of")])
    assert "gpu_costs" in cost


def test_rows_carry_the_model():
    (found,) = gpu_model.rows([kernel()])
    assert found["occupancy"] == 1.0
    assert found["h100_floor_seconds"] > 0
    (unknown,) = gpu_model.rows([kernel(name="unheard_of")])
    assert unknown["h100_floor_seconds"] is None


def test_without_nvcc_one_sentence(monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.setattr(gpu_compile.shutil, "which", lambda name: None)
    result = CliRunner().invoke(gpu_model.app, [])
    assert result.exit_code == 2
    assert result.output.startswith("bench.gpu_model: nvcc is not on PATH")
