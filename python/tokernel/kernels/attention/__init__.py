# SPDX-License-Identifier: Apache-2.0
"""Family attention: one core, many mask policies."""

from tokernel.kernels.attention._attention import attention
from tokernel.kernels.attention._backward import attention_backward
from tokernel.kernels.attention._distill import attention_map_ce, attention_map_ce_backward
from tokernel.kernels.attention._map import Extras, ExtrasResult, attention_column_sums, attention_rows
from tokernel.kernels.attention._order import Regions, Window
from tokernel.kernels.attention._policy import (
    BlockMap,
    Causal,
    Dense,
    Disc,
    Mask,
    Policy,
    PrefixCausal,
    Segments,
    Tree,
)
from tokernel.kernels.attention._rope import gathered_rope_attention, rope_gather, rope_scatter

__all__ = [
    "BlockMap",
    "Causal",
    "Dense",
    "Disc",
    "Extras",
    "ExtrasResult",
    "Mask",
    "Policy",
    "PrefixCausal",
    "Regions",
    "Segments",
    "Tree",
    "Window",
    "attention",
    "attention_backward",
    "attention_map_ce",
    "attention_map_ce_backward",
    "gathered_rope_attention",
    "rope_gather",
    "rope_scatter",
    "attention_column_sums",
    "attention_rows",
]
