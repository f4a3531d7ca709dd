# SPDX-License-Identifier: Apache-2.0
"""What becomes of a key-value cache when some nodes of a tree are accepted."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["compact_cache"]


def compact_cache(
    cache: Array, lengths: Array, path: Array, pages: Array | None = None, *, out: Array | None = None
) -> Array:
    """Move the cache rows of an accepted path behind the prefix, in place, and return the new lengths.

    Sequence b holds ``lengths[b]`` rows, then a row for every node of its tree. With ``n`` nodes on ``path[b]``, row
    ``lengths[b] + path[b, t]`` moves to ``lengths[b] + t`` for ``t < n``, as if all were read before any is written,
    and the new length is ``lengths[b] + n``. Rows are copied bit for bit, NaN or not; what is behind the new length is
    left as it is.

    Args:
        cache: (B, G, S, D) or, for all layers at once, (L, B, G, S, D) float32, float16 or bfloat16; any outer strides,
            but no two elements in one place. Changed. Call once for keys and once for values.
        lengths: (B) int64 or int32, rows before the root's.
        path: (B, A) int64 or int32: the accepted nodes in ascending order, root first as verification gives them, then
            -1. A row of nothing but -1 moves nothing.
        pages: (B, M) int64 or int32 for a paged cache, (P, G, R, D) or (L, P, G, R, D): row j of sequence b is row
            ``j % R`` of page ``pages[b, j // R]``. Only pages that hold named rows are looked at. Pages that are
            written must be named once.
        out: (B) int64, filled instead of a new array.

    Returns:
        (B) int64: the new lengths.

    Raises:
        ValueError: a rank or extent does not fit, a length or a node is outside the cache, a path does not rise or
            continues behind -1, a page is out of range or shared where rows are moved, or the cache cannot be written.
            Nothing has moved then. On a CUDA device values are not checked: what lies outside the cache is left out.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> cache = np.arange(5, dtype=np.float32).reshape(1, 1, 5, 1)
    >>> compact_cache(cache, np.array([1]), np.array([[0, 2, 3, -1]]))
    array([4])
    >>> cache.ravel()
    array([0., 1., 3., 4., 4.], dtype=float32)

    The step after verification in SpecInfer (arXiv 2305.09781), Medusa, EAGLE and Token Recycling.
    """
    return extension_of("compact_cache", "cache", cache).compact_cache(cache, lengths, path, pages, out)
