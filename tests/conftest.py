# SPDX-License-Identifier: Apache-2.0
"""Fixtures every test may use."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tokernel

# Workers of pytest-xdist share the cores: threads of torch's OpenMP that spin while they wait keep each other from
# running. Set before any test imports torch.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

GOLDEN = Path(__file__).parent / "golden"

# NumPy arrays live on the host: every backend but `cuda` can take them.
HOST_BACKENDS = [name for name in tokernel.backends()["compiled"] if name != "cuda"]
# With a GPU and torch, tests/on_device.py brings them there.
GPU = ["cuda"] if "cuda" in tokernel.backends()["usable"] and importlib.util.find_spec("torch") else []


@contextlib.contextmanager
def _running_on(name: str) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(tokernel.use_backend(name))
        if name == "cuda":
            from on_device import host_arrays_on

            stack.enter_context(host_arrays_on(name, name))
        yield name


@pytest.fixture(params=HOST_BACKENDS)
def host_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once on every host backend of this build, `simt` (the CUDA kernels) included."""
    if request.param not in tokernel.backends()["usable"]:
        pytest.skip(f"this processor cannot run level {request.param}")
    with _running_on(request.param) as name:
        yield name


@pytest.fixture(params=HOST_BACKENDS + GPU)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once on every backend of this build, and on `cuda` where there is a GPU."""
    if request.param not in tokernel.backends()["usable"]:
        pytest.skip(f"this processor cannot run level {request.param}")
    with _running_on(request.param) as name:
        yield name


@pytest.fixture(params=["simt", *GPU])
def device_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once on every backend that has the CUDA kernels; it is in force until the test forces another."""
    if request.param not in tokernel.backends()["usable"]:
        pytest.skip("this build has no host executor (TOKERNEL_SIMT=ON)")
    with _running_on(request.param) as name:
        yield name


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with the vectors of the official codes, one sub-folder a paper."""
    return GOLDEN
