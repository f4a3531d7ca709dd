# SPDX-License-Identifier: Apache-2.0
"""What the tests of nearest codes share: arrays of every dtype, and a ranking of all codes in float64."""

import numpy as np
import pytest

DTYPES = ["float32", "float16", "bfloat16"]
METRICS = ["l2", "cosine", "dot"]
# (books, rows, codes, width); around vectors, tiles of rows and panels of codes.
SIZES = [(1, 1, 1, 1), (2, 1, 2, 3), (2, 5, 7, 15), (1, 13, 16, 16), (1, 12, 17, 33), (2, 16, 31, 8), (1, 17, 33, 4)]
NATIVE_SIZES = [(2, 131, 97, 64), (1, 48, 300, 130), (40, 9, 20, 5), (3, 70, 260, 40), (1, 700, 515, 2)]


def sizes_for(backend):
    return SIZES if backend in ("ref", "simt") else [*SIZES, *NATIVE_SIZES]


def as_dtype(x, dtype):
    """An array of a dtype, and what it holds in float64."""
    if dtype == "bfloat16":
        torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
        y = torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(torch.bfloat16)
        return y, y.double().numpy()
    y = np.asarray(x).astype(dtype)
    return y, y.astype(np.float64)


def on_host(answer):
    return tuple(None if a is None else np.asarray(a) for a in answer)


def nearness(x, c, metric):
    """(Q, N, K) in float64, the larger the nearer; -inf where a vector is not finite."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if metric == "l2":
            s = -((x[:, :, None] - c[:, None]) ** 2).sum(-1)
        else:
            s = (x[:, :, None] * c[:, None]).sum(-1)
        if metric == "cosine":
            norms = np.linalg.norm(x, axis=-1)[:, :, None] * np.linalg.norm(c, axis=-1)[:, None]
            s = np.where(norms == 0, 0, s / norms)
    finite = np.isfinite(x).all(-1)[:, :, None] & np.isfinite(c).all(-1)[:, None]
    return np.where(finite, s, -np.inf)


def ranked(x, c, metric):
    """Indices (Q, N, K), nearest first, and what is reported of them; -1 and NaN where no finite code is left."""
    s = nearness(x, c, metric)
    order = np.argsort(-s, axis=-1, kind="stable")
    value = np.take_along_axis(s, order, -1)
    missing = np.isneginf(value)
    return np.where(missing, -1, order), np.where(missing, np.nan, 0 - value if metric == "l2" else value)


def bound(x, c, metric):
    """What rounding may do to a score: sums of D products in float32 for the product and both norms, (Q, N, 1)."""
    sums = (x.shape[-1] + 8) * 2.0**-24
    if metric == "cosine":
        return np.full((*x.shape[:2], 1), 2 * sums)
    squares = np.square(c).sum(-1).max(-1, initial=0)[:, None]
    return (2 * sums * (np.square(x).sum(-1) + squares))[..., None] + 1e-30


def assert_ranked(index, best, slots, x64, c64, metric):
    """Answers of the ranks `slots` (Q, N, J), up to what rounding does to nearly equal codes."""
    assert (index.dtype, best.dtype) == (np.int64, np.float32)
    s, allowed = nearness(x64, c64, metric), bound(x64, c64, metric)
    wanted = np.take_along_axis(ranked(x64, c64, metric)[1], slots, -1)
    assert (np.abs(best - wanted) <= allowed).all()
    chosen = np.take_along_axis(s, index, -1) * (-1 if metric == "l2" else 1)
    assert (np.abs(chosen - wanted) <= 2 * allowed).all()


def exact_vectors(rng, *shape):
    """Small integers whose norms are powers of two, so that every step is exact and ties abound."""
    width = shape[-1]
    counts = rng.choice([c for c in (0, 1, 4, 16) if c <= width], shape[:-1])
    signs = rng.choice(np.array([-1, 1], np.float32), shape)
    return rng.permuted(np.where(np.arange(width) < counts[..., None], signs, 0), axis=-1).astype(np.float32)


def both(rng, make, size, dtype):
    """Rows and codes of a size: as arrays, and in float64."""
    books, rows, codes, width = size
    x, x64 = as_dtype(make(books, rows, width), dtype)
    c, c64 = as_dtype(make(books, codes, width), dtype)
    return x, c, x64, c64


def with_bad_vectors(rng, backend, bad):
    """Rows and codes of two books; some are not finite, and of the second book all codes but one."""
    rows, codes = (9, 18) if backend in ("ref", "simt") else (150, 290)
    x, c = exact_vectors(rng, 2, rows, 17), exact_vectors(rng, 2, codes, 17)
    x[0, 3, 5] = x[1, 0, 0] = c[0, 0, 16] = c[0, 7, 0] = bad
    c[1] = np.where(np.arange(codes)[:, None] == 17, c[1], bad)
    return x, c
