# SPDX-License-Identifier: Apache-2.0
"""What :mod:`bench.real_pruning` asks of two real models: to name digits, and to tell photographs apart by crops."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench import digits_vit
from bench.real_models import PHOTOGRAPHS, cut_out, load_vit, open_photograph

FLOWERS = ("scikit-learn", "sklearn", "datasets/images")
PHOTOS = (
    *((name, PHOTOGRAPHS) for name in ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass")),
    *((name, PHOTOGRAPHS) for name in ("gravel", "hubble_deep_field", "ihc", "moon", "motorcycle_left", "retina")),
    *(("rocket", PHOTOGRAPHS), ("china", FLOWERS), ("flower", FLOWERS)),
)
CROP_EDGE, CROP_SHARE = 224, (0.3, 0.5)


@dataclass(frozen=True)
class Task:
    """A model and what it is asked.

    Attributes:
        asked: the question, in words.
        images: what is measured; `calibration` are other images, for methods that need some.
        at: the block after which the sequence is short.
        clusters: of patches, that coverage counts.
        score: (class tokens (n, C)) -> one number an image, 1 where the model is right.
    """

    name: str
    asked: str
    model: nn.Module
    images: Tensor
    calibration: Tensor
    at: int
    clusters: int
    score: Callable[[Tensor], Tensor]


def crops(count: int, seed: int, photos: tuple[tuple[str, tuple[str, str, str]], ...] = PHOTOS) -> Tensor:
    """`count` random squares of every photograph, (photographs * count, 3, 224, 224), photograph by photograph."""
    generator = torch.Generator().manual_seed(seed)
    low, high = CROP_SHARE
    cut = []
    for name, requirement in photos:
        image = open_photograph(name, requirement)
        for _ in range(count):
            size, left, top = torch.rand(3, generator=generator).tolist()
            edge = int(min(image.size) * (low + (high - low) * size))
            corner = int(left * (image.width - edge)), int(top * (image.height - edge))
            cut.append(cut_out(image, *corner, edge, CROP_EDGE))
    return torch.stack(cut)


def retrieval(gallery: Tensor, per_photo: int) -> Callable[[Tensor], Tensor]:
    """Score class tokens of queries, photograph by photograph: right where the nearest of the gallery is of its own."""
    unit, photos = nn.functional.normalize(gallery.float(), dim=-1), len(gallery) // per_photo

    def score(states: Tensor) -> Tensor:
        nearest = (nn.functional.normalize(states.float(), dim=-1) @ unit.mT).argmax(-1)
        owner = torch.arange(len(states)) // (len(states) // photos)
        return (nearest // per_photo == owner).float()

    return score


def digits_task(epochs: int, images: int, advance: Callable[[], None]) -> Task:
    """Train the digits ViT and hold out what it is tested on."""
    data, model = digits_vit.load_digits(), digits_vit.build_model()
    digits_vit.train(model, data, epochs, advance)
    x, labels = data.test_x[:images], data.test_y[:images]

    def score(states: Tensor) -> Tensor:
        return (model.classifier(states).argmax(-1) == labels).float()

    asked = f"which digit: {len(x)} held out"
    return Task("digits ViT", asked, model, x, data.train_x[:images], digits_vit.LAYERS // 2 - 1, 8, score)


@torch.inference_mode()
def photographs_task(photos: int, gallery: int, queries: int) -> Task:
    """The pretrained ViT-S/14 and crops of photographs; the gallery is indexed once, by the unreduced model."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    chosen = PHOTOS[:photos]
    asked, known = crops(queries, 1, chosen), crops(gallery, 0, chosen)
    model = load_vit()
    states = torch.cat([model(part).last_hidden_state[:, 0] for part in known.split(16)])
    text = f"which of {len(chosen)} photographs: {len(asked)} crops, by the nearest of {len(known)} others, unreduced"
    return Task("ViT-S/14", text, model, asked, crops(2, 2, chosen), 5, 16, retrieval(states, gallery))
