# SPDX-License-Identifier: Apache-2.0
"""Product quantization (Jegou et al., 2011): a codebook for every part of a vector, and search among packed codes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokernel import ops
from tokernel.codecs._checks import check_index, check_rows, one_of, whole
from tokernel.codecs._quantizer import Quantizer, dropped
from tokernel.codecs.codebook import kmeans_init


class Found(NamedTuple):
    """The best of a search: distance [B, k] (product, where metric is "dot"), and index [B, k] into the codes."""

    value: Tensor
    index: Tensor  # type: ignore[assignment]


class ProductQuantizer(Quantizer):
    """Cut vectors into M parts and replace each by the nearest of K centroids of its own (by squared distance).

    Args:
        dim: channels of x, a multiple of parts.
        parts: M.
        codebook_size: K, 256 where codes should be bytes.
        channel_first: x is (B, dim, ...).

    >>> pq = ProductQuantizer(dim=4, parts=2, codebook_size=2)
    >>> data = torch.tensor([[0.0, 0.0, 5.0, 5.0], [1.0, 1.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0]])
    >>> codes = pq.fit(data).encode(data)
    >>> pq.search(data[:1], codes, k=2).index
    tensor([[0, 2]])
    """

    centroids: Tensor

    def __init__(self, dim: int, parts: int, codebook_size: int = 256, *, channel_first: bool = False) -> None:
        if whole(self, "dim", dim) % whole(self, "parts", parts):
            raise ValueError(f"ProductQuantizer: dim must be a multiple of parts, {parts}, got {dim}")
        whole(self, "codebook_size", codebook_size)
        super().__init__(dim, dim, channel_first)
        self.parts, self.codebook_size = parts, codebook_size
        self.index_axes = (parts,)
        width = dim // parts
        self.register_buffer("centroids", torch.randn(parts, codebook_size, width, dtype=torch.float32) * width**-0.5)

    @torch.no_grad()
    def fit(self, x: Tensor, iters: int = 25, seed: int = 0) -> ProductQuantizer:
        """Place the centroids of every part by k-means over the rows of x; returns itself."""
        rows, _, _ = self._enter(x, None)
        if rows.shape[0] == 0:
            raise ValueError("ProductQuantizer: x must be at least one row long where centroids are fitted to it")
        cut = rows.reshape(rows.shape[0], self.parts, -1).movedim(1, 0).contiguous()
        self.centroids.copy_(kmeans_init(cut, self.codebook_size, iters, seed=seed).codes)
        return self

    def adc_tables(self, queries: Tensor, metric: str = "l2") -> Tensor:
        """Distance (or product, "dot") of every part of the queries (B, dim) to every centroid: (B, M, K)."""
        check_rows(self, queries, self.dim, False)
        one_of(self, "metric", metric, ("l2", "dot"))
        tables: Tensor = ops.adc_tables(queries.float().reshape(-1, self.dim), self.centroids, metric=metric)
        return tables

    def search(self, queries: Tensor, codes: Tensor, k: int, metric: str = "l2") -> Found:
        """Find the k best of `codes` (N, M) for every query: smallest sum of table entries, or largest for "dot"."""
        check_rows(self, queries, self.dim, False)
        if codes.dim() != 2:
            raise ValueError(f"ProductQuantizer: codes must have the shape (N, {self.parts}), got {tuple(codes.shape)}")
        check_index(self, codes.long() if codes.dtype == torch.uint8 else codes, self.index_axes, self._codes())
        if whole(self, "k", k) > codes.shape[0]:
            raise ValueError(f"ProductQuantizer: k must be at most {codes.shape[0]}, the number of codes, got {k}")
        value, index = ops.adc_scan(codes, self.adc_tables(queries, metric), k, largest=metric == "dot")
        return Found(value, index)

    def pack(self, index: Tensor) -> Tensor:
        """Bytes (.., ceil(M bits / 8)) of indices (.., M): a little-endian string of ceil(log2 K) bits a part."""
        check_index(self, index, self.index_axes, self._codes())
        packed: Tensor = ops.pack_bits(index, self._bits())
        return packed

    def unpack(self, packed: Tensor) -> Tensor:
        """Undo :meth:`pack`."""
        index: Tensor = ops.unpack_bits(packed, self._bits(), self.parts)
        return index

    def _bits(self) -> int:
        return max(1, (self.codebook_size - 1).bit_length())

    def _codes(self) -> int:
        return self.codebook_size

    def _encode(self, rows: Tensor, **_: Any) -> Tensor:
        index: Tensor = ops.pq_encode(rows, self.centroids, dtype=torch.int64)
        return index

    def _decode(self, index: Tensor) -> Tensor:
        codes = ops.pq_decode(index.clamp(min=0), self.centroids)
        return torch.where((index >= 0).repeat_interleave(self.dim // self.parts, -1), codes, 0.0)

    def _quantize(self, rows: Tensor, valid: Tensor | None, **_: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        index = dropped(self._encode(rows.detach()), valid)
        out = ops.straight_through(rows, self._decode(index))
        return out if valid is None else torch.where(valid[:, None], out, 0.0), index, {}
