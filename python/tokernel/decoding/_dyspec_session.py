# SPDX-License-Identifier: Apache-2.0
"""One step of DySpec: draft a tree, score it once, walk it, keep the walk in both caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokernel.decoding._dyspec_draft import DraftRows
from tokernel.decoding._dyspec_tree import DraftTree, Search, grow, uniform
from tokernel.decoding._session import Sampling, distribution
from tokernel.decoding._target import TargetModel
from tokernel.kernels.tree import TokenTree, Verified
from tokernel.ops import verify_greedy, verify_stochastic

__all__ = ["DySpecSession", "Settings"]

Order = Callable[[TokenTree], NDArray[np.int32]]


class Settings(NamedTuple):
    """What :class:`tokernel.decoding.dyspec.DySpec` was given."""

    search: Search
    draft_temperature: float
    order: Order | None


class DySpecSession:
    """A batch of prompts inside target and draft model; see :class:`tokernel.decoding.Session`.

    Attributes:
        rows: which row of the batch each sequence is; finished ones leave.
        left: how many tokens each still wants.
    """

    def __init__(
        self, model: Any, draft: Any, prompts: list[Tensor], sampling: Sampling, room: int, settings: Settings
    ) -> None:
        self.settings, self.sampling = settings, sampling
        capacity = max(map(len, prompts)) + room + settings.search.nodes + 1
        self.target = TargetModel(model, len(prompts), capacity)
        self.target.prefill([prompt[:-1] for prompt in prompts])
        self.draft = DraftRows(draft, prompts, capacity)
        self.root = torch.stack([prompt[-1] for prompt in prompts])
        self.rows = list(range(len(prompts)))
        self.left = [room] * len(prompts)

    def step(self, active: Sequence[bool]) -> list[list[int]]:
        self._drop_finished(active)
        trees = self._grow()
        place = _places(trees, self.settings.order)
        tokens, parents = _renumbered(trees, place)
        walk = self._verify(trees, self.target.score(tokens, parents), place)
        emitted = self._emitted(trees, walk, len(active))
        # A row that is done needs no cache; were it to grow, it might outgrow its room.
        goes_on = torch.tensor([left > 0 for left in self.left], device=place.device)[:, None]
        path = torch.where(goes_on, walk.path, -1)
        self.target.accept(torch.where(path < 0, -1, torch.gather(place, 1, path.clamp(min=0))))
        self.draft.accept(path, trees.tokens)
        self.root = walk.bonus
        return emitted

    def _drop_finished(self, active: Sequence[bool]) -> None:
        kept = [place for place, row in enumerate(self.rows) if active[row]]
        if len(kept) < len(self.rows):
            self.target.keep(kept)
            self.draft.keep(kept)
            self.root = self.root[kept]
            self.rows, self.left = ([held[place] for place in kept] for held in (self.rows, self.left))

    def _grow(self) -> DraftTree:
        search = self.settings.search
        wanted = max(self.left) - 1  # the walk ends with a token of no node
        depth = wanted if search.max_depth is None else min(wanted, search.max_depth)
        return grow(
            self.draft.logits,
            self.root,
            search._replace(max_depth=depth),
            self.settings.draft_temperature,
            lambda nodes, vocabulary: uniform((*nodes.shape, vocabulary), self.sampling.generator, self.root.device),
            keep=self.sampling.temperature > 0,
        )

    def _verify(self, trees: DraftTree, logits: Tensor, place: Tensor) -> Verified:
        """Sequoia's rule, in the order of drawing; where the target is a point mass, the rule keeps its token."""
        if self.sampling.temperature == 0:
            best = torch.gather(logits.argmax(-1), 1, place)
            return verify_greedy(trees.tokens, best, trees.parents)
        target = distribution(logits, self.sampling.temperature)
        if self.settings.order is not None:
            target = target[torch.arange(len(target), device=target.device)[:, None], place]
        coins = uniform((len(target), target.shape[1] + 1), self.sampling.generator, target.device)
        draft = trees.draft_probs if trees.forwards else target  # a root alone: nothing was drawn from anything
        return verify_stochastic(trees.tokens, target, draft, coins, trees.parents, rule="sequoia")

    def _emitted(self, trees: DraftTree, walk: Verified, rows: int) -> list[list[int]]:
        """The accepted tokens, of which the root was known, then the bonus."""
        drafts = torch.gather(trees.tokens, 1, walk.path.clamp(min=0))[:, 1:].tolist()
        emitted: list[list[int]] = [[] for _ in range(rows)]
        for i, (count, bonus) in enumerate(zip(walk.accepted.tolist(), walk.bonus.tolist(), strict=True)):
            emitted[self.rows[i]] = [*drafts[i][:count], bonus]
            self.left[i] -= count + 1
        return emitted


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
