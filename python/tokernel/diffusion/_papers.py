# SPDX-License-Identifier: Apache-2.0
"""The papers of this room."""

from __future__ import annotations

from tokernel.papers import Paper

PAPERS: tuple[Paper, ...] = (
    Paper(
        slug="clear",
        title="CLEAR: Conv-Like Linearization Revs Pre-Trained Diffusion Transformers Up",
        arxiv="2412.16112",
        venue="NeurIPS 2025",
        module="tokernel.diffusion.clear",
        official_repo="Huage001/CLEAR",
        licence="Apache-2.0",
        verified_against="repo",
        status="complete",
        notes="Both variants, proportional attention, processors for Flux and SD3, and the distillation loss. Height, "
        "width and text length are parameters, where the official code has globals and a constant.",
    ),
)
