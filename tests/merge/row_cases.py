# SPDX-License-Identifier: Apache-2.0
"""Inputs of the ops that move rows by index: sizes around every width, and arrays of them."""

import torch

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# B, N rows, M picks, C
SHAPES = [
    (1, 1, 1, 1),
    (2, 5, 3, 7),
    (2, 3, 9, 8),
    (3, 4, 4, 17),
    (1, 33, 31, 33),
    (2, 1, 6, 64),
    (1, 2, 5, 131),
]
EMPTY = [(0, 3, 2, 4), (2, 0, 0, 4), (2, 3, 0, 4), (2, 3, 2, 0)]


def row_case(shape, dtype=torch.float32):
    """Rows by place (B, N, C), rows by pick (B, M, C), and the place of every pick (B, M), with duplicates."""
    batch, rows, picks, width = shape
    generator = torch.Generator().manual_seed(0)
    by_place = torch.randn(batch, rows, width, generator=generator).to(dtype)
    by_pick = torch.randn(batch, picks, width, generator=generator).to(dtype)
    index = torch.randint(0, max(rows, 1), (batch, picks), generator=generator)
    return by_place, by_pick, index
