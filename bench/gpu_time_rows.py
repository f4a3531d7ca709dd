# SPDX-License-Identifier: Apache-2.0
"""What bench.gpu_time races of the families merge, cluster and select: rows moved, matched, summed and chosen."""

from __future__ import annotations

from functools import partial

import torch
from tokernel import ops
from torch import Tensor
from torch.nn import functional

from bench.gpu_time import Case, Race, bytes_of, randint, randn

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


def _flat(index: Tensor, rows: int) -> Tensor:
    """Rows of all samples numbered through."""
    return (index + torch.arange(len(index), device=index.device)[:, None] * rows).flatten()


def _gather(dtype: torch.dtype) -> Race:
    x, index = randn(64, 1024, 512, dtype=dtype), randint(1024, 64, 512)
    flat, rows = _flat(index, 1024), x.flatten(0, 1)
    return Race(
        lambda: ops.gather_rows(x, index),
        {"index_select": lambda: rows.index_select(0, flat).view(64, 512, 512)},
        bytes_of(x) + bytes_of(index),
    )


def _scatter(dtype: torch.dtype) -> Race:
    y = randn(64, 512, 512, dtype=dtype)
    index = torch.rand(64, 1024, device="cuda").argsort(1)[:, :512].contiguous()
    flat = _flat(index, 1024)
    return Race(
        lambda: ops.scatter_rows(y, index, 1024),
        {
            "zeros + index_copy_": lambda: (
                y.new_zeros(65536, 512).index_copy_(0, flat, y.flatten(0, 1)).view(64, 1024, -1)
            )
        },
        3 * bytes_of(y) + bytes_of(index),
    )


def _scatter_add(dtype: torch.dtype) -> Race:
    y, index = randn(64, 512, 512, dtype=dtype), randint(256, 64, 512)
    flat = _flat(index, 256)
    return Race(
        lambda: ops.scatter_add_rows(y, index, 256),
        {
            "zeros + index_add_": lambda: (
                y.new_zeros(64 * 256, 512).index_add_(0, flat, y.flatten(0, 1)).view(64, 256, -1)
            )
        },
        1.5 * bytes_of(y) + bytes_of(index),
    )


def _offsets(batch: int, tokens: int, segments: int) -> Tensor:
    cuts = torch.randint(tokens + 1, (batch, segments - 1), device="cuda").sort(1).values
    return functional.pad(functional.pad(cuts, (1, 0)), (0, 1), value=tokens)


def _segments(dtype: torch.dtype, by_ids: bool, backward: bool = False) -> Race:
    x = randn(64, 1024, 512, dtype=dtype).requires_grad_(backward)
    offsets = _offsets(64, 1024, 128)
    ids = torch.searchsorted(offsets[:, 1:].contiguous(), torch.arange(1024, device="cuda").expand(64, -1).contiguous(),
                             right=True)  # fmt: skip
    if by_ids:
        ids = ids[:, torch.randperm(1024, device="cuda")].contiguous()
    flat = _flat(ids, 128)
    given = {"ids": ids, "segments": 128} if by_ids else {"offsets": offsets}

    def peer() -> Tensor:
        sums = x.new_zeros(64 * 128, 512).index_add(0, flat, x.flatten(0, 1))
        counts = torch.bincount(flat, minlength=64 * 128).clamp_min(1)[:, None]
        return (sums / counts).view(64, 128, 512)

    if not backward:
        return Race(lambda: ops.segment_reduce(x, **given), {"index_add + bincount": peer}, 1.125 * bytes_of(x))
    grad = randn(64, 128, 512, dtype=dtype)
    return Race(
        lambda: torch.autograd.grad(ops.segment_reduce(x, **given), x, grad),
        {"index_add + bincount": lambda: torch.autograd.grad(peer(), x, grad)},
        2.25 * bytes_of(x),
    )


