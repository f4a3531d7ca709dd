# SPDX-License-Identifier: Apache-2.0
"""What a language model says next, without its logits."""

from __future__ import annotations

from typing import NamedTuple

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["HeadChoice", "head_argmax_prob"]


class HeadChoice(NamedTuple):
    """What :func:`head_argmax_prob` finds."""

    id: Array
    """(N) int64: the most probable token."""
    prob: Array
    """(N) float32: its probability."""


def head_argmax_prob(
    h: Array,
    W: Array,
    norm_weight: Array | None = None,
    eps: float = 1e-6,
    *,
    out: tuple[Array, Array] | None = None,
) -> HeadChoice:
    """Find the most probable token behind every hidden state, and its probability; logits are never written.

    With ``z = x W^T``: ``id = argmax_v z_v`` and ``prob = softmax(z)_id``. x is h or, with a norm_weight, its RMSNorm
    as the Llama of transformers computes it: ``h / sqrt(mean(h^2) + eps)`` in float32, rounded to the dtype of h, times
    norm_weight, rounded again. z is float32 and, unlike the output of a half precision layer, not rounded. Of equal z
    the lowest id wins, and equal rows of W have equal z. NaN comes after every number; a NaN or +inf among the z of a
    row, or nothing but -inf, makes its prob NaN.

    Args:
        h: (N, D) float32, float16 or bfloat16, any outer stride.
        W: (V, D) of the dtype of h, any outer stride, V at least 1: the weight of the head.
        norm_weight: (D) of the dtype of h, or None for no norm.
        eps: of the norm, in [0, 1].
        out: arrays for id and prob, filled instead of new ones.

    Returns:
        HeadChoice of id (N) int64 and prob (N) float32.

    Raises:
        ValueError: a rank or extent does not fit, W has no row, or eps is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> head_argmax_prob(np.array([[1, 0]], np.float32), np.array([[0, 1], [0, 7], [0, 3], [0, 0]], np.float32))
    HeadChoice(id=array([0]), prob=array([0.25], dtype=float32))

    The confidence by which DEL (Dynamic Exit Layer) chooses where to stop.
    """
    arrays = (None, None) if out is None else out
    module = extension_of("head_argmax_prob", "h", h)
    return HeadChoice(*module.head_argmax_prob(h, W, norm_weight, eps, *arrays))
