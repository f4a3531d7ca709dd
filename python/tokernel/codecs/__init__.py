# SPDX-License-Identifier: Apache-2.0
"""Quantizers as modules, and papers that make tokens of pictures and sound with them, built on :mod:`tokernel.ops`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokernel.codecs._bits import BSQ, LFQ
    from tokernel.codecs._grid import FSQ
    from tokernel.codecs._product import ProductQuantizer
    from tokernel.codecs._projection import RandomProjectionQuantizer
    from tokernel.codecs._quantizer import Quantized, Quantizer
    from tokernel.codecs._residual import GroupedResidualVQ, ResidualVQ
    from tokernel.codecs._vector import SimVQ, VectorQuantizer

# Imported on first use: the modules need torch, the registry of papers does not.
_MODULES = ("codebook",)
_PAPERS = ("audio_tokens", "fqgan", "tokenbridge", "tokenflow", "wetok")
_NAMES = {
    "BSQ": "_bits",
    "FSQ": "_grid",
    "GroupedResidualVQ": "_residual",
    "LFQ": "_bits",
    "ProductQuantizer": "_product",
    "Quantized": "_quantizer",
    "Quantizer": "_quantizer",
    "RandomProjectionQuantizer": "_projection",
    "ResidualVQ": "_residual",
    "SimVQ": "_vector",
    "VectorQuantizer": "_vector",
}

__all__ = [
    "BSQ",
    "FSQ",
    "GroupedResidualVQ",
    "LFQ",
    "ProductQuantizer",
    "Quantized",
    "Quantizer",
    "RandomProjectionQuantizer",
    "ResidualVQ",
    "SimVQ",
    "VectorQuantizer",
    *_MODULES,
    *_PAPERS,
]


def __getattr__(name: str) -> Any:
    if name in _MODULES or name in _PAPERS:
        return importlib.import_module(f"tokernel.codecs.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"tokernel.codecs.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'tokernel.codecs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
