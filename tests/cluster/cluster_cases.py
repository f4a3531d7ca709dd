# SPDX-License-Identifier: Apache-2.0
"""What the tests of k-means share: arrays of every dtype, and oracles in float64."""

import numpy as np
import pytest

DTYPES = ["float32", "float16", "bfloat16"]
METRICS = ["l2", "cosine"]


def as_dtype(x, dtype):
    """An array of a dtype, and what it holds in float64."""
    if dtype == "bfloat16":
        torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
        y = torch.from_numpy(np.ascontiguousarray(x)).to(torch.bfloat16)
        return y, y.double().numpy()
    y = x.astype(dtype)
    return y, y.astype(np.float64)


def to_float64(x):
    """Any array, as float64 on the host."""
    return x.double().numpy() if hasattr(x, "double") else np.asarray(x, np.float64)


def scores(x, c, metric):
    """(B, N, K) in float64: squared distances, or cosines (0 for a zero vector); NaN where not finite."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if metric == "l2":
            return ((x[:, :, None] - c[:, None]) ** 2).sum(-1)
        norms = np.linalg.norm(x, axis=-1)[:, :, None] * np.linalg.norm(c, axis=-1)[:, None]
        return np.where(norms == 0, 0, x @ c.swapaxes(1, 2) / norms)


def nearest(x, c, metric):
    """Labels and best in float64; the lowest index of equals; label 0 and NaN without a finite pair."""
    s = scores(x, c, metric)
    finite = np.isfinite(x).all(-1)[:, :, None] & np.isfinite(c).all(-1)[:, None]
    sign = 1 if metric == "l2" else -1
    ranked = np.where(finite, sign * s, np.inf)
    labels = ranked.argmin(-1)
    best = np.take_along_axis(s, labels[..., None], -1)[..., 0]
    return labels, np.where(finite.any(-1), best, np.nan)


def bound(x, c, metric):
    """What rounding may do to a score: sums of D products in float32 for the product and both norms, (B, N)."""
    sums = (x.shape[-1] + 8) * 2.0**-24
    if metric == "cosine":
        return np.full(x.shape[:2], 2 * sums)
    return 2 * sums * (np.square(x).sum(-1) + np.square(c).sum(-1).max(-1, initial=0)[:, None])


def exact_vectors(rng, *shape):
    """Small integers whose norms are powers of two, so that every step is exact and ties abound."""
    width = shape[-1]
    counts = rng.choice([c for c in (0, 1, 4, 16) if c <= width], shape[:-1])
    signs = rng.choice(np.array([-1, 1], np.float32), shape)
    return rng.permuted(np.where(np.arange(width) < counts[..., None], signs, 0), axis=-1).astype(np.float32)
