# SPDX-License-Identifier: Apache-2.0
"""The ops of SpAtten in float64, and how far float32 may be from it."""

import numpy as np

EPS = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float16): 2.0**-11}
TINY = {np.dtype(np.float32): 2.0**-149, np.dtype(np.float16): 2.0**-25}


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def close(got, exact, size, terms):
    """A sum of `terms` float32 products, whose magnitudes add up to `size`, in any order; then rounded to its dtype."""
    bound = (terms + 4) * EPS[np.dtype(np.float32)] * size + EPS[got.dtype] * np.abs(exact) + TINY[got.dtype]
    error = np.abs(got.astype(np.float64) - exact)
    assert (error <= bound).all(), (error - bound).max()


def quantise(x, most):
    """Whole numbers and scales of rows; float32 steps as the op states them."""
    x = x.astype(np.float32)
    size = np.abs(x).max(-1, initial=0.0)
    with np.errstate(all="ignore"):
        scale = np.where(np.isfinite(size), size / np.float32(most), np.float32(np.nan)).astype(np.float32)
        n = np.clip(np.rint(x / scale[..., None]), -most, most)
    return np.where(scale[..., None] > 0, n, 0).astype(np.int64), scale


def planes(n, lsb):
    high = n >> lsb
    low = n - (high << lsb)
    if lsb == 0:
        return high.astype(np.int8), np.zeros((*n.shape[:-1], 0), np.uint8)
    pad = np.concatenate([low, np.zeros((*n.shape[:-1], n.shape[-1] % 2), np.int64)], -1)
    return high.astype(np.int8), (pad[..., ::2] | pad[..., 1::2] << 4).astype(np.uint8)


def kept(prob, keep):
    """True for the `keep` largest of each row: among equals the lowest index, NaN last."""
    wide = prob.astype(np.float64)
    nan = np.isnan(wide)
    order = np.lexsort((np.where(nan, 0.0, -wide), nan), axis=-1)[..., :keep]
    marks = np.zeros(prob.shape, bool)
    np.put_along_axis(marks, order, True, -1)
    return marks


def progressive(q, high, low, scale_k, v, threshold, scale_v=None, lsb=4, scale=None, key_valid=None, causal=False):
    """Out, refetched, and the P of the high planes."""
    heads, queries, width = q.shape[1:]
    groups, keys = high.shape[1:3]
    share = np.arange(heads) // max(heads // max(groups, 1), 1)
    n, scale_q = quantise(q, 32767)
    upper = high.astype(np.float64) * 2.0**lsb
    lower = np.zeros(high.shape)
    if lsb:
        lower[..., ::2] = low & 15
        lower[..., 1::2] = (low >> 4)[..., : width // 2]
    seen = np.ones((q.shape[0], 1, queries, keys), bool)
    if key_valid is not None:
        seen = seen & key_valid.astype(bool)[:, None, None]
    if causal:
        seen = seen & (np.arange(keys) <= np.arange(queries)[:, None] + keys - queries)
    factor = scale_q.astype(np.float64)[..., None] * scale_k.astype(np.float64)[:, share, None]
    factor = factor * (width**-0.5 if scale is None else scale)

    def weights(k):
        logits = np.where(seen, np.einsum("bhid,bhjd->bhij", n.astype(np.float64), k[:, share]) * factor, -np.inf)
        most = logits.max(-1, keepdims=True, initial=-np.inf)
        e = np.where(seen, np.exp(logits - np.where(most == -np.inf, 0, most)), 0)
        total = e.sum(-1, keepdims=True)
        return e / np.where(total == 0, 1, total)

    first = weights(upper)
    most = first.max(-1, initial=0.0)
    refetched = (most > 0) & (most < threshold)
    p = np.where(refetched[..., None], weights(upper + lower), first)
    values = v.astype(np.float64) if scale_v is None else v * scale_v.astype(np.float64)[..., None]
    return (
        np.einsum("bhij,bhjd->bhid", p, np.where(seen.any((1, 2))[:, None, :, None], values, 0)[:, share]),
        refetched,
        first,
    )
