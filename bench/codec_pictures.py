# SPDX-License-Identifier: Apache-2.0
"""A small convolutional autoencoder of photographs, trained around any quantizer.

Crops of 64 x 64 pixels become 8 x 8 positions, so a position stands for a patch of 8 x 8 pixels. Trained on some
photographs, judged on others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bench.real_models import PHOTOGRAPHS, open_photograph

FLOWERS = ("scikit-learn", "sklearn", "datasets/images")
TRAINED_ON = (
    *((name, PHOTOGRAPHS) for name in ("astronaut", "hubble_deep_field", "ihc", "motorcycle_left", "retina", "rocket")),
    *(("china", FLOWERS), ("flower", FLOWERS)),
)
JUDGED_ON = (("chelsea", PHOTOGRAPHS), ("coffee", PHOTOGRAPHS))
EDGE, PATCH, GRID = 64, 8, 8
CHANNELS = 64
LONGEST_EDGE = 512  # larger photographs are made smaller: their finest detail is blur
BATCH, RATE = 16, 2e-3

Quantize = Callable[[Tensor], tuple[Tensor, Tensor | None, Tensor]]
"""Latents (B, D, 8, 8) -> what the decoder gets, ids (B, 64, books) or None, loss."""


@dataclass(frozen=True)
class Pictures:
    """Photographs to cut from, each (3, h, w), and the crops (n, 3, 64, 64) that judge; in [-1, 1]."""

    train: list[Tensor]
    judge: Tensor


def _pixels(name: str, requirement: tuple[str, str, str]) -> Tensor:
    image = open_photograph(name, requirement)
    image.thumbnail((LONGEST_EDGE, LONGEST_EDGE))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def load_pictures() -> Pictures:
    """Read the photographs of scikit-image and scikit-learn, and cut those that judge into every whole crop."""
    crops = [
        _pixels(*source).unfold(1, EDGE, EDGE).unfold(2, EDGE, EDGE).permute(1, 2, 0, 3, 4).flatten(0, 1)
        for source in JUDGED_ON
    ]
    return Pictures([_pixels(*source) for source in TRAINED_ON], torch.cat(crops).contiguous())


def draw_crops(pictures: Pictures, count: int, generator: torch.Generator) -> Tensor:
    """Cut `count` crops anywhere from the photographs of training, half of them mirrored."""
    crops = []
    for at in range(count):
        picture = pictures.train[int(torch.randint(len(pictures.train), (), generator=generator))]
        top = int(torch.randint(picture.shape[1] - EDGE + 1, (), generator=generator))
        left = int(torch.randint(picture.shape[2] - EDGE + 1, (), generator=generator))
        crop = picture[:, top : top + EDGE, left : left + EDGE]
        crops.append(crop.flip(-1) if at % 2 else crop)
    return torch.stack(crops)


class _Block(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(nn.functional.silu(self.first(nn.functional.silu(x))))


class Autoencoder(nn.Module):
    """Pictures (B, 3, 64, 64) -> latents (B, width, 8, 8) -> pictures."""

    def __init__(self, width: int) -> None:
        super().__init__()
        c = CHANNELS
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4), nn.Conv2d(48, c, 3, padding=1), _Block(c),
            nn.Conv2d(c, c, 4, stride=2, padding=1), _Block(c), _Block(c), nn.Conv2d(c, width, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(width, c, 1), _Block(c), _Block(c), nn.Conv2d(c, 4 * c, 1), nn.PixelShuffle(2),
            _Block(c), nn.Conv2d(c, 48, 3, padding=1), nn.PixelShuffle(4),
        )  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """What a trained autoencoder does with the crops that judge.

    Attributes:
        pictures: (n, 3, 64, 64), as the decoder gives them back.
        ids: (n * 64, books), or None without a quantizer.
        latents: (n, width, 8, 8), before the quantizer.
    """

    pictures: Tensor
    ids: Tensor | None
    latents: Tensor


def train(
    model: Autoencoder, quantize: Quantize, pictures: Pictures, steps: int, parameters: list[nn.Parameter],
    advance: Callable[[], None], seed: int = 0,
) -> None:  # fmt: skip
    """Minimise the squared error of the pictures plus the quantizer's own loss, by AdamW with one cycle."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([*model.parameters(), *parameters], RATE, betas=(0.9, 0.95), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(steps):
        given = draw_crops(pictures, BATCH, generator)
        latents, _, loss = quantize(model.encoder(given))
        loss = loss + nn.functional.mse_loss(model.decoder(latents), given)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        advance()


@torch.no_grad()
def judge(model: Autoencoder, quantize: Quantize, pictures: Pictures) -> Judged:
    """Run the crops that judge through a trained autoencoder."""
    latents = model.encoder(pictures.judge)
    given, ids, _ = quantize(latents)
    return Judged(model.decoder(given).clamp(-1, 1), None if ids is None else ids.flatten(0, 1), latents)


def psnr(ours: Tensor, given: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], over all of them at once."""
    return 10 * math.log10(4 / nn.functional.mse_loss(ours, given).item())
