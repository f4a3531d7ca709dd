# SPDX-License-Identifier: Apache-2.0
"""Draws of tokens, the trees that a greedy search over draws grows, and which masked tokens a step fixes."""

from __future__ import annotations

from typing import NamedTuple

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["Expanded", "expand_greedy", "gumbel_argmax", "masked_transfer", "sample_without_replacement"]


class Expanded(NamedTuple):
    """The trees that :func:`expand_greedy` found; entries from ``count`` on are padding."""

    parents: Array
    """(B, M) int64: -1 for the root and for padding."""
    rank: Array
    """(B, M) int64: which draw of its parent a node is, 0 for the root, -1 for padding."""
    value: Array
    """(B, M) float32: the estimated probability that verification accepts the node; 1 for the root, 0 for padding."""
    count: Array
    """(B) int64: nodes of the tree, root included."""
    wanted: Array
    """(B, M) bool: nodes whose draws the search needs to go on."""


def expand_greedy(
    draw_p: Array,
    known: Array,
    budget: int | None = None,
    threshold: float | None = None,
    max_depth: int | None = None,
    *,
    out: tuple[Array, Array, Array, Array, Array] | None = None,
) -> Expanded:
    """Grow the tree of draft tokens that is most likely accepted, from a table of what draws at each node are worth.

    A pending draw has a value v: the product of ``draw_p`` over its ancestors and of ``1 - draw_p`` over its earlier
    siblings. The draw of rank r at node i, with ``p = draw_p[i, r]``, makes a node of value ``v * p`` and leaves two
    draws pending: the next one at i, of value ``v * (1 - p)``, and the first one at the new node, of value ``v * p``.
    Nodes are numbered as they are drawn; the root is node 0 and its first draw has value 1. Arithmetic is float32.

    With a budget, always the draw of the largest value comes next, the earliest pending among equals, until ``budget``
    nodes are drawn; the first such draw at a node that is not known stops the search, and that node is wanted. With a
    threshold, nodes draw level by level and in order while ``v >= threshold``, until M nodes exist; a level with nodes
    that are not known but would draw stops the search before any of its draws, and all of them are wanted. A threshold
    above 1 leaves the root alone.

    A node draws no more where p is 0 (its distribution has no mass left), after K draws (the table ends), and at depth
    ``max_depth``: the tree may then have fewer nodes than the budget, and nothing is wanted. To go on, fill the rows of
    the wanted nodes and call again: what was found stays as it was.

    Args:
        draw_p: (B, M, K) float32 in [0, 1]: the probability of each draw at each node given the draws before it, as
            :func:`sample_without_replacement` gives it. Rows of nodes that are not known are not read.
        known: (B, M) bool: nodes whose draws are in the table.
        budget: nodes to draw besides the root, less than M.
        threshold: the least value of a draw, at least 0. One of budget and threshold is given.
        max_depth: edges from the root to the deepest node; no limit by default.
        out: arrays to fill instead of new ones, in the order of the result.

    Returns:
        Expanded of parents, rank, value, count and wanted.

    Raises:
        ValueError: a rank or extent does not fit, M is outside [1, 4096] or not above the budget, both or none of
            budget and threshold are given, or a known row of draw_p is not in [0, 1].
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> draw_p = np.array([[[0.75, 1.0], [0.5, 1.0], [0.0, 0.0], [0.0, 0.0]]], np.float32)
    >>> tree = expand_greedy(draw_p, np.array([[True, True, False, False]]), budget=3)
    >>> tree.parents, tree.value, tree.count
    (array([[-1,  0,  1,  1]]), array([[1.   , 0.75 , 0.375, 0.375]], dtype=float32), array([4]))

    DySpec (arXiv 2410.11744), algorithms 1 and 2. Order among equals, ``max_depth`` and tables of K draws are ours.
    """
    arrays = (None,) * 5 if out is None else out
    module = extension_of("expand_greedy", "draw_p", draw_p)
    return Expanded(*module.expand_greedy(draw_p, known, budget, threshold, max_depth, *arrays))


