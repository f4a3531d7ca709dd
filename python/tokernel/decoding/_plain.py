# SPDX-License-Identifier: Apache-2.0
"""Ordinary decoding, one token a step: what every other method is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokernel.decoding._session import Sampling, Session, distribution
from tokernel.decoding._target import TargetModel
from tokernel.kernels.tree import TokenTree

__all__ = ["Plain", "choose"]

_ROOT = TokenTree.chain(1)


def choose(logits: Tensor, sampling: Sampling) -> Tensor:
    """One token for every row of logits: (B, V) float -> (B) int64. Temperature 0: the largest, lowest id first."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(distribution(logits, sampling.temperature), 1, generator=sampling.generator)[:, 0]


class Plain:
    """The model's own next token, step by step: greedy, or drawn at a temperature."""

    name = "greedy"

    def start(self, model: Any, prompts: list[Tensor], sampling: Sampling, room: int) -> Session:
        """See :class:`tokernel.decoding.Method`."""
        target = TargetModel(model, len(prompts), max(map(len, prompts)) + room)
        return _PlainSession(target, prompts, sampling)


class _PlainSession:
    def __init__(self, target: TargetModel, prompts: list[Tensor], sampling: Sampling) -> None:
        self.target = target
        self.sampling = sampling
        self.last = torch.stack([prompt[-1] for prompt in prompts])
        self.rows = list(range(len(prompts)))
        self.target.prefill([prompt[:-1] for prompt in prompts])

    def step(self, active: Sequence[bool]) -> list[list[int]]:
        kept = [place for place, row in enumerate(self.rows) if active[row]]
        if len(kept) < len(self.rows):
            self.target.keep(kept)
            self.last = self.last[kept]
            self.rows = [self.rows[place] for place in kept]
        logits = self.target.score(self.last[:, None], _ROOT)[:, 0]
        self.target.accept(torch.zeros_like(self.last)[:, None])
        self.last = choose(logits, self.sampling)
        out: list[list[int]] = [[] for _ in active]
        for row, token in zip(self.rows, self.last.tolist(), strict=True):
            out[row] = [token]
        return out
