# SPDX-License-Identifier: Apache-2.0
"""Inputs of tree_attention, its definition over an explicit mask, and how near an answer must come to it."""

import numpy as np
import torch

UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
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
    """Hold answer and lse to twice the error of the definition computed in the dtype, plus one rounding."""
    out, lse = answer
    assert out.dtype == q.dtype
    assert out.shape == q.shape
    assert lse.dtype == torch.float32
    exact, exact_lse = definition(q.double(), k.double(), v.double(), seen, scale)
    plain, plain_lse = definition(q, k, v, seen, scale)
    if not out.numel():
        return
    bound = 2 * float((plain.double() - exact).abs().max()) + 2 * UNIT[q.dtype] * float(v[v.isfinite()].abs().max())
    assert float((out.double() - exact).abs().max()) <= bound
    empty = exact_lse == -torch.inf
    assert torch.equal(empty, lse == -torch.inf)
    assert not out[empty].any()
    exact_lse, plain_lse, lse = (x.double().masked_fill(empty, 0.0) for x in (exact_lse, plain_lse, lse))
    error = float((plain_lse - exact_lse).abs().max())
    assert float((lse - exact_lse).abs().max()) <= 2 * error + 4 * UNIT[torch.float32] * (1 + float(lse.abs().max()))


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
