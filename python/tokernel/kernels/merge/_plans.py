# SPDX-License-Identifier: Apache-2.0
"""The matches of ToMe, its diffusion variant and DyMU, over any DLPack array."""

from __future__ import annotations

from numpy.random import Generator

from tokernel.kernels._arrays import Array
from tokernel.kernels.merge import _plan_makers
from tokernel.kernels.merge._plan import MergePlan

__all__ = ["bipartite_match", "kth_match", "match_2d", "random_match", "threshold_match"]


def bipartite_match(metric: Array, r: int, class_token: bool = False, distill_token: bool = False) -> MergePlan:
    """Plan the merge of the r most redundant even tokens into their most similar odd tokens.

    Output order is [unmerged even tokens, odd tokens], by similarity or, with a class token, by position;
    [unm[0], odd 0, unm[1:], odd 1..] with a distillation token.

    Args:
        metric: (B, N, D) float32, float16 or bfloat16, e.g. attention keys averaged over heads.
        r: tokens to remove, at most (N - protected) // 2, none where no token may take a partner; 0 or less gives the
            identity.
        class_token: token 0 merges with nobody.
        distill_token: token 1 takes no partner.

    Returns:
        MergePlan that keeps N - r tokens. Ties: the most similar, then the lowest token. Zero vectors have
        cosine 0; a vector with NaN merges last, into the lowest token that may take it.

    Raises:
        ValueError: metric is not (B, N, D).
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> metric = np.array([[[1, 0], [1, 0.1], [0, 1], [1, 1]]], dtype=np.float32)
    >>> bipartite_match(metric, r=1)
    MergePlan(batch=1, tokens=4, kept=3)

    ToMe (arXiv 2210.09461, section 3).
    """
    return _plan_makers.bipartite(MergePlan, metric, r, class_token, distill_token)


def kth_match(metric: Array, k: int) -> MergePlan:
    """Plan the merge of k - 1 of every k tokens into the last token of some group of k.

    Args:
        metric: (B, N, D) float32, float16 or bfloat16; the last N % k tokens are dropped (map -1).
        k: group size; 1 or less gives the identity.

    Returns:
        MergePlan that keeps N // k tokens.

    Raises:
        ValueError: metric is not (B, N, D).
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> kth_match(np.eye(7, dtype=np.float32)[None], k=3)
    MergePlan(batch=1, tokens=7, kept=2)

    ToMe (arXiv 2210.09461), the k-th token variant of the official code.
    """
    return _plan_makers.kth(MergePlan, metric, k)


def random_match(
    metric: Array, r: int, generator: Generator | int | None = None, partition: tuple[Array, Array] | None = None
) -> MergePlan:
    """Plan the merge of r tokens drawn at random, each into its most similar other token.

    Args:
        metric: (B, N, D) float32, float16 or bfloat16.
        r: tokens to remove, at most N - 1; 0 or less gives the identity. Not used with a partition.
        generator: NumPy generator or seed of the draw, one permutation a sample.
        partition: (sources, destinations) instead of a draw, int64, (B, R) and (B, M) or shared (R,) and (M,).

    Returns:
        MergePlan that keeps the destinations, in the order of the permutation or partition.

    Raises:
        ValueError: metric is not (B, N, D), or the partition names a token twice or out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> random_match(np.eye(6, dtype=np.float32)[None], r=2, generator=0)
    MergePlan(batch=1, tokens=6, kept=4)

    ToMe (arXiv 2210.09461), the random variant of the official code.
    """
    return _plan_makers.random(MergePlan, metric, r, generator, partition)


def match_2d(
    metric: Array,
    w: int,
    h: int,
    sx: int,
    sy: int,
    r: int,
    generator: Generator | int | None = None,
    no_rand: bool = False,
    partition: tuple[Array, Array] | None = None,
) -> MergePlan:
    """Plan the merge of r tokens of an image into one destination per cell of sx by sy tokens.

    Output order is [unmerged sources, destinations], destinations ascending.

    Args:
        metric: (B, h * w, D) float32, float16 or bfloat16, row-major.
        w, h: tokens per row, and rows.
        sx, sy: width and height of a cell. Tokens right of and below the last whole cell are sources.
        r: tokens to remove, at most the number of sources; 0 or less gives the identity.
        generator: NumPy generator or seed that draws the destination of each cell, the same for the whole batch.
        no_rand: the destination is the top left token of the cell.
        partition: (sources, destinations) instead, int64, (S,) and (M,) or one list a sample.

    Returns:
        MergePlan that keeps h * w - r tokens.

    Raises:
        ValueError: metric is not (B, h * w, D), a cell is empty, or the partition names a token twice or out of range.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> match_2d(np.eye(16, dtype=np.float32)[None], 4, 4, 2, 2, r=8, no_rand=True)
    MergePlan(batch=1, tokens=16, kept=8)

    ToMe for Stable Diffusion (arXiv 2303.17604, section 3).
    """
    return _plan_makers.grid(MergePlan, metric, (w, h), (sx, sy), r, generator, no_rand, partition)


def threshold_match(
    metric: Array,
    tau: float | None = None,
    r: int | None = None,
    class_token: bool = False,
    max_r: int | None = None,
    valid: Array | None = None,
) -> tuple[MergePlan, float]:
    """Plan a merge whose size depends on the content: every edge above a similarity, or the batch's best edges.

    Give `tau` to merge the even tokens whose best cosine is greater, or `r` to merge the r best edges per sample
    on average, chosen over the whole batch, and to learn the threshold that does the same.

    Output order is [unmerged even tokens, odd tokens, padding]; the even tokens by position, or by similarity
    where one sample without class token is merged by threshold.

    Args:
        metric: (B, N, D) float32, float16 or bfloat16.
        tau: threshold, strict. At most (n - protected) // 2 of a sample's n tokens merge, here and with r.
        r: edges per sample on average, at most (N - protected) // 2.
        class_token: token 0 merges with nobody.
        max_r: most edges a sample may give.
        valid: (B, N) bool, False for padding, which is dropped (map -1).

    Returns:
        The plan, and the threshold: `tau` itself, or max(0, the best similarity that was not merged). Samples
        that keep fewer than `plan.kept` tokens end in empty tokens (`plan.valid`).

    Raises:
        ValueError: metric is not (B, N, D), or not exactly one of tau and r is given.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> metric = np.array([[[1, 0], [1, 0.1], [0, 1], [1, 1]]], dtype=np.float32)
    >>> threshold_match(metric, tau=0.9)
    (MergePlan(batch=1, tokens=4, kept=3), 0.9)

    DyMU (arXiv 2504.17040, section 3.1).
    """
    return _plan_makers.threshold(MergePlan, metric, tau, r, class_token, max_r, valid)
