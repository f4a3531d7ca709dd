# SPDX-License-Identifier: Apache-2.0
"""Papers that shorten the token sequence inside a model. One module a paper, built on :mod:`tokernel.ops`."""

import importlib
from types import ModuleType

# Imported on first use: the papers need torch, the registry that describes them does not.
__all__ = [
    "code_token_merging",
    "diffrate",
    "divprune",
    "dymu",
    "hiprune",
    "self_slimmed_vit",
    "spatten",
    "todre",
    "token_transforming",
    "tome",
    "zero_tprune",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"tokernel.reduce.{name}")
    raise AttributeError(f"module 'tokernel.reduce' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
