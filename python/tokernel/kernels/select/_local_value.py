# SPDX-License-Identifier: Apache-2.0
"""The product of attention with only the values that count in a row."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["local_value_attention"]


def local_value_attention(prob: Array, v: Array, keep: int, *, out: Array | None = None) -> Array:
    """Weigh values by the largest probabilities of every row alone:
    ``out[b, h, i] = sum over j in S of prob[b, h, i, j] * v[b, g, j]`` with ``g = h // (H // G)``, where S holds the
    `keep` largest probabilities of the row; among equals the lowest index, NaN last, as in :func:`topk`.

    Nothing is renormalised, so out is off by at most the dropped mass times max |v|; keep = K is the plain product.
    Values that are not kept are not read. A NaN or an infinity that is kept spoils what it is added to.

    Args:
        prob: (B, H, Q, K) float32, float16 or bfloat16, any outer strides.
        v: (B, G, K, D) of the dtype of prob, any outer strides; H is a multiple of G.
        keep: in [0, K]; 0 gives zeros.
        out: (B, H, Q, D) array of the dtype of prob to fill instead of a new one.

    Returns:
        (B, H, Q, D) of the dtype of prob, sums in float32.

    Raises:
        ValueError: a rank or extent does not fit, H is not a multiple of G, or keep is not in [0, K].
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> prob = np.array([[[[0.5, 0.125, 0.375]]]], np.float32)
    >>> v = np.array([[[[1.0], [100.0], [2.0]]]], np.float32)
    >>> local_value_attention(prob, v, 2)
    array([[[[1.25]]]], dtype=float32)

    SpAtten's local value pruning (arXiv 2012.09852).
    """
    return extension_of("local_value_attention", "prob", prob).local_value_attention(prob, v, keep, out)
