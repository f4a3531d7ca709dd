# SPDX-License-Identifier: Apache-2.0
"""Which layer DEL drafts with, and how far: running acceptance statistics of every layer, and what they imply."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["DELController", "accept_chain"]

Floats = NDArray[np.float32]


def accept_chain(draft: Sequence[int], target: Sequence[int]) -> int:
    """How many drafted tokens stand before the first that the target model would not have taken.

    Args:
        draft: d drafted tokens.
        target: at least d tokens: what the target model takes at the place of each.

    Raises:
        ValueError: fewer targets than drafts.

    >>> accept_chain([5, 7, 2], [5, 7, 3, 9])
    2
    """
    if len(target) < len(draft):
        raise ValueError(f"accept_chain: target expected at least {len(draft)} tokens; got {len(target)}")
    for place, (drafted, wanted) in enumerate(zip(draft, target, strict=False)):
        if drafted != wanted:
            return place
    return len(draft)


class DELController:
    """Chooses the exit layer and the draft length of every round from how often each layer agreed with the last one.

    Of every eligible layer l it keeps c[l], how many of its shadow tokens (what it would have drafted) matched the last
    layer's and how many did not, and f[l], the sums of their confidence; both forget by omega a round. From
    alpha = c[l, 0] / (c[l, 0] + c[l, 1]) follow the expected tokens of a round, G[l, g] = 1 + alpha G[l, g - 1] with
    G[l, 0] = 1, and the tokens per layer run, G[l, g] / (L + g (l + 1)), whose maximum is the next choice.

    Args:
        num_layers: L, layers of the model.
        eligible: layers (0-based) that may draft, ascending; default 0..L-2. They need not be contiguous: a choice is
            looked up in this list, where the official code adds eligible[0].
        gamma_max: draft lengths considered are gamma_min..gamma_max - 1.
        gamma_min: shorter drafts are never chosen.
        omega: what a round leaves of the statistics before it, in (0, 1]; 1 counts plainly.

    Attributes:
        exit_layer: E, how many layers draft; at first eligible[0] + 1.
        gamma: the draft length chosen with it; at first 1, what the round of the prompt drafts.
        counts: (C, 2) float32, matches and mismatches of every eligible layer.
        confidence: (C, 2) float32, sums of the probability of the tokens so counted.

    Raises:
        ValueError: a layer that is not before the last one, an empty or unsorted list, an empty range of draft lengths,
            omega outside (0, 1].

    >>> controller = DELController(num_layers=4, gamma_max=6)
    >>> shadow = [[3, 1, 4], [3, 5, 9], [3, 5, 4], [3, 5, 4]]  # layers 0, 1, 2, and the model itself
    >>> controller.update(shadow, [[0.5, 0.1, 0.2], [0.6, 0.7, 0.1], [0.9, 0.9, 0.9]], exit_layer=1, context_len=0)
    >>> controller.counts.tolist()  # layer 0 drafted, and was wrong in the second column: the third does not count
    [[1.0, 1.0], [2.0, 0.0], [2.0, 0.0]]
    >>> controller.select()
    (2, 5)
    """

    def __init__(
        self,
        num_layers: int,
        eligible: Sequence[int] | None = None,
        gamma_max: int = 18,
        gamma_min: int = 0,
        omega: float = 0.95,
    ) -> None:
        layers = list(range(num_layers - 1)) if eligible is None else [int(layer) for layer in eligible]
        ascending = all(a < b for a, b in itertools.pairwise(layers))
        if not layers or not ascending or layers[0] < 0 or layers[-1] > num_layers - 2:
            wanted = f"ascending layers of 0..{num_layers - 2}, at least one"
            raise ValueError(f"DELController: eligible expected {wanted}; got {layers}")
        if not 0 <= gamma_min < gamma_max:
            got = f"got {gamma_min} and {gamma_max}"
            raise ValueError(f"DELController: gamma_min expected in [0, gamma_max); {got}")
        if not 0 < omega <= 1:
            raise ValueError(f"DELController: omega expected in (0, 1]; got {omega}")
        self.num_layers = num_layers
        self.eligible = layers
        self.gamma_max = gamma_max
        self.gamma_min = gamma_min
        self.omega = omega
        self.exit_layer = layers[0] + 1
        self.gamma = 1
        self.counts: Floats = np.zeros((len(layers), 2), np.float32)
        self.confidence: Floats = np.zeros((len(layers), 2), np.float32)

    def update(self, shadow_tokens: ArrayLike, conf: ArrayLike, exit_layer: int, context_len: int) -> None:
        """Count one round.

        After a drafted token that the model did not take the states belong to a wrong text: where the choice in force
        asked for a draft (``gamma > 0``), only the context and the columns to the first mismatch of the exit layer, it
        included, are counted.

        Args:
            shadow_tokens: (C + 1, T) integers: what every eligible layer would take in each column, and last what the
                model takes.
            conf: (C, T): the probability each eligible layer gave to its token.
            exit_layer: E, how many layers drafted this round.
            context_len: leading columns that are text, not draft.

        Raises:
            ValueError: shapes that do not fit, an exit layer that is not eligible, a context longer than T.
        """
        tokens = np.asarray(shadow_tokens)
        sure = np.asarray(conf, np.float32)
        count = len(self.eligible)
        if tokens.ndim != 2 or tokens.shape[0] != count + 1:
            raise ValueError(f"update: shadow_tokens expected ({count + 1}, T); got {tokens.shape}")
        if sure.shape != (count, tokens.shape[1]):
            raise ValueError(f"update: conf expected {(count, tokens.shape[1])}; got {sure.shape}")
        if not 0 <= context_len <= tokens.shape[1]:
            raise ValueError(f"update: context_len expected in [0, {tokens.shape[1]}]; got {context_len}")
        drafter = self._row("update", exit_layer)
        match = tokens[:-1] == tokens[-1]
        if self.gamma > 0:
            missed = np.flatnonzero(~match[drafter, context_len:])
            if missed.size:
                kept = context_len + int(missed[0]) + 1
                match, sure = match[:, :kept], sure[:, :kept]
        seen = np.stack([match, ~match], -1)
        self.counts = self._forget(self.counts) + seen.sum(1, dtype=np.float32)
        self.confidence = self._forget(self.confidence) + (seen * sure[..., None]).sum(1, dtype=np.float32)

    def mean_confidence(self) -> Floats:
        """(C, 2) mean confidence of matches and of mismatches; NaN where there were none."""
        with np.errstate(invalid="ignore"):
            mean: Floats = self.confidence / self.counts
        return mean

    def threshold(self, exit_layer: int) -> float:
        """The confidence under which a draft of the first ``exit_layer`` layers stops: half way between the mean of
        matches and the mean of mismatches. NaN, which stops nothing, while one of them is unknown.

        Raises:
            ValueError: an exit layer that is not eligible.
        """
        return float(self.mean_confidence()[self._row("threshold", exit_layer)].mean())

    def tpl(self) -> NDArray[np.float64]:
        """(C, gamma_max) expected tokens per layer run. -inf: too short, or longer than 0 at a layer not yet seen."""
        seen = self.counts.astype(np.float64)
        with np.errstate(invalid="ignore"):
            alpha = seen[:, 0] / seen.sum(1)
        tokens = np.ones((len(self.eligible), self.gamma_max))
        for g in range(1, self.gamma_max):
            tokens[:, g] = 1 + alpha * tokens[:, g - 1]
        layers = np.array(self.eligible)[:, None] + 1
        rate: NDArray[np.float64] = tokens / (self.num_layers + np.arange(self.gamma_max) * layers)
        rate[np.isnan(rate)] = -np.inf
        rate[:, : self.gamma_min] = -np.inf
        return rate

    def select(self) -> tuple[int, int]:
        """Choose the exit layer and the draft length of the next round; the shallowest, then shortest, among equals."""
        row, self.gamma = divmod(int(self.tpl().argmax()), self.gamma_max)
        self.exit_layer = self.eligible[row] + 1
        return self.exit_layer, self.gamma

    def _forget(self, sums: Floats) -> Floats:
        left: Floats = np.float32(self.omega) * sums
        return left

    def _row(self, op: str, exit_layer: int) -> int:
        if exit_layer - 1 not in self.eligible:
            wanted = ", ".join(str(layer + 1) for layer in self.eligible)
            raise ValueError(f"{op}: exit_layer expected one of {wanted}; got {exit_layer}")
        return self.eligible.index(exit_layer - 1)
