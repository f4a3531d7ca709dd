# SPDX-License-Identifier: Apache-2.0
"""How long a call takes, when a table in a demo should say so; bench measures with more care."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")
RUNS = 3


def fastest(call: Callable[[], Answer]) -> tuple[float, Answer]:
    """Run a call three times; return the shortest time and the answer."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        answer = call()
        times.append(time.perf_counter() - start)
    return min(times), answer
