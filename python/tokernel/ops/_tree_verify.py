# SPDX-License-Identifier: Apache-2.0
"""Family tree as torch ops: which draft tokens a target keeps."""

from __future__ import annotations

import torch
from torch import Tensor

from tokernel.kernels import tree as kernels
from tokernel.kernels.tree import Chain, Rule, Verified
from tokernel.ops._torch_op import define
from tokernel.ops._tree_parents import Trees, parents_of

__all__ = ["residual_sample", "verify_chain", "verify_greedy", "verify_stochastic"]

_Walk = tuple[Tensor, Tensor, Tensor]


def _walk_like(tokens: Tensor) -> _Walk:
    path = tokens.new_empty(tokens.shape, dtype=torch.int64)
    accepted, bonus = (tokens.new_empty(tokens.shape[:-1], dtype=torch.int64) for _ in range(2))
    return path, accepted, bonus


_verify_greedy = define(
    "verify_greedy(Tensor tokens, Tensor target, Tensor parents) -> (Tensor, Tensor, Tensor)",
    lambda tokens, target, parents: tuple(kernels.verify_greedy(tokens, target, parents)),
    lambda tokens, target, parents: _walk_like(tokens),
    shared=(2,),
)
_verify_stochastic = define(
    "verify_stochastic(Tensor tokens, Tensor target_p, Tensor? draft_p, Tensor uniforms, Tensor parents, str rule, "
    "float threshold_single, float threshold_total, float epsilon, float alpha) -> (Tensor, Tensor, Tensor)",
    lambda *args: tuple(kernels.verify_stochastic(*args)),
    lambda tokens, *args: _walk_like(tokens),
    shared=(4,),
)
_residual_sample = define(
    "residual_sample(Tensor p, Tensor q, Tensor u) -> Tensor",
    kernels.residual_sample,
    lambda p, q, u: p.new_empty(p.shape[:1], dtype=torch.int64),
)


def verify_greedy(tokens: Tensor, target: Tensor, tree: Trees) -> Verified:
    """Follow the target's own choices down a tree of draft tokens, as far as the draft foresaw them. Torch form of
    :func:`tokernel.kernels.tree.verify_greedy`, without gradient.

    Args:
        tokens: (B, T) or (T) int64 or int32: the draft tokens of the nodes; that of node 0 is not read.
        target: of the shape of tokens, int64 or int32: the argmax of the target's logits behind each node.
        tree: a TokenTree, a list of one per sequence, or parents (T) or (B, T), -1 behind the last node.

    Returns:
        Verified of path (B, T) int64, the kept nodes and then -1; accepted (B) int64; and bonus (B) int64.

    >>> from tokernel.kernels.tree import TokenTree
    >>> tokens, target = torch.tensor([[9, 4, 5, 6]]), torch.tensor([[5, 0, 6, 7]])
    >>> verify_greedy(tokens, target, TokenTree([-1, 0, 0, 2])).path
    tensor([[ 0,  2,  3, -1]])
    """
    parents = parents_of("verify_greedy", tree, tokens)
    if tokens.dim() != 1:
        return Verified(*_verify_greedy(tokens, target, parents))
    return Verified(*(found[0] for found in _verify_greedy(tokens[None], target[None], parents)))


