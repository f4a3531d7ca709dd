# SPDX-License-Identifier: Apache-2.0
"""What a match decides: which token goes where, applied to any payload as often as needed."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import numpy as np

from tokernel.kernels._arrays import Array, fetch, place
from tokernel.kernels.merge._match import cosine_match, select_edges
from tokernel.kernels.merge._rows import gather_rows
from tokernel.kernels.merge._segments import segment_broadcast, segment_reduce

__all__ = ["MergePlan"]

Plan = TypeVar("Plan", bound="MergePlan")


class HostOps:
    """The ops a plan is made of, and small arrays beside a given one; torch tensors have a twin of this class."""

    cosine_match = staticmethod(cosine_match)
    select_edges = staticmethod(select_edges)
    gather_rows = staticmethod(gather_rows)
    segment_reduce = staticmethod(segment_reduce)
    segment_broadcast = staticmethod(segment_broadcast)
    place = staticmethod(place)
    fetch = staticmethod(fetch)

    @classmethod
    def arange(cls, like: Array, batch: int, n: int) -> Array:
        return cls.place(np.tile(np.arange(n), (batch, 1)), like)

    @classmethod
    def eye(cls, like: Array, batch: int, n: int) -> Array:
        return cls.place(np.tile(np.eye(n, dtype=np.float32), (batch, 1, 1)), like)

    @classmethod
    def ones(cls, like: Array, shape: tuple[int, ...]) -> Array:
        return cls.place(np.ones(shape, dtype=np.float32), like)

    @staticmethod
    def packed(x: Array) -> Array:
        """Copy a strided mask, so that a device kernel can address it flat."""
        return x.contiguous() if hasattr(x, "contiguous") else x.copy()

    @classmethod
    def ids(cls, values: Array, like: Array, batch: int) -> Array:
        """Bring a list of tokens, shared by the batch or one a sample, to (batch, n) beside an array."""
        values = cls.fetch(values)
        if values.ndim == 1:
            values = np.broadcast_to(values, (batch, len(values)))
        return cls.place(np.ascontiguousarray(values), like)

    @classmethod
    def permutations(cls, like: Array, batch: int, n: int, generator: Any) -> Array:
        every = np.tile(np.arange(n), (batch, 1))
        return np.random.default_rng(generator).permuted(every, axis=1)

    @classmethod
    def grid_partition(
        cls, like: Array, size: tuple[int, int], cell: tuple[int, int], generator: Any, no_rand: bool
    ) -> tuple[Array, Array]:
        """One destination a cell, the same for the whole batch; the other tokens are sources. Both lists ascend."""
        (w, h), (sx, sy) = size, cell
        shape = (h // sy, w // sx)
        pick = np.zeros(shape, np.int64) if no_rand else np.random.default_rng(generator).integers(sx * sy, size=shape)
        rows = np.arange(shape[0])[:, None] * sy + pick // sx
        columns = np.arange(shape[1]) * sx + pick % sx
        is_destination = np.zeros(w * h, bool)
        is_destination[rows * w + columns] = True
        return np.flatnonzero(~is_destination), np.flatnonzero(is_destination)


class MergePlan:
    """The outcome of one match: merge any payload along it, and undo that.

    Attributes:
        map: (B, N) int64, the output token of every input token; -1 where it is dropped.
        tokens: N.
        kept: M, tokens after the merge.
        unm_idx, src_idx, dst_idx: (B, U), (B, R), (B, R) int64: rows that stay, rows that merge, and the columns
            these merge into, as positions inside the two sets of the match; -1 pads plans of unequal samples.
        valid: (B, M) bool, False where a sample has fewer than M tokens; None where every sample has M.
        is_identity: nothing merges, and the order of the tokens is kept.

    >>> import numpy as np
    >>> from tokernel.kernels.merge import bipartite_match
    >>> metric = np.array([[[1, 0], [1, 0.1], [0, 1], [1, 1]]], dtype=np.float32)
    >>> plan = bipartite_match(metric, r=1)
    >>> plan.map
    array([[1, 1, 0, 2]])
    >>> plan.merge(np.array([[[2], [4], [6], [8]]], dtype=np.float32)).ravel()
    array([6., 3., 8.], dtype=float32)
    """

    ops: ClassVar[Any] = HostOps

    def __init__(
        self,
        map: Array,
        kept: int,
        unm_idx: Array,
        src_idx: Array,
        dst_idx: Array,
        *,
        valid: Array | None = None,
        is_identity: bool = False,
    ) -> None:
        self.map = map
        self.tokens: int = map.shape[1]
        self.kept = kept
        self.unm_idx = unm_idx
        self.src_idx = src_idx
        self.dst_idx = dst_idx
        self.valid = valid
        self.is_identity = is_identity

    def __repr__(self) -> str:
        return f"MergePlan(batch={self.map.shape[0]}, tokens={self.tokens}, kept={self.kept})"

    @classmethod
    def identity(cls: type[Plan], like: Array, batch: int, tokens: int) -> Plan:
        """Make the plan that changes nothing, beside an array `like`."""
        every = cls.ops.arange(like, batch, tokens)
        none = every[:, :0]
        return cls(every, tokens, every[:, : (tokens + 1) // 2], none, none, is_identity=True)

    def _check_tokens(self, name: str, x: Array, tokens: int) -> None:
        batch = self.map.shape[0]
        if len(x.shape) != 3 or x.shape[0] != batch or x.shape[1] != tokens:
            raise ValueError(f"MergePlan: {name} must be ({batch}, {tokens}, C), got {tuple(x.shape)}")

    def merge(self, x: Array, mode: str = "mean", weight: Array | None = None) -> Array:
        """Reduce the tokens of every group: ``out[b, m]`` over all n with ``map[b, n] = m``.

        Args:
            x: (B, N, C) float32, float16 or bfloat16.
            mode: "mean" (sum(w x) / sum(w)), "sum" or "amax"; accumulated in float32, ascending n.
            weight: (B, N) float32 for "mean" and "sum".

        Returns:
            (B, M, C) of the dtype of x; x itself where the plan is the identity.
        """
        self._check_tokens("x", x, self.tokens)
        if self.is_identity and (weight is None or mode != "sum"):
            return x
        return self.ops.segment_reduce(x, ids=self.map, segments=self.kept, mode=mode, weight=weight)

    def unmerge(self, y: Array) -> Array:
        """Give every input token its output token back: ``out[b, n] = y[b, map[b, n]]``, zero where it was dropped.

        Args:
            y: (B, M, C) float32, float16 or bfloat16.

        Returns:
            (B, N, C) of the dtype of y; y itself where the plan is the identity.
        """
        self._check_tokens("y", y, self.kept)
        return y if self.is_identity else self.ops.segment_broadcast(y, ids=self.map)

    def merge_weighted(self, x: Array, size: Array | None = None) -> tuple[Array, Array]:
        """Average tokens by how many patches each stands for, and add these numbers up.

        Args:
            x: (B, N, C) float32, float16 or bfloat16.
            size: (B, N) or (B, N, 1) float32; None means 1 each.

        Returns:
            (B, M, C) of the dtype of x, and the new sizes (B, M, 1) float32.
        """
        self._check_tokens("x", x, self.tokens)
        if self.is_identity:
            if size is None:
                size = self.ops.ones(self.map, (*self.map.shape, 1))
            return x, size if len(size.shape) == 3 else size[:, :, None]
        weight = size[:, :, 0] if size is not None and len(size.shape) == 3 else size
        merged, mass = self.ops.segment_reduce(
            x, ids=self.map, segments=self.kept, mode="mean", weight=weight, return_mass=True
        )
        return merged, mass[:, :, None]

    def source(self, previous: Array | None = None) -> Array:
        """Say which input tokens every output token holds.

        Args:
            previous: (B, N, N0), the answer of the plan before this one; None for the first.

        Returns:
            (B, M, N0) of zeros and ones, float32 where there is no previous; its columns sum to 1 unless tokens
            were dropped.
        """
        if previous is None:
            previous = self.ops.eye(self.map, self.map.shape[0], self.tokens)
        return self.merge(previous, mode="amax")
