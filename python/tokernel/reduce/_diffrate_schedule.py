# SPDX-License-Identifier: Apache-2.0
"""Kept counts per block, and files of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Schedule", "load_schedule"]


class Schedule(NamedTuple):
    """Tokens that each block leaves after pruning and after merging, class token included.

    Counts may rise from block to block: a count above the present number of tokens changes nothing.
    """

    prune_kept: list[int]
    merge_kept: list[int]


def checked_schedule(prune_kept: Sequence[int], merge_kept: Sequence[int], blocks: int) -> Schedule:
    """A schedule for a ViT of so many blocks, or ValueError/TypeError."""
    for name, counts in (("prune_kept", prune_kept), ("merge_kept", merge_kept)):
        if len(counts) != blocks:
            raise ValueError(f"diffrate: {name} expected one count for each of {blocks} blocks; got {len(counts)}")
        for count in counts:
            if not isinstance(count, int) or isinstance(count, bool):
                raise TypeError(f"diffrate: {name} expected integers; got {type(count).__name__}")
            if count < 2:
                raise ValueError(f"diffrate: {name} expected counts of at least 2; got {count}")
    return Schedule(list(prune_kept), list(merge_kept))


def load_schedule(source: str | PathLike[str] | Mapping[str, Any], *keys: str) -> Schedule:
    """Read a schedule from JSON: two lists under ``prune_kept`` and ``merge_kept`` (or ``..._num``, as published).

    Args:
        source: path of a JSON file, or what it holds.
        keys: names to descend by first, for instance model and GFLOPs.

    Raises:
        ValueError: a name that is not there, or a value that is no list of integers (a list written as text is one).

    >>> load_schedule({"tiny": {"1.2": {"prune_kept_num": "[17, 9]", "merge_kept_num": [17, 5]}}}, "tiny", "1.2")
    Schedule(prune_kept=[17, 9], merge_kept=[17, 5])
    """
    node: Any = source if isinstance(source, Mapping) else json.loads(Path(source).read_text())
    for key in keys:
        if not isinstance(node, Mapping) or key not in node:
            known = ", ".join(map(str, node)) if isinstance(node, Mapping) else "no names"
            raise ValueError(f"load_schedule: keys expected one of {known}; got {key!r}")
        node = node[key]
    prune_kept, merge_kept = _counts(node, "prune_kept"), _counts(node, "merge_kept")
    return checked_schedule(prune_kept, merge_kept, len(prune_kept))


def _counts(node: Any, name: str) -> list[int]:
    value = node.get(name, node.get(f"{name}_num")) if isinstance(node, Mapping) else None
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, list):
        raise ValueError(f"load_schedule: {name} expected a list of integers; got {value!r}")
    return value
