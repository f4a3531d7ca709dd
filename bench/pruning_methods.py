# SPDX-License-Identifier: Apache-2.0
"""Which patches each method keeps, for :mod:`bench.real_pruning`.

A *chooser* looks once, after a middle block, at what the blocks so far have put out, and names the patches that stay:
all choosers meet the same tokens at the same place. A *merger* shortens the sequence block by block up to there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from tokernel.integrations.vit import Vit
from tokernel.ops import topk
from tokernel.reduce import tome, zero_tprune
from torch import Tensor, nn

BASELINE, REFERENCE = "random", "class attention"


@dataclass(frozen=True)
class Seen:
    """What a chooser may look at: a batch of images after block `at`, class token first in x, keys and attn.

    Attributes:
        x: (B, N, C) tokens that block `at` put out.
        keys: (B, N, C) keys of block `at`, heads concatenated.
        attn: (B, H, N, N) map of block `at`.
        middle: (B, N) attention that each token receives in an earlier block, mean over heads and queries.
        accumulated: (B, N) attention received in all blocks so far, summed over heads and queries.
        grid: rows and columns of patches.
    """

    x: Tensor
    keys: Tensor
    attn: Tensor
    middle: Tensor
    accumulated: Tensor
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
    accumulated = middle = torch.zeros(x.shape[:2])
    for index, view in enumerate(vit.views[: at + 1]):
        q, k, _ = view.heads(x)
        attn = torch.softmax((q @ k.mT).float() * view.scale, -1)
        accumulated = accumulated + attn.sum((1, 2))
        if index == early:
            middle = attn.mean((1, 2))
        x = view.module(x)
    side = round((x.shape[1] - 1) ** 0.5)
    return Seen(x, k.transpose(1, 2).flatten(2), attn, middle, accumulated, (side, side))


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


CHOOSERS: dict[str, Chooser] = {
    BASELINE: by_chance,
    REFERENCE: by_class_attention,
    "zero_tprune": by_pagerank,
    "zero_tprune, I-stage alone": by_pagerank_alone,
}


@dataclass(frozen=True)
class Merged:
    """What a merger made of a batch: class tokens (B, C), and how much of each patch is in each output, (B, M, N)."""

    state: Tensor
    source: Tensor


Run = Callable[[Tensor], Merged]
Merger = Callable[[nn.Module, Tensor, int, int], AbstractContextManager[Run]]
"""(model, images to calibrate on, patches to keep, block `at`) -> a context in which batches run shortened."""


def reachable(patches: int, kept: int, at: int) -> bool:
    """Whether merging can come down to so few: a layer can merge half of its patches at most."""
    return kept << (at + 1) >= patches


def halving_schedule(patches: int, kept: int, layers: int) -> list[int]:
    """Tokens to merge in each of so many layers, as even as the limit of a half a layer lets them be."""
    counts, left = [], patches
    for later in reversed(range(layers)):
        even = -(-(left - kept) // (later + 1))
        counts.append(min(max(even, left - (kept << later)), left // 2))  # what later layers cannot halve goes now
        left -= counts[-1]
    return counts


@contextmanager
def by_tome(model: nn.Module, calibration: Tensor, kept: int, at: int) -> Iterator[Run]:
    """ToMe in the blocks up to `at`: the reference for merging."""
    vit = Vit(model)
    patches = embed(vit, calibration[:1]).shape[1] - 1
    handle = tome.patch_vit(model, halving_schedule(patches, kept, at + 1), trace_source=True)

    def run(images: Tensor) -> Merged:
        state, source = finish(vit, embed(vit, images), -1), handle.source
        assert source is not None
        return Merged(state, source[:, 1:, 1:])

    try:
        yield run
    finally:
        handle.unpatch()


MERGERS: dict[str, Merger] = {"tome": by_tome}
