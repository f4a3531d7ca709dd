# SPDX-License-Identifier: Apache-2.0
"""JAX starts threads of its own, so its tests have a process of their own: other tests fork theirs."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jaxlib.version", reason="JAX is in the test extra only")


def test_jax_arrays():
    cases = Path(__file__).with_name("jax_cases.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(cases)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
