# SPDX-License-Identifier: Apache-2.0
"""Cases of signs, grids, buckets and strings of bits, against plain torch and NumPy."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from tokernel import ops
from tokernel.kernels import quantize
from torch import Tensor

from bench.arrays import DTYPES, bytes_of, randn
from bench.core import Case, Floor, Work

MOST_BANDWIDTH = Floor("peak", 0.7)
ID_BYTES = 8.0


# ---- grids ---------------------------------------------------------------------------------------------------------
def _torch_grid(z: Tensor, levels: list[int]) -> tuple[Tensor, Tensor]:
    """The formula, as vector-quantize-pytorch computes it."""
    n = torch.tensor(levels, dtype=torch.float32)
    h, o = (n - 1) * 1.001 / 2, torch.where(n % 2 == 0, 0.5, 0.0)
    rounded = (torch.tanh(z.float() + torch.atanh(o / h)) * h - o).round()
    weights = torch.tensor([math.prod(levels[:d]) for d in range(len(levels))])
    index = ((rounded + n // 2).long() * weights).sum(-1)
    return (rounded / (n // 2)).to(z.dtype), index


def _same_grid(ours: Any, peer: Any) -> None:
    """Within rounding of a step either level is right."""
    assert float((ours[1] != peer[1]).float().mean()) < 1e-4


def _fsq_encode(levels: list[int], dtype: torch.dtype, quick: bool) -> Work:
    rows = 100 if quick else (1 << 22) // len(levels)
    z = randn(rows, len(levels), dtype=dtype)
    moved = 2 * bytes_of(z) + rows * ID_BYTES
    return Work(
        lambda: ops.fsq_encode(z, levels),
        {"plain torch": lambda: _torch_grid(z, levels)},
        _same_grid,
        moved_bytes=moved,
    )


def _fsq_gradient(levels: list[int], quick: bool) -> Work:
    rows = 100 if quick else (1 << 22) // len(levels)
    z, grad = (randn(rows, len(levels), dtype=torch.float32, seed=i) for i in (0, 1))
    n = torch.tensor(levels, dtype=torch.float32)
    h, o = (n - 1) * 1.001 / 2, torch.where(n % 2 == 0, 0.5, 0.0)

    def plain() -> Tensor:
        t = torch.tanh(z + torch.atanh(o / h))
        return grad * (1 - t * t) * (h / (n // 2))

    def near(ours: Tensor, peer: Tensor) -> None:
        torch.testing.assert_close(ours, peer, atol=1e-5, rtol=1e-4)

    return Work(
        lambda: quantize.fsq_encode_backward(grad, z, levels), {"plain torch": plain}, near, moved_bytes=3 * bytes_of(z)
    )


def _fsq_decode(levels: list[int], quick: bool) -> Work:
    rows = 100 if quick else (1 << 22) // len(levels)
    index = torch.randint(math.prod(levels), (rows,), generator=torch.Generator().manual_seed(0))
    weights, n = torch.tensor([math.prod(levels[:d]) for d in range(len(levels))]), torch.tensor(levels)

    def plain() -> Tensor:
        return (index[:, None] // weights % n - n // 2) / (n // 2)

    moved = rows * (ID_BYTES + 4 * len(levels))
    return Work(lambda: ops.fsq_decode(index, levels), {"plain torch": plain}, _equal, moved_bytes=moved)


# ---- signs ---------------------------------------------------------------------------------------------------------
def _equal(ours: Any, peer: Any) -> None:
    torch.testing.assert_close(ours, peer, atol=0, rtol=0)


def _weights(bits: int, order: str) -> Tensor:
    weights = 2 ** torch.arange(bits)
    return weights if order == "lsb" else weights.flip(0)


def _sign_pack(channels: int, bits: int, order: str, dtype: torch.dtype, quick: bool) -> Work:
    rows = 100 if quick else (1 << 22) // channels
    x, weights = randn(rows, channels, dtype=dtype), _weights(bits, order)
    groups = channels // bits

    def plain() -> Tensor:
        return ((x > 0).reshape(rows, groups, bits) * weights).sum(-1)

    moved = bytes_of(x) + rows * groups * ID_BYTES
    return Work(lambda: ops.sign_pack(x, bits, order), {"plain torch": plain}, _equal, moved_bytes=moved)


def _sign_unpack(channels: int, bits: int, quick: bool) -> Work:
    rows = 100 if quick else (1 << 22) // channels
    groups, weights = channels // bits, _weights(bits, "lsb")
    ids = torch.randint(1 << bits, (rows, groups), generator=torch.Generator().manual_seed(0))

    def plain() -> Tensor:
        return ((ids[..., None] & weights) != 0).reshape(rows, channels) * 2.0 - 1.0

    moved = rows * (groups * ID_BYTES + channels * 4.0)
    return Work(lambda: ops.sign_unpack(ids, bits), {"plain torch": plain}, _equal, moved_bytes=moved)


# ---- buckets and strings of bits -----------------------------------------------------------------------------------
def _bucketize(boundaries: int, dtype: torch.dtype, quick: bool) -> Work:
    x = randn(1000 if quick else 1 << 21, dtype=torch.float32)
    edges = torch.linspace(-3, 3, boundaries)

    def same(ours: Tensor, peer: Tensor) -> None:
        assert torch.equal(ours.long(), peer)

    moved = bytes_of(x, edges) + x.numel() * (1.0 if dtype == torch.uint8 else ID_BYTES)
    return Work(
        lambda: ops.bucketize(x, edges, dtype),
        {"torch.bucketize": lambda: torch.bucketize(x, edges)},
        same,
        moved_bytes=moved,
    )


def _pack_bits(bits: int, back: bool, quick: bool) -> Work:
    rows, width = (10, 16) if quick else (1 << 12, 256)
    ids = torch.randint(1 << bits, (rows, width), generator=torch.Generator().manual_seed(0))
    packed, numbers = ops.pack_bits(ids, bits), ids.numpy()
    moved = bytes_of(ids, packed)

    def single_bits() -> Tensor:
        single = (numbers[..., None] >> np.arange(bits) & 1).astype(np.uint8).reshape(rows, -1)
        return torch.from_numpy(np.packbits(single, axis=-1, bitorder="little"))

    def from_single_bits() -> Tensor:
        single = np.unpackbits(packed.numpy(), axis=-1, count=width * bits, bitorder="little")
        return torch.from_numpy((single.reshape(rows, width, bits) << np.arange(bits)).sum(-1))

    if back:
        peers = {"numpy.unpackbits": from_single_bits}
        return Work(lambda: ops.unpack_bits(packed, bits, width), peers, _equal, moved_bytes=moved)
    return Work(lambda: ops.pack_bits(ids, bits), {"numpy.packbits": single_bits}, _equal, moved_bytes=moved)


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    found = []
    for levels in ([8, 5, 5, 5], [8, 8, 8, 5, 5, 5], [16, 16, 16], [64, 64, 64]):
        case = f"{(1 << 22) // len(levels)} rows, levels {'x'.join(map(str, levels))}"
        for name, dtype in DTYPES.items():
            floors = (MOST_BANDWIDTH,) if name == "float32" and levels == [8, 5, 5, 5] else ()
            found.append(Case("quantize", "fsq_encode", case, name, partial(_fsq_encode, levels, dtype), floors))
    case = "1048576 rows, levels 8x5x5x5"
    found.append(Case("quantize", "fsq_encode_backward", case, "float32", partial(_fsq_gradient, [8, 5, 5, 5])))
    found.append(Case("quantize", "fsq_decode", case, "float32", partial(_fsq_decode, [8, 5, 5, 5])))
    for channels, bits, order in ((18, 18, "lsb"), (32, 8, "lsb"), (32, 8, "msb"), (36, 36, "msb")):
        case = f"{(1 << 22) // channels} x {channels}, groups of {bits}, {order}"
        for name, dtype in DTYPES.items():
            floors = (MOST_BANDWIDTH,) if name == "float32" else ()
            build = partial(_sign_pack, channels, bits, order, dtype)
            found.append(Case("quantize", "sign_pack", case, name, build, floors))
    for channels, bits in ((18, 18), (32, 8)):
        case = f"{(1 << 22) // channels} x {channels}, groups of {bits}"
        found.append(Case("quantize", "sign_unpack", case, "float32", partial(_sign_unpack, channels, bits)))
    for boundaries, index in ((7, torch.uint8), (63, torch.uint8), (63, torch.int64), (511, torch.int64)):
        case = f"2^21 values, {boundaries} boundaries, {str(index).removeprefix('torch.')}"
        found.append(Case("quantize", "bucketize", case, "float32", partial(_bucketize, boundaries, index)))
    for bits in (4, 8, 10, 13, 16):
        for op, back in (("pack_bits", False), ("unpack_bits", True)):
            found.append(Case("quantize", op, f"4096 x 256, {bits} bits", "int64", partial(_pack_bits, bits, back)))
    return found
