# SPDX-License-Identifier: Apache-2.0
"""Policies that put tokens in another order first: equal ids become neighbours, and each id a segment.

The order is found once for a policy and a device, and kept in the policy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tokernel.kernels._arrays import Array
from tokernel.kernels.attention._policy import Parts, Segments, Tools, _count, _extents, _lift

__all__ = ["Arrangement", "Moves", "Regions", "Reordering", "Window"]


class Moves(NamedTuple):
    """Ops that move rows, in the framework of the call."""

    sort_by_label: Callable[[Array, int], tuple[Array, Array]]
    permute_rows: Callable[..., Array]
    inverse_permute_rows: Callable[..., Array]


def _spread(x: Array, shape: tuple[int, ...]) -> Array:
    """Repeat extents of 1 until they fit."""
    expand = getattr(x, "expand", None)
    if expand is not None:
        return expand(shape).contiguous()
    for axis, extent in enumerate(shape):
        if x.shape[axis] != extent:
            x = x.repeat(extent, axis)
    return x


@dataclass(frozen=True)
class Arrangement:
    """Rows of (B, H, N, C) arrays in the order of their ids, and back. None is the order they have already."""

    moves: Moves
    perm_q: Array | None
    perm_k: Array | None
    segments: Segments

    def queries(self, x: Array) -> Array:
        """Sort the rows of queries."""
        return self._sort(x, self.perm_q)

    def keys(self, x: Array) -> Array:
        """Sort the rows of keys."""
        return self._sort(x, self.perm_k)

    def queries_back(self, x: Array, out: Array | None = None) -> Array:
        """Undo `queries`, where it did anything into `out` if given."""
        return self._unsort(x, self.perm_q, out)

    def bias(self, key_bias: Array | None) -> Array | None:
        """Sort a (B, H, Nk) bias of keys, whose extents in front may be 1."""
        if key_bias is None or self.perm_k is None:
            return key_bias
        samples = max(key_bias.shape[0], self.perm_k.shape[0])
        return self.keys(_spread(key_bias, (samples, *key_bias.shape[1:]))[..., None])[..., 0]

    def weight(self, query_weight: Array | None) -> Array | None:
        """Sort (Nq) or (B, Nq) weights of queries."""
        if query_weight is None or self.perm_q is None:
            return query_weight
        weight = query_weight if query_weight.ndim == 2 else query_weight[None]
        samples = max(weight.shape[0], self.perm_q.shape[0])
        return self.queries(_spread(weight, (samples, weight.shape[1]))[:, None, :, None])[:, 0, :, 0]

    def rows(self, rows: Array) -> Array:
        """Translate (R) or (B, R) indices of queries."""
        if self.perm_q is None:
            return rows
        place = self.perm_q.argsort(-1)  # where each query went
        rows = _ids_beside(place, rows)
        if place.shape[0] == 1:
            return place[0][rows]
        samples = _ids_beside(place, np.arange(place.shape[0]))
        return place[samples[:, None], rows if rows.ndim == 2 else rows[None]]

    def columns_back(self, columns: Array) -> Array:
        """Put the last dimension of (B, H, R, Nk) or (B, H, Nk) back into the order of the keys."""
        if self.perm_k is None:
            return columns
        samples, *_, keys = columns.shape
        flat = columns.reshape(samples, prod(columns.shape[1:-1]), keys, 1)
        return self._unsort(flat, self.perm_k, None).reshape(columns.shape)

    def _sort(self, x: Array, perm: Array | None) -> Array:
        return x if perm is None else self.moves.permute_rows(x, _spread(perm[:, None], tuple(x.shape[:3])))

    def _unsort(self, x: Array, perm: Array | None, out: Array | None) -> Array:
        if perm is None:
            return x
        options = {} if out is None else {"out": out}
        return self.moves.inverse_permute_rows(x, _spread(perm[:, None], tuple(x.shape[:3])), **options)


def _ids_beside(x: Array, ids: Array) -> Array:
    """Put ids where x lives: beside torch and CuPy arrays in their framework, for any other as a NumPy array."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return torch.as_tensor(ids, dtype=torch.int64, device=x.device)
    if type(x).__module__.partition(".")[0] == "cupy":
        return sys.modules["cupy"].asarray(ids, dtype="int64")
    return np.asarray(ids, dtype=np.int64)


