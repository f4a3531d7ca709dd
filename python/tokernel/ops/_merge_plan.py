# SPDX-License-Identifier: Apache-2.0
"""Merge plans of torch tensors: the plans of :mod:`tokernel.kernels.merge` over differentiable ops."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from tokernel.kernels.merge import MergePlan as KernelPlan
from tokernel.kernels.merge import _plan_makers
from tokernel.ops._merge_match import cosine_match, select_edges
from tokernel.ops._merge_rows import gather_rows
from tokernel.ops._merge_segments import segment_broadcast, segment_reduce


class TorchOps:
    """The torch twin of ``tokernel.kernels.merge._plan.HostOps``."""

    cosine_match = staticmethod(cosine_match)
    select_edges = staticmethod(select_edges)
    gather_rows = staticmethod(gather_rows)
    segment_reduce = staticmethod(segment_reduce)
    segment_broadcast = staticmethod(segment_broadcast)

    @staticmethod
    def place(values: np.ndarray[Any, Any], like: Tensor) -> Tensor:
        return torch.from_numpy(values).to(like.device)

    @staticmethod
    def fetch(values: Tensor) -> np.ndarray[Any, Any]:
        """Bring a small tensor to the host; waits for a device."""
        return values.detach().cpu().numpy()

    @staticmethod
    def arange(like: Tensor, batch: int, n: int) -> Tensor:
        return torch.arange(n, device=like.device).repeat(batch, 1)

    @staticmethod
    def eye(like: Tensor, batch: int, n: int) -> Tensor:
        return torch.eye(n, device=like.device).repeat(batch, 1, 1)

    @staticmethod
    def ones(like: Tensor, shape: tuple[int, ...]) -> Tensor:
        return torch.ones(shape, device=like.device)

    @staticmethod
    def packed(x: Tensor) -> Tensor:
        return x.contiguous()

    @staticmethod
    def ids(values: Tensor | np.ndarray[Any, Any], like: Tensor, batch: int) -> Tensor:
        """Bring a list of tokens, shared by the batch or one a sample, to (batch, n) beside a tensor."""
        ids = torch.as_tensor(values, device=like.device)
        return (ids.expand(batch, -1) if ids.ndim == 1 else ids).contiguous()

    @staticmethod
    def permutations(like: Tensor, batch: int, n: int, generator: Generator | None) -> Tensor:
        device = generator.device if generator is not None else like.device
        return torch.rand(batch, n, generator=generator, device=device).argsort(1).to(like.device)

    @staticmethod
    def grid_partition(
        like: Tensor, size: tuple[int, int], cell: tuple[int, int], generator: Generator | None, no_rand: bool
    ) -> tuple[Tensor, Tensor]:
        """One destination a cell, the same for the whole batch; the other tokens are sources. Both lists ascend."""
        (w, h), (sx, sy) = size, cell
        shape = (h // sy, w // sx)
        device = generator.device if generator is not None else like.device
        if no_rand:
            pick = torch.zeros(shape, dtype=torch.int64, device=like.device)
        else:
            pick = torch.randint(sx * sy, shape, generator=generator, device=device).to(like.device)
        rows = torch.arange(shape[0], device=like.device)[:, None] * sy + pick // sx
        columns = torch.arange(shape[1], device=like.device) * sx + pick % sx
        is_destination = torch.zeros(w * h, dtype=torch.uint8, device=like.device)
        is_destination[(rows * w + columns).reshape(-1)] = 1
        order = is_destination.argsort(stable=True)  # unlike nonzero, its shape depends on no data
        sources = w * h - shape[0] * shape[1]
        return order[:sources], order[sources:]


class MergePlan(KernelPlan):
    """The outcome of one match of torch tensors: merge any payload along it, and undo that.

    As :class:`tokernel.kernels.merge.MergePlan`, with tensors on any device; `merge`, `unmerge` and
    `merge_weighted` are differentiable in their payload.

    >>> plan = bipartite_match(torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 1.0]]]), r=1)
    >>> plan.merge(torch.tensor([[[2.0], [4.0], [6.0], [8.0]]])).flatten()
    tensor([6., 3., 8.])
    """

    ops: ClassVar[Any] = TorchOps


def bipartite_match(metric: Tensor, r: int, class_token: bool = False, distill_token: bool = False) -> MergePlan:
    """Plan the merge of the r most redundant even tokens into their most similar odd tokens. Torch form of
    :func:`tokernel.kernels.merge.bipartite_match`, which explains the arguments.

    >>> bipartite_match(torch.eye(8)[None], r=2)
    MergePlan(batch=1, tokens=8, kept=6)
    """
    return _plan_makers.bipartite(MergePlan, metric, r, class_token, distill_token)


def kth_match(metric: Tensor, k: int) -> MergePlan:
    """Plan the merge of k - 1 of every k tokens into the last token of some group of k. Torch form of
    :func:`tokernel.kernels.merge.kth_match`, which explains the arguments.

    >>> kth_match(torch.eye(7)[None], k=3)
    MergePlan(batch=1, tokens=7, kept=2)
    """
    return _plan_makers.kth(MergePlan, metric, k)


def random_match(
    metric: Tensor, r: int, generator: Generator | None = None, partition: tuple[Tensor, Tensor] | None = None
) -> MergePlan:
    """Plan the merge of r tokens drawn at random, each into its most similar other token. Torch form of
    :func:`tokernel.kernels.merge.random_match`, which explains the arguments; `generator` is a torch one.

    >>> random_match(torch.eye(6)[None], r=2)
    MergePlan(batch=1, tokens=6, kept=4)
    """
    return _plan_makers.random(MergePlan, metric, r, generator, partition)


def match_2d(
    metric: Tensor,
    w: int,
    h: int,
    sx: int,
    sy: int,
    r: int,
    generator: Generator | None = None,
    no_rand: bool = False,
    partition: tuple[Tensor, Tensor] | None = None,
) -> MergePlan:
    """Plan the merge of r tokens of an image into one destination per cell of sx by sy tokens. Torch form of
    :func:`tokernel.kernels.merge.match_2d`, which explains the arguments; `generator` is a torch one.

    >>> match_2d(torch.eye(16)[None], 4, 4, 2, 2, r=8)
    MergePlan(batch=1, tokens=16, kept=8)
    """
    return _plan_makers.grid(MergePlan, metric, (w, h), (sx, sy), r, generator, no_rand, partition)


def threshold_match(
    metric: Tensor,
    tau: float | None = None,
    r: int | None = None,
    class_token: bool = False,
    max_r: int | None = None,
    valid: Tensor | None = None,
) -> tuple[MergePlan, float]:
    """Plan a merge whose size depends on the content. Torch form of
    :func:`tokernel.kernels.merge.threshold_match`, which explains the arguments. Waits for the device, because the
    number of tokens that remain is data; for the same reason it breaks a compiled graph.

    >>> threshold_match(torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 1.0]]]), tau=0.9)
    (MergePlan(batch=1, tokens=4, kept=3), 0.9)
    """
    return _plan_makers.threshold(MergePlan, metric, tau, r, class_token, max_r, valid)
