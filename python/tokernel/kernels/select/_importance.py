# SPDX-License-Identifier: Apache-2.0
"""How much attention a token has received, and how much a head has said, so far."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["accumulate_head_scores", "accumulate_importance"]


def accumulate_importance(
    prob: Array, score: Array | None = None, query_valid: Array | None = None, *, out: Array | None = None
) -> Array:
    """Add the attention that every key receives: ``out[b, j] = score[b, j] + sum over h, i of prob[b, h, i, j]``,
    over the live queries i.

    Where the rows of prob sum to one, the scores of a sample grow by heads * live queries in all. Sums are kept in
    float32 in an order that the shape decides: the same bits for any number of threads. A NaN spoils its column.

    Args:
        prob: (B, H, Q, K) float32, float16 or bfloat16, any outer strides.
        score: (B, K) float32, the importance so far; None for zeros.
        query_valid: (B, Q) bool, False for a dead query (padding), whose row is not read, whatever it holds.
        out: (B, K) float32 array to fill instead of a new one.

    Returns:
        (B, K) float32.

    Raises:
        ValueError: a rank or extent does not fit.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> prob = np.array([[[[0.25, 0.75], [1.0, 0.0]]]], np.float32)
    >>> accumulate_importance(prob)
    array([[1.25, 0.75]], dtype=float32)
    >>> accumulate_importance(prob, np.ones((1, 2), np.float32), np.array([[True, False]]))
    array([[1.25, 1.75]], dtype=float32)

    SpAtten's token importance (arXiv 2012.09852).
    """
    module = extension_of("accumulate_importance", "prob", prob)
    return module.accumulate_importance(prob, score, query_valid, out)


def accumulate_head_scores(
    e: Array, score: Array | None = None, query_valid: Array | None = None, *, out: Array | None = None
) -> Array:
    """Add the size of the output of every head: ``out[b, h] = score[b, h] + sum over i, d of |e[b, h, i, d]|``, over
    the live queries i.

    Sums are kept in float32 in an order that the shape decides: the same bits for any number of threads. A NaN spoils
    its head.

    Args:
        e: (B, H, Q, D) float32, float16 or bfloat16, any outer strides.
        score: (B, H) float32, the importance so far; None for zeros.
        query_valid: (B, Q) bool, False for a dead query (padding), whose row is not read, whatever it holds.
        out: (B, H) float32 array to fill instead of a new one.

    Returns:
        (B, H) float32.

    Raises:
        ValueError: a rank or extent does not fit.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> accumulate_head_scores(np.array([[[[1.0, -2.0]], [[0.5, 0.0]]]], np.float32))
    array([[3. , 0.5]], dtype=float32)

    SpAtten's head importance (arXiv 2012.09852).
    """
    module = extension_of("accumulate_head_scores", "e", e)
    return module.accumulate_head_scores(e, score, query_valid, out)
