# SPDX-License-Identifier: Apache-2.0
"""Builds the C++ probes beside the tests: what the core does before any op is built on it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
# As cmake/isa.cmake compiles the kernels.
KERNEL_FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")


def compiler() -> str:
    found = shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++")
    if found is None:
        pytest.skip("no C++ compiler here (a wheel may be tested without one)")
    return found


def build(source: str, folder: Path, *flags: str) -> ctypes.CDLL:
    """Compile one probe to a shared library and load it."""
    library = folder / (Path(source).stem + "".join(flags).replace("/", "") + ".so")
    command = [compiler(), "-std=gnu++20", "-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    command += [*KERNEL_FLAGS, *flags, f"-I{CSRC}", str(HERE / source), "-o", str(library)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    return ctypes.CDLL(str(library))
