# SPDX-License-Identifier: Apache-2.0
"""Mask policies: which keys a query may attend to.

A policy is a small description, made once and used with any number of calls, whatever the framework of its arrays.
Every kernel of the family, forward, backward or sums of the map, understands every policy.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from tokernel.kernels._arrays import Array, extension_of

__all__ = [
    "BlockMap",
    "Causal",
    "Dense",
    "Disc",
    "Mask",
    "Parts",
    "Policy",
    "PrefixCausal",
    "Segments",
    "Tools",
    "Tree",
    "check_ranks",
    "parts_of",
]


class Parts(NamedTuple):
    """What the extension is told about a policy."""

    kind: str
    numbers: tuple[int, ...]
    arrays: tuple[Array, ...]


class Tools(NamedTuple):
    """Ops with which a policy prepares its arrays, in the framework of the call."""

    block_offsets: Callable[[Array, int, str], Array]
    """(sizes[R, C], total, name) -> offsets[R, C + 1]"""
    pack_ancestors: Callable[[Array], Array]
    """bool[R, T] -> int64[R, ceil(T / 64)]"""


class Policy(Protocol):
    """Anything that can describe itself for given extents."""

    def parts(self, queries: int, keys: int, tools: Tools) -> Parts:
        """Return the parts for a call with that many queries and keys."""
        ...


def parts_of(op: str, policy: Policy, q: Array, k: Array) -> Parts:
    """Describe a policy for a call on q (B, H, Nq, D) and k (B, G, Nk, D)."""
    extension = extension_of(op, "q", q)
    check_ranks(op, q=q, k=k)
    return policy.parts(q.shape[2], k.shape[2], Tools(extension.block_offsets, extension.pack_ancestors))


def check_ranks(op: str, **arrays: Array) -> None:
    """Refuse arrays that are not (batch, heads, tokens, width), before their extents are read."""
    for name, x in arrays.items():
        shape = getattr(x, "shape", None)
        if shape is None:
            what = "an array (NumPy, torch, JAX, CuPy or any DLPack producer)"
            raise TypeError(f"{op}: {name} must be {what}, got {type(x).__name__}")
        if len(shape) != 4:
            raise ValueError(f"{op}: {name} must be (B, heads, tokens, D), got {tuple(shape)} {x.dtype}")


_MOST = 2**31
"""No count of a policy reaches it, so that no product of two overflows."""


def _integer(policy: str, name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{policy}: {name} must be an integer, got {type(value).__name__}") from None


def _count(policy: str, name: str, value: int, low: int = 0) -> int:
    count = _integer(policy, name, value)
    if count < low:
        raise ValueError(f"{policy}: {name} must be at least {low}, got {count}")
    if count >= _MOST:
        raise ValueError(f"{policy}: {name} must be below 2**31, got {count}")
    return count


def _extents(policy: str, name: str, extents: tuple[int, ...], axes: tuple[str, ...]) -> None:
    try:
        given = len(extents)
    except TypeError:
        raise TypeError(f"{policy}: {name} must be ({', '.join(axes)}), got {type(extents).__name__}") from None
    if given != len(axes):
        raise ValueError(f"{policy}: {name} must be ({', '.join(axes)}), got {given} numbers")


def _lift(policy: str, name: str, x: Array, rank: int, lowest: int) -> Array:
    """Put extents of one in front, up to `rank`."""
    ndim = getattr(x, "ndim", None)
    if ndim is None:
        raise TypeError(f"{policy}: {name} must be an array, got {type(x).__name__}")
    if not lowest <= ndim <= rank:
        raise ValueError(f"{policy}: {name} must have {lowest} to {rank} dimensions, got {ndim}")
    if type(x).__module__.partition(".")[0] in ("jax", "jaxlib"):
        x = np.asarray(x)  # JAX has no int64 unless asked for
    for _ in range(rank - ndim):
        x = x[None]
    return x


@dataclass(frozen=True)
class Dense:
    """Every query sees every key.

    >>> Dense()
    Dense()
    """

    def parts(self, queries: int, keys: int, tools: Tools) -> Parts:
        """Return the parts for a call with that many queries and keys."""
        return Parts("dense", (), ())


@dataclass(frozen=True)
class PrefixCausal:
    """Query i sees the first `prefix` keys, and every key ``j <= i + offset``.

    Args:
        prefix: keys that every query sees.
        offset: None aligns the last query with the last key (offset = keys - queries), as with a cache of past keys.

    Raises:
        ValueError: prefix is negative.
        TypeError: prefix or offset is not an integer.

    >>> PrefixCausal(4)
    PrefixCausal(prefix=4, offset=None)
    """

    prefix: int
    offset: int | None = None

    def __post_init__(self) -> None:
        _count("PrefixCausal", "prefix", self.prefix)
        if self.offset is not None:
            _integer("PrefixCausal", "offset", self.offset)

    def parts(self, queries: int, keys: int, tools: Tools) -> Parts:
        """Return the parts for a call with that many queries and keys."""
        offset = keys - queries if self.offset is None else self.offset
        return Parts("causal", (min(self.prefix, keys), max(-queries, min(offset, keys))), ())


@dataclass(frozen=True)
class Causal:
    """Query i sees every key ``j <= i + offset``.

    Args:
        offset: None aligns the last query with the last key (offset = keys - queries), as with a cache of past keys;
            torch's ``is_causal`` is offset 0.

    Raises:
        TypeError: offset is not an integer.

    >>> Causal()
    Causal(offset=None)
    """

    offset: int | None = None

    def __post_init__(self) -> None:
        if self.offset is not None:
            _integer("Causal", "offset", self.offset)

    def parts(self, queries: int, keys: int, tools: Tools) -> Parts:
        """Return the parts for a call with that many queries and keys."""
        return PrefixCausal(0, self.offset).parts(queries, keys, tools)


@dataclass(frozen=True, eq=False)
class BlockMap:
    """Queries and keys are cut into blocks of any size, zero included; a map says which pairs of blocks meet.

    Args:
        map: bool (Cq, Ck), (H, Cq, Ck) or (B, H, Cq, Ck); an extent of 1 serves all samples or heads.
        row_sizes: int64 or int32 (Cq), (H, Cq) or (B, H, Cq), adding up to the number of queries.
        col_sizes: int64 or int32 (Ck), (H, Ck) or (B, H, Ck), adding up to the number of keys.

    Raises:
        ValueError: in the call: sizes are negative or do not add up, or the extents do not fit the map.
        TypeError: an argument is no array.

    >>> import numpy as np
    >>> policy = BlockMap(np.eye(2, dtype=bool), np.array([3, 5]), np.array([4, 4]))
    """

    map: Array
    row_sizes: Array
    col_sizes: Array

    def __post_init__(self) -> None:
        _lift("BlockMap", "map", self.map, 4, 2)
        _lift("BlockMap", "row_sizes", self.row_sizes, 3, 1)
        _lift("BlockMap", "col_sizes", self.col_sizes, 3, 1)

    def parts(self, queries: int, keys: int, tools: Tools) -> Parts:
        """Return the parts for a call with that many queries and keys."""
        blocks = _lift("BlockMap", "map", self.map, 4, 2)
        offsets = []
        for name, sizes, total in (("row_sizes", self.row_sizes, queries), ("col_sizes", self.col_sizes, keys)):
            lifted = _lift("BlockMap", name, sizes, 3, 1)
            samples, heads, count = lifted.shape
            expected = blocks.shape[2 if name == "row_sizes" else 3]
            if count != expected:
                raise ValueError(f"BlockMap: {name} must have the {expected} blocks of the map, got {count}")
            flat = tools.block_offsets(lifted.reshape(samples * heads, count), total, name)
            offsets.append(flat.reshape(samples, heads, count + 1))
        return Parts("block_map", (), (blocks, *offsets))


@dataclass(frozen=True)
class Disc:
    """An image token sees a disc of image tokens around it, the text before the image, and pooled keys behind it.

    Queries are [prefix text tokens | height * width image tokens, row by row], keys the same and then `pooled` more.
    A text token sees text and image, not the pooled keys. An image token at (y, x) sees every text token, every image
    token with ``dy**2 + dx**2 < radius**2`` (strictly: radius 1 is the token itself, 8 are 193 tokens), and every
    pooled key. CLEAR, arXiv 2412.16112.

    Args:
        grid: (height, width) of the image in tokens.
        radius: of the disc, in tokens; may be fractional.
        prefix: number of text tokens.
        pooled: number of keys that stand for the whole image.

    Raises:
        ValueError: a count is negative, or the radius is negative or not finite; in the call: the extents do not fit.
        TypeError: a count is not an integer.

    >>> Disc((64, 64), 8.0, prefix=512)
    Disc(grid=(64, 64), radius=8.0, prefix=512, pooled=0)
    """

    grid: tuple[int, int]
    radius: float
    prefix: int = 0
    pooled: int = 0

    def __post_init__(self) -> None:
        _extents("Disc", "grid", self.grid, ("height", "width"))
        for name, value in (("height", self.grid[0]), ("width", self.grid[1])):
            _count("Disc", name, value)
        _count("Disc", "prefix", self.prefix)
        _count("Disc", "pooled", self.pooled)
        try:
            radius = float(self.radius)
        except (TypeError, ValueError):
            raise TypeError(f"Disc: radius must be a number, got {type(self.radius).__name__}") from None
        except OverflowError:
            radius = math.inf
        if not (radius >= 0 and math.isfinite(radius)):
            raise ValueError(f"Disc: radius must be a finite number, at least 0, got {self.radius}")

    def parts(self, queries: int, keys: int, tools: Tools) -> Parts:
        """Return the parts for a call with that many queries and keys."""
        height, width = self.grid
        # Squared distances are whole numbers, and none of them reaches the square of the diagonal.
        diagonal = height * height + width * width
        radius = min(float(self.radius), math.sqrt(diagonal) + 1.0)
        reach = min(math.ceil(radius * radius), diagonal)
        return Parts("disc", (height, width, reach, self.prefix, self.pooled), ())


@dataclass(frozen=True, eq=False)
class Segments:
    """Sequences of any length side by side: a query sees the keys of its own segment.

    Args:
        cu_q: int64 or int32 (S + 1) or (B, S + 1): segment s holds the queries [cu_q[s], cu_q[s + 1]).
        cu_k: the same for keys; None takes cu_q.
        causal: a query sees no key behind it; the last query and the last key of a segment are aligned.

    Raises:
        ValueError: in the call: offsets do not start at 0, decrease, or do not end at the number of tokens.
        TypeError: an argument is no array.

    >>> import numpy as np
    >>> policy = Segments(np.array([0, 3, 8]), causal=True)
    """

    cu_q: Array
    cu_k: Array | None = None
    causal: bool = False

    def __post_init__(self) -> None:
        _lift("Segments", "cu_q", self.cu_q, 2, 1)
        if self.cu_k is not None:
            _lift("Segments", "cu_k", self.cu_k, 2, 1)

    def parts(self, queries: int, keys: int, tools: Tools) -> Parts:
        """Return the parts for a call with that many queries and keys."""
        return Parts("segments", (int(self.causal),), (self.cu_q, self.cu_q if self.cu_k is None else self.cu_k))


@dataclass(frozen=True, eq=False)
class Tree:
    """T draft nodes see `prefix` cached keys, their ancestors, and themselves. Keys are [prefix | T nodes].

    Args:
        ancestors: bool (T, T) or (B, T, T): node i sees node j. The diagonal is taken as True.
        prefix: number of cached keys before the nodes.

    Raises:
        ValueError: prefix is negative; in the call: the extents do not fit.
        TypeError: ancestors is no array.

    >>> import numpy as np
    >>> chain = Tree(np.tril(np.ones((4, 4), dtype=bool)), prefix=100)
    """

    ancestors: Array
    prefix: int = 0

    def __post_init__(self) -> None:
        _count("Tree", "prefix", self.prefix)
        _lift("Tree", "ancestors", self.ancestors, 3, 2)

    def parts(self, queries: int, keys: int, tools: Tools) -> Parts:
        """Return the parts for a call with that many queries and keys."""
        seen = _lift("Tree", "ancestors", self.ancestors, 3, 2)
        samples, nodes, columns = seen.shape
        if columns != nodes:
            raise ValueError(f"Tree: ancestors must be square, got {nodes} x {columns}")
        words = tools.pack_ancestors(seen.reshape(samples * nodes, nodes))
        return Parts("tree", (self.prefix,), (words.reshape(samples, nodes, -1 if nodes else 0),))


@dataclass(frozen=True, eq=False)
class Mask:
    """Any mask, one byte a pair. Nothing is skipped: prefer a policy that knows its shape.

    Args:
        mask: bool (Nq, Nk), (H, Nq, Nk) or (B, H, Nq, Nk), True where a query sees a key; an extent of 1 serves all
            samples or heads.
        causal: besides, query i sees no key beyond ``i + Nk - Nq``.

    Raises:
        ValueError: in the call: the extents do not fit.
        TypeError: mask is no array.

    >>> import numpy as np
    >>> policy = Mask(np.ones((4, 4), dtype=bool), causal=True)
    """

    mask: Array
    causal: bool = False

    def __post_init__(self) -> None:
        _lift("Mask", "mask", self.mask, 4, 2)

    def parts(self, queries: int, keys: int, tools: Tools) -> Parts:
        """Return the parts for a call with that many queries and keys."""
        return Parts("mask", (int(self.causal), keys - queries), (_lift("Mask", "mask", self.mask, 4, 2),))
