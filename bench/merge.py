# SPDX-License-Identifier: Apache-2.0
"""Cases of the merge family, against plain torch doing the same (``bench/merge_torch.py``).

The first peer of a case is the one a promise names; the others are the fastest ways we know to write it in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tokernel import ops
from torch import Tensor

from bench import merge_torch as plain
from bench.arrays import DTYPES, RELATIVE
from bench.arrays import agree as _agree
from bench.arrays import bytes_of as _bytes
from bench.arrays import randn as _randn
from bench.core import Case, Floor, Work

TWO_THREADS = Floor("speedup", 1.8)


def _scores_agree(ours: tuple[Tensor, Tensor], peer: tuple[Tensor, Tensor]) -> None:
    """Compare the scores only: partners may differ where two are equally good up to rounding."""
    bound = RELATIVE[peer[0].dtype]
    torch.testing.assert_close(ours[0], peer[0].float(), rtol=bound, atol=bound)


def _mass_agrees(ours: tuple[Tensor, Tensor], peer: tuple[Tensor, Tensor]) -> None:
    """Compare what merging conserves: the sum of tokens times sizes. Near ties may pick other partners."""
    bound = 10 * RELATIVE[peer[0].dtype]
    totals = [(x.float() * size.float().reshape(*x.shape[:2], 1)).sum(1) for x, size in (ours, peer)]
    torch.testing.assert_close(totals[0], totals[1], rtol=bound, atol=bound * float(totals[1].abs().max()))
    assert ours[0].shape == peer[0].shape


def _matching(dtype: torch.dtype, quick: bool) -> Work:
    batch, tokens, width = (1, 256, 64) if quick else (2, 4096, 320)
    metric = _randn(batch, tokens, width, dtype=dtype)
    a, b = metric[:, ::2], metric[:, 1::2]
    return Work(
        lambda: ops.cosine_match(a, b),
        {"torch matmul + max": lambda: plain.cosine_match(a, b)},
        _scores_agree,
        flops=2.0 * batch * a.shape[1] * b.shape[1] * width,
        moved_bytes=_bytes(metric) + batch * a.shape[1] * 12.0,
    )


def _matching_2d(dtype: torch.dtype, quick: bool) -> Work:
    batch, side, width = (1, 16, 64) if quick else (2, 64, 320)
    metric = _randn(batch, side * side, width, dtype=dtype)
    corners = torch.zeros(side, side, dtype=torch.bool)
    corners[::2, ::2] = True
    targets, sources = corners.flatten().nonzero()[:, 0], (~corners).flatten().nonzero()[:, 0]
    r = side * side // 2

    def by_torch() -> Tensor:
        score, _ = plain.cosine_match(metric[:, sources], metric[:, targets])
        return score.argsort(dim=-1, descending=True)[:, :r]

    def same_sources(plan: Any, order: Tensor) -> None:
        assert plan.src_idx.shape == order.shape

    return Work(
        lambda: ops.match_2d(metric, side, side, 2, 2, r, no_rand=True),
        {"torch matmul + max + sort": by_torch},
        same_sources,
        flops=2.0 * batch * len(sources) * len(targets) * width,
        moved_bytes=_bytes(metric) + batch * side * side * 16.0,
    )


def _tome_arrays(dtype: torch.dtype, quick: bool) -> tuple[Tensor, Tensor, Tensor, int]:
    batch, tokens, width, r = (2, 33, 64, 4) if quick else (64, 197, 768, 16)
    x = _randn(batch, tokens, width, dtype=dtype)
    metric = _randn(batch, tokens, 32 if quick else 64, dtype=dtype, seed=1)  # keys averaged over heads: 64 wide
    return x, metric, torch.ones(batch, tokens, 1), r


def _tome_step(dtype: torch.dtype, quick: bool) -> Work:
    x, metric, size, r = _tome_arrays(dtype, quick)
    peer_size = size.to(dtype)
    even, odd = (x.shape[1] + 1) // 2, x.shape[1] // 2
    return Work(
        lambda: ops.bipartite_match(metric, r, class_token=True).merge_weighted(x, size),
        {
            "torch scatter_reduce": lambda: plain.bipartite_match(metric, r).merge_weighted(x, peer_size),
            "torch index_add_": lambda: plain.bipartite_match(metric, r).merge_weighted(x, peer_size, flat=True),
        },
        _mass_agrees,
        flops=2.0 * x.shape[0] * even * odd * metric.shape[2],
        moved_bytes=_bytes(x, metric, size) + _bytes(x, size) * (1 - r / x.shape[1]),
    )


def _unmerge(dtype: torch.dtype, quick: bool) -> Work:
    x, metric, _, r = _tome_arrays(torch.float32, quick)
    plan = ops.bipartite_match(metric, r, class_token=True)
    peer_plan = plain.Plan(plan.unm_idx, plan.src_idx, plan.dst_idx)
    y, row = plan.merge(x.to(dtype)), torch.arange(len(x))[:, None]
    return Work(
        lambda: plan.unmerge(y),
        {"torch scatter_": lambda: peer_plan.unmerge(y), "y[b, map]": lambda: y[row, plan.map]},
        _agree,
        moved_bytes=_bytes(y) + y.element_size() * x.numel(),
    )


def _segments(dtype: torch.dtype, quick: bool, batch: int = 64) -> tuple[Tensor, Tensor, Tensor, int]:
    batch, tokens, width, segments = (2, 64, 32, 40) if quick else (batch, 1024, 512, 128)  # some are empty
    x = _randn(batch, tokens, width, dtype=dtype)
    cuts = torch.randint(0, tokens + 1, (batch, segments - 1), generator=torch.Generator().manual_seed(2))
    inner = cuts.sort(dim=1).values
    offsets = torch.cat([inner.new_zeros(batch, 1), inner, inner.new_full((batch, 1), tokens)], dim=1)
    ids = torch.searchsorted(offsets, torch.arange(tokens).expand(batch, -1).contiguous(), right=True) - 1
    return x, offsets, ids, segments


def _segment_reduce(dtype: torch.dtype, quick: bool, mode: str, labelled: bool) -> Work:
    x, offsets, ids, segments = _segments(dtype, quick)
    peers: dict[str, Callable[[], Tensor]] = {
        "torch scatter_reduce": lambda: plain.segment_reduce(x, ids, segments, mode)
    }
    if mode != "amax":
        peers["torch index_add_"] = lambda: plain.index_add(x, ids, segments, mode)
    if mode != "amax" and not labelled:
        peers["torch.segment_reduce"] = lambda: plain.by_lengths(x, offsets, mode)
    if labelled:
        ours = partial(ops.segment_reduce, x, ids=ids, segments=segments, mode=mode)
    else:
        ours = partial(ops.segment_reduce, x, offsets=offsets, mode=mode)
    return Work(
        ours,
        peers,
        _agree,
        moved_bytes=_bytes(x, ids if labelled else offsets) + _bytes(x) * segments / x.shape[1],
    )


def _segment_reduce_backward(dtype: torch.dtype, quick: bool) -> Work:
    x, offsets, ids, segments = _segments(dtype, quick, 8)
    x.requires_grad_()
    grad = _randn(x.shape[0], segments, x.shape[2], dtype=dtype, seed=3)

    def ours() -> Tensor:
        return torch.autograd.grad(ops.segment_reduce(x, offsets=offsets), x, grad)[0]

    def peer(by: Callable[..., Tensor]) -> Tensor:
        return torch.autograd.grad(by(x, ids, segments, "mean"), x, grad)[0]

    peers = {
        "torch scatter_reduce": partial(peer, plain.segment_reduce),
        "torch index_add_": partial(peer, plain.index_add),
    }
    return Work(ours, peers, _agree, moved_bytes=2 * _bytes(x) + 2 * _bytes(grad))


def _segment_softmax(dtype: torch.dtype, quick: bool) -> Work:
    _, offsets, ids, segments = _segments(torch.float32, quick)
    scores = _randn(*ids.shape, dtype=dtype)
    return Work(
        lambda: ops.segment_softmax(scores, offsets=offsets),
        {"torch scatters": lambda: plain.segment_softmax(scores, ids, segments)},
        _agree,
        moved_bytes=2 * _bytes(scores) + _bytes(offsets),
    )


def _segment_broadcast(dtype: torch.dtype, quick: bool) -> Work:
    x, offsets, ids, segments = _segments(dtype, quick, 8)
    y, row = x[:, :segments].contiguous(), torch.arange(len(x))[:, None]
    return Work(
        lambda: ops.segment_broadcast(y, offsets=offsets),
        {"torch.gather": lambda: y.gather(1, plain.wide(ids, y)), "y[b, ids]": lambda: y[row, ids]},
        _agree,
        moved_bytes=_bytes(y, x, offsets),
    )


def _rows(dtype: torch.dtype, quick: bool) -> tuple[Tensor, Tensor]:
    batch, tokens, width = (2, 64, 32) if quick else (8, 1024, 512)
    x = _randn(batch, tokens, width, dtype=dtype)
    shuffled = torch.rand(batch, tokens, generator=torch.Generator().manual_seed(4)).argsort(dim=1)
    return x, shuffled[:, : tokens // 2].contiguous()


def _gather(dtype: torch.dtype, quick: bool) -> Work:
    x, index = _rows(dtype, quick)
    row = torch.arange(x.shape[0])[:, None]
    return Work(
        lambda: ops.gather_rows(x, index),
        {"torch.gather": lambda: x.gather(1, plain.wide(index, x)), "x[b, index]": lambda: x[row, index]},
        _agree,
        moved_bytes=_bytes(x) + _bytes(index),  # half of x is read, and as much written
    )


def _scatter(dtype: torch.dtype, quick: bool) -> Work:
    x, index = _rows(dtype, quick)
    y, row = x[:, : index.shape[1]].contiguous(), torch.arange(len(x))[:, None]

    def put() -> Tensor:
        out = torch.zeros_like(x)
        out[row, index] = y
        return out

    return Work(
        lambda: ops.scatter_rows(y, index, x.shape[1]),
        {"torch scatter_": lambda: torch.zeros_like(x).scatter_(1, plain.wide(index, y), y), "out[b, index] = y": put},
        _agree,
        moved_bytes=_bytes(x, y, index),
    )


def _scatter_add(dtype: torch.dtype, quick: bool) -> Work:
    x, index = _rows(dtype, quick)
    index = index // 4  # several rows for each target
    y = x[:, : index.shape[1]].contiguous()
    targets = x.shape[1] // 4
    return Work(
        lambda: ops.scatter_add_rows(y, index, targets),
        {
            "torch scatter_add_": lambda: y.new_zeros(y.shape[0], targets, y.shape[2]).scatter_add_(
                1, plain.wide(index, y), y
            ),
            "torch index_add_": lambda: plain.index_add(y, index, targets, "sum"),
        },
        _agree,
        moved_bytes=_bytes(y, index) + _bytes(x) / 4,
    )


def _soft(dtype: torch.dtype, quick: bool, over: str, backward: bool) -> Work:
    batch, tokens, targets, width = (2, 33, 16, 32) if quick else (64, 196, 98, 384)
    x = _randn(batch, tokens, width, dtype=dtype).requires_grad_(backward)
    logits = _randn(batch, targets, tokens, dtype=dtype, seed=5).requires_grad_(backward)
    grad = _randn(batch, targets, width, dtype=dtype, seed=6)

    def aggregate() -> Tensor:
        answer = ops.soft_aggregate(x, logits, over=over)
        return answer if over == "tokens" else answer[0]

    def with_gradients(forward: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(), (x, logits), grad)

    def by_torch() -> Tensor:
        return plain.soft_aggregate(x, logits, over)

    products = 3 if backward else 1
    return Work(
        partial(with_gradients, aggregate) if backward else aggregate,
        {"torch softmax + matmul": partial(with_gradients, by_torch) if backward else by_torch},
        _agree,
        flops=2.0 * products * batch * tokens * targets * width,
        moved_bytes=(2 if backward else 1) * _bytes(x, logits, grad),
    )


def _compact(dtype: torch.dtype, quick: bool) -> Work:
    batch, tokens = (4, 100) if quick else (64, 4096)
    mask = torch.rand(batch, tokens, generator=torch.Generator().manual_seed(7)) < 0.5
    return Work(
        lambda: ops.compact_rows(mask),
        {"torch nonzero + cumsum": lambda: plain.compact_rows(mask)},
        _agree,
        moved_bytes=_bytes(mask) + 8.0 * float(mask.sum()) + 8.0 * (batch + 1),
    )


def _each_dtype(op: str, case: str, build: Callable[[torch.dtype, bool], Work], *floors: Floor) -> list[Case]:
    """One case for fp32, which carries the promises, and one for bf16."""
    return [
        Case("merge", op, case, name, partial(build, dtype), floors if dtype is torch.float32 else ())
        for name, dtype in DTYPES.items()
    ]


def cases() -> list[Case]:
    """Every case of the family, in the order of the table.

    Answers stay under 32 MiB where the case is ours to choose: above that the C library maps new pages for each call,
    and every contender measures the page faults.
    """
    segments, fewer, soft = "64x1024x512, 128 segments", "8x1024x512, 128 segments", "64x196x384, 98 targets"
    found = _each_dtype("cosine_match", "2x4096x320", _matching, Floor("ratio", 1.5), TWO_THREADS)
    found += _each_dtype("match_2d", "2x4096x320, half", _matching_2d, TWO_THREADS)
    found += _each_dtype("tome_step", "64x197x768, r=16", _tome_step, Floor("ratio", 3.0), TWO_THREADS)
    found += _each_dtype("unmerge", "64x197x768, r=16", _unmerge, TWO_THREADS)
    for mode in ("mean", "sum", "amax"):
        floors = (Floor("ratio", 2.0), TWO_THREADS) if mode == "mean" else (TWO_THREADS,)
        for labelled, name in ((False, "offsets"), (True, "ids")):
            build = partial(_segment_reduce, mode=mode, labelled=labelled)
            found += _each_dtype(f"segment_reduce {mode}", f"{segments}, {name}", build, *floors)
    found += _each_dtype("segment_reduce mean", f"{fewer}, fwd+bwd", _segment_reduce_backward, TWO_THREADS)
    found += _each_dtype("segment_softmax", "64x1024, 128 segments", _segment_softmax)
    found += _each_dtype("segment_broadcast", fewer, _segment_broadcast, TWO_THREADS)
    found += _each_dtype("gather_rows", "8x1024x512, half", _gather, TWO_THREADS)
    found += _each_dtype("scatter_rows", "8x512x512 into 1024", _scatter, TWO_THREADS)
    found += _each_dtype("scatter_add_rows", "8x512x512 into 256", _scatter_add, TWO_THREADS)
    for over in ("tokens", "targets"):
        for backward, name in ((False, over), (True, f"{over}, fwd+bwd")):
            build = partial(_soft, over=over, backward=backward)
            found += _each_dtype("soft_aggregate", f"{soft}, {name}", build, TWO_THREADS)
    found.append(Case("merge", "compact_rows", "64x4096, half", "bool", partial(_compact, torch.bool)))
    return found