def _segment_softmax(dtype: torch.dtype) -> Race:
    scores, offsets = randn(64, 1024, dtype=dtype), _offsets(64, 1024, 128)
    return Race(lambda: ops.segment_softmax(scores, offsets=offsets), {}, 2 * bytes_of(scores) + bytes_of(offsets))


def _matching(dtype: torch.dtype) -> Race:
    metric = randn(2, 4096, 320, dtype=dtype)
    a, b = metric[:, ::2], metric[:, 1::2]

    def peer() -> tuple[Tensor, Tensor]:
        score, index = (functional.normalize(a, dim=-1) @ functional.normalize(b, dim=-1).transpose(1, 2)).max(-1)
        return score, index

    return Race(
        lambda: ops.cosine_match(a, b),
        {"normalise + matmul + max": peer},
        bytes_of(metric),
        2.0 * 2 * 2048 * 2048 * 320,
    )


def _tome(dtype: torch.dtype) -> Race:
    x, metric, r = randn(64, 197, 768, dtype=dtype), randn(64, 197, 64, dtype=dtype), 16
    size = torch.ones(64, 197, device="cuda")

    def peer() -> tuple[Tensor, Tensor]:
        unit = functional.normalize(metric, dim=-1)
        scores = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
        scores[:, 0] = -torch.inf
        best, partner = scores.max(-1)
        order = best.argsort(-1, descending=True)
        source, kept = order[:, :r, None], order[:, r:].sort(-1).values[:, :, None]
        target = partner[:, :, None].gather(1, source)

        def merge(v: Tensor) -> Tensor:
            even, odd = v[:, ::2], v[:, 1::2]
            width = v.shape[2]
            moved = even.gather(1, source.expand(-1, -1, width))
            odd = odd.scatter_reduce(1, target.expand(-1, -1, width), moved, "sum")
            return torch.cat([even.gather(1, kept.expand(-1, -1, width)), odd], 1)

        weight = size[:, :, None].to(dtype)
        total = merge(weight)
        return merge(x * weight) / total, total

    return Race(
        lambda: ops.bipartite_match(metric, r, class_token=True).merge_weighted(x, size),
        {"torch scatter_reduce": peer},
        bytes_of(x, metric) + bytes_of(x) * (1 - r / 197),
        compared=False,
    )


def _soft(dtype: torch.dtype, backward: bool) -> Race:
    x, logits = (randn(*shape, dtype=dtype).requires_grad_(backward) for shape in ((64, 196, 384), (64, 98, 196)))

    def peer() -> Tensor:
        return logits.softmax(-1) @ x

    flops = 2.0 * 64 * 196 * 98 * 384
    if not backward:
        return Race(lambda: ops.soft_aggregate(x, logits), {"softmax + matmul": peer}, 1.5 * bytes_of(x), flops)
    grad = randn(64, 98, 384, dtype=dtype)
    return Race(
        lambda: torch.autograd.grad(ops.soft_aggregate(x, logits), (x, logits), grad),
        {"softmax + matmul": lambda: torch.autograd.grad(peer(), (x, logits), grad)},
        3 * bytes_of(x),
        3 * flops,
    )


def _compact(dtype: torch.dtype) -> Race:
    mask = torch.rand(64, 1024, device="cuda") < 0.5
    return Race(lambda: ops.compact_rows(mask), {}, bytes_of(mask) + 64 * 512 * 8.0)


def _permute(dtype: torch.dtype) -> Race:
    x = randn(1, 40, 75600, 128, dtype=dtype)
    perm = torch.rand(1, 40, 75600, device="cuda").argsort(-1)
    flat, rows = _flat(perm[0], 75600), x.flatten(0, 2)
    return Race(
        lambda: ops.permute_rows(x, perm),
        {"index_select": lambda: rows.index_select(0, flat).view(x.shape)},
        2 * bytes_of(x) + bytes_of(perm),
    )


