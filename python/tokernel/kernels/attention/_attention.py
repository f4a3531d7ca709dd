# SPDX-License-Identifier: Apache-2.0
"""The attention core."""

from __future__ import annotations

from typing import Any

from tokernel.kernels._arrays import Array, extension_of
from tokernel.kernels.attention import _map
from tokernel.kernels.attention._map import MOVES, Extras, extras_of
from tokernel.kernels.attention._order import Reordering
from tokernel.kernels.attention._policy import Dense, Policy, parts_of
from tokernel.kernels.attention._sorted import sorted_attention

__all__ = ["attention"]


_DENSE = Dense()


def attention(
    q: Array,
    k: Array,
    v: Array,
    policy: Policy = _DENSE,
    *,
    scale: float | None = None,
    key_bias: Array | None = None,
    return_lse: bool = False,
    extras: Extras | None = None,
    extra_denominator: float = 0.0,
    out: Array | None = None,
    lse: Array | None = None,
) -> Any:
    """Attend: ``o_i = sum_j p_ij v_j``, ``p_ij = exp(s_ij) / (extra + sum_j' exp(s_ij'))`` over the keys that i sees.

    ``s_ij = scale * <q_i, k_j> + key_bias_j``. The map is never stored. A query without keys, or whose scores are all
    -inf, gives zeros and lse -inf (log of the extra denominator, if there is one). A NaN makes the answers NaN of those
    queries that see it, and of no others. Logits of any finite size are safe. Half-precision inputs: scores and sums in
    float32. The bits do not depend on the number of threads.

    Args:
        q: (B, H, Nq, D) float32, float16 or bfloat16 (float64 on backend ref), D from 1 to 256; any outer strides.
        k: (B, G, Nk, D) of the dtype of q; H is a multiple of G, and query head h reads head ``h // (H // G)``.
        v: (B, G, Nk, D) of the dtype of q.
        policy: who sees whom; :class:`Dense`, :class:`Causal`, :class:`BlockMap`, ... Those that sort tokens
            (:class:`Regions`, :class:`Window`) take no float64.
        scale: of the products; None is ``D ** -0.5``.
        key_bias: (B, H, Nk) float32 added to the scores of a key, extents of 1 in front serve all; -inf hides a key.
        return_lse: also return ``log(extra + sum_j exp(s_ij))``.
        extras: also return rows or column sums of the map, see :class:`Extras`.
        extra_denominator: 1 is softmax1: a query may attend to nothing.
        out: (B, H, Nq, D) array of the dtype of q to fill instead of a new one.
        lse: (B, H, Nq) float32 array to fill instead of a new one; only with return_lse.

    Returns:
        (B, H, Nq, D) of the dtype of q; with return_lse a (B, H, Nq) float32 array besides; with extras an
        :class:`ExtrasResult` besides.

    Raises:
        ValueError: a rank or extent does not fit; the policy does not fit the extents; D is outside [1, 256].
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> q = np.zeros((1, 1, 2, 4), dtype=np.float32)
    >>> v = np.arange(8, dtype=np.float32).reshape(1, 1, 2, 4)
    >>> from tokernel.kernels.attention import Causal
    >>> attention(q, q, v, Causal())
    array([[[[0., 1., 2., 3.],
             [2., 3., 4., 5.]]]], dtype=float32)
    """
    extension = extension_of("attention", "q", q)
    with_lse = return_lse or extras is not None
    to = (out, lse if return_lse else None)
    if isinstance(policy, Reordering):
        options = {
            "scale": scale,
            "key_bias": key_bias,
            "return_lse": with_lse,
            "extra_denominator": extra_denominator,
        }
        results = sorted_attention(attention, MOVES, (q, k, v), policy, options, *to)
    else:
        parts = parts_of("attention", policy, q, k)
        results = extension.attention(q, k, v, *parts, key_bias, scale, extra_denominator, with_lse, *to)
    if extras is None:
        return results
    more = extras_of(q, k, results[1], policy, extras, scale, key_bias, _map)
    return (*results, more) if return_lse else (results[0], more)
