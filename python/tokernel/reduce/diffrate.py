# SPDX-License-Identifier: Apache-2.0
"""DiffRate: Differentiable Compression Rate for Efficient Vision Transformers (Chen et al., ICCV 2023, 2305.17997).

Every block sorts its patch tokens by the attention the class token pays them, drops the last (prune) and merges the
next least important ones into the most similar of the kept ones. How many are kept per block is learnt with frozen
weights: :class:`DiffRateSearch`. :func:`patch_vit` runs a schedule that was found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tokernel.integrations import unpatch
from tokernel.integrations._blocks import BlockView
from tokernel.integrations.attention import attention_received, proportional_attention
from tokernel.integrations.vit import VitPatch
from tokernel.ops import gather_rows
from tokernel.papers import paper
from tokernel.reduce._diffrate_budget import BudgetDistribution, policy_softmax, vit_flops
from tokernel.reduce._diffrate_merge import SortedMerge, importance_order, prune, sorted_merge
from tokernel.reduce._diffrate_schedule import Schedule, checked_schedule, load_schedule
from tokernel.reduce._diffrate_search import DiffRateSearch

__all__ = [
    "PAPER",
    "BudgetDistribution",
    "DiffRatePatch",
    "DiffRateSearch",
    "Schedule",
    "SortedMerge",
    "importance_order",
    "load_schedule",
    "patch_vit",
    "policy_softmax",
    "prune",
    "sorted_merge",
    "unpatch",
    "vit_flops",
]

PAPER = paper("diffrate")


class DiffRatePatch(VitPatch):
    """Handle of a ViT that prunes and merges by a fixed schedule; made by :func:`patch_vit`.

    Attributes:
        trace_source: whether :attr:`source` is kept.
        size: (B, N, 1) float32 sizes of the tokens the last forward pass put out, or None when it merged none.
    """

    def __init__(self, model: nn.Module, schedule: tuple[Sequence[int], Sequence[int]], trace_source: bool) -> None:
        super().__init__(model)
        if self.vit.distill_token:
            raise ValueError("diffrate.patch_vit: model expected no distillation token")
        self.schedule = Schedule(*map(list, schedule))
        self.trace_source = trace_source
        self.sources: list[Tensor | None] = [None] * len(self.vit.views)

    @property
    def schedule(self) -> Schedule:
        """Tokens left by each block; may be set at any time."""
        return self._schedule

    @schedule.setter
    def schedule(self, schedule: Schedule) -> None:
        checked = checked_schedule(*schedule, len(self.vit.views))
        *before, last = (min(pair) for pair in zip(*checked, strict=True))
        if self.vit.mean_pool and before and last < min(before):
            raise ValueError(
                "diffrate.patch_vit: last block expected to keep every token for a head that averages patches; "
                f"got {last} of {min(before)}"
            )
        self._schedule = checked

    @property
    def source(self) -> Tensor | None:
        """Which input tokens each output token holds, (B, N', N) of 0 and 1; None when not traced."""
        return self.sources[-1]

    def block(self, index: int, view: BlockView, x: Tensor, dense: Callable[[Tensor], Tensor]) -> Tensor:
        """``x + attention``, sort, prune, merge, ``x + MLP``.

        A block that keeps every token leaves their order alone: the next one sorts by its own importance.
        """
        size = self.size_before(index, x)
        source = self.sources[index - 1] if index else None
        pruned, merged = (counts[index] for counts in self.schedule)
        if size is None and min(pruned, merged) >= x.shape[1]:
            self.sizes[index], self.sources[index] = None, source
            return dense(x)
        q, k, v = view.heads(x)
        y = proportional_attention(q, k, v, size, scale=view.scale, dropout=view.dropout)
        x = x + view.after_attention(y)
        if min(pruned, merged) < x.shape[1]:
            received = attention_received(q.detach(), k.detach(), size, view.scale, self.vit.class_token)
            order = prune(importance_order(received, self.vit.class_token)[..., None], pruned)[..., 0]
            if self.trace_source and source is None:
                source = torch.eye(x.shape[1], device=x.device).repeat(len(x), 1, 1)
            x = gather_rows(x, order)
            size = None if size is None else gather_rows(size, order)
            source = None if source is None else gather_rows(source, order)
            x, size, source = self._merge(merged, x, size, source)
        self.sizes[index], self.sources[index] = size, source
        return x + view.mlp(x)

    def _merge(
        self, kept: int, x: Tensor, size: Tensor | None, source: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if kept >= x.shape[1]:
            return x, size, source
        plan = sorted_merge(x, kept, self.vit.class_token)
        size = torch.ones(*x.shape[:2], 1, device=x.device) if size is None else size
        return plan.merge(x), plan.merge_size(plan.scaled_size(size)), None if source is None else plan.source(source)

    def __getstate__(self) -> dict[str, object]:
        return super().__getstate__() | {"sources": [None] * len(self.sources)}


def patch_vit(
    model: nn.Module, prune_kept: Sequence[int], merge_kept: Sequence[int], trace_source: bool = False
) -> DiffRatePatch:
    """Let a live ViT prune and merge tokens by a schedule, in place.

    Works in training and evaluation, on any device and dtype, with ``torch.compile`` afterwards. Parameters, buffers
    and classes of the modules stay as they are. Patching a patched model replaces the patch. A model without class
    token ranks tokens by the attention they get from all others (the paper's CAFormer rule); one whose head averages
    patches weighs them by their size.

    Args:
        model: a timm-shaped VisionTransformer, a transformers ViT, ViT-MAE, ViT-MSN or DINOv2 model, or a model with
            one of these inside.
        prune_kept, merge_kept: per block, how many tokens are left after pruning and after merging, class token
            included; see :func:`load_schedule` and :class:`DiffRateSearch`. Counts above the present number do nothing.
        trace_source: keep which patches each token holds (:attr:`DiffRatePatch.source`).

    Returns:
        The handle: set ``handle.schedule`` to change it, call ``handle.unpatch()`` or ``unpatch(model)`` to undo.

    Raises:
        ValueError: no ViT or more than one inside, blocks that are not plain pre-norm blocks, a distillation or
            register token, counts that do not fit the model.
        TypeError: a count that is not an integer.

    >>> from transformers import ViTConfig, ViTModel
    >>> config = ViTConfig(
    ...     hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    ...     image_size=32, patch_size=8,
    ... )
    >>> model = ViTModel(config).eval()
    >>> handle = patch_vit(model, prune_kept=[17, 12], merge_kept=[14, 8])
    >>> model(torch.zeros(1, 3, 32, 32)).last_hidden_state.shape[1]
    8
    >>> handle.unpatch()
    """
    handle = DiffRatePatch(model, (prune_kept, merge_kept), trace_source)
    handle.install()
    return handle
