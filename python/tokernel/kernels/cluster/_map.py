# SPDX-License-Identifier: Apache-2.0
"""Which clusters of keys a cluster of queries attends to, estimated from their centroids."""

from __future__ import annotations

from tokernel.kernels._arrays import Array, extension_of

__all__ = ["centroid_topp_map", "map_density"]


def centroid_topp_map(
    qc: Array,
    kc: Array,
    size_k: Array,
    p: float,
    min_ratio: float = 0.0,
    scale: float | None = None,
    return_prob: bool = False,
    *,
    out: Array | tuple[Array, Array] | None = None,
) -> Array | tuple[Array, Array]:
    """Keep, for every query centroid, the fewest key clusters whose estimated share of the attention passes p.

    With ``s = scale * <qc_i, kc_j>``, ``m = max_j s`` (empty clusters included) and ``e_j = size_k[j] * exp(s_j - m)``
    the share of cluster j is ``e_j / max(sum(e), 1e-12)``; that of an empty cluster is 0. In descending share, equal
    shares by ascending j, a cluster is kept while the clusters before it hold at most the mass p: the one that passes
    p is kept, and so is always the first. The first ``int(min_ratio * K)`` are kept whatever their mass.

    Scores and shares are float32; mass is counted exactly in units of 2**-60, so that the map is the same function of
    the shares on every backend. ``p=1`` keeps every cluster, empty ones too. A row with a NaN or infinite score has
    NaN shares and keeps every cluster, so that the attention behind the map shows the NaN.

    Args:
        qc: (B, H, Q, D) float32, float16 or bfloat16, centroids of query clusters.
        kc: (B, H, K, D) of the dtype of qc, centroids of key clusters.
        size_k: (B, H, K) int64 or int32, tokens in each key cluster, no less than 0.
        p: mass to pass, in [0, 1]. A smaller p keeps a subset.
        min_ratio: share of the key clusters that is kept in any case, in [0, 1].
        scale: of the scores; None is ``D ** -0.5``.
        return_prob: return the shares as well.
        out: the map, or (map, shares) with `return_prob`, to fill instead of new arrays.

    Returns:
        map (B, H, Q, K) bool, and with `return_prob` the shares (B, H, Q, K) float32.

    Raises:
        ValueError: a rank or extent does not fit, p or min_ratio is not in [0, 1], scale is not finite, or a size is
            negative.
        TypeError: not an array, a dtype that is not listed, or no number.

    >>> import numpy as np
    >>> qc = np.array([[[[1.0]]]], dtype=np.float32)
    >>> kc = np.log(np.array([[[[5.0], [3.0], [2.0]]]], dtype=np.float32))
    >>> centroid_topp_map(qc, kc, np.array([[[1, 1, 1]]]), p=0.6)[0, 0, 0]
    array([ True,  True, False])

    Sparse VideoGen2 (arXiv 2505.18875, centroid-based top-p selection).
    """
    map_, prob = (out or (None, None)) if return_prob else (out, None)
    module = extension_of("centroid_topp_map", "qc", qc)
    return module.centroid_topp_map(qc, kc, size_k, p, min_ratio, scale, bool(return_prob), map_, prob)


def map_density(map: Array, size_q: Array, size_k: Array, *, out: Array | None = None) -> Array:
    """Measure the share of all (query, key) pairs that a block map keeps.

    ``density[b, h] = sum(map * outer(size_q, size_k)) / sum(outer(size_q, size_k))``, counted exactly in int64 and
    rounded once after the division. Where there is no pair at all (0 / 0) the density is 0.

    Args:
        map: (B, H, Q, K) bool or uint8, True where the block is kept.
        size_q: (B, H, Q) int64 or int32, no less than 0.
        size_k: (B, H, K) int64 or int32, no less than 0.
        out: (B, H) float32 array to fill instead of a new one.

    Returns:
        (B, H) float32.

    Raises:
        ValueError: a rank or extent does not fit, a size is negative, or int64 cannot count the pairs.
        TypeError: not an array, or a dtype that is not listed.

    >>> import numpy as np
    >>> map_density(np.array([[[[True, False], [True, True]]]]), np.array([[[3, 1]]]), np.array([[[1, 1]]]))
    array([[0.625]], dtype=float32)

    Sparse VideoGen2 (arXiv 2505.18875); the paper's density of a head.
    """
    return extension_of("map_density", "map", map).map_density(map, size_q, size_k, out)