class Reordering:
    """Base of the policies that sort tokens. Only ops that move tokens back afterwards take them."""

    def regions(self, op: str, queries: int, keys: int) -> Regions:
        """Return the regions of a call with that many queries and keys."""
        raise TypeError(f"{op}: {type(self).__name__} has no regions")

    def parts(self, queries: int, keys: int, tools: Tools) -> Parts:
        """Refuse: this policy cannot be used without moving tokens."""
        raise TypeError(
            f"policy must be one that keeps tokens in their order, got {type(self).__name__}: "
            "sort the tokens by region and use Segments"
        )

    def arrange(self, op: str, q: Array, k: Array, moves: Moves) -> Arrangement:
        """Find, or recall, the order for a call on q (B, H, Nq, D) and k (B, G, Nk, D)."""
        regions = self.regions(op, q.shape[2], k.shape[2])
        return regions._arrange(op, q, k, moves)


@dataclass(frozen=True, eq=False)
class Regions(Reordering):
    """A query sees the keys that carry its id, wherever they are; -1 sees nothing and is seen by nobody.

    Exact, and as sparse as the ids: tokens are sorted by id, attend as :class:`Segments`, and go back to their places.
    The order is kept in the policy, so the ids must not be written to afterwards. It is found in the first call, which
    ``torch.compile(fullgraph=True)`` cannot trace: make that call before.

    Args:
        ids_q: int64 or int32 (Nq) or (B, Nq), ids from -1 on.
        ids_k: the same for keys; None takes ids_q.
        causal: a query sees no key behind it. Both are counted within the region, the last query and the last key of
            a region aligned.
        count: all ids are below it; None reads the largest id, which waits for a device once.

    Raises:
        ValueError: in the call: ids do not fit the tokens, or are not in [-1, count).
        TypeError: an argument is no array, or ids are not integers.

    >>> import numpy as np
    >>> policy = Regions(np.array([0, 1, 0, 1, -1]))
    """

    ids_q: Array
    ids_k: Array | None = None
    causal: bool = False
    count: int | None = None
    _orders: dict[Any, tuple[Array | None, Array | None, Segments]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        for name, ids in (("ids_q", self.ids_q), ("ids_k", self.ids_k)):
            if ids is None:
                continue
            _lift("Regions", name, ids, 2, 1)
            if str(ids.dtype).rpartition(".")[2] not in ("int64", "int32"):
                raise TypeError(f"Regions: {name} must be int64 or int32, got {ids.dtype}")
        if self.count is not None:
            _count("Regions", "count", self.count)

    def regions(self, op: str, queries: int, keys: int) -> Regions:
        """Return itself."""
        return self

    def _arrange(self, op: str, q: Array, k: Array, moves: Moves) -> Arrangement:
        ids_k = self.ids_q if self.ids_k is None else self.ids_k
        for name, ids, x in (("ids_q", self.ids_q, q), ("ids_k", ids_k, k)):
            expected = (x.shape[0], x.shape[2])
            if ids.shape[-1] != expected[1] or (ids.ndim == 2 and ids.shape[0] not in (1, expected[0])):
                raise ValueError(f"{op}: {name} must be {expected[1:]} or {expected}, got {tuple(ids.shape)}")
        key = (type(q).__module__.partition(".")[0], getattr(q, "device", None))
        order = self._orders.get(key)
        if order is None:
            order = self._order(op, q, ids_k, moves)
            self._orders[key] = order
        return Arrangement(moves, *order)

    def _order(self, op: str, x: Array, ids_k: Array, moves: Moves) -> tuple[Array | None, Array | None, Segments]:
        queries, keys = _ids_beside(x, self.ids_q), _ids_beside(x, ids_k)
        count = 0 if self.count is None else self.count
        for name, ids in (("ids_q", queries), ("ids_k", keys)):
            if prod(ids.shape) == 0:
                continue
            low, high = int(ids.min()), int(ids.max())
            if self.count is None:
                count = max(count, high + 1)
            if low < -1 or high >= count:
                raise ValueError(f"{op}: {name} must be in [-1, {count}), got {low if low < -1 else high}")
        perm_q, cu_q = _sorted(queries, count, count, moves)
        perm_k, cu_k = _sorted(keys, count, count + 1, moves)
        return perm_q, perm_k, Segments(cu_q, cu_k, self.causal)


def _sorted(ids: Array, count: int, nowhere: int, moves: Moves) -> tuple[Array | None, Array]:
    """Sort by id, -1 under the label `nowhere`: queries and keys without an id lie in segments of their own."""
    labels = ids + (ids < 0) * (nowhere + 1)
    shared = labels.ndim == 1 or len(labels) == 1
    perm, offsets = moves.sort_by_label(labels[None] if labels.ndim == 1 else labels, count + 2)
    in_order = bool((labels[..., 1:] >= labels[..., :-1]).all())
    return None if in_order else perm, offsets[0] if shared else offsets


@dataclass(frozen=True, eq=False)
class Window(Reordering):
    """Windows of a grid: a token sees the tokens of its window, in shifted windows those that are its neighbours there.

    Tokens lie on the grid row by row. With a shift the grid is rolled back by it first, and what the roll brought from
    the opposite border shares no attention with what was there: within a window two tokens see each other only if
    both, along every axis, were rolled around or neither was. Shift ``window // 2`` is that of Swin and of
    Qihoo-T2X (arXiv 2409.04005, the shifted windows of its texture module). As for :class:`Regions`, the first call
    comes before ``torch.compile(fullgraph=True)``.

    Args:
        grid: (frames, height, width) in tokens.
        window: extents of a window; each divides that of the grid.
        shift: how far the windows are shifted along each axis, less than their extent.

    Raises:
        ValueError: an extent is not positive, does not divide, or a shift is too large; in the call: the extents do
            not fit.
        TypeError: an extent is not an integer.

    >>> Window((1, 64, 64), (1, 8, 8), shift=(0, 4, 4))
    Window(grid=(1, 64, 64), window=(1, 8, 8), shift=(0, 4, 4))
    """

    grid: tuple[int, int, int]
    window: tuple[int, int, int]
    shift: tuple[int, int, int] = (0, 0, 0)
    _regions: list[Regions] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, extents in (("grid", self.grid), ("window", self.window), ("shift", self.shift)):
            _extents("Window", name, extents, ("frames", "height", "width"))
            for extent in extents:
                _count("Window", name, extent, 0 if name == "shift" else 1)
        for length, size, shift in zip(self.grid, self.window, self.shift, strict=True):
            if length % size:
                raise ValueError(
                    f"Window: grid must be a multiple of the window on every axis, got {length} and {size}"
                )
            if shift >= size:
                raise ValueError(f"Window: shift must be less than the window on every axis, got {shift} and {size}")

    def regions(self, op: str, queries: int, keys: int) -> Regions:
        """Return the windows, and within them the parts that a roll brought together, as regions."""
        tokens = prod(self.grid)
        for name, count in (("q", queries), ("k", keys)):
            if count != tokens:
                raise ValueError(f"{op}: {name} must have the {tokens} tokens of the grid, got {count}")
        if not self._regions:
            self._regions.append(self._make_regions())
        return self._regions[0]

    def _make_regions(self) -> Regions:
        ids, count = np.zeros((1, 1, 1), dtype=np.int64), 1
        for axis, (length, size, shift) in enumerate(zip(self.grid, self.window, self.shift, strict=True)):
            rolled = (np.arange(length) - shift) % length
            part = rolled // size * 2 + (rolled >= length - shift)
            ids = ids * (2 * length // size) + part.reshape([-1 if i == axis else 1 for i in range(3)])
            count *= 2 * length // size
        used, ids = np.unique(ids, return_inverse=True)
        return Regions(ids.reshape(-1), count=len(used))
