# SPDX-License-Identifier: Apache-2.0
"""DToMe inside a live ViT, and the calibration of its thresholds on images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokernel.integrations._blocks import BlockView, evaluating
from tokernel.integrations.attention import proportional_attention
from tokernel.integrations.vit import VitPatch
from tokernel.ops import MergePlan
from tokernel.reduce._dymu_merge import (
    NEVER,
    PARITY_EPS,
    ThresholdCalibrator,
    batch_bipartite_merge,
    bipartite_threshold_merge,
    checked_thresholds,
    r_schedule,
)
from tokernel.reduce._progress import with_bar

__all__ = ["DyMUPatch", "calibrate", "check_max_r", "patch_vit"]


class DyMUPatch(VitPatch):
    """Handle of a ViT that merges tokens by thresholds; made by :func:`patch_vit`.

    Attributes:
        max_r: at most so many merges an image in every layer, or None.
        parity: whether batches are divided as in the official code, see :func:`~tokernel.reduce.dymu.apply_merge`.
        size: (B, N', 1) float32 sizes of the tokens the last forward pass put out, 0 at padding; None when it merged
            none.
    """

    def __init__(
        self, model: nn.Module, thresholds: Sequence[float] | None, max_r: int | None, parity: bool = False
    ) -> None:
        super().__init__(model)
        if self.vit.distill_token:
            raise ValueError("dymu.patch_vit: model expected no distillation token")
        layers = len(self.vit.views)
        self.max_r = max_r
        self.parity = parity
        self.mappings: list[Tensor | None] = [None] * layers
        self.valids: list[Tensor | None] = [None] * layers
        self.thresholds = [NEVER] * layers if thresholds is None else list(thresholds)

    @property
    def thresholds(self) -> list[float]:
        """The threshold of each layer; from 1 on a layer merges nothing. May be set at any time."""
        return self._thresholds

    @thresholds.setter
    def thresholds(self, thresholds: Sequence[float]) -> None:
        self._thresholds = checked_thresholds("dymu.patch_vit", thresholds, len(self.vit.views))

    @property
    def mapping(self) -> Tensor | None:
        """Which output row holds each input token, (B, N) int64; None when nothing merged."""
        return self.mappings[-1]

    @property
    def valid(self) -> Tensor | None:
        """Where the output holds a token, (B, N') bool; None when no row is padding."""
        return self.valids[-1]

    def merges(self, index: int) -> bool:
        """Whether block ``index`` may merge at all."""
        return self._thresholds[index] < NEVER and self.max_r != 0

    def divides(self, x: Tensor) -> bool:
        """Whether tokens x shrink as in the official batched path."""
        return self.parity and len(x) > 1

    def plan(self, index: int, metric: Tensor, valid: Tensor | None) -> MergePlan:
        """Decide which of the tokens with these keys merge in block ``index``."""
        tau, first = self._thresholds[index], self.vit.class_token
        if valid is None:
            return bipartite_threshold_merge(metric, tau, first, self.max_r)
        return batch_bipartite_merge(metric, None, first, ~valid, tau=tau, max_r=self.max_r)[0]

    def block(self, index: int, view: BlockView, x: Tensor, dense: Callable[[Tensor], Tensor]) -> Tensor:
        """``x + attention``, merge, ``x + MLP``; the block as it was while nothing merged and nothing may."""
        size = self.size_before(index, x)
        carried = index > 0 and size is not None
        mapping = self.mappings[index - 1] if carried else None
        valid = self.valids[index - 1] if carried else None
        if size is None and not self.merges(index):
            self._keep(index, None, None, None)
            return dense(x)
        q, k, v = view.heads(x)
        y = proportional_attention(q, k, v, size, valid=valid, scale=view.scale, dropout=view.dropout)
        x = x + view.after_attention(y)
        if self.merges(index):
            plan = self.plan(index, k.detach().mean(1), valid)
            if not plan.is_identity:
                x, size = plan.merge_weighted(x, size)
                size = size.detach()
                mapping = plan.map if mapping is None else plan.map.gather(1, mapping)
                valid = plan.valid
            if self.divides(x):
                mass = torch.ones(1) if size is None else size
                x = (x.float() * (mass / (mass + PARITY_EPS)).to(x.device)).to(x.dtype)
        self._keep(index, size, mapping, valid)
        return x + view.mlp(x)

    def _keep(self, index: int, size: Tensor | None, mapping: Tensor | None, valid: Tensor | None) -> None:
        self.sizes[index], self.mappings[index], self.valids[index] = size, mapping, valid

    def __getstate__(self) -> dict[str, object]:
        nothing = [None] * len(self.sizes)
        return super().__getstate__() | {"mappings": list(nothing), "valids": list(nothing)}


class CalibrationPatch(DyMUPatch):
    """A ViT that merges a fixed number of edges a batch and notes the threshold this takes in every layer."""

    def __init__(self, model: nn.Module, total: int, kind: str, max_r: int | None, parity: bool) -> None:
        super().__init__(model, None, max_r, parity)
        self.schedule = r_schedule(len(self.vit.views), total, kind)
        self.calibrator = ThresholdCalibrator(len(self.schedule))

    def merges(self, index: int) -> bool:
        return self.schedule[index] > 0

    def divides(self, x: Tensor) -> bool:
        return self.parity  # a batch of one too

    def plan(self, index: int, metric: Tensor, valid: Tensor | None) -> MergePlan:
        pad = None if valid is None else ~valid
        plan, tau = batch_bipartite_merge(metric, self.schedule[index], self.vit.class_token, pad, max_r=self.max_r)
        self.calibrator.update(index, tau)
        return plan


def patch_vit(
    model: nn.Module,
    thresholds: Sequence[float] | ThresholdCalibrator | None = None,
    *,
    max_r: int | None = None,
    parity: bool = False,
) -> DyMUPatch:
    """Let a live ViT merge as many tokens as each image can spare, in place.

    Between attention and MLP of every block, even tokens whose keys (averaged over heads) are closer to an odd token
    than the block's threshold merge into it (section 3.1); attention counts a token as often as its patches. Images of
    a batch end with different numbers of tokens: the output is as long as the longest one, shorter ones are padded at
    the end (:attr:`DyMUPatch.valid`), and padding is seen by nobody. As in the official code, rows come in another
    order in a batch than alone (without a class token, or where a block merges nothing of an image), and the order
    decides which tokens may merge next: such an image may lose other tokens in a batch.

    Args:
        model: a timm-shaped VisionTransformer, a transformers ViT, DeiT, ViT-MAE, ViT-MSN, DINOv2, CLIP or SigLIP
            vision model, or a model with exactly one of these inside.
        thresholds: one a block, from :func:`calibrate` or :meth:`ThresholdCalibrator.load`; None merges nothing until
            ``handle.thresholds`` is set. Where all are 1, the model is the unpatched one bit for bit.
        max_r: at most so many merges an image and block.
        parity: divide batches by size + 1e-4 as the official code does.

    Returns:
        The handle; ``handle.unpatch()`` or ``unpatch(model)`` undoes the patch.

    Raises:
        ValueError: no ViT or more than one inside, one that cannot be patched faithfully, a distillation token, not
            one finite threshold a block, or a negative max_r.

    >>> import torch
    >>> from transformers import CLIPVisionConfig, CLIPVisionModel
    >>> model = CLIPVisionModel(
    ...     CLIPVisionConfig(
    ...         hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    ...         image_size=32, patch_size=8,
    ...     )
    ... ).eval()
    >>> handle = patch_vit(model, [-1.0, 1.0])  # every edge of the first block is above -1
    >>> model(torch.randn(1, 3, 32, 32)).last_hidden_state.shape[1]
    9
    >>> handle.unpatch()
    """
    check_max_r("dymu.patch_vit", max_r)
    values = thresholds.thresholds if isinstance(thresholds, ThresholdCalibrator) else thresholds
    handle = DyMUPatch(model, values, max_r, parity)
    handle.install()
    return handle


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    total: int,
    kind: str = "constant",
    *,
    max_r: int | None = None,
    parity: bool = False,
    progress: bool = True,
) -> ThresholdCalibrator:
    """Find the thresholds that merge a given number of tokens an image on average, without training.

    Every batch merges its best ``B * r`` edges in each block; the similarity of the first edge that missed is the
    batch's threshold, and batches are averaged with equal weight (section 3.1). The more images and the larger the
    batches, the better the average. Only forward passes, in evaluation mode and without gradients.

    Args:
        model: as for :func:`patch_vit`; it is given back unpatched. For LLaVA pass ``model.model.vision_tower``.
        batches: pixel values (B, 3, height, width), or mappings of keyword arguments, one a forward pass.
        total: tokens to merge an image, over all blocks.
        kind: how the blocks share it, see :func:`r_schedule`.
        max_r, parity: as in :func:`patch_vit`.
        progress: show a bar where rich is installed.

    Returns:
        The calibrator: pass it to :func:`patch_vit` or save it.

    Raises:
        ValueError: as :func:`patch_vit` and :func:`r_schedule`, or there is no batch.

    >>> import torch
    >>> from transformers import ViTConfig, ViTModel
    >>> model = ViTModel(
    ...     ViTConfig(
    ...         hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    ...         image_size=32, patch_size=8,
    ...     )
    ... )
    >>> found = calibrate(model, [torch.randn(4, 3, 32, 32)], total=8, progress=False)
    >>> all(0 <= tau <= 1 for tau in found.thresholds)
    True
    """
    check_max_r("dymu.calibrate", max_r)
    handle = CalibrationPatch(model, total, kind, max_r, parity)
    handle.install()
    seen = False
    try:
        with torch.no_grad(), evaluating(model), with_bar(batches, progress, "calibrating", transient=True) as shown:
            for batch in shown:
                seen = True
                model(**batch) if isinstance(batch, Mapping) else model(batch)
    finally:
        handle.unpatch()
    if not seen:
        raise ValueError("dymu.calibrate: batches expected at least one; got none")
    return handle.calibrator


def check_max_r(op: str, max_r: int | None) -> None:
    if max_r is not None and (not isinstance(max_r, int) or max_r < 0):
        raise ValueError(f"{op}: max_r expected None or an integer of at least 0; got {max_r!r}")
