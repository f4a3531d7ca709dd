# SPDX-License-Identifier: Apache-2.0
"""DToMe: merging by a threshold of similarity instead of by a count, and how the thresholds are found."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path

import torch
from torch import Tensor

from tokernel.ops import MergePlan, threshold_match

__all__ = [
    "ThresholdCalibrator",
    "apply_merge",
    "batch_bipartite_merge",
    "bipartite_threshold_merge",
    "checked_thresholds",
    "r_schedule",
]

NEVER = 1.0
"""The threshold of a layer that merges nothing: no cosine is above 1, however it was rounded."""

PARITY_EPS = 1e-4


def bipartite_threshold_merge(
    metric: Tensor, tau: float, class_token: bool = False, max_r: int | None = None
) -> MergePlan:
    """Plan the merge of every even token whose most similar odd token is closer than a threshold.

    Section 3.1 of the paper, as it runs on one image. With a = even positions and b = odd ones, token a merges into
    ``argmax_b cos(a, b)`` if that cosine is above tau; at most half of the tokens (without the class token) merge, the
    most similar ones first, ties by lowest index.

    Args:
        metric: (B, N, D) float32, float16 or bfloat16: attention keys, averaged over heads. NaN rows never merge.
        tau: threshold of the cosine; strict. From 1 on nothing merges: rounding may give equal keys a cosine of
            1.0000001, which is not above 1.
        class_token: token 0 never merges and stays first.
        max_r: at most so many merges an image.

    Returns:
        The plan. B = 1: unmerged even tokens (most similar last to first, or ascending with a class token), then all
        odd ones. B > 1: as :func:`batch_bipartite_merge`.

    Raises:
        ValueError: metric is not (B, N, D), tau is NaN, or max_r is negative.
        TypeError: tau is not a number.

    >>> import torch
    >>> metric = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 1.0]]])
    >>> bipartite_threshold_merge(metric, 0.9), bipartite_threshold_merge(metric, 0.7)
    (MergePlan(batch=1, tokens=4, kept=3), MergePlan(batch=1, tokens=4, kept=2))
    """
    op = "bipartite_threshold_merge"
    _check_metric(op, metric)
    bound = _bound(op, tau)
    _check_count(op, "max_r", max_r)
    return threshold_match(metric, tau=bound, class_token=class_token, max_r=max_r)[0]


def batch_bipartite_merge(
    metric: Tensor,
    r: int | None = None,
    class_token: bool = False,
    pad: Tensor | None = None,
    *,
    tau: float | None = None,
    max_r: int | None = None,
) -> tuple[MergePlan, float]:
    """Plan the merge of a padded batch, either of r edges an image on average or of all edges above a threshold.

    With r, the ``B * min(r, (N - class_token) // 2)`` best edges of the whole batch merge, so that plain images lose
    more tokens than busy ones, and the threshold found is ``max(0, similarity of the first edge that did not merge)``.

    Args:
        metric: (B, N, D) float32, float16 or bfloat16: attention keys, averaged over heads.
        r: merges an image on average; fewer where the batch has not as many edges between tokens that are no padding.
        class_token: token 0 never merges and stays first.
        pad: (B, N) bool, True where a row is padding; it takes no part and its rows are dropped.
        tau: instead of r, as in :func:`bipartite_threshold_merge`.
        max_r: at most so many merges an image; never more than half of its tokens.

    Returns:
        The plan and the threshold (tau itself where it was given). Rows: surviving even tokens ascending, odd tokens,
        padding, cut at the longest image; ``plan.valid`` is False at padding, None where there is none.

    Raises:
        ValueError: metric or pad have the wrong shape, not exactly one of r and tau is given, tau is NaN, or a count
            is negative.
        TypeError: tau is not a number, pad is not bool, or a count is not an integer.

    >>> import torch
    >>> metric = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 1.0]]] * 2)
    >>> plan, tau = batch_bipartite_merge(metric, r=1)
    >>> plan, round(tau, 3)
    (MergePlan(batch=2, tokens=4, kept=3), 0.707)
    """
    op = "batch_bipartite_merge"
    _check_metric(op, metric)
    if (r is None) == (tau is None):
        raise ValueError(f"{op}: exactly one of r and tau expected; got {'neither' if r is None else 'both'}")
    _check_count(op, "r", r)
    _check_count(op, "max_r", max_r)
    valid = None if pad is None else ~_checked_pad(op, pad, metric)
    if tau is not None:
        plan, _ = threshold_match(metric, tau=_bound(op, tau), class_token=class_token, max_r=max_r, valid=valid)
        return plan, float(tau)
    return threshold_match(metric, r=r, class_token=class_token, max_r=max_r, valid=valid)


def apply_merge(
    plan: MergePlan, x: Tensor, size: Tensor | None = None, pos: Tensor | None = None, *, parity: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Merge tokens, how many patches each stands for, and which patches these are.

    ``size' = sum of size``, ``x' = sum of size * x / size'``, ``pos' = union of pos`` over every group of the plan.

    Args:
        plan: of one of the two functions above, or any other.
        x: (B, N, C) float32, float16 or bfloat16; differentiable.
        size: (B, N, 1) float32; None means 1 each.
        pos: (B, N, N0) of 0 and 1, the answer of the layer before; None for the first.
        parity: divide by ``size' + 1e-4`` as the official batched path does, which shrinks every token a little, also
            the unmerged ones. Only to reproduce it.

    Returns:
        x' (B, M, C) of the dtype of x, size' (B, M, 1) float32, pos' (B, M, N0); zeros at padding.

    >>> import torch
    >>> plan = bipartite_threshold_merge(torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 1.0]]]), 0.9)
    >>> x, size, pos = apply_merge(plan, torch.tensor([[[2.0], [4.0], [6.0], [8.0]]]))
    >>> x.flatten().tolist(), size.flatten().tolist(), pos[0].tolist()[1]
    ([6.0, 3.0, 8.0], [1.0, 2.0, 1.0], [1.0, 1.0, 0.0, 0.0])
    """
    x, mass = plan.merge_weighted(x, size)
    if parity:
        x = (x.float() * (mass / (mass + PARITY_EPS))).to(x.dtype)
    return x, mass, plan.source(pos)


