# SPDX-License-Identifier: Apache-2.0
"""Family tree as torch ops: the head of a language model."""

from __future__ import annotations

import torch
from torch import Tensor

from tokernel.kernels import tree as kernels
from tokernel.kernels.tree import HeadChoice
from tokernel.ops._torch_op import define

__all__ = ["head_argmax_prob"]


def _kernel(h: Tensor, W: Tensor, norm_weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    choice = kernels.head_argmax_prob(h, W, norm_weight, eps)
    return choice.prob, choice.id


def _fake(h: Tensor, W: Tensor, norm_weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    rows = h.shape[:1]
    return h.new_empty(rows, dtype=torch.float32), h.new_empty(rows, dtype=torch.int64)


_head_argmax_prob = define(
    "head_argmax_prob(Tensor h, Tensor W, Tensor? norm_weight, float eps) -> (Tensor, Tensor)",
    _kernel,
    _fake,
    batched=False,
)


def head_argmax_prob(h: Tensor, W: Tensor, norm_weight: Tensor | None = None, eps: float = 1e-6) -> HeadChoice:
    """Find the most probable token behind every hidden state, and its probability; logits are never written. Torch form
    of :func:`tokernel.kernels.tree.head_argmax_prob`, which states rounding, ties and NaN. Without gradient.

    Args:
        h: (N, D) float32, float16 or bfloat16, any outer stride.
        W: (V, D) of the dtype of h: the weight of the head, e.g. ``model.lm_head.weight``.
        norm_weight: (D) of the dtype of h for an RMSNorm before the head, or None.
        eps: of the norm, in [0, 1].

    Returns:
        HeadChoice of id (N) int64 and prob (N) float32.

    >>> head_argmax_prob(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 7.0]]))
    HeadChoice(id=tensor([0]), prob=tensor([0.5000]))
    """
    prob, id = _head_argmax_prob(h, W, norm_weight, eps)
    return HeadChoice(id, prob)
