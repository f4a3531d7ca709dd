# SPDX-License-Identifier: Apache-2.0
"""DiffRate's differentiable parts (arXiv 2305.17997, section 3.2): kept counts, masks, masked attention, FLOPs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["BudgetDistribution", "count_flops", "policy_softmax", "vit_flops"]


def _straight_through(value: Tensor, *carriers: Tensor) -> Tensor:
    """The value, exactly, with gradient 1 to each carrier."""
    out = value.detach()
    for carrier in carriers:
        out = out + (carrier - carrier.detach())
    return out


class BudgetDistribution(nn.Module):
    """How many tokens a block keeps, as a distribution over candidates P, P - g, P - 2g, ... > 0.

    The counts follow the logits at every call; nothing is stored that could be stale after ``load_state_dict``.

    Attributes:
        logits: (K,) the parameter; zeros at first.
        candidates: (K,) patches kept, class token not counted.
    """

    candidates: Tensor

    def __init__(self, num_patches: int, granularity: int = 1, class_token: bool = True) -> None:
        super().__init__()
        if num_patches < 1 or granularity < 1:
            raise ValueError(
                f"BudgetDistribution: num_patches and granularity expected at least 1; got {num_patches}, {granularity}"
            )
        candidates = torch.arange(num_patches, 0, -granularity, dtype=torch.float32)
        self.register_buffer("candidates", candidates, persistent=False)
        self.logits = nn.Parameter(torch.zeros(len(candidates)))
        self.num_patches = num_patches
        self.prefix = int(class_token)

    def kept(self) -> Tensor:
        """Expected kept count, rounded up, class token included: a whole float32 scalar; the ceiling passes gradient 1.

        >>> int(BudgetDistribution(16).kept())
        10
        """
        expected = self.candidates @ self.logits.softmax(0)
        return _straight_through(expected.ceil(), expected) + self.prefix

    def keep_probability(self) -> Tensor:
        """Probability that sorted position n is kept, (P + prefix,): the mass of the candidates that reach it."""
        position = torch.arange(self.num_patches + self.prefix, device=self.candidates.device)
        reached = self.candidates[:, None] + self.prefix > position
        return self.logits.softmax(0) @ reached.to(self.logits.dtype)

    def mask(self, alive: int | None = None) -> Tensor:
        """Mask of the sorted positions, (P + prefix,): 0 from the kept count up to ``alive``, else 1; gradient of
        :meth:`keep_probability`.

        Args:
            alive: positions from here on were dropped before and stay as they are; None for no such position.
        """
        probability = self.keep_probability()
        hard = torch.ones_like(probability)
        hard[int(self.kept()) : alive] = 0
        return _straight_through(hard, probability)


def policy_softmax(logits: Tensor, policy: Tensor, eps: float = 1e-6) -> Tensor:
    """Softmax over keys of which some are dead, with a gradient to the choice: ``(e + eps/N) / (sum e + eps)``.

    ``e = exp(logits - max) * (policy + (1 - policy) I)`` in float32: every token still sees itself. The maximum is over
    all keys, dead ones included, as published: a dead key with a dominating logit underflows the others.

    Args:
        logits: (B, H, N, N) with any key bias included.
        policy: (B, N), 1 for living keys.

    Returns:
        (B, H, N, N) of the dtype of logits.
    """
    tokens = logits.shape[-1]
    if policy.shape != (logits.shape[0], tokens):
        raise ValueError(
            f"policy_softmax: policy expected shape {(logits.shape[0], tokens)}; got {tuple(policy.shape)}"
        )
    wide = logits.float()
    keys = policy[:, None, None, :].float()
    keep = keys + (1 - keys) * torch.eye(tokens, device=logits.device)
    e = torch.exp(wide - wide.amax(-1, keepdim=True)) * keep
    return ((e + eps / tokens) / (e.sum(-1, keepdim=True) + eps)).to(logits.dtype)


def vit_flops(
    dim: int,
    patch: int,
    num_patches: int,
    prune_kept: Sequence[int | Tensor],
    merge_kept: Sequence[int | Tensor],
    *,
    classes: int = 1000,
    channels: int = 3,
) -> Tensor:
    """Multiply-adds of a ViT whose block i leaves min(N, prune_kept[i], merge_kept[i]) of N tokens.

    Patch embedding (P+1) C p^2 channels, head C classes, and per block 4 N C^2 + 2 N^2 C before and 8 N C^2 after the
    compression (MLP ratio 4): the official count. One multiply-add is 1.

    Args:
        dim: width C.
        patch: edge p of a patch.
        num_patches: P; the class token makes N = P + 1 at first.
        prune_kept, merge_kept: per block, class token included: whole numbers, or scalars of
            :meth:`BudgetDistribution.kept`. The minimum passes its full gradient to both, and none to N.

    Returns:
        Scalar float64.

    >>> round(vit_flops(384, 16, 196, [197] * 12, [197] * 12).item() / 1e9, 3)
    4.599
    """
    fixed = (num_patches + 1) * dim * patch * patch * channels + dim * classes
    return count_flops(fixed, dim, num_patches + 1, prune_kept, merge_kept)


def count_flops(
    fixed: int, dim: int, tokens: int, prune_kept: Sequence[int | Tensor], merge_kept: Sequence[int | Tensor]
) -> Tensor:
    """:func:`vit_flops` of ``tokens`` tokens, with the cost of embedding and head given as ``fixed``."""
    if len(prune_kept) != len(merge_kept):
        raise ValueError(
            f"vit_flops: prune_kept and merge_kept expected one length; got {len(prune_kept)} and {len(merge_kept)}"
        )
    left = torch.tensor(float(tokens), dtype=torch.float64)
    total = torch.full_like(left, fixed)
    for kept in zip(prune_kept, merge_kept, strict=True):
        total = total + 4 * left * dim**2 + 2 * left**2 * dim
        prune, merge = (torch.as_tensor(count).double().cpu() for count in kept)
        left = _straight_through(torch.stack([left, prune, merge]).amin(), prune, merge)
        total = total + 8 * left * dim**2
    return total