class ThresholdCalibrator:
    """Running mean of the thresholds that batches of images give each layer, every batch with equal weight.

    Attributes:
        thresholds: one a layer; 1.0, which merges nothing, until a batch came.

    >>> calibrator = ThresholdCalibrator(2)
    >>> calibrator.update(0, 0.8), calibrator.update(0, 0.9)
    (None, None)
    >>> [round(tau, 3) for tau in calibrator.thresholds]
    [0.85, 1.0]
    """

    def __init__(self, layers: int) -> None:
        _check_count("ThresholdCalibrator", "layers", layers)
        self.thresholds = [NEVER] * layers
        self._counts: list[int] | None = [0] * layers

    def update(self, layer: int, tau: float) -> None:
        """Count the threshold of one more batch: ``(count * t + tau) / (count + 1)``; the first replaces 1.0.

        Raises:
            ValueError: tau is not finite, there is no such layer, or the thresholds were loaded: how many batches they
                are the mean of is not in the file.
        """
        if self._counts is None:
            raise ValueError("ThresholdCalibrator: update expected thresholds of this run; got loaded ones")
        if not 0 <= layer < len(self.thresholds):
            raise ValueError(f"ThresholdCalibrator: layer expected in [0, {len(self.thresholds)}); got {layer}")
        if not math.isfinite(tau):
            raise ValueError(f"ThresholdCalibrator: tau expected finite; got {tau}")
        count = self._counts[layer]
        self.thresholds[layer] = (count * self.thresholds[layer] + tau) / (count + 1)
        self._counts[layer] = count + 1

    def save(self, path: str | Path) -> None:
        """Write the thresholds as a JSON list of numbers."""
        Path(path).write_text(json.dumps(self.thresholds), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> ThresholdCalibrator:
        """Read thresholds that were saved, exactly.

        Raises:
            ValueError: the file is no JSON list of finite numbers.
        """
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, list):
            raise ValueError(f"ThresholdCalibrator: file expected a list of numbers; got {type(values).__name__}")
        loaded = cls(len(values))
        loaded.thresholds = checked_thresholds("ThresholdCalibrator", values, len(values))
        loaded._counts = None
        return loaded


