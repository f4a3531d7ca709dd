# SPDX-License-Identifier: Apache-2.0
"""HiPrune on live models: behind a CLIP or SigLIP tower, and inside a LLaVA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tokernel.integrations._patch import Original
from tokernel.integrations._towers import Tower
from tokernel.integrations.llava import LlavaPatch, Positions
from tokernel.ops import gather_rows
from tokernel.reduce._hiprune_select import Clamp, attention_received_qk, crop_budget, hiprune_select

__all__ = ["HiPrune", "HiPrunePatch", "HiPruned", "patch_llava"]


@dataclass(frozen=True)
class HiPruned:
    """What :class:`HiPrune` returns.

    Attributes:
        features: (B, K, C) the chosen tokens of the deep layer's output, in their old order.
        index: (B, K) int64 their places among the N patches, ascending.
        mask: (B, N) bool, which patches were chosen.
    """

    features: Tensor
    index: Tensor
    mask: Tensor


class _Rule:
    """The settings of the paper for one tower, checked."""

    def __init__(
        self, tower: nn.Module, budget: int, alpha: float, object_layer: int | None, deep_layer: int, clamp: Clamp
    ) -> None:
        self.tower = Tower(tower, "hiprune")
        count = len(self.tower.layers)
        # Layer 9 of the 24 of CLIP ViT-L is the paper's; the same share of other depths is ours.
        self.object_layer = max(1, round(count * 9 / 24)) if object_layer is None else object_layer
        if not 1 <= self.object_layer <= count:
            raise ValueError(f"hiprune: object_layer expected in [1, {count}]; got {object_layer}")
        if not -count <= deep_layer <= count or deep_layer == 0:
            raise ValueError(f"hiprune: deep_layer expected a hidden state of {count} layers; got {deep_layer}")
        # Hidden state i is what layer i - 1 puts out; counted from the end both have the same number.
        self.deep_layer = deep_layer - 1 if deep_layer > 0 else deep_layer + count
        if budget < 0 or not 0 <= alpha <= 1:
            raise ValueError(f"hiprune: budget and alpha expected >= 0 and in [0, 1]; got {budget} and {alpha}")
        self.budget, self.alpha, self.clamp = budget, alpha, clamp

    def probes(self) -> list[tuple[str, nn.Module]]:
        """The projections whose outputs decide, by name."""
        layers = {"object": self.object_layer - 1, "deep": self.deep_layer}
        return [
            (f"{name} {part}", getattr(self.tower.layers[layer].self_attn, f"{part}_proj"))
            for name, layer in layers.items()
            for part in "qk"
        ]

    def scores(self, recorded: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Attention received in the object layer and in the deep one, each (B, N)."""
        return self._received("object", self.object_layer - 1, recorded), self._received(
            "deep", self.deep_layer, recorded
        )

    def _received(self, name: str, layer: int, recorded: Mapping[str, Tensor]) -> Tensor:
        q, k = (self.tower.heads(layer, recorded[f"{name} {part}"].detach()) for part in "qk")
        return attention_received_qk(q, k, self.tower.scale(layer), self.tower.class_token)

    def masks(self, recorded: Mapping[str, Tensor], budget: int) -> Tensor:
        mid, deep = self.scores(recorded)
        return hiprune_select(mid, deep, self.tower.grid, min(budget, mid.shape[1]), self.alpha, self.clamp)


