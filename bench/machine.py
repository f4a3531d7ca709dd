# SPDX-License-Identifier: Apache-2.0
"""The machine under the benchmark: its description, its measured peaks, its threads."""

from __future__ import annotations

import functools
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tokernel
from threadpoolctl import threadpool_limits
from tokernel import _C

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PROBE_SECONDS = 0.02
PROBE_RUNS = 7
LOAD_BEFORE = os.getloadavg()[0]  # what others were doing before this process added to it
SMALLEST_COPY, LARGEST_COPY = 1 << 16, 1 << 28


class Clock:
    """The clock of every measurement: wall time, or CPU time of the process for one thread on a busy machine."""

    name = "wall"

    @classmethod
    def now(cls) -> float:
        """Seconds since some moment."""
        return CLOCKS[cls.name]()


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def set_framework_threads(threads: int) -> None:
    """Give torch, and the BLAS of NumPy, the number of threads that ours gets."""
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")


@functools.cache
def fma_peak(threads: int) -> float:
    """Measured fp32 FLOP/s of `threads` threads: multiply-adds on registers, best backend, best of several runs."""
    level = [name for name in tokernel.backends()["usable"] if name not in ("cuda", "simt")][-1]
    tokernel.set_num_threads(threads)
    with tokernel.use_backend(level):
        iterations = 10_000
        while _timed(_C.fma_probe, iterations)[0] < PROBE_SECONDS:
            iterations *= 2
        runs = [_timed(_C.fma_probe, iterations) for _ in range(PROBE_RUNS)]
        return max(flops / seconds for seconds, flops in runs)


def copy_bandwidth(threads: int, moved_bytes: float) -> float:
    """Measured bytes per second, read plus written, of copies that move as many bytes: small ones live in a cache."""
    size = min(max(int(moved_bytes) // 2, SMALLEST_COPY), LARGEST_COPY)
    return _copy_bandwidth(threads, 1 << (size - 1).bit_length())


@functools.cache
def _copy_bandwidth(threads: int, size: int) -> float:
    tokernel.set_num_threads(threads)
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    repeats = max(1, (1 << 26) // size)

    def copies() -> None:
        for _ in range(repeats):
            _C.copy_probe(source, target)

    copies()
    return 2.0 * size * repeats / min(_timed(copies)[0] for _ in range(PROBE_RUNS))


def _timed(call: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    start = Clock.now()
    answer = call(*args)
    return Clock.now() - start, answer


def peak_share(flops: float, moved_bytes: float, seconds: float, threads: int) -> float | None:
    """Share of what the machine allows: the larger of FLOP/s over the FMA peak and bytes/s over the copy bandwidth."""
    shares = []
    if flops:
        shares.append(flops / seconds / fma_peak(threads))
    if moved_bytes:
        shares.append(moved_bytes / seconds / copy_bandwidth(threads, moved_bytes))
    return max(shares, default=None)


def noise() -> str:
    """Say that other programs were running, or return an empty string."""
    if LOAD_BEFORE < 0.5:
        return ""
    return f"the machine was not quiet: load average {LOAD_BEFORE:.1f} before the start, on {usable_cores()} cores"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe(threads: list[int]) -> dict[str, Any]:
    """Everything a reader needs to judge the figures."""
    import torch

    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": LOAD_BEFORE,
        "clock": Clock.name,
        "os": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
        "tokernel": tokernel.__version__,
        "cpu_level": tokernel.info()["cpu_level"],
        "fma_peak_flops": {str(n): fma_peak(n) for n in threads},
        "copy_bytes_per_second": {str(n): copy_bandwidth(n, LARGEST_COPY) for n in threads},
    }
