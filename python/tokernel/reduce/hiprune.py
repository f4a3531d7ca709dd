# SPDX-License-Identifier: Apache-2.0
"""HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention (ACL 2026, arXiv 2508.00553).

Only the vision encoder's own attention is asked. Three groups of visual tokens share one budget: anchors, which receive
most attention in a middle layer; buffers, the four grid neighbours of every anchor; registers, which receive most
attention in a deep layer among all others. What is chosen goes on to the language model in its old order.

HiPrune++ of the paper's second version (a few more tokens by their similarity to the text) is left out: how many is not
known.
"""

from __future__ import annotations

from tokernel.integrations import unpatch
from tokernel.papers import paper
from tokernel.reduce._hiprune_model import HiPrune, HiPruned, HiPrunePatch, patch_llava
from tokernel.reduce._hiprune_select import (
    anchor_count,
    attention_received,
    attention_received_qk,
    crop_budget,
    fold_merged,
    hiprune_select,
    kept_positions,
)

__all__ = [
    "PAPER",
    "HiPrune",
    "HiPrunePatch",
    "HiPruned",
    "anchor_count",
    "attention_received",
    "attention_received_qk",
    "crop_budget",
    "fold_merged",
    "hiprune_select",
    "kept_positions",
    "patch_llava",
    "unpatch",
]

PAPER = paper("hiprune")
