# SPDX-License-Identifier: Apache-2.0
"""Softmaxes over codes in NumPy, in any precision, with the gradients that follow from the definition."""

from types import SimpleNamespace

import numpy as np

METRICS = ("dot", "l2", "cosine")


def unit(v):
    norm = np.sqrt((v * v).sum(-1, keepdims=True))
    return np.divide(v, norm, out=np.zeros_like(v), where=norm > 0), norm


def scores(x, codes, metric):
    if metric == "cosine":
        x, codes = unit(x)[0], unit(codes)[0]
    s = x @ codes.T
    if metric == "l2":
        s = 2 * s - (x * x).sum(-1)[:, None] - (codes * codes).sum(-1)
    return s


def soft_codes(x, codes, inv_temperature=1.0, metric="dot", weight=None, log_add=0.0, log_floor=0.0, dtype=np.float64):
    """Entropy, mean_prob, lse, and what the gradients need."""
    x, codes = (np.asarray(v).astype(dtype) for v in (x, codes))
    s = scores(x, codes, metric)
    z = s * dtype(inv_temperature)
    top = z.max(-1, keepdims=True)
    lse = top + np.log(np.exp(z - top).sum(-1, keepdims=True))
    log_p = z - lse
    p = np.exp(log_p)
    guarded = np.maximum(p, dtype(log_floor)) + dtype(log_add)
    log_u = np.log(guarded) if log_add or log_floor else log_p
    share = np.ones(len(x), dtype) if weight is None else np.asarray(weight).astype(dtype)
    share = share / share.sum() if share.sum() != 0 else np.zeros_like(share)
    entropy = -(p * log_u).sum(-1)
    return SimpleNamespace(x=x, codes=codes, s=s, p=p, lse=lse[:, 0], entropy=entropy, mean_prob=share @ p,
                           share=share, log_u=log_u, guarded=guarded)  # fmt: skip


def gradients(found, inv_temperature, metric, log_floor, g_entropy, g_mean, g_lse):
    """Of sum(g_entropy * entropy) + sum(g_mean * mean_prob) + sum(g_lse * lse), by x and by codes."""
    p, x, codes = found.p, found.x, found.codes
    used = (p >= log_floor) & (p > 0)
    follows = np.divide(p, found.guarded, out=np.zeros_like(p), where=used)
    w = g_mean * found.share[:, None] - g_entropy[:, None] * (found.log_u + follows)
    g = p * (w - (p * w).sum(-1, keepdims=True) + g_lse[:, None]) * inv_temperature
    if metric == "dot":
        return g @ codes, g.T @ x
    if metric == "l2":
        return 2 * (g @ codes - x * g.sum(1)[:, None]), 2 * (g.T @ x - codes * g.sum(0)[:, None])
    results = []
    for (a, norm), (b, _), way in ((unit(x), unit(codes), g), (unit(codes), unit(x), g.T)):
        along = way @ b
        tangent = along - a * (a * along).sum(-1, keepdims=True)
        results.append(np.divide(tangent, norm, out=np.zeros_like(tangent), where=norm > 0))
    return tuple(results)


def bit_entropy64(x, slope):
    z = np.minimum(np.abs(np.asarray(x).astype(np.float64) * slope), 700)
    power = np.exp(-z)
    return (np.log1p(power) + z * power / (1 + power)).sum(-1)


def sign_codes(bits, scale=1.0, msb=False):
    """All codes of +-scale, (2^bits, bits)."""
    order = np.arange(bits)[::-1] if msb else np.arange(bits)
    return np.where(np.arange(2**bits)[:, None] >> order & 1, scale, -scale).astype(np.float32)


def assert_near(got, want, naive, room=2e-6):
    """At most twice as far from float64 as the plain computation in float32, and some roundings."""
    got, want, naive = (np.asarray(v).astype(np.float64) for v in (got, want, naive))
    assert got.shape == want.shape
    if not want.size:
        return
    error = np.abs(got - want).max()
    bound = 2 * np.abs(naive - want).max() + room * max(1.0, np.abs(want).max())
    assert error <= bound, f"{error} > {bound}"
