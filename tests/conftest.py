# SPDX-License-Identifier: Apache-2.0
"""Fixtures every test may use."""

from __future__ import annotations

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


@pytest.fixture(params=HOST_BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once on every host backend of this build, `simt` (the CUDA kernels) included."""
    name = request.param
    if name not in tokernel.backends()["usable"]:
        pytest.skip(f"this processor cannot run level {name}")
    with tokernel.use_backend(name):
        yield name


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with the vectors of the official codes, one sub-folder a paper."""
    return GOLDEN
