# SPDX-License-Identifier: Apache-2.0
"""Virtual unmerging: attention over the full positions, computed from the unique tokens."""

from __future__ import annotations

from torch import Tensor

from tokernel.ops import Causal, Dense, gathered_rope_attention, rope_gather, rope_scatter, segment_reduce

__all__ = ["remerge_mean", "vtu_attention", "vtu_scores"]


def vtu_scores(
    q_un: Tensor, k_un: Tensor, cos: Tensor, sin: Tensor, mapping: Tensor, scale: float | None = None
) -> Tensor:
    """Attention logits between all N positions of a sequence with U unique tokens, before any mask.

    Section 3.2, equation of virtual unmerging: with C, S = cos, sin of position times frequency and pairs (d, d + D/2),
    ``scale * sum_d dot_d(m_i, m_j) (C_i C_j + S_i S_j) + cross_d(m_i, m_j) (C_i S_j - S_i C_j)`` where
    ``dot = q1 k1 + q2 k2`` and ``cross = q2 k1 - q1 k2``. That is the product of rotated rows, and so it is computed:
    the literal form stores (U, U, D/2).

    Args:
        q_un: (B, H, U, D) float32, float16 or bfloat16, before the rotary embedding.
        k_un: (B, G, U, D) of the dtype of q_un; H is a multiple of G.
        cos: (N, D) or (B, N, D) float32.
        sin: as cos.
        mapping: (N) or (B, N) int64 in [0, U): the unique token of each position.
        scale: None is ``D ** -0.5``.

    Returns:
        (B, H, N, N) of the dtype of q_un; for looking at them. :func:`vtu_attention` stores no such map.

    Raises:
        ValueError: a rank or extent does not fit, or an index is out of range.
        TypeError: not a tensor, or a dtype that is not listed.

    >>> import torch
    >>> x = torch.eye(2).reshape(1, 1, 2, 2)
    >>> vtu_scores(x, x, torch.ones(3, 2), torch.zeros(3, 2), torch.tensor([0, 0, 1]), scale=1.0)[0, 0]
    tensor([[1., 1., 0.],
            [1., 1., 0.],
            [0., 0., 1.]])
    """
    query = rope_gather(q_un, mapping, cos, sin)
    key = rope_gather(k_un, mapping, cos, sin)
    heads, groups = query.shape[1], key.shape[1]
    if groups == 0 or heads % groups:
        raise ValueError(f"vtu_scores: heads of k_un expected to divide {heads}; got {groups}")
    scores: Tensor = query @ key.repeat_interleave(heads // groups, 1).mT
    return scores * (query.shape[-1] ** -0.5 if scale is None else scale)


def vtu_attention(
    q_un: Tensor,
    k_un: Tensor,
    v_un: Tensor,
    cos: Tensor,
    sin: Tensor,
    mapping: Tensor,
    causal: bool = True,
    scale: float | None = None,
) -> Tensor:
    """Attend over all N positions and average the answers of each unique token's positions onto it.

    ``out[u] = mean over mapping[i] = u of sum_j softmax_j(scores[i])_j v_un[mapping[j]]``, with :func:`vtu_scores` and
    the causal mask over positions. The (N, N) map is not stored.

    Args:
        q_un, k_un, cos, sin, mapping, scale: as in :func:`vtu_scores`.
        v_un: (B, G, U, D) of the dtype of q_un.
        causal: position i sees positions j <= i; otherwise all.

    Returns:
        (B, H, U, D) of the dtype of q_un; zeros where no position holds a token. Differentiable in q, k and v.

    >>> import torch
    >>> x = torch.eye(2).reshape(1, 1, 2, 2)
    >>> vtu_attention(x, x, x, torch.ones(3, 2), torch.zeros(3, 2), torch.tensor([0, 0, 1]))[0, 0, 0]
    tensor([1., 0.])
    """
    policy = Causal() if causal else Dense()
    return gathered_rope_attention(q_un, k_un, v_un, mapping, cos, sin, policy, scale=scale)


def remerge_mean(x: Tensor, mapping: Tensor, n_un: int) -> Tensor:
    """Average rows of N positions onto their U unique tokens: ``out[u] = mean over mapping[i] = u of x[i]``.

    Args:
        x: (B, H, N, D) with D up to 256, or (B, N, C); float32, float16 or bfloat16, sums in float32.
        mapping: (N) or (B, N) int64 in [0, n_un).
        n_un: U.

    Returns:
        (B, H, U, D) or (B, U, C) of the dtype of x; zeros where no position holds a token. Differentiable in x.

    Raises:
        ValueError: a rank or extent does not fit, or an index is out of range.

    >>> import torch
    >>> remerge_mean(torch.tensor([[[2.0], [4.0], [6.0]]]), torch.tensor([0, 0, 1]), 2).flatten()
    tensor([3., 6.])
    """
    if x.dim() == 4:
        return rope_scatter(x, mapping, n_un, mean=True)
    if x.dim() != 3:
        raise ValueError(f"remerge_mean: x expected (B, H, N, D) or (B, N, C); got {tuple(x.shape)}")
    ids = mapping.expand(len(x), -1) if mapping.dim() == 1 else mapping
    out: Tensor = segment_reduce(x, ids=ids.contiguous(), segments=n_un, mode="mean")
    return out
