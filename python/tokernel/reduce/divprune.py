# SPDX-License-Identifier: Apache-2.0
"""DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models (CVPR 2025, arXiv 2503.02175).

Of N visual tokens, keep the K whose smallest pairwise cosine distance is as large as possible: the max-min diversity
problem, solved greedily. First the token whose nearest neighbour is farthest, then again and again the one farthest
from all chosen. No training, no attention maps, no text. The kept tokens go on in their original order.

What the official code leaves open is decided here, [ours]: a token is never taken twice (the code repeats tokens once
all distances are 0), a zero row is at distance 1 from everything (there it is NaN), the nearest neighbour of a token
is another token even among exact duplicates, and distances of half-precision tokens are computed in float32.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokernel.ops import farthest_points
from tokernel.papers import paper
from tokernel.reduce._divprune_llava import DivPrunePatch, patch_llava
from tokernel.reduce._llm_flops import llm_flops, pruned_flops_ratio
from tokernel.reduce._visual_span import (
    PrunedInputs,
    check_features,
    check_k,
    check_ratio,
    keep_count,
    keep_rows,
    prune_inputs,
)

__all__ = [
    "PAPER",
    "DivPrune",
    "DivPrunePatch",
    "PrunedInputs",
    "divprune",
    "llm_flops",
    "max_min_select",
    "patch_llava",
    "prune_inputs",
    "pruned_flops_ratio",
]

PAPER = paper("divprune")


def max_min_select(
    x: Tensor, k: int, *, valid_mask: Tensor | None = None, sorted: bool = False, normalize: bool = True
) -> Tensor:
    """Choose k tokens far from each other, greedily by the largest smallest distance (algorithm 1 of the paper).

    ``order[0] = argmax_j min_{i != j} d(i, j)``, ``order[t] = argmax_j min_{s in order[:t]} d(s, j)``, with
    ``d(i, j) = 1 - x_i . x_j / (|x_i| |x_j|)``. The choice of k tokens is the beginning of that of k + 1. In angles
    the smallest distance is at least half of the best possible one.

    Args:
        x: (B, N, D) or (N, D) float32, float16 or bfloat16; all tokens of one image in one row, crops included.
        k: in [0, N].
        valid_mask: (B, N) or (N) bool; tokens marked False are nobody's neighbour and are chosen last, by index.
        sorted: list the chosen tokens by ascending index instead of in the order they were chosen.
        normalize: False measures Euclidean distance between the rows as they are; on rows of length 1 it is the same
            order. [ours]

    Returns:
        (B, k) or (k) int64, all different. Ties: the lowest index. A row with a NaN comes after all others that are
        valid.

    Raises:
        ValueError: a shape does not fit, or k is not in [0, N].
        TypeError: not a tensor, or a dtype that is not listed.

    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 2.0], [-1.0, 0.1]])
    >>> max_min_select(x, 3), max_min_select(x, 3, sorted=True)
    (tensor([3, 0, 2]), tensor([0, 2, 3]))
    """
    check_features("max_min_select", "x", x)
    k = keep_count("max_min_select", x.shape[-2], 1.0, k)
    order: Tensor = farthest_points(x, k, metric="cosine" if normalize else "l2", mode="maxmin", mask=valid_mask)
    return order.sort(-1).values if sorted else order


def divprune(
    x: Tensor, ratio: float = 0.098, *, k: int | None = None, valid_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Keep K of N visual tokens, in their order: :func:`max_min_select` and a gather.

    Args:
        x: (B, N, D) or (N, D) float32, float16 or bfloat16.
        ratio: share that is kept, in [0, 1]: K = round(ratio * N), halves to even. The paper's 0.098 keeps 56 of the
            576 tokens of LLaVA-1.5; it uses 0.1 for video.
        k: K itself, instead of a ratio.
        valid_mask: as in :func:`max_min_select`; the ratio counts all N tokens.

    Returns:
        (B, K, D) or (K, D) of the dtype of x, differentiable in x; and the kept indices (B, K) or (K) int64, ascending.

    Raises:
        ValueError, TypeError: as :func:`max_min_select`, or a ratio outside [0, 1].

    >>> import torch
    >>> kept, index = divprune(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 2.0], [-1.0, 0.1]]), 0.75)
    >>> index, kept.shape
    (tensor([0, 2, 3]), torch.Size([3, 2]))
    """
    check_features("divprune", "x", x)
    kept = keep_count("divprune", x.shape[-2], ratio, k)
    index = max_min_select(x, kept, valid_mask=valid_mask, sorted=True)
    return keep_rows(x, index), index


class DivPrune:
    """Prune what a multimodal projector puts out: a forward hook, or a function of its output.

    Whatever places the tokens in the prompt must then expect K of them. Where the prompt already holds N places, prune
    the prompt instead: :func:`prune_inputs`.

    Args:
        ratio, k: how many tokens are kept, as in :func:`divprune`.

    Attributes:
        keep_idx: (B, K) or (K) int64, the tokens kept by the last call; None before the first.

    >>> import torch
    >>> projector, prune = torch.nn.Linear(8, 16), DivPrune(k=5)
    >>> hook = projector.register_forward_hook(prune)
    >>> projector(torch.randn(2, 20, 8)).shape, prune.keep_idx.shape
    (torch.Size([2, 5, 16]), torch.Size([2, 5]))
    >>> hook.remove()
    """

    def __init__(self, ratio: float = 0.098, k: int | None = None) -> None:
        check_ratio("DivPrune", "ratio", ratio)
        if k is not None:
            check_k("DivPrune", k)
        self.ratio = ratio
        self.k = k
        self.keep_idx: Tensor | None = None

    def __call__(self, *args: Any) -> Tensor:
        """Prune the last argument: ``prune(x)``, or ``prune(module, inputs, output)`` as torch calls a hook."""
        kept, self.keep_idx = divprune(args[-1], self.ratio, k=self.k)
        return kept

    def __repr__(self) -> str:
        return f"DivPrune(ratio={self.ratio})" if self.k is None else f"DivPrune(k={self.k})"
