# SPDX-License-Identifier: Apache-2.0
"""Arrays of any framework: which extension takes them, and how it allocates an answer beside them.

Every op call passes through :func:`extension_of`, so the usual path is a dictionary look-up and one attribute read.
All checks of dtypes, shapes and memory happen in the extension.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, Protocol, TypeAlias

import numpy as np

from tokernel import _C
from tokernel._backend import cuda_problem, extension, forced, note_device_run

Array: TypeAlias = Any
"""An array of NumPy, torch, JAX, CuPy, or any other producer of DLPack capsules."""

_CUDA_DEVICES = (2, 13)
_DTYPES = ("float32", "float16", "bfloat16", "float64", "int32", "int64", "uint8", "bool", "int8")


class Space(Protocol):
    """Where arrays of one type live."""

    def register(self, module: Any) -> None:
        """Tell an extension how to allocate arrays of this type."""
        ...

    def extension(self, x: Array) -> ModuleType:
        """Return the extension that takes this array."""
        ...


def _device_extension(name: str) -> ModuleType:
    module = extension(name)
    if module is None or (name == "cuda" and cuda_problem()):
        raise ValueError(f"arrays on a CUDA device cannot be used here: {cuda_problem()}")
    note_device_run(name)
    return module


def _host_extension() -> ModuleType:
    device = forced.device
    if device is None:
        return _C
    if device == "cuda":
        raise ValueError("backend: 'cuda' is forced, but the arrays are on the CPU")
    return _device_extension(device)


def _cuda_extension() -> ModuleType:
    if forced.device == "simt":
        raise ValueError("backend: 'simt' is forced, but the arrays are on a CUDA device")
    return _device_extension("cuda")


def _host_extension_by_protocol(x: Array) -> ModuleType:
    """For arrays whose answers are NumPy arrays, and so cannot be made beside them on a device."""
    if x.__dlpack_device__()[0] in _CUDA_DEVICES:
        _cuda_extension()  # says first what keeps CUDA from being used at all
        raise ValueError(
            f"{type(x).__module__}.{type(x).__name__} arrays on a CUDA device cannot be used: pass torch or CuPy arrays"
        )
    return _host_extension()


class _NumpySpace:
    def __init__(self, kind: type) -> None:
        self._kind = kind

    def register(self, module: Any) -> None:
        dtypes = {name: np.dtype(name) for name in _DTYPES if name != "bfloat16"}
        module.register_numpy(self._kind, np.empty, dtypes)

    def extension(self, x: Array) -> ModuleType:
        return _host_extension()


class _TorchSpace:
    threads = -1
    """What torch said last, for all its tensor types together."""

    def __init__(self, kind: type) -> None:
        import torch

        self._kind = kind
        self._torch = torch
        self._get_num_threads = torch.get_num_threads

    def register(self, module: Any) -> None:
        dtypes = {name: getattr(self._torch, name) for name in _DTYPES}
        module.register_torch(self._kind, self._torch.Tensor.new_empty, dtypes)

    def extension(self, x: Array) -> ModuleType:
        if x.is_cuda:
            return _cuda_extension()
        threads = self._get_num_threads()
        if threads != _TorchSpace.threads:
            _TorchSpace.threads = threads
            _C.set_framework_threads(threads)
        return _host_extension()


class _JaxSpace:
    """JAX arrays are immutable: the kernel fills a NumPy array, which JAX then takes over."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def register(self, module: Any) -> None:
        import jax.numpy

        def finish(out: Array) -> Array:
            return jax.numpy.asarray(out) if type(out) is np.ndarray else out

        module.register_framework(self._kind, _allocate_numpy, finish, False)

    def extension(self, x: Array) -> ModuleType:
        return _host_extension_by_protocol(x)


class _CupySpace:
    """Kernels run on the legacy default stream, which is CuPy's own unless the caller opened another."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def register(self, module: Any) -> None:
        import cupy

        module.register_framework(self._kind, lambda like, shape, dtype: cupy.empty(shape, dtype), None, True)

    def extension(self, x: Array) -> ModuleType:
        return _cuda_extension()


class _ProtocolSpace:
    """Any other DLPack producer on the host: answers are NumPy arrays."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def register(self, module: Any) -> None:
        module.register_framework(self._kind, _allocate_numpy, None, False)

    def extension(self, x: Array) -> ModuleType:
        return _host_extension_by_protocol(x)


def _allocate_numpy(like: Array, shape: tuple[int, ...], dtype: str) -> Array:
    if dtype == "bfloat16":
        raise TypeError(
            f"bfloat16 results cannot be returned for {type(like).__name__} (NumPy has no such dtype): use float32"
        )
    return np.empty(shape, dtype)


_spaces: dict[type, Space] = {}


def extension_of(op: str, name: str, x: Array) -> Any:
    """Return the extension that takes this array.

    Raises:
        TypeError: `x` is no array.
        ValueError: it is on a device that this build or machine cannot use, or another backend is forced.
    """
    space = _spaces.get(type(x))
    if space is None:
        space = _add_space(op, name, x)
    return space.extension(x)


def _add_space(op: str, name: str, x: Array) -> Space:
    if not hasattr(x, "__dlpack__"):
        raise TypeError(
            f"{op}: {name} must be an array (NumPy, torch, JAX, CuPy or any DLPack producer), got {type(x).__name__}"
        )
    space = _space_for(x)
    for module in (_C, extension("cuda"), extension("simt")):
        if module is not None:
            space.register(module)
    _spaces[type(x)] = space
    return space


def place(values: Array, like: Array) -> Array:
    """Bring a NumPy array to the framework and device of another array."""
    if not isinstance(values, np.ndarray) or isinstance(like, np.ndarray):
        return values
    if hasattr(like, "new_tensor"):
        import torch

        return torch.as_tensor(values, device=like.device)
    if type(like).__module__.partition(".")[0] == "cupy":
        import cupy

        return cupy.asarray(values)
    return values  # every host array may meet every other one


def fetch(values: Array) -> np.ndarray[Any, Any]:
    """Bring a small array to the host; waits for a device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()  # torch
    if hasattr(values, "get"):
        values = values.get()  # cupy
    return np.asarray(values)


def _space_for(x: Array) -> Space:
    kind = type(x)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _TorchSpace(kind)
    if isinstance(x, np.ndarray):
        return _NumpySpace(kind)
    root = kind.__module__.partition(".")[0]
    if root in ("jax", "jaxlib"):
        return _JaxSpace(kind)
    return _CupySpace(kind) if root == "cupy" else _ProtocolSpace(kind)
