# SPDX-License-Identifier: Apache-2.0
"""Rows moved by index."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = [
    "gather_rows",
    "scatter_add_rows",
    "scatter_add_rows_backward",
    "scatter_rows",
    "scatter_rows_backward",
]


def gather_rows(x: Array, index: Array, *, out: Array | None = None) -> Array:
    """Pick rows: ``out[b, m] = x[b, index[b, m]]``, bit for bit.

    Args:
        x: (B, N, C) float32, float16 or bfloat16.
        index: (B, M) int64 or int32, every value in [0, N).
        out: (B, M, C) array of the dtype of x to fill instead of a new one.

    Returns:
        (B, M, C) array of the dtype of x.

    Raises:
        ValueError: a rank or extent does not fit, or an index is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> x = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    >>> gather_rows(x, np.array([[2, 0]]))
    array([[[4., 5.],
            [0., 1.]]], dtype=float32)
    """
    return extension_of("gather_rows", "x", x).gather_rows(x, index, out)


def scatter_rows(y: Array, index: Array, n: int, base: Array | None = None, *, out: Array | None = None) -> Array:
    """Place rows: ``out[b, index[b, m]] = y[b, m]``, bit for bit; every other row is that of `base`, or zero.

    Where several m name one row, the lowest m wins.

    Args:
        y: (B, M, C) float32, float16 or bfloat16.
        index: (B, M) int64 or int32, every value in [0, n).
        n: rows of the result.
        base: (B, n, C) of the dtype of y, or None for zeros.
        out: (B, n, C) array of the dtype of y to fill instead of a new one; not `base` itself.

    Returns:
        (B, n, C) array of the dtype of y.

    Raises:
        ValueError: a rank or extent does not fit, n is negative, or an index is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> y = np.array([[[1.0], [2.0]]], dtype=np.float32)
    >>> scatter_rows(y, np.array([[2, 0]]), 4)[0, :, 0]
    array([2., 0., 1., 0.], dtype=float32)
    """
    return extension_of("scatter_rows", "y", y).scatter_rows(y, index, n, base, out)


def scatter_rows_backward(grad: Array, index: Array, *, out: Array | None = None) -> Array:
    """Gradient of :func:`scatter_rows` for y: ``grad[b, index[b, m]]`` where m won its row, zero elsewhere.

    Args:
        grad: (B, N, C) float32, float16 or bfloat16.
        index: (B, M) int64 or int32, every value in [0, N).
        out: (B, M, C) array of the dtype of grad to fill instead of a new one.

    Returns:
        (B, M, C) array of the dtype of grad.

    Raises:
        ValueError: a rank or extent does not fit, or an index is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> grad = np.array([[[1.0], [2.0]]], dtype=np.float32)
    >>> scatter_rows_backward(grad, np.array([[1, 1]]))[0, :, 0]
    array([2., 0.], dtype=float32)
    """
    return extension_of("scatter_rows_backward", "grad", grad).scatter_rows_backward(grad, index, out)


def scatter_add_rows(y: Array, index: Array, n: int, weight: Array | None = None, *, out: Array | None = None) -> Array:
    """Add up rows: ``out[b, i] = sum of weight[b, m] * y[b, m]`` over the m with ``index[b, m] == i``.

    The sum runs in ascending m in float32 and is rounded once. A row that no m names is zero.

    Args:
        y: (B, M, C) float32, float16 or bfloat16.
        index: (B, M) int64 or int32, every value in [0, n).
        n: rows of the result.
        weight: (B, M) float32, or None for ones.
        out: (B, n, C) array of the dtype of y to fill instead of a new one.

    Returns:
        (B, n, C) array of the dtype of y.

    Raises:
        ValueError: a rank or extent does not fit, n is negative, or an index is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> y = np.array([[[1.0], [2.0], [4.0]]], dtype=np.float32)
    >>> scatter_add_rows(y, np.array([[1, 0, 1]]), 3)[0, :, 0]
    array([2., 5., 0.], dtype=float32)
    """
    return extension_of("scatter_add_rows", "y", y).scatter_add_rows(y, index, n, weight, out)


def scatter_add_rows_backward(grad: Array, y: Array, index: Array, weight: Array) -> tuple[Array, Array]:
    """Gradients of the weighted :func:`scatter_add_rows` for y and weight.

    ``grad_y[b, m] = weight[b, m] * grad[b, index[b, m]]`` and ``grad_weight[b, m] = y[b, m] . grad[b, index[b, m]]``.
    Without weights the gradient for y is :func:`gather_rows`.

    Args:
        grad: (B, N, C) of the dtype of y.
        y: (B, M, C) float32, float16 or bfloat16.
        index: (B, M) int64 or int32, every value in [0, N).
        weight: (B, M) float32.

    Returns:
        (B, M, C) of the dtype of y, and (B, M) float32.

    Raises:
        ValueError: a rank or extent does not fit, or an index is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> ones = np.ones((1, 2, 3), dtype=np.float32)
    >>> grad_y, grad_weight = scatter_add_rows_backward(ones, ones, np.array([[1, 1]]), 2 * ones[:, :, 0])
    >>> grad_weight
    array([[3., 3.]], dtype=float32)
    """
    module = extension_of("scatter_add_rows_backward", "grad", grad)
    grads: tuple[Array, Array] = module.scatter_add_rows_backward(grad, y, index, weight)
    return grads
