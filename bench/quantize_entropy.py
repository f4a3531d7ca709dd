# SPDX-License-Identifier: Apache-2.0
"""Cases of the quantize family: how evenly codes are used, softly, against plain torch and torch in chunks of rows."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tokernel import ops
from torch import Tensor

from bench.arrays import bytes_of, randn
from bench.core import Case, Floor, Work

CHUNK = 256  # rows of the chunked peer
SHAPES = ((4096, 16384, 8, 1.0), (1024, 16384, 256, 0.1))  # rows, codes, width, inverse temperature
F32 = 4


def _dense(x: Tensor, codes: Tensor, inv_temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    log_p = (inv_temperature * (x @ codes.T)).log_softmax(-1)
    p = log_p.exp()
    return -(p * log_p).sum(-1), p.mean(0), torch.zeros(0)


def _chunked(x: Tensor, codes: Tensor, inv_temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    parts = [_dense(rows, codes, inv_temperature) for rows in x.split(CHUNK)]
    mean = torch.stack([part[1] * CHUNK for part in parts]).sum(0) / x.shape[0]
    return torch.cat([part[0] for part in parts]), mean, torch.zeros(0)


def _agree(ours: Any, peer: Any) -> None:
    torch.testing.assert_close(ours[0], peer[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours[1], peer[1], rtol=1e-3, atol=1e-7)


def _shape(shape: tuple[int, int, int, float], quick: bool) -> tuple[Tensor, Tensor, float]:
    rows, count, width, inv_temperature = (512, 200, shape[2], shape[3]) if quick else shape
    return (
        randn(rows, width, dtype=torch.float32),
        randn(count, width, dtype=torch.float32, seed=1),
        inv_temperature,
    )


def _entropy(shape: tuple[int, int, int, float], quick: bool) -> Work:
    x, codes, inv_temperature = _shape(shape, quick)
    return Work(
        lambda: tuple(ops.codebook_entropy(x, codes, inv_temperature)),
        {
            "torch softmax": partial(_dense, x, codes, inv_temperature),
            "torch softmax, 256 rows a time": partial(_chunked, x, codes, inv_temperature),
        },
        _agree,
        flops=2.0 * x.shape[0] * codes.shape[0] * x.shape[1],
        moved_bytes=bytes_of(x, codes) + (2 * x.shape[0] + codes.shape[0]) * F32,
    )


def _loss(found: Any) -> Tensor:
    mean = found[1]
    return found[0].mean() + (mean * (mean + 1e-5).log()).sum()  # type: ignore[no-any-return]


def _gradient(shape: tuple[int, int, int, float], quick: bool) -> Work:
    x, codes, inv_temperature = _shape(shape, quick)
    leaves = [t.requires_grad_() for t in (x, codes)]

    def gradient_of(forward: Any) -> Any:
        loss = _loss(forward(x, codes, inv_temperature))
        return partial(torch.autograd.grad, loss, leaves, retain_graph=True)

    def nearly_equal(ours: Any, peer: Any) -> None:
        for mine, theirs in zip(ours, peer, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-3 * float(theirs.abs().max()))

    return Work(
        gradient_of(ops.codebook_entropy),
        {"torch softmax": gradient_of(_dense)},
        nearly_equal,
        flops=6.0 * x.shape[0] * codes.shape[0] * x.shape[1],
        moved_bytes=2 * bytes_of(x, codes) + (2 * x.shape[0] + codes.shape[0]) * F32,
    )


def _lse(quick: bool) -> Work:
    rows, count, width = (20, 300, 16) if quick else (256, 131072, 256)
    x, codes = randn(rows, width, dtype=torch.float32), randn(count, width, dtype=torch.float32, seed=1)

    def composed() -> Any:
        logits = x @ codes.T
        best = logits.max(-1)
        return logits.logsumexp(-1), best.indices, best.values

    return Work(
        lambda: tuple(ops.codebook_lse(x, codes)),
        {"torch matmul + logsumexp": composed},
        lambda ours, peer: torch.testing.assert_close(ours[0], peer[0], rtol=1e-4, atol=1e-4),
        flops=2.0 * rows * count * width,
        moved_bytes=bytes_of(x, codes) + rows * (2 * F32 + 8),
    )


def _sign_codes(bits: int) -> Tensor:
    return ((torch.arange(2**bits).unsqueeze(-1) >> torch.arange(bits)) & 1).float() * 2 - 1


def _histogram(backward: bool, quick: bool) -> Work:
    rows, groups, bits = (50, 2, 8) if quick else (8192, 8, 8)
    x = randn(rows, groups, bits, dtype=torch.float32).requires_grad_(backward)
    codes, grad = _sign_codes(bits), randn(2**bits, dtype=torch.float32, seed=1)

    def ours() -> Any:
        found = ops.subcode_histogram(x, 4.0)
        return torch.autograd.grad(found, x, grad) if backward else (found,)

    def softmax() -> Any:
        found = (2 * (x.reshape(-1, bits) @ codes.T)).softmax(-1).mean(0)
        return torch.autograd.grad(found, x, grad) if backward else (found,)

    return Work(
        ours,
        {"torch softmax over codes": softmax},
        lambda mine, peer: torch.testing.assert_close(mine[0], peer[0], rtol=1e-3, atol=1e-7),
        flops=2.0 * rows * groups * 2**bits,
        moved_bytes=bytes_of(x) * (2 if backward else 1) + 2**bits * F32,
    )


def _bits(quick: bool) -> Work:
    rows, width = (50, 18) if quick else (65536, 18)
    x = randn(rows, width, dtype=torch.float32)

    def composed() -> Tensor:
        p = (4.0 * x).sigmoid()
        return -(p * (p + 1e-8).log() + (1 - p) * (1 - p + 1e-8).log()).sum(-1)

    return Work(
        lambda: ops.bit_entropy(x, 4.0),
        {"torch sigmoids": composed},
        lambda ours, peer: torch.testing.assert_close(ours, peer, rtol=1e-3, atol=1e-4),
        moved_bytes=bytes_of(x) + rows * F32,
    )


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    twice, half_more, five = Floor("ratio", 2.0), Floor("ratio", 1.5), Floor("ratio", 5.0)
    found = []
    for shape in SHAPES:
        case = f"{shape[0]} of {shape[2]} by {shape[1]}"
        found.append(Case("quantize", "codebook_entropy", case, "float32", partial(_entropy, shape), (twice,)))
        found.append(
            Case("quantize", "codebook_entropy, gradient", case, "float32", partial(_gradient, shape), (half_more,))
        )
    found.append(Case("quantize", "codebook_lse", "256 of 256 by 131072", "float32", _lse))
    found.append(
        Case("quantize", "subcode_histogram", "65536 of 8 bits", "float32", partial(_histogram, False), (five,))
    )
    found.append(
        Case("quantize", "subcode_histogram with gradient", "65536 of 8 bits", "float32", partial(_histogram, True))
    )
    found.append(Case("quantize", "bit_entropy", "65536x18", "float32", _bits))
    return found
