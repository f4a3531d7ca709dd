# SPDX-License-Identifier: Apache-2.0
"""Count parts of a corpus as tasks of Dask or Ray."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

from tokernel.text._counts import PieceCounts

Shards: TypeAlias = Literal["local", "dask", "ray"]
Count: TypeAlias = Callable[[Any], PieceCounts]


def gathered(op: str, count: Count, parts: Iterable[Any], shards: Shards) -> PieceCounts:
    """The sum of what `count` gives for every part, each counted by a task.

    Raises:
        ValueError: no such way.
        ImportError: the library is not installed.
    """
    ways = {"dask": _by_dask, "ray": _by_ray}
    if shards not in ways:
        raise ValueError(f"{op}: shards must be 'local', 'dask' or 'ray', got {shards!r}")
    try:
        return ways[shards](count, parts)
    except ModuleNotFoundError as error:
        if error.name != shards:
            raise
        raise ImportError(f"{op}: shards={shards!r} needs {shards}: pip install 'tokernel[{shards}]'") from None


def _by_dask(count: Count, parts: Iterable[Any]) -> PieceCounts:
    """On the scheduler that Dask is set to: threads here by default, a cluster with a `distributed.Client`."""
    dask: Any = importlib.import_module("dask")
    counts = [dask.delayed(count)(part) for part in parts]
    while len(counts) > 1:  # in pairs, so that no task holds more than two
        counts = [dask.delayed(_total)(counts[i : i + 2]) for i in range(0, len(counts), 2)]
    result: PieceCounts = counts[0].compute() if counts else PieceCounts()
    return result


def _by_ray(count: Count, parts: Iterable[Any]) -> PieceCounts:
    """On the cluster that Ray is connected to; starts one here if it is not."""
    import ray

    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    task = ray.remote(count_one)
    waiting = [task.remote(count, part) for part in parts]
    total = PieceCounts()
    while waiting:
        done, waiting = ray.wait(waiting)
        total = total + ray.get(done[0])
    return total


def count_one(count: Count, part: Any) -> PieceCounts:
    """What a task of Ray runs."""
    return count(part)


def _total(parts: list[PieceCounts]) -> PieceCounts:
    return sum(parts, PieceCounts())
