# SPDX-License-Identifier: Apache-2.0
"""How far a training is: a bar on a terminal, or a function of the caller."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Tell: TypeAlias = Callable[[int], object]
Progress: TypeAlias = "bool | Callable[[int, int], object] | None"


@contextmanager
def telling(progress: Progress, description: str, total: int) -> Iterator[Tell | None]:
    """Give what is to be called with the steps done; None where nobody listens.

    `progress` is a function of (done, total); True for a bar, where rich is installed; None for a bar on a terminal.
    """
    if callable(progress):
        yield lambda done: progress(done, total)
        return
    show = sys.stderr.isatty() if progress is None else progress
    if not show or importlib.util.find_spec("rich") is None:
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.update(task, completed=done)
