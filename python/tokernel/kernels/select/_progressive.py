# SPDX-License-Identifier: Apache-2.0
"""Attention that reads the low bits of keys only for rows that need them."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["progressive_attention"]


def progressive_attention(
    q: Array,
    high_k: Array,
    low_k: Array,
    scale_k: Array,
    v: Array,
    threshold: float = 0.1,
    *,
    scale_v: Array | None = None,
    lsb: int = 4,
    scale: float | None = None,
    key_valid: Array | None = None,
    causal: bool = False,
) -> tuple[Array, Array]:
    """Attend to keys in two bit-planes: a row of P comes from the high planes, and where it is flat,
    ``max_j P[i, j] < threshold``, the low planes are read too and the row is computed anew.

    ``P = softmax(scale * <q, k>)`` and ``out = P v``, where k is ``(high_k << lsb) * scale_k`` at first and
    ``((high_k << lsb) + low_k) * scale_k`` the second time, and q is quantised to 16 bits by the rule of
    :func:`split_bits` (widths as in the paper's traces: Q 16, K 8 + 4, V 8; scales a row are our reconstruction).
    Products of whole numbers are exact, everything else is float32. threshold = 0 never reads the low planes; above 1
    it always does. A query head h meets the keys of head ``h // (H // G)``.

    A row that sees no key gives zeros and is not computed anew; nothing of a key that it does not see reaches it. A NaN
    makes the rows NaN that see it, and they are not computed anew.

    Args:
        q: (B, H, Q, D) float32, float16 or bfloat16; D from 1 to 256.
        high_k: (B, G, K, D) int8, as :func:`split_bits` makes it of keys; H is a multiple of G.
        low_k: (B, G, K, (D + 1) // 2) uint8; without bytes where lsb is 0.
        scale_k: (B, G, K) float32.
        v: (B, G, K, D) of the dtype of q, or int8 with scale_v (``split_bits(v, 8, 0)``).
        threshold: at least 0; the paper has about 0.1, its traces 0.05.
        scale_v: (B, G, K) float32, exactly where v is int8.
        lsb: bits of the low plane, in [0, 4].
        scale: of the products; None is D**-0.5.
        key_valid: (B, K) bool, False for a key that no row sees.
        causal: whether row i sees only the keys j <= i + K - Q.

    All may have any outer strides, so planes can be views of a cache that is still growing.

    Returns:
        out (B, H, Q, D) of the dtype of q, and refetched (B, H, Q) bool: rows that were computed anew.

    Raises:
        ValueError: a rank, extent or number does not fit, H is not a multiple of G, or scale_v is missing or too much.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> from tokernel.kernels.select import split_bits
    >>> q = np.array([[[[8.0, 0.0], [0.0, 0.0]]]], np.float32)
    >>> k = np.array([[[[1.0, 0.0], [-1.0, 0.5]]]], np.float32)
    >>> v = np.array([[[[1.0, 0.0], [0.0, 1.0]]]], np.float32)
    >>> out, refetched = progressive_attention(q, *split_bits(k), v, threshold=0.6)
    >>> out.round(3), refetched
    (array([[[[1. , 0. ],
             [0.5, 0.5]]]], dtype=float32), array([[[False,  True]]]))

    SpAtten's progressive quantisation (arXiv 2012.09852).
    """
    module = extension_of("progressive_attention", "q", q)
    return module.progressive_attention(  # type: ignore[no-any-return]
        q, high_k, low_k, scale_k, v, threshold, scale_v, lsb, scale, key_valid, causal
    )
