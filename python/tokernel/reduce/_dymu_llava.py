# SPDX-License-Identifier: Apache-2.0
"""DyMU in a live LLaVA: merging by thresholds in the vision tower, virtual unmerging in the decoder.

Between the two stands the model's own way of putting image features into the prompt, which counts placeholders. So the
projector runs on the merged tokens and its answers are copied to all patches; which of them are copies is told to the
decoder, which computes them once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from tokernel.integrations._patch import Original, Patch, unpatch
from tokernel.integrations.llava import Llava
from tokernel.ops import segment_broadcast
from tokernel.reduce._dymu_decoder import VtuPatch
from tokernel.reduce._dymu_merge import NEVER, ThresholdCalibrator
from tokernel.reduce._dymu_vit import DyMUPatch, check_max_r

__all__ = ["DyMULlavaPatch", "patch_llava", "shared_places"]


class DyMULlavaPatch(Patch):
    """Handle of a LLaVA that merges image tokens; made by :func:`patch_llava`.

    Attributes:
        tower: the handle of the vision tower.
        decoder: the handle of the language model.
        tokens: how many image tokens each image of the last pass was computed as, or None when it merged none.
    """

    def __init__(self, model: nn.Module, thresholds: Sequence[float] | None, max_r: int | None) -> None:
        super().__init__(model)
        self.core = _core_of(model)
        self.tower = DyMUPatch(self.core.vision_tower, thresholds, max_r)
        self.decoder = VtuPatch(self.core.language_model)
        self.tokens: list[int] | None = None
        self._layer: int | None = None  # set while the tower's output is read: which hidden state,
        self._drops_first = False  # and without its class token
        self._rows: Tensor | None = None  # (images, patches): the merged token of each patch, on its way to the prompt
        self._rows_of: Any = WeakTensorKeyDictionary()  # the same by the features of an image, for generate

    @property
    def thresholds(self) -> list[float]:
        """The threshold of each layer of the tower; from 1 on a layer merges nothing. May be set at any time."""
        return self.tower.thresholds

    @thresholds.setter
    def thresholds(self, thresholds: Sequence[float]) -> None:
        self.tower.thresholds = list(thresholds)

    @property
    def merges(self) -> bool:
        """Whether any layer of the tower may merge."""
        return min(self.thresholds) < NEVER and self.tower.max_r != 0

    def install(self) -> None:
        """Patch tower and decoder, and what lies between; earlier patches of any of them are undone first."""
        unpatch(self.model)
        self.tower.install()
        self.decoder.install()
        self.replace(self.core, "forward", _run_core, self)
        self.replace(self.core, "get_image_features", _run_features, self)
        self.replace(self.core, "get_placeholder_mask", _run_placeholders, self)
        self.replace(self.core.multi_modal_projector, "forward", _run_projector, self)
        self.attach()

    def unpatch(self) -> None:
        """Put every replaced method back, in tower and decoder too."""
        super().unpatch()
        self.tower.unpatch()
        self.decoder.unpatch()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_layer": None, "_rows": None, "_rows_of": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _rows_of=WeakTensorKeyDictionary())


def patch_llava(
    model: nn.Module,
    thresholds: Sequence[float] | ThresholdCalibrator | None = None,
    *,
    max_r: int | None = None,
) -> DyMULlavaPatch:
    """Let a live LLaVA compute each image with as many tokens as it needs, in place and without training.

    The vision tower merges by thresholds (:func:`patch_vit`), the projector and the decoder's projections and MLPs run
    on the merged tokens alone, and attention in the decoder sees every patch at its own position
    (:func:`patch_decoder`). Prompts, masks, positions, logits and the key-value cache are those of all N positions, so
    that ``generate`` needs no change; batches, left padding and several images a prompt work too (our reconstruction:
    the official code takes one prompt with one image).

    Args:
        model: a transformers LlavaForConditionalGeneration with a CLIP or SigLIP tower and a Llama, Mistral or Qwen
            decoder.
        thresholds: one a layer of the tower, from ``calibrate(model.model.vision_tower, ...)``; None merges nothing
            until ``handle.thresholds`` is set. Where all are 1, the model is the unpatched one bit for bit.
        max_r: at most so many merges an image and layer.

    Returns:
        The handle; ``handle.unpatch()`` or ``unpatch(model)`` undoes the patch.

    Raises:
        ValueError: not such a model, or as :func:`patch_vit` and :func:`patch_decoder`. In a pass: several feature
            layers at once, or a placeholder run that mixes images, while the tower merges; image features that this
            patched model did not make itself (a chunked prefill cuts them).
    """
    check_max_r("dymu.patch_llava", max_r)
    values = thresholds.thresholds if isinstance(thresholds, ThresholdCalibrator) else thresholds
    handle = DyMULlavaPatch(model, values, max_r)
    handle.install()
    return handle


def shared_places(is_image: Tensor, rows: Tensor) -> Tensor:
    """Number the tokens of prompts whose image positions share them: text rows alone, patches by merged token.

    Args:
        is_image: (B, N) bool, the positions of image patches; image after image, each inside one prompt.
        rows: (I, P) int64, the merged token of each patch of each image.

    Returns:
        (B, N) int64: the token of each position, tokens numbered by their first position.

    >>> import torch
    >>> shared_places(torch.tensor([[False, True, True, True, False]]), torch.tensor([[1, 0, 1]]))
    tensor([[0, 1, 2, 1, 3]])
    """
    batch, length = is_image.shape
    position = is_image.flatten().nonzero().flatten()
    if position.numel() != rows.numel():
        raise ValueError(f"patch_llava: prompts expected {rows.numel()} image positions; got {position.numel()}")
    position = position.view(rows.shape)
    if not torch.equal(position[:, 0] // length, position[:, -1] // length):
        raise ValueError("patch_llava: every image expected inside one prompt; got one spread over two")
    patch = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
    first = torch.full_like(rows, rows.shape[1]).scatter_reduce(1, rows, patch, "amin")
    shown_at = torch.arange(batch * length, device=rows.device)
    shown_at[position.flatten()] = position.gather(1, first.gather(1, rows)).flatten()
    is_first = shown_at == torch.arange(batch * length, device=rows.device)
    number = is_first.view(batch, length).cumsum(1).flatten() - 1
    return number[shown_at].view(batch, length)


def _run_core(patch: DyMULlavaPatch, original: Original, *args: Any, **kwargs: Any) -> Any:
    patch._rows, patch.decoder._next = None, None
    ready = (kwargs.get("mm_encoder_outputs") or {}).get("image")
    if ready is not None and patch.merges:
        rows = [patch._rows_of.get(feature) for feature in ready.pooler_output]
        if any(row is None for row in rows):
            raise ValueError(
                "patch_llava: image features expected as this model's get_image_features gave them, so that it is "
                "known which patches merged; got others (generate without prefill_chunk_size)"
            )
        patch._rows = torch.stack(rows)
    return original(*args, **kwargs)


def _run_features(
    patch: DyMULlavaPatch,
    original: Original,
    pixel_values: Tensor,
    vision_feature_layer: Any = None,
    vision_feature_select_strategy: str | None = None,
    image_sizes: Any = None,
    **kwargs: Any,
) -> Any:
    # The parameters are spelt out because generate reads them from the signature.
    named = {
        "vision_feature_layer": vision_feature_layer,
        "vision_feature_select_strategy": vision_feature_select_strategy,
        "image_sizes": image_sizes,
    }
    kwargs |= {name: value for name, value in named.items() if value is not None}
    if not patch.merges:
        patch.tokens = None
        return original(pixel_values, **kwargs)
    config = patch.core.config
    layer = config.vision_feature_layer if vision_feature_layer is None else vision_feature_layer
    strategy = vision_feature_select_strategy or config.vision_feature_select_strategy
    if not isinstance(layer, int):
        raise ValueError(f"patch_llava: vision_feature_layer expected one layer while the tower merges; got {layer}")
    if strategy == "default" and not patch.tower.vit.class_token:
        raise ValueError("patch_llava: vision_feature_select_strategy expected 'full' without a class token")
    patch._layer, patch._drops_first = layer, strategy == "default"
    try:
        out = original(pixel_values, **kwargs | {"return_dict": True})
    finally:
        patch._layer = None
    assert patch._rows is not None  # the projector ran
    for feature, rows in zip(out.pooler_output, patch._rows, strict=True):
        patch._rows_of[feature] = rows
    return out if kwargs.get("return_dict", config.return_dict) else out.to_tuple()


def _run_projector(patch: DyMULlavaPatch, original: Original, x: Tensor) -> Tensor:
    y: Tensor = original(x)
    if patch._layer is None:
        return y
    index = patch._layer if patch._layer < 0 else patch._layer - len(patch.tower.mappings) - 1
    # Hidden state -1 is what the last block put out, -2 the one before; the first is the embedding.
    mapping = patch.tower.mappings[index] if -index <= len(patch.tower.mappings) else None
    if mapping is None:
        patch._rows = torch.arange(y.shape[1], device=y.device).expand(len(y), -1)
        patch.tokens = None
        return y
    patch._rows = (mapping[:, 1:] - 1 if patch._drops_first else mapping).contiguous()
    patch.tokens = (patch._rows.amax(1) + 1).tolist()
    return segment_broadcast(y, ids=patch._rows)


def _run_placeholders(patch: DyMULlavaPatch, original: Original, *args: Any, **kwargs: Any) -> Any:
    mask = original(*args, **kwargs)
    rows, patch._rows = patch._rows, None
    if rows is not None:
        mapping = shared_places(mask[..., 0], rows.to(mask.device))
        if not torch.equal(mapping, torch.arange(mapping.shape[1], device=mapping.device).expand_as(mapping)):
            patch.decoder.use_mapping(mapping)
    return mask


def _core_of(model: nn.Module) -> Any:
    core = Llava(model).base
    if not any(base.__name__ == "LlavaModel" for base in type(core).__mro__):
        raise ValueError(
            f"patch_llava: model expected LLaVA 1.5, where every image has its own features; got {type(core).__name__}"
        )
    return core
