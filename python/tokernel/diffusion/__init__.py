# SPDX-License-Identifier: Apache-2.0
"""Papers that make diffusion transformers attend to fewer tokens. One module a paper, built on :mod:`tokernel.ops`."""

import importlib
from types import ModuleType

# Imported on first use: the papers need torch, the registry that describes them does not.
__all__ = [
    "clear",
    "pixart_sigma",
    "qihoo_t2x",
    "svg2",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"tokernel.diffusion.{name}")
    raise AttributeError(f"module 'tokernel.diffusion' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
