# SPDX-License-Identifier: Apache-2.0
"""Gradients of the attention core."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of
from tokernel.kernels.attention._policy import Dense, Policy, parts_of

__all__ = ["attention_backward"]

_DENSE = Dense()


def attention_backward(
    grad: Array,
    q: Array,
    k: Array,
    v: Array,
    o: Array,
    lse: Array,
    policy: Policy = _DENSE,
    *,
    scale: float | None = None,
    key_bias: Array | None = None,
    grad_lse: Array | None = None,
) -> tuple[Array, ...]:
    """Compute the gradients of :func:`attention` from its results; the map is computed again and never stored.

    With g the gradient of o, t that of lse, ``s_ij = scale * <q_i, k_j> + key_bias_j``, ``p_ij = exp(s_ij - lse_i)``
    and ``ds_ij = p_ij (<g_i, v_j> - <g_i, o_i> + t_i)``: ``grad_q_i = scale sum_j ds_ij k_j``,
    ``grad_k_j = scale sum_i ds_ij q_i``, ``grad_v_j = sum_i p_ij g_i`` and ``grad_key_bias_j = sum_i ds_ij``. An extra
    denominator is inside lse. A query without keys contributes nothing. A NaN reaches the gradients of the pairs it is
    part of, and no others. Sums in float32, in an order that depends on the extents only: the bits do not depend on the
    number of threads. Half-precision inputs: the factors of the products may be rounded to the dtype. Memory is that of
    the inputs, never Nq x Nk.

    Args:
        grad: (B, H, Nq, D) of the dtype of q, the gradient of o; any outer strides.
        q: (B, H, Nq, D) float32, float16 or bfloat16 (float64 on backend ref), D from 1 to 256; any outer strides.
        k: (B, G, Nk, D) of the dtype of q; H is a multiple of G.
        v: (B, G, Nk, D) of the dtype of q.
        o: (B, H, Nq, D) of the dtype of q, as :func:`attention` returned it.
        lse: (B, H, Nq) float32, as :func:`attention` returned it.
        policy: as in the call of :func:`attention`.
        scale: as in that call.
        key_bias: as in that call.
        grad_lse: (B, H, Nq) float32, the gradient of lse, or None for zeros.

    Returns:
        (grad_q, grad_k, grad_v) of the shapes and dtype of q, k and v, new arrays; with key_bias also grad_key_bias,
        float32, of its shape: what serves several samples or heads gets the sum over them.

    Raises:
        ValueError: a rank or extent does not fit; the policy does not fit the extents; D is outside [1, 256].
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> from tokernel.kernels.attention import attention
    >>> q, k, v = np.zeros((3, 1, 1, 2, 1), dtype=np.float32)
    >>> v[0, 0] = [[1], [3]]
    >>> o, lse = attention(q, k, v, return_lse=True)
    >>> grad_q, grad_k, grad_v = attention_backward(np.ones_like(o), q + 1, k, v, o, lse)
    >>> grad_v, grad_k
    (array([[[[1.],
             [1.]]]], dtype=float32), array([[[[-1.],
             [ 1.]]]], dtype=float32))
    """
    parts = parts_of("attention_backward", policy, q, k)
    extension = extension_of("attention_backward", "q", q)
    gradients: tuple[Array, ...] = extension.attention_backward(
        grad, q, k, v, o, lse, grad_lse, *parts, key_bias, scale
    )
    return gradients