class HiPrune:
    """A vision tower whose output is pruned; nothing stays on the tower between calls.

    Args:
        tower: CLIPVisionModel, SiglipVisionModel or alike, of transformers.
        budget: tokens to keep of every image; more than there are keeps all.
        alpha: share of the budget for anchors and buffers.
        object_layer: the middle layer, counted from 1; None: layer 9 of 24, or the same share of another depth [ours].
        deep_layer: which hidden state is handed on, as ``vision_feature_layer`` of a LLaVA counts; its layer's
            attention is the deep one. -2 is the layer before the last.
        clamp: at the border of the grid, see :func:`tokernel.reduce.hiprune.hiprune_select`.

    >>> from transformers import CLIPVisionConfig, CLIPVisionModel
    >>> sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    >>> tower = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=24, patch_size=4)).eval()
    >>> HiPrune(tower, budget=9)(torch.zeros(2, 3, 24, 24)).features.shape
    torch.Size([2, 9, 32])
    """

    def __init__(
        self,
        tower: nn.Module,
        budget: int,
        alpha: float = 0.1,
        object_layer: int | None = None,
        deep_layer: int = -2,
        clamp: Clamp = "repo",
    ) -> None:
        self.tower, self.deep_layer = tower, deep_layer
        self._rule = _Rule(tower, budget, alpha, object_layer, deep_layer, clamp)

    def __call__(self, pixel_values: Tensor, **kwargs: Any) -> HiPruned:
        """Encode images (B, 3, height, width) and keep the chosen tokens."""
        recorded: dict[str, Tensor] = {}
        hooks = [part.register_forward_hook(partial(_keep, recorded, name)) for name, part in self._rule.probes()]
        try:
            out = self.tower(pixel_values, output_hidden_states=True, return_dict=True, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        tokens = out.hidden_states[self.deep_layer][:, int(self._rule.tower.class_token) :]
        mask = self._rule.masks(recorded, self._rule.budget)
        index = mask.nonzero()[:, 1].reshape(len(mask), -1)
        return HiPruned(gather_rows(tokens, index), index, mask)


def _keep(recorded: dict[str, Tensor], name: str, module: nn.Module, args: Any, output: Tensor) -> None:
    recorded[name] = output


class HiPrunePatch(LlavaPatch):
    """Handle of a LLaVA pruned by HiPrune; made by :func:`patch_llava`.

    Attributes:
        budget, alpha, clamp: may be set at any time.
    """

    def __init__(
        self,
        model: nn.Module,
        budget: int,
        alpha: float,
        object_layer: int | None,
        clamp: Clamp,
        positions: Positions,
    ) -> None:
        super().__init__(model, positions)
        config = self.llava.model.config
        deep = config.vision_feature_layer
        if not isinstance(deep, int):
            raise ValueError(f"patch_llava: vision_feature_layer expected one layer; got {deep}")
        self.rule = _Rule(self.llava.tower, budget, alpha, object_layer, deep, clamp)
        if (config.vision_feature_select_strategy == "default") != self.rule.tower.class_token:
            raise ValueError(
                "patch_llava: vision_feature_select_strategy expected 'default' exactly where the tower has a class "
                f"token; got {config.vision_feature_select_strategy!r}"
            )
        self._crops: dict[str, Any] | None = None

    @property
    def budget(self) -> int:
        """Tokens to keep of every image; in LLaVA-NeXT shared by its crops, newline tokens besides."""
        return self.rule.budget

    @budget.setter
    def budget(self, budget: int) -> None:
        if budget < 0:
            raise ValueError(f"hiprune: budget expected at least 0; got {budget}")
        self.rule.budget = budget

    def watch(self) -> None:
        for name, part in self.rule.probes():
            self.record(part, name)
        if hasattr(self.llava.base, "pack_image_features"):
            self.replace(self.llava.base, "pack_image_features", _note_crops, self)

    def choose_each(self, features: list[Tensor]) -> list[Tensor | None]:
        if self._crops is None:
            return [mask.nonzero()[:, 0] for mask in self.rule.masks(self.recorded, self.budget)]
        call, self._crops = self._crops, None
        return [mask.nonzero()[:, 0] for mask in self._packed(call)]

    def _packed(self, call: dict[str, Any]) -> list[Tensor]:
        """The masks of the crops of every image, cut and joined as LLaVA-NeXT does with their features."""
        crops = [len(image) for image in call["image_features"]]
        parts = {name: value.split(crops) for name, value in self.recorded.items()}
        masks = [
            self.rule.masks({name: part[i] for name, part in parts.items()}, crop_budget(self.budget, count))
            for i, count in enumerate(crops)
        ]
        newline = call.get("image_newline")
        packed, _ = call["pack"](
            image_features=[mask[..., None].float() for mask in masks],
            image_sizes=call["image_sizes"],
            vision_feature_select_strategy=call["vision_feature_select_strategy"],
            image_newline=None if newline is None else newline.new_ones(1, dtype=torch.float32),
        )
        return [mask[:, 0] > 0 for mask in packed]

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_crops": None}


def _note_crops(
    patch: HiPrunePatch,
    original: Original,
    image_features: Any,
    image_sizes: Any,
    vision_feature_select_strategy: str,
    image_newline: Tensor | None = None,
) -> Any:
    call = {
        "image_features": image_features,
        "image_sizes": image_sizes,
        "vision_feature_select_strategy": vision_feature_select_strategy,
        "image_newline": image_newline,
    }
    packer: Callable[..., Any] = original
    patch._crops = call | {"pack": packer}
    return original(**call)


def patch_llava(
    model: nn.Module,
    budget: int,
    alpha: float = 0.1,
    object_layer: int | None = None,
    clamp: Clamp = "repo",
    positions: Positions = "renumber",
) -> HiPrunePatch:
    """Let HiPrune choose which visual tokens the decoder of a live LLaVA gets.

    Works on LlavaForConditionalGeneration and LlavaNextForConditionalGeneration with a CLIP or SigLIP tower; in
    LLaVA-NeXT every crop keeps ``int(budget / crops)`` tokens, and newline tokens are always kept. The model is changed
    in place, and :func:`unpatch` puts it back exactly. ``generate`` works as before, on fewer tokens.

    Args:
        model: the model with its head.
        budget: tokens to keep of every image (the paper: 192, 128 or 64 of 576; in NeXT 640, 320 or 160 of 2880); more
            than there are keeps all, and then everything is bit for bit as without the patch.
        alpha: share of the budget for anchors and buffers.
        object_layer: the tower's middle layer, counted from 1; None: layer 9 of 24, or the same share of another depth
            [ours].
        clamp: at the border of the grid, see :func:`hiprune_select`.
        positions: "renumber": the tokens that are left count 0, 1, 2..., as the official code; "original": as before.

    Returns:
        The handle.

    Raises:
        ValueError: another kind of model, a setting out of range, or features of several layers.

    >>> from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
    >>> sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    >>> vision, text = CLIPVisionConfig(**sizes, image_size=24, patch_size=4), LlamaConfig(**sizes, vocab_size=50)
    >>> config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=49)
    >>> model = LlavaForConditionalGeneration(config).eval()
    >>> handle = patch_llava(model, budget=9)
    >>> ids = torch.tensor([[1, 2] + [49] * 36 + [3]])
    >>> model(input_ids=ids, pixel_values=torch.zeros(1, 3, 24, 24)).logits.shape
    torch.Size([1, 12, 50])
    """
    patch = HiPrunePatch(model, budget, alpha, object_layer, clamp, positions)
    patch.install()
    return patch
