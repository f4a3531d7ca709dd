# SPDX-License-Identifier: Apache-2.0
"""Zero-TPrune's importance of tokens (arXiv 2305.17328): a PageRank of the attention graph, head by head, then one."""

from __future__ import annotations

import torch
from torch import Tensor

from tokernel.ops import power_iterate

__all__ = ["V_MAX", "V_MIN", "aggregate_heads", "weighted_pagerank"]

V_MIN, V_MAX = 0.01, 0.7


def weighted_pagerank(
    attn: Tensor, iters: int, init: Tensor | None = None, cls_boost: bool = True, eps: float | None = None
) -> Tensor:
    """Let tokens vote for each other along the attention map: s <- A^T s, that is ``s_j = sum_i A[i, j] s_i``.

    Rows that sum to 1 conserve the sum of s. One printed formula of the paper has A s and a factor 1/N: only A^T s
    conserves mass. Recommended iterations: 30 to 50 in the first three layers, 5 to 10 in the middle, 1 in the last
    three. A map close to the identity converges slowly, so a fixed number of iterations defines the result, not `eps`.

    Args:
        attn: (B, H, N, N), (H, N, N) or (N, N) float32, float16 or bfloat16: attention after softmax and before
            dropout, a query a row. Padded tokens must be cut out of it beforehand.
        iters: at least 0; 0 returns the start.
        init: start, float, broadcastable to (..., N), used as it is; None for 1/N each, token 0 boosted.
        cls_boost: whether token 0, the class token, starts with sqrt(N) times what another has. The sum is then made
            1 [ours]. False is the paper's Zero-TPrune-uni. No effect with `init`.
        eps: a head stops by itself once no score moves by more than this.

    Returns:
        (..., N) float32; no gradient. A NaN in the map spreads to every score of its head.

    Raises:
        ValueError: the map is not square, iters is negative, or init does not fit.

    >>> weighted_pagerank(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), iters=60, cls_boost=False)
    tensor([0.6667, 0.3333])
    """
    if attn.ndim < 2 or attn.shape[-1] != attn.shape[-2]:
        raise ValueError(
            f"weighted_pagerank: attn expected (..., N, N), the map of self-attention; got {tuple(attn.shape)}"
        )
    if init is None:
        s0 = _start(attn, cls_boost)
    else:
        try:
            s0 = init.detach().float().expand(attn.shape[:-1]).contiguous()
        except RuntimeError:
            raise ValueError(
                f"weighted_pagerank: init expected a shape that broadcasts to {tuple(attn.shape[:-1])}; "
                f"got {tuple(init.shape)}"
            ) from None
    score: Tensor = power_iterate(attn.detach(), s0, iters=iters, eps=eps)
    return score


def _start(attn: Tensor, cls_boost: bool) -> Tensor:
    tokens = attn.shape[-1]
    start = torch.ones(tokens, device=attn.device)
    if cls_boost:
        start[:1] = tokens**0.5
    return (start / start.sum()).expand(attn.shape[:-1]).contiguous()


def aggregate_heads(s: Tensor, vmin: float = V_MIN, vmax: float = V_MAX) -> tuple[Tensor, Tensor]:
    """Filter heads by the variance of their scores and take the root mean square of the rest.

    ``importance_i = sqrt(sum of s[h, i]^2 over kept h / number of kept h)``. A head is kept if
    ``vmin <= var(N s_h) <= vmax``: population variance over tokens of the scores at mean 1 [ours: that of raw scores
    is below 1e-5 at N = 197, so the paper's thresholds cannot mean them; they are divided by their mean, which is N s
    where they sum to 1]. Where no head of a sample passes, all are kept [ours].

    Args:
        s: (B, H, N) float32 scores, at least 0, of :func:`weighted_pagerank`.
        vmin, vmax: bounds, both included. 0 and infinity switch the filter off.

    Returns:
        importance (B, N) float32, and the heads kept, (B, H) bool. The scores of a dropped head, NaN or not, have no
        influence.

    Raises:
        ValueError: s is not (B, H, N) with at least one head, or vmin exceeds vmax.

    >>> s = torch.tensor([[[0.25, 0.25, 0.25, 0.25], [0.1, 0.4, 0.2, 0.3]]])  # a uniform head tells nothing
    >>> aggregate_heads(s)
    (tensor([[0.1000, 0.4000, 0.2000, 0.3000]]), tensor([[False,  True]]))
    """
    if s.ndim != 3 or s.shape[1] == 0:
        raise ValueError(f"aggregate_heads: s expected (B, H, N) with H > 0; got {tuple(s.shape)}")
    if not vmin <= vmax:
        raise ValueError(f"aggregate_heads: vmin expected at most vmax; got {vmin} and {vmax}")
    s = s.detach().float()
    mean = s.mean(-1, keepdim=True)
    scaled = torch.where(mean > 0, s / mean, s)
    variance = (scaled - scaled.mean(-1, keepdim=True)).square().mean(-1)
    passed = (variance >= vmin) & (variance <= vmax)
    kept = passed | ~passed.any(-1, keepdim=True)
    squares = torch.where(kept[..., None], s.square(), 0.0)
    return (squares.sum(1) / kept.sum(1, keepdim=True)).sqrt(), kept
