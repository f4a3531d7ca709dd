# SPDX-License-Identifier: Apache-2.0
"""Benchmarks choose numbers of threads for the process; tests behind them must not inherit these."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import tokernel


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    torch = pytest.importorskip("torch", reason="torch is an extra")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    tokernel.set_num_threads(0)
