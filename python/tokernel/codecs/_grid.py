# SPDX-License-Identifier: Apache-2.0
"""Finite scalar quantization (arXiv 2309.15505): every channel is rounded to a few levels, no codebook is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokernel import ops
from tokernel.codecs._checks import whole
from tokernel.codecs._quantizer import Quantizer, dropped


class FSQ(Quantizer):
    """Round every channel to one of `levels[d]` values in [-1, 1], as :func:`tokernel.ops.fsq_encode` defines it.

    The index counts in the mixed radix of the levels, the first channel least significant; rounding is half to even and
    passes the gradient. With an even number of levels the grid is asymmetric: +1 is not reached. No losses.

    Args:
        levels: L of every channel, at least 3, or 2 where `symmetric`; their product must fit an index.
        symmetric: levels spread from -1 to 1 evenly.
        hard_clamp: clamp to [-1, 1] instead of tanh.
        dim: channels of x, where linear layers lead to len(levels) and back.
        channel_first: x is (B, dim, ...).

    >>> fsq = FSQ([8, 5])
    >>> out = fsq(torch.tensor([[0.3, -9.0]]))
    >>> out.index, bool((fsq.decode(out.index) == out.quantized).all())
    (tensor([5]), True)
    """

    def __init__(
        self,
        levels: Sequence[int],
        symmetric: bool = False,
        dim: int | None = None,
        *,
        hard_clamp: bool = False,
        channel_first: bool = False,
    ) -> None:
        levels = tuple(levels)
        if not levels:
            raise ValueError("FSQ: levels must not be empty")
        size = 1
        for level in levels:
            if whole(self, "levels", level, 2) == 2 and not symmetric:
                raise ValueError("FSQ: levels must be at least 3, or at least 2 with symmetric=True, got 2")
            size *= level
        if size > 2**63 - 1:
            raise ValueError(f"FSQ: levels must have a product below 2^63, got {size}")
        super().__init__(len(levels) if dim is None else dim, len(levels), channel_first)
        self.levels, self.symmetric, self.hard_clamp = levels, symmetric, hard_clamp
        self.codebook_size = size

    def _codes(self) -> int:
        return self.codebook_size

    def _encode(self, rows: Tensor, **_: Any) -> Tensor:
        index: Tensor = ops.fsq_encode(rows, self.levels, self.symmetric, self.hard_clamp).index
        return index

    def _decode(self, index: Tensor) -> Tensor:
        codes: Tensor = ops.fsq_decode(index.clamp(min=0), self.levels, self.symmetric)
        return torch.where((index >= 0)[:, None], codes, 0.0)

    def _quantize(self, rows: Tensor, valid: Tensor | None, **_: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        grid = ops.fsq_encode(rows, self.levels, self.symmetric, self.hard_clamp)
        index = dropped(grid.index, valid)
        # The stored codes, so that decoding gives the same bits.
        out = ops.straight_through(grid.codes, self._decode(index))
        return out if valid is None else torch.where(valid[:, None], out, 0.0), index, {}
