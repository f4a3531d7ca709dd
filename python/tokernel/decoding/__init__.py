# SPDX-License-Identifier: Apache-2.0
"""Papers that emit several tokens for one pass of a language model. One module a paper, built on :mod:`tokernel.ops`;
:func:`generate` drives a live model with any of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokernel.decoding._generate import Generated, generate
    from tokernel.decoding._session import Method, Sampling, Session, method_names
    from tokernel.decoding._target import TargetModel

# Imported on first use: the papers need torch, the registry that describes them does not.
_PAPERS = ("del_exit", "dyspec", "skipdecode", "token_recycling")
_NAMES = {
    "Generated": "_generate",
    "Method": "_session",
    "Sampling": "_session",
    "Session": "_session",
    "TargetModel": "_target",
    "generate": "_generate",
    "method_names": "_session",
}

__all__ = ["Generated", "Method", "Sampling", "Session", "TargetModel", "generate", "method_names", *_PAPERS]


def __getattr__(name: str) -> Any:
    if name in _PAPERS:
        return importlib.import_module(f"tokernel.decoding.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"tokernel.decoding.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'tokernel.decoding' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
