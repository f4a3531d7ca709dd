# SPDX-License-Identifier: Apache-2.0
"""CLEAR: Conv-Like Linearization Revs Pre-Trained Diffusion Transformers Up (NeurIPS 2025, arXiv 2412.16112).

In the joint attention of a text-to-image transformer (FLUX.1-dev, SD3), an image token sees the text and a disc of
image tokens around it; text sees everything. The cost becomes linear in the number of image tokens. A fine-tuning of
the attention projections alone, taught by the original model, repairs what that breaks; keys pooled from the whole
image can be added where the disc is small.

Everything here takes the height, the width and the length of the text as parameters. The official code keeps them in
module globals, and has a text length of 512 hard-wired where it pools.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokernel.diffusion._clear_attention import (
    attended_pairs,
    disc_mask,
    disc_neighbours,
    local_disc_attention,
    local_disc_attention_down,
    pool_image,
    proportional_scale,
)
from tokernel.diffusion._clear_processor import ClearAttnProcessor, ClearPatch, patch_transformer
from tokernel.diffusion._clear_training import (
    DistillLoss,
    clear_distill_loss,
    distilled_layers,
    freeze_all_but_attention,
    record_attention,
)
from tokernel.integrations import unpatch
from tokernel.papers import paper

__all__ = [
    "CHECKPOINTS",
    "PAPER",
    "ClearAttnProcessor",
    "ClearPatch",
    "DistillLoss",
    "HighResolution",
    "attended_pairs",
    "clear_distill_loss",
    "disc_mask",
    "disc_neighbours",
    "distilled_layers",
    "freeze_all_but_attention",
    "local_disc_attention",
    "local_disc_attention_down",
    "patch_transformer",
    "pool_image",
    "proportional_scale",
    "record_attention",
    "unpatch",
]

PAPER = paper("clear")

CHECKPOINTS = ((32, 1), (16, 1), (8, 1), (16, 4), (8, 4))
"""Radius and pooling factor (1: none) of the released weights. Radius 8 alone often repeats patterns."""


@dataclass(frozen=True)
class HighResolution:
    """How the released notebook samples above the training resolution: small first, then image to image.

    Attributes:
        steps: of each of the two passes.
        strength: of the noise put on the upscaled image.
        guidance: scale.
        time_shift: of the scheduler, with dynamic shifting off.
        rope_factor: NTK factor of the rotary embedding.
        proportional: factor for :class:`ClearAttnProcessor`, 10 with pooling.
    """

    steps: int = 20
    strength: float = 0.7
    guidance: float = 7.5
    time_shift: float = 10.0
    rope_factor: float = 10.0
    proportional: float = 1.0
