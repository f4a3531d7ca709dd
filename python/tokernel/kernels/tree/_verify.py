# SPDX-License-Identifier: Apache-2.0
"""Which draft tokens a target keeps."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from tokernel.kernels._arrays import Array, extension_of, fetch, place
from tokernel.kernels.tree._parents import Trees, parents_of

__all__ = ["Chain", "Rule", "Verified", "residual_sample", "verify_chain", "verify_greedy", "verify_stochastic"]

Rule: TypeAlias = Literal["sequoia", "specinfer", "eagle", "target_only", "typical"]
"""How :func:`verify_stochastic` tests the children of a node."""


class Verified(NamedTuple):
    """What is kept of a tree of draft tokens. Per step a sequence grows by the tokens of ``path[1:]`` and the bonus."""

    path: Array
    """(B, T) int64: the kept nodes from node 0 on, each the parent of the next; then -1."""
    accepted: Array
    """(B) int64: how many draft tokens are kept: the nodes of the path without node 0."""
    bonus: Array
    """(B) int64: the token behind the last node of the path."""


def verify_greedy(
    tokens: Array, target: Array, tree: Trees, *, out: tuple[Array, Array, Array] | None = None
) -> Verified:
    """Follow the target's own choices down a tree of draft tokens, as far as the draft foresaw them.

    From node 0 on, the first child (the one of the smallest number) whose token equals ``target`` at this node is the
    next node; where none does, ``target`` at this node is the bonus. The tokens that come out are those of plain greedy
    decoding, one by one.

    Args:
        tokens: (B, T) int64 or int32: the draft tokens of the nodes; that of node 0, which is committed, is not read.
        target: (B, T) int64 or int32: the target's choice behind each node, the argmax of its logits.
        tree: a TokenTree, a list of one per sequence, or parents (T) or (B, T) as
            :class:`~tokernel.kernels.tree.TokenTree` has them, -1 behind the last node.
        out: arrays (path, accepted, bonus) to fill instead of new ones.

    Returns:
        Verified of path (B, T), accepted (B) and bonus (B), all int64. Without B in tokens there is none in the result.

    Raises:
        ValueError: a rank or extent does not fit, or parents are not those of trees (a parent that does not come before
            its node, padding before a node, no node, more than 4096).
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> from tokernel.kernels.tree import TokenTree
    >>> tokens, target = np.array([9, 4, 5, 6]), np.array([5, 0, 6, 7])
    >>> verify_greedy(tokens, target, TokenTree([-1, 0, 0, 2]))
    Verified(path=array([ 0,  2,  3, -1]), accepted=array(2), bonus=array(7))

    Verification at temperature 0 of SpecInfer (arXiv 2305.09781), Medusa (2401.10774) and EAGLE-2 (2406.16858).
    """
    module = extension_of("verify_greedy", "tokens", tokens)
    return Verified(
        *module.verify_greedy(tokens, target, parents_of("verify_greedy", tree, tokens), *(out or (None,) * 3))
    )


def verify_stochastic(
    tokens: Array,
    target_p: Array,
    draft_p: Array | None,
    uniforms: Array,
    tree: Trees,
    rule: Rule = "sequoia",
    threshold_single: float = 1.0,
    threshold_total: float = 1.0,
    epsilon: float = 0.09,
    alpha: float = 0.3,
) -> Verified:
    """Keep draft tokens of a tree by coins, so that the text that comes out is distributed as the target's own samples.

    The walk begins at node 0. At a node, p is its row of ``target_p`` and q its row of ``draft_p``; its children are
    tested in the order of their numbers, child c by its token x and the coin ``u = uniforms[b, c]``:

    - "sequoia" (children drawn from q without replacement): kept if ``p(x) > u q(x)``, else
      ``p <- norm(max(p - q, 0))`` and ``q(x) <- 0, q <- norm(q)``; once q has nothing left no child is tested any more.
    - "specinfer" (children drawn from q independently, tokens may repeat): kept if ``u q(x) <= p(x)``, else
      ``p <- norm(max(p - q, 0))``.
    - "eagle" (children chosen without chance, e.g. the k best): kept if ``u <= p(x)``, else
      ``p(x) <- 0, p <- norm(p)``.
    - "target_only" (the same without chance; one coin ``u = uniforms[b, i]`` of the visited node i): kept if
      ``u max(threshold_total, 1e-9)`` is at most the sum of p over this child and those tested before, or if
      ``p(x) >= threshold_single``; p of tested tokens is 0 for the bonus. Lossless with both thresholds at 1.
    - "typical" (not lossless): kept if ``p(x) > min(epsilon, alpha exp(-H))``, ``H = -sum p log(p + 1e-5)``. The
      longest path of kept nodes is taken; of equally long ones that of the largest sum of log p(x), then the one that
      ends at the lowest node.

    The first kept child is the next node; where none is kept, the bonus is drawn from p, as the tests left it, by the
    last coin ``uniforms[b, T]``: the first item whose running sum exceeds the coin's share of the whole. Where the
    norm would divide by 0, p stays what it was. A token to which p gives 0 is never kept by a coin [ours]. Temperature,
    top-p and the like are the caller's: they go into ``target_p``.

    Sums are counted in whole units of 2^-42, which have no order: every backend keeps the same nodes and draws the same
    bonus, bit for bit, for any number of threads. Only rows of visited nodes are read ("typical": of kept nodes). On
    the host each is checked: no NaN, nothing negative, and a sum of 1 within 1e-3; rounding of the items may add 2^-8
    for bfloat16 and 2^-10 + V 2^-24 for float16. On a device, where an error would need a synchronisation, ``accepted``
    of such a sequence is negative, and path and bonus are -1.

    Args:
        tokens: (B, T) int64 or int32 in [0, V), or -1 for a node without a token, which is passed over; the token of
            node 0, which is committed, is not read.
        target_p: (B, T, V) float32, float16 or bfloat16, any outer strides, V at most 2^20: the target's distribution
            behind each node.
        draft_p: (B, Q, V) of the dtype of target_p, any outer strides: the distribution the children of each node were
            drawn from; Q is T, or less where the last nodes have no children. None for the rules without q.
        uniforms: (B, T + 1) float32 in [0, 1), drawn anew for every call.
        tree: a TokenTree, a list of one per sequence, or parents (T) or (B, T) as
            :class:`~tokernel.kernels.tree.TokenTree` has them, -1 behind the last node.
        rule: see above.
        threshold_single, threshold_total: of "target_only", in [0, 1].
        epsilon, alpha: of "typical".

    Returns:
        Verified of path (B, T), accepted (B) and bonus (B), all int64. Without B in tokens there is none anywhere.

    Raises:
        ValueError: a rank or extent does not fit, parents are not those of trees, a token, coin or threshold is out of
            range, a row is no distribution, or draft_p is missing or not wanted.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> from tokernel.kernels.tree import TokenTree
    >>> p = np.array([[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]], np.float32)
    >>> coins = np.array([0, 0.5, 0.25, 0.75], np.float32)
    >>> verify_stochastic(np.array([0, 0, 1]), p, None, coins, TokenTree([-1, 0, 0]), "eagle")
    Verified(path=array([ 0,  2, -1]), accepted=array(1), bonus=array(1))

    SpecInfer (arXiv 2305.09781), Sequoia (2402.12374, also DySpec's rule, 2410.11744), EAGLE-2 (2406.16858), SGLang's
    kernel for tree speculation, and Medusa's typical acceptance (2401.10774).
    """
    module = extension_of("verify_stochastic", "tokens", tokens)
    parents = parents_of("verify_stochastic", tree, tokens)
    numbers = (threshold_single, threshold_total, epsilon, alpha)
    return Verified(*module.verify_stochastic(tokens, target_p, draft_p, uniforms, parents, rule, *numbers))


def residual_sample(p: Array, q: Array, u: Array) -> Array:
    """Draw from what is left of p where q has been: ``norm(max(p - q, 0))``, both normalised; where nothing is left,
    from p.

    The index is the smallest k with ``r_0 + ... + r_k > u (r_0 + ... + r_V-1)``. Sums and checks as in
    :func:`verify_stochastic`: the same index on every backend. On a device a row of p that is no distribution gives
    index -1, one of q -2.

    Args:
        p, q: (N, V) float32, float16 or bfloat16 (both of one dtype), any outer strides, V at most 2^20.
        u: (N) float32 in [0, 1).

    Returns:
        (N) int64.

    Raises:
        ValueError: a rank or extent does not fit, u is out of range, or a row is no distribution.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> p, q = np.array([[0.5, 0.5, 0.0]], np.float32), np.array([[0.75, 0.0, 0.25]], np.float32)
    >>> residual_sample(p, q, np.zeros(1, np.float32))
    array([1])

    The correction of speculative sampling (arXiv 2302.01318), by which a rejected token is replaced.
    """
    return extension_of("residual_sample", "p", p).residual_sample(p, q, u)


class Chain(NamedTuple):
    """What :func:`verify_chain` keeps of N draft tokens in a row."""

    tokens: Array
    """(B, N + 1) int64: the kept tokens, the token that the target adds, then -1."""
    accepted: Array
    """(B) int64: how many draft tokens are kept."""


def verify_chain(tokens: Array, target_p: Array, draft_p: Array, uniforms: Array) -> Chain:
    """Keep a beginning of N draft tokens in a row and add one of the target's: ordinary speculative sampling.

    Token j is kept while ``u q(x) <= p(x)`` with ``u = uniforms[b, j]``. The first that is not is replaced by a draw
    from ``norm(max(p - q, 0))``; behind the last of all, the target's own draw follows. Both draws are by
    ``uniforms[b, N]``. That is :func:`verify_stochastic` by rule "specinfer" on a chain, which states sums and checks.
    Waits for a device.

    Args:
        tokens: (B, N) int64 or int32 in [0, V): the draft tokens.
        target_p: (B, N + 1, V) float32, float16 or bfloat16: the target's distribution of token j; the last row of the
            token after all.
        draft_p: (B, N, V) of the same dtype: the distribution token j was drawn from.
        uniforms: (B, N + 1) float32 in [0, 1).

    Returns:
        Chain of tokens (B, N + 1) and accepted (B).

    Raises:
        ValueError: as verify_stochastic.
        TypeError: as verify_stochastic.

    >>> import numpy as np
    >>> p = np.array([[[0.5, 0.5], [0.5, 0.5]]], np.float32)
    >>> verify_chain(np.array([[1]]), p, p[:, :1], np.array([[0.9, 0.25]], np.float32))
    Chain(tokens=array([[1, 0]]), accepted=array([1]))

    Speculative sampling (arXiv 2211.17192, 2302.01318), with the outputs of FlashInfer's chain_speculative_sampling.
    """
    drafted, coins = fetch(tokens), fetch(uniforms)
    if drafted.ndim != 2 or coins.ndim != 2:
        raise ValueError(
            f"verify_chain: tokens and uniforms must be (B, N) and (B, N + 1), got {drafted.shape} and {coins.shape}"
        )
    nodes = np.pad(drafted, ((0, 0), (1, 0)))  # node 0 is the last committed token, which is not read
    nodes_coins = np.pad(coins, ((0, 0), (1, 0)))
    chain = np.arange(nodes.shape[1]) - 1
    found = verify_stochastic(
        place(nodes, tokens), target_p, draft_p, place(nodes_coins, tokens), place(chain, tokens), "specinfer"
    )
    accepted, bonus = (fetch(x)[:, None] for x in found[1:])
    column = np.arange(nodes.shape[1])
    following = np.pad(drafted, ((0, 0), (0, 1)))
    kept = np.where(column < accepted, following, np.where(column == accepted, bonus, -1))
    return Chain(place(kept.astype(np.int64), tokens), found.accepted)
