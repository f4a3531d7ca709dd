# SPDX-License-Identifier: Apache-2.0
"""Keys and values of a batch whose rows have lengths of their own, with room behind each for a tree that may go."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from tokernel import ops

__all__ = ["TreeCache"]


class TreeCache(Cache):
    """What transformers' layers write to: one array (L, B, G, S, D) of keys, one of values, allocated ahead.

    A pass writes the nodes ``first..`` of a tree behind ``lengths[b]`` committed rows. Nothing is committed by writing.

    Attributes:
        keys, values: None until a layer has written.
        lengths: (B) int64, committed rows.
        capacity: S, rows allocated for every sequence; doubled when a pass needs more.
    """

    def __init__(self, layers: int, rows: int, capacity: int, device: torch.device) -> None:
        super().__init__(layers=[])
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.depth = layers
        self.capacity = capacity
        self.longest = 0
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        self._slots: slice | tuple[Tensor, Tensor] = slice(0, 0)

    def __len__(self) -> int:
        return self.depth

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The longest committed row."""
        return self.longest

    def grow(self, rows: int) -> None:
        """Have room for that many rows a sequence."""
        if rows <= self.capacity:
            return
        self.capacity = max(rows, 2 * self.capacity)
        self.keys, self.values = (self._moved(held) for held in (self.keys, self.values))

    def _moved(self, held: Tensor | None) -> Tensor | None:
        if held is None:
            return None
        more = held.new_zeros((*held.shape[:3], self.capacity, held.shape[4]))
        more[:, :, :, : held.shape[3]] = held
        return more

    def aim(self, first: int, nodes: int) -> None:
        """Let the next pass write nodes ``first .. first + nodes`` behind the committed rows."""
        self.grow(self.longest + first + nodes)
        if len(self.lengths) == 1:
            self._slots = slice(self.longest + first, self.longest + first + nodes)
        else:
            batch = torch.arange(len(self.lengths), device=self.lengths.device)[:, None]
            at = self.lengths[:, None] + torch.arange(first, first + nodes, device=self.lengths.device)
            self._slots = (batch, at)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write (B, G, n, D) of one layer; return all it holds, (B, G, S, D), committed or not."""
        if self.keys is None or self.values is None:
            batch, heads, _, width = key_states.shape
            self.keys = key_states.new_zeros((self.depth, batch, heads, self.capacity, width))
            self.values = value_states.new_zeros((self.depth, batch, heads, self.capacity, value_states.shape[3]))
        for held, new in ((self.keys[layer_idx], key_states), (self.values[layer_idx], value_states)):
            if isinstance(self._slots, slice):
                held[:, :, self._slots] = new
            else:
                batch_index, at = self._slots
                held[batch_index, :, at] = new.transpose(1, 2)
        return self.keys[layer_idx], self.values[layer_idx]

    def commit(self, path: Tensor, counts: list[int]) -> None:
        """Keep the nodes of a path (B, A), root first, then -1; forget the others."""
        if self.keys is not None and self.values is not None:
            for held in (self.keys, self.values):
                if held.dtype == torch.float64:
                    _compact(held, self.lengths, path)
                else:
                    ops.compact_cache(held, self.lengths, path)
        self.lengths = self.lengths + self.lengths.new_tensor(counts)
        self.longest = int(self.lengths.max())

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows of the batch."""
        self.lengths = self.lengths[rows]
        self.longest = int(self.lengths.max()) if len(rows) else 0
        self.keys, self.values = (None if held is None else held[:, rows] for held in (self.keys, self.values))


def _compact(cache: Tensor, lengths: Tensor, path: Tensor) -> None:
    """What :func:`tokernel.ops.compact_cache` does, for float64, which it does not take."""
    batch, step = (path >= 0).nonzero(as_tuple=True)
    start = lengths[batch]
    cache[:, batch, :, start + step] = cache[:, batch, :, start + path[batch, step]]
