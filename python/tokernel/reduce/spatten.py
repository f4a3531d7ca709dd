# SPDX-License-Identifier: Apache-2.0
"""SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head Pruning (Wang et al., HPCA 2021).

arXiv 2012.09852. While a Transformer runs, tokens and heads of low importance are removed, for all later layers and, in
generation, for all later steps. Importance of a token is the attention probability it has received so far, of a head
the magnitude of what it has put out. Per row of attention, the values of small probability are not read either, and
keys are read in two bit planes, the low one only where the distribution is flat.

The authors released the hardware, its traces, and a later pruning of LLM caches (:class:`SpAttenKVCache`); the cascades
(:class:`TokenHeadState`, :func:`patch_bert`, :func:`patch_gpt2`) are from the paper, at full precision. The ops under
them, :func:`topk_threshold`, :func:`local_value_attention`, :func:`split_bits` and :func:`progressive_attention`, are
:mod:`tokernel.ops`' own, repeated here under the paper's roof.
"""

from __future__ import annotations

from tokernel.integrations import unpatch
from tokernel.ops import join_bits, local_value_attention, progressive_attention, split_bits
from tokernel.papers import paper
from tokernel.reduce._spatten_bert import BertPatch, patch_bert
from tokernel.reduce._spatten_gpt2 import Gpt2Patch, patch_gpt2
from tokernel.reduce._spatten_kv import SpAttenKVCache
from tokernel.reduce._spatten_patch import SpAttenPatch
from tokernel.reduce._spatten_run import Layer, Ratios
from tokernel.reduce._spatten_schedule import (
    GPT2_MEDIUM_TRACE,
    Trace,
    TraceCounts,
    kept_count,
    ltp_keep_rates,
    ltp_prune,
    schedule,
    trace_counts,
)
from tokernel.reduce._spatten_state import TokenHeadState, topk_threshold

__all__ = [
    "GPT2_MEDIUM_TRACE",
    "PAPER",
    "BertPatch",
    "Gpt2Patch",
    "Layer",
    "Ratios",
    "SpAttenKVCache",
    "SpAttenPatch",
    "TokenHeadState",
    "Trace",
    "TraceCounts",
    "join_bits",
    "kept_count",
    "local_value_attention",
    "ltp_keep_rates",
    "ltp_prune",
    "patch_bert",
    "patch_gpt2",
    "progressive_attention",
    "schedule",
    "split_bits",
    "topk_threshold",
    "trace_counts",
    "unpatch",
]

PAPER = paper("spatten")
