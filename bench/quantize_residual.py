# SPDX-License-Identifier: Apache-2.0
"""Cases of stacks of codebooks, against vector-quantize-pytorch (where it is installed) and plain torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tokernel import ops
from torch import Tensor
from torch.nn.functional import embedding

from bench.arrays import DTYPES, bytes_of, randn
from bench.core import Case, Floor, Work

FOUR_TIMES = Floor("ratio", 4.0)
MOST_PEAK = Floor("peak", 0.85)
TWO_THREADS = Floor("speedup", 1.8)
MOST_BANDWIDTH = Floor("peak", 0.7)
I64, F32 = 8, 4
HAS_OFFICIAL = importlib.util.find_spec("vector_quantize_pytorch") is not None


def _plain(x: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    residual, quantized, found = x.float(), torch.zeros(x.shape), []
    for book in codes.float():
        index = torch.cdist(residual, book).argmin(-1)
        residual, quantized = residual - book[index], quantized + book[index]
        found.append(index)
    return quantized, torch.stack(found, -1)


def _official(codes: Tensor) -> Callable[[Tensor], Any]:
    from vector_quantize_pytorch import ResidualVQ  # type: ignore[import-untyped]

    layers, count, width = codes.shape
    model = ResidualVQ(dim=width, num_quantizers=layers, codebook_size=count).eval()
    for layer, book in zip(model.layers, codes, strict=True):
        layer._codebook.embed.data[0].copy_(book)

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            quantized, index, _ = model(x)
        return quantized, index

    return encode


def _encode(rows: int, layers: int, count: int, width: int, dtype: torch.dtype, quick: bool) -> Work:
    if quick:
        rows, layers, count, width = 70, 2, 40, 16
    x = randn(rows, width, dtype=dtype)
    codes = (randn(layers, count, width, dtype=dtype, seed=1) * 0.5).contiguous()
    official = dtype == torch.float32 and HAS_OFFICIAL
    peers: dict[str, Callable[[], Any]] = (
        {"vector-quantize-pytorch": partial(_official(codes), x)}
        if official
        else {"torch cdist + argmin": partial(_plain, x, codes)}
    )

    def mostly_equal(ours: Any, peer: Any) -> None:
        """Where two codes are equally near, the rest of the row may differ."""
        assert float((ours.index == peer[1]).float().mean()) > 0.995

    return Work(
        lambda: ops.rvq_encode(x, codes),
        peers,
        mostly_equal,
        flops=2.0 * rows * layers * count * width,
        moved_bytes=bytes_of(x, codes) + rows * (layers * (I64 + F32) + width * F32),
    )


def _stack(quick: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    rows, layers, count, width = (70, 2, 40, 16) if quick else (65536, 8, 1024, 128)
    index = torch.randint(0, count, (rows, layers), generator=torch.Generator().manual_seed(2))
    return index, randn(layers, count, width, dtype=dtype)


def _decode(dtype: torch.dtype, quick: bool) -> Work:
    index, codes = _stack(quick, dtype)

    def plain() -> Tensor:
        return torch.stack([book[index[:, q]] for q, book in enumerate(codes.float())]).sum(0).to(dtype)

    return Work(
        lambda: ops.rvq_decode(index, codes),
        {"plain torch": plain},
        lambda ours, peer: torch.testing.assert_close(ours, peer, rtol=1e-2, atol=1e-2),
        moved_bytes=bytes_of(index, codes) + index.shape[0] * codes[0, 0].nbytes,
    )


def _decode_gradient(quick: bool) -> Work:
    index, codes = _stack(quick, torch.float32)
    codes.requires_grad_()
    grad = randn(index.shape[0], codes.shape[2], dtype=torch.float32, seed=3)

    def plain() -> Tensor:
        read = torch.stack([embedding(index[:, q], book) for q, book in enumerate(codes.unbind(0))])
        return torch.autograd.grad(read.sum(0), codes, grad)[0]

    return Work(
        lambda: torch.autograd.grad(ops.rvq_decode(index, codes), codes, grad)[0],
        {"torch embedding": plain},
        lambda ours, peer: torch.testing.assert_close(ours, peer, rtol=1e-4, atol=1e-3),
        moved_bytes=bytes_of(index, codes) + 2 * bytes_of(grad) + bytes_of(codes),
    )


def _lookup(dtype: torch.dtype, quick: bool) -> Work:
    index, codes = _stack(quick, dtype)
    chosen, book = index[:, 0].contiguous(), codes[0]
    moved = bytes_of(chosen) + 2 * chosen.shape[0] * book[0].nbytes
    return Work(
        lambda: ops.lookup(book, chosen),
        {"torch embedding": lambda: embedding(chosen, book)},
        lambda ours, peer: torch.testing.assert_close(ours, peer, rtol=0, atol=0),
        moved_bytes=moved,
    )


def _rotation(x: Tensor, q: Tensor) -> Tensor:
    u = x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    v = q / q.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    w = (u + v) / (u + v).norm(dim=-1, keepdim=True).clamp(min=1e-6)
    u, v, w = u.detach(), v.detach(), w.detach()
    scale = (q.norm(dim=-1, keepdim=True) / x.norm(dim=-1, keepdim=True).clamp(min=1e-6)).detach()
    turned: Tensor = x - 2 * (x * w).sum(-1, keepdim=True) * w + 2 * (x * u).sum(-1, keepdim=True) * v
    out: Tensor = scale * turned
    return out


def _rotate(trained: bool, quick: bool) -> Work:
    shape = (70, 16) if quick else (65536, 128)
    x, q, grad = (randn(*shape, dtype=torch.float32, seed=i) for i in range(3))
    x.requires_grad_(trained)

    def train(rotate: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        out = rotate(x, q)
        return torch.autograd.grad(out, x, grad)[0] if trained else out

    return Work(
        lambda: train(ops.rotate_to),
        {"plain torch": lambda: train(_rotation)},
        lambda ours, peer: torch.testing.assert_close(ours, peer, rtol=1e-3, atol=1e-4),
        moved_bytes=(7.0 if trained else 3.0) * bytes_of(q),
    )


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    found = []
    for name, dtype in DTYPES.items():
        own = (MOST_PEAK, TWO_THREADS) if dtype == torch.float32 else ()
        floors = (FOUR_TIMES, *own) if own and HAS_OFFICIAL else own
        build = partial(_encode, 4096, 8, 1024, 128, dtype)
        found.append(Case("quantize", "rvq_encode", "4096x128, 8 books of 1024", name, build, floors))
        read = (MOST_BANDWIDTH,) if dtype == torch.float32 else ()
        found.append(Case("quantize", "lookup", "65536 of 1024x128", name, partial(_lookup, dtype), read))
        found.append(Case("quantize", "rvq_decode", "65536x128, 8 books of 1024", name, partial(_decode, dtype)))
    small = partial(_encode, 16384, 4, 1024, 8, torch.float32)
    found.append(Case("quantize", "rvq_encode", "16384x8, 4 books of 1024", "float32", small))
    found.append(Case("quantize", "rvq_decode gradient", "65536x128, 8 books of 1024", "float32", _decode_gradient))
    for trained in (False, True):
        op = "rotate_to, trained" if trained else "rotate_to"
        found.append(Case("quantize", op, "65536x128", "float32", partial(_rotate, trained)))
    return found