def _sort(dtype: torch.dtype) -> Race:
    labels = randint(1000, 40, 75600)
    return Race(
        lambda: ops.sort_by_label(labels, 1000),
        {"stable argsort": lambda: labels.sort(dim=-1, stable=True).indices},
        2 * bytes_of(labels),
    )


def _assign(dtype: torch.dtype) -> Race:
    x, c = randn(4, 75600, 128, dtype=dtype), randn(4, 1000, 128, dtype=dtype)

    def by_matmul() -> Tensor:
        return (c.float().square().sum(-1)[:, None] - 2 * (x @ c.transpose(1, 2))).argmin(-1)

    return Race(
        lambda: ops.assign(x, c)[0],
        {"matmul + argmin": by_matmul, "cdist + argmin": lambda: torch.cdist(x.float(), c.float()).argmin(-1)},
        bytes_of(x, c),
        2.0 * 4 * 75600 * 1000 * 128,
    )


def _update(dtype: torch.dtype) -> Race:
    x, labels, old = randn(4, 75600, 128, dtype=dtype), randint(1000, 4, 75600), randn(4, 1000, 128, dtype=dtype)
    flat = _flat(labels, 1000)

    def peer() -> Tensor:
        sums = torch.zeros(4000, 128, device="cuda").index_add_(0, flat, x.flatten(0, 1).float())
        return (sums / torch.bincount(flat, minlength=4000)[:, None]).to(dtype).view(4, 1000, 128)

    return Race(lambda: ops.update(x, labels, old)[0], {"index_add_ + bincount": peer}, bytes_of(x, labels))


def _topp_map(dtype: torch.dtype) -> Race:
    qc, kc, sizes = randn(1, 40, 300, 128, dtype=dtype), randn(1, 40, 1000, 128, dtype=dtype), randint(150, 1, 40, 1000)

    def peer() -> Tensor:
        prob = (qc @ kc.transpose(2, 3) * 128**-0.5 + sizes.log()[:, :, None]).float().softmax(-1)
        ranked, order = prob.sort(-1, descending=True)
        kept = ranked.cumsum(-1) - ranked < 0.9
        return torch.zeros_like(kept).scatter_(-1, order, kept)

    return Race(
        lambda: ops.centroid_topp_map(qc, kc, sizes, 0.9), {"softmax + sort + cumsum": peer},
        bytes_of(qc, kc, sizes) + 40 * 300 * 1000.0, 2.0 * 40 * 300 * 1000 * 128,
    )  # fmt: skip


def _topk(dtype: torch.dtype, rows: int, width: int, k: int) -> Race:
    score = randn(rows, width, dtype=dtype)
    return Race(lambda: ops.topk(score, k)[0], {"torch.topk": lambda: score.topk(k, sorted=True)[0]}, bytes_of(score))


def _topp(dtype: torch.dtype) -> Race:
    prob = (3 * randn(256, 4096)).softmax(-1).to(dtype)

    def peer() -> Tensor:
        ranked, order = prob.sort(-1, descending=True)
        kept = ranked.cumsum(-1) - ranked < 0.9
        return torch.zeros_like(kept).scatter_(-1, order, kept)

    return Race(lambda: ops.topp_mask(prob, 0.9), {"sort + cumsum": peer}, bytes_of(prob) + prob.numel())


def _farthest(dtype: torch.dtype) -> Race:
    x, k = randn(1, 2880, 4096, dtype=dtype), 288

    def peer() -> Tensor:
        unit = functional.normalize(x[0].float(), dim=-1)
        apart = 1 - unit @ unit.T
        chosen = apart.fill_diagonal_(torch.inf).amin(1).argmax()[None]
        apart.fill_diagonal_(0)
        least, picks = apart.index_select(0, chosen)[0], [chosen]
        for _ in range(k - 1):
            chosen = least.argmax()[None]
            picks.append(chosen)
            least = torch.minimum(least, apart.index_select(0, chosen)[0])
        return torch.cat(picks)[None]

    return Race(lambda: ops.farthest_points(x, k), {"matmul + loop": peer}, bytes_of(x), 2.0 * 2880 * 2880 * 4096)


