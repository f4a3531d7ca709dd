# SPDX-License-Identifier: Apache-2.0
"""Cases of the tree family: the head of a language model without its logits, against plain torch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tokernel import ops
from torch import Tensor
from torch.nn.functional import linear

from bench.arrays import DTYPES, bytes_of, randn
from bench.core import Case, Floor, Work

FASTER = Floor("ratio", 1.2)
ANSWER_BYTES = 8 + 4
VOCABULARY, WIDTH = 32000, 4096  # of Llama 2 7B


def _composed(h: Tensor, weight: Tensor) -> Any:
    return linear(h, weight).softmax(-1).max(-1)


def _composed_log(h: Tensor, weight: Tensor) -> Any:
    top = linear(h, weight).float().log_softmax(-1).max(-1)
    return top.values.exp(), top.indices


def _head(rows: int, dtype: torch.dtype, quick: bool) -> Work:
    vocabulary, width = (300, 64) if quick else (VOCABULARY, WIDTH)
    h = randn(rows, width, dtype=dtype)
    weight = randn(vocabulary, width, dtype=dtype, seed=1).mul_(2 / width**0.5)

    def nearly_equal(ours: Any, peer: Any) -> None:
        if dtype == torch.float32:
            torch.testing.assert_close((ours.prob, ours.id), tuple(peer), rtol=1e-3, atol=1e-7)

    return Work(
        lambda: ops.head_argmax_prob(h, weight),
        {
            "torch linear + softmax": partial(_composed, h, weight),
            "torch log_softmax": partial(_composed_log, h, weight),
        },
        nearly_equal,
        flops=2.0 * rows * vocabulary * width,
        moved_bytes=bytes_of(h, weight) + rows * ANSWER_BYTES,
    )


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    found = []
    for name, dtype in DTYPES.items():
        for rows in (16, 1, 64):
            floors = (FASTER,) if rows == 16 and dtype in (torch.float32, torch.bfloat16) else ()
            case = f"{rows}x{WIDTH} by {VOCABULARY}"
            found.append(Case("tree", "head_argmax_prob", case, name, partial(_head, rows, dtype), floors))
    return found
