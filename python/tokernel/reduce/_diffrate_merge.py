# SPDX-License-Identifier: Apache-2.0
"""DiffRate's compression of tokens sorted by importance (arXiv 2305.17997, section 3.1): drop some, merge some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tokernel.integrations.attention import SMALLEST_SIZE
from tokernel.ops import cosine_match, segment_reduce

__all__ = ["SortedMerge", "importance_order", "prune", "sorted_merge"]


def importance_order(importance: Tensor, class_token: bool = True) -> Tensor:
    """Sort tokens by falling importance, ties by their position, the class token first.

    Args:
        importance: (B, N), for instance the attention row of the class token.
        class_token: token 0 stays at the front whatever its importance.

    Returns:
        (B, N) int64 order.

    >>> importance_order(torch.tensor([[0.0, 0.2, 0.5, 0.2]]))
    tensor([[0, 2, 1, 3]])
    """
    first = int(class_token)
    order = importance[:, first:].sort(dim=1, descending=True, stable=True)[1] + first
    return torch.cat([order.new_zeros(order.shape[0], first), order], 1)


def prune(x: Tensor, kept: int) -> Tensor:
    """Keep the first ``kept`` of sorted tokens x (B, N, C); all of them if there are fewer."""
    return x[:, :kept]


@dataclass(frozen=True, eq=False)
class SortedMerge:
    """Which of the kept tokens each unimportant one goes to; made by :func:`sorted_merge`.

    Attributes:
        dst_idx: (B, N - kept) int64 destination of each unimportant token.
        node_max: (B, N - kept) float32 cosine to it; no gradient.
        kept: number of tokens that stay.
    """

    dst_idx: Tensor
    node_max: Tensor
    kept: int

    @property
    def map(self) -> Tensor:
        """(B, N) int64 output token of every token."""
        stay = torch.arange(self.kept, device=self.dst_idx.device).expand(self.dst_idx.shape[0], -1)
        return torch.cat([stay, self.dst_idx], 1)

    def merge(self, x: Tensor) -> Tensor:
        """Plain mean of every kept token and what goes to it, (B, kept, C).

        Not weighted by size, as published: repeated merging favours the tokens that came last.
        """
        return self._reduce(x, "mean")

    def scaled_size(self, size: Tensor) -> Tensor:
        """Sizes (B, N, 1) float32 with those of the unimportant tokens times their cosine."""
        return torch.cat([size[:, : self.kept], size[:, self.kept :] * self.node_max[..., None]], 1)

    def merge_size(self, scaled: Tensor) -> Tensor:
        """Sum of :meth:`scaled_size` per kept token, (B, kept, 1).

        A sum that negative cosines would push below zero has no logarithm: it becomes a small positive number.
        """
        return self._reduce(scaled, "sum").clamp_min(SMALLEST_SIZE)

    def source(self, previous: Tensor) -> Tensor:
        """Which input tokens each kept token holds, (B, kept, N0) of 0 and 1, from the same of its parts."""
        return self._reduce(previous, "amax")

    def _reduce(self, x: Tensor, mode: Literal["mean", "sum", "amax"]) -> Tensor:
        out: Tensor = segment_reduce(x, ids=self.map, segments=self.kept, mode=mode)
        return out


def sorted_merge(x: Tensor, kept: int, class_token: bool = True) -> SortedMerge:
    """Match every token behind the first ``kept`` to the most similar of these; the class token receives nothing.

    Args:
        x: (B, N, C) tokens sorted by importance. Their cosine decides (not that of keys); no gradient.
        kept: tokens that stay; with N or more the plan is empty.
        class_token: token 0 is never a destination.

    Raises:
        ValueError: fewer kept tokens than one destination beside the class token.

    >>> x = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [0.1, 2.0]]])
    >>> sorted_merge(x, kept=3).dst_idx
    tensor([[2]])
    """
    first = int(class_token)
    kept = min(kept, x.shape[1])
    if kept <= first and kept < x.shape[1]:
        raise ValueError(f"sorted_merge: kept expected at least {first + 1}; got {kept}")
    tokens = x.detach()
    score, index = cosine_match(tokens[:, kept:], tokens[:, first:kept])
    return SortedMerge(index + first, score, kept)