def _power(dtype: torch.dtype) -> Race:
    maps = (2 * randn(12, 197, 197)).softmax(-1).to(dtype)

    def peer() -> Tensor:
        s = torch.full((12, 1, 197), 1 / 197, device="cuda")
        for _ in range(50):
            s = s @ maps
            s = s / s.sum(-1, keepdim=True)
        return s[:, 0]

    return Race(
        lambda: ops.power_iterate(maps, iters=50), {"50 matmuls": peer}, bytes_of(maps), 2.0 * 12 * 197 * 197 * 50
    )


def _gate(dtype: torch.dtype) -> Race:
    logits = randn(16384, 64, dtype=dtype)
    return Race(
        lambda: ops.topk_gate(logits, 2)[1],
        {"softmax + topk": lambda: logits.softmax(-1).topk(2)[0]},
        bytes_of(logits) + 16384 * 2 * 12.0,
    )


def _importance(dtype: torch.dtype) -> Race:
    prob = randn(1, 16, 1024, 1024, dtype=dtype).softmax(-1)
    return Race(lambda: ops.accumulate_importance(prob), {"sum": lambda: prob.sum((1, 2))}, bytes_of(prob))


def cases() -> list[Case]:
    """In the order of the table."""
    tokens, cluster = "64x1024x512", "4x75600x128, 1000 centroids"
    found = [Case("gather_rows", f"{tokens}, half", d, _gather) for d in (F32, BF16)]
    found += [Case("scatter_rows", "64x512x512 into 1024", BF16, _scatter)]
    found += [Case("scatter_add_rows", "64x512x512 into 256", d, _scatter_add) for d in (F32, BF16)]
    for by_ids, name in ((False, "offsets"), (True, "ids")):
        build = partial(_segments, by_ids=by_ids)
        found += [Case("segment_reduce mean", f"{tokens}, 128 {name}", d, build) for d in (F32, BF16)]
    backward = partial(_segments, by_ids=False, backward=True)
    found += [
        Case("segment_reduce mean", f"{tokens}, 128 offsets, fwd+bwd", BF16, backward),
        Case("segment_softmax", "64x1024, 128 segments", BF16, _segment_softmax),
        *(Case("cosine_match", "2x2048x2048x320", d, _matching) for d in (F32, BF16)),
        *(Case("tome_step", "64x197x768, r=16", d, _tome) for d in (F32, BF16)),
        *(Case("soft_aggregate", "64x196x384, 98 targets", d, partial(_soft, backward=False)) for d in (F32, BF16)),
        Case("soft_aggregate", "64x196x384, 98 targets, fwd+bwd", BF16, partial(_soft, backward=True)),
        Case("compact_rows", "64x1024, half", torch.bool, _compact),
        Case("permute_rows", "40x75600x128", BF16, _permute),
        Case("sort_by_label", "40x75600, 1000 labels", torch.int64, _sort),
        *(Case("assign", cluster, d, _assign) for d in (F32, BF16)),
        *(Case("update", cluster, d, _update) for d in (F32, BF16)),
        Case("centroid_topp_map", "40 heads, 300x1000, p=0.9", F32, _topp_map),
        Case("topk", "256x4096, k=1024", F32, partial(_topk, rows=256, width=4096, k=1024)),
        Case("topk", "16x128256, k=64", BF16, partial(_topk, rows=16, width=128256, k=64)),
        Case("topp_mask", "256x4096, p=0.9", F32, _topp),
        Case("farthest_points", "288 of 2880x4096", BF16, _farthest),
        Case("power_iterate", "12x197x197, 50 steps", F32, _power),
        Case("topk_gate", "16384x64, k=2", F32, _gate),
        Case("accumulate_importance", "16x1024x1024", F32, _importance),
    ]
    return found
