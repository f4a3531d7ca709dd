# SPDX-License-Identifier: Apache-2.0
"""What :func:`tokernel.decoding.generate` asks of a way to decode: a method starts a session, a session makes steps."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Method", "Sampling", "Session", "distribution", "find_method", "greedy_only", "method_names"]

# Name -> module and class, whose constructor takes no argument.
_METHODS = {
    "del_exit": ("tokernel.decoding.del_exit", "DelExit"),
    "greedy": ("tokernel.decoding._plain", "Plain"),
    "skipdecode": ("tokernel.decoding.skipdecode", "SkipDecode"),
    "token_recycling": ("tokernel.decoding.token_recycling", "TokenRecycling"),
}


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from the model's distribution.

    Attributes:
        temperature: divides the logits; 0 takes the most likely token, the lowest id among equals.
        generator: source of the draws; None for torch's own of the model's device.
    """

    temperature: float = 0.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"generate: temperature must be finite and at least 0, got {self.temperature}")


def distribution(logits: Tensor, temperature: float) -> Tensor:
    """(..., V) logits to float32 probabilities; temperature 0: a point mass on the largest, the lowest id of equals."""
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    return torch.softmax(logits.float() / temperature, -1)


class Session(Protocol):
    """One batch of prompts being continued."""

    def step(self, active: Sequence[bool]) -> list[list[int]]:
        """Commit at least one more token to every active row.

        Args:
            active: a row that is not will never be asked for again.

        Returns:
            The new tokens of every row in their order; [] for a row that is not active. More than the caller wants is
            allowed: it cuts.
        """
        ...


class Method(Protocol):
    """A way to decode, with its settings."""

    @property
    def name(self) -> str:
        """What errors and tables call it."""
        ...

    def start(self, model: Any, prompts: list[Tensor], sampling: Sampling, room: int) -> Session:
        """Take up a batch.

        Args:
            model: a causal language model of transformers.
            prompts: (P_b) int64 each, at least one token, without padding, on the model's device.
            sampling: how tokens are chosen.
            room: how many tokens each row will want at most; more may be emitted in its last step.
        """
        ...


def method_names() -> list[str]:
    """List the names that ``generate(method=...)`` knows.

    >>> "greedy" in method_names()
    True
    """
    return sorted(_METHODS)


def find_method(method: str | Method) -> Method:
    """Make a method of a name; what has a ``start`` is one already."""
    if not isinstance(method, str):
        if not callable(getattr(method, "start", None)):
            raise TypeError(f"generate: method must be a name or have a start(), got {type(method).__name__}")
        return method
    if method not in _METHODS:
        raise ValueError(f"generate: method must be one of {', '.join(method_names())}, got {method!r}")
    module, name = _METHODS[method]
    made: Method = getattr(importlib.import_module(module), name)()
    return made


def greedy_only(name: str, sampling: Sampling) -> None:
    """Refuse a temperature where a method's verification is defined for the most likely token alone."""
    if sampling.temperature != 0:
        raise ValueError(f"generate: temperature must be 0 for {name}, which is greedy, got {sampling.temperature}")
