# SPDX-License-Identifier: Apache-2.0
"""What `import tokernel` costs: NumPy and nothing else."""

import subprocess
import sys

HEAVY = ("torch", "jax", "transformers", "typer", "rich", "matplotlib")


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_loads_no_framework():
    loaded = run(f"import sys, tokernel; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert loaded == "[]"


def test_low_level_op_on_numpy_loads_no_framework():
    code = (
        "import sys, numpy as np; from tokernel.kernels import merge;"
        "merge.gather_rows(np.ones((1, 2, 3), np.float32), np.array([[1]]));"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_info_answers_without_torch():
    assert run("import tokernel; print(tokernel.info()['torch'])") == "None"
    assert run("import torch, tokernel; print(tokernel.info()['torch'] == torch.__version__)") == "True"


def test_version_is_the_distribution_version():
    code = "import importlib.metadata as m, tokernel; print(m.version('tokernel') == tokernel.__version__)"
    assert run(code) == "True"
