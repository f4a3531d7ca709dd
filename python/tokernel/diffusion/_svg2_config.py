# SPDX-License-Identifier: Apache-2.0
"""Settings of Sparse VideoGen2 (arXiv 2505.18875), and when a call stays dense."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["NEVER_DENSE", "PRESETS", "Svg2Config", "dense_above", "dense_layers"]

NEVER_DENSE = 1001.0
"""A threshold above every time step of the video models."""


def dense_layers(first_layers: float, layers: int) -> int:
    """Count the first layers that always attend densely: ``floor(first_layers * layers)``.

    >>> dense_layers(0.03, 40)
    1
    """
    return math.floor(_share("dense_layers", "first_layers", first_layers) * layers)


def dense_above(first_times: float, timesteps: Sequence[float] | Tensor) -> float:
    """Find T0, the time step above which every layer attends densely: that of the last dense step, minus 1.

    Args:
        first_times: share of the steps that are dense; ``n = floor(first_times * steps)`` of them.
        timesteps: of all steps, in the order they are taken (``scheduler.timesteps``).

    >>> dense_above(0.5, [999, 700, 400, 100]), dense_above(0.1, [999, 700, 400, 100])
    (699.0, 1001.0)
    """
    count = math.floor(_share("dense_above", "first_times", first_times) * len(timesteps))
    return float(timesteps[count - 1]) - 1 if count else NEVER_DENSE


def _share(op: str, name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{op}: {name} expected a share between 0 and 1; got {value}")
    return value


@dataclass(frozen=True)
class Svg2Config:
    """Settings of a run.

    Attributes:
        num_q, num_k: clusters of queries and of keys, per head. Query clusters below about 64 tokens waste a GPU.
        top_p: estimated attention mass that the kept key clusters of a query cluster pass.
        min_ratio: share of the key clusters that is kept in any case.
        iter_init, iter_step: most k-means iterations of a layer's first call, and of later ones.
        first_layers: share of the layers that stays dense.
        first_times: share of the steps that stays dense.
        zero_step_kmeans_init: cluster in dense calls too, so that the first sparse call starts warm.
        steps: denoising steps that the settings were made for.
    """

    num_q: int
    num_k: int
    top_p: float = 0.9
    min_ratio: float = 0.1
    iter_init: int = 50
    iter_step: int = 2
    first_layers: float = 0.03
    first_times: float = 0.2
    zero_step_kmeans_init: bool = False
    steps: int = 50

    def __post_init__(self) -> None:
        for name in ("top_p", "min_ratio", "first_layers", "first_times"):
            _share("Svg2Config", name, getattr(self, name))
        for name in ("num_q", "num_k", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"Svg2Config: {name} expected at least 1; got {getattr(self, name)}")
        for name in ("iter_init", "iter_step"):
            if getattr(self, name) < 0:
                raise ValueError(f"Svg2Config: {name} expected at least 0; got {getattr(self, name)}")


PRESETS = {
    "wan_t2v_720p": Svg2Config(300, 1000),
    "wan_i2v_720p": Svg2Config(300, 1000, first_times=0.35, steps=40),
    "wan_i2v_480p": Svg2Config(200, 1000, zero_step_kmeans_init=True, steps=40),
    "hunyuan_t2v_720p": Svg2Config(400, 1000, first_times=0.1, zero_step_kmeans_init=True),
    "hunyuan_t2v_480p": Svg2Config(200, 1000, first_layers=0.0, first_times=0.04, zero_step_kmeans_init=True),
    "cosmos_t2v": Svg2Config(400, 1000, first_times=0.3, steps=35),
}
"""Settings of the scripts released by the authors, by model, task and resolution. The paper itself reports 100 query
and 500 key clusters, and 30 % dense steps."""
