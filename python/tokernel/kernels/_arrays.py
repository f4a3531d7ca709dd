# SPDX-License-Identifier: Apache-2.0
"""Arrays of any framework: which extension takes them, and how to allocate an answer beside them.

Every op call passes through here, so the usual path is a dictionary look-up and two attribute reads. Checks of dtypes,
shapes and memory happen in the extension; only what must be known to allocate the output is looked at here.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, Protocol, TypeAlias, cast

import numpy as np

from tokernel import _C
from tokernel._backend import cuda_problem, extension, forced_device, note_device_run

Array: TypeAlias = Any
"""An array of NumPy, torch, JAX, CuPy, or any other producer of DLPack capsules."""

_CUDA_DEVICES = (2, 13)


class Space(Protocol):
    """Where arrays of one type live."""

    def extension(self, x: Array) -> ModuleType:
        """Return the extension that takes this array."""
        ...

    def empty(self, like: Array, shape: tuple[int, ...], dtype: str | None = None) -> Array:
        """Allocate beside `like`; `dtype` is a name such as "int64", None for the dtype of `like`."""
        ...

    def finish(self, out: Array) -> Array:
        """Turn what `empty` gave into what the caller expects."""
        ...


def _host_extension() -> ModuleType:
    device = forced_device()
    if device is None:
        return cast(ModuleType, _C)
    if device == "cuda":
        raise ValueError("backend: 'cuda' is forced, but the arrays are on the CPU")
    return _device_extension(device)


def _device_extension(name: str) -> ModuleType:
    module = extension(name)
    if module is None or (name == "cuda" and cuda_problem()):
        raise ValueError(f"arrays on a CUDA device cannot be used here: {cuda_problem()}")
    note_device_run(name)
    return module


def _cuda_extension() -> ModuleType:
    device = forced_device()
    if device == "simt":
        raise ValueError("backend: 'simt' is forced, but the arrays are on a CUDA device")
    return _device_extension("cuda")


class _NumpySpace:
    def extension(self, x: Array) -> ModuleType:
        return _host_extension()

    def empty(self, like: Array, shape: tuple[int, ...], dtype: str | None = None) -> Array:
        return np.empty(shape, dtype or like.dtype)

    def finish(self, out: Array) -> Array:
        return out


class _TorchSpace:
    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._get_num_threads = torch.get_num_threads
        self._threads = -1
        self._dtypes = {name: getattr(torch, name) for name in ("float32", "int64", "uint8", "bool")}
        for name in ("cuda",):
            module = extension(name)
            if module is not None:
                module.set_workspace_allocator(self._workspace)

    def _workspace(self, like: Array, size: int) -> Array:
        return self._torch.empty(size, dtype=self._torch.uint8, device=like.device)

    def extension(self, x: Array) -> ModuleType:
        if x.is_cuda:
            return _cuda_extension()
        threads = self._get_num_threads()
        if threads != self._threads:
            self._threads = threads
            _C.set_framework_threads(threads)
        return _host_extension()

    def empty(self, like: Array, shape: tuple[int, ...], dtype: str | None = None) -> Array:
        # Extents as separate arguments: torch parses a tuple 400 ns slower.
        if dtype is None:
            return like.new_empty(*shape)
        return self._torch.empty(*shape, dtype=self._dtypes[dtype], device=like.device)

    def finish(self, out: Array) -> Array:
        return out


class _JaxSpace:
    """JAX arrays are immutable: the kernel fills a NumPy array, which JAX then takes over."""

    def __init__(self) -> None:
        import jax.numpy

        self._asarray = jax.numpy.asarray

    def extension(self, x: Array) -> ModuleType:
        return _protocol_extension(x)

    def empty(self, like: Array, shape: tuple[int, ...], dtype: str | None = None) -> Array:
        name = dtype or str(like.dtype)
        if name == "bfloat16":
            raise TypeError("bfloat16 results cannot be returned to JAX (NumPy has no such dtype): use float32")
        return np.empty(shape, name)

    def finish(self, out: Array) -> Array:
        return self._asarray(out) if type(out) is np.ndarray else out


class _CupySpace:
    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        cuda = extension("cuda")
        if cuda is not None:
            cuda.set_workspace_allocator(lambda like, size: cupy.empty(size, dtype="uint8"))

    def extension(self, x: Array) -> ModuleType:
        return _cuda_extension()

    def empty(self, like: Array, shape: tuple[int, ...], dtype: str | None = None) -> Array:
        return self._cupy.empty(shape, dtype or like.dtype)

    def finish(self, out: Array) -> Array:
        return out


class _ProtocolSpace:
    """Any other DLPack producer on the host: answers are NumPy arrays."""

    def extension(self, x: Array) -> ModuleType:
        return _protocol_extension(x)

    def empty(self, like: Array, shape: tuple[int, ...], dtype: str | None = None) -> Array:
        name = dtype or _C.describe(like)["dtype"]
        if name == "bfloat16":
            raise TypeError("bfloat16 results cannot be returned as NumPy arrays: use float32")
        return np.empty(shape, name)

    def finish(self, out: Array) -> Array:
        return out


def _protocol_extension(x: Array) -> ModuleType:
    if x.__dlpack_device__()[0] in _CUDA_DEVICES:
        return _cuda_extension()
    return _host_extension()


_spaces: dict[type, Space] = {np.ndarray: _NumpySpace()}


def space_of(op: str, name: str, x: Array) -> Space:
    """Return the space of an array; TypeError when `x` is none."""
    space = _spaces.get(type(x))
    return space if space is not None else _find_space(op, name, x)


def _find_space(op: str, name: str, x: Array) -> Space:
    if not hasattr(x, "__dlpack__"):
        raise TypeError(
            f"{op}: {name} must be an array (NumPy, torch, JAX, CuPy or any DLPack producer), got {type(x).__name__}"
        )
    space = _space_for_type(x)
    _spaces[type(x)] = space
    return space


def _space_for_type(x: Array) -> Space:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _torch_space()
    root = type(x).__module__.partition(".")[0]
    if isinstance(x, np.ndarray):
        return _spaces[np.ndarray]
    if root in ("jax", "jaxlib"):
        return _JaxSpace()
    return _CupySpace() if root == "cupy" else _ProtocolSpace()


def _torch_space() -> Space:
    for space in _spaces.values():
        if isinstance(space, _TorchSpace):
            return space
    return _TorchSpace()


def extents(op: str, name: str, x: Array, ndim: int) -> tuple[int, ...]:
    """Return the shape of an array that must have `ndim` dimensions; TypeError or ValueError otherwise."""
    try:
        shape = x.shape
    except AttributeError:
        space_of(op, name, x)
        shape = tuple(_C.describe(x)["shape"])
    if len(shape) != ndim:
        raise ValueError(f"{op}: {name} must have {ndim} dimensions, got shape {tuple(shape)}")
    return cast("tuple[int, ...]", shape)
