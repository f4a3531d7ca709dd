# SPDX-License-Identifier: Apache-2.0
"""Family quantize as torch ops: product quantization and search among its codes."""

from __future__ import annotations

import torch
from torch import Tensor

from tokernel.kernels import quantize as kernels
from tokernel.kernels.quantize import Scanned
from tokernel.ops._torch_op import define

__all__ = ["adc_scan", "adc_tables", "pq_decode", "pq_encode"]


def _encode_kernel(x: Tensor, centroids: Tensor, bytes: bool) -> Tensor:
    codes: Tensor = kernels.pq_encode(x, centroids, torch.uint8 if bytes else torch.int64)
    return codes


def _encode_fake(x: Tensor, centroids: Tensor, bytes: bool) -> Tensor:
    return x.new_empty((x.shape[0], centroids.shape[0]), dtype=torch.uint8 if bytes else torch.int64)


_pq_encode = define(
    "pq_encode(Tensor x, Tensor centroids, bool bytes) -> Tensor", _encode_kernel, _encode_fake, batched=False
)


def pq_encode(x: Tensor, centroids: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Find the nearest centroid of every part of a row. Torch form of
    :func:`tokernel.kernels.quantize.pq_encode`, without gradient.

    Args:
        x: (N, M * d) float32, float16 or bfloat16, rows of any stride.
        centroids: (M, K, d) of the dtype of x; K at least 1.
        dtype: torch.uint8 or torch.int64; by default uint8 where K is at most 256.

    Returns:
        (N, M) of dtype.

    >>> pq_encode(torch.tensor([[3.0, 1.1]]), torch.tensor([[[0.0], [4.0]], [[1.0], [2.0]]]))
    tensor([[1, 0]], dtype=torch.uint8)
    """
    if dtype not in (None, torch.uint8, torch.int64):
        raise ValueError(f"pq_encode: dtype must be torch.uint8 or torch.int64, got {dtype}")
    few = centroids.dim() != 3 or centroids.shape[1] <= 256
    codes: Tensor = _pq_encode(x.detach(), centroids.detach(), few if dtype is None else dtype == torch.uint8)
    return codes


def _decode_kernel(codes: Tensor, centroids: Tensor) -> Tensor:
    rows: Tensor = kernels.pq_decode(codes, centroids)
    return rows


def _decode_fake(codes: Tensor, centroids: Tensor) -> Tensor:
    return centroids.new_empty((codes.shape[0], codes.shape[1] * centroids.shape[2]))


_pq_decode = define("pq_decode(Tensor codes, Tensor centroids) -> Tensor", _decode_kernel, _decode_fake, batched=False)


def pq_decode(codes: Tensor, centroids: Tensor) -> Tensor:
    """Put the centroids of a row's codes side by side. Torch form of
    :func:`tokernel.kernels.quantize.pq_decode`, without gradient.

    Args:
        codes: (N, M) uint8, int32 or int64, each in [0, K).
        centroids: (M, K, d) float32, float16 or bfloat16.

    Returns:
        (N, M * d) of the dtype of centroids.

    >>> pq_decode(torch.tensor([[1, 0]]), torch.tensor([[[0.0], [4.0]], [[1.0], [2.0]]]))
    tensor([[4., 1.]])
    """
    rows: Tensor = _pq_decode(codes, centroids.detach())
    return rows


def _tables_kernel(queries: Tensor, centroids: Tensor, metric: str) -> Tensor:
    tables: Tensor = kernels.adc_tables(queries, centroids, metric)
    return tables


def _tables_fake(queries: Tensor, centroids: Tensor, metric: str) -> Tensor:
    return queries.new_empty((queries.shape[0], *centroids.shape[:2]), dtype=torch.float32)


_adc_tables = define(
    "adc_tables(Tensor queries, Tensor centroids, str metric) -> Tensor", _tables_kernel, _tables_fake, batched=False
)


def adc_tables(queries: Tensor, centroids: Tensor, metric: str = "l2") -> Tensor:
    """Measure every part of the queries against each of its centroids. Torch form of
    :func:`tokernel.kernels.quantize.adc_tables`, without gradient.

    Args:
        queries: (B, M * d) float32, float16 or bfloat16, rows of any stride.
        centroids: (M, K, d) of the dtype of queries.
        metric: "l2" or "dot".

    Returns:
        (B, M, K) float32.

    >>> adc_tables(torch.tensor([[1.0, 1.0]]), torch.tensor([[[0.0], [4.0]], [[1.0], [2.0]]]))
    tensor([[[1., 9.],
             [0., 1.]]])
    """
    tables: Tensor = _adc_tables(queries.detach(), centroids.detach(), metric)
    return tables


def _scan_kernel(codes: Tensor, tables: Tensor, k: int, largest: bool) -> tuple[Tensor, Tensor]:
    value, index = kernels.adc_scan(codes, tables.contiguous(), k, largest)
    return value, index


def _scan_fake(codes: Tensor, tables: Tensor, k: int, largest: bool) -> tuple[Tensor, Tensor]:
    shape = (tables.shape[0], k)
    return tables.new_empty(shape, dtype=torch.float32), tables.new_empty(shape, dtype=torch.int64)


_adc_scan = define(
    "adc_scan(Tensor codes, Tensor tables, SymInt k, bool largest) -> (Tensor, Tensor)",
    _scan_kernel,
    _scan_fake,
    batched=False,
)


def adc_scan(codes: Tensor, tables: Tensor, k: int, largest: bool = False) -> Scanned:
    """Find the k best rows of codes for every query. Torch form of
    :func:`tokernel.kernels.quantize.adc_scan`, without gradient.

    Args:
        codes: (N, M) uint8, int32 or int64, each in [0, K); N below 2^31.
        tables: (B, M, K) float32.
        k: in [0, N].
        largest: look for the largest sums instead of the smallest.

    Returns:
        value (B, k) float32, the best first and the lowest row first among equals, and index (B, k) int64.

    >>> adc_scan(torch.tensor([[1, 0], [0, 1], [0, 0]]), torch.tensor([[[1.0, 9.0], [0.0, 1.0]]]), k=2)
    Scanned(value=tensor([[1., 2.]]), index=tensor([[2, 1]]))
    """
    return Scanned(*_adc_scan(codes, tables.detach(), k, largest))
