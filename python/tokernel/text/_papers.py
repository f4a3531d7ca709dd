# SPDX-License-Identifier: Apache-2.0
"""Records of the papers in this room."""

from tokernel.papers import Paper

PAPERS: tuple[Paper, ...] = (
    Paper(
        slug="kl3m",
        title="KL3M Tokenizers: A Family of Domain-Specific and Character-Level Tokenizers for Legal, Financial, and "
        "Preprocessing Applications",
        arxiv="2503.17247",
        venue="arXiv",
        module="tokernel.text.kl3m",
        official_repo="alea-institute/kl3m-tokenizers",
        licence="MIT",
        verified_against="repo",
        status="complete",
        notes="Training, the custom tokens, padding and encoding, held to runs of the official scripts. The words of "
        "the reporters-db tables, which those scripts fetch from the web, are a parameter. Random splits for training "
        "are our reconstruction: the official ones live in a private fork.",
    ),
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
    Paper(
        slug="dynamic_tokenization",
        title="Retrofitting Large Language Models with Dynamic Tokenization",
        arxiv="2411.18553",
        venue="ACL 2025",
        module="tokernel.text.dynamic_tokenization",
        official_repo="DariusFeher/dynamic-tokenization",
        licence="none found",
        verified_against="repo",
        status="partial",
        notes="Merging, all boundaries, cache, input hook and generation; the hypernetwork is a callable (zett's "
        "paper has one). Exact search instead of ScaNN. Left out: training of LoRA adapters. Text that spells a "
        "special token never becomes one. The growth of the large vocabulary breaks ties as the merges do [ours].",
    ),
    Paper(
        slug="exact_byte_probs",
        title="Exact Byte-Level Probabilities from Tokenized Language Models for FIM-Tasks and Model Ensembles",
        arxiv="2410.09303",
        venue="ICLR 2025",
        module="tokernel.text.exact_byte_probs",
        official_repo="facebookresearch/Exact-Byte-Level-Probabilities-from-Tokenized-LMs",
        licence="CC BY-NC 4.0",
        verified_against="repo",
        status="complete",
        notes="Written from the paper's lemma; the official code is not for commercial use. Byte-level BPE and "
        "SentencePiece BPE with byte fallback. Prompts without a space, empty ones and those that end inside a "
        "character work too; the official code refuses them. Bytes that are no UTF-8 are characters of no class for "
        "byte-level BPE: ours. The order of a fill-in-the-middle context (suffix first) is our reconstruction.",
    ),
)
