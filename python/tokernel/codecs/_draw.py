# SPDX-License-Identifier: Apache-2.0
"""Seeded draws by hashing a seed and a step.

The same on every device, in every process of a group, and under ``torch.compile``; torch's generators are left alone,
and a run that is resumed from a state dict goes on with the draws it would have made.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

_INT64_MAX = 2**63 - 1
# splitmix64: its increment and its two multipliers, as int64.
_GAMMA, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685


def _scramble(z: Tensor) -> Tensor:
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _FIRST
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _SECOND
    return z ^ ((z >> 31) & (2**33 - 1))


def _hash(position: Tensor, seed: int, step: Tensor) -> Tensor:
    start = _scramble(step * _GAMMA + seed)
    return _scramble((position + 1) * _GAMMA + start)


def draw_below(limit: int, seed: int, step: Tensor) -> Tensor:
    """A whole number in [0, limit), as a tensor."""
    return (_hash(torch.zeros_like(step), seed, step) & (2**62 - 1)) % limit


def draw_rows(
    rows: Tensor, valid: Tensor | None, count: int, seed: int, step: Tensor, processes: bool
) -> tuple[Tensor, Tensor]:
    """Draw rows without replacement; where there are fewer than `count`, they repeat in turn.

    Args:
        rows: (N, D), or (Q, N, D) for a draw a book; in a group of processes, those of this one.
        valid: (N,) bool: the rows that may be drawn.
        count: how many.
        seed, step: of the draw.
        processes: draw from the rows of all processes of the default group.

    Returns:
        rows ([Q,] count, D), and how many rows there were to draw from; where none, what is returned means nothing.
    """
    books = torch.arange(rows.shape[0], device=rows.device)[:, None] << 40 if rows.dim() == 3 else 0
    if processes:
        return _draw_over_processes(rows if valid is None else rows[..., valid, :], books, count, seed, step)
    total = rows.shape[-2]
    if valid is None:
        position = torch.arange(total, device=rows.device)
        number = torch.full((), total, device=rows.device)
    else:
        position, number = valid.cumsum(0) - 1, valid.sum()
    if total == 0:
        return rows.new_zeros(*rows.shape[:-2], count, rows.shape[-1]), number
    key = _hash(position + books, seed, step)
    key = key if valid is None else torch.where(valid, key, _INT64_MAX)
    order = key.sort(dim=-1, stable=True).indices
    chosen = order[..., torch.arange(count, device=rows.device) % number.clamp(min=1)]
    return _take(rows, chosen), number


def _draw_over_processes(
    own: Tensor, books: Tensor | int, count: int, seed: int, step: Tensor
) -> tuple[Tensor, Tensor]:
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=own.device)
    sizes[dist.get_rank()] = own.shape[-2]
    dist.all_reduce(sizes)
    total, before = int(sizes.sum()), int(sizes[: dist.get_rank()].sum())
    if total == 0:
        return own.new_zeros(*own.shape[:-2], count, own.shape[-1]), sizes.sum()
    order = _hash(torch.arange(total, device=own.device) + books, seed, step).sort(dim=-1, stable=True).indices
    chosen = order[..., torch.arange(count, device=own.device) % total] - before
    mine = (chosen >= 0) & (chosen < own.shape[-2])
    drawn = own.new_zeros(*own.shape[:-2], count, own.shape[-1])
    if own.shape[-2]:
        drawn = torch.where(mine[..., None], _take(own, chosen.clamp(0, own.shape[-2] - 1)), 0.0)
    dist.all_reduce(drawn)
    return drawn, sizes.sum()


def _take(rows: Tensor, index: Tensor) -> Tensor:
    return rows.gather(-2, index[..., None].expand(*index.shape, rows.shape[-1]))
