# SPDX-License-Identifier: Apache-2.0
"""What each CUDA kernel has to compute and move in a stated case. Written by hand, beside the kernels.

Bytes count every input read once and every output written once (what a cache cannot save); FLOPs count a multiply-add
as two. `dynamic_shared` repeats what the launcher asks for in that case.
"""

from __future__ import annotations

from dataclasses import dataclass

F32, BF16, I64 = 4, 2, 8


@dataclass(frozen=True)
class Cost:
    """One kernel in one case."""

    case: str
    moved_bytes: float
    flops: float = 0.0
    tensor_cores: bool = False
    dynamic_shared: int = 0
    threads: int | None = None  # of a block, where the launch takes fewer than __launch_bounds__ allows


# The row kernels: 512 of 1024 rows of 512 bf16 channels, for 64 samples.
_BATCH, _TOKENS, _PICKS, _WIDTH = 64, 1024, 512, 512
_ROWS = "B=64 N=1024 M=512 C=512 bf16"
_PICKED = _BATCH * _PICKS * _WIDTH * BF16  # bytes of the picked rows
_INDEX = _BATCH * _PICKS * I64
_WINNERS = _BATCH * _TOKENS * I64
_ADDED = _BATCH * _PICKS * _WIDTH  # elements

COSTS: dict[str, Cost] = {
    "gather_rows_kernel": Cost(_ROWS, moved_bytes=2 * _PICKED + _INDEX),
    "clear_winners_kernel": Cost(_ROWS, moved_bytes=_WINNERS),
    "bid_kernel": Cost(_ROWS, moved_bytes=_INDEX + 2 * _BATCH * _PICKS * I64),
    "scatter_rows_kernel": Cost(_ROWS, moved_bytes=_PICKED + _WINNERS + 2 * _PICKED),
    "gather_winners_kernel": Cost(_ROWS, moved_bytes=2 * _PICKED + 2 * _INDEX),
    "scatter_add_rows_kernel": Cost(
        "B=64 M=512 into N=256, C=512 bf16", moved_bytes=1.5 * _PICKED + _INDEX, flops=2.0 * _ADDED
    ),
    "scatter_add_rows_backward_kernel": Cost(
        "B=64 M=512 from N=256, C=512 bf16",
        moved_bytes=2.5 * _PICKED + _INDEX + 2 * _BATCH * _PICKS * F32,
        flops=3.0 * _ADDED,
    ),
}
