# SPDX-License-Identifier: Apache-2.0
"""The backend asked for is the one that runs."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import tokernel
from tokernel.kernels import merge

X = np.arange(12, dtype=np.float32).reshape(1, 4, 3)
INDEX = np.array([[3, 1]])


def test_forced_backend_is_the_one_that_ran(backend):
    merge.gather_rows(X, INDEX)
    assert tokernel.last_backend() == backend


def test_default_is_the_best_level():
    merge.gather_rows(X, INDEX)
    levels = [n for n in tokernel.backends()["usable"] if n not in ("cuda", "simt")]
    assert tokernel.last_backend() == levels[-1]


def test_force_ends_with_the_context_and_nests():
    merge.gather_rows(X, INDEX)
    best = tokernel.last_backend()
    with tokernel.use_backend("ref"):
        with tokernel.use_backend(best):
            merge.gather_rows(X, INDEX)
            assert tokernel.last_backend() == best
        merge.gather_rows(X, INDEX)
        assert tokernel.last_backend() == "ref"
    merge.gather_rows(X, INDEX)
    assert tokernel.last_backend() == best


def test_force_belongs_to_its_thread():
    seen = []

    def other():
        merge.gather_rows(X, INDEX)
        seen.append(tokernel.last_backend())

    with tokernel.use_backend("ref"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen != ["ref"]


@pytest.mark.parametrize("name", ["v9", "", "REF", "gpu"])
def test_unknown_backend(name):
    with pytest.raises(ValueError, match="backend: must be one of"), tokernel.use_backend(name):
        pass


def test_cuda_without_device_says_why():
    if "cuda" in tokernel.backends()["usable"]:
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match=r"'cuda' cannot run: .*CUDA"), tokernel.use_backend("cuda"):
        pass


@pytest.mark.parametrize("name", ["ref", "simt"])
def test_environment_forces_the_process(name):
    if name not in tokernel.backends()["usable"]:
        pytest.skip(f"this build has no {name}")
    code = (
        "import numpy as np, tokernel; from tokernel.kernels import merge;"
        "merge.gather_rows(np.ones((1, 2, 3), np.float32), np.array([[1]])); print(tokernel.last_backend())"
    )
    env = {**os.environ, "TOKERNEL_BACKEND": name}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == name


def test_environment_with_unknown_backend_is_an_error():
    env = {**os.environ, "TOKERNEL_BACKEND": "v9"}
    result = subprocess.run(
        [sys.executable, "-c", "import tokernel"], env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "backend: must be one of" in result.stderr
