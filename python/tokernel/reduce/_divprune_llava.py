# SPDX-License-Identifier: Apache-2.0
"""DivPrune in a live LLaVA: the visual tokens of every image that differ most go on, before or inside the decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokernel.integrations.llava import LlavaPatch, Positions, Run
from tokernel.ops import farthest_points
from tokernel.reduce._visual_span import check_k, check_ratio, keep_count

__all__ = ["DivPrunePatch", "patch_llava"]


class DivPrunePatch(LlavaPatch):
    """Handle of a LLaVA pruned by DivPrune; made by :func:`patch_llava`.

    Attributes:
        layer: the decoder layer after which tokens are chosen; None: before the decoder.
        ratio, k: how many tokens of an image are kept; may be set at any time.
    """

    def __init__(self, model: nn.Module, ratio: float, k: int | None, layer: int | None, positions: Positions) -> None:
        super().__init__(model, positions, () if layer is None else (layer,))
        check_ratio("patch_llava", "ratio", ratio)
        if k is not None:
            check_k("patch_llava", k)
        self.ratio, self.k = ratio, k
        self.layer = None if layer is None else self.inside[0]

    def choose(self, features: Tensor) -> Tensor | None:
        return self._farthest(features) if self.layer is None else None

    def choose_inside(self, layer: int, hidden: Tensor, run: Run) -> Tensor | None:
        keep = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        for number, image in enumerate(run.images):
            places = run.places(number)
            keep[image.row, places] = False
            keep[image.row, places[self._farthest(hidden[image.row, places][None])[0]]] = True
        return keep

    def _farthest(self, x: Tensor) -> Tensor:
        k = None if self.k is None else min(self.k, x.shape[1])
        order = farthest_points(x, keep_count("patch_llava", x.shape[1], self.ratio, k))
        ascending: Tensor = order.sort(-1).values
        return ascending


def patch_llava(
    model: nn.Module,
    ratio: float = 0.098,
    *,
    k: int | None = None,
    layer: int | None = None,
    positions: Positions = "renumber",
) -> DivPrunePatch:
    """Let DivPrune choose which visual tokens the decoder of a live LLaVA gets.

    Works on LlavaForConditionalGeneration and LlavaNextForConditionalGeneration, whose crops and newline tokens are one
    set, as in the official code. Batches, left padding, several images a prompt, beams and conversations work too; the
    official code takes one prompt with one image. The model is changed in place, and
    :func:`tokernel.integrations.unpatch` puts it back exactly.

    Args:
        model: the model with its head.
        ratio: share of the tokens of each image that is kept, in [0, 1]: K = round(ratio * N), halves to even. With 1,
            everything is bit for bit as without the patch.
        k: K itself, instead of a ratio; more than there are keeps all.
        layer: None: chosen from the projected features, before the decoder. A number: from the hidden states that this
            decoder layer puts out (0 is the first, negative ones count from the end), the paper's variant; the layers
            up to it see every token.
        positions: "renumber": the tokens that are left count 0, 1, 2..., as the official code; "original": as before.
            Tokens dropped after a layer leave the positions of the others alone.

    Returns:
        The handle; ``handle.kept`` says which tokens the last pass kept.

    Raises:
        ValueError: another kind of model, or a setting out of range.
        TypeError: a k that is not an integer.

    >>> from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
    >>> sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    >>> vision, text = CLIPVisionConfig(**sizes, image_size=24, patch_size=4), LlamaConfig(**sizes, vocab_size=50)
    >>> config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=49)
    >>> model = LlavaForConditionalGeneration(config).eval()
    >>> handle = patch_llava(model)
    >>> ids = torch.tensor([[1, 2] + [49] * 36 + [3]])
    >>> model(input_ids=ids, pixel_values=torch.randn(1, 3, 24, 24)).logits.shape  # 3 words, 4 of 36 visual tokens
    torch.Size([1, 7, 50])
    """
    patch = DivPrunePatch(model, ratio, k, layer, positions)
    patch.install()
    return patch
