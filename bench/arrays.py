# SPDX-License-Identifier: Apache-2.0
"""What the cases of every family share: inputs, their bytes, and when two answers agree."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Rounding of the peers, which compute in the dtype itself; ours accumulate in fp32.
RELATIVE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def randn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Draw normal numbers, the same in every run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def bytes_of(*tensors: Tensor) -> float:
    """Count the bytes of all elements."""
    return float(sum(t.numel() * t.element_size() for t in tensors))


def agree(ours: Any, peer: Any) -> None:
    """Compare tensors, or tuples of them, within the rounding of the dtype."""
    if isinstance(ours, Tensor):
        ours, peer = (ours,), (peer,)
    for mine, theirs in zip(ours, peer, strict=True):
        bound = RELATIVE.get(mine.dtype, 0.0) if mine.dtype == theirs.dtype else RELATIVE[torch.bfloat16]
        scale = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=bound, atol=bound * scale)
