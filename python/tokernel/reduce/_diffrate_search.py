# SPDX-License-Identifier: Apache-2.0
"""DiffRate's search (arXiv 2305.17997, section 3.3): learn how many tokens each block keeps, weights frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokernel.integrations._blocks import BlockView
from tokernel.integrations.attention import size_bias
from tokernel.integrations.vit import Vit, VitPatch
from tokernel.ops import gather_rows
from tokernel.reduce._diffrate_budget import BudgetDistribution, count_flops, policy_softmax
from tokernel.reduce._diffrate_merge import importance_order, sorted_merge
from tokernel.reduce._diffrate_schedule import Schedule

__all__ = ["DiffRateSearch"]

Budgets = list[tuple[BudgetDistribution, BudgetDistribution]]


class _SearchPatch(VitPatch):
    """The masked forward pass: every token stays in the tensor, dead ones last and unseen."""

    def __init__(self, model: nn.Module, budgets: Budgets) -> None:
        super().__init__(model)
        self.budgets = budgets
        self.masks: list[Tensor | None] = [None] * len(budgets)

    def block(self, index: int, view: BlockView, x: Tensor, dense: Callable[[Tensor], Tensor]) -> Tensor:
        size = self.size_before(index, x)
        mask = self.masks[index - 1] if index else None
        if size is None or mask is None:
            size = torch.ones(*x.shape[:2], 1, device=x.device)
            mask = torch.ones(x.shape[:2], device=x.device)
        q, k, v = view.heads(x)
        logits = (q @ k.mT).float() * view.scale + size_bias(size, torch.float32)
        attention = functional.dropout(policy_softmax(logits, mask), view.dropout)
        x = x + view.after_attention(attention.to(v.dtype) @ v)

        order = importance_order(attention[:, :, 0].detach().mean(1))
        x, size, mask = gather_rows(x, order), gather_rows(size, order), gather_rows(mask[..., None], order)[..., 0]
        x, size, mask = self._compress(index, x, size, mask)
        self.sizes[index], self.masks[index] = size, mask
        return x + view.mlp(x)

    def _compress(self, index: int, x: Tensor, size: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        prune, merge = self.budgets[index]
        alive = int(mask[0].sum())
        pruned, merged = int(prune.kept()), int(merge.kept())
        if pruned < alive:
            mask = mask * prune.mask(alive)
        alive = min(alive, pruned)
        if merged < alive:
            plan = sorted_merge(x[:, :alive], merged)
            # What was merged stays where it was, unchanged but dead: the gradient of its mask needs it.
            x = torch.cat([plan.merge(x[:, :alive]), x[:, merged:]], 1)
            scaled = torch.cat([plan.scaled_size(size[:, :alive]), size[:, alive:]], 1).clamp_min(1)
            size = torch.cat([plan.merge_size(scaled[:, :alive]), scaled[:, merged:]], 1)
            mask = mask * merge.mask(alive)
        return x, size, mask

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"masks": [None] * len(self.masks)}


class DiffRateSearch(nn.Module):
    """Learn the kept counts of a live ViT with a class token; its own parameters freeze and only the budgets train.

    The module's parameters and state are the budgets alone: ``torch.optim.AdamW(search.parameters(), lr=0.01,
    weight_decay=0)`` is the paper's optimiser (cosine down to 0.001, 3 epochs of ImageNet). Users of the official code
    report poor rates on small data sets and with another recipe than the model's own.

    The first block keeps every patch, and so does the last when the head averages patches: one candidate each.

    Args:
        model: as :func:`tokernel.reduce.diffrate.patch_vit`; patched until :meth:`finish`.
        target_gflops: what the network should cost, in 10^9 multiply-adds.
        granularity: step between candidate counts.
        weight: of the squared distance to the target in the loss (5 in the paper; 0 during a warm-up epoch).

    >>> from transformers import ViTConfig, ViTModel
    >>> config = ViTConfig(
    ...     hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=128,
    ...     image_size=32, patch_size=8,
    ... )
    >>> model = ViTModel(config)
    >>> search = DiffRateSearch(model, target_gflops=4e-4, granularity=1)
    >>> loss = search.loss(search(torch.zeros(1, 3, 32, 32)).last_hidden_state.square().mean())
    >>> loss.backward()
    >>> search.finish()
    Schedule(prune_kept=[17, 10, 10], merge_kept=[17, 10, 10])
    """

    def __init__(self, model: nn.Module, target_gflops: float, *, granularity: int = 4, weight: float = 5.0) -> None:
        super().__init__()
        self.target_gflops = target_gflops
        self.weight = weight
        vit = Vit(model)
        patches, self._dim, self._fixed = _cost(model, vit)
        steps = [granularity] * len(vit.views)
        steps[0] = patches
        if vit.mean_pool:
            steps[-1] = patches
        self._budgets = [(BudgetDistribution(patches, step), BudgetDistribution(patches, step)) for step in steps]
        self.prune = nn.ModuleList(prune for prune, _ in self._budgets)
        self.merge = nn.ModuleList(merge for _, merge in self._budgets)
        self.to(next(model.parameters()).device)
        self._frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._patch = _SearchPatch(model, self._budgets)
        self._patch.install()
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    @property
    def model(self) -> nn.Module:
        """The model searched; no submodule, so that its weights are no parameters of the search."""
        return self._patch.model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model under the counts searched so far, dead tokens masked."""
        return self.model(*args, **kwargs)

    def kept(self) -> tuple[list[Tensor], list[Tensor]]:
        """The counts after pruning and after merging, per block, differentiable."""
        return [prune.kept() for prune, _ in self._budgets], [merge.kept() for _, merge in self._budgets]

    def flops(self) -> Tensor:
        """Multiply-adds of the current counts, differentiable, scalar float64: see :func:`vit_flops`."""
        return count_flops(self._fixed, self._dim, self._budgets[0][0].num_patches + 1, *self.kept())

    def loss(self, task_loss: Tensor | float = 0.0) -> Tensor:
        """``task_loss + weight * (GFLOPs - target)^2``."""
        excess = self.flops() / 1e9 - self.target_gflops
        penalty = self.weight * excess.square().to(self._budgets[0][0].candidates.device, torch.float32)
        return task_loss + penalty

    def schedule(self) -> Schedule:
        """The counts as whole numbers."""
        prune, merge = self.kept()
        return Schedule([int(count) for count in prune], [int(count) for count in merge])

    def finish(self) -> Schedule:
        """Give the model back, unpatched and trainable as before, and return the schedule found."""
        self._patch.unpatch()
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        return self.schedule()


def _cost(model: nn.Module, vit: Vit) -> tuple[int, int, int]:
    """Patches, width, and the multiply-adds of embedding and head."""
    if not vit.class_token or vit.distill_token:
        raise ValueError("DiffRateSearch: model expected a class token and no distillation token")
    owner = vit.module
    embed: Any = owner.patch_embed if hasattr(owner, "patch_embed") else owner.embeddings.patch_embeddings
    kernel = (embed.proj if hasattr(embed, "proj") else embed.projection).weight
    heads = (getattr(part, name, None) for part in (owner, model) for name in ("head", "classifier"))
    classes = next((head.out_features for head in heads if isinstance(head, nn.Linear)), 0)
    dim = int(kernel.shape[0])
    return int(embed.num_patches), dim, (int(embed.num_patches) + 1) * kernel.numel() + dim * classes
