# SPDX-License-Identifier: Apache-2.0
"""Projections of the heads that are left: slices of weights, not masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["HeadSet"]


class HeadSet:
    """The heads that each sample of a batch keeps, and the weights to read for them.

    Projections are computed for the heads that any sample keeps; of those, every sample takes its own. A batch of one
    therefore computes its own heads and nothing else.

    Args:
        heads: (B, h) int64, ascending.
        total: heads of the layer.
        width: of a head.
    """

    def __init__(self, heads: Tensor, total: int, width: int) -> None:
        self.count = heads.shape[1]
        self.width = width
        self.all = self.count == total
        self.union = heads[0] if len(heads) == 1 else heads.unique()
        self.own: Tensor | None = None
        if len(self.union) > self.count:
            self.own = torch.searchsorted(self.union, heads)

    def channels(self, part: int = 0, size: int = 0) -> Tensor:
        """Output channels of the union's heads in block `part` of a projection whose blocks are `size` wide."""
        inside = torch.arange(self.width, device=self.union.device)
        return (self.union[:, None] * self.width + inside).flatten() + part * size

    def split(self, x: Tensor) -> Tensor:
        """(B, N, union * D) -> (B, h, N, D), every sample its own heads."""
        x = x.unflatten(-1, (-1, self.width)).transpose(1, 2)
        if self.own is None:
            return x
        return x.gather(1, self.own[:, :, None, None].expand(-1, -1, *x.shape[2:]))

    def join(self, e: Tensor) -> Tensor:
        """(B, h, N, D) -> (B, N, union * D); zero where a sample lacks a head."""
        if self.own is not None:
            shape = (len(e), len(self.union), *e.shape[2:])
            e = e.new_zeros(shape).scatter(1, self.own[:, :, None, None].expand_as(e), e)
        return e.transpose(1, 2).flatten(2)

    def linear_in(self, module: nn.Linear, x: Tensor) -> Tensor:
        """Project x to the heads (B, h, N, D)."""
        if self.all:
            return self.split(module(x))
        rows = self.channels()
        bias = None if module.bias is None else module.bias[rows]
        return self.split(functional.linear(x, module.weight[rows], bias))

    def linear_out(self, module: nn.Linear, e: Tensor) -> Tensor:
        """Project the heads' outputs; those of pruned heads are zero, their weights are not read."""
        if self.all:
            return module(self.join(e))  # type: ignore[no-any-return]
        return functional.linear(self.join(e), module.weight[:, self.channels()], module.bias)

    def conv_in(self, module: Any, x: Tensor) -> list[Tensor]:
        """As :meth:`linear_in`, for transformers' Conv1D with q, k and v side by side."""
        if self.all:
            return [self.split(part) for part in module(x).chunk(3, -1)]
        size = module.weight.shape[1] // 3
        columns = torch.cat([self.channels(part, size) for part in range(3)])
        qkv = functional.linear(x, module.weight[:, columns].mT, module.bias[columns])
        return [self.split(part) for part in qkv.chunk(3, -1)]

    def conv_out(self, module: Any, e: Tensor) -> Tensor:
        """As :meth:`linear_out`, for transformers' Conv1D."""
        if self.all:
            return module(self.join(e))  # type: ignore[no-any-return]
        return functional.linear(self.join(e), module.weight[self.channels()].mT, module.bias)
