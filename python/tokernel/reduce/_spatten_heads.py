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
    therefore computes its own heads and nothing else. Weights are read in place, one run of neighbouring heads after
    another: a copy of the slice would cost a generated token more than the slice saves.

    Args:
        heads: (B, h) int64, ascending.
        total: heads of the layer.
        width: of a head.
    """

    def __init__(self, heads: Tensor, total: int, width: int) -> None:
        self.width = width
        self.all = heads.shape[1] == total
        self.own: Tensor | None = None
        if self.all:
            return
        union = heads[0] if len(heads) == 1 else heads.unique()
        self.union = len(union)
        self.runs = [slice(first * width, end * width) for first, end in _runs(union.tolist())]
        if self.union > heads.shape[1]:
            self.own = torch.searchsorted(union, heads)

    def split(self, x: Tensor) -> Tensor:
        """(B, N, union * D) -> (B, h, N, D), every sample its own heads."""
        x = x.unflatten(-1, (-1, self.width)).transpose(1, 2)
        if self.own is None:
            return x
        return x.gather(1, self.own[:, :, None, None].expand(-1, -1, *x.shape[2:]))

    def join(self, e: Tensor) -> Tensor:
        """(B, h, N, D) -> (B, N, union * D); zero where a sample lacks a head."""
        if self.own is not None:
            shape = (len(e), self.union, *e.shape[2:])
            e = e.new_zeros(shape).scatter(1, self.own[:, :, None, None].expand_as(e), e)
        return e.transpose(1, 2).flatten(2)

    def linear_in(self, module: nn.Linear, x: Tensor) -> Tensor:
        """Project x to the heads (B, h, N, D)."""
        if self.all:
            return self.split(module(x))
        return self.split(self._rows(x, module.weight, module.bias))

    def linear_out(self, module: nn.Linear, e: Tensor) -> Tensor:
        """Project the heads' outputs; those of pruned heads are zero, their weights are not read."""
        if self.all:
            return module(self.join(e))  # type: ignore[no-any-return]
        return self._columns(self.join(e), module.weight, module.bias)

    def conv_in(self, module: Any, x: Tensor) -> list[Tensor]:
        """As :meth:`linear_in`, for transformers' Conv1D with q, k and v side by side."""
        if self.all:
            return [self.split(part) for part in module(x).chunk(3, -1)]
        weights, biases = module.weight.mT.chunk(3), module.bias.chunk(3)
        return [self.split(self._rows(x, *part)) for part in zip(weights, biases, strict=True)]

    def conv_out(self, module: Any, e: Tensor) -> Tensor:
        """As :meth:`linear_out`, for transformers' Conv1D."""
        if self.all:
            return module(self.join(e))  # type: ignore[no-any-return]
        return self._columns(self.join(e), module.weight.mT, module.bias)

    def _rows(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The outputs of the runs alone, side by side."""
        parts = [functional.linear(x, weight[run], None if bias is None else bias[run]) for run in self.runs]
        return torch.cat(parts, -1)

    def _columns(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The output of the runs as inputs, with x holding them side by side."""
        out: Tensor | None = None
        parts = x.split([run.stop - run.start for run in self.runs], -1)
        for part, run in zip(parts, self.runs, strict=True):
            product = functional.linear(part, weight[:, run], bias if out is None else None)
            out = product if out is None else out + product
        assert out is not None  # at least one head is left
        return out


def _runs(heads: list[int]) -> list[tuple[int, int]]:
    """Neighbours together: [0, 1, 4] -> [(0, 2), (4, 5)]."""
    first = [h for i, h in enumerate(heads) if i == 0 or heads[i - 1] != h - 1]
    last = [h for i, h in enumerate(heads) if i + 1 == len(heads) or heads[i + 1] != h + 1]
    return [(a, b + 1) for a, b in zip(first, last, strict=True)]
