# SPDX-License-Identifier: Apache-2.0
"""Stacks of codebooks, and what is read from a codebook."""

from __future__ import annotations

from typing import NamedTuple

from tokernel.kernels._arrays import Array, extension_of

__all__ = [
    "Residual",
    "lookup",
    "lookup_backward",
    "rotate_to",
    "rotate_to_backward",
    "rvq_decode",
    "rvq_decode_backward",
    "rvq_encode",
]


class Residual(NamedTuple):
    """What :func:`rvq_encode` finds; rows (..., N) are (N) or (G, N)."""

    index: Array
    """(..., N, Q) int64: the code of every layer, -1 for a dropped one."""
    quantized: Array
    """(..., N, D) float32: the sum of the chosen codes."""
    error: Array
    """(..., N, Q) float32: the squared length of what every layer leaves over, 0 for a dropped one."""


def lookup(codes: Array, index: Array, *, out: Array | None = None) -> Array:
    """Read codes: ``out[..., :] = codes[index[...], :]``, bit for bit; an index of -1 (dropped) gives zeros.

    Args:
        codes: (K, D) float32, float16 or bfloat16, or a book for each of Q sets of indices (Q, K, D).
        index: int64 or int32, every value in [-1, K): one to four dimensions, the first of them Q where there are
            several books.
        out: array of the shape of the result and the dtype of codes to fill instead of a new one.

    Returns:
        The shape of index and D, in the dtype of codes.

    Raises:
        ValueError: a rank or extent does not fit, or an index is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> lookup(np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), np.array([1, -1]))
    array([[3., 4.],
           [0., 0.]], dtype=float32)
    """
    return extension_of("lookup", "codes", codes).lookup(codes, index, out)


def lookup_backward(grad: Array, index: Array, K: int, batched: bool = False, *, out: Array | None = None) -> Array:
    """Gradient of :func:`lookup` for codes: the sum of the rows of `grad` whose index is k, for every code k.

    Sums run in float32 in ascending position and are rounded once: the same bits for any number of threads.

    Args:
        grad: the shape of index and D, float32, float16 or bfloat16.
        index: int64 or int32, every value in [-1, K); -1 adds to no code.
        K: number of codes.
        batched: whether the first dimension of grad and index counts books.
        out: (K, D), or (Q, K, D) where batched, to fill instead of a new array.

    Returns:
        (K, D), or (Q, K, D) where batched, of the dtype of grad.

    Raises:
        ValueError: a rank or extent does not fit, K is no possible count, or an index is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> lookup_backward(np.array([[1.0], [2.0], [4.0]], np.float32), np.array([1, -1, 1]), 2)
    array([[0.],
           [5.]], dtype=float32)
    """
    return extension_of("lookup_backward", "grad", grad).lookup_backward(grad, index, K, batched, out)


def rotate_to(x: Array, q: Array, eps: float = 1e-6, *, out: Array | None = None) -> Array:
    """Turn and stretch every x onto its q, so that a gradient can come back the same way (the rotation trick).

    With ``n(v) = max(|v|, eps)``, ``u = x / n(x)``, ``v = q / n(q)`` and ``w = (u + v) / n(u + v)``::

        out = |q| / n(x) * (x - 2 (x.w) w + 2 (x.u) v)

    which is q where no length is below eps. Sums are float32. A row with a NaN or an infinity gives NaN.

    Args:
        x: (..., D) float32, float16 or bfloat16, one to four dimensions.
        q: the shape and dtype of x.
        eps: least length that is told from zero, in [1e-18, 1].
        out: array of the shape and dtype of x to fill instead of a new one.

    Returns:
        The shape and dtype of x.

    Raises:
        ValueError: a rank or extent does not fit, or eps is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> rotate_to(np.array([3.0, 0.0], np.float32), np.array([0.0, 2.0], np.float32))
    array([0., 2.], dtype=float32)

    Fifty et al., "Restructuring vector quantization with the rotation trick" (arXiv 2410.06424), as
    lucidrains/vector-quantize-pytorch computes it.
    """
    return extension_of("rotate_to", "x", x).rotate_to(x, q, eps, out)


def rotate_to_backward(grad: Array, x: Array, q: Array, eps: float = 1e-6, *, out: Array | None = None) -> Array:
    """Gradient of :func:`rotate_to` for x; q, all lengths and all directions are held fixed.

    ``grad_x = |q| / n(x) * (g - 2 (g.w) w + 2 (g.v) u)``, in the letters of :func:`rotate_to`: the map is a rotation
    times a number, so a gradient keeps its angle to what it is a gradient of.

    Args:
        grad: (..., D) float32, float16 or bfloat16, one to four dimensions.
        x, q: the shape and dtype of grad, as given to rotate_to.
        eps: as given to rotate_to.
        out: array of the shape and dtype of grad to fill instead of a new one.

    Returns:
        The shape and dtype of grad.

    Raises:
        ValueError: a rank or extent does not fit, or eps is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> x, q = np.array([3.0, 0.0], np.float32), np.array([0.0, 6.0], np.float32)
    >>> rotate_to_backward(q / 6, x, q)
    array([2., 0.], dtype=float32)
    """
    return extension_of("rotate_to_backward", "grad", grad).rotate_to_backward(grad, x, q, eps, out)


