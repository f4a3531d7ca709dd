# SPDX-License-Identifier: Apache-2.0
"""The rounds of DEL: the first layers draft, the others verify, and every layer is scored on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from tokernel import ops
from tokernel.decoding._del_controller import DELController, accept_chain
from tokernel.decoding._del_shadow import said
from tokernel.decoding._layers import LayerRows, LayerStack
from tokernel.decoding._session import Sampling, distribution

__all__ = ["DelRow", "DelSession", "Limits", "Round", "accept_sampled"]


class Round(NamedTuple):
    """What one round did: how many layers drafted, the draft length chosen with them, drafted and accepted tokens."""

    exit_layer: int
    gamma: int
    drafted: int
    accepted: int


class Limits(NamedTuple):
    """When a draft ends, besides low confidence."""

    dynamic: bool
    longest: int
    window: int
    stops: frozenset[int]


@dataclass
class _Draft:
    """Tokens of one round before they are verified."""

    tokens: list[int] = field(default_factory=list)
    probs: list[Tensor] = field(default_factory=list)
    edge: list[Tensor] = field(default_factory=list)


def accept_sampled(draft: Sequence[int], q: Tensor, p: Tensor, generator: torch.Generator | None) -> tuple[int, int]:
    """Take drafted tokens so that what comes out has the model's distribution.

    Token i is taken with probability min(1, p_i / q_i); at the first that is not, a token is drawn from
    norm(max(p - q, 0)), and behind a draft taken whole from p.

    Args:
        draft: d tokens, token i drawn from q[i].
        q: (d, V) distributions of the draft.
        p: (d + 1, V) the model's.
        generator: of the draws.

    Returns:
        How many drafted tokens stand, and the token behind them.
    """
    coins = torch.rand(1, len(draft) + 1, generator=generator, device=p.device)
    tokens = torch.tensor([draft], dtype=torch.int64, device=p.device)
    kept = ops.verify_chain(tokens, p[None], q[None], coins)
    accepted = int(kept.accepted)
    return accepted, int(kept.tokens[0, accepted])


class DelRow:
    """One sequence: its cache, the statistics of its layers, and what its rounds did."""

    def __init__(
        self,
        stack: LayerStack,
        prompt: Tensor,
        sampling: Sampling,
        room: int,
        controller: DELController,
        limits: Limits,
    ) -> None:
        self.stack = stack
        self.pending = prompt
        self.sampling = sampling
        self.left = room
        self.controller = controller
        self.limits = limits
        self.cache = LayerRows(len(stack.layers), len(prompt) + room)
        self.rounds: list[Round] = []

    def round(self) -> list[int]:
        """Draft, verify, score: the tokens committed, at least one."""
        controller = self.controller
        exit_layer, gamma = controller.exit_layer, controller.gamma
        past, new = self.cache.lengths[0], len(self.pending)
        context = min(self.limits.window, new - 1)
        states: dict[int, list[Tensor]] = {layer: [] for layer in controller.eligible}
        draft = self._draft(past, context, exit_layer, states)
        drafted = len(draft.tokens)
        edge = torch.cat(draft.edge, 1)
        columns = context + 1 + drafted
        final = self._run(edge, past, range(exit_layer, len(self.stack.layers)), columns, states)[:, -columns:]
        logits = self.stack.logits(final)[0]
        target = logits.argmax(-1)
        accepted, bonus = self._verify(draft, logits, target, context)
        self.cache.crop(past + new + accepted)
        self._score(states, target, exit_layer, context, columns if self.greedy else context + 1 + accepted)
        emitted = [*draft.tokens[:accepted], bonus]
        self.pending = self.pending.new_tensor([bonus])
        self.left -= len(emitted)
        self.rounds.append(Round(exit_layer, gamma, drafted, accepted))
        return emitted

    @property
    def greedy(self) -> bool:
        return self.sampling.temperature == 0

    def _draft(self, past: int, context: int, exit_layer: int, states: dict[int, list[Tensor]]) -> _Draft:
        draft = _Draft()
        chosen = self.limits.longest if self.limits.dynamic else self.controller.gamma
        most = min(1 if past == 0 else chosen, self.left - 1)
        tau = self.controller.threshold(exit_layer) if past and self.limits.dynamic else math.nan
        fed, kept, sure = self.pending, context + 1, math.inf
        while True:
            h = self.stack.embed(fed[None], _positions(past, fed))
            h = self._run(h, past, range(exit_layer), kept, states)
            draft.edge.append(h)
            past += len(fed)
            ended = draft.tokens[-1:] and draft.tokens[-1] in self.limits.stops
            if len(draft.tokens) >= most or sure < tau or ended:
                # The last drafted token went through the drafting layers for its keys and values alone.
                return draft
            token, sure = self._propose(h[:, -1], draft)
            draft.tokens.append(token)
            fed, kept = fed.new_tensor([token]), 1

    def _propose(self, h: Tensor, draft: _Draft) -> tuple[int, float]:
        if self.greedy:
            token, sure = said(self.stack.norm(h), self.stack.head)
            return int(token), float(sure)
        q = distribution(self.stack.logits(h), self.sampling.temperature)
        drawn = int(torch.multinomial(q, 1, generator=self.sampling.generator))
        draft.probs.append(q)
        return drawn, float(q[0, drawn])

    def _verify(self, draft: _Draft, logits: Tensor, target: Tensor, context: int) -> tuple[int, int]:
        if self.greedy:
            wanted = target[context:].tolist()
            accepted = accept_chain(draft.tokens, wanted)
            return accepted, wanted[accepted]
        p = distribution(logits[context:], self.sampling.temperature)
        q = torch.cat(draft.probs) if draft.probs else p[:0]
        return accept_sampled(draft.tokens, q, p, self.sampling.generator)

    def _score(
        self, states: dict[int, list[Tensor]], target: Tensor, exit_layer: int, context: int, columns: int
    ) -> None:
        hidden = self.stack.norm(torch.stack([torch.cat(pieces)[:columns] for pieces in states.values()]))
        ids, prob = (found.view(hidden.shape[:2]) for found in said(hidden.flatten(0, 1), self.stack.head))
        tokens = torch.cat([ids, target[None, :columns]])
        self.controller.update(tokens.cpu(), prob.cpu(), exit_layer, context)
        self.controller.select()

    def _run(self, h: Tensor, past: int, layers: range, kept: int, states: dict[int, list[Tensor]]) -> Tensor:
        """Columns through some layers; the last ``kept`` states of every eligible one are noted."""
        place = self.stack.place(h, _positions(past, h[0]), past)
        for layer in layers:
            h = self.stack.run(h, place, layer, self.cache)
            if layer in states:
                states[layer].append(h[0, -kept:])
        return h


def _positions(past: int, columns: Tensor) -> Tensor:
    return torch.arange(past, past + len(columns), device=columns.device)[None]


class DelSession:
    """Rows that run one after another, each with statistics of its own."""

    def __init__(self, rows: list[DelRow]) -> None:
        self.rows = rows

    @torch.no_grad()
    def step(self, active: Sequence[bool]) -> list[list[int]]:
        """See :class:`tokernel.decoding.Session`."""
        return [row.round() if on else [] for row, on in zip(self.rows, active, strict=True)]
