# SPDX-License-Identifier: Apache-2.0
"""Attention over positions that share their tokens: rows picked by index, turned by where they go."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of
from tokernel.kernels.attention._attention import attention
from tokernel.kernels.attention._policy import Causal, Policy

__all__ = ["gathered_rope_attention", "rope_gather", "rope_scatter"]


def rope_gather(
    x: Array, index: Array, cos: Array | None = None, sin: Array | None = None, *, out: Array | None = None
) -> Array:
    """Pick rows and turn them by the rotary embedding of their new place: ``out[b, h, n] = R(n) x[b, h, index[n]]``.

    R(n) turns the pairs (d, d + D/2), as Llama and Qwen do: ``out[d] = x[d] cos[n, d] - x[d + D/2] sin[n, d]``,
    ``out[d + D/2] = x[d + D/2] cos[n, d + D/2] + x[d] sin[n, d + D/2]``. Arithmetic in float32, rounded once; without
    cos and sin a bit-exact copy.

    Args:
        x: (B, H, U, D) float32, float16 or bfloat16, D up to 256, even where rows are turned; any outer strides.
        index: (N) or (B, N) int64 or int32 in [0, U): which row each place takes.
        cos: (N, D) or (B, N, D) float32, or None for no turning.
        sin: as cos.
        out: (B, H, N, D) array of the dtype of x to fill instead of a new one.

    Returns:
        (B, H, N, D) of the dtype of x.

    Raises:
        ValueError: a rank or extent does not fit, an index is out of range, or only one of cos and sin is given.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    >>> rope_gather(x, np.array([1, 1, 0]))[0, 0]
    array([[2., 3.],
           [2., 3.],
           [0., 1.]], dtype=float32)
    """
    return extension_of("rope_gather", "x", x).rope_gather(x, index, cos, sin, out)


def rope_scatter(
    x: Array,
    index: Array,
    rows: int,
    cos: Array | None = None,
    sin: Array | None = None,
    *,
    mean: bool = False,
    out: Array | None = None,
) -> Array:
    """Bring rows back to where they were picked: ``out[b, h, u] = sum over index[n] = u of R(n)^T x[b, h, n]``.

    The adjoint of :func:`rope_gather`. Terms add up in ascending n, in float32; a row that no place names is zero.

    Args:
        x: (B, H, N, D) float32, float16 or bfloat16, D up to 256, even where rows are turned; any outer strides.
        index: (N) or (B, N) int64 or int32 in [0, rows).
        rows: U, the rows of the result.
        cos: (N, D) or (B, N, D) float32, or None for no turning.
        sin: as cos.
        mean: divide by the number of places that name the row.
        out: (B, H, U, D) array of the dtype of x to fill instead of a new one.

    Returns:
        (B, H, U, D) of the dtype of x.

    Raises:
        ValueError: a rank or extent does not fit, an index is out of range, or only one of cos and sin is given.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> x = np.arange(6, dtype=np.float32).reshape(1, 1, 3, 2)
    >>> rope_scatter(x, np.array([1, 1, 0]), 2, mean=True)[0, 0]
    array([[4., 5.],
           [1., 2.]], dtype=float32)
    """
    return extension_of("rope_scatter", "x", x).rope_scatter(x, index, rows, cos, sin, mean, out)


_CAUSAL = Causal()


def gathered_rope_attention(
    q: Array,
    k: Array,
    v: Array,
    index: Array,
    cos: Array | None = None,
    sin: Array | None = None,
    policy: Policy = _CAUSAL,
    *,
    scale: float | None = None,
    remerge: bool = True,
) -> Array:
    """Attend over N places that share U tokens: virtual unmerging.

    Place n holds token ``index[n]`` with the rotary embedding of n; attention runs over the N places as usual. With
    `remerge` the answers of the places of one token are averaged onto it. Neither the (N, N) map nor the (U, U, D/2)
    products of the literal form are stored; the N turned rows of q, k and v are.

    Args:
        q: (B, H, U, D) float32, float16 or bfloat16, before the rotary embedding.
        k: (B, G, U, D) of the dtype of q; H is a multiple of G.
        v: (B, G, U, D) of the dtype of q.
        index: (N) or (B, N) int64 or int32 in [0, U): the token of each place.
        cos: (N, D) or (B, N, D) float32; None attends without rotary embedding.
        sin: as cos.
        policy: who sees whom among the N places.
        scale: of the products; None is ``D ** -0.5``.
        remerge: average onto the U tokens; a token without a place gets zeros.

    Returns:
        (B, H, U, D) of the dtype of q, or (B, H, N, D) without remerge.

    Raises:
        ValueError: a rank or extent does not fit, or an index is out of range.
        TypeError: not an array, or a dtype that is not listed.

    Source: DyMU, arXiv 2504.17040, section 3.2.

    >>> import numpy as np
    >>> x = np.eye(2, dtype=np.float32).reshape(1, 1, 2, 2)
    >>> gathered_rope_attention(x, x, x, np.array([0, 0, 1]), remerge=False).shape
    (1, 1, 3, 2)
    """
    query = rope_gather(q, index, cos, sin)
    key = rope_gather(k, index, cos, sin)
    out = attention(query, key, rope_gather(v, index), policy, scale=scale)
    return rope_scatter(out, index, q.shape[2], mean=True) if remerge else out
