# SPDX-License-Identifier: Apache-2.0
"""Inputs of tree_attention, its definition over an explicit mask, and how near an answer must come to it."""

import numpy as np
import torch
from attention_bounds import UNIT, hold_to_definition

DTYPES = list(UNIT)


def inputs(shape, rows, dtype=torch.float32, seed=0):
    """q (B, H, T, D) and two caches (B, G, rows, D) of shape (B, H, G, T, D)."""
    batch, heads, groups, nodes, width = shape
    generator = torch.Generator().manual_seed(seed)
    extents = ((heads, nodes), (groups, rows), (groups, rows))
    return tuple(torch.randn(batch, *e, width, generator=generator).to(dtype) for e in extents)


def seen_by(parents, lengths, rows):
    """(B, T, rows) bool: which cache rows each node sees; none for a padded one."""
    seen = np.zeros((len(lengths), parents.shape[-1], rows), bool)
    for b, length in enumerate(lengths):
        above = parents[b] if parents.ndim == 2 else parents
        for i, parent in enumerate(above):
            if i > 0 and parent < 0:
                break
            if i > 0:
                seen[b, i] = seen[b, parent]
            seen[b, i, :length] = True
            seen[b, i, length + i] = True
    return torch.from_numpy(seen)


def definition(q, k, v, seen, scale=None):
    """Answer and lse by whole matrices, in the dtype of the inputs."""
    sharing = q.shape[1] // max(1, k.shape[1])
    k, v = (x.repeat_interleave(sharing, 1) for x in (k, v))
    used = seen.any(1)[:, None, :, None]
    v = torch.where(used, v, 0)  # rows that nobody sees may hold anything
    score = (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    score = score.masked_fill(~seen[:, None], -torch.inf)
    lse = score.logsumexp(-1)
    weight = torch.where(lse[..., None] == -torch.inf, 0, (score - lse[..., None]).exp())
    return weight @ v, lse


def hold(answer, q, k, v, seen, scale=None):
    """Hold answer and lse to the definition."""
    assert answer[0].dtype == q.dtype
    assert answer[0].shape == q.shape
    if q.numel():
        exact = definition(q.double(), k.double(), v.double(), seen, scale)
        hold_to_definition(answer, exact, definition(q, k, v, seen, scale), float(v.abs().max()))


def paged(cache, rows, generator, spare=2):
    """The rows of a cache (B, G, S, D) on shuffled pages of `rows` rows, NaN elsewhere, and the pages (B, M)."""
    batch, groups, capacity, width = cache.shape
    count = -(-capacity // rows)
    order = torch.randperm(batch * count + spare, generator=generator)[: batch * count].view(batch, count)
    pool = torch.full((batch * count + spare, groups, rows, width), torch.nan, dtype=cache.dtype)
    for b in range(batch):
        for j in range(capacity):
            pool[order[b, j // rows], :, j % rows] = cache[b, :, j]
    return pool, order
