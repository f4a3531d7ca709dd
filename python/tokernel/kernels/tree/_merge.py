# SPDX-License-Identifier: Apache-2.0
"""One softmax from several over disjoint sets of keys."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["merge_attention", "merge_attention_backward"]


def merge_attention(outs: Array, lses: Array, *, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """Make one attention of K partial ones over disjoint keys: ``lse = log sum_k exp lses_k``,
    ``o = sum_k exp(lses_k - lse) outs_k``, summed in the order of k.

    A part whose lse is -inf saw no key and weighs nothing, whatever it holds, NaN included. A row without any other
    part, so also with K = 0, gives zeros and -inf. A lse of NaN or +inf makes its row NaN. Of a single part the answer
    is a copy. Lses of any finite size are safe. Sums are float32.

    Args:
        outs: (K, B, H, N, D) float32, float16 or bfloat16, any outer strides.
        lses: (K, B, H, N) float32, natural logarithms, as ``attention(..., return_lse=True)`` gives them.
        out: arrays to fill instead of new ones, in the order of the result.

    Returns:
        (B, H, N, D) of the dtype of outs, and (B, H, N) float32.

    Raises:
        ValueError: a rank or extent does not fit.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> outs = np.array([1, 3, np.nan], np.float32).reshape(3, 1, 1, 1, 1)
    >>> lses = np.log(np.array([1, 3, 0], np.float32), where=[True, True, False], out=np.full(3, -np.inf, np.float32))
    >>> o, lse = merge_attention(outs, lses.reshape(3, 1, 1, 1))
    >>> round(o.item(), 4), round(np.exp(lse).item(), 4)
    (2.5, 4.0)

    How prefix and tree, or the splits of a long prefix, become one attention: section 2 of the tree attention of
    SpecInfer (arXiv 2305.09781) and FlashInfer's cascades.
    """
    arrays = (None, None) if out is None else out
    o, lse = extension_of("merge_attention", "outs", outs).merge_attention(outs, lses, *arrays)
    return o, lse


def merge_attention_backward(
    grad: Array, outs: Array, lses: Array, grad_lse: Array | None = None, *, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """Compute the gradient of merge_attention: ``w_k grad`` for outs_k and
    ``w_k (<grad, outs_k> - sum_j w_j <grad, outs_j> + grad_lse)`` for lses_k, with ``w_k = exp(lses_k - lse)``.

    Args:
        grad: (B, H, N, D) gradient for the merged answer, of the dtype of outs, any outer strides.
        outs: (K, B, H, N, D) as given to merge_attention.
        lses: (K, B, H, N) float32 as given to merge_attention.
        grad_lse: (B, H, N) float32 gradient for the merged lse; None is zeros.
        out: arrays to fill instead of new ones, in the order of the result.

    Returns:
        (K, B, H, N, D) of the dtype of outs, and (K, B, H, N) float32; zeros for parts whose lse is -inf.

    Raises:
        ValueError: a rank or extent does not fit.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> outs, lses = np.array([1, 3], np.float32).reshape(2, 1, 1, 1, 1), np.zeros((2, 1, 1, 1), np.float32)
    >>> d_outs, d_lses = merge_attention_backward(np.ones((1, 1, 1, 1), np.float32), outs, lses)
    >>> d_outs.ravel(), d_lses.ravel()
    (array([0.5, 0.5], dtype=float32), array([-0.5,  0.5], dtype=float32))
    """
    arrays = (None, None) if out is None else out
    module = extension_of("merge_attention_backward", "grad", grad)
    d_outs, d_lses = module.merge_attention_backward(grad, outs, lses, grad_lse, *arrays)
    return d_outs, d_lses
