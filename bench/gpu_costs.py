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


COSTS: dict[str, Cost] = {
    "gather_rows_kernel": Cost("B=64 N=1024 M=512 C=512 bf16", moved_bytes=64 * 512 * (2 * 512 * BF16 + I64)),
}
