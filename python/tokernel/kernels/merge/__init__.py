# SPDX-License-Identifier: Apache-2.0
"""Family merge: which tokens are alike, and how they become one."""

from tokernel.kernels.merge._rows import (
    gather_rows,
    scatter_add_rows,
    scatter_add_rows_backward,
    scatter_rows,
    scatter_rows_backward,
)
from tokernel.kernels.merge._segments import segment_broadcast, segment_reduce

__all__ = [
    "gather_rows",
    "scatter_add_rows",
    "scatter_add_rows_backward",
    "scatter_rows",
    "scatter_rows_backward",
    "segment_broadcast",
    "segment_reduce",
]
