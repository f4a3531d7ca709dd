# SPDX-License-Identifier: Apache-2.0
"""What every layer of a model would have said: its states through the model's own norm and head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tokernel import ops

__all__ = ["said", "shadow_tokens"]

CHUNK = 64  # rows whose logits are held at a time


def said(rows: Tensor, head: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The best item of every row of (N, D) under a head, and its probability."""
    found = [ops.row_stats(head(part)) for part in rows.split(CHUNK)]
    return torch.cat([stats.argmax for stats in found]), torch.cat([stats.p_argmax for stats in found])


def shadow_tokens(hidden: Tensor, norm_w: Tensor | None, eps: float, head_W: Tensor) -> tuple[Tensor, Tensor]:
    """The token that each layer would take in each column, and the probability it gives to it.

    Args:
        hidden: (C, T, D) states of C layers behind T tokens.
        norm_w: (D) weights of the RMSNorm before the head; None where the states are normalised already.
        eps: of the norm.
        head_W: (V, D) weights of the head.

    Returns:
        ids (C, T) int64, the lowest among equals, and prob (C, T) float32.

    >>> ids, prob = shadow_tokens(torch.eye(3)[None], None, 1e-6, 2 * torch.eye(3))
    >>> ids.tolist(), [round(p, 3) for p in prob[0].tolist()]
    ([[0, 1, 2]], [0.787, 0.787, 0.787])
    """
    rows = hidden.reshape(-1, hidden.shape[-1])
    if norm_w is not None:
        wide = rows.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        rows = norm_w * wide.to(rows.dtype)
    ids, prob = said(rows, lambda part: part @ head_W.T)
    return ids.view(hidden.shape[:-1]), prob.view(hidden.shape[:-1])
