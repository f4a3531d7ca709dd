# SPDX-License-Identifier: Apache-2.0
"""How a live model is patched: functions put over methods of its modules, and taken away again.

A patched module keeps its class, parameters, buffers and hooks. Only its instance dictionary gains a ``forward``: a
``functools.partial`` over a module-level function, so that the model can still be copied, pickled and compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["Original", "Patch", "eager", "is_patched", "patch_of", "unpatch"]

Method = TypeVar("Method", bound=Callable[..., Any])

_HANDLE = "_tokernel_patch"


def eager(method: Method) -> Method:
    """Keep a method out of compiled graphs: it draws numbers and decides in Python. What it decides on is compiled."""
    kept_out: Method = torch.compiler.disable(method)
    return kept_out


class Original:
    """The method that a patch stands in for.

    A method of the class is looked up at each call: a bound method stored here would come back from a pickle as the
    patch itself. What another library had put on the instance (accelerate does) is kept and put back.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module = module
        self.name = name
        self.on_instance = name in vars(module)
        self.value = vars(module).get(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.on_instance:
            assert self.value is not None
            return self.value(*args, **kwargs)
        return getattr(type(self.module), self.name)(self.module, *args, **kwargs)

    def restore(self) -> None:
        if self.on_instance:
            vars(self.module)[self.name] = self.value
        else:
            del vars(self.module)[self.name]


class Patch:
    """The handle of a patched model: what was replaced, and what a paper keeps beside it.

    Use :meth:`unpatch`, or :func:`tokernel.integrations.unpatch` with the model, to undo it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._originals: list[Original] = []

    def replace(self, module: nn.Module, name: str, function: Callable[..., Any], *args: Any) -> None:
        """Let calls of ``module.name`` go to ``function(*args, original, ...)``."""
        original = Original(module, name)
        vars(module)[name] = partial(function, *args, original)
        self._originals.append(original)

    def attach(self) -> None:
        """Make :func:`patch_of` find this handle."""
        vars(self.model)[_HANDLE] = self

    def unpatch(self) -> None:
        """Put every replaced method back."""
        while self._originals:
            self._originals.pop().restore()
        vars(self.model).pop(_HANDLE, None)


def is_patched(module: nn.Module) -> bool:
    """Whether the forward of this very module is replaced."""
    forward = vars(module).get("forward")
    return isinstance(forward, partial) and bool(forward.args) and isinstance(forward.args[-1], Original)


def patch_of(model: Any) -> Patch | None:
    """Return the handle of a patched model or pipeline, also of a copy of one; None when it is not patched."""
    for part in (model, getattr(model, "unet", None), getattr(model, "transformer", None)):
        if isinstance(part, nn.Module) and _HANDLE in vars(part):
            handle: Patch = vars(part)[_HANDLE]
            return handle
    return None


def unpatch(model: Any) -> None:
    """Undo any patch of this package exactly, on the model or pipeline that was patched.

    The methods are the former ones, nothing is left on any module, parameters and buffers were never touched. A model
    that is not patched is left as it is.
    """
    handle = patch_of(model)
    if handle is not None:
        handle.unpatch()
