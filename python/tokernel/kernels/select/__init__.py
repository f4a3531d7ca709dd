# SPDX-License-Identifier: Apache-2.0
"""Family select: which items of a row to keep."""

from tokernel.kernels.select._bit_planes import join_bits, split_bits
from tokernel.kernels.select._gate import threshold_gate, threshold_gate_backward, topk_gate, topk_gate_backward
from tokernel.kernels.select._importance import accumulate_head_scores, accumulate_importance
from tokernel.kernels.select._local_value import local_value_attention
from tokernel.kernels.select._points import farthest_points
from tokernel.kernels.select._power import power_iterate
from tokernel.kernels.select._progressive import progressive_attention
from tokernel.kernels.select._topk import topk, topk_mask
from tokernel.kernels.select._topp import topp_mask

__all__ = [
    "accumulate_head_scores",
    "accumulate_importance",
    "farthest_points",
    "join_bits",
    "local_value_attention",
    "power_iterate",
    "progressive_attention",
    "split_bits",
    "threshold_gate",
    "threshold_gate_backward",
    "topk",
    "topk_gate",
    "topk_gate_backward",
    "topk_mask",
    "topp_mask",
]
