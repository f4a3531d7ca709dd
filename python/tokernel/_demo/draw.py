# SPDX-License-Identifier: Apache-2.0
"""The demo's PNG: the picture, and for every rate its merged regions beside the unmerged picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokernel._demo.picture import PATCH, Merged

SCALE = 2  # drawn pixels per pixel, so that outlines are thinner than patches
PAIRS_PER_ROW = 2
OUTLINE = 0.6  # share of white in the line between two tokens
WIDTH, TITLE = 3.0, 0.35  # of one picture, of the line above it, in inches
ORIGINAL = 1.5  # the original's width, where it stands beside several rows

Floats = NDArray[np.float32]


def outlined(merged: Merged) -> Floats:
    """Paint every patch in the mean colour of its token, with a light line between different tokens."""
    side = PATCH * SCALE
    canvas = np.repeat(np.repeat(merged.regions, side, axis=0), side, axis=1)
    labels = np.repeat(np.repeat(merged.labels, side, axis=0), side, axis=1)
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    canvas[edge] = canvas[edge] * (1 - OUTLINE) + OUTLINE
    return canvas


def write_png(path: Path, name: str, pixels: Floats, rates: list[Merged]) -> None:
    """Draw the original on the left and a pair of pictures for every rate."""
    from matplotlib.figure import Figure

    rows = -(-len(rates) // PAIRS_PER_ROW)
    pairs = min(PAIRS_PER_ROW, len(rates))
    height = WIDTH * pixels.shape[0] / pixels.shape[1] + TITLE
    first = WIDTH * (ORIGINAL if rows > 1 else 1)
    figure = Figure(figsize=(first + 2 * WIDTH * pairs, rows * height), layout="constrained")
    grid = figure.subfigures(1, 2, width_ratios=[first, 2 * WIDTH * pairs], squeeze=False)
    axes = grid[0, 0].subplots()
    axes.imshow(pixels)
    axes.set_title(f"{name}: {rates[0].tokens} tokens of {PATCH} x {PATCH} pixels", fontsize=9)
    axes.axis("off")
    cells = grid[0, 1].subfigures(rows, pairs, squeeze=False).ravel()
    for cell, merged in zip(cells, rates, strict=False):
        cell.suptitle(f"{merged.rate:.0%} merged: {merged.kept} tokens left, PSNR {merged.psnr:.1f} dB", fontsize=10)
        for axes, shown in zip(cell.subplots(1, 2), (outlined(merged), merged.restored), strict=True):
            axes.imshow(shown)
            axes.axis("off")
    figure.savefig(path, format="png", dpi=110)
