# SPDX-License-Identifier: Apache-2.0
"""Cases of the gates, against plain torch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tokernel import ops
from torch import Tensor

from bench.arrays import DTYPES, bytes_of, randn
from bench.core import Case, Work

ANSWER = 12.0  # bytes of an index and a weight


def _torch_gate(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    weight, index = logits.softmax(-1, dtype=torch.float32).topk(k)
    return index, weight, torch.bincount(index.flatten(), minlength=logits.shape[-1])


def _same_weights(ours: Any, peer: Any) -> None:
    """In bfloat16 logits tie, and torch may choose another of several equals."""
    torch.testing.assert_close(ours[1], peer[1], atol=1e-5, rtol=1e-4)
    assert int(ours[2].sum()) == int(peer[2].sum())


def _topk_gate(dtype: torch.dtype, tokens: int, experts: int, k: int, quick: bool) -> Work:
    if quick:
        tokens = 20
    logits = randn(tokens, experts, dtype=dtype)
    return Work(
        lambda: ops.topk_gate(logits, k),
        {"softmax, topk, bincount": lambda: _torch_gate(logits, k)},
        _same_weights,
        moved_bytes=bytes_of(logits) + tokens * k * ANSWER + experts * 8.0,
    )


def _gate_gradient(tokens: int, experts: int, k: int, quick: bool) -> Work:
    if quick:
        tokens = 20
    logits = randn(tokens, experts, dtype=torch.float32).requires_grad_()
    grad = randn(tokens, k, dtype=torch.float32, seed=1)

    def ours() -> Tensor:
        return torch.autograd.grad(ops.topk_gate(logits, k)[1], logits, grad)[0]

    def plain() -> Tensor:
        return torch.autograd.grad(_torch_gate(logits, k)[1], logits, grad)[0]

    def agree(ours: Tensor, peer: Tensor) -> None:
        torch.testing.assert_close(ours, peer, atol=1e-5, rtol=1e-4)

    moved = 3 * bytes_of(logits) + 2 * tokens * k * ANSWER
    return Work(ours, {"autograd of softmax, topk, bincount": plain}, agree, moved_bytes=moved)


def _threshold_gate(dtype: torch.dtype, noisy: bool, quick: bool) -> Work:
    count = 1000 if quick else 1 << 20
    logits = randn(count, dtype=dtype)
    noise = randn(count, dtype=torch.float32, seed=1) if noisy else None

    def plain() -> Tensor:
        if noise is None:
            return (logits > 0).to(dtype)
        return (((logits + noise) / 5.0).sigmoid() > 0.5).to(dtype)

    def agree(ours: Tensor, peer: Tensor) -> None:
        """A sigmoid within half an ulp of a half has lost its side."""
        assert float((ours != peer).float().mean()) < 1e-5

    moved = 2 * bytes_of(logits) + (0 if noise is None else bytes_of(noise))
    return Work(lambda: ops.threshold_gate(logits, 5.0, noise), {"plain torch": plain}, agree, moved_bytes=moved)


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    found = []
    for tokens, experts, k in ((4096, 8, 2), (4096, 64, 6), (4096, 256, 8), (1024, 4096, 8)):
        for name, dtype in DTYPES.items():
            build = partial(_topk_gate, dtype, tokens, experts, k)
            found.append(Case("select", "topk_gate", f"T={tokens}, E={experts}, k={k}", name, build))
    for experts, k in ((8, 2), (64, 6)):
        build = partial(_gate_gradient, 4096, experts, k)
        found.append(Case("select", "topk_gate, forward + gradient", f"T=4096, E={experts}, k={k}", "float32", build))
    for name, dtype in DTYPES.items():
        for noisy in (False, True):
            case = "2^20 logits" + (" with noise" if noisy else "")
            found.append(Case("select", "threshold_gate", case, name, partial(_threshold_gate, dtype, noisy)))
    return found
