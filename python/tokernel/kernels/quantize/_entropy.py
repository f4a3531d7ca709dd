# SPDX-License-Identifier: Apache-2.0
"""How evenly codes are used, softly: entropies of softmaxes over codes that are never written."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from tokernel.kernels._arrays import Array, extension_of

__all__ = [
    "CodebookEntropy",
    "CodebookLse",
    "bit_entropy",
    "bit_entropy_backward",
    "codebook_entropy",
    "codebook_entropy_backward",
    "codebook_lse",
    "subcode_histogram",
    "subcode_histogram_backward",
]

SoftMetric: TypeAlias = Literal["dot", "l2", "cosine"]
BitOrder: TypeAlias = Literal["lsb", "msb"]


class CodebookEntropy(NamedTuple):
    """What :func:`codebook_entropy` finds; (Q, N) and (Q, K) where there are books."""

    entropy: Array
    """(N) float32: how unsure each row is of its code, in nats."""
    mean_prob: Array
    """(K) float32: the mean over rows of the probability of each code."""
    lse: Array
    """(N) float32: the logarithm of the sum of exp over the logits of a row."""


class CodebookLse(NamedTuple):
    """What :func:`codebook_lse` finds; (Q, N) where there are books."""

    lse: Array
    """(N) float32: the logarithm of the sum of exp over the logits of a row."""
    index: Array
    """(N) int64: the code of the highest score."""
    best: Array
    """(N) float32: that score, without the temperature."""


def codebook_entropy(
    x: Array,
    codes: Array,
    inv_temperature: float = 1.0,
    metric: SoftMetric = "dot",
    weight: Array | None = None,
    log_add: float = 0.0,
    log_floor: float = 0.0,
    *,
    out: tuple[Array, Array, Array] | None = None,
) -> CodebookEntropy:
    """Compute the entropy of every row's softmax over the codes, and the mean of these softmaxes, without writing them.

    With ``z_nk = inv_temperature * s(x_n, c_k)``, s the product (dot), minus the squared distance (l2) or the cosine:
    ``lse_n = log sum_k exp z_nk``, ``p_nk = exp(z_nk - lse_n)``,
    ``entropy_n = -sum_k p_nk log(max(p_nk, log_floor) + log_add)``, ``mean_prob_k = sum_n w_n p_nk / sum_n w_n``.
    Without guards the logarithm is exact, with ``0 log 0 = 0``. Sums are float32 or better, in an order that depends on
    shapes alone. The cosine of a zero vector is 0.

    A row of weight 0 has no share in mean_prob, whatever it holds. Any other NaN row makes mean_prob NaN; its entropy
    and lse are NaN, those of other rows are not touched. A code that is not finite makes everything NaN in its book.
    Weights that add up to 0, and N = 0, give a mean_prob of zeros.

    Args:
        x: (N, D) or (Q, N, D) float32, float16 or bfloat16, any outer strides.
        codes: (K, D) or (Q, K, D) of that dtype, K at least 1. What has no books serves all of them.
        inv_temperature: multiplies the scores, in [0, 1e6].
        metric: 'dot', 'l2' or 'cosine'.
        weight: (N) or (Q, N) float32; ones by default.
        log_add, log_floor: 0 or in [1e-30, 1].
        out: arrays to fill instead of new ones, in the order of the result.

    Returns:
        CodebookEntropy of entropy (N), mean_prob (K) and lse (N), float32; (Q, ...) with books.

    Raises:
        ValueError: a rank or extent does not fit, there is no code, or a number or the metric is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    >>> found = codebook_entropy(x, x, inv_temperature=100.0)
    >>> found.entropy.round(3), found.mean_prob, found.lse
    (array([0., 0.], dtype=float32), array([0.5, 0.5], dtype=float32), array([100., 100.], dtype=float32))

    The entropy loss of LFQ (arXiv 2310.05737, section 3.1), whose authors' followers guard the logarithm by log_floor
    1e-5; of IBQ (arXiv 2412.02692) and LlamaGen (arXiv 2406.06525) with inv_temperature 100.
    """
    arrays = (None,) * 3 if out is None else out
    module = extension_of("codebook_entropy", "x", x)
    return CodebookEntropy(
        *module.codebook_entropy(x, codes, inv_temperature, metric, weight, log_add, log_floor, *arrays)
    )


def codebook_entropy_backward(
    x: Array,
    codes: Array,
    lse: Array,
    grad_entropy: Array | None = None,
    grad_mean: Array | None = None,
    grad_lse: Array | None = None,
    inv_temperature: float = 1.0,
    metric: SoftMetric = "dot",
    weight: Array | None = None,
    log_add: float = 0.0,
    log_floor: float = 0.0,
    *,
    need_x: bool = True,
    need_codes: bool = True,
) -> tuple[Array | None, Array | None]:
    """Compute the gradient of codebook_entropy, or of codebook_lse, by rows and codes; probabilities are made again.

    With ``u = max(p, log_floor) + log_add`` and W the sum of weights,
    ``v_nk = grad_mean_k w_n / W - grad_entropy_n (log u_nk + [p_nk >= log_floor] p_nk / u_nk)`` and
    ``g_nk = p_nk (v_nk - sum_j p_nj v_nj + grad_lse_n)``: ``grad_x_n = inv_temperature sum_k g_nk ds(x_n, c_k)/dx_n``,
    likewise for codes. The gradient of a cosine by a zero vector is 0. There is none by weights. A NaN row spoils its
    own gradient and that of all codes.

    Args:
        x, codes, inv_temperature, metric, weight, log_add, log_floor: as given to the forward pass.
        lse: (N) or (Q, N) float32, its answer.
        grad_entropy, grad_lse: (N) or (Q, N) float32; zeros by default.
        grad_mean: (K) or (Q, K) float32; zeros by default.
        need_x, need_codes: which gradients are wanted, at least one.

    Returns:
        The gradients by x and by codes, of their dtype, contiguous; with books in either, both are (Q, ..., D). None
        stands for the one that was not wanted.

    Raises:
        ValueError: a rank or extent does not fit, there is no code, or a number or the metric is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> x, codes = np.array([[0.0]], np.float32), np.array([[1.0], [-1.0]], np.float32)
    >>> codebook_entropy_backward(x, codes, np.log(np.full(1, 2.0, np.float32)), grad_lse=np.ones(1, np.float32))
    (array([[0.]], dtype=float32), array([[0.],
           [0.]], dtype=float32))

    Our derivation of the losses named in :func:`codebook_entropy`.
    """
    module = extension_of("codebook_entropy_backward", "x", x)
    found = module.codebook_entropy_backward(
        x,
        codes,
        lse,
        grad_entropy,
        grad_mean,
        grad_lse,
        inv_temperature,
        metric,
        weight,
        log_add,
        log_floor,
        need_x,
        need_codes,
    )
    if need_x and need_codes:
        return found[0], found[1]
    return (found, None) if need_x else (None, found)


def codebook_lse(
    x: Array,
    codes: Array,
    inv_temperature: float = 1.0,
    metric: SoftMetric = "dot",
    *,
    out: tuple[Array, Array, Array] | None = None,
) -> CodebookLse:
    """Find the best code of every row and the normaliser of its softmax over all codes, in one pass.

    ``lse_n = log sum_k exp(inv_temperature * s(x_n, c_k))``, ``index_n = argmax_k s(x_n, c_k)``, ``best_n`` that score,
    s as in :func:`codebook_entropy`: for l2 minus the squared distance. Equal scores go to the lowest index. A row with
    a NaN or an infinity, or that meets a code with one, has lse and best NaN and index 0.

    Args:
        x: (N, D) or (Q, N, D) float32, float16 or bfloat16, any outer strides.
        codes: (K, D) or (Q, K, D) of that dtype, K at least 1. What has no books serves all of them.
        inv_temperature: multiplies the scores in lse, in [0, 1e6].
        metric: 'dot', 'l2' or 'cosine'.
        out: arrays to fill instead of new ones, in the order of the result.

    Returns:
        CodebookLse of lse (N) float32, index (N) int64 and best (N) float32; (Q, N) with books.

    Raises:
        ValueError: a rank or extent does not fit, there is no code, or a number or the metric is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> codebook_lse(np.array([[2.0]], np.float32), np.array([[0.0], [1.0], [-1.0]], np.float32))
    CodebookLse(lse=array([2.1429317], dtype=float32), index=array([1]), best=array([2.], dtype=float32))

    What index back-propagation (IBQ, arXiv 2412.02692, equation 4) needs of its 131,072 codes: the hard code, and the
    softmax of its gradient.
    """
    arrays = (None,) * 3 if out is None else out
    return CodebookLse(*extension_of("codebook_lse", "x", x).codebook_lse(x, codes, inv_temperature, metric, *arrays))


def bit_entropy(x: Array, slope: float, *, out: Array | None = None) -> Array:
    """Compute the entropy of the sign bits of every row: ``sum_d H(1 / (1 + exp(-slope x_d)))``, in nats.

    ``H(p) = -p log p - (1 - p) log(1 - p)``. Exact at any slope, 0 where a bit is saturated. A NaN makes its row NaN.
    The softmax over all codes of ``+-scale`` with logits ``2 inv_temperature x.c`` falls apart into bits of slope
    ``4 inv_temperature scale``: this is its entropy, at a cost of D instead of ``2^D``.

    Args:
        x: (..., D) float32, float16 or bfloat16, at most 4 dimensions.
        slope: in [-1e9, 1e9].
        out: array to fill instead of a new one.

    Returns:
        (...) float32, in [0, D log 2].

    Raises:
        ValueError: the rank does not fit, or the slope is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> bit_entropy(np.array([[0.0, 1e6], [0.0, 0.0]], np.float32), slope=4.0)
    array([0.6931472, 1.3862944], dtype=float32)

    Equation 9 of BSQ (arXiv 2406.07548).
    """
    return extension_of("bit_entropy", "x", x).bit_entropy(x, slope, out)


def bit_entropy_backward(grad: Array, x: Array, slope: float, *, out: Array | None = None) -> Array:
    """Compute the gradient of bit_entropy: ``-grad slope z p (1 - p)`` with ``z = slope x``, ``p = 1 / (1 + exp(-z))``.

    Args:
        grad: (...) float32.
        x: (..., D) float32, float16 or bfloat16, at most 4 dimensions.
        slope: as given to bit_entropy.
        out: array to fill instead of a new one.

    Returns:
        (..., D) of the dtype of x; 0 where a bit is saturated, NaN where x is NaN.

    Raises:
        ValueError: a rank or extent does not fit, or the slope is out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> bit_entropy_backward(np.ones(1, np.float32), np.array([[0.0, 1.0, 1e6]], np.float32), 1.0).round(4)
    array([[-0.    , -0.1966, -0.    ]], dtype=float32)

    Our derivation of equation 9 of BSQ (arXiv 2406.07548).
    """
    return extension_of("bit_entropy_backward", "x", x).bit_entropy_backward(grad, x, slope, out)


def subcode_histogram(
    x: Array, slope: float, order: BitOrder = "lsb", pool: bool = True, *, out: Array | None = None
) -> Array:
    """Count softly how often each code of a few sign bits is used, as a product over bits instead of a softmax.

    With ``p_j = 1 / (1 + exp(-slope x_j))``: the mean over tokens, and groups if pool, of
    ``prod_j (bit j of the code ? p_j : 1 - p_j)``. That is the softmax over all ``2^bits`` codes of ``+-scale`` with
    logits ``2 inv_temperature x.c``, where the slope is ``4 inv_temperature scale``. A NaN makes its histogram NaN;
    N = 0 gives zeros.

    Args:
        x: (N, G, bits) float32, float16 or bfloat16, any outer strides; 1 to 16 bits.
        slope: in [-1e9, 1e9].
        order: 'lsb': bit j is worth 2^j; 'msb': 2^(bits - 1 - j).
        pool: one histogram for all groups, or one for each.
        out: array to fill instead of a new one.

    Returns:
        (2^bits) float32, or (G, 2^bits) without pool; each adds up to 1.

    Raises:
        ValueError: the rank or number of bits does not fit, or slope or order are none of those listed.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> subcode_histogram(np.array([[[9.0, 0.0]]], np.float32), slope=4.0).round(3)
    array([0. , 0.5, 0. , 0.5], dtype=float32)

    The codebook entropy of WeTok's groups (arXiv 2508.05599, section 3.2) and of BSQ's sub-codes (arXiv 2406.07548).
    """
    return extension_of("subcode_histogram", "x", x).subcode_histogram(x, slope, order, pool, out)


def subcode_histogram_backward(
    grad: Array, x: Array, slope: float, order: BitOrder = "lsb", pool: bool = True, *, out: Array | None = None
) -> Array:
    """Compute the gradient of subcode_histogram by its bits.

    ``slope p_j (1 - p_j) / M sum_code grad_code (bit j ? 1 : -1) prod_{i != j} (bit i ? p_i : 1 - p_i)`` with M the
    number of rows that are averaged.

    Args:
        grad: (2^bits) float32 if pool, else (G, 2^bits).
        x, slope, order, pool: as given to subcode_histogram.
        out: array to fill instead of a new one.

    Returns:
        (N, G, bits) of the dtype of x; 0 where a bit is saturated. A NaN stays in its group of bits.

    Raises:
        ValueError: a rank, extent or number of bits does not fit, or slope or order are none of those listed.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> subcode_histogram_backward(np.array([0.0, 1.0], np.float32), np.zeros((1, 1, 1), np.float32), slope=4.0)
    array([[[1.]]], dtype=float32)

    Our derivation of the losses named in :func:`subcode_histogram`.
    """
    module = extension_of("subcode_histogram_backward", "x", x)
    return module.subcode_histogram_backward(grad, x, slope, order, pool, out)
