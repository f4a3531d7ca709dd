# SPDX-License-Identifier: Apache-2.0
"""The source distribution builds into a working wheel in an empty environment."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USE = (
    "import numpy as np, tokernel; from tokernel.kernels import merge;"
    "x = np.arange(6, dtype=np.float32).reshape(1, 3, 2);"
    "assert merge.gather_rows(x, np.array([[2]])).tolist() == [[[4.0, 5.0]]]; print(tokernel.__version__)"
)


def run(*command: str | Path, cwd: Path) -> str:
    result = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_sdist_installs_in_an_empty_environment(tmp_path):
    run(sys.executable, "-m", "build", "--sdist", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (sdist,) = tmp_path.glob("tokernel-*.tar.gz")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "-q", sdist, "--config-settings=cmake.define.TOKERNEL_CUDA=OFF", cwd=tmp_path)
    assert run(python, "-c", USE, cwd=tmp_path).strip()


@pytest.mark.slow
def test_cuda_on_without_nvcc_is_one_sentence(tmp_path):
    """TOKERNEL_CUDA=ON on a machine without nvcc must say so, not build without CUDA."""
    import pybind11

    hidden = os.pathsep.join(d for d in os.environ["PATH"].split(os.pathsep) if not (Path(d) / "nvcc").exists())
    tools = [d for d in os.environ["PATH"].split(os.pathsep) if (Path(d) / "nvcc").exists()]
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for directory in tools:  # the folder that holds nvcc may hold cmake and ninja as well
        for tool in Path(directory).iterdir():
            if tool.name != "nvcc" and not (bin_dir / tool.name).exists():
                (bin_dir / tool.name).symlink_to(tool)
    env = {k: v for k, v in os.environ.items() if k not in ("CUDACXX", "CUDA_PATH", "CUDA_HOME")}
    env["PATH"] = f"{bin_dir}{os.pathsep}{hidden}"
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), "-DTOKERNEL_CUDA=ON"]
    command += ["-DCMAKE_CUDA_COMPILER=NOTFOUND", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    command += [f"-DPython_EXECUTABLE={sys.executable}"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "TOKERNEL_CUDA=ON needs nvcc" in result.stderr
