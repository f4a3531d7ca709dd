# SPDX-License-Identifier: Apache-2.0
"""Answers large enough to be written past the caches, and rows that end at any byte."""

import numpy as np
import pytest

import tokernel
from tokernel.kernels import merge

LEVELS = [name for name in tokernel.backends()["usable"] if name not in ("ref", "simt", "cuda")]
STREAMED = 16 << 20  # kStreamBytes


@pytest.fixture(params=LEVELS)
def level(request):
    with tokernel.use_backend(request.param):
        yield request.param


def rows_of(width, dtype):
    return -(-STREAMED // (width * np.dtype(dtype).itemsize)) + 3


@pytest.mark.parametrize(("width", "dtype"), [(64, np.float32), (256, np.float16), (63, np.float32)])
def test_large_answers(level, rng, width, dtype):
    rows = rows_of(width, dtype)
    x = rng.standard_normal((1, 50, width)).astype(dtype)
    ids = rng.integers(-1, 50, (1, rows))
    spread = merge.segment_broadcast(x, ids=ids)
    expected = np.where(ids[..., None] < 0, dtype(0), x[0][ids])
    assert np.array_equal(spread, expected)
    assert np.array_equal(merge.gather_rows(x, np.maximum(ids, 0)), x[0][np.maximum(ids, 0)])
    place = np.arange(rows) + (np.arange(rows) > 5)  # segment 6 stays empty, the last one gets two tokens
    place[-1] = rows - 1
    reduced = merge.segment_reduce(spread, ids=place[None], segments=rows, mode="sum")
    assert np.array_equal(reduced[0, place[:-2]], spread[0, :-2])
    assert not reduced[0, 6].any()
    both = spread[0, -2:].astype(np.float32).sum(axis=0).astype(dtype)
    assert np.array_equal(reduced[0, rows - 1], both)
    back = merge.segment_reduce_backward(x, ids=ids, mode="sum")
    assert np.array_equal(back, expected)


@pytest.mark.parametrize("nbytes", [2, 14, 16, 18, 30, 32, 34, 62, 64, 66, 126, 128, 130, 254])
def test_rows_end_at_any_byte(level, rng, nbytes):
    x = rng.standard_normal((1, 5, nbytes // 2)).astype(np.float16)
    index = np.array([[4, 0, 3, 3]])
    assert np.array_equal(merge.gather_rows(x, index), x[:, index[0]])
    assert np.array_equal(merge.gather_rows(x[:, :, 1:], index), x[:, index[0], 1:])
