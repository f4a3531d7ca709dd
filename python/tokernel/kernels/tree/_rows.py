# SPDX-License-Identifier: Apache-2.0
"""What the softmax of a row of logits says, without writing the softmax."""

from __future__ import annotations

from typing import NamedTuple

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["RowStats", "row_stats", "row_stats_backward"]


class RowStats(NamedTuple):
    """What :func:`row_stats` finds; rows (...) are (N) or (B, N)."""

    lse: Array
    """(...) float32: the logarithm of the sum of exp(logits / temperature)."""
    entropy: Array
    """(...) float32, in nats."""
    best: Array
    """(..., 2) int64: the index of the largest logit, and of the next largest."""
    p_best: Array
    """(..., 2) float32: their probabilities."""
    p_ids: Array
    """(..., K) float32: the probabilities of the ids that were asked for; K = 0 without any."""

    @property
    def argmax(self) -> Array:
        """(...) int64: the index of the largest logit."""
        return self.best[..., 0]

    @property
    def p_argmax(self) -> Array:
        """(...) float32: the largest probability."""
        return self.p_best[..., 0]

    @property
    def margin(self) -> Array:
        """(...) float32: how much more probable the best is than the next."""
        return self.p_best[..., 0] - self.p_best[..., 1]


def row_stats(
    logits: Array,
    ids: Array | None = None,
    temperature: float = 1.0,
    *,
    out: tuple[Array, Array, Array, Array, Array] | None = None,
) -> RowStats:
    """Read every row of logits once for its two best items, their probabilities, log-sum-exp and entropy.

    With ``z = logits / temperature``: ``lse = log sum_j exp z_j``, ``p_j = exp(z_j - lse)``,
    ``entropy = -sum_j p_j log p_j`` with ``0 log 0 = 0``. Sums are float32. Of equal logits the lowest index is the
    better one; NaN comes after every number. A NaN or +inf makes lse, entropy and probabilities of its row NaN; in a
    row of nothing but -inf, lse is -inf and the others are NaN. Finite logits may be of any size; lse overflows to an
    infinity where float32 does. In a row of one item the next best is index -1 with probability 0.

    Args:
        logits: (N, V) or (B, N, V) float32, float16 or bfloat16, any outer strides, V at least 1.
        ids: (N, K) or (B, N, K) int64 or int32: items whose probability is wanted, e.g. the end-of-sequence token.
        temperature: divides the logits, in [1e-6, 1e6].
        out: arrays to fill instead of new ones, in the order of the result.

    Returns:
        RowStats of lse, entropy, best, p_best and p_ids.

    Raises:
        ValueError: a rank or extent does not fit, an id is outside [0, V), or the temperature is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> stats = row_stats(np.log(np.array([[0.5, 0.125, 0.375]], np.float32)))
    >>> stats.best, stats.p_best, stats.entropy.round(4)
    (array([[0, 2]]), array([[0.5  , 0.375]], dtype=float32), array([0.9743], dtype=float32))

    The pass over the vocabulary that AdaDec (arXiv 2506.08980), dParallel, Daedal, FreeCache and samplers of diffusion
    language models decide by.
    """
    arrays = (None,) * 5 if out is None else out
    return RowStats(*extension_of("row_stats", "logits", logits).row_stats(logits, ids, temperature, *arrays))


def row_stats_backward(
    logits: Array, lse: Array, level: Array, slope: Array, temperature: float = 1.0, *, out: Array | None = None
) -> Array:
    """Compute ``p_j (level - slope log p_j) / temperature`` with ``p = exp(logits / temperature - lse)``: the gradient
    of row_stats but for the items named by index.

    The gradient of lse is level 1, slope 0; that of the entropy is slope 1 and level ``-entropy``. lse is float32, so
    that p is as exact as ``|lse| * 2^-24`` is small.

    Args:
        logits: (N, V) or (B, N, V) float32, float16 or bfloat16, any outer strides.
        lse: (N) or (B, N) float32, as row_stats gives it for this temperature.
        level, slope: (N) or (B, N) float32.
        temperature: as given to row_stats.
        out: array to fill instead of a new one.

    Returns:
        (N, V) or (B, N, V) of the dtype of logits.

    Raises:
        ValueError: a rank or extent does not fit, or the temperature is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> logits = np.log(np.array([[0.5, 0.5]], np.float32))
    >>> row_stats_backward(logits, np.zeros(1, np.float32), np.ones(1, np.float32), np.zeros(1, np.float32))
    array([[0.5, 0.5]], dtype=float32)

    Certainty-forcing distillation trains on the entropy (dParallel).
    """
    module = extension_of("row_stats_backward", "logits", logits)
    return module.row_stats_backward(logits, lse, level, slope, temperature, out)
