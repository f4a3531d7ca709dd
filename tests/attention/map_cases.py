# SPDX-License-Identifier: Apache-2.0
"""Policies of every kind with the dense mask each means, and the map in float64."""

from __future__ import annotations

import numpy as np

from tokernel.kernels.attention import BlockMap, Causal, Dense, Disc, Mask, PrefixCausal, Segments, Tree


def cut(rng, total, parts):
    """Sizes of blocks that add up, some of them zero."""
    inner = np.sort(rng.integers(0, total + 1, parts - 1))
    return np.diff(np.concatenate([[0], inner, [total]]))


def below(queries, keys, offset):
    return np.arange(keys) <= np.arange(queries)[:, None] + offset


def blocks(map_, rows, columns):
    return np.repeat(np.repeat(map_, rows, axis=-2), columns, axis=-1)


def disc_mask(height, width, radius, prefix, pooled):
    y, x = np.divmod(np.arange(height * width), max(width, 1))
    near = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2 < radius**2
    image = np.concatenate([np.ones((len(y), prefix), bool), near, np.ones((len(y), pooled), bool)], axis=1)
    text = np.ones((prefix, prefix + len(y) + pooled), bool)
    text[:, prefix + len(y) :] = False
    return np.concatenate([text, image])


def segment_mask(rows, columns, causal):
    of_row, of_column = np.repeat(np.arange(len(rows)), rows), np.repeat(np.arange(len(columns)), columns)
    seen = of_row[:, None] == of_column
    if causal:
        to_end_q = np.concatenate([np.arange(n)[::-1] for n in rows] or [[]])
        to_end_k = np.concatenate([np.arange(n)[::-1] for n in columns] or [[]])
        seen &= to_end_k >= to_end_q[:, None]
    return seen


def offsets(sizes):
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def make(kind, rng, batch, heads, queries, keys):
    """Make a policy of a kind for about that many tokens: (policy, bool mask (b, h, Nq, Nk) with extents of 1)."""
    if kind == "dense":
        return Dense(), np.ones((1, 1, queries, keys), bool)
    if kind == "causal":
        return Causal(), below(queries, keys, keys - queries)[None, None]
    if kind == "prefix":
        return PrefixCausal(keys // 2, -3), (below(queries, keys, -3) | (np.arange(keys) < keys // 2))[None, None]
    if kind == "blocks":
        rows = np.stack([cut(rng, queries, 5) for _ in range(heads)])
        columns = np.stack([cut(rng, keys, 7) for _ in range(heads)])
        map_ = rng.random((batch, heads, 5, 7)) < 0.5
        mask = np.stack([[blocks(map_[b, h], rows[h], columns[h]) for h in range(heads)] for b in range(batch)])
        return BlockMap(map_, rows, columns), mask
    if kind == "disc":
        height, width, prefix = 4, 5, 3
        return Disc((height, width), 2.0, prefix, 2), disc_mask(height, width, 2.0, prefix, 2)[None, None]
    if kind in ("segments", "segments causal"):
        rows, columns = cut(rng, queries, 6), cut(rng, keys, 6)
        causal = kind != "segments"
        return Segments(offsets(rows), offsets(columns), causal), segment_mask(rows, columns, causal)[None, None]
    if kind == "tree":
        nodes, prefix = queries, keys
        seen = np.stack([np.tril(rng.random((nodes, nodes)) < 0.3, -1) for _ in range(batch)])
        own = seen | np.eye(nodes, dtype=bool)
        return Tree(seen, prefix), np.concatenate([np.ones((batch, nodes, prefix), bool), own], axis=2)[:, None]
    mask = rng.random((batch, 1, queries, keys)) < 0.5
    causal = kind == "mask causal"
    return Mask(mask, causal), mask & below(queries, keys, keys - queries) if causal else mask


KINDS = (
    "dense",
    "causal",
    "prefix",
    "blocks",
    "disc",
    "segments",
    "segments causal",
    "tree",
    "mask",
    "mask causal",
)


def half(x, dtype):
    """Round float64 to what the dtype can hold; bfloat16 as torch has it."""
    if dtype == "bfloat16":
        import torch

        return torch.from_numpy(x).to(torch.bfloat16)
    return x.astype(dtype)


def exact(x):
    """Widen to float64 NumPy."""
    return x.double().numpy() if hasattr(x, "double") else np.asarray(x, np.float64)


def scores(q, k, mask, scale=None, bias=None):
    """Scores in float64, -inf where hidden."""
    q, k = exact(q), exact(k)
    k = np.repeat(k, q.shape[1] // max(k.shape[1], 1), axis=1)
    s = np.einsum("bhid,bhjd->bhij", q, k) * (q.shape[3] ** -0.5 if scale is None else scale)
    s = s if bias is None else s + np.asarray(bias, np.float64)[:, :, None]
    return np.where(mask, s, -np.inf)


def softmax(s, extra=0.0):
    """(map, lse) of scores; rows without keys are 0 and log(extra)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        most = np.maximum(s.max(-1, keepdims=True, initial=-np.inf), 0.0 if extra else -np.inf)
        base = np.where(np.isneginf(most), 0.0, most)
        e = np.exp(s - base)
        total = e.sum(-1, keepdims=True) + extra * np.exp(-base)
        return np.where(total == 0, 0.0, e / total), (np.log(total) + base)[..., 0]
