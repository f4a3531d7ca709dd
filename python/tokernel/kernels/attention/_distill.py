# SPDX-License-Identifier: Apache-2.0
"""A student's attention map held against a teacher's, neither of them stored."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["attention_map_ce", "attention_map_ce_backward"]


def attention_map_ce(
    q_s: Array,
    k_s: Array,
    q_t: Array | None = None,
    k_t: Array | None = None,
    *,
    teacher_logits: Array | None = None,
    scale: float | None = None,
    teacher_scale: float | None = None,
    return_lse: bool = False,
) -> Array:
    """Cross-entropy of attention rows: ``loss_i = -sum_j softmax(T)_ij log softmax(S)_ij``.

    ``S = scale * q_s k_s^T`` and ``T = teacher_scale * q_t k_t^T`` (or given) pass by in tiles; ``loss_i`` is
    ``lse(S_i) - sum_j softmax(T)_ij S_ij``, summed in float32. Its least value is the entropy of the teacher's row. A
    row without keys has loss 0. NaN makes the rows NaN that see it. To leave out a class token, pass views without it.

    Args:
        q_s: (B, H, N, D) float32, float16 or bfloat16, D up to 256; any outer strides.
        k_s: (B, H, M, D) of the dtype of q_s.
        q_t: (B, H, N, E) of the dtype of q_s.
        k_t: (B, H, M, E) of the dtype of q_s.
        teacher_logits: (B, H, N, M) of the dtype of q_s, instead of q_t and k_t; -inf hides a key from the teacher.
        scale: of the student's products; None is ``D ** -0.5``.
        teacher_scale: of the teacher's products; None is ``E ** -0.5``.
        return_lse: also return the log-sum-exp of both sides, for :func:`attention_map_ce_backward`.

    Returns:
        (B, H, N) float32, and with return_lse two more of them.

    Raises:
        ValueError: a rank or extent does not fit; the teacher is given twice or not at all.
        TypeError: not an array, or a dtype that is not listed.

    Source: HASTE, arXiv 2505.16792, attention alignment loss.

    >>> import numpy as np
    >>> x = np.zeros((1, 1, 2, 4), dtype=np.float32)
    >>> attention_map_ce(x, x, x, x)  # log(2): two equal keys
    array([[[0.6931472, 0.6931472]]], dtype=float32)
    """
    extension = extension_of("attention_map_ce", "q_s", q_s)
    return extension.attention_map_ce(q_s, k_s, q_t, k_t, teacher_logits, scale, teacher_scale, return_lse)


def attention_map_ce_backward(
    grad: Array,
    q_s: Array,
    k_s: Array,
    q_t: Array | None,
    k_t: Array | None,
    lse_s: Array,
    lse_t: Array,
    *,
    teacher_logits: Array | None = None,
    scale: float | None = None,
    teacher_scale: float | None = None,
) -> tuple[Array, Array]:
    """Gradients of :func:`attention_map_ce` for the student: ``dS_ij = grad_i (softmax(S)_ij - softmax(T)_ij)``.

    Args:
        grad: (B, H, N) float32.
        q_s: as in the forward pass, and so are the arguments that follow.
        k_s: (B, H, M, D).
        q_t: (B, H, N, E) or None.
        k_t: (B, H, M, E) or None.
        lse_s: (B, H, N) float32, of the forward pass.
        lse_t: (B, H, N) float32, of the forward pass.
        teacher_logits: (B, H, N, M), instead of q_t and k_t.
        scale: of the student's products.
        teacher_scale: of the teacher's products.

    Returns:
        (B, H, N, D) and (B, H, M, D) of the dtype of q_s: the gradients of q_s and k_s.

    Raises:
        ValueError: a rank or extent does not fit; the teacher is given twice or not at all.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> x = np.ones((1, 1, 2, 4), dtype=np.float32)
    >>> loss, lse_s, lse_t = attention_map_ce(x, x, x, x, return_lse=True)
    >>> grad_q, grad_k = attention_map_ce_backward(loss, x, x, x, x, lse_s, lse_t)
    >>> float(abs(grad_q).max()), grad_k.shape  # the maps are equal
    (0.0, (1, 1, 2, 4))
    """
    extension = extension_of("attention_map_ce_backward", "grad", grad)
    return extension.attention_map_ce_backward(  # type: ignore[no-any-return]
        grad, q_s, k_s, q_t, k_t, teacher_logits, lse_s, lse_t, scale, teacher_scale
    )
