# SPDX-License-Identifier: Apache-2.0
"""How many layers every position gets, and which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Mode", "SkipSchedule", "active_layers", "mean_depth", "plan_for_speedup", "prefix_lengths", "skip_schedule"]

Mode = Literal["generated", "positional"]


@dataclass(frozen=True)
class SkipSchedule:
    """Layers a position runs: a line from k_max at its first position to k_min at its last, and k_min from there on.

    k = floor((1 - t) k_max + t k_min + 1/2) with t = min(i / (n_ref - 1), 1). The line and its rounding are our
    reconstruction: the sources leave them open.

    Args:
        k_max: layers at the start, at most those of the model.
        k_min: layers at the end, at least ``warmup``, 1 or more.
        n_ref: how many positions the line spans, 2 or more; the paper takes a typical length of the data.
        warmup: of these layers, how many are the bottom ones; the others are the top ones. 1 is our reconstruction.
        mode: "generated": the prompt runs k_max and i counts generated tokens (our reconstruction of the default);
            "positional": i counts prompt and generated tokens alike.

    Raises:
        ValueError: counts that contradict each other, an unknown mode.
    """

    k_max: int
    k_min: int
    n_ref: int
    warmup: int = 1
    mode: Mode = "generated"

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"SkipSchedule: warmup expected at least 0; got {self.warmup}")
        if not max(self.warmup, 1) <= self.k_min <= self.k_max:
            wanted = f"in [{max(self.warmup, 1)}, k_max] (warmup layers are among them)"
            raise ValueError(f"SkipSchedule: k_min expected {wanted}; got {self.k_min} with k_max {self.k_max}")
        if self.n_ref < 2:
            raise ValueError(f"SkipSchedule: n_ref expected at least 2; got {self.n_ref}")
        if self.mode not in ("generated", "positional"):
            raise ValueError(f"SkipSchedule: mode expected 'generated' or 'positional'; got {self.mode!r}")

    def depths(self, layers: int, n: int, prompt: int = 0) -> NDArray[np.int64]:
        """(n) int64: how many layers of a model of ``layers`` each position runs, the first ``prompt`` the prompt's."""
        if self.k_max > layers:
            raise ValueError(
                f"SkipSchedule: k_max expected at most {layers}, the layers of the model; got {self.k_max}"
            )
        if n < 0 or prompt < 0:
            raise ValueError(f"SkipSchedule: n and prompt expected at least 0; got {n} and {prompt}")
        first = prompt if self.mode == "generated" else 0
        span = self.n_ref - 1
        at = np.clip(np.arange(n) - first, 0, span)
        # In integers: a rounded t could make the line step up.
        return (2 * ((span - at) * self.k_max + at * self.k_min) + span) // (2 * span)


def skip_schedule(
    L: int,
    n: int,
    k_max: int,
    k_min: int,
    n_ref: int,
    warmup: int = 1,
    mode: Mode = "generated",
    prompt: int = 0,
) -> NDArray[np.int64]:
    """How many of L layers each of n positions runs: :class:`SkipSchedule` as a function.

    >>> skip_schedule(L=12, n=9, k_max=8, k_min=4, n_ref=5, prompt=2).tolist()
    [8, 8, 8, 7, 6, 5, 4, 4, 4]
    """
    return SkipSchedule(k_max, k_min, n_ref, warmup, mode).depths(L, n, prompt)


def active_layers(k: int, L: int, warmup: int = 1) -> list[int]:
    """Which k of L layers run: ``warmup`` at the bottom, the others at the top. Fewer are always a subset of more.

    Raises:
        ValueError: k outside [warmup, L].

    >>> active_layers(4, L=12)
    [0, 9, 10, 11]
    """
    if not 0 <= warmup <= k <= L:
        raise ValueError(f"active_layers: k expected in [{warmup}, {L}]; got {k}")
    return [*range(warmup), *range(L - (k - warmup), L)]


def prefix_lengths(depths: Sequence[int] | NDArray[np.int64], L: int, warmup: int) -> list[int]:
    """How many positions run each layer. Depths never grow, so these are the first ones."""
    k = np.asarray(depths)
    return [len(k) if layer < warmup else int((k >= L - layer + warmup).sum()) for layer in range(L)]


def mean_depth(depths: Sequence[int] | NDArray[np.int64]) -> float:
    """Layers per position, on average. A model of L layers runs L / mean_depth times as fast, counted in layers.

    Raises:
        ValueError: no positions.

    >>> mean_depth(skip_schedule(L=24, n=100, k_max=16, k_min=8, n_ref=100))
    12.0
    """
    if not len(depths):
        raise ValueError("mean_depth: depths expected at least one position; got none")
    return float(np.mean(depths))


def plan_for_speedup(
    L: int, n_ref: int, s: float, k_max: int | None = None, k_min: int | None = None, warmup: int = 1
) -> SkipSchedule:
    """The schedule whose mean over n_ref positions is nearest to L / s layers.

    Of k_max and k_min those not given are searched; among equally near ones that nearest to k_max = 2 k_min is taken,
    then the larger k_max (our reconstruction).

    Args:
        L: layers of the model.
        n_ref: positions to average over.
        s: how many times fewer layers are to run, over the generated tokens.
        k_max, k_min: what is fixed beforehand; k_min is at least warmup + 1.
        warmup: as in :class:`SkipSchedule`.

    Raises:
        ValueError: no schedule comes within half a layer.

    >>> plan_for_speedup(L=24, n_ref=128, s=2)
    SkipSchedule(k_max=16, k_min=8, n_ref=128, warmup=1, mode='generated')
    """
    if not 1 <= s < float("inf"):
        raise ValueError(f"plan_for_speedup: s expected at least 1 and finite; got {s}")
    lows = range(min(warmup + 1, L), L + 1) if k_min is None else [k_min]
    highs = range(1, L + 1) if k_max is None else [k_max]
    plans = [SkipSchedule(high, low, n_ref, warmup) for low in lows for high in highs if low <= high]
    best, miss = None, (float("inf"),) * 3
    for plan in plans:
        off = abs(mean_depth(plan.depths(L, n_ref)) - L / s)
        rank = (round(off, 9), abs(plan.k_max - 2 * plan.k_min), -plan.k_max)
        if rank < miss:
            best, miss = plan, rank
    if best is None or miss[0] > 0.5:
        raise ValueError(
            f"plan_for_speedup: s expected reachable with {L} layers, k_max {k_max}, k_min {k_min}; got {s}"
        )
    return best
