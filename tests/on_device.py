# SPDX-License-Identifier: Apache-2.0
"""Host arrays for a device extension: with this, every test that takes the fixture `backend` also runs on a GPU."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from tokernel import _C
from tokernel.kernels import _arrays

ALIGNMENT = 256  # bytes; wide loads take their way by the address of an array, so the copy keeps its residue


def _as_tensor(array: Any) -> torch.Tensor:
    """The same memory as a tensor; a copy where torch has no word for the strides."""
    if isinstance(array, torch.Tensor):
        return array.detach().resolve_neg()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # read-only arrays stay as they are, see Loan.bring_back
        try:
            return torch.from_numpy(array)
        except (TypeError, ValueError):
            return torch.from_numpy(array.copy())


def _span(x: torch.Tensor) -> torch.Tensor:
    """All memory between the first and the last element, in one dimension."""
    reach = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) if x.numel() else 0
    return x.as_strided((reach,), (1,))


def _bits(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1).contiguous().view(torch.uint8)


class Loan:
    """A host array and its copy on the device: the same strides, and the same place within :data:`ALIGNMENT` bytes."""

    def __init__(self, array: Any, device: str) -> None:
        self.array = array
        host = _as_tensor(array)
        self.home = _span(host)
        lead = host.data_ptr() % ALIGNMENT // host.itemsize
        room = torch.empty(lead + self.home.numel(), dtype=host.dtype, device=device)
        self.held = room[lead:].copy_(self.home)
        self.moved = room.as_strided(host.shape, host.stride(), lead)

    def bring_back(self) -> None:
        """Write into the host array what the op has changed, if anything."""
        changed = self.held.cpu()
        if not torch.equal(_bits(changed), _bits(self.home)):
            self.home.copy_(changed)


class OnDevice:
    """Stands for a device extension: each op of it takes host arrays.

    The host's extension runs first, since only there values (indices, offsets, parents) are checked; a test of bad
    input thus raises before the device sees it. Then everything it wrote is undone by what the device gives.
    """

    def __init__(self, name: str, device: str) -> None:
        self._name = name
        self._device = device

    def __getattr__(self, op: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with torch.no_grad():
                return self._call(op, args, kwargs)

        return call

    def _call(self, op: str, args: Any, kwargs: Any) -> Any:
        loans = self._lend((args, kwargs))
        for loan in loans.values():
            _arrays.extension_of(op, "array", loan.moved)  # says how tensors are allocated, if nobody has yet
        getattr(_C, op)(*args, **kwargs)
        run = getattr(_arrays._device_extension(self._name), op)
        with poisoned():
            result = run(*_swap(args, loans), **_swap(kwargs, loans))
        for loan in loans.values():
            loan.bring_back()
        return _returned(result, loans)

    def _lend(self, value: Any) -> dict[int, Loan]:
        if isinstance(value, np.ndarray | torch.Tensor):
            return {id(value): Loan(value, self._device)}
        loans: dict[int, Loan] = {}
        if isinstance(value, dict):
            value = tuple(value.values())
        if isinstance(value, list | tuple):
            for item in value:
                loans |= self._lend(item)
        return loans


def _swap(value: Any, loans: dict[int, Loan]) -> Any:
    if id(value) in loans:
        return loans[id(value)].moved
    if isinstance(value, dict):
        return {key: _swap(item, loans) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_swap(item, loans) for item in value)
    return value


def _returned(result: Any, loans: dict[int, Loan]) -> Any:
    """Answers in the framework of the first argument; an array that was lent comes back as itself."""
    if isinstance(result, list | tuple):
        return type(result)(_returned(item, loans) for item in result)
    if not isinstance(result, torch.Tensor):
        return result
    for loan in loans.values():
        if result is loan.moved:
            return loan.array
    on_host = result.cpu()
    if isinstance(next(iter(loans.values())).array, np.ndarray):
        return on_host.numpy().copy()  # its own memory, as answers on the host have
    return on_host


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """New arrays of torch, answers and workspaces alike, start as NaN or as the largest integer."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextlib.contextmanager
def host_arrays_on(name: str, device: str) -> Iterator[None]:
    """While open, ops on host arrays run on the device extension of this name wherever it is the backend forced."""
    usual = _arrays._host_extension
    stand_in = OnDevice(name, device)
    _arrays._host_extension = lambda: stand_in if _arrays.forced.device == name else usual()
    try:
        yield
    finally:
        _arrays._host_extension = usual
