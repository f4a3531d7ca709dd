# SPDX-License-Identifier: Apache-2.0
"""Items that lie far apart."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["farthest_points"]


def farthest_points(
    x: Array,
    k: int,
    metric: str = "cosine",
    mode: str = "maxmin",
    start: str | int | Array = "maxmin",
    mask: Array | None = None,
    return_score: bool = False,
    *,
    out: tuple[Array, Array] | None = None,
) -> Array | tuple[Array, Array]:
    """Pick k rows of every sample one by one, each time the one of the highest score given those picked before.

    ``d(i, j) = max(0, 1 - cos(x_i, x_j))``, where a zero row has cosine 0 with every row, or ``|x_i - x_j|`` (l2).
    maxmin: ``score[j] = min_s d(s, j)`` over the picks s so far; maxsum: ``score[j] = sum_s d(s, j)``, in their order.
    No row is picked twice, and of equals the lowest index comes first. The picks for k begin those for k + 1.

    Args:
        x: (B, N, D) or (N, D) float32, float16 or bfloat16; strided views are read in place.
        k: in [0, N].
        metric: "cosine" or "l2".
        mode: "maxmin" or "maxsum".
        start: the first pick: an index in [0, N), one a sample as an integer array (B,), or "maxmin", the row whose
            nearest other row is farthest.
        mask: (B, N) or (N,) bool, True where a row may be picked.
        return_score: whether the scores are answered too.
        out: arrays (order, score) to fill instead of new ones.

    Returns:
        order (B, k) or (k,) int64, in the order of the picks; with return_score also score of that shape in float32,
        the score with which each was picked. A given start has score +inf, and a start that was found the distance to
        its nearest other row (+inf where there is none).

        Products and sums are in float32; l2 distances are compared before the root is taken. A row with a NaN or an
        infinity (l2: or whose squared norm overflows float32) scores NaN. Such rows come after all numbers, and
        masked rows with score -inf after these, by ascending index; neither counts in the scores of others, not even
        as a given start: before the first pick that counts, maxmin scores are +inf and maxsum scores 0.

    Raises:
        ValueError: a rank or extent does not fit, k or a start is out of range, or metric, mode or start is an unknown
            word.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> x = np.array([[0.0], [1.0], [5.0], [9.0]], np.float32)
    >>> farthest_points(x, 3, "l2", start=0)
    array([0, 3, 2])
    >>> farthest_points(x, 2, "l2", return_score=True)
    (array([2, 0]), array([4., 5.], dtype=float32))

    The selection of DivPrune (arXiv 2503.02175, section 3) and, with mode="maxsum" and a given start, of ToDRE (arXiv
    2505.18757, stage 1); Gonzalez, Clustering to minimize the maximum intercluster distance (1985).
    """
    order, score = out or (None, None)
    extension = extension_of("farthest_points", "x", x)
    order, score = extension.farthest_points(x, k, metric, mode, start, mask, order, score)
    return (order, score) if return_score else order
