# SPDX-License-Identifier: Apache-2.0
"""Records of the papers in this room."""

from tokernel.papers import Paper

PAPERS = (
    Paper(
        slug="token_recycling",
        title="Turning Trash into Treasure: Accelerating Inference of Large Language Models with Token Recycling",
        arxiv="2408.08696",
        venue="ACL 2025",
        module="tokernel.decoding.token_recycling",
        official_repo="Luowaterbi/TokenRecycling",
        licence="none stated",
        verified_against="repo",
        status="complete",
        notes="Any k, where the official code is silently wrong for k other than 8; batches of rows that share the "
        "matrix; the last of equal tokens wins the update, which on a GPU the official code leaves open; exactly as "
        "many tokens as asked, where it overshoots. A temperature, which it ignores, is refused. Small templates and "
        "the choice of one by measuring are ours.",
    ),
    Paper(
        slug="dyspec",
        title="DySpec: Faster Speculative Decoding with Dynamic Token Tree Structure",
        arxiv="2410.11744",
        venue="arXiv",
        module="tokernel.decoding.dyspec",
        official_repo=None,
        licence="no code released",
        verified_against="paper",
        status="complete",
        notes="Checked against algorithms 1 to 3 drawn step by step, and by exact enumeration of what is emitted; the "
        "block counts of random trees are reproduced. No speed of the paper is claimed. Equal chances: earliest first.",
    ),
    Paper(
        slug="del_exit",
        title="DEL: Context-Aware Dynamic Exit Layer for Efficient Self-Speculative Decoding",
        arxiv="2504.05598",
        venue="COLM 2025",
        module="tokernel.decoding.del_exit",
        official_repo="hoenza/DEL",
        licence="none stated (built on facebookresearch/LayerSkip, CC-BY-NC-4.0)",
        verified_against="repo",
        status="complete",
        notes="The controller reproduces the official code's statistics and choices. An exit layer is looked up in the "
        "list of eligible ones, where that code adds the first of them, and no draft is longer than what is still "
        "wanted. With a temperature, that statistics compare the most likely tokens over the columns that stand is our "
        "reconstruction. No published speed-up is claimed: those are of LayerSkip checkpoints.",
    ),
    Paper(
        slug="skipdecode",
        title="SkipDecode: Autoregressive Skip Decoding with Batching and Caching for Efficient LLM Inference",
        arxiv="2307.02628",
        venue="arXiv",
        module="tokernel.decoding.skipdecode",
        official_repo=None,
        licence="no code released",
        verified_against="reconstruction",
        status="complete",
        notes="One depth per column, layers that only ever leave, warm-up and top layers are the paper's, by its "
        "abstract and reviews; the line of depths and its rounding, one warm-up layer, the prompt at k_max and the "
        "choice of a plan are our reconstruction. It changes the output: its claims hold only for models fine-tuned "
        "with the schedule. The paper's adaptation of CALM, a baseline, is left out. No number is claimed.",
    ),
)
