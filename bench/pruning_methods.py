# SPDX-License-Identifier: Apache-2.0
"""Which patches each method keeps, for :mod:`bench.real_pruning`.

A *chooser* looks once, after a middle block, at what the blocks so far have put out, and names the patches that stay:
all choosers meet the same tokens at the same place. What shortens the sequence block by block up to there is in
:mod:`bench.pruning_cascades`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tokernel.integrations.vit import Vit
from tokernel.ops import topk
from tokernel.reduce import divprune, hiprune, spatten, todre, zero_tprune
from torch import Tensor

BASELINE, REFERENCE = "random", "class attention"


@dataclass(frozen=True)
class Seen:
    """What a chooser may look at: a batch of images after block `at`, class token first in x, keys and attn.

    Attributes:
        x: (B, N, C) tokens that block `at` put out.
        keys: (B, N, C) keys of block `at`, heads concatenated.
        attn: (B, H, N, N) map of block `at`.
        middle: (B, N) attention that each token receives in an earlier block, mean over heads and queries.
        spatten: scores of tokens over all blocks so far.
        grid: rows and columns of patches.
    """

    x: Tensor
    keys: Tensor
    attn: Tensor
    middle: Tensor
    spatten: spatten.TokenHeadState
    grid: tuple[int, int]

    @property
    def patches(self) -> int:
        return self.x.shape[1] - 1


def embed(vit: Vit, images: Tensor) -> Tensor:
    """Turn images into the tokens that enter the first block."""
    tokens: Tensor = vit.module.embeddings(images)
    return tokens


def look(vit: Vit, images: Tensor, at: int) -> Seen:
    """Run the blocks up to `at` and keep what the methods ask for.

    The earlier block of `middle` is as deep before `at` as HiPrune's object layer, 9 of 24, before its deep one, 23.
    """
    x = embed(vit, images)
    early = round((at + 1) * 9 / 23) - 1
    middle = torch.zeros(x.shape[:2])
    state: spatten.TokenHeadState | None = None
    for index, view in enumerate(vit.views[: at + 1]):
        q, k, _ = view.heads(x)
        attn = torch.softmax((q @ k.mT).float() * view.scale, -1)
        state = state or spatten.TokenHeadState(x.shape[1], attn.shape[1], len(x))
        state.update_from_probs(attn)
        if index == early:
            middle = attn.mean((1, 2))
        x = view.module(x)
    side = round((x.shape[1] - 1) ** 0.5)
    assert state is not None
    return Seen(x, k.transpose(1, 2).flatten(2), attn, middle, state, (side, side))


def finish(vit: Vit, x: Tensor, at: int) -> Tensor:
    """Run the blocks behind `at` and return the normalised class token (B, C)."""
    for view in vit.views[at + 1 :]:
        x = view.module(x)
    state: Tensor = vit.module.layernorm(x[:, :1])
    return state[:, 0]


Chooser = Callable[[Seen, int, int], Tensor]
"""(seen, patches to keep, seed) -> (B, kept) int64 indices among the patches."""


def _best(score: Tensor, kept: int) -> Tensor:
    return topk(score, kept, sorted=False)[1]


def by_chance(seen: Seen, kept: int, seed: int) -> Tensor:
    """Any patches: the baseline."""
    generator = torch.Generator().manual_seed(seed)
    return _best(torch.rand(len(seen.x), seen.patches, generator=generator), kept)


def by_class_attention(seen: Seen, kept: int, seed: int) -> Tensor:
    """The patches that the class token attends to most, mean over heads: FasterVLM's rule, and many others'."""
    return _best(class_attention(seen), kept)


def class_attention(seen: Seen) -> Tensor:
    """Attention that the class token pays each patch, (B, N - 1)."""
    return seen.attn[:, :, 0, 1:].mean(1).contiguous()


def by_pagerank(seen: Seen, kept: int, seed: int) -> Tensor:
    """zero_tprune, one layer: half of what goes is dropped as duplicate, the other half as unimportant."""
    r = min((seen.patches - kept) // 2, seen.patches // 2)
    layer = zero_tprune.ZeroTPruneLayer(iters=5, rho=kept / (seen.patches - r), r=r)
    return layer.choose(seen.attn, seen.keys)[:, 1:] - 1


def by_pagerank_alone(seen: Seen, kept: int, seed: int) -> Tensor:
    """zero_tprune without its S-stage."""
    layer = zero_tprune.ZeroTPruneLayer(iters=5, rho=kept / seen.patches)
    return layer.choose(seen.attn, seen.keys)[:, 1:] - 1


def by_max_min(seen: Seen, kept: int, seed: int) -> Tensor:
    """DivPrune on the features of the middle block."""
    return divprune.max_min_select(seen.x[:, 1:], kept, sorted=True)


def by_max_sum(seen: Seen, kept: int, seed: int) -> Tensor:
    """ToDRE's first stage, version 2, from the patch that the class token attends to most."""
    pivot = todre.cls_pivot(class_attention(seen))
    return todre.max_sum_select(seen.x[:, 1:], kept, pivot).sort(1).values


def by_max_min_from_pivot(seen: Seen, kept: int, seed: int) -> Tensor:
    """ToDRE's first stage, version 1."""
    pivot = todre.cls_pivot(class_attention(seen))
    return todre.max_sum_select(seen.x[:, 1:], kept, pivot, objective="min").sort(1).values


def by_hierarchy(seen: Seen, kept: int, seed: int, alpha: float = 0.1) -> Tensor:
    """HiPrune: the middle block is its deep layer, an earlier one its object layer."""
    deep = seen.attn.mean((1, 2))[:, 1:]
    mask = hiprune.hiprune_select(seen.middle[:, 1:], deep, seen.grid, kept, alpha)
    return _best(mask.float(), kept)


def by_registers(seen: Seen, kept: int, seed: int) -> Tensor:
    """HiPrune without anchors and neighbours: attention received in the deep layer."""
    return by_hierarchy(seen, kept, seed, alpha=0.0)


def by_accumulated_attention(seen: Seen, kept: int, seed: int) -> Tensor:
    """SpAtten's importance, accumulated over all blocks so far, and one cut."""
    return _best(seen.spatten.token_score[:, 1:].contiguous(), kept)


CHOOSERS: dict[str, Chooser] = {
    BASELINE: by_chance,
    REFERENCE: by_class_attention,
    "divprune": by_max_min,
    "todre, sum": by_max_sum,
    "todre, min": by_max_min_from_pivot,
    "hiprune": by_hierarchy,
    "hiprune, registers alone": by_registers,
    "zero_tprune": by_pagerank,
    "zero_tprune, I-stage alone": by_pagerank_alone,
    "spatten": by_accumulated_attention,
}
