# SPDX-License-Identifier: Apache-2.0
"""The papers of this room."""

from __future__ import annotations

from tokernel.papers import Paper

PAPERS: tuple[Paper, ...] = (
    Paper(
        slug="svg2",
        title="Sparse VideoGen2: Accelerate Video Generation with Sparse Attention via Semantic-Aware Permutation",
        arxiv="2505.18875",
        venue="NeurIPS 2025",
        module="tokernel.diffusion.svg2",
        official_repo="svg-project/Sparse-VideoGen",
        licence="Apache-2.0",
        verified_against="repo",
        status="complete",
        notes="With processors for Wan, HunyuanVideo and Cosmos, and the settings of the released scripts. Batches of "
        "any size, where the official code takes one sample; norms of k-means are float32.",
    ),
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
    Paper(
        slug="qihoo_t2x",
        title="Qihoo-T2X: An Efficiency-Focused Diffusion Transformer via Proxy Tokens for Text-to-Any-Task",
        arxiv="2409.04005",
        venue="ICLR 2025",
        module="tokernel.diffusion.qihoo_t2x",
        official_repo="Ascend/MindSpeed-MM",
        licence="Apache-2.0 (the paper's own repository has no code)",
        verified_against="repo",
        status="complete",
        notes="The block reproduces the released code, except where samples of one batch stand at different time "
        "steps: there the released code modulates the wrong windows. Position codes of video frames are ours.",
    ),
    Paper(
        slug="pixart_sigma",
        title="PixArt-\u03a3: Weak-to-Strong Training of Diffusion Transformer for 4K Text-to-Image Generation",
        arxiv="2403.04692",
        venue="ECCV 2024",
        module="tokernel.diffusion.pixart_sigma",
        official_repo="PixArt-alpha/PixArt-sigma",
        licence="Apache-2.0 (weights OpenRAIL++)",
        verified_against="repo",
        status="complete",
        notes="The compression of keys and values, with the official code's LayerNorm that the paper's formula lacks. "
        "Its mode 'ave' is named nearest here, because it samples; a true mean is a mode of its own.",
    ),
)