def r_schedule(layers: int, total: int, kind: str = "constant") -> list[int]:
    """Share a total number of merges out to layers.

    "constant": ``total // layers`` each, the first ``total % layers`` one more. "linear": from ``r0 = 2 total //
    layers`` down, ``int(r0 - i * r0 / layers)`` while the sum stays below the total, then what is left, then zeros;
    where the line's rounding leaves merges over after the last layer, the first layers get one more each (our
    reconstruction). "reverse_linear": the same from the last layer up.

    Raises:
        ValueError: a negative number, merges but no layers, or an unknown kind.
        TypeError: layers or total is not an integer.

    >>> r_schedule(12, 504, "linear")
    [84, 77, 70, 63, 56, 49, 42, 35, 28, 0, 0, 0]
    """
    _check_count("r_schedule", "layers", layers)
    _check_count("r_schedule", "total", total)
    if kind not in ("constant", "linear", "reverse_linear"):
        raise ValueError(f"r_schedule: kind expected constant, linear or reverse_linear; got {kind!r}")
    if layers == 0:
        if total:
            raise ValueError(f"r_schedule: total expected 0 without layers; got {total}")
        return []
    counts = [total // layers] * layers if kind == "constant" else _line(layers, total)
    left = total - sum(counts)
    counts = [count + left // layers + (i < left % layers) for i, count in enumerate(counts)]
    return counts[::-1] if kind == "reverse_linear" else counts


def _line(layers: int, total: int) -> list[int]:
    first = 2 * total // layers
    counts: list[int] = []
    for i in range(layers):
        counts.append(min(int(first - i * (first / layers)), total - sum(counts)))
    return counts


def checked_thresholds(op: str, values: Sequence[float], layers: int) -> list[float]:
    """Thresholds as floats; ValueError or TypeError unless there is a number for every layer."""
    values = list(values)
    if len(values) != layers:
        raise ValueError(f"{op}: thresholds expected one for each of {layers} layers; got {len(values)}")
    for value in values:
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(f"{op}: thresholds expected numbers; got {type(value).__name__}")
        if not math.isfinite(value):
            raise ValueError(f"{op}: thresholds expected finite numbers; got {value}")
    return [float(value) for value in values]


def _bound(op: str, tau: float) -> float:
    if not isinstance(tau, Real) or isinstance(tau, bool):
        raise TypeError(f"{op}: tau expected a number; got {type(tau).__name__}")
    if math.isnan(tau):
        raise ValueError(f"{op}: tau expected a number; got NaN")
    return math.inf if tau >= NEVER else float(tau)


def _check_count(op: str, name: str, count: int | None) -> None:
    if count is None:
        return
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"{op}: {name} expected an integer; got {type(count).__name__}")
    if count < 0:
        raise ValueError(f"{op}: {name} expected at least 0; got {count}")


def _check_metric(op: str, metric: Tensor) -> None:
    if not isinstance(metric, Tensor):
        raise TypeError(f"{op}: metric expected a tensor; got {type(metric).__name__}")
    if metric.dim() != 3:
        raise ValueError(f"{op}: metric expected (B, N, D); got {tuple(metric.shape)}")


def _checked_pad(op: str, pad: Tensor, metric: Tensor) -> Tensor:
    if not isinstance(pad, Tensor) or pad.dtype != torch.bool:
        raise TypeError(f"{op}: pad expected a bool tensor; got {getattr(pad, 'dtype', type(pad).__name__)}")
    if pad.shape != metric.shape[:2]:
        raise ValueError(f"{op}: pad expected {tuple(metric.shape[:2])}; got {tuple(pad.shape)}")
    return pad
