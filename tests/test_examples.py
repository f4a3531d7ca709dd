# SPDX-License-Identifier: Apache-2.0
"""The examples in docstrings run and say what they print."""

from __future__ import annotations

import doctest
import pkgutil

import pytest

import tokernel

pytest.importorskip("torch", reason="torch is an extra")

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(tokernel.__path__, "tokernel.")
    if module.name.rpartition(".")[2] not in ("_C", "_cuda", "_simt", "__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str):
    module = pytest.importorskip(name, reason="needs another extra", exc_type=ImportError)
    failed, _ = doctest.testmod(module)
    assert failed == 0
