# SPDX-License-Identifier: Apache-2.0
"""Zero-TPrune's Monte-Carlo search (arXiv 2305.17328) for where, and how much, to prune."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tokernel.reduce._progress import with_bar
from tokernel.reduce._zero_tprune_match import kept_patches

__all__ = ["Config", "SearchResult", "SearchSpace", "random_config_search"]

Config = dict[int, tuple[int, float, int]]
"""``{block: (iters, rho, r)}``."""

_DRAWS = 10_000  # configurations tried for one that costs what it should


@dataclass(frozen=True)
class SearchSpace:
    """Which configurations :func:`random_config_search` draws [ours: the paper names none].

    The iterations of a block follow the paper's advice: 30 to 50 in the first quarter of the blocks, 1 in the last, 5
    to 10 between.

    Attributes:
        depth, tokens, width: blocks of the model, its tokens with the protected ones, channels of a token.
        cost: lowest and highest cost wanted, as a share of the unpruned model's: see :meth:`cost_of`.
        points: most blocks that prune.
        rhos: retention rates to draw from.
        similar: largest share of the patches that one S-stage drops, at most a half.
        protected: tokens that are never pruned.
    """

    depth: int
    tokens: int
    width: int
    cost: tuple[float, float] = (0.6, 0.7)
    points: int = 5
    rhos: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9, 1.0)
    similar: float = 0.2
    protected: int = 1

    def __post_init__(self) -> None:
        if min(self.depth, self.width, self.points) < 1 or not 0 <= self.protected < self.tokens:
            raise ValueError(f"SearchSpace: counts expected at least 1 and protected below tokens; got {self}")
        if not 0 < self.cost[0] <= self.cost[1]:
            raise ValueError(f"SearchSpace: cost expected (low, high) with 0 < low <= high; got {self.cost}")
        if not self.rhos or not all(0 < rho <= 1 for rho in self.rhos) or not 0 <= self.similar <= 0.5:
            raise ValueError(
                f"SearchSpace: rhos expected in (0, 1] and similar in [0, 0.5]; got {self.rhos} and {self.similar}"
            )

    def tokens_of(self, config: Mapping[int, tuple[int, float, int]]) -> list[int]:
        """Tokens that enter each block.

        >>> SearchSpace(depth=4, tokens=17, width=8).tokens_of({1: (5, 0.5, 4)})
        [17, 17, 7, 7]
        """
        entering, tokens = [], self.tokens
        for block in range(self.depth):
            entering.append(tokens)
            if block in config:
                _, rho, r = config[block]
                tokens = self.protected + kept_patches(tokens - self.protected, rho, r)
        return entering

    def cost_of(self, config: Mapping[int, tuple[int, float, int]]) -> float:
        """Multiply-adds of the blocks, 12 N C^2 + 2 N^2 C each, as a share of the unpruned model's.

        Ranking and matching are left out: their 2 H N^2 T and N^2 C / 4 are small beside a block.
        """
        spent = [12 * tokens * self.width + 2 * tokens**2 for tokens in self.tokens_of(config)]
        return sum(spent) / (self.depth * (12 * self.tokens * self.width + 2 * self.tokens**2))

    def sample(self, rng: random.Random) -> Config:
        """Draw a configuration whose cost is in bounds.

        Raises:
            ValueError: 10,000 draws held none.
        """
        low, high = self.cost
        for _ in range(_DRAWS):
            config = self._draw(rng)
            if low <= self.cost_of(config) <= high:
                return config
        raise ValueError(f"random_config_search: space expected configurations of cost {self.cost}; drew none")

    def _draw(self, rng: random.Random) -> Config:
        config: Config = {}
        tokens = self.tokens
        for block in sorted(rng.sample(range(self.depth), rng.randint(1, min(self.points, self.depth)))):
            patches = tokens - self.protected
            rho, r = rng.choice(self.rhos), rng.randint(0, min(int(self.similar * patches), patches // 2))
            config[block] = (self._iters(block, rng), rho, r)
            tokens = self.protected + kept_patches(patches, rho, r)
        return config

    def _iters(self, block: int, rng: random.Random) -> int:
        if 4 * block < self.depth:
            return rng.randint(30, 50)
        return 1 if 4 * (block + 1) > 3 * self.depth else rng.randint(5, 10)


class SearchResult(NamedTuple):
    """The best configuration, its score, and every (configuration, score) in the order tried."""

    config: Config
    score: float
    trials: list[tuple[Config, float]]


def random_config_search(
    eval_fn: Callable[[Config], float], budget: int, space: SearchSpace, *, seed: int = 0, progress: bool = True
) -> SearchResult:
    """Try configurations drawn at random and keep the best: the authors' Monte-Carlo search.

    Args:
        eval_fn: scores a configuration, higher is better: for instance the accuracy of ``patch_vit(model, config)`` on
            a few hundred images. NaN loses against every number.
        budget: configurations to try, at least 1.
        space: what to draw from, and the cost that all of them must have.
        seed: of the draws.
        progress: show a bar; needs rich, which ``pip install tokernel[cli]`` brings, and does without where it is not.

    Returns:
        The best configuration (the first of equals), its score, and all trials.

    Raises:
        ValueError: a budget below 1, or no configuration costs what `space` asks for.

    >>> space = SearchSpace(depth=12, tokens=197, width=384, cost=(0.65, 0.7))
    >>> found = random_config_search(lambda config: -len(config), budget=20, space=space, progress=False)
    >>> len(found.trials), 0.65 <= space.cost_of(found.config) <= 0.7
    (20, True)
    """
    if budget < 1:
        raise ValueError(f"random_config_search: budget expected at least 1; got {budget}")
    rng = random.Random(seed)
    trials: list[tuple[Config, float]] = []
    with with_bar(range(budget), progress, "searching") as steps:
        for _ in steps:
            config = space.sample(rng)
            trials.append((config, float(eval_fn(config))))
    config, score = max(trials, key=lambda trial: -math.inf if math.isnan(trial[1]) else trial[1])
    return SearchResult(config, score, trials)
