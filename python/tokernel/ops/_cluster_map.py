# SPDX-License-Identifier: Apache-2.0
"""Family cluster as torch ops: the map of clusters that meet. No gradient: the answers are decisions and estimates."""

from __future__ import annotations

import torch
from torch import Tensor

from tokernel.kernels import cluster as kernels
from tokernel.ops._torch_op import define

__all__ = ["centroid_topp_map", "map_density"]


def _map_and_shares(
    qc: Tensor, kc: Tensor, size_k: Tensor, p: float, min_ratio: float, scale: float | None
) -> tuple[Tensor, Tensor]:
    return kernels.centroid_topp_map(qc, kc, size_k, p, min_ratio, scale, True)


def _map_fake(
    qc: Tensor, kc: Tensor, size_k: Tensor, p: float, min_ratio: float = 0.0, scale: float | None = None
) -> Tensor:
    return qc.new_empty((*qc.shape[:3], kc.shape[2]), dtype=torch.bool)


def _map_and_shares_fake(
    qc: Tensor, kc: Tensor, size_k: Tensor, p: float, min_ratio: float = 0.0, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    map_ = _map_fake(qc, kc, size_k, p)
    return map_, torch.empty_like(map_, dtype=torch.float32)


_ARGUMENTS = "(Tensor qc, Tensor kc, Tensor size_k, float p, float min_ratio, float? scale)"
_map = define(f"centroid_topp_map{_ARGUMENTS} -> Tensor", kernels.centroid_topp_map, _map_fake)
_map_with_shares = define(
    f"centroid_topp_map_prob{_ARGUMENTS} -> (Tensor, Tensor)", _map_and_shares, _map_and_shares_fake
)


def centroid_topp_map(
    qc: Tensor,
    kc: Tensor,
    size_k: Tensor,
    p: float,
    min_ratio: float = 0.0,
    scale: float | None = None,
    return_prob: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Keep, for every query centroid, the fewest key clusters whose estimated share of the attention passes p.
    Torch form of :func:`tokernel.kernels.cluster.centroid_topp_map`, which explains the rule; without gradient.

    Args:
        qc: (B, H, Q, D) float32, float16 or bfloat16.
        kc: (B, H, K, D) of the dtype of qc.
        size_k: (B, H, K) int64 or int32, no less than 0.
        p: mass to pass, in [0, 1].
        min_ratio: share of the key clusters that is kept in any case, in [0, 1].
        scale: of the scores; None is ``D ** -0.5``.
        return_prob: return the shares as well.

    Returns:
        map (B, H, Q, K) bool, and with `return_prob` the shares (B, H, Q, K) float32.

    >>> qc, kc = torch.ones(1, 1, 1, 1), torch.tensor([5.0, 3.0, 2.0]).log().reshape(1, 1, 3, 1)
    >>> centroid_topp_map(qc, kc, torch.ones(1, 1, 3, dtype=torch.int64), p=0.6)[0, 0, 0]
    tensor([ True,  True, False])
    """
    op = _map_with_shares if return_prob else _map
    answer: Tensor | tuple[Tensor, Tensor] = op(qc.detach(), kc.detach(), size_k, p, min_ratio, scale)
    return answer


def _map_density_fake(map: Tensor, size_q: Tensor, size_k: Tensor) -> Tensor:
    return map.new_empty(map.shape[:2], dtype=torch.float32)


_map_density = define(
    "map_density(Tensor map, Tensor size_q, Tensor size_k) -> Tensor", kernels.map_density, _map_density_fake
)


def map_density(map: Tensor, size_q: Tensor, size_k: Tensor) -> Tensor:
    """Measure the share of all (query, key) pairs that a block map keeps. Torch form of
    :func:`tokernel.kernels.cluster.map_density`; without gradient.

    Args:
        map: (B, H, Q, K) bool or uint8.
        size_q: (B, H, Q) int64 or int32, no less than 0.
        size_k: (B, H, K) int64 or int32, no less than 0.

    Returns:
        (B, H) float32; 0 where there is no pair at all.

    >>> map_density(torch.tensor([[[[True, False]]]]), torch.tensor([[[3]]]), torch.tensor([[[1, 3]]]))
    tensor([[0.2500]])
    """
    out: Tensor = _map_density(map, size_q, size_k)
    return out
