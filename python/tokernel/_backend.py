# SPDX-License-Identifier: Apache-2.0
"""Which implementation runs: listing, forcing and asking afterwards.

A backend is a name: ``ref`` (scalar C++), ``v2``, ``v3``, ``v4`` (x86-64 levels) or ``neon``, ``cuda``, and ``simt``
(the CUDA kernels on the host executor). Unless one is forced, CUDA arrays run on ``cuda`` and CPU arrays on the best
level of the machine.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import operator
import os
import threading
from collections.abc import Iterator
from types import ModuleType

from tokernel import _C

_DEVICE_BACKENDS = ("cuda", "simt")
_MOST_THREADS = 2**31 - 1  # more is no limit at all, whatever the processor


class _Forced(threading.local):
    """The device backend (`cuda`, `simt`) forced for a thread, or None; the class attribute is the default."""

    device: str | None = None


forced = _Forced()


@functools.cache
def extension(name: str) -> ModuleType | None:
    """Import ``tokernel._cuda`` or ``tokernel._simt`` once; None when this build does not have it."""
    if importlib.util.find_spec(f"tokernel._{name}") is None:
        return None
    return importlib.import_module(f"tokernel._{name}")


@functools.cache
def cuda_problem() -> str:
    """Say in one sentence why CUDA arrays cannot be used here, or return an empty string."""
    module = extension("cuda")
    if module is None:
        return "this build of tokernel has no CUDA extension (build with TOKERNEL_CUDA=ON and nvcc on PATH)"
    found, reason = module.devices()
    return "" if found else f"no usable CUDA device: {reason}"


def backends() -> dict[str, list[str]]:
    """List the backends of this build.

    Returns:
        ``{"compiled": [...], "usable": [...]}``: compiled into this build, and able to run on this machine now.

    >>> "ref" in backends()["usable"]
    True
    """
    compiled = list(_C.compiled_levels())
    usable = list(_C.usable_levels())
    for name in _DEVICE_BACKENDS:
        if extension(name) is None:
            continue
        compiled.append(name)
        if name == "simt" or not cuda_problem():
            usable.append(name)
    return {"compiled": compiled, "usable": usable}


def _require_usable(name: str) -> None:
    known = backends()
    if name in known["usable"]:
        return
    if name == "cuda":
        raise ValueError(f"backend: 'cuda' cannot run: {cuda_problem()}")
    if name == "simt":
        raise ValueError("backend: 'simt' is not part of this build (build with TOKERNEL_SIMT=ON)")
    raise ValueError(f"backend: must be one of {', '.join(known['usable'])}, got {name!r}")


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Force one backend for the calling thread while the context is open.

    Args:
        name: one of ``backends()["usable"]``. A CPU level refuses CUDA arrays, ``cuda`` refuses CPU arrays.

    Raises:
        ValueError: the backend is unknown, not compiled in, or cannot run on this machine.

    >>> with use_backend("ref"):
    ...     pass
    """
    _require_usable(name)
    device = name if name in _DEVICE_BACKENDS else None
    previous_device = forced.device
    previous_level = _C.force_thread_level("none" if device else name)
    forced.device = device
    try:
        yield
    finally:
        _C.force_thread_level(previous_level)
        forced.device = previous_device


def last_backend() -> str:
    """Return the name of the backend that ran the last op on this thread (``"none"`` before the first).

    >>> isinstance(last_backend(), str)
    True
    """
    level = str(_C.last_level())
    return level if level != "none" else _last.device


class _Last(threading.local):
    device = "none"


_last = _Last()


def note_device_run(name: str) -> None:
    """Record that an op of this thread goes to a device backend; CPU levels record themselves."""
    _last.device = name
    _C.forget_last_level()


def get_num_threads() -> int:
    """Return how many threads a kernel may use: min(CPU affinity, TOKERNEL_NUM_THREADS or
    :func:`set_num_threads`, ``torch.get_num_threads()`` for torch tensors).

    >>> get_num_threads() >= 1
    True
    """
    return int(_C.num_threads())


def set_num_threads(n: int) -> None:
    """Limit the threads of every CPU kernel; results keep the same bits for any number.

    Args:
        n: at least 1, or 0 for no limit but the CPU affinity.

    Raises:
        TypeError: n is not an integer.
        ValueError: n is negative.

    >>> set_num_threads(0)
    """
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"set_num_threads: n must be an integer, got {type(n).__name__}") from None
    if count < 0:
        raise ValueError(f"set_num_threads: n must be at least 0, got {count}")
    _C.set_num_threads(min(count, _MOST_THREADS))


def _apply_thread_environment() -> None:
    text = os.environ.get("TOKERNEL_NUM_THREADS", "").strip()
    if not text:
        return
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"TOKERNEL_NUM_THREADS: must be a whole number (0: no limit), got {text!r}")
    set_num_threads(int(text))


def _apply_backend_environment() -> None:
    name = os.environ.get("TOKERNEL_BACKEND")
    if not name:
        return
    _require_usable(name)
    if name in _DEVICE_BACKENDS:
        _Forced.device = name
    else:
        _C.force_process_level(name)


_apply_thread_environment()
_apply_backend_environment()
