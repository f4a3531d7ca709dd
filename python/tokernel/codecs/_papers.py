# SPDX-License-Identifier: Apache-2.0
"""Records of the papers in this room."""

from tokernel.papers import Paper

PAPERS = (
    Paper(
        slug="wetok",
        title="WeTok: Powerful Discrete Tokenization for High-Fidelity Visual Reconstruction",
        arxiv="2508.05599",
        venue="ICLR 2026",
        module="tokernel.codecs.wetok",
        official_repo="zhuangshaobin/WeTok",
        licence="Apache-2.0",
        verified_against="repo",
        status="complete",
        notes="The quantizer, its factorizations, the losses, and what the second stage adds to a decoder; the "
        "convolutional networks around them are not here. Groups share one histogram, as in the official code; "
        "pool_groups=False gives each its own. The entropy of a token is exact, from its bits.",
    ),
    Paper(
        slug="fqgan",
        title="Factorized Visual Tokenization and Generation",
        arxiv="2411.16681",
        venue="arXiv",
        module="tokernel.codecs.fqgan",
        official_repo="showlab/FQGAN",
        licence="CC BY-NC 4.0",
        verified_against="repo",
        status="complete",
        notes="Written from the paper's formulas; the official code is not for commercial use. Any number of branches. "
        "Adapters and representation heads are unverified: no outputs of them were at hand. The VQGAN around them is "
        "not here. Step 0 of the head erases its query and key, as in the official code.",
    ),
    Paper(
        slug="tokenflow",
        title="TokenFlow: Unified Image Tokenizer for Multimodal Understanding and Generation",
        arxiv="2412.03069",
        venue="CVPR 2025",
        module="tokernel.codecs.tokenflow",
        official_repo="ByteFlow-AI/TokenFlow",
        licence="Apache-2.0",
        verified_against="repo",
        status="partial",
        notes="Shared indices over any number of codebooks and weights, growing sizes, the inputs and the drawing of "
        "the next size. Left out: encoders and decoders, and the semantic codebook from k-means (off officially).",
    ),
    Paper(
        slug="tokenbridge",
        title="Bridging Continuous and Discrete Tokens for Autoregressive Visual Generation",
        arxiv="2503.16430",
        venue="arXiv",
        module="tokernel.codecs.tokenbridge",
        official_repo="YuqingWang1029/TokenBridge",
        licence="MIT",
        verified_against="repo",
        status="partial",
        notes="The quantizer after training and the head over channels. Left out: the masked transformer over "
        "positions (MAR's). More than 9 bits are refused: the official table is not monotone there. Training and "
        "sampling start the channels differently in the official code: first_token_with_timestep chooses.",
    ),
    Paper(
        slug="audio_tokens",
        title="Discrete Audio Tokens: More Than a Survey!",
        arxiv="2506.10274",
        venue="arXiv",
        module="tokernel.codecs.audio_tokens",
        official_repo="lucadellalib/audiocodecs",
        licence="Apache-2.0",
        verified_against="repo",
        status="complete",
        notes="A survey: every kind of quantizer that it names, held to EnCodec, DAC, SNAC and scikit-learn, its "
        "measures and EnCodec's bit stream. Cross-scale stacks are our reconstruction. No codec is trained, "
        "and no score repeated.",
    ),
)
