# SPDX-License-Identifier: Apache-2.0
"""Attention written down in torch, with masks written down in NumPy: what attention_backward is held against."""

import numpy as np
import torch

from tokernel.kernels.attention import BlockMap, Causal, Dense, Disc, Mask, PrefixCausal, Segments, Tree

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def _blocks(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


def _causal(queries, keys, offset=None, prefix=0):
    i, j = np.arange(queries)[:, None], np.arange(keys)
    return (j <= i + (keys - queries if offset is None else offset)) | (j < prefix)


def _disc(height, width, radius, prefix, pooled):
    y, x = np.divmod(np.arange(height * width), width)
    near = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2 < radius**2
    seen = np.ones((prefix + height * width, prefix + height * width + pooled), bool)
    seen[prefix:, prefix : prefix + height * width] = near
    seen[:prefix, prefix + height * width :] = False
    return seen


def _segments(cu_q, cu_k, causal):
    seen = np.zeros((cu_q[-1], cu_k[-1]), bool)
    for q0, q1, k0, k1 in zip(cu_q[:-1], cu_q[1:], cu_k[:-1], cu_k[1:], strict=True):
        seen[q0:q1, k0:k1] = _causal(q1 - q0, k1 - k0) if causal else True
    return seen


def _tree(ancestors, prefix):
    nodes = ancestors.shape[-1]
    return np.concatenate([np.ones((*ancestors.shape[:-1], prefix), bool), ancestors | np.eye(nodes, dtype=bool)], -1)


def policies(rng, batch, heads, queries, keys):
    """Name -> (policy, (B, H, Nq, Nk) or smaller bool array of who sees whom) for any extents."""

    def flags(*shape):
        return rng.random(shape) < 0.6

    def sizes(total, parts):
        cuts = np.sort(rng.integers(0, total + 1, parts - 1))
        return np.diff(np.concatenate([[0], cuts, [total]]))

    rows, columns, blocks = sizes(queries, 4), sizes(keys, 5), flags(batch, heads, 4, 5)
    cu_q, cu_k = (np.concatenate([[0], np.cumsum(sizes(n, 6))]) for n in (queries, keys))
    mask = flags(batch, 1, queries, keys)
    return {
        "dense": (Dense(), np.ones((queries, keys), bool)),
        "causal": (Causal(), _causal(queries, keys)),
        "causal, offset": (Causal(-2), _causal(queries, keys, -2)),
        "prefix causal": (PrefixCausal(3, -4), _causal(queries, keys, -4, 3)),
        "block map": (
            BlockMap(torch.from_numpy(blocks), torch.from_numpy(rows), torch.from_numpy(columns)),
            blocks[:, :, _blocks(rows)][..., _blocks(columns)],
        ),
        "segments": (Segments(torch.from_numpy(cu_q), torch.from_numpy(cu_k)), _segments(cu_q, cu_k, False)),
        "segments, causal": (
            Segments(torch.from_numpy(cu_q), torch.from_numpy(cu_k), causal=True),
            _segments(cu_q, cu_k, True),
        ),
        "mask": (Mask(torch.from_numpy(mask)), mask),
        "mask, causal": (Mask(torch.from_numpy(mask), causal=True), mask & _causal(queries, keys)),
    }


def disc(height, width, radius, prefix, pooled):
    """Return policy, who sees whom, and the extents."""
    seen = _disc(height, width, radius, prefix, pooled)
    return Disc((height, width), radius, prefix, pooled), seen, seen.shape


def tree(rng, batch, nodes, prefix):
    ancestors = rng.random((batch, nodes, nodes)) < 0.3
    return Tree(torch.from_numpy(ancestors), prefix), _tree(ancestors, prefix)[:, None], (nodes, prefix + nodes)


def case(shape, dtype=torch.float32, seed=0):
    """Q, k, v, the gradients of o and lse, and a bias, for (B, H, G, Nq, Nk, D)."""
    batch, heads, groups, queries, keys, width = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*extents):
        return torch.randn(*extents, generator=generator)

    q, grad = (normal(batch, heads, queries, width).to(dtype) for _ in range(2))
    k, v = (normal(batch, groups, keys, width).to(dtype) for _ in range(2))
    return q, k, v, grad, normal(batch, heads, queries), normal(1, heads, keys)


def naive(q, k, v, seen, bias=None, extra=0.0):
    """Attention as its definition says, in the dtype of its arguments: a map per head, hidden pairs at -inf."""
    share = q.shape[1] // max(k.shape[1], 1)
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias[:, :, None].to(q.dtype)
    wide = scores if scores.dtype == torch.float64 else scores.float()
    wide = wide.masked_fill(~torch.as_tensor(seen), -torch.inf)
    most = wide.detach().amax(-1, keepdim=True) if wide.shape[-1] else wide.new_full((*wide.shape[:-1], 1), -torch.inf)
    most = most.clamp(min=0.0) if extra else most.masked_fill(most == -torch.inf, 0.0)
    weight = (wide - most).exp()
    total = weight.sum(-1, keepdim=True) + extra * (-most).exp()
    empty = total == 0
    share_of = weight / total.masked_fill(empty, 1.0)
    lse = (most + total.masked_fill(empty, 1.0).log()).masked_fill(empty, -torch.inf)[..., 0]
    return share_of.to(q.dtype) @ v, lse


def naive_gradients(inputs, grad, grad_lse, seen, bias=None, extra=0.0, dtype=None):
    """Results and gradients by autograd, in `dtype` or in the dtypes of the arguments."""
    leaves = [t.to(dtype or t.dtype, copy=True).requires_grad_() for t in (*inputs, *(() if bias is None else (bias,)))]
    o, lse = (
        naive(*leaves[:3], seen, *leaves[3:], extra=extra) if bias is not None else naive(*leaves, seen, extra=extra)
    )
    value = (o * grad.to(o.dtype)).sum()
    if grad_lse is not None:
        value = value + (lse.masked_fill(lse == -torch.inf, 0.0) * grad_lse.to(lse.dtype)).sum()
    grads = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return (o.detach(), lse.detach()), grads


def magnitudes(inputs, grad, grad_lse, seen, bias, extra):
    """Return the largest sum of absolute values behind each gradient: what roundings are relative to."""
    leaves = [t.double() for t in (*inputs, *(() if bias is None else (bias,)))]
    share = inputs[0].shape[1] // max(inputs[1].shape[1], 1)
    o, lse = naive(*leaves[:3], seen, *leaves[3:], extra=extra)
    q, k, v = leaves[0], *(t.repeat_interleave(share, 1) for t in leaves[1:3])
    scale = q.shape[-1] ** -0.5
    scores = (q @ k.mT) * scale + (0.0 if bias is None else leaves[3][:, :, None])
    p = (scores - lse[..., None]).exp().masked_fill(~torch.as_tensor(seen), 0.0).nan_to_num(0.0)
    grad = grad.double().abs()
    slope = p * (grad @ v.abs().mT + (grad * o.abs()).sum(-1, keepdim=True))
    if grad_lse is not None:
        slope = slope + p * grad_lse.double().abs()[..., None]
    served = 1 if bias is None else slope.shape[0] * slope.shape[1] // (bias.shape[0] * bias.shape[1])
    sums = (scale * slope @ k.abs(), share * scale * slope.mT @ q.abs(), share * p.mT @ grad, served * slope.sum(-2))
    return [t.max().item() if t.numel() else 0.0 for t in sums]
