# SPDX-License-Identifier: Apache-2.0
"""Bank conflicts of the package's kernels, counted in small cases."""

import pytest

pytest.importorskip("torch", reason="the cases are torch calls")
simt = pytest.importorskip("tokernel._simt", reason="this build has no host executor (TOKERNEL_SIMT=ON)")

from bench.gpu_banks import FAMILIES, app, count
from bench.gpu_costs import COSTS
from typer.testing import CliRunner


def test_every_kernel_with_shared_memory_of_its_own_size_is_counted():
    found = count(list(FAMILIES))
    assert {name for name, cost in COSTS.items() if cost.dynamic_shared} <= set(found)
    assert not simt.options()["count_bank_conflicts"]
    for name, total in found.items():
        assert 0 <= total.extra_wavefronts < total.wavefronts, name
        assert all(place["line"].startswith("csrc/") for place in total.places), name


def test_tiles_meant_to_be_free_of_conflicts_are():
    """Padded or interleaved on purpose; a change that breaks the layout shows here."""
    found = count(["cluster", "attention"])
    for name in ("centroid_topp_map_kernel", "attention_fma_kernel", "map_density_kernel"):
        assert found[name].extra_wavefronts == 0, found[name].places


def test_command(tmp_path):
    result = CliRunner().invoke(app, ["cluster", "--json", str(tmp_path / "banks.json")])
    assert result.exit_code == 0, result.output
    assert "centroid_topp_map_kernel" in result.output
    assert "centroid_topp_map_kernel" in (tmp_path / "banks.json").read_text()
    assert CliRunner().invoke(app, ["sideways"]).exit_code == 2
