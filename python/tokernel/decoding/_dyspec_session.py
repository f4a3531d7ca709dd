# SPDX-License-Identifier: Apache-2.0
"""One step of DySpec: draft a tree, score it once, walk it, keep the walk in both caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokernel.decoding._dyspec_draft import DraftRows
from tokernel.decoding._dyspec_tree import DraftTree, Search, distribution, grow, uniform
from tokernel.decoding._session import Sampling
from tokernel.decoding._target import TargetModel
from tokernel.kernels.tree import Verified
from tokernel.ops import verify_greedy, verify_stochastic

__all__ = ["DySpecSession", "Settings"]

Order = Callable[[Any], Any]


class Settings(NamedTuple):
    """What :class:`tokernel.decoding.dyspec.DySpec` was given."""

    search: Search
    draft_temperature: float
    order: Order | None


class DySpecSession:
    """A batch of prompts inside target and draft model; see :class:`tokernel.decoding.Session`."""

    def __init__(
        self, model: Any, draft: Any, prompts: list[Tensor], sampling: Sampling, room: int, settings: Settings
    ) -> None:
        self.settings, self.sampling = settings, sampling
        capacity = max(map(len, prompts)) + room + settings.search.nodes + 1
        self.target = TargetModel(model, len(prompts), capacity)
        self.target.prefill([prompt[:-1] for prompt in prompts])
        self.draft = DraftRows(draft, prompts, capacity)
        self.root = torch.stack([prompt[-1] for prompt in prompts])
        self.left = [room] * len(prompts)

    def step(self, active: Sequence[bool]) -> list[list[int]]:
        on = [row for row, is_active in enumerate(active) if is_active]
        rows = torch.tensor(on, device=self.root.device)
        trees = self._grow(rows)
        place = _places(trees, self.settings.order)
        tokens, parents = _renumbered(trees, place)
        logits = self.target.score(self._spread(rows, tokens, 0), self._spread(rows, parents, -1))
        walk = self._verify(trees, logits, rows, place)
        emitted = self._emitted(on, trees, walk)
        # A row that is done needs no cache; were it to grow, it might outgrow its room.
        goes_on = torch.tensor([self.left[row] > 0 for row in on], device=rows.device)[:, None]
        path = torch.where(goes_on, walk.path, -1)
        placed = torch.where(path < 0, -1, torch.gather(place, 1, path.clamp(min=0)))
        self.target.accept(self._spread(rows, placed, -1))
        self.draft.accept(self._spread(rows, path, -1), self._spread(rows, trees.tokens, 0))
        self.root[rows] = walk.bonus
        return emitted

    def _grow(self, rows: Tensor) -> DraftTree:
        def draft_fn(tokens: Tensor, parents: Tensor, nodes: Tensor) -> Tensor:
            spread = (self._spread(rows, given, fill) for given, fill in ((tokens, 0), (parents, -1), (nodes, -1)))
            return self.draft.logits(*spread)[rows]

        search = self.settings.search
        wanted = max(self.left[row] for row in rows.tolist()) - 1  # the walk ends with a token of no node
        depth = wanted if search.max_depth is None else min(wanted, search.max_depth)
        return grow(
            draft_fn,
            self.root[rows],
            search._replace(max_depth=depth),
            self.settings.draft_temperature,
            lambda nodes, vocabulary: uniform((*nodes.shape, vocabulary), self.sampling.generator, self.root.device),
            keep=self.sampling.temperature > 0,
        )

    def _verify(self, trees: DraftTree, logits: Tensor, rows: Tensor, place: Tensor) -> Verified:
        """Sequoia's rule, in the order of drawing; where the target is a point mass, the rule keeps its token."""
        if self.sampling.temperature == 0:
            best = torch.gather(logits.argmax(-1)[rows], 1, place)
            return verify_greedy(trees.tokens, best, trees.parents)
        target = distribution(logits if len(rows) == len(logits) else logits[rows], self.sampling.temperature)
        if self.settings.order is not None:
            target = target[torch.arange(len(target), device=target.device)[:, None], place]
        coins = uniform((len(target), target.shape[1] + 1), self.sampling.generator, target.device)
        draft = trees.draft_probs if trees.forwards else target  # a root alone: nothing was drawn from anything
        return verify_stochastic(trees.tokens, target, draft, coins, trees.parents, rule="sequoia")

    def _emitted(self, on: list[int], trees: DraftTree, walk: Verified) -> list[list[int]]:
        emitted: list[list[int]] = [[] for _ in self.left]
        for i, row in enumerate(on):
            accepted = walk.path[i, 1 : 1 + int(walk.accepted[i])]
            emitted[row] = [*trees.tokens[i, accepted].tolist(), int(walk.bonus[i])]
            self.left[row] -= len(emitted[row])
        return emitted

    def _spread(self, rows: Tensor, given: Tensor, fill: int) -> Tensor:
        """(n, ...) of the active rows to (B, ...)."""
        full = given.new_full((len(self.root), *given.shape[1:]), fill)
        full[rows] = given
        return full


def _places(trees: DraftTree, order: Order | None) -> Tensor:
    """(n, T): where each node of the draw order goes."""
    rows, nodes = trees.parents.shape
    place = np.tile(np.arange(nodes), (rows, 1))
    if order is not None:
        for row in range(rows):
            visited = order(trees.tree(row))
            place[row, visited] = np.arange(len(visited))
    return torch.from_numpy(place).to(trees.parents.device)


def _renumbered(trees: DraftTree, place: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and parents of the trees with every node in its place."""
    above = torch.where(trees.parents < 0, -1, torch.gather(place, 1, trees.parents.clamp(min=0)))
    tokens, parents = torch.empty_like(trees.tokens), torch.empty_like(above)
    return tokens.scatter_(1, place, trees.tokens), parents.scatter_(1, place, above)
