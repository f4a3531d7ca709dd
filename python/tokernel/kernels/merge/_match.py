# SPDX-License-Identifier: Apache-2.0
"""Who merges with whom: the two ops behind every merge plan."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["cosine_match", "select_edges"]


def cosine_match(
    a: Array,
    b: Array,
    mask_a: Array | None = None,
    mask_b: Array | None = None,
    *,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Find the most similar row of b for every row of a, without storing the similarity matrix.

    ``score[i] = max_j <a_i, b_j> / (|a_i| |b_j|)`` and ``index[i]`` is the lowest j that reaches it.

    Args:
        a: (B, Na, D) float32, float16 or bfloat16; a strided view such as ``metric[:, ::2]`` is read in place.
        b: (B, Nb, D) of the dtype of a.
        mask_a: (B, Na) bool or uint8; True where the row may find a partner.
        mask_b: (B, Nb) bool or uint8; True where the row may be one.
        out: arrays to fill instead of new ones.

    Returns:
        score (B, Na) float32 and index (B, Na) int64. A zero vector has cosine 0 with every finite vector; one with a
        NaN or an infinity never matches. A row without partner has score -inf and the lowest index that mask_b admits
        (0 where it admits none).

    Raises:
        ValueError: a rank or extent does not fit.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> a = np.array([[[1, 0], [0, 0]]], dtype=np.float32)
    >>> b = np.array([[[0, 2], [3, 0], [5, 0]]], dtype=np.float32)
    >>> cosine_match(a, b)
    (array([[1., 0.]], dtype=float32), array([[1, 0]]))

    The matching step of ToMe (arXiv 2210.09461, section 3).
    """
    score, index = out or (None, None)
    return extension_of("cosine_match", "a", a).cosine_match(a, b, mask_a, mask_b, score, index)  # type: ignore[no-any-return]


def select_edges(
    score: Array | None,
    index: Array,
    r: int,
    columns: int,
    *,
    take: Array | None = None,
    valid: Array | None = None,
    class_token: bool = False,
    distill_token: bool = False,
    sort_unmerged: bool = False,
    a_ids: Array | None = None,
    b_ids: Array | None = None,
    tokens: int | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Turn the best r proposals of a match into merges, and tell every token its output token.

    Rows are ordered by score descending, then index ascending; NaN and -inf come last, row 0 behind them with
    `class_token`. The first r rows merge into the columns they propose. Output tokens are [unmerged rows, columns], or
    [unm[0], column 0, unm[1:], columns 1..] with `distill_token`.

    Args:
        score: (B, Na) float32; None takes the rows in ascending order.
        index: (B, Na) int64 or int32 in [0, columns): the column each row proposes.
        r: how many rows merge, in [0, Na], one less with `class_token`.
        columns: Nb, how many destinations there are.
        take: (B,) int64 in [0, r]; edges of each sample where they differ. Lists are then padded with -1.
        valid: (B, N) bool or uint8, False for padding: in no list, map -1, not counted among the output tokens.
        class_token: row 0 never merges.
        distill_token: column 0 stands second in the output.
        sort_unmerged: list the unmerged rows in ascending order.
        a_ids: (B, Na) int64, the tokens that are rows; None means the even tokens.
        b_ids: (B, Nb) int64, the tokens that are columns; None means the odd tokens. No token may be named twice
            (checked on the host only).
        tokens: N; None means Na + Nb. Tokens that no list names are dropped.

    Returns:
        unm (B, Na - r) the rows that stay ((B, Na), padded with -1, where take or valid is given), src (B, r) the rows
        that merge, dst (B, r) their columns, map (B, N) the output token of every token or -1; all int64.

    Raises:
        ValueError: a rank or extent does not fit, r or a value of index, take or ids is out of range, or the numbers of
            rows and columns are not those of even and odd tokens and no ids are given.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> score = np.array([[0.5, 0.9, 0.1]], dtype=np.float32)
    >>> select_edges(score, np.array([[0, 1, 1]]), 1, 2)
    (array([[0, 2]]), array([[1]]), array([[1]]), array([[0, 2, 3, 3, 1]]))

    Steps 4 to 6 of bipartite soft matching (ToMe, arXiv 2210.09461, appendix D).
    """
    extension = extension_of("select_edges", "index", index)
    return extension.select_edges(  # type: ignore[no-any-return]
        score,
        index,
        r,
        columns,
        take,
        valid,
        class_token,
        distill_token,
        sort_unmerged,
        a_ids,
        b_ids,
        tokens,
    )
