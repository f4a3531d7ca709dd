# SPDX-License-Identifier: Apache-2.0
"""Block maps as clusters of tokens make them: no two blocks of one size, a stated share of the blocks seen."""

from __future__ import annotations

import torch
from tokernel.kernels.attention import BlockMap
from torch import Tensor

DENSITIES = (0.1, 0.25, 0.5)
ROW_CLUSTERS, COLUMN_CLUSTERS = 100, 500


def _cluster_sizes(tokens: int, clusters: int, generator: torch.Generator) -> Tensor:
    """Sizes as k-means gives them: no two alike, the largest several times the smallest."""
    weights = torch.rand(clusters, generator=generator) + torch.rand(clusters, generator=generator) + 0.2
    ends = (weights.cumsum(0) / weights.sum() * tokens).round().long()
    ends[-1] = tokens
    return torch.diff(ends, prepend=torch.zeros(1, dtype=torch.long))


def block_map(density: float, heads: int, tokens: int, quick: bool) -> tuple[BlockMap, Tensor]:
    """Return a policy, and the dense mask it stands for."""
    rows, columns = (8, 20) if quick else (ROW_CLUSTERS, COLUMN_CLUSTERS)
    generator = torch.Generator().manual_seed(1)
    sizes = [_cluster_sizes(tokens, n, generator) for n in (rows, columns)]
    # Exactly this share of the blocks of every row, so that no row is empty.
    rank = torch.rand(1, heads, rows, columns, generator=generator).argsort(-1).argsort(-1)
    blocks = rank < max(1, round(density * columns))
    return BlockMap(blocks, *sizes), blocks.repeat_interleave(sizes[0], 2).repeat_interleave(sizes[1], 3)
