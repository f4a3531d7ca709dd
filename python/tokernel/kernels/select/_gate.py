# SPDX-License-Identifier: Apache-2.0
"""Gates: which experts a token goes to, and which parts of a model run."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["threshold_gate", "threshold_gate_backward", "topk_gate", "topk_gate_backward"]


def topk_gate(
    logits: Array, k: int, normalize: bool = False, *, out: tuple[Array, Array, Array] | None = None
) -> tuple[Array, Array, Array]:
    """Choose the k experts of every token: with ``p = softmax(logits)`` over all E, the k of the largest p, and
    ``weight = p[index]``.

    The largest comes first; of equal logits (-0 equals +0) the lowest expert, even where their probabilities have
    become equal by rounding the larger logit comes first. Softmax in float32. The choice and the counts are the same
    on every backend and for any number of threads. A row whose softmax is none (a NaN or +inf in it, or nothing but
    -inf) has NaN weights; its experts are chosen as :func:`topk` would, NaN last, and counted.

    Args:
        logits: (T, E) or (B, T, E) float32, float16 or bfloat16, any outer strides; E up to 8192.
        k: in [0, E].
        normalize: divide the weights of a token by their sum.
        out: arrays (index, weight, counts) to fill instead of new ones.

    Returns:
        index (T, k) or (B, T, k) int64; weight of that shape, float32; counts (E,) or (B, E) int64, the tokens of every
        expert.

    Raises:
        ValueError: a rank or extent does not fit, or k is not in [0, E].
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> logits = np.log(np.array([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2]], np.float32))
    >>> index, weight, counts = topk_gate(logits, 2)
    >>> index
    array([[1, 2],
           [0, 1]])
    >>> weight.round(3)
    array([[0.5, 0.3],
           [0.6, 0.2]], dtype=float32)
    >>> counts
    array([1, 2, 1])

    The router of DiT-MoE (section 3.1 of arXiv 2407.11633), whose weights are the probabilities themselves.
    """
    module = extension_of("topk_gate", "logits", logits)
    chosen: tuple[Array, Array, Array] = module.topk_gate(logits, k, normalize, *(out or (None, None, None)))
    return chosen


def topk_gate_backward(
    grad: Array, logits: Array, index: Array, normalize: bool = False, *, out: Array | None = None
) -> Array:
    """Gradient of the weights of :func:`topk_gate` for its logits.

    With p the softmax of a row, or with `normalize` the softmax over its chosen experts alone (0 elsewhere), and g the
    gradient at the chosen experts (0 elsewhere): ``grad_logits = p * (g - sum(g * p))``, in float32 from the logits
    anew, rounded once.

    Args:
        grad: (T, k) or (B, T, k) float32.
        logits: (T, E) or (B, T, E) float32, float16 or bfloat16, any outer strides; E up to 8192.
        index: (T, k) or (B, T, k) int64 or int32, in [0, E), no expert twice in a row.
        normalize: as it was given to :func:`topk_gate`.
        out: array of the shape and dtype of logits to fill instead of a new one.

    Returns:
        (T, E) or (B, T, E) of the dtype of logits; NaN where the softmax is none, with `normalize` only at the chosen.

    Raises:
        ValueError: a rank or extent does not fit, or an index is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> ones = np.ones((1, 1), np.float32)
    >>> topk_gate_backward(ones, np.zeros((1, 2), np.float32), np.array([[0]]))
    array([[ 0.25, -0.25]], dtype=float32)
    """
    module = extension_of("topk_gate_backward", "grad", grad)
    return module.topk_gate_backward(grad, logits, index, normalize, out)


def threshold_gate(logits: Array, tau: float = 5.0, noise: Array | None = None, *, out: Array | None = None) -> Array:
    """Switch on what has a positive logit: ``gate = 1 if logits > 0 else 0``, exactly 0 or 1.

    With noise (in training logistic noise, the difference of two Gumbel samples) the gate is
    ``1[sigmoid((logits + noise) / tau) > 0.5]``, which for every tau > 0 is ``logits + noise > 0``; that is how it is
    computed, in float32. Zero of either sign and NaN give 0.

    Args:
        logits: (...) float32, float16 or bfloat16 of one to four dimensions.
        tau: the temperature, positive; it shapes only the gradient, :func:`threshold_gate_backward`.
        noise: float32 of the shape of logits, or None.
        out: array of the shape and dtype of logits to fill instead of a new one.

    Returns:
        array of the shape and dtype of logits.

    Raises:
        ValueError: a rank or extent does not fit, or tau is not positive.
        TypeError: not an array, a dtype that is not listed, or tau is no number.

    >>> import numpy as np
    >>> threshold_gate(np.array([-1.0, 0.0, 0.5], np.float32))
    array([0., 0., 1.], dtype=float32)

    The routers of DyDiT (section 3 of arXiv 2410.03456 and of 2504.06803).
    """
    return extension_of("threshold_gate", "logits", logits).threshold_gate(logits, tau, noise, out)


def threshold_gate_backward(
    grad: Array, logits: Array, noise: Array, tau: float = 5.0, *, out: Array | None = None
) -> Array:
    """Straight-through gradient of :func:`threshold_gate`, as if the gate were its sigmoid:
    ``grad * s * (1 - s) / tau`` with ``s = sigmoid((logits + noise) / tau)``.

    In float32, rounded once. NaN propagates.

    Args:
        grad: of the shape and dtype of logits.
        logits: (...) float32, float16 or bfloat16 of one to four dimensions.
        noise: float32 of the shape of logits.
        tau: the temperature, positive.
        out: array of the shape and dtype of logits to fill instead of a new one.

    Returns:
        array of the shape and dtype of logits.

    Raises:
        ValueError: a rank or extent does not fit, or tau is not positive.
        TypeError: not an array, a dtype that is not listed or not that of logits, or tau is no number.

    >>> import numpy as np
    >>> zeros = np.zeros(2, np.float32)
    >>> threshold_gate_backward(np.ones(2, np.float32), zeros, zeros, tau=1.0)
    array([0.25, 0.25], dtype=float32)
    """
    module = extension_of("threshold_gate_backward", "grad", grad)
    return module.threshold_gate_backward(grad, logits, noise, tau, out)
