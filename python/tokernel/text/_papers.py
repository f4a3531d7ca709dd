# SPDX-License-Identifier: Apache-2.0
"""Records of the papers of this room, in the order of its README."""

from __future__ import annotations

from tokernel.papers import Paper

PAPERS: tuple[Paper, ...] = (
    Paper(
        slug="data_mixture_inference",
        title="Data Mixture Inference: What do BPE Tokenizers Reveal about their Training Data?",
        arxiv="2407.16607",
        venue="NeurIPS 2024",
        module="tokernel.text.data_mixture_inference",
        official_repo="alisawuffles/tokenizer-attack",
        licence="no licence found",
        verified_against="repo",
        status="complete",
        notes="Same optimum as the official solver and as the whole linear program, without the official code's "
        "skipping of the merge whose pair has id 0. Solved by HiGHS of SciPy (extra lp). The two baselines are written "
        "from memory of the paper.",
    ),
)
