# SPDX-License-Identifier: Apache-2.0
"""DyMU: Dynamic Merging and Virtual Unmerging for Efficient VLMs (arXiv 2504.17040).

Two parts, no training. DToMe (section 3.1): the vision encoder merges tokens as ToMe does, but every pair above a
threshold of similarity, so that easy images lose more tokens than busy ones; the thresholds are calibrated once on any
images. VTU (section 3.2): the language model was trained on all positions, so its attention sees every patch at its own
place, while everything else runs on the merged tokens.
"""

from __future__ import annotations

from tokernel.integrations import unpatch
from tokernel.ops import MergePlan
from tokernel.papers import paper
from tokernel.reduce._dymu_decoder import VtuPatch, patch_decoder
from tokernel.reduce._dymu_llava import DyMULlavaPatch, patch_llava
from tokernel.reduce._dymu_merge import (
    ThresholdCalibrator,
    apply_merge,
    batch_bipartite_merge,
    bipartite_threshold_merge,
    r_schedule,
)
from tokernel.reduce._dymu_vit import DyMUPatch, calibrate, patch_vit
from tokernel.reduce._dymu_vtu import remerge_mean, vtu_attention, vtu_scores

__all__ = [
    "PAPER",
    "DyMULlavaPatch",
    "DyMUPatch",
    "MergePlan",
    "ThresholdCalibrator",
    "VtuPatch",
    "apply_merge",
    "batch_bipartite_merge",
    "bipartite_threshold_merge",
    "calibrate",
    "patch_decoder",
    "patch_llava",
    "patch_vit",
    "r_schedule",
    "remerge_mean",
    "unpatch",
    "vtu_attention",
    "vtu_scores",
]

PAPER = paper("dymu")
