# SPDX-License-Identifier: Apache-2.0
"""Rows in the order of their clusters, and back."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["inverse_permute_rows", "permute_rows", "sort_by_label"]


def sort_by_label(labels: Array, K: int, *, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """List the tokens of every row by ascending label: a stable counting sort.

    Tokens of one label stay in ascending order; those of label k are ``perm[b, offsets[b, k] : offsets[b, k + 1]]``.

    Args:
        labels: (B, N) int64 or int32, every value in [0, K).
        K: number of labels.
        out: arrays (perm, offsets) to fill instead of new ones.

    Returns:
        perm (B, N) int64, a permutation of [0, N) in every row, and offsets (B, K + 1) int64, from 0 to N; a label
        without tokens has two equal offsets.

    Raises:
        ValueError: a rank does not fit, K is negative, or a label is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> sort_by_label(np.array([[2, 0, 2, 0]]), 3)
    (array([[1, 3, 0, 2]]), array([[0, 2, 2, 4]]))

    The sorting step of Sparse VideoGen2 (arXiv 2505.18875, semantic-aware permutation).
    """
    perm, offsets = out or (None, None)
    return extension_of("sort_by_label", "labels", labels).sort_by_label(labels, K, perm, offsets)  # type: ignore[no-any-return]


def permute_rows(x: Array, perm: Array, *, out: Array | None = None) -> Array:
    """Put rows in the order of a permutation: ``out[b, n] = x[b, perm[b, n]]``, bit for bit.

    Undone by :func:`inverse_permute_rows` with the same `perm`, which is also its gradient. Outer strides of x are
    free: a (B, N, H, C) array transposed to (B, H, N, C) is read in place.

    Args:
        x: (B, N, C) or (B, H, N, C) float32, float16 or bfloat16.
        perm: (B, N) or (B, H, N) int64 or int32, a permutation of [0, N) in every row. Checked, except on a CUDA
            device: there an index out of range gives a row of zeros.
        out: array of the shape and dtype of x to fill instead of a new one.

    Returns:
        Array of the shape and dtype of x.

    Raises:
        ValueError: a rank or extent does not fit, or a row of perm is no permutation.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> x = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    >>> permute_rows(x, np.array([[2, 0, 1]]))[0]
    array([[4., 5.],
           [0., 1.],
           [2., 3.]], dtype=float32)

    Sparse VideoGen2 (arXiv 2505.18875, semantic-aware permutation).
    """
    return extension_of("permute_rows", "x", x).permute_rows(x, perm, out)


def inverse_permute_rows(y: Array, perm: Array, *, out: Array | None = None) -> Array:
    """Put permuted rows back: ``out[b, perm[b, n]] = y[b, n]``, bit for bit.

    Undoes :func:`permute_rows` with the same `perm`, and is its gradient. Outer strides of y are free.

    Args:
        y: (B, N, C) or (B, H, N, C) float32, float16 or bfloat16.
        perm: (B, N) or (B, H, N) int64 or int32, a permutation of [0, N) in every row. Checked, except on a CUDA
            device: there an index out of range is passed over, rows that no index names hold whatever was in memory,
            and of several rows with one index any one stays.
        out: array of the shape and dtype of y to fill instead of a new one.

    Returns:
        Array of the shape and dtype of y.

    Raises:
        ValueError: a rank or extent does not fit, or a row of perm is no permutation.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> y = np.array([[[4.0], [0.0], [2.0]]], dtype=np.float32)
    >>> inverse_permute_rows(y, np.array([[2, 0, 1]]))[0, :, 0]
    array([0., 2., 4.], dtype=float32)

    Sparse VideoGen2 (arXiv 2505.18875, semantic-aware permutation).
    """
    return extension_of("inverse_permute_rows", "y", y).inverse_permute_rows(y, perm, out)
