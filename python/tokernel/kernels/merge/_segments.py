# SPDX-License-Identifier: Apache-2.0
"""Ops over segments: contiguous runs of tokens given by offsets, or any grouping given by labels."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = [
    "segment_broadcast",
    "segment_reduce",
    "segment_reduce_backward",
    "segment_softmax",
    "segment_softmax_backward",
]


def segment_reduce(
    x: Array,
    *,
    offsets: Array | None = None,
    ids: Array | None = None,
    segments: int | None = None,
    mode: str = "mean",
    weight: Array | None = None,
    return_mass: bool = False,
    out: Array | None = None,
    mass: Array | None = None,
) -> Array:
    """Reduce every segment of tokens to one row: ``out[b, s] = sum(w[b, n] * x[b, n]) / sum(w[b, n])`` for "mean".

    "sum" leaves the division out, "amax" takes the largest value of each channel. Tokens add up in float32, in
    ascending order (in blocks of 2048), and the mass in float64: the same bits for any number of threads. An empty
    segment, and a mean over a mass of zero, gives zeros. NaN propagates.

    Args:
        x: (B, N, C) or (N, C) float32, float16 or bfloat16.
        offsets: (B, S + 1) or (S + 1) int64 or int32; segment s holds the tokens [offsets[s], offsets[s + 1]).
            Starts at 0, never decreases, ends at N.
        ids: (B, N) or (N) int64 or int32 instead of offsets: the segment of each token, -1 to drop it.
        segments: S, needed with ids.
        mode: "mean", "sum" or "amax".
        weight: (B, N) or (N) float32, 1 everywhere when None; not with "amax".
        return_mass: also return the sum of weights (without weight, the number of tokens) of each segment.
        out: (B, S, C) or (S, C) array of the dtype of x to fill instead of a new one.
        mass: (B, S) or (S) float32 array to fill instead of a new one; only with return_mass.

    Returns:
        (B, S, C) or (S, C) of the dtype of x, and with return_mass a (B, S) or (S) float32 array.

    Raises:
        ValueError: a rank or extent does not fit; offsets or ids are out of range; both or neither are given.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> x = np.array([[1.0], [3.0], [5.0]], dtype=np.float32)
    >>> segment_reduce(x, offsets=np.array([0, 2, 2, 3]))
    array([[2.],
           [0.],
           [5.]], dtype=float32)
    >>> segment_reduce(x, ids=np.array([1, -1, 1]), segments=2, mode="sum", return_mass=True)
    (array([[0.],
           [6.]], dtype=float32), array([0., 2.], dtype=float32))
    """
    extension = extension_of("segment_reduce", "x", x)
    return extension.segment_reduce(x, offsets, ids, segments, mode, weight, return_mass, out, mass)


def segment_broadcast(
    y: Array,
    *,
    offsets: Array | None = None,
    ids: Array | None = None,
    tokens: int | None = None,
    out: Array | None = None,
) -> Array:
    """Give every token the row of its segment: ``out[b, n] = y[b, ids[b, n]]``, bit for bit, zeros for id -1.

    Args:
        y: (B, S, C) or (S, C) float32, float16 or bfloat16.
        offsets: (B, S + 1) or (S + 1) int64 or int32; segment s holds the tokens [offsets[s], offsets[s + 1]).
        ids: (B, N) or (N) int64 or int32 in [-1, S) instead of offsets.
        tokens: N; only with offsets, whose end it is. Needed where they are on a device, which is not waited for.
        out: (B, N, C) or (N, C) array of the dtype of y to fill instead of a new one.

    Returns:
        (B, N, C) or (N, C) of the dtype of y.

    Raises:
        ValueError: a rank or extent does not fit; offsets or ids are out of range; both or neither are given.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> segment_broadcast(np.array([[1.0], [2.0]], dtype=np.float32), ids=np.array([1, -1, 0]))
    array([[2.],
           [0.],
           [1.]], dtype=float32)
    """
    return extension_of("segment_broadcast", "y", y).segment_broadcast(y, offsets, ids, tokens, out)


def segment_reduce_backward(
    grad: Array,
    x: Array | None = None,
    *,
    offsets: Array | None = None,
    ids: Array | None = None,
    tokens: int | None = None,
    mode: str = "mean",
    weight: Array | None = None,
    grad_mass: Array | None = None,
    weight_grad: bool = False,
) -> Array:
    """Give the gradients of :func:`segment_reduce` for the gradient of its output.

    With s the segment of token n, ``grad_x[n] = w[n] * grad[s]`` and ``grad_weight[n] = x[n] . grad[s]`` for "sum";
    both are divided by the mass of s for "mean", where x[n] is first centred on the output. For "amax" a channel's
    gradient goes to the first token that holds its maximum (the first NaN, if there is one).

    Args:
        grad: (B, S, C) or (S, C) float32, float16 or bfloat16.
        x: (B, N, C) or (N, C) of the dtype of grad; needed for "amax" and for weight_grad.
        offsets: as for :func:`segment_reduce`.
        ids: as for :func:`segment_reduce`.
        tokens: N; only with offsets, and needed where they are on a device.
        mode: "mean", "sum" or "amax".
        weight: (B, N) or (N) float32, 1 everywhere when None; not with "amax".
        grad_mass: (B, S) or (S) float32 gradient of the mass, which every weight of the segment takes over.
        weight_grad: also return the gradient of the weights.

    Returns:
        (B, N, C) or (N, C) of the dtype of grad, and with weight_grad a (B, N) or (N) float32 array.

    Raises:
        ValueError: a rank or extent does not fit; offsets or ids are out of range; x is missing.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> segment_reduce_backward(np.array([[6.0]], dtype=np.float32), ids=np.array([0, -1, 0]))
    array([[3.],
           [0.],
           [3.]], dtype=float32)
    """
    extension = extension_of("segment_reduce_backward", "grad", grad)
    return extension.segment_reduce_backward(grad, x, offsets, ids, tokens, mode, weight, grad_mass, weight_grad)


def segment_softmax(scores: Array, *, offsets: Array, out: Array | None = None) -> Array:
    """Take the softmax of every segment of a row of scores, in float32.

    A score of -inf gives 0 and a segment of nothing else gives zeros; NaN or +inf makes its segment NaN.

    Args:
        scores: (B, N) or (N) float32, float16 or bfloat16.
        offsets: (B, S + 1) or (S + 1) int64 or int32; segment s holds the tokens [offsets[s], offsets[s + 1]).
        out: array like scores to fill instead of a new one.

    Returns:
        (B, N) or (N) of the dtype of scores.

    Raises:
        ValueError: a rank or extent does not fit, or offsets are out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> segment_softmax(np.array([0.0, 0.0, 7.0], dtype=np.float32), offsets=np.array([0, 2, 3]))
    array([0.5, 0.5, 1. ], dtype=float32)
    """
    return extension_of("segment_softmax", "scores", scores).segment_softmax(scores, offsets, out)


def segment_softmax_backward(grad: Array, p: Array, *, offsets: Array, out: Array | None = None) -> Array:
    """Give the gradient of the scores of :func:`segment_softmax`: ``p * (grad - sum(p * grad))`` in every segment.

    Args:
        grad: (B, N) or (N) float32, float16 or bfloat16, the gradient of the output.
        p: the output of the forward pass, like grad.
        offsets: as for :func:`segment_softmax`.
        out: array like grad to fill instead of a new one.

    Returns:
        (B, N) or (N) of the dtype of grad.

    Raises:
        ValueError: a rank or extent does not fit, or offsets are out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> p = np.array([0.5, 0.5], dtype=np.float32)
    >>> segment_softmax_backward(np.array([1.0, 0.0], dtype=np.float32), p, offsets=np.array([0, 2]))
    array([ 0.25, -0.25], dtype=float32)
    """
    return extension_of("segment_softmax_backward", "grad", grad).segment_softmax_backward(grad, p, offsets, out)
