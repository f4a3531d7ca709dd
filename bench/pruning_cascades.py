# SPDX-License-Identifier: Apache-2.0
"""Methods that shorten the sequence block by block up to the middle, for :mod:`bench.real_pruning`.

All but DyMU follow one schedule of counts, so that they differ in what they take and not in how much; DyMU merges as
many as an image can spare, calibrated to the same number on the average of other images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tokernel.integrations.vit import Vit, VitPatch
from tokernel.ops import gather_rows, topk
from tokernel.reduce import dymu, spatten, tome, zero_tprune
from torch import Tensor, nn

from bench.pruning_methods import embed, finish

STEPWISE_BASELINE = "random, block by block"


@dataclass(frozen=True)
class Shortened:
    """A batch: class tokens (B, C), and which patches each output holds, (B, M, N) of 0 and 1; zeros are padding."""

    state: Tensor
    source: Tensor


Run = Callable[[Tensor], Shortened]


@dataclass(frozen=True)
class Plan:
    """What a cascade is asked for: `kept` of `patches` after block `at`; other images to calibrate on; a seed."""

    patches: int
    kept: int
    at: int
    calibration: Tensor
    seed: int = 0

    @property
    def reachable(self) -> bool:
        """Whether halving at most in every block comes down to so few: merging cannot do more."""
        return self.kept << (self.at + 1) >= self.patches

    @property
    def schedule(self) -> list[int]:
        """Patches to take away in each block, as even as the limit of a half lets them be."""
        counts, left = [], self.patches
        for later in reversed(range(self.at + 1)):
            even = -(-(left - self.kept) // (later + 1))
            # What the later blocks cannot halve away goes now.
            counts.append(min(max(even, left - (self.kept << later)), left // 2))
            left -= counts[-1]
        return counts


Cascade = Callable[[nn.Module, Plan], AbstractContextManager[Run]]
"""A context in which batches run shortened; behind it the model is as before."""


class Drop(VitPatch):
    """After every block, :meth:`choose` names the patches that stay; they are traced."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        super().__init__(model)
        self.counts = plan.schedule
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.kept: Tensor = torch.empty(0)

    def choose(self, index: int, attn: Tensor, kept: int) -> Tensor:
        """(B, kept) patches, ascending: here, any."""
        return topk(torch.rand(len(attn), attn.shape[-1] - 1, generator=self.generator), kept, sorted=False)[1]

    def block(self, index: int, view: Any, x: Tensor, dense: Callable[[Tensor], Tensor]) -> Tensor:
        q, k, _ = view.heads(x)
        attn = torch.softmax((q @ k.mT).float() * view.scale, -1)
        x = dense(x)
        keep = self.choose(index, attn, x.shape[1] - 1 - self.counts[index])
        self.kept = self.kept.gather(1, keep) if index else keep
        return gather_rows(x, torch.cat([torch.zeros_like(keep[:, :1]), keep + 1], 1))


class SpAttenDrop(Drop):
    """SpAtten's cascade: importance accumulates over blocks, and the least important go after each of them."""

    def choose(self, index: int, attn: Tensor, kept: int) -> Tensor:
        batch, heads, _, tokens = attn.shape
        if index == 0:
            first = torch.arange(tokens) == 0
            self.state = spatten.TokenHeadState(tokens, heads, batch, protect=first)
        self.state.update_from_probs(attn)
        return self.state.prune_tokens(1 - (kept + 1) / tokens)[:, 1:] - 1


@contextmanager
def _dropping(patch: Drop, plan: Plan) -> Iterator[Run]:
    patch.install(range(plan.at + 1))

    def run(images: Tensor) -> Shortened:
        state = finish(patch.vit, embed(patch.vit, images), -1)
        return Shortened(state, nn.functional.one_hot(patch.kept, plan.patches).float())

    try:
        yield run
    finally:
        patch.unpatch()


def by_chance(model: nn.Module, plan: Plan) -> AbstractContextManager[Run]:
    """Any patches go: the baseline of this group."""
    return _dropping(Drop(model, plan), plan)


def by_spatten(model: nn.Module, plan: Plan) -> AbstractContextManager[Run]:
    """SpAtten's cascade of tokens."""
    return _dropping(SpAttenDrop(model, plan), plan)


@contextmanager
def by_pagerank(model: nn.Module, plan: Plan) -> Iterator[Run]:
    """zero_tprune in every block, half of what goes by its S-stage; iterations fall as the paper advises."""
    config, left = {}, plan.patches
    for block, count in enumerate(plan.schedule):
        iters = 30 if 4 * block < len(Vit(model).views) else 5
        config[block] = (iters, (left - count) / (left - count // 2), count // 2)
        left -= count
    handle = zero_tprune.patch_vit(model, config)

    def run(images: Tensor) -> Shortened:
        state, kept = finish(handle.vit, embed(handle.vit, images), -1), handle.kept
        assert kept is not None
        return Shortened(state, nn.functional.one_hot(kept[:, 1:] - 1, plan.patches).float())

    try:
        yield run
    finally:
        handle.unpatch()


@contextmanager
def by_tome(model: nn.Module, plan: Plan) -> Iterator[Run]:
    """ToMe: the reference for merging."""
    handle = tome.patch_vit(model, plan.schedule, trace_source=True)

    def run(images: Tensor) -> Shortened:
        state, source = finish(handle.vit, embed(handle.vit, images), -1), handle.source
        assert source is not None
        return Shortened(state, source[:, 1:, 1:])

    try:
        yield run
    finally:
        handle.unpatch()


@contextmanager
def by_dymu(model: nn.Module, plan: Plan) -> Iterator[Run]:
    """DyMU's merging by thresholds; the thresholds of the blocks up to the middle come from other images."""
    layers = len(Vit(model).views)
    total = round((plan.patches - plan.kept) * layers / (plan.at + 1))
    found = dymu.calibrate(model, plan.calibration.split(32), total, progress=False).thresholds
    handle = dymu.patch_vit(model, [*found[: plan.at + 1], *[1.0] * (layers - plan.at - 1)])

    def run(images: Tensor) -> Shortened:
        state, mapping = finish(handle.vit, embed(handle.vit, images), -1), handle.mapping
        if mapping is None:
            return Shortened(state, torch.eye(plan.patches).expand(len(images), -1, -1))
        return Shortened(state, nn.functional.one_hot(mapping).mT.float()[:, 1:, 1:])

    try:
        yield run
    finally:
        handle.unpatch()


CASCADES: dict[str, Cascade] = {
    STEPWISE_BASELINE: by_chance,
    "zero_tprune, block by block": by_pagerank,
    "spatten, block by block": by_spatten,
    "tome": by_tome,
    "dymu": by_dymu,
}
