# SPDX-License-Identifier: Apache-2.0
"""Attention that knows how many patches a token stands for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["attention_received", "padding_bias", "proportional_attention", "size_bias"]

# A size is a count, at least 1; what else comes in (DiffRate scales by a cosine) stays a legal logarithm.
SMALLEST_SIZE = 1e-6


def size_bias(size: Tensor, dtype: torch.dtype) -> Tensor:
    """Bias of the attention logits of every key: log(size), (B, 1, 1, N), from sizes (B, N, 1)."""
    return size.float().clamp_min(SMALLEST_SIZE).log().to(dtype)[:, None, None, :, 0]


def padding_bias(valid: Tensor | None) -> Tensor | None:
    """Bias of the logits that hides padding from every query: (B, 1, N) float32 of 0 or -inf, from (B, N) bool."""
    if valid is None:
        return None
    return torch.zeros(valid.shape, device=valid.device).masked_fill(~valid, -torch.inf)[:, None]


def proportional_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    size: Tensor | None = None,
    *,
    valid: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attend with keys counted as often as the patches they stand for: softmax(scale q k^T + log size) v.

    ToMe section 3 (arXiv 2210.09461). The logarithm goes to torch's fused attention as an additive mask over keys.

    Args:
        q, k, v: (B, H, N, D) of one float dtype.
        size: (B, N, 1) or None for plain attention.
        valid: (B, N) bool, True where a key is a token and not padding; needs sizes, and one valid key a sample.
        scale: factor of the logits, 1/sqrt(D) if None.
        dropout: of the attention weights.

    Returns:
        (B, H, N, D).

    >>> q, k, v = torch.randn(3, 1, 2, 4, 8).unbind(0)
    >>> twice = [x[:, :, [0, 1, 2, 3, 3]] for x in (k, v)]
    >>> size = torch.tensor([1.0, 1, 1, 2]).view(1, 4, 1)
    >>> expected = functional.scaled_dot_product_attention(q, *twice)
    >>> torch.allclose(proportional_attention(q, k, v, size), expected, atol=1e-6)
    True
    """
    bias = None
    if size is not None:
        if size.shape != (k.shape[0], k.shape[2], 1):
            raise ValueError(
                f"proportional_attention: size expected shape {(k.shape[0], k.shape[2], 1)}; got {tuple(size.shape)}"
            )
        bias = size_bias(size, q.dtype)
        if valid is not None:
            bias = bias.masked_fill(~valid[:, None, None], -torch.inf)
    return functional.scaled_dot_product_attention(q, k, v, bias, dropout, scale=scale)


def attention_received(q: Tensor, k: Tensor, size: Tensor | None, scale: float, class_token: bool) -> Tensor:
    """How much attention each key gets, averaged over heads: (B, N) float32.

    With a class token only its row of the map is computed, (B, H, 1, N); otherwise the average over all queries, head
    by head.
    """
    bias = 0.0 if size is None else size_bias(size, torch.float32)

    def rows(first: int, last: int, queries: int) -> Tensor:
        logits = q[:, first:last, :queries] @ k[:, first:last].mT
        return torch.softmax(logits.float() * scale + bias, -1)

    heads, tokens = q.shape[1:3]
    if class_token:
        return rows(0, heads, 1).mean((1, 2))
    return torch.stack([rows(h, h + 1, tokens).mean((1, 2)) for h in range(heads)]).mean(0)