def verify_stochastic(
    tokens: Tensor,
    target_p: Tensor,
    draft_p: Tensor | None,
    uniforms: Tensor,
    tree: Trees,
    rule: Rule = "sequoia",
    threshold_single: float = 1.0,
    threshold_total: float = 1.0,
    epsilon: float = 0.09,
    alpha: float = 0.3,
) -> Verified:
    """Keep draft tokens of a tree by coins, so that the text that comes out is distributed as the target's own samples.
    Torch form of :func:`tokernel.kernels.tree.verify_stochastic`, which states the rules, the sums and the checks;
    without gradient.

    Args:
        tokens: (B, T) or (T) int64 or int32 in [0, V), or -1 for a node without a token; that of node 0 is not read.
        target_p: (B, T, V) float32, float16 or bfloat16: the target's distribution behind each node.
        draft_p: (B, Q, V), Q at most T: the distribution the children of each node were drawn from; None for the rules
            "eagle", "target_only" and "typical".
        uniforms: (B, T + 1) float32 in [0, 1), drawn anew for every call.
        tree: a TokenTree, a list of one per sequence, or parents (T) or (B, T), -1 behind the last node.
        rule: "sequoia", "specinfer", "eagle", "target_only" or "typical".
        threshold_single, threshold_total: of "target_only".
        epsilon, alpha: of "typical".

    Returns:
        Verified of path (B, T) int64, the kept nodes and then -1; accepted (B) int64; and bonus (B) int64.

    >>> from tokernel.kernels.tree import TokenTree
    >>> p = torch.tensor([[[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]]])
    >>> coins = torch.tensor([[0, 0.5, 0.25, 0.75]])
    >>> verify_stochastic(torch.tensor([[0, 0, 1]]), p, None, coins, TokenTree([-1, 0, 0]), "eagle").path
    tensor([[ 0,  2, -1]])
    """
    parents = parents_of("verify_stochastic", tree, tokens)
    numbers = (threshold_single, threshold_total, epsilon, alpha)
    p, q = target_p.detach(), None if draft_p is None else draft_p.detach()
    if tokens.dim() != 1:
        return Verified(*_verify_stochastic(tokens, p, q, uniforms, parents, rule, *numbers))
    q = None if q is None else q[None]
    found = _verify_stochastic(tokens[None], p[None], q, uniforms[None], parents, rule, *numbers)
    return Verified(*(x[0] for x in found))


def residual_sample(p: Tensor, q: Tensor, u: Tensor) -> Tensor:
    """Draw from what is left of p where q has been: ``norm(max(p - q, 0))``; where nothing is left, from p. Torch form
    of :func:`tokernel.kernels.tree.residual_sample`, without gradient.

    Args:
        p, q: (N, V) float32, float16 or bfloat16, rows that sum to 1.
        u: (N) float32 in [0, 1).

    Returns:
        (N) int64.

    >>> residual_sample(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.75, 0.0, 0.25]]), torch.zeros(1))
    tensor([1])
    """
    return _residual_sample(p.detach(), q.detach(), u)  # type: ignore[no-any-return]


def verify_chain(tokens: Tensor, target_p: Tensor, draft_p: Tensor, uniforms: Tensor) -> Chain:
    """Keep a beginning of N draft tokens in a row and add one of the target's: ordinary speculative sampling. Torch
    form of :func:`tokernel.kernels.tree.verify_chain`, without gradient; does not wait for a device.

    Args:
        tokens: (B, N) int64 or int32: the draft tokens.
        target_p: (B, N + 1, V) float32, float16 or bfloat16.
        draft_p: (B, N, V) of the same dtype: the distribution each draft token was drawn from.
        uniforms: (B, N + 1) float32 in [0, 1): a coin for every draft token, and one for the token that is added.

    Returns:
        Chain of tokens (B, N + 1) int64, the kept ones, the added one, then -1; and accepted (B) int64.

    >>> p = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]])
    >>> verify_chain(torch.tensor([[1]]), p, p[:, :1], torch.tensor([[0.9, 0.25]]))
    Chain(tokens=tensor([[1, 0]]), accepted=tensor([1]))
    """
    if tokens.dim() != 2 or uniforms.dim() != 2:
        raise ValueError(
            "verify_chain: tokens and uniforms must be (B, N) and (B, N + 1), "
            f"got {tuple(tokens.shape)} and {tuple(uniforms.shape)}"
        )
    drafted = tokens.long()
    nodes, coins = torch.nn.functional.pad(drafted, (1, 0)), torch.nn.functional.pad(uniforms, (1, 0))
    column = torch.arange(nodes.shape[1], device=tokens.device)
    _, accepted, bonus = verify_stochastic(nodes, target_p, draft_p, coins, column - 1, "specinfer")
    following = torch.nn.functional.pad(drafted, (0, 1))
    added = torch.where(column == accepted[:, None], bonus[:, None], -1)
    return Chain(torch.where(column < accepted[:, None], following, added), accepted)
