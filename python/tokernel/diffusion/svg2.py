# SPDX-License-Identifier: Apache-2.0
"""Sparse VideoGen2: Sparse Attention via Semantic-Aware Permutation (NeurIPS 2025, arXiv 2505.18875).

Training-free. In every head of a video transformer, queries and keys are clustered by k-means. Centroids and cluster
sizes give an estimate of the attention map between clusters; for every query cluster, the fewest key clusters whose
estimated mass passes p are kept. Tokens are reordered so that clusters are contiguous, exact softmax attention runs on
the kept blocks of unequal sizes, and the output is put back. Centroids are remembered from one denoising step to the
next, so that two iterations of k-means are enough.
"""

from __future__ import annotations

from tokernel.diffusion._svg2_attention import (
    Blocks,
    SemanticAwareAttention,
    batched_kmeans,
    inverse_permute,
    permute_by_labels,
    text_blocks,
    varblock_sparse_attention,
)
from tokernel.diffusion._svg2_config import NEVER_DENSE, PRESETS, Svg2Config, dense_above, dense_layers
from tokernel.diffusion._svg2_processor import (
    Svg2CosmosAttnProcessor,
    Svg2HunyuanVideoAttnProcessor,
    Svg2Patch,
    Svg2WanAttnProcessor,
    patch_video,
)
from tokernel.integrations import unpatch
from tokernel.ops import centroid_topp_map, map_density
from tokernel.papers import paper

__all__ = [
    "NEVER_DENSE",
    "PAPER",
    "PRESETS",
    "Blocks",
    "SemanticAwareAttention",
    "Svg2Config",
    "Svg2CosmosAttnProcessor",
    "Svg2HunyuanVideoAttnProcessor",
    "Svg2Patch",
    "Svg2WanAttnProcessor",
    "batched_kmeans",
    "centroid_topp_map",
    "dense_above",
    "dense_layers",
    "inverse_permute",
    "map_density",
    "patch_video",
    "permute_by_labels",
    "text_blocks",
    "unpatch",
    "varblock_sparse_attention",
]

PAPER = paper("svg2")
