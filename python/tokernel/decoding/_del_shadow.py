# SPDX-License-Identifier: Apache-2.0
"""What every layer of a model would have said: its states through the model's own norm and head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokernel import ops

__all__ = ["said", "shadow_tokens"]

CHUNK = 64  # rows whose logits are held at a time, where they must be
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def said(rows: Tensor, head: Any) -> tuple[Tensor, Tensor]:
    """The best item of every row of (N, D) under the head of a model, and its probability."""
    plain = type(head) is nn.Linear and head.bias is None
    if plain and rows.dtype == head.weight.dtype and rows.dtype in _DTYPES:
        return ops.head_argmax_prob(rows, head.weight)
    parts = (head(part) for part in rows.split(CHUNK))
    found = [ops.row_stats(logits if logits.dtype in _DTYPES else logits.float()) for logits in parts]
    # Rows of NaN have no best item: any will do, it is the model that decides.
    return torch.cat([stats.argmax for stats in found]).clamp(min=0), torch.cat([stats.p_argmax for stats in found])


def shadow_tokens(hidden: Tensor, norm_w: Tensor | None, eps: float, head_W: Tensor) -> tuple[Tensor, Tensor]:
    """The token that each layer would take in each column, and the probability it gives to it; no logits are written.

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
    ids, prob = ops.head_argmax_prob(hidden.reshape(-1, hidden.shape[-1]), head_W, norm_w, eps)
    return ids.view(hidden.shape[:-1]), prob.view(hidden.shape[:-1])
