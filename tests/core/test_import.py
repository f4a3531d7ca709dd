# SPDX-License-Identifier: Apache-2.0
"""What `import tokernel` costs: NumPy and nothing else; and what the installation says of itself."""

import importlib.metadata
import json
import subprocess
import sys

import pytest

import tokernel

HEAVY = ("torch", "jax", "transformers", "typer", "rich", "matplotlib")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result


def printed(code: str) -> str:
    return run("-c", code).stdout.strip()


def test_import_loads_no_framework():
    assert printed(f"import sys, tokernel; print([m for m in {HEAVY!r} if m in sys.modules])") == "[]"


def test_low_level_op_on_numpy_loads_no_framework():
    code = (
        "import sys, numpy as np; from tokernel.kernels import merge;"
        "merge.gather_rows(np.ones((1, 2, 3), np.float32), np.array([[1]]));"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert printed(code) == "[]"


def import_seconds() -> float:
    """The time spent in tokernel's own modules; what NumPy takes is not counted."""
    log = run("-X", "importtime", "-c", "import numpy, tokernel, tokernel.kernels").stderr
    rows = [line.removeprefix("import time:").split("|") for line in log.splitlines() if "|" in line]
    return sum(int(own) for own, _, name in rows if name.strip().split(".")[0] == "tokernel") / 1e6


def test_import_is_quick():
    assert min(import_seconds() for _ in range(3)) < 0.15


def test_info_describes_the_installation():
    info = tokernel.info()
    assert json.loads(json.dumps(info)) == info
    assert set(info) == {"version", "python", "platform", "backends", "cpu_level", "threads", "cuda", "torch"}
    assert info["version"] == tokernel.__version__
    assert info["backends"] == tokernel.backends()
    assert info["cpu_level"] in info["backends"]["usable"]
    assert info["threads"] == tokernel.get_num_threads() >= 1
    assert bool(info["cuda"]["devices"]) != bool(info["cuda"]["problem"])
    for device in info["cuda"]["devices"]:
        assert set(device) == {"name", "compute_capability", "memory_bytes"}


def test_info_names_torch_only_when_it_is_loaded():
    assert printed("import tokernel; print(tokernel.info()['torch'])") == "None"
    pytest.importorskip("torch", reason="torch is an extra")
    assert printed("import torch, tokernel; print(tokernel.info()['torch'] == torch.__version__)") == "True"


def test_version_is_the_distribution_version():
    try:
        installed = importlib.metadata.version("tokernel")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("tokernel runs from its source tree here, not as an installed package")
    assert installed == tokernel.__version__


def test_rooms_are_imported_on_first_use_and_nothing_else_is():
    assert printed("import tokernel; print(tokernel.kernels.merge.__name__)") == "tokernel.kernels.merge"
    with pytest.raises(AttributeError, match="module 'tokernel' has no attribute 'nonsense'"):
        _ = tokernel.nonsense
    assert {"kernels", "ops", "info"} <= set(dir(tokernel))
