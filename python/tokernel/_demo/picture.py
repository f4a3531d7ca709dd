# SPDX-License-Identifier: Apache-2.0
"""A picture as tokens: patches, merged at several rates, and put back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokernel._demo import plain
from tokernel._demo.timing import fastest
from tokernel.kernels import merge

PATCH = 8
# A token is its pixels, its place and a constant. Matching compares angles; the constant, larger than the rest, makes
# the angle between two tokens grow with their distance, so that black and white are not alike.
CONSTANT = 16.0
PLACE = 0.03  # per patch: how much nearness counts beside colour
STEP = 4  # one step merges at most one token in four

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Merger = Callable[[Floats, int], tuple[Floats, Ints]]


@dataclass(frozen=True)
class Merged:
    """One rate: what is left, and what it looks like."""

    rate: float
    tokens: int
    kept: int
    psnr: float
    seconds: float
    plain_seconds: float
    plain_psnr: float  # near ties may fall otherwise there, the quality must not
    regions: Floats  # colour of each patch's token: (rows, columns, 3)
    labels: Ints  # token of each patch: (rows, columns)
    restored: Floats  # the unmerged picture: (height, width, 3)


def to_tokens(pixels: Floats) -> Floats:
    """Cut (height, width, 3) into (N, PATCH * PATCH * 3 + 3) tokens, row by row."""
    rows, columns = pixels.shape[0] // PATCH, pixels.shape[1] // PATCH
    patches = pixels.reshape(rows, PATCH, columns, PATCH, 3).swapaxes(1, 2).reshape(rows * columns, -1) - 0.5
    place = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1) * PLACE
    constant = np.full((rows * columns, 1), CONSTANT)
    return np.concatenate([patches, place, constant], axis=1).astype(np.float32)


def to_pixels(tokens: Floats, rows: int, columns: int) -> Floats:
    """Undo :func:`to_tokens`."""
    patches = tokens[:, : PATCH * PATCH * 3].reshape(rows, columns, PATCH, PATCH, 3) + 0.5
    pixels: Floats = patches.swapaxes(1, 2).reshape(rows * PATCH, columns * PATCH, 3).clip(0, 1)
    return pixels


def _steps(tokens: int, kept: int) -> list[int]:
    """How many tokens each step merges: a small share, so that only good matches are taken, at least one."""
    steps = []
    while tokens > kept:
        steps.append(min(tokens - kept, max(1, tokens // STEP)))
        tokens -= steps[-1]
    return steps


def merge_ours(tokens: Floats, kept: int) -> tuple[Floats, Ints]:
    """Merge step by step with tokernel; returns the unmerged tokens and the merged token of each."""
    x, size = tokens[None], np.ones((1, len(tokens), 1), np.float32)
    place = np.arange(len(tokens))[None]
    for r in _steps(len(tokens), kept):
        plan = merge.bipartite_match(x, r)
        x, size = plan.merge_weighted(x, size)
        place = np.take_along_axis(plan.map, place, axis=1)
    return merge.gather_rows(x, place)[0], place[0]


def merge_plain(tokens: Floats, kept: int) -> tuple[Floats, Ints]:
    """The same with the NumPy formula."""
    x, size, place = tokens, np.ones((len(tokens), 1), np.float32), np.arange(len(tokens))
    for r in _steps(len(tokens), kept):
        x, size, destination = plain.merge_step(x, size, r)
        place = destination[place]
    return x[place], place


def psnr(picture: Floats, other: Floats) -> float:
    """Peak signal-to-noise ratio in dB of two pictures in [0, 1]."""
    error = float(np.mean((picture.astype(np.float64) - other) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)


def merge_picture(pixels: Floats, rate: float) -> Merged:
    """Merge away a share of the picture's tokens, time it, and restore the picture."""
    rows, columns = pixels.shape[0] // PATCH, pixels.shape[1] // PATCH
    tokens = to_tokens(pixels)
    kept = max(1, round(len(tokens) * (1 - rate)))
    seconds, (unmerged, place) = fastest(lambda: merge_ours(tokens, kept))
    plain_seconds, (plain_unmerged, _) = fastest(lambda: merge_plain(tokens, kept))
    restored = to_pixels(unmerged, rows, columns)
    return Merged(
        rate=rate,
        tokens=len(tokens),
        kept=kept,
        psnr=psnr(pixels, restored),
        seconds=seconds,
        plain_seconds=plain_seconds,
        plain_psnr=psnr(pixels, to_pixels(plain_unmerged, rows, columns)),
        regions=restored.reshape(rows, PATCH, columns, PATCH, 3).mean(axis=(1, 3)),
        labels=place.reshape(rows, columns),
        restored=restored,
    )
