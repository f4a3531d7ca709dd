# SPDX-License-Identifier: Apache-2.0
"""Family tree as torch ops: how draft tokens are drawn and how their tree grows."""

from __future__ import annotations

import torch
from torch import Tensor

from tokernel.kernels import tree as kernels
from tokernel.kernels.tree import Expanded
from tokernel.ops._torch_op import define

__all__ = ["expand_greedy", "gumbel_argmax", "masked_transfer", "sample_without_replacement"]


def _value_first(
    draw_p: Tensor, known: Tensor, budget: int | None, threshold: float | None, max_depth: int | None
) -> tuple[Tensor, ...]:
    tree = kernels.expand_greedy(draw_p, known, budget, threshold, max_depth)
    return tree.value, tree.parents, tree.rank, tree.count, tree.wanted


def _expand_fake(
    draw_p: Tensor, known: Tensor, budget: int | None, threshold: float | None, max_depth: int | None
) -> tuple[Tensor, ...]:
    nodes = draw_p.shape[:2]
    parents, rank = (draw_p.new_empty(nodes, dtype=torch.int64) for _ in range(2))
    count = draw_p.new_empty(nodes[:1], dtype=torch.int64)
    return draw_p.new_empty(nodes), parents, rank, count, draw_p.new_empty(nodes, dtype=torch.bool)


def _prob_first(q: Tensor, k: int, u: Tensor) -> tuple[Tensor, Tensor]:
    index, prob = kernels.sample_without_replacement(q, k, u)
    return prob, index


def _sample_fake(q: Tensor, k: int, u: Tensor) -> tuple[Tensor, Tensor]:
    shape = (q.shape[0], k)
    return q.new_empty(shape, dtype=torch.float32), q.new_empty(shape, dtype=torch.int64)


_expand_greedy = define(
    "expand_greedy(Tensor draw_p, Tensor known, SymInt? budget, float? threshold, SymInt? max_depth)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _value_first,
    _expand_fake,
)
_gumbel_argmax = define(
    "gumbel_argmax(Tensor logits, Tensor u, float temperature) -> Tensor",
    kernels.gumbel_argmax,
    lambda logits, u, temperature: logits.new_empty(logits.shape[:1], dtype=torch.int64),
)
_masked_transfer = define(
    "masked_transfer(Tensor confidence, Tensor mask, Tensor? count, float? threshold) -> Tensor",
    kernels.masked_transfer,
    lambda confidence, mask, count, threshold: confidence.new_empty(confidence.shape, dtype=torch.bool),
)
_sample_without_replacement = define(
    "sample_without_replacement(Tensor q, SymInt k, Tensor u) -> (Tensor, Tensor)", _prob_first, _sample_fake
)


def expand_greedy(
    draw_p: Tensor,
    known: Tensor,
    budget: int | None = None,
    threshold: float | None = None,
    max_depth: int | None = None,
) -> Expanded:
    """Grow the tree of draft tokens that is most likely accepted, from a table of what draws at each node are worth.
    Torch form of :func:`tokernel.kernels.tree.expand_greedy`, which states the search; without gradient.

    Args:
        draw_p: (B, M, K) float32 in [0, 1]: the probability of each draw at each node given the draws before it.
        known: (B, M) bool: nodes whose draws are in the table.
        budget: nodes to draw besides the root, less than M.
        threshold: the least value of a draw, at least 0. One of budget and threshold is given.
        max_depth: edges from the root to the deepest node; no limit by default.

    Returns:
        Expanded of parents (B, M) int64, rank (B, M) int64, value (B, M), count (B) int64 and wanted (B, M) bool.

    >>> tree = expand_greedy(torch.tensor([[[0.5, 1.0], [0.0, 0.0]]]), torch.tensor([[True, False]]), budget=1)
    >>> tree.parents, tree.value
    (tensor([[-1,  0]]), tensor([[1.0000, 0.5000]]))
    """
    value, parents, rank, count, wanted = _expand_greedy(draw_p.detach(), known, budget, threshold, max_depth)
    return Expanded(parents, rank, value, count, wanted)


def sample_without_replacement(q: Tensor, k: int, u: Tensor) -> tuple[Tensor, Tensor]:
    """Draw k different items from every row of probabilities, one after another, each from what the others left. Torch
    form of :func:`tokernel.kernels.tree.sample_without_replacement`, which states the race; without gradient.

    Args:
        q: (N, V) float32, float16 or bfloat16, any outer stride: weights, which need not sum to 1.
        k: in [0, V].
        u: (N, V) float32, uniform on [0, 1), e.g. ``torch.rand``.

    Returns:
        index (N, k) int64 and prob (N, k) float32; -1 and 0 for draws after the last item with mass.

    >>> sample_without_replacement(torch.tensor([[0.25, 0.75]]), 2, torch.full((1, 2), 0.5))
    (tensor([[1, 0]]), tensor([[0.7500, 1.0000]]))
    """
    prob, index = _sample_without_replacement(q.detach(), k, u.detach())
    return index, prob


def gumbel_argmax(logits: Tensor, u: Tensor, temperature: float = 1.0) -> Tensor:
    """Draw one item from the softmax of every row of logits, from one uniform number an item. Torch form of
    :func:`tokernel.kernels.tree.gumbel_argmax`, which states ties, NaN and the ends of u; without gradient.

    Args:
        logits: (N, V) float32, float16 or bfloat16, any outer stride.
        u: (N, V) float32, uniform on (0, 1), e.g. ``torch.rand``.
        temperature: 0 (the plain argmax; u is not read), or in [1e-6, 1e6].

    Returns:
        (N) int64.

    >>> gumbel_argmax(torch.zeros(1, 3), torch.tensor([[0.2, 0.9, 0.5]]))
    tensor([1])
    """
    out: Tensor = _gumbel_argmax(logits.detach(), u.detach(), temperature)
    return out


def masked_transfer(
    confidence: Tensor, mask: Tensor, count: Tensor | None = None, threshold: float | None = None
) -> Tensor:
    """Mark the masked positions that a step of a masked-diffusion language model fixes. Torch form of
    :func:`tokernel.kernels.tree.masked_transfer`, which states the rules; without gradient.

    Args:
        confidence: (B, L) float32, float16 or bfloat16, any outer stride.
        mask: (B, L) bool: positions that are still masked and may be fixed.
        count: (B) int64 or int32: the most confident positions to fix.
        threshold: fix the most confident position and every other that reaches this.

    Returns:
        (B, L) bool.

    >>> masked_transfer(torch.tensor([[0.9, 0.2, 0.7]]), torch.tensor([[False, True, True]]), torch.tensor([1]))
    tensor([[False, False,  True]])
    """
    out: Tensor = _masked_transfer(confidence.detach(), mask, count, threshold)
    return out
