# SPDX-License-Identifier: Apache-2.0
"""Cases of the tree family: how draft tokens are drawn and how their tree grows, against plain torch and Python."""

from __future__ import annotations

import heapq
from functools import partial
from typing import Any

import torch
from tokernel import ops
from torch import Tensor

from bench.arrays import DTYPES, bytes_of, randn
from bench.core import Case, Work

VOCABULARY = 128256  # of Llama 3


def _uniform(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _same(ours: Any, peer: Any) -> None:
    for mine, theirs in zip(ours, peer, strict=True):
        assert torch.equal(mine, theirs)


def _race(rows: int, k: int, dtype: torch.dtype, quick: bool) -> Work:
    q = (3 * randn(rows, 500 if quick else VOCABULARY, dtype=torch.float32)).softmax(-1).to(dtype)
    u = _uniform(*q.shape)

    def nearly_equal(ours: Any, peer: Any) -> None:
        """Arrivals that float32 cannot tell apart may change places."""
        assert (ours[0] == peer[0]).float().mean() > 0.99

    def by_topk() -> tuple[Tensor, Tensor]:
        index = (u.log() / q.float()).topk(k).indices
        taken = q.float().gather(-1, index)
        return index, taken / (1 - taken.cumsum(-1) + taken)

    return Work(
        lambda: ops.sample_without_replacement(q, k, u),
        {"torch log, topk": by_topk},
        nearly_equal,
        moved_bytes=bytes_of(q, u) + rows * k * 12,
    )


def _gumbel(rows: int, dtype: torch.dtype, quick: bool) -> Work:
    logits = 3 * randn(rows, 500 if quick else VOCABULARY, dtype=dtype)
    u = _uniform(*logits.shape).clamp(min=2.0**-25)
    return Work(
        lambda: (ops.gumbel_argmax(logits, u),),
        {"torch logs, argmax": lambda: ((logits.float() - (-u.log()).log()).argmax(-1),)},
        _same,
        moved_bytes=bytes_of(logits, u) + rows * 8,
    )


def _masked_transfer(rows: int, length: int, threshold: float | None, quick: bool) -> Work:
    rows = 2 if quick else rows
    confidence, mask = _uniform(rows, length), _uniform(rows, length, seed=2) < 0.5
    count = torch.full((rows,), length // 16)

    def composed() -> tuple[Tensor]:
        held = confidence.masked_fill(~mask, -torch.inf)
        ranks = torch.empty_like(held, dtype=torch.int64)
        order = held.sort(dim=-1, descending=True, stable=True).indices
        ranks.scatter_(-1, order, torch.arange(length).expand(rows, length))
        kept = mask & (ranks < count[:, None])
        return (kept if threshold is None else kept & ((ranks == 0) | (held >= threshold)),)

    return Work(
        lambda: (ops.masked_transfer(confidence, mask, count, threshold),),
        {"torch sort, scatter": composed},
        _same,
        moved_bytes=bytes_of(confidence, mask, count) + rows * length,
    )


def _heap_search(draw_p: list[list[float]], budget: int) -> list[int]:
    parents, heap, pushed = [-1], [(-1.0, 0, 0, 0)], 1
    while len(parents) <= budget:
        value, _, node, rank = heapq.heappop(heap)
        p = draw_p[node][rank]
        parents.append(node)
        heapq.heappush(heap, (value * (1 - p), pushed, node, rank + 1))
        heapq.heappush(heap, (value * p, pushed + 1, len(parents) - 1, 0))
        pushed += 2
    return parents


def _expand(trees: int, nodes: int, quick: bool) -> Work:
    """Draft distributions of a small model: the first draw has about half of the mass."""
    nodes = 16 if quick else nodes
    draw_p = _uniform(trees, nodes + 1, nodes) * 0.8
    known = torch.ones(trees, nodes + 1, dtype=torch.bool)
    tables = draw_p.tolist()

    def the_same_tree(ours: Any, peer: Any) -> None:
        """Values are float64 there: a tie of float32 may come out otherwise."""
        assert (ours.parents == torch.tensor(peer)).float().mean() > 0.9

    return Work(
        lambda: ops.expand_greedy(draw_p, known, budget=nodes),
        {"Python heapq": lambda: [_heap_search(table, nodes) for table in tables]},
        the_same_tree,
        moved_bytes=bytes_of(draw_p, known) + trees * nodes * 21,
    )


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    found = []
    for name, dtype in DTYPES.items():
        for rows, k in ((16, 64), (1, 16)):
            case = f"{rows}x{VOCABULARY}, k={k}"
            found.append(Case("tree", "sample_without_replacement", case, name, partial(_race, rows, k, dtype)))
        found.append(Case("tree", "gumbel_argmax", f"16x{VOCABULARY}", name, partial(_gumbel, 16, dtype)))
    for threshold in (None, 0.9):
        case = "64x1024, count" + (" and threshold" if threshold else "")
        build = partial(_masked_transfer, 64, 1024, threshold)
        found.append(Case("tree", "masked_transfer", case, "float32", build))
    for trees, nodes in ((1, 64), (1, 768), (16, 64)):
        case = f"{trees} x {nodes} nodes"
        found.append(Case("tree", "expand_greedy", case, "float32", partial(_expand, trees, nodes)))
    return found
