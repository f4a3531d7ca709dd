# SPDX-License-Identifier: Apache-2.0
"""Family select: which items of a row to keep."""

from tokernel.kernels.select._points import farthest_points
from tokernel.kernels.select._power import power_iterate
from tokernel.kernels.select._topk import topk, topk_mask
from tokernel.kernels.select._topp import topp_mask

__all__ = ["farthest_points", "power_iterate", "topk", "topk_mask", "topp_mask"]
