# SPDX-License-Identifier: Apache-2.0
"""Windows of a token grid: cutting, shifting, and which tokens of a shifted window belong together.

A grid is (f, h, w): frames, rows, columns. Windows and the tokens in a window are numbered row by row.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Extents",
    "WindowOrder",
    "check_window",
    "roll_windows",
    "shift_region_mask",
    "window_merge",
    "window_order",
    "window_partition",
]

Extents = tuple[int, int, int]


def check_window(op: str, grid: Sequence[int], p: Extents) -> Extents:
    """Count the windows along each axis; refuse extents that windows do not fill."""
    if len(grid) != 3 or len(p) != 3:
        raise ValueError(f"{op}: grid and window expected 3 extents (f, h, w); got {tuple(grid)} and {tuple(p)}")
    if min(grid) < 1 or min(p) < 1 or any(extent % edge for extent, edge in zip(grid, p, strict=True)):
        raise ValueError(f"{op}: grid expected whole windows of {tuple(p)}; got {tuple(grid)}")
    f, h, w = (extent // edge for extent, edge in zip(grid, p, strict=True))
    return f, h, w


def window_partition(x: Tensor, p: Extents) -> Tensor:
    """Cut a grid into windows.

    Args:
        x: (B, f, h, w, C).
        p: (pf, ph, pw), divisors of f, h and w.

    Returns:
        (B * nW, n, C): the windows of sample 0, then those of sample 1, ..., each with its n = pf * ph * pw tokens.

    Raises:
        ValueError: x is not five-dimensional, or p does not divide it.

    >>> window_partition(torch.arange(8.0).view(1, 1, 2, 4, 1), (1, 2, 2))[..., 0]
    tensor([[0., 1., 4., 5.],
            [2., 3., 6., 7.]])
    """
    if x.dim() != 5:
        raise ValueError(f"window_partition: x expected shape (B, f, h, w, C); got {tuple(x.shape)}")
    f, h, w = check_window("window_partition", x.shape[1:4], p)
    cut = x.reshape(x.shape[0], f, p[0], h, p[1], w, p[2], x.shape[4])
    return cut.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(x.shape[0] * f * h * w, p[0] * p[1] * p[2], x.shape[4])


def window_merge(windows: Tensor, grid: Extents, p: Extents) -> Tensor:
    """Undo :func:`window_partition`: (B * nW, n, C) windows of a grid (f, h, w) back to (B, f, h, w, C).

    Raises:
        ValueError: p does not divide the grid, or the windows are not those of whole samples.

    >>> x = torch.randn(2, 2, 4, 6, 3)
    >>> torch.equal(window_merge(window_partition(x, (1, 2, 3)), (2, 4, 6), (1, 2, 3)), x)
    True
    """
    f, h, w = check_window("window_merge", grid, p)
    n = p[0] * p[1] * p[2]
    if windows.dim() != 3 or windows.shape[1] != n or windows.shape[0] % (f * h * w):
        raise ValueError(f"window_merge: windows expected shape (B * {f * h * w}, {n}, C); got {tuple(windows.shape)}")
    C = windows.shape[2]
    batch = windows.shape[0] // (f * h * w)
    cut = windows.reshape(batch, f, h, w, p[0], p[1], p[2], C)
    return cut.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(batch, *grid, C)


def roll_windows(windows: Tensor, grid: Extents, p: Extents, back: bool = False) -> Tensor:
    """Shift the windows by half a window: the grid is rolled by (-pf // 2, -ph // 2, -pw // 2) and cut again.

    Args:
        windows: (B * nW, n, C), as :func:`window_partition` returns them.
        grid: (f, h, w).
        p: (pf, ph, pw).
        back: undo it.

    Returns:
        (B * nW, n, C).

    >>> windows = window_partition(torch.arange(4.0).view(1, 1, 1, 4, 1), (1, 1, 2))
    >>> roll_windows(windows, (1, 1, 4), (1, 1, 2))[..., 0]
    tensor([[1., 2.],
            [3., 0.]])
    """
    shift = tuple(edge // 2 if back else -(edge // 2) for edge in p)
    return window_partition(window_merge(windows, grid, p).roll(shift, (1, 2, 3)), p)


def _regions(grid: Extents, p: Extents, device: torch.device | None) -> Tensor:
    """The region of every place of the rolled grid, (f, h, w): tokens that were neighbours before the roll.

    An axis of length L falls into [0, L - p), [L - p, L - p // 2) and [L - p // 2, L); only windows at its end hold
    tokens of two of them. Without a shift it is one region.
    """
    ids = torch.zeros(grid, dtype=torch.int64, device=device)
    for axis, (extent, edge) in enumerate(zip(grid, p, strict=True)):
        at = torch.arange(extent, device=device)
        region = (at >= extent - edge).long() + (at >= extent - edge // 2)
        if edge // 2 == 0:
            region = torch.zeros_like(region)
        ids = 3 * ids + region.view([-1 if a == axis else 1 for a in range(3)])
    return ids


def shift_region_mask(f: int, h: int, w: int, p: Extents, device: torch.device | None = None) -> Tensor:
    """Say which pairs of tokens of each shifted window must not attend to each other.

    Returns:
        bool (nW, n, n), True = blocked: the two come from different regions, that is from opposite borders of the grid.

    >>> shift_region_mask(1, 1, 4, (1, 1, 2))
    tensor([[[False, False],
             [False, False]],
    <BLANKLINE>
            [[False,  True],
             [ True, False]]])
    """
    check_window("shift_region_mask", (f, h, w), p)
    ids = window_partition(_regions((f, h, w), p, device)[None, ..., None], p)
    return ids != ids.mT


class WindowOrder(NamedTuple):
    """Where shifted windows find their tokens among window-major ones.

    Attributes:
        windows: (nW + 1) offsets of the windows.
        regions: (S + 1) offsets of the parts of shifted windows whose tokens attend to each other.
        order: (N) window-major number of each token, part by part.
        back: (N) its inverse.
    """

    windows: Tensor
    regions: Tensor
    order: Tensor
    back: Tensor


def _part_sizes(extent: int, edge: int) -> list[list[int]]:
    """Sizes of the regions of every shifted window along one axis: the last is cut where the grid was wrapped."""
    last = [edge - edge // 2, edge // 2] if edge // 2 else [edge]
    return [[edge]] * (extent // edge - 1) + [last]


def window_order(grid: Extents, p: Extents, device: torch.device) -> WindowOrder:
    """Order the tokens of a grid by shifted window and region, so that no mask is needed: parts are segments."""
    check_window("window_order", grid, p)
    n = p[0] * p[1] * p[2]
    tokens = grid[0] * grid[1] * grid[2]
    numbers = torch.arange(tokens, device=device)
    rolled = roll_windows(numbers.view(-1, n, 1), grid, p).flatten()
    region = window_partition(_regions(grid, p, device)[None, ..., None], p).flatten()
    order = rolled[(numbers // n * 27 + region).argsort(stable=True)]
    sizes = [0]
    for window in itertools.product(*(_part_sizes(extent, edge) for extent, edge in zip(grid, p, strict=True))):
        sizes += [f * h * w for f, h, w in itertools.product(*window)]
    return WindowOrder(
        windows=torch.arange(0, tokens + 1, n, device=device),
        regions=torch.tensor(list(itertools.accumulate(sizes)), device=device),
        order=order,
        back=torch.empty_like(order).scatter_(0, order, numbers),
    )
