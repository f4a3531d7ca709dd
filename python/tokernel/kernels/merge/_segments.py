# SPDX-License-Identifier: Apache-2.0
"""Ops over segments: contiguous runs of tokens given by offsets, or any grouping given by labels."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["segment_broadcast", "segment_reduce"]


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
