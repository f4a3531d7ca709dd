# SPDX-License-Identifier: Apache-2.0
"""Family merge: which tokens are alike, and how they become one."""

from tokernel.kernels.merge._match import cosine_match, select_edges
from tokernel.kernels.merge._plan import MergePlan
from tokernel.kernels.merge._plans import bipartite_match, kth_match, match_2d, random_match, threshold_match
from tokernel.kernels.merge._rows import (
    gather_rows,
    scatter_add_rows,
    scatter_add_rows_backward,
    scatter_rows,
    scatter_rows_backward,
)
from tokernel.kernels.merge._segments import (
    segment_broadcast,
    segment_reduce,
    segment_reduce_backward,
    segment_softmax,
    segment_softmax_backward,
)
from tokernel.kernels.merge._soft import compact_rows, soft_aggregate, soft_aggregate_backward

__all__ = [
    "MergePlan",
    "bipartite_match",
    "compact_rows",
    "cosine_match",
    "gather_rows",
    "kth_match",
    "match_2d",
    "random_match",
    "scatter_add_rows",
    "scatter_add_rows_backward",
    "scatter_rows",
    "scatter_rows_backward",
    "segment_broadcast",
    "segment_reduce",
    "segment_reduce_backward",
    "segment_softmax",
    "segment_softmax_backward",
    "select_edges",
    "soft_aggregate",
    "soft_aggregate_backward",
    "threshold_match",
]
