# SPDX-License-Identifier: Apache-2.0
"""Cases of the tree family: what speculative decoding does with rows of logits, against plain torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tokernel import ops
from torch import Tensor

from bench import tree_attention, tree_cache, tree_draft, tree_head, tree_merge, tree_verify
from bench.arrays import DTYPES, bytes_of, randn
from bench.core import Case, Floor, Work

FOUR_TIMES = Floor("ratio", 4.0)
MOST_BANDWIDTH = Floor("peak", 0.7)
TWO_THREADS = Floor("speedup", 1.8)
ROW_BYTES = 2 * 8 + 4 * 4  # two indices and four numbers
VOCABULARY = 128256  # of Llama 3


def _logits(rows: int, dtype: torch.dtype, quick: bool) -> Tensor:
    return 3 * randn(2 if quick else rows, 500 if quick else VOCABULARY, dtype=dtype)


def _composed(logits: Tensor) -> tuple[Tensor, Tensor]:
    p = logits.softmax(-1)
    return p.max(-1).values, -(p * p.log()).sum(-1)


def _composed_log(logits: Tensor) -> tuple[Tensor, Tensor]:
    log_p = logits.log_softmax(-1)
    return log_p.amax(-1).exp(), -(log_p.exp() * log_p).sum(-1)


def _row_stats(rows: int, dtype: torch.dtype, quick: bool) -> Work:
    logits = _logits(rows, dtype, quick)

    def nearly_equal(ours: Any, peer: Any) -> None:
        if dtype == torch.float32:
            torch.testing.assert_close((ours.p_argmax, ours.entropy), peer, rtol=1e-4, atol=1e-5)

    return Work(
        lambda: ops.row_stats(logits),
        {"torch softmax + log": partial(_composed, logits), "torch log_softmax": partial(_composed_log, logits)},
        nearly_equal,
        moved_bytes=bytes_of(logits) + rows * ROW_BYTES,
    )


def _entropy_gradient(rows: int, dtype: torch.dtype, quick: bool) -> Work:
    logits = _logits(rows, dtype, quick).requires_grad_()

    def train(entropy: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.autograd.grad(entropy(logits).float().sum(), logits)[0]

    def nearly_equal(ours: Any, peer: Any) -> None:
        if dtype == torch.float32:
            torch.testing.assert_close(ours, peer, rtol=1e-3, atol=1e-6)

    return Work(
        lambda: train(lambda x: ops.row_stats(x).entropy),
        {"torch log_softmax": lambda: train(lambda x: _composed_log(x)[1])},
        nearly_equal,
        moved_bytes=3 * bytes_of(logits),
    )


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    found = []
    for name, dtype in DTYPES.items():
        floors = (FOUR_TIMES, MOST_BANDWIDTH, TWO_THREADS) if dtype == torch.float32 else ()
        found.append(Case("tree", "row_stats", f"64x{VOCABULARY}", name, partial(_row_stats, 64, dtype), floors))
        found.append(Case("tree", "row_stats", f"1x{VOCABULARY}", name, partial(_row_stats, 1, dtype)))
        build = partial(_entropy_gradient, 64, dtype)
        found.append(Case("tree", "row_stats, entropy trained", f"64x{VOCABULARY}", name, build))
    others = (tree_attention, tree_draft, tree_merge, tree_verify, tree_head, tree_cache)
    return [*found, *(case for other in others for case in other.cases())]
