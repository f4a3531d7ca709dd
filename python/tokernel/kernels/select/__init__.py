# SPDX-License-Identifier: Apache-2.0
"""Family select: which items of a row to keep."""

from tokernel.kernels.select._topk import topk, topk_mask
from tokernel.kernels.select._topp import topp_mask

__all__ = ["topk", "topk_mask", "topp_mask"]
