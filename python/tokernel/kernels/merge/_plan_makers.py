# SPDX-License-Identifier: Apache-2.0
"""How plans are made, for every framework: the steps between the ops and a MergePlan.

Each function takes the class of the plan to make; that class brings the ops of its framework.
"""

from __future__ import annotations

from numbers import Real
from typing import Any, TypeVar

import numpy as np

from tokernel.kernels._arrays import Array
from tokernel.kernels.merge._plan import MergePlan

Plan = TypeVar("Plan", bound=MergePlan)
Partition = tuple[Array, Array]


def check_metric(op: str, metric: Array) -> tuple[int, int]:
    if not hasattr(metric, "shape"):
        raise TypeError(f"{op}: metric must be an array, got {type(metric).__name__}")
    if len(metric.shape) != 3:
        raise ValueError(f"{op}: metric must be (B, N, D), got {tuple(metric.shape)}")
    return metric.shape[0], metric.shape[1]


def bipartite(plan: type[Plan], metric: Array, r: int, class_token: bool, distill_token: bool) -> Plan:
    batch, tokens = check_metric("bipartite_match", metric)
    r = min(r, (tokens - class_token - distill_token) // 2)
    columns = tokens // 2
    if r <= 0 or columns <= distill_token:
        return plan.identity(metric, batch, tokens)
    first = 3 if distill_token else 1  # the distillation token takes no partner
    score, index = plan.ops.cosine_match(metric[:, ::2], metric[:, first::2])
    if distill_token:
        index = index + 1
    lists = plan.ops.select_edges(
        score,
        index,
        r,
        columns,
        class_token=class_token,
        distill_token=distill_token,
        sort_unmerged=class_token,
    )
    return _plan_of(plan, lists, tokens - r)


def kth(plan: type[Plan], metric: Array, k: int) -> Plan:
    batch, tokens = check_metric("kth_match", metric)
    if k <= 1:
        return plan.identity(metric, batch, tokens)
    groups, width = tokens // k, metric.shape[2]
    grouped = metric[:, : groups * k].reshape(batch, groups, k, width)
    a = grouped[:, :, :-1].reshape(batch, groups * (k - 1), width)
    ids = np.arange(groups * k).reshape(groups, k)
    a_ids = plan.ops.ids(ids[:, :-1].reshape(-1), metric, batch)
    b_ids = plan.ops.ids(ids[:, -1], metric, batch)
    return _merge_all(plan, a, grouped[:, :, -1], a_ids, b_ids, tokens)


def random(plan: type[Plan], metric: Array, r: int, generator: Any, partition: Partition | None) -> Plan:
    batch, tokens = check_metric("random_match", metric)
    if partition is None:
        r = min(r, tokens - 1)
        if r <= 0:
            return plan.identity(metric, batch, tokens)
        order = plan.ops.permutations(metric, batch, tokens, generator)
        partition = order[:, :r], order[:, r:]
    a_ids, b_ids = (plan.ops.ids(part, metric, batch) for part in partition)
    a, b = plan.ops.gather_rows(metric, a_ids), plan.ops.gather_rows(metric, b_ids)
    return _merge_all(plan, a, b, a_ids, b_ids, tokens)


def _merge_all(plan: type[Plan], a: Array, b: Array, a_ids: Array, b_ids: Array, tokens: int) -> Plan:
    """Merge every row into its best column; rows and columns keep their own order."""
    rows, columns = a_ids.shape[1], b_ids.shape[1]
    _, index = plan.ops.cosine_match(a, b)
    lists = plan.ops.select_edges(None, index, rows, columns, a_ids=a_ids, b_ids=b_ids, tokens=tokens)
    return _plan_of(plan, lists, columns)


def grid(
    plan: type[Plan],
    metric: Array,
    size: tuple[int, int],
    cell: tuple[int, int],
    r: int,
    generator: Any,
    no_rand: bool,
    partition: Partition | None,
) -> Plan:
    batch, tokens = check_metric("match_2d", metric)
    (w, h), (sx, sy) = size, cell
    if min(w, h) < 0 or w * h != tokens:
        raise ValueError(f"match_2d: w * h must be the number of tokens, {tokens}, got {w} * {h}")
    if min(sx, sy) < 1:
        raise ValueError(f"match_2d: sx and sy must be at least 1, got {sx} and {sy}")
    if partition is None:
        partition = plan.ops.grid_partition(metric, size, cell, generator, no_rand)
    a_ids, b_ids = (plan.ops.ids(part, metric, batch) for part in partition)
    columns = b_ids.shape[1]
    r = min(r, a_ids.shape[1])
    if r <= 0 or columns == 0:
        return plan.identity(metric, batch, tokens)
    a, b = plan.ops.gather_rows(metric, a_ids), plan.ops.gather_rows(metric, b_ids)
    score, index = plan.ops.cosine_match(a, b)
    lists = plan.ops.select_edges(score, index, r, columns, a_ids=a_ids, b_ids=b_ids, tokens=tokens)
    return _plan_of(plan, lists, lists[0].shape[1] + columns)


def threshold(
    plan: type[Plan],
    metric: Array,
    tau: float | None,
    r: int | None,
    class_token: bool,
    max_r: int | None,
    valid: Array | None,
) -> tuple[Plan, float]:
    batch, tokens = check_metric("threshold_match", metric)
    if (tau is None) == (r is None):
        raise ValueError("threshold_match: exactly one of tau and r must be given")
    if tau is not None and not isinstance(tau, Real):
        raise TypeError(f"threshold_match: tau must be a number, got {type(tau).__name__}")
    if valid is not None and tuple(valid.shape) != (batch, tokens):
        raise ValueError(f"threshold_match: valid must be ({batch}, {tokens}), got {tuple(valid.shape)}")
    masks = (None, None) if valid is None else (plan.ops.packed(valid[:, ::2]), plan.ops.packed(valid[:, 1::2]))
    score, index = plan.ops.cosine_match(metric[:, ::2], metric[:, 1::2], *masks)
    scores = plan.ops.fetch(score).copy()
    scores[:, : int(class_token)] = -np.inf
    lengths = np.full(batch, tokens) if valid is None else np.count_nonzero(plan.ops.fetch(valid), axis=1)
    most = scores.shape[1] if max_r is None else max(max_r, 0)
    most_of = np.minimum(np.maximum(lengths - class_token, 0) // 2, most)
    if tau is not None:
        take = np.minimum((scores > tau).sum(axis=1), most_of)
    else:
        budget = batch * max(0, min(r or 0, (tokens - class_token) // 2))
        take, tau = _calibrate(scores, budget, most_of)
    # One image is merged as in the paper's inference path, several as in its batched path.
    alone = batch == 1 and valid is None and r is None
    edges = int(take.max(initial=0))
    if edges == 0 and valid is None:
        return plan.identity(metric, batch, tokens), float(tau)
    if tokens < 2:
        return _single(plan, metric, lengths), float(tau)
    if alone:
        lists = plan.ops.select_edges(
            score, index, edges, tokens // 2, class_token=class_token, sort_unmerged=class_token
        )
        return _plan_of(plan, lists, tokens - edges), float(tau)
    lists = plan.ops.select_edges(
        score,
        index,
        edges,
        tokens // 2,
        take=plan.ops.place(take.astype(np.int64), metric),
        valid=valid,
        class_token=class_token,
        sort_unmerged=True,
    )
    counts = lengths - take
    kept = int(counts.max(initial=0))
    filled = np.arange(kept) < counts[:, None]
    return _plan_of(plan, lists, kept, None if filled.all() else plan.ops.place(filled, metric)), float(tau)


def _plan_of(plan: type[Plan], lists: tuple[Array, ...], kept: int, valid: Array | None = None) -> Plan:
    unm, src, dst, into = lists
    return plan(into, kept, unm, src, dst, valid=valid)


def _single(plan: type[Plan], metric: Array, lengths: np.ndarray[Any, Any]) -> Plan:
    """Plan for samples of one token or none; there is no odd token to merge into."""
    kept = int(lengths.max(initial=0))
    filled = np.arange(kept) < lengths[:, None]
    into = plan.ops.place(np.where(filled, 0, -1) if kept else np.full((len(lengths), metric.shape[1]), -1), metric)
    none = into[:, :0]
    return plan(into, kept, into, none, none, valid=None if filled.all() else plan.ops.place(filled, metric))


def _calibrate(
    scores: np.ndarray[Any, Any], budget: int, most_of: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], float]:
    """Share the batch's budget of edges out to its best ones; the threshold is the best score that missed."""
    rank = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
    flat = np.where(rank < most_of[:, None], scores, -np.inf).reshape(-1)
    order = np.argsort(-flat, kind="stable")
    edges = min(budget, int(np.count_nonzero(flat > -np.inf)))
    take = np.bincount(order[:edges] // max(1, scores.shape[1]), minlength=scores.shape[0])
    missed = float(flat[order[edges]]) if edges < flat.size else 0.0
    return take, max(0.0, missed)
