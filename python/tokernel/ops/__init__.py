# SPDX-License-Identifier: Apache-2.0
"""The ops of :mod:`tokernel.kernels` as torch ops of the same names.

Each is differentiable in its float payload, works under ``torch.compile(fullgraph=True)``, ``FakeTensor``, ``vmap``,
autocast and ``inference_mode``, and takes a short path of about a microsecond when nothing of that is active.
"""

from tokernel.kernels.attention import (
    BlockMap,
    Causal,
    Dense,
    Disc,
    Extras,
    ExtrasResult,
    Mask,
    PrefixCausal,
    Regions,
    Segments,
    Tree,
    Window,
)
from tokernel.kernels.cluster import KMeans
from tokernel.kernels.quantize import (
    CodebookEntropy,
    CodebookLse,
    CodebookStats,
    CodeSums,
    Grid,
    Nearest,
    Residual,
    Scanned,
    TopCodes,
)
from tokernel.kernels.tree import Chain, Expanded, HeadChoice, RowStats, TokenTree, Verified
from tokernel.ops._attention import attention
from tokernel.ops._attention_distill import attention_map_ce
from tokernel.ops._attention_map import attention_column_sums, attention_rows
from tokernel.ops._attention_rope import gathered_rope_attention, rope_gather, rope_scatter
from tokernel.ops._cluster_kmeans import assign, kmeans, update
from tokernel.ops._cluster_map import centroid_topp_map, map_density
from tokernel.ops._cluster_order import inverse_permute_rows, permute_rows, sort_by_label
from tokernel.ops._merge_match import cosine_match, select_edges
from tokernel.ops._merge_plan import MergePlan, bipartite_match, kth_match, match_2d, random_match, threshold_match
from tokernel.ops._merge_rows import gather_rows, scatter_add_rows, scatter_rows
from tokernel.ops._merge_segments import segment_broadcast, segment_reduce, segment_softmax
from tokernel.ops._merge_soft import compact_rows, soft_aggregate
from tokernel.ops._quantize_bits import (
    bucketize,
    fsq_decode,
    fsq_encode,
    pack_bits,
    sign_pack,
    sign_unpack,
    unpack_bits,
)
from tokernel.ops._quantize_codebook import codebook_stats, ema_update
from tokernel.ops._quantize_entropy import bit_entropy, codebook_entropy, codebook_lse, subcode_histogram
from tokernel.ops._quantize_nearest import nearest, nearest_rank, nearest_topk
from tokernel.ops._quantize_product import adc_scan, adc_tables, pq_decode, pq_encode
from tokernel.ops._quantize_residual import lookup, rotate_to, rvq_decode, rvq_encode, straight_through
from tokernel.ops._select_bit_planes import join_bits, progressive_attention, split_bits
from tokernel.ops._select_gate import threshold_gate, topk_gate
from tokernel.ops._select_importance import accumulate_head_scores, accumulate_importance
from tokernel.ops._select_local_value import local_value_attention
from tokernel.ops._select_points import farthest_points
from tokernel.ops._select_power import power_iterate
from tokernel.ops._select_topk import topk, topk_mask, topp_mask
from tokernel.ops._tree_attention import tree_attention
from tokernel.ops._tree_cache import build_tree, compact_cache, update_adjacency
from tokernel.ops._tree_draft import expand_greedy, gumbel_argmax, masked_transfer, sample_without_replacement
from tokernel.ops._tree_head import head_argmax_prob
from tokernel.ops._tree_merge import merge_attention
from tokernel.ops._tree_rows import row_stats
from tokernel.ops._tree_verify import residual_sample, verify_chain, verify_greedy, verify_stochastic

__all__ = [
    "BlockMap",
    "Causal",
    "Chain",
    "CodeSums",
    "CodebookEntropy",
    "CodebookLse",
    "CodebookStats",
    "Dense",
    "Disc",
    "Expanded",
    "Extras",
    "ExtrasResult",
    "Grid",
    "HeadChoice",
    "KMeans",
    "Mask",
    "MergePlan",
    "Nearest",
    "PrefixCausal",
    "Regions",
    "Residual",
    "RowStats",
    "Scanned",
    "Segments",
    "TokenTree",
    "TopCodes",
    "Tree",
    "Verified",
    "Window",
    "accumulate_head_scores",
    "accumulate_importance",
    "adc_scan",
    "adc_tables",
    "assign",
    "attention",
    "attention_column_sums",
    "attention_map_ce",
    "attention_rows",
    "bipartite_match",
    "bit_entropy",
    "bucketize",
    "build_tree",
    "centroid_topp_map",
    "codebook_entropy",
    "codebook_lse",
    "codebook_stats",
    "compact_cache",
    "compact_rows",
    "cosine_match",
    "ema_update",
    "expand_greedy",
    "farthest_points",
    "fsq_decode",
    "fsq_encode",
    "gather_rows",
    "gathered_rope_attention",
    "gumbel_argmax",
    "head_argmax_prob",
    "inverse_permute_rows",
    "join_bits",
    "kmeans",
    "kth_match",
    "local_value_attention",
    "lookup",
    "map_density",
    "masked_transfer",
    "match_2d",
    "merge_attention",
    "nearest",
    "nearest_rank",
    "nearest_topk",
    "pack_bits",
    "permute_rows",
    "power_iterate",
    "pq_decode",
    "pq_encode",
    "progressive_attention",
    "random_match",
    "residual_sample",
    "rope_gather",
    "rope_scatter",
    "rotate_to",
    "row_stats",
    "rvq_decode",
    "rvq_encode",
    "sample_without_replacement",
    "scatter_add_rows",
    "scatter_rows",
    "segment_broadcast",
    "segment_reduce",
    "segment_softmax",
    "select_edges",
    "sign_pack",
    "sign_unpack",
    "soft_aggregate",
    "sort_by_label",
    "split_bits",
    "straight_through",
    "subcode_histogram",
    "threshold_gate",
    "threshold_match",
    "topk",
    "topk_gate",
    "topk_mask",
    "topp_mask",
    "tree_attention",
    "unpack_bits",
    "update",
    "update_adjacency",
    "verify_chain",
    "verify_greedy",
    "verify_stochastic",
]
