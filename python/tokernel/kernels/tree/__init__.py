# SPDX-License-Identifier: Apache-2.0
"""Family tree: trees of draft tokens, and what speculative decoding does with rows of logits."""

from tokernel.kernels.tree._rows import RowStats, row_stats, row_stats_backward
from tokernel.kernels.tree._token_tree import TokenTree

__all__ = ["RowStats", "TokenTree", "row_stats", "row_stats_backward"]