def rvq_encode(
    x: Array,
    codes: Array,
    n_q: int | Array | None = None,
    metric: str = "l2",
    *,
    out: tuple[Array, Array, Array] | None = None,
) -> Residual:
    """Quantize rows by a stack of codebooks, each of which sees what those before it left over.

    ``r_0 = x``; layer q chooses the code nearest to ``r_q``, ``r_{q+1} = r_q - code``, ``error_q = |r_{q+1}|^2``;
    quantized is the sum of the codes in the order of the layers. All of it is float32, whatever the dtype of x, and
    the N x K distances are never stored. "cosine" searches by the angle and takes off the code as it is stored.

    The lowest index wins a tie. A code that is not finite is never chosen. A residual that is not finite, or meets no
    finite code, has index 0; an error that is not finite is NaN.

    Args:
        x: (N, D) float32, float16 or bfloat16, or G groups of channels (G, N, D), each with books of its own; strided
            views (``x.reshape(N, G, -1).transpose(0, 1)``) are read where they are.
        codes: (Q, K, D) or (G, Q, K, D) of the dtype of x, K at least 1.
        n_q: how many layers are used, in [0, Q]: a number, or one for each row, (N) or (G, N) int64 or int32; None
            for all. The others are dropped: index -1, error 0.
        metric: "l2" or "cosine".
        out: arrays for index, quantized and error to fill instead of new ones.

    Returns:
        Residual of index (..., N, Q), quantized (..., N, D) and error (..., N, Q).

    Raises:
        ValueError: a rank or extent does not fit, K is 0, n_q is out of range, or the metric is unknown.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> books = np.array([[[0.0], [8.0]], [[-1.0], [1.0]]], np.float32)
    >>> rvq_encode(np.array([[6.5], [0.25]], np.float32), books)
    Residual(index=array([[1, 0],
           [0, 1]]), quantized=array([[7.],
           [1.]], dtype=float32), error=array([[2.25  , 0.25  ],
           [0.0625, 0.5625]], dtype=float32))

    Residual vector quantization of SoundStream (arXiv 2107.03312) and EnCodec (arXiv 2210.13438); groups as in
    HiFi-Codec (arXiv 2305.02765).
    """
    arrays = (None,) * 3 if out is None else out
    return Residual(*extension_of("rvq_encode", "x", x).rvq_encode(x, codes, n_q, metric, *arrays))


def rvq_decode(index: Array, codes: Array, n_q: int | None = None, *, out: Array | None = None) -> Array:
    """Add up the codes of a stack: ``out[n] = sum over q < n_q of codes[q, index[n, q]]``.

    The sum runs in the order of the layers in float32 and is rounded once; an index of -1 (dropped) adds nothing. For
    float32 codes it has the bits of the `quantized` of :func:`rvq_encode`.

    Args:
        index: (N, Q) or (G, N, Q) int64 or int32, every value in [-1, K).
        codes: (Q, K, D) or (G, Q, K, D) float32, float16 or bfloat16.
        n_q: how many layers are added, in [0, Q]; None for all.
        out: array of the shape of the result and the dtype of codes to fill instead of a new one.

    Returns:
        (N, D) or (G, N, D) of the dtype of codes.

    Raises:
        ValueError: a rank or extent does not fit, or an index or n_q is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> books = np.array([[[0.0], [8.0]], [[-1.0], [1.0]]], np.float32)
    >>> rvq_decode(np.array([[1, 0], [1, -1]]), books)
    array([[7.],
           [8.]], dtype=float32)
    """
    return extension_of("rvq_decode", "index", index).rvq_decode(index, codes, n_q, out)


def rvq_decode_backward(
    grad: Array, index: Array, K: int, n_q: int | None = None, *, out: Array | None = None
) -> Array:
    """Gradient of :func:`rvq_decode` for codes: for every layer and code the sum of the rows of `grad` that chose it.

    Sums run in float32 in ascending n and are rounded once: the same bits for any number of threads.

    Args:
        grad: (N, D) or (G, N, D) float32, float16 or bfloat16.
        index: (N, Q) or (G, N, Q) int64 or int32, every value in [-1, K).
        K: codes of a book.
        n_q: as given to rvq_decode; the other layers have zeros.
        out: array of the shape of the result and the dtype of grad to fill instead of a new one.

    Returns:
        (Q, K, D) or (G, Q, K, D) of the dtype of grad.

    Raises:
        ValueError: a rank or extent does not fit, or an index, K or n_q is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> rvq_decode_backward(np.array([[1.0], [2.0]], np.float32), np.array([[1, 0], [1, -1]]), 2)[:, :, 0]
    array([[0., 3.],
           [1., 0.]], dtype=float32)
    """
    return extension_of("rvq_decode_backward", "grad", grad).rvq_decode_backward(grad, index, K, n_q, out)
