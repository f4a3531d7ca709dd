# SPDX-License-Identifier: Apache-2.0
"""How much SpAtten prunes in which layer: the paper's line, LTP's reading of it, the counts of the released trace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tokernel import ops

__all__ = [
    "GPT2_MEDIUM_TRACE",
    "Trace",
    "TraceCounts",
    "kept_count",
    "ltp_keep_rates",
    "ltp_prune",
    "ratios_per_layer",
    "schedule",
    "trace_counts",
]


def check_fraction(op: str, name: str, value: float) -> None:
    """Refuse what is no fraction of something, NaN included."""
    if not 0 <= value <= 1:
        raise ValueError(f"{op}: {name} expected in [0, 1]; got {value}")


def kept_count(count: int, ratio: float) -> int:
    """How many of `count` items stay when a fraction `ratio` goes: ``floor(count * (1 - ratio))``.

    A product that float64 puts a rounding error below an integer counts as that integer: of 10, 1 stays at 0.9.

    >>> kept_count(10, 0.9), kept_count(7, 0.5), kept_count(7, 0.0)
    (1, 3, 7)
    """
    check_fraction("kept_count", "ratio", ratio)
    kept = count * (1 - ratio)
    return round(kept) if abs(kept - round(kept)) <= 1e-12 * count else math.floor(kept)


def schedule(
    n_layers: int,
    avg: float,
    start_frac: float = 0.15,
    kind: Literal["linear", "constant"] = "linear",
    start: float | None = None,
) -> list[float]:
    """Spell out the fraction that every layer prunes of what reaches it (section 3 of the paper, from the paper).

    The first ``ceil(start_frac * n_layers)`` layers prune nothing. From there the ratio goes linearly from `start` to
    ``2 * avg - start``, so that its mean over the pruning layers is `avg`. The paper searches `start` per task; without
    one the line rises from ``avg / 2`` to ``3/2 avg``, flattened where that passes 1 (our reconstruction).

    Args:
        n_layers: number of layers.
        avg: mean ratio of the layers that prune, in [0, 1].
        start_frac: share of the layers that prune nothing: 0.15 for tokens, 0.3 for heads.
        kind: "linear", or "constant" for `avg` in every layer that prunes.
        start: ratio of the first layer that prunes.

    Raises:
        ValueError: a fraction outside [0, 1], a negative number of layers, an unknown kind, a `start` with "constant",
            or one for which the last ratio leaves [0, 1].

    >>> schedule(4, 0.25, start_frac=0.25)
    [0.0, 0.125, 0.25, 0.375]
    >>> schedule(4, 0.25, start_frac=0.3, start=0.0)
    [0.0, 0.0, 0.0, 0.5]
    """
    if n_layers < 0:
        raise ValueError(f"schedule: n_layers expected at least 0; got {n_layers}")
    if kind not in ("linear", "constant"):
        raise ValueError(f"schedule: kind expected 'linear' or 'constant'; got {kind!r}")
    check_fraction("schedule", "avg", avg)
    check_fraction("schedule", "start_frac", start_frac)
    if kind == "constant":
        if start is not None:
            raise ValueError(f"schedule: start expected None for kind='constant'; got {start}")
        start = avg
    elif start is None:
        start = max(avg / 2, 2 * avg - 1)
    end = 2 * avg - start
    check_fraction("schedule", "start", start)
    check_fraction("schedule", "2 * avg - start", end)
    dense = math.ceil(start_frac * n_layers - 1e-9)
    pruning = n_layers - dense
    if pruning == 1:
        # The mean is the one promise; a line needs two layers.
        return [0.0] * dense + [avg]
    return [0.0] * dense + [start + (end - start) * i / (pruning - 1) for i in range(pruning)]


def ratios_per_layer(
    op: str, name: str, ratio: float | Sequence[float], n_layers: int, start_frac: float | None
) -> list[float]:
    """Check a ratio per layer; a number is the average of :func:`schedule`, or without a start, that of every layer."""
    if isinstance(ratio, (int, float)):
        check_fraction(op, name, ratio)
        return [float(ratio)] * n_layers if start_frac is None else schedule(n_layers, ratio, start_frac)
    ratios = [float(value) for value in ratio]
    if len(ratios) != n_layers:
        raise ValueError(f"{op}: {name} expected one ratio for each of {n_layers} layers; got {len(ratios)}")
    for value in ratios:
        check_fraction(op, name, value)
    return ratios


def ltp_keep_rates(n_layers: int, keep: float) -> list[float]:
    """Fractions of the initial length that LTP's reading of the token rule keeps after every layer.

    The first ``u = max(3, ceil(0.15 n))`` layers keep all; layer i keeps ``max(0.01, 1 + (keep - 1) / (n - u) *
    (i - u + 1))``. Checked against kssteven418/LTP, which is no code of SpAtten's authors.

    >>> [round(rate, 3) for rate in ltp_keep_rates(6, 0.4)]
    [1.0, 1.0, 1.0, 0.8, 0.6, 0.4]
    """
    if n_layers < 0:
        raise ValueError(f"ltp_keep_rates: n_layers expected at least 0; got {n_layers}")
    check_fraction("ltp_keep_rates", "keep", keep)
    dense = max(3, math.ceil(0.15 * n_layers))
    return [
        1.0 if i < dense else max(0.01, 1 + (keep - 1) / (n_layers - dense) * (i - dense + 1)) for i in range(n_layers)
    ]


def ltp_prune(probs: Tensor, alive: Tensor, lengths: Tensor, keep_rate: float) -> tuple[Tensor, Tensor]:
    """Prune by the attention of one layer alone, LTP's reading: no scores of earlier layers.

    ``score[b, j]`` adds up ``probs[b, h, i, j]`` over heads and live queries i; the ``round(lengths[b] * keep_rate)``
    best live tokens stay, ties to the lowest index, and never fewer than one. The official code changes `probs` in
    place; this one does not.

    Args:
        probs: (B, H, N, N) attention map.
        alive: (B, N) bool, the tokens that earlier layers left.
        lengths: (B) int, tokens before any pruning.
        keep_rate: of :func:`ltp_keep_rates`; from 1 on all stay.

    Returns:
        alive (B, N) bool, and score (B, N) float32.

    >>> probs = torch.tensor([[0.7, 0.1, 0.2]]).expand(1, 1, 3, 3)
    >>> ltp_prune(probs, torch.ones(1, 3, dtype=torch.bool), torch.tensor([3]), 0.67)[0]
    tensor([[ True, False,  True]])
    """
    if alive.shape != probs.shape[::3] or alive.dtype != torch.bool:
        raise ValueError(
            f"ltp_prune: alive expected bool of shape {tuple(probs.shape[::3])}; got {alive.dtype} {tuple(alive.shape)}"
        )
    if lengths.shape != probs.shape[:1]:
        raise ValueError(f"ltp_prune: lengths expected shape {tuple(probs.shape[:1])}; got {tuple(lengths.shape)}")
    check_fraction("ltp_prune", "keep_rate", keep_rate)
    score = ops.accumulate_importance(probs, query_valid=alive)
    if keep_rate >= 1:
        return alive, score
    counts = [max(1, round(length * keep_rate)) for length in lengths.tolist()]
    rows = [ops.topk_mask(s, min(k, len(s)), mask=a) & a for s, k, a in zip(score, counts, alive, strict=True)]
    return torch.stack(rows) if rows else alive, score


@dataclass(frozen=True)
class Trace:
    """What a workload file of the official repository prunes: fractions of `max_length` keys, and heads, per layer.

    Attributes:
        keys: fraction of `max_length` whose keys a layer reads in generation.
        heads: heads that a layer computes.
        values: share of these keys whose value rows are read.
        max_length: what the fractions are of: not the current length, so short sequences are barely pruned.
    """

    keys: tuple[float, ...]
    heads: tuple[int, ...]
    values: float = 0.3
    max_length: int = 1024


GPT2_MEDIUM_TRACE = Trace(
    keys=(1.0, 1.0, 0.9, 0.8, 0.8, *[0.6] * 6, *[0.3] * 13), heads=(*[16] * 16, *[13] * 6, *[10] * 2)
)
"""Fractions behind the released trace of GPT-2-medium on WikiText-2."""


class TraceCounts(NamedTuple):
    """Keys, value rows and heads that every layer reads."""

    keys: list[int]
    values: list[int]
    heads: list[int]


def trace_counts(length: int, trace: Trace = GPT2_MEDIUM_TRACE, prompt: bool = False) -> TraceCounts:
    """Count what every layer reads at one step of the official traces.

    A layer with fraction f reads ``min(length, floor(max_length * f))`` keys and ``floor(values * max_length * f)``
    value rows, at most the keys. The prompt reads all keys, and value rows as if f were 1.

    Args:
        length: tokens so far, the new one included.
        trace: its fractions.
        prompt: whether the step is the one over the prompt.

    >>> counts = trace_counts(1000)
    >>> counts.keys[:6], counts.values[:6], counts.heads[14:18]
    ([1000, 1000, 921, 819, 819, 614], [307, 307, 276, 245, 245, 184], [16, 16, 13, 13])
    """
    if length < 0:
        raise ValueError(f"trace_counts: length expected at least 0; got {length}")
    fractions = [1.0] * len(trace.keys) if prompt else trace.keys
    for fraction in (*fractions, trace.values):
        check_fraction("trace_counts", "fraction", fraction)
    keys = [length if prompt else min(length, math.floor(trace.max_length * f)) for f in fractions]
    values = [math.floor(trace.values * trace.max_length * f) for f in fractions]
    return TraceCounts(keys, [min(pair) for pair in zip(keys, values, strict=True)], list(trace.heads))
