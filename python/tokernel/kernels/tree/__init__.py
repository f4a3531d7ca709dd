# SPDX-License-Identifier: Apache-2.0
"""Family tree: what speculative decoding does with rows of logits."""

from tokernel.kernels.tree._rows import RowStats, row_stats, row_stats_backward

__all__ = ["RowStats", "row_stats", "row_stats_backward"]
