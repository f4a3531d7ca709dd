# SPDX-License-Identifier: Apache-2.0
"""Family tree: trees of draft tokens, and what speculative decoding does with rows of logits."""

from tokernel.kernels.tree._adjacency import build_tree, update_adjacency
from tokernel.kernels.tree._attention import tree_attention
from tokernel.kernels.tree._builders import DraftTree, eagle2_tree, sequoia_tokens, sequoia_tree
from tokernel.kernels.tree._cache import compact_cache
from tokernel.kernels.tree._draft import (
    Expanded,
    expand_greedy,
    gumbel_argmax,
    masked_transfer,
    sample_without_replacement,
)
from tokernel.kernels.tree._head import HeadChoice, head_argmax_prob
from tokernel.kernels.tree._merge import merge_attention, merge_attention_backward
from tokernel.kernels.tree._rows import RowStats, row_stats, row_stats_backward
from tokernel.kernels.tree._token_tree import TokenTree
from tokernel.kernels.tree._verify import (
    Chain,
    Rule,
    Verified,
    residual_sample,
    verify_chain,
    verify_greedy,
    verify_stochastic,
)

__all__ = [
    "Chain",
    "DraftTree",
    "Expanded",
    "HeadChoice",
    "RowStats",
    "Rule",
    "TokenTree",
    "Verified",
    "build_tree",
    "compact_cache",
    "eagle2_tree",
    "expand_greedy",
    "gumbel_argmax",
    "head_argmax_prob",
    "masked_transfer",
    "merge_attention",
    "merge_attention_backward",
    "residual_sample",
    "row_stats",
    "row_stats_backward",
    "sample_without_replacement",
    "sequoia_tokens",
    "sequoia_tree",
    "tree_attention",
    "update_adjacency",
    "verify_chain",
    "verify_greedy",
    "verify_stochastic",
]