def sample_without_replacement(
    q: Array, k: int, u: Array, *, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """Draw k different items from every row of probabilities, one after another, each from what the others left.

    The draws are the first k arrivals of a race in which item v arrives at ``-ln(u_v) / q_v``, the lowest index first
    among equals: one uniform number an item, and the order is that of the draws. ``prob_i = q[y_i] / (1 - sum_{j < i}
    q[y_j])`` is the probability of draw i given those before it; it is computed from the mass that is left, which does
    not cancel, and the draw that takes the last mass has 1. Times are float32 with the same bits on every backend, so
    that the indices are the same everywhere.

    Args:
        q: (N, V) float32, float16 or bfloat16, any outer stride: weights, which need not sum to 1. Items that are 0,
            negative, NaN or infinite are never drawn.
        k: in [0, V].
        u: (N, V) float32, any outer stride, uniform on [0, 1): 0 counts as 2^-126, and so does NaN; 1 arrives at once.
        out: arrays to fill instead of new ones, in the order of the result.

    Returns:
        index (N, k) int64 and prob (N, k) float32; -1 and 0 for draws after the last item with mass.

    Raises:
        ValueError: a rank or extent does not fit, or k is outside [0, V].
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> q = np.array([[0.5, 0.125, 0.0, 0.375]], np.float32)
    >>> sample_without_replacement(q, 4, np.full((1, 4), 0.5, np.float32))
    (array([[ 0,  3,  1, -1]]), array([[0.5 , 0.75, 1.  , 0.  ]], dtype=float32))

    How Sequoia (arXiv 2402.12374) and DySpec (2410.11744) draw siblings.
    """
    arrays = (None,) * 2 if out is None else out
    index, prob = extension_of("sample_without_replacement", "q", q).sample_without_replacement(q, k, u, *arrays)
    return index, prob


def gumbel_argmax(logits: Array, u: Array, temperature: float = 1.0, *, out: Array | None = None) -> Array:
    """Draw one item from the softmax of every row of logits, from one uniform number an item.

    ``index_n = argmax_v logits_nv / T - ln(-ln u_nv)``: the largest of Gumbel scores, whose law is the softmax at
    temperature T. Temperature 0 is the plain argmax, and u is not read. The softmax is never written; scores are
    float32 with the same bits on every backend. Of equal scores the lowest index wins; NaN comes after every number. An
    item of logit -inf is drawn only in a row without any other number.

    Args:
        logits: (N, V) float32, float16 or bfloat16, any outer stride, V at least 1.
        u: (N, V) float32, any outer stride, uniform on (0, 1): below 2^-126 it counts as 2^-126 (so that 0 is the least
            uniform), from 1 on as 1 - 2^-24.
        temperature: 0, or in [1e-6, 1e6].
        out: array to fill instead of a new one.

    Returns:
        (N) int64.

    Raises:
        ValueError: a rank or extent does not fit, or the temperature is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> gumbel_argmax(np.zeros((2, 3), np.float32), np.array([[0.2, 0.9, 0.5], [0.8, 0.1, 0.5]], np.float32))
    array([1, 0])

    How samplers of masked-diffusion language models (LLaDA, arXiv 2502.09992) draw their tokens.
    """
    return extension_of("gumbel_argmax", "logits", logits).gumbel_argmax(logits, u, temperature, out)


def masked_transfer(
    confidence: Array,
    mask: Array,
    count: Array | None = None,
    threshold: float | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """Mark the masked positions that a step of a masked-diffusion language model fixes.

    The masked positions of a row are ranked by confidence: the largest first, NaN after every number, the lowest
    position among equals. With counts, the first ``count`` of them are fixed; with a threshold, the first one and every
    other whose confidence is at least the threshold; with both, those that both allow. A row with a masked position and
    a count above 0 always fixes one. For a threshold of entropy, as in dParallel, pass the negative of both.

    Args:
        confidence: (B, L) float32, float16 or bfloat16, any outer stride; compared with the threshold as float32.
        mask: (B, L) bool: positions that are still masked; mark only those that may be fixed (of the current block).
        count: (B) int64 or int32, at least 0: positions to fix; more than are masked means all of them.
        threshold: any number; above every confidence, one position a row is fixed. One of count and threshold is given.
        out: array to fill instead of a new one.

    Returns:
        (B, L) bool.

    Raises:
        ValueError: a rank or extent does not fit, a count is negative, or neither count nor threshold is given.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> confidence = np.array([[0.9, 0.2, 0.7, 0.4]], np.float32)
    >>> masked_transfer(confidence, np.array([[False, True, True, True]]), threshold=0.3)
    array([[False, False,  True,  True]])

    LLaDA (arXiv 2502.09992) and Dream by count, Fast-dLLM (2505.22618) and dParallel (2509.26488) by threshold.
    """
    module = extension_of("masked_transfer", "confidence", confidence)
    return module.masked_transfer(confidence, mask, count, threshold, out)
