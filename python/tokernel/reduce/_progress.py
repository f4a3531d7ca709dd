# SPDX-License-Identifier: Apache-2.0
"""A progress bar where rich is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["with_bar"]

Step = TypeVar("Step")


@contextmanager
def with_bar(
    steps: Iterable[Step], show: bool, description: str, *, transient: bool = False
) -> Iterator[Iterable[Step]]:
    """Give the steps to go through, and show how far that has come; the bar ends with the block, whatever ends it."""
    if not show or importlib.util.find_spec("rich") is None:
        yield steps
        return
    from rich.progress import Progress

    with Progress(transient=transient) as bar:
        yield bar.track(steps, description=description)
