# SPDX-License-Identifier: Apache-2.0
"""Token Merging for Fast Stable Diffusion (Bolya and Hoffman, arXiv 2303.17604): merge, attend, copy back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokernel.integrations._patch import eager
from tokernel.integrations.diffusers import BlockPatch, denoiser_of
from tokernel.ops import MergePlan, match_2d

__all__ = ["DiffusionPatch", "grid_at", "patch_diffusion"]


_PARTS = {"attn": "attn1", "cross": "attn2", "mlp": "ff"}


def grid_at(height: int, width: int, tokens: int) -> tuple[int, int, int]:
    """Find the feature map behind a token sequence of a UNet level: (height, width, downsampling).

    >>> grid_at(64, 64, 1024)
    (32, 32, 2)
    """
    down = math.ceil(math.sqrt(height * width // tokens))
    return math.ceil(height / down), math.ceil(width / down), down


class DiffusionPatch(BlockPatch):
    """Handle of a denoiser that merges tokens around attention; made by :func:`patch_diffusion`.

    ``ratio``, ``max_downsample``, ``cell`` and ``use_rand`` may be set at any time.
    """

    def __init__(
        self,
        model: nn.Module,
        ratio: float,
        parts: Sequence[str],
        max_downsample: int,
        cell: tuple[int, int],
        use_rand: bool,
    ) -> None:
        unknown = sorted(set(parts) - set(_PARTS))
        if unknown:
            raise ValueError(f"patch_diffusion: parts expected some of {', '.join(_PARTS)}; got {', '.join(unknown)}")
        if not 0 <= ratio <= 1:
            raise ValueError(f"patch_diffusion: ratio expected between 0 and 1; got {ratio}")
        if min(cell) < 1:
            raise ValueError(f"patch_diffusion: cell expected (sx, sy) of at least 1; got {cell}")
        super().__init__(model, tuple(_PARTS[part] for part in parts))
        self.ratio = ratio
        self.max_downsample = max_downsample
        self.cell = cell
        self.use_rand = use_rand
        self._random: torch.Generator | None = None
        self._seed = 0

    @eager
    def begin(self) -> None:
        # Our own stream, begun where the global one stands: images stay the same functions of the user's seed, and
        # drawing partitions does not move it. One seed a step and block: recomputing a block meets the same partition.
        if self._random is None:
            self._random = torch.Generator()
            self._random.set_state(torch.get_rng_state())
        self._seed = int(torch.randint(2**62, (), generator=self._random))

    @eager
    def plan(self, index: int, x: Tensor) -> MergePlan | None:
        if self.grid is None or x.dim() != 3:
            return None
        height, width, down = grid_at(*self.grid, x.shape[1])
        r = int(x.shape[1] * self.ratio)
        if down > self.max_downsample or height * width != x.shape[1] or r <= 0:
            return None
        # The halves of a batch (with and without condition) must share a partition, an odd batch has no halves.
        random = self.use_rand and x.shape[0] % 2 == 0
        generator = torch.Generator().manual_seed(self._seed + index) if random else None
        return match_2d(x.detach(), width, height, *self.cell, r, generator=generator, no_rand=not random)

    def around(self, plan: MergePlan, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        back: Tensor = plan.unmerge(run(plan.merge(x)))
        return back

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_random": None}


def patch_diffusion(
    model: Any,
    ratio: float = 0.5,
    *,
    parts: Sequence[str] = ("attn",),
    max_downsample: int = 1,
    cell: tuple[int, int] = (2, 2),
    use_rand: bool = True,
) -> DiffusionPatch:
    """Let a live diffusion model merge tokens around attention, in place: ``x + unmerge(attn(merge(norm(x))))``.

    Shapes outside a block's parts never change. The tokens are matched as they enter the block (section 4 of the
    paper): one destination per cell of the feature map, all others may merge into their most similar destination.

    Args:
        model: a diffusers pipeline, or a network with ``BasicTransformerBlock`` inside (SD, SDXL, PixArt, DiT).
        ratio: share of the tokens to merge; at most 1 - 1/(sx sy) of them can be.
        parts: what runs on merged tokens: "attn" (self-attention), "cross" (cross-attention), "mlp".
        max_downsample: merge where the feature map is at most this many times smaller than the latent. A network with
            patches of 2 x 2 latent pixels (DiT, PixArt) has 2 throughout.
        cell: (sx, sy), width and height of a cell.
        use_rand: draw each cell's destination at random, the same for the whole batch, from an own generator forked
            from torch's; otherwise, and for odd batch sizes, it is the upper left token.

    Returns:
        The handle: set ``handle.ratio`` to change it, call ``handle.unpatch()`` or ``unpatch(model)`` to undo.

    Raises:
        ValueError: no such block inside, an unknown part, a ratio outside [0, 1], a bad cell; in a forward pass, a
            self-attention mask.
    """
    handle = DiffusionPatch(denoiser_of(model), ratio, parts, max_downsample, cell, use_rand)
    handle.install()
    return handle
