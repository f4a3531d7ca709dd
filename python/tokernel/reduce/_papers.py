# SPDX-License-Identifier: Apache-2.0
"""Records of the papers in this room."""

from tokernel.papers import Paper

PAPERS = (
    Paper(
        slug="tome",
        title="Token Merging: Your ViT But Faster",
        arxiv="2210.09461",
        venue="ICLR 2023",
        module="tokernel.reduce.tome",
        official_repo="facebookresearch/ToMe",
        licence="CC-BY-NC-4.0",
        verified_against="repo",
        status="complete",
        notes="With the diffusion variant (arXiv 2303.17604, dbolya/tomesd, MIT). A zero metric vector has cosine 0 "
        "instead of NaN, ties go to the lowest index, and unmerge also inverts the distillation token's order.",
    ),
    Paper(
        slug="diffrate",
        title="DiffRate: Differentiable Compression Rate for Efficient Vision Transformers",
        arxiv="2305.17997",
        venue="ICCV 2023",
        module="tokernel.reduce.diffrate",
        official_repo="OpenGVLab/DiffRate",
        licence="none stated",
        verified_against="repo",
        status="complete",
        notes="Prunes and merges with budgets learnt by gradient.",
    ),
    Paper(
        slug="token_transforming",
        title="Token Transforming: A Unified and Training-Free Token Compression Framework for Vision Transformer "
        "Acceleration",
        arxiv="2506.05709",
        venue="arXiv",
        module="tokernel.reduce.token_transforming",
        official_repo="AuroraZengfh/TokenTransforming",
        licence="MIT (README only, no code)",
        verified_against="reconstruction",
        status="complete",
        notes="The unified operator Y = WX is the paper's; how W is computed (targets, cosine, temperature, mass, "
        "restoration) is our reconstruction from the abstract and one figure caption. No number is claimed.",
    ),
    Paper(
        slug="self_slimmed_vit",
        title="Self-slimmed Vision Transformer",
        arxiv="2111.12624",
        venue="ECCV 2022",
        module="tokernel.reduce.self_slimmed_vit",
        official_repo="Sense-X/SiT",
        licence="Apache-2.0 (README says MIT)",
        verified_against="repo",
        status="complete",
        notes="Slimming, recovery, distillation loss and the LV-ViT backbone. The optional CNN teacher is left out: "
        "the official code for it cannot run.",
    ),
    Paper(
        slug="code_token_merging",
        title="On the Effect of Token Merging on Pre-trained Models for Code",
        arxiv="2507.14423",
        venue="arXiv",
        module="tokernel.reduce.code_token_merging",
        official_repo=None,
        licence="no code released",
        verified_against="reconstruction",
        status="complete",
        notes="Merging by mean or learnt weights is the paper's; the lexers, the unit policy and the form of the "
        "learnt scorer are our reconstruction from the abstract and one public summary.",
    ),
    Paper(
        slug="dymu",
        title="DyMU: Dynamic Merging and Virtual Unmerging for Efficient VLMs",
        arxiv="2504.17040",
        venue="arXiv",
        module="tokernel.reduce.dymu",
        official_repo="MikeWangWZHL/dymu",
        licence="MIT-style (open_clip licence text)",
        verified_against="repo",
        status="complete",
        notes="Batches are divided by size, not by size + 1e-4 (parity=True does that); their row order is stable; a "
        "threshold of 1 never merges, however a cosine was rounded; an image never loses more than half of its tokens. "
        "Several prompts or images in patch_llava, size weights in SigLIP's pooling head and what the linear schedule "
        "rounds away are our reconstruction.",
    ),
    Paper(
        slug="hiprune",
        title="HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language Models",
        arxiv="2508.00553",
        venue="ACL 2026",
        module="tokernel.reduce.hiprune",
        official_repo="Danielement321/HiPrune",
        licence="MIT",
        verified_against="repo",
        status="complete",
        notes="Registers exclude anchors and buffers exactly, where the official code subtracts 1. What it does when "
        "these exceed the budget (it fails), the border by grid, and the object layer of towers without 24 layers are "
        "ours. HiPrune++ of version 2 is left out: its share is not published. The Qwen2.5-VL variant is functions, "
        "without a patch.",
    ),
    Paper(
        slug="zero_tprune",
        title="Zero-TPrune: Zero-Shot Token Pruning through Leveraging of the Attention Graph in Pre-Trained "
        "Transformers",
        arxiv="2305.17328",
        venue="CVPR 2024",
        module="tokernel.reduce.zero_tprune",
        official_repo="jha-lab/zerotprune",
        licence="CC-BY-SA-4.0 (project page, no code)",
        verified_against="reconstruction",
        status="complete",
        notes="The PageRank of the attention graph, the head filter and the order I'-S-I are the paper's, as reading "
        "notes and the project page give them; the scale of the filter, roundings, ties, the half that may be dropped "
        "and the search space are our reconstruction. No number is claimed.",
    ),
    Paper(
        slug="spatten",
        title="SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head Pruning",
        arxiv="2012.09852",
        venue="HPCA 2021",
        module="tokernel.reduce.spatten",
        official_repo="mit-han-lab/spatten",
        licence="MIT",
        verified_against="paper",
        status="complete",
        notes="The cascades for BERT and GPT-2 are from the paper: the repository holds the hardware, its traces and a "
        "later KV-cache pruning. The cache pruning and the trace counts reproduce the repository's outputs, the "
        "per-layer rule those of kssteven418/LTP. Our reconstruction: the default slope of the schedule, normalised "
        "scores, what a pruned token shows in the output, and that the last token of a causal model stays. The patches "
        "attend at full precision: progressive quantisation is an op of its own.",
    ),
    Paper(
        slug="divprune",
        title="DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models",
        arxiv="2503.02175",
        venue="CVPR 2025",
        module="tokernel.reduce.divprune",
        official_repo="vbdi/divprune",
        licence="CC-BY-NC-4.0",
        verified_against="repo",
        status="complete",
        notes="No token is chosen twice and a zero row is at distance 1 from all, where the official code repeats "
        "tokens or gives NaN. Its cost model is kept as published, with two matrices for the three of LLaMA's MLP.",
    ),
    Paper(
        slug="todre",
        title="ToDRE: Visual Token Pruning via Diversity and Task Awareness for Efficient Large Vision-Language Models",
        arxiv="2505.18757",
        venue="arXiv",
        module="tokernel.reduce.todre",
        official_repo=None,
        licence="no code released",
        verified_against="paper",
        status="complete",
        notes="Formulas of version 2 of the paper; no number of its tables is claimed. The probed layer's index, "
        "rounding, ties, the pivot without a class token, and objective='min' for version 1 are our reconstruction.",
    ),
)
