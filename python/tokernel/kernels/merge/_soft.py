# SPDX-License-Identifier: Apache-2.0
"""Soft maps, where every target is a weighted mean of all tokens, and compaction, where every kept token stays one."""

from __future__ import annotations

from typing import Any

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["compact_rows", "soft_aggregate", "soft_aggregate_backward"]


def compact_rows(mask: Array) -> tuple[Array, Array]:
    """List the kept tokens: row after row, in order, as flat positions.

    ``index`` holds ``b * N + n`` for every token n of row b that `mask` keeps, and row b owns
    ``index[cu_seqlens[b] : cu_seqlens[b + 1]]``. Gathering rows of ``x.reshape(B * N, C)`` at `index` packs the batch.
    The size of `index` depends on the data: on a GPU the call waits once for the total.

    Args:
        mask: (B, N) bool or uint8, a token is kept where it is not 0.

    Returns:
        index (total,) int64 and cu_seqlens (B + 1,) int64.

    Raises:
        ValueError: `mask` is not two-dimensional.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> compact_rows(np.array([[True, False, True], [False, True, False]]))
    (array([0, 2, 4]), array([0, 2, 3]))
    """
    module = extension_of("compact_rows", "mask", mask)
    cu_seqlens = module.count_rows(mask)
    return module.compact_rows(mask, cu_seqlens, int(cu_seqlens[-1])), cu_seqlens


def is_over_targets(over: str, mass: Any) -> bool:
    """Return whether the softmax runs over targets.

    Raises:
        ValueError: `over` is neither axis, or there is a mass that would have no effect.
    """
    if over == "targets":
        return True
    if over != "tokens":
        raise ValueError(f"soft_aggregate: over must be 'tokens' or 'targets', got {over!r}")
    if mass is not None:
        raise ValueError("soft_aggregate: mass must be None where over is 'tokens', got an array")
    return False


def soft_aggregate(
    x: Array, logits: Array, over: str = "tokens", mass: Array | None = None, *, out: Array | None = None
) -> Array | tuple[Array, Array]:
    """Average all tokens into every target; the weights are a softmax of `logits` and are never stored.

    Over tokens, ``y[b, i] = sum over j of P[b, i, j] x[b, j]`` with P the softmax of a row of logits. Over targets, P
    is the softmax of a column, so every token gives away a total weight of 1: ``mass_out[b, i] = sum over j of
    P[b, i, j] mass[b, j]`` and ``y[b, i] = sum over j of P[b, i, j] mass[b, j] x[b, j] / mass_out[b, i]``.

    No finite logit overflows. A logit of -inf has weight 0; a softmax over nothing else has no weights at all. A
    target whose weights, or mass, add up to 0 is a zero row. A NaN or +inf logit makes NaN what it takes part in.

    Args:
        x: (B, N, C) float32, float16 or bfloat16.
        logits: (B, M, N) float32, float16 or bfloat16, also as a transposed view, which is not copied.
        over: "tokens" (N) or "targets" (M), the axis along which the weights add up to 1.
        mass: (B, N) float32, or None for ones; over targets only.
        out: (B, M, C) array of the dtype of x to fill with y instead of a new one.

    Returns:
        y, a (B, M, C) array of the dtype of x; over targets the pair (y, mass_out), mass_out (B, M) float32.

    Raises:
        ValueError: a rank or extent does not fit, `over` is neither word, or there is a mass over tokens.
        TypeError: not an array, or a dtype that is not listed.

    Sources: token slimming of SiT (arXiv 2111.12624, over tokens); Token Transforming (arXiv 2506.05709, over targets
    [our reconstruction]).

    >>> import numpy as np
    >>> x = np.array([[[0.0], [4.0]]], dtype=np.float32)
    >>> soft_aggregate(x, np.zeros((1, 1, 2), dtype=np.float32))
    array([[[2.]]], dtype=float32)
    >>> y, mass = soft_aggregate(x, np.zeros((1, 2, 2), dtype=np.float32), "targets")
    >>> mass
    array([[1., 1.]], dtype=float32)
    """
    over_targets = is_over_targets(over, mass)
    return extension_of("soft_aggregate", "x", x).soft_aggregate(x, logits, over_targets, mass, out)


def soft_aggregate_backward(
    grad_y: Array,
    x: Array,
    logits: Array,
    y: Array,
    *,
    grad_mass_out: Array | None = None,
    mass: Array | None = None,
    mass_out: Array | None = None,
) -> tuple[Array, ...]:
    """Gradients of :func:`soft_aggregate`; the weights are computed again.

    Args:
        grad_y: (B, M, C) of the dtype of x, the gradient of y.
        x: (B, N, C) float32, float16 or bfloat16, as in the forward call.
        logits: (B, M, N), as in the forward call.
        y: (B, M, C), the result of the forward call.
        grad_mass_out: (B, M) float32, the gradient of mass_out, or None for zero; over targets only.
        mass: (B, N) float32, as in the forward call.
        mass_out: (B, M) float32, the second result of a forward call over targets; None means over tokens.

    Returns:
        grad_x (B, N, C) and grad_logits (B, M, N), each of the dtype of its argument; over targets also grad_mass
        (B, N) float32.

    Raises:
        ValueError: a rank or extent does not fit, or a mass comes without mass_out.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> x = np.array([[[0.0], [4.0]]], dtype=np.float32)
    >>> logits = np.zeros((1, 1, 2), dtype=np.float32)
    >>> y = soft_aggregate(x, logits)
    >>> grad_x, grad_logits = soft_aggregate_backward(np.ones_like(y), x, logits, y)
    >>> grad_logits
    array([[[-1.,  1.]]], dtype=float32)
    """
    module = extension_of("soft_aggregate_backward", "grad_y", grad_y)
    grads: tuple[Array, ...] = module.soft_aggregate_backward(grad_y, grad_mass_out, x, logits, mass, y, mass_out)
    return grads
