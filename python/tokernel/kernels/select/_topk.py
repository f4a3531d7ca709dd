# SPDX-License-Identifier: Apache-2.0
"""The best k items of every row."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["topk", "topk_mask"]


def topk(
    score: Array,
    k: int,
    sorted: bool = True,
    mask: Array | None = None,
    *,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Find the k largest scores of every row: ``value[..., i] = score[..., index[..., i]]``, bit for bit.

    The largest comes first, and of equals (-0 equals +0) the one of the lowest index. NaN is below every number, -inf
    included, and a masked item is below NaN; both are chosen, by ascending index, only where fewer than k others are
    left. The same answer on every backend and for any number of threads.

    Args:
        score: (..., N) float32, float16 or bfloat16 of up to three outer dimensions, any outer strides; N below 2^31.
        k: in [0, N].
        sorted: whether the best comes first; False lists the chosen items by ascending index, so that tokens keep
            their order.
        mask: (..., N) bool, True where an item may be chosen.
        out: arrays (value, index) to fill instead of new ones.

    Returns:
        value (..., k) of the dtype of score, -inf for a masked item, and index (..., k) int64.

    Raises:
        ValueError: a rank or extent does not fit, or k is not in [0, N].
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> score = np.array([1.0, 3.0, 2.0, 3.0], np.float32)
    >>> topk(score, 3)
    (array([3., 3., 2.], dtype=float32), array([1, 3, 2]))
    >>> topk(score, 3, sorted=False, mask=np.array([True, False, True, True]))
    (array([1., 2., 3.], dtype=float32), array([0, 2, 3]))

    The common step of the pruning papers: SpAtten's token and head pruning (arXiv 2012.09852) among them.
    """
    value, index = out or (None, None)
    return extension_of("topk", "score", score).topk(score, k, sorted, mask, value, index)  # type: ignore[no-any-return]


def topk_mask(score: Array, k: int, mask: Array | None = None, *, out: Array | None = None) -> Array:
    """Mark the items that :func:`topk` chooses: ``out[..., n]`` is True where n is among ``index[..., :]``.

    Exactly k items of every row are marked; ties, NaN and masked items as in :func:`topk`.

    Args:
        score: (..., N) float32, float16 or bfloat16 of up to three outer dimensions, any outer strides; N below 2^31.
        k: in [0, N].
        mask: (..., N) bool, True where an item may be chosen.
        out: (..., N) bool array to fill instead of a new one.

    Returns:
        (..., N) bool.

    Raises:
        ValueError: a rank or extent does not fit, or k is not in [0, N].
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> topk_mask(np.array([1.0, 3.0, 2.0, 3.0], np.float32), 2)
    array([False,  True, False,  True])

    The common step of the pruning papers: SpAtten's token and head pruning (arXiv 2012.09852) among them.
    """
    return extension_of("topk_mask", "score", score).topk_mask(score, k, mask, out)
