# SPDX-License-Identifier: Apache-2.0
"""Policies beside the masks they stand for, written down pair by pair, and attention in float64 over such a mask."""

import dataclasses

import numpy as np
import torch

from tokernel.kernels.attention import BlockMap, Causal, Dense, Disc, Mask, PrefixCausal, Segments, Tree

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def cut(rng, total, parts):
    """Sizes of `parts` blocks, some of them empty, that add up to `total`."""
    return np.diff(np.sort(rng.integers(0, total + 1, parts - 1)), prepend=0, append=total)


def offsets(sizes):
    return np.concatenate([[0], np.cumsum(sizes)])


def owner(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


def behind(queries, keys, offset=None):
    return np.arange(keys) - (keys - queries if offset is None else offset) <= np.arange(queries)[:, None]


def dense(rng, batch, heads, queries, keys):
    return Dense(), np.ones((queries, keys), bool)


def causal(rng, batch, heads, queries, keys):
    return Causal(), behind(queries, keys)


def causal_offset(rng, batch, heads, queries, keys):
    return Causal(-3), behind(queries, keys, -3)


def prefix_causal(rng, batch, heads, queries, keys):
    return PrefixCausal(5, -4), behind(queries, keys, -4) | (np.arange(keys) < 5)


def block_map(rng, batch, heads, queries, keys):
    rows, columns = cut(rng, queries, 5), cut(rng, keys, 9)
    flags = rng.random((batch, 1, 5, 9)) < 0.5
    return BlockMap(flags, rows, columns), flags[:, :, owner(rows)][..., owner(columns)]


def block_map_of_heads(rng, batch, heads, queries, keys):
    rows = np.stack([cut(rng, queries, 4) for _ in range(heads)])
    columns = np.stack([cut(rng, keys, 7) for _ in range(heads)])
    flags = rng.random((batch, heads, 4, 7)) < 0.5
    seen = [[flags[b, h][owner(rows[h])][:, owner(columns[h])] for h in range(heads)] for b in range(batch)]
    return BlockMap(flags, rows, columns), np.array(seen, bool).reshape(batch, heads, queries, keys)


def segments(rng, batch, heads, queries, keys, is_causal=False):
    rows, columns = cut(rng, queries, 7), cut(rng, keys, 7)
    seen = owner(rows)[:, None] == owner(columns)
    if is_causal:  # the last query and the last key of a segment are aligned
        to_end = offsets(rows)[1:][owner(rows)] - np.arange(queries)
        to_end_keys = offsets(columns)[1:][owner(columns)] - np.arange(keys)
        seen = seen & (to_end_keys >= to_end[:, None])
    return Segments(offsets(rows), offsets(columns), causal=is_causal), seen


def segments_causal(rng, batch, heads, queries, keys):
    return segments(rng, batch, heads, queries, keys, True)


def mask(rng, batch, heads, queries, keys):
    seen = rng.random((1, heads, queries, keys)) < 0.4
    return Mask(seen), seen


def mask_causal(rng, batch, heads, queries, keys):
    seen = rng.random((batch, 1, queries, keys)) < 0.4
    return Mask(seen, causal=True), seen & behind(queries, keys)


ANY_EXTENTS = {
    f.__name__: f
    for f in (
        dense, causal, causal_offset, prefix_causal, block_map, block_map_of_heads, segments, segments_causal, mask,
        mask_causal,
    )
}  # fmt: skip


def disc(rng, batch, grid, radius, prefix, pooled):
    height, width = grid
    y, x = np.divmod(np.arange(height * width), width)
    near = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2 < radius**2
    image = np.concatenate([np.ones((len(y), prefix), bool), near, np.ones((len(y), pooled), bool)], 1)
    text = np.concatenate([np.ones((prefix, prefix + len(y)), bool), np.zeros((prefix, pooled), bool)], 1)
    return Disc(grid, radius, prefix, pooled), np.concatenate([text, image])


def tree(rng, batch, nodes, prefix):
    parent = [int(rng.integers(-1, i)) if i else -1 for i in range(nodes)]
    ancestors = np.zeros((nodes, nodes), bool)
    for i in range(nodes):
        j = parent[i]
        while j >= 0:
            ancestors[i, j] = True
            j = parent[j]
    return Tree(ancestors, prefix), np.concatenate(
        [np.ones((nodes, prefix), bool), ancestors | np.eye(nodes, dtype=bool)], 1
    )


def policy_case(name, rng, shape):
    """Return policy, the mask it stands for (broadcast to B, H, Nq, Nk), and the extents, for (B, H, Nq, Nk)."""
    batch, heads, queries, keys = shape
    if name == "disc":
        policy, seen = disc(rng, batch, (max(queries // 8, 2), 7), 2.6, 4, 3)
    elif name == "tree":
        policy, seen = tree(rng, batch, queries, keys)
    else:
        policy, seen = ANY_EXTENTS[name](rng, batch, heads, queries, keys)
    arrays = {name: torch.from_numpy(x) for name, x in vars(policy).items() if isinstance(x, np.ndarray)}
    policy = dataclasses.replace(policy, **arrays)
    queries, keys = seen.shape[-2:]
    return policy, np.broadcast_to(seen, (batch, heads, queries, keys)), (queries, keys)


POLICIES = [*ANY_EXTENTS, "disc", "tree"]


def inputs(shape, dtype=torch.float32, seed=0):
    """Q, k and v for (B, H, G, Nq, Nk, D)."""
    batch, heads, groups, queries, keys, width = shape
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(batch, h, n, width, generator=generator).to(dtype)
        for h, n in ((heads, queries), (groups, keys), (groups, keys))
    )


def _scores(q, k, seen, scale, bias):
    k = k.repeat_interleave(q.shape[1] // max(k.shape[1], 1), 1)
    scores = (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if scores.dtype == torch.float64 else scores.float()
    if bias is not None:
        scores = scores + bias[:, :, None]
    return scores.masked_fill(~torch.as_tensor(np.array(seen)), -torch.inf)


def formula(q, k, v, seen, scale=None, bias=None, extra=0.0):
    """The definition in the dtype of the arguments, the softmax in float32 at least: answers and log-sum-exp."""
    scores = _scores(q, k, seen, scale, bias)
    batch, heads, queries, _ = scores.shape
    extra_score = scores.new_full((batch, heads, queries, 1), extra).log()
    scores = torch.cat([scores, extra_score], -1)
    most = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    weights = (scores - most).exp()
    total = weights.sum(-1, keepdim=True)
    v = v.repeat_interleave(heads // max(v.shape[1], 1), 1)
    p = (weights / total.clamp(min=torch.finfo(scores.dtype).tiny))[..., :-1]
    return p.to(v.dtype) @ v, (most + total.log())[..., 0]


def oracle(q, k, v, seen, **options):
    return formula(q.double(), k.double(), v.double(), seen, **options)
