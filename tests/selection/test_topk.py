# SPDX-License-Identifier: Apache-2.0
"""topk and topk_mask on every backend against a sort in NumPy: order, ties, NaN, masks, strides, threads."""

import numpy as np
import pytest

import tokernel
from tokernel.kernels import select

# R, N; around the widths of a vector, a warp and a block
SHAPES = [(1, 1), (2, 2), (3, 7), (1, 15), (2, 16), (2, 17), (1, 31), (3, 33), (2, 65), (1, 130), (2, 257), (1, 1025)]
SPECIAL = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, 3.4e38], np.float32)


def oracle(score, k, sorted=True, mask=None):
    """Sort by group (number, NaN, masked), then descending score, then index."""
    wide = score.astype(np.float64)
    admissible = np.ones(score.shape, bool) if mask is None else mask.astype(bool)
    group = np.where(admissible, np.isnan(wide), 2)
    position = np.broadcast_to(np.arange(score.shape[-1]), score.shape)
    index = np.lexsort((position, np.where(group == 0, -wide, 0.0), group), axis=-1)[..., :k]
    if not sorted:
        index = np.sort(index, axis=-1)
    value = np.take_along_axis(score, index, -1)
    value[~np.take_along_axis(admissible, index, -1)] = -np.inf
    marks = np.zeros(score.shape, bool)
    np.put_along_axis(marks, index, True, -1)
    return value, index, marks


def check(score, k, mask=None):
    for in_order in (True, False):
        value, index = select.topk(score, k, in_order, mask)
        want_value, want_index, want_marks = oracle(score, k, in_order, mask)
        assert index.dtype == np.int64
        assert value.dtype == score.dtype
        np.testing.assert_array_equal(index, want_index)
        assert value.tobytes() == want_value.tobytes()
    marks = select.topk_mask(score, k, mask)
    assert marks.dtype == bool
    np.testing.assert_array_equal(marks, want_marks)


def counts(n):
    return sorted({0, 1, n // 2, max(n - 1, 0), n})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_sort(backend, shape, rng):
    score = rng.standard_normal(shape).astype(np.float32)
    for k in counts(shape[1]):
        check(score, k)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(3, 19), (2, 200)], ids=str)
def test_ties_and_specials(backend, shape, dtype, rng):
    few = rng.integers(-2, 3, shape).astype(dtype)
    with np.errstate(over="ignore"):
        special = rng.choice(SPECIAL, shape).astype(dtype)
    for score in (few, special, np.zeros(shape, dtype), np.where(few > 0, dtype(0), dtype(-0.0))):
        for k in counts(shape[1]):
            check(score, k)


def test_bfloat16(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    score = torch.from_numpy(rng.choice(SPECIAL, (2, 70))).bfloat16()
    score[0, :40] = torch.from_numpy(rng.standard_normal(40)).bfloat16()
    for in_order in (True, False):
        value, index = select.topk(score, 33, in_order)
        want_value, want_index, _ = oracle(score.float().numpy(), 33, in_order)
        assert value.dtype == torch.bfloat16
        np.testing.assert_array_equal(index.numpy(), want_index)
        np.testing.assert_array_equal(value.float().numpy(), want_value)


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_masks(backend, dtype, rng):
    score = rng.choice(SPECIAL, (4, 83))
    mask = (rng.random(score.shape) < 0.4).astype(dtype)
    mask[1] = 0
    mask[2] = 1
    for k in (1, 20, 60, 83):
        check(score, k, mask)


def test_all_masked_are_chosen_by_index(backend):
    score = np.array([3.0, np.nan, 5.0], np.float32)
    value, index = select.topk(score, 2, mask=np.zeros(3, bool))
    np.testing.assert_array_equal(index, [0, 1])
    np.testing.assert_array_equal(value, [-np.inf, -np.inf])


def test_nan_never_wins_against_a_number(backend):
    score = np.array([np.nan, -np.inf, np.nan, 1.0], np.float32)
    np.testing.assert_array_equal(select.topk(score, 3)[1], [3, 1, 0])


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0), (2, 0, 4), (2, 3, 0)], ids=str)
def test_empty(backend, shape):
    check(np.zeros(shape, np.float32), 0)
    if shape[-1]:
        check(np.zeros(shape, np.float32), 2)


def test_sorted_and_reversed_rows(backend):
    row = np.arange(300, dtype=np.float32)
    for score in (row, row[::-1].copy(), -row, np.repeat(row, 2)):
        for k in (1, 3, 25, 299):
            check(score, k)


def test_outer_dimensions_and_strided_views(backend, rng):
    score = rng.integers(-20, 20, (2, 3, 4, 40)).astype(np.float32)
    mask = rng.random(score.shape) < 0.7
    for view in (
        score,
        score.transpose(2, 0, 1, 3),
        score[1, ::2],
        score[0, 0, 0],
        score[:, :, 1:3, 5:],
        score[:, 1, :, ::3],
        score[0, ..., ::-1],
        np.broadcast_to(score[0, 0, :1], (3, 40)),
    ):
        check(view, 9)
    check(score.transpose(2, 0, 1, 3), 9, mask.transpose(2, 0, 1, 3))
    check(score[1, ::2], 9, mask[1, ::2])


def test_a_sample_that_misleads(backend, rng):
    """Items at regular distances are unlike the rest of the row."""
    score = rng.standard_normal((1, 4096)).astype(np.float32)
    for offset in (50, -50, 0):
        score[:, ::16] = offset + rng.standard_normal(256)
        for k in (1, 256, 257, 2000, 4000):
            check(score, k)


def test_more_pairs_than_shared_memory_holds(backend, rng):
    """The device then sorts in its workspace."""
    check(rng.integers(-3000, 3000, (1, 8300)).astype(np.float32), 8200)


@pytest.mark.parametrize("width", [8192, 8193, 8200, 30000])
def test_few_wide_rows(backend, width, rng):
    """On a device chunks of 8192 items choose first; the last chunk may have fewer items than are asked for."""
    if backend == "simt" and width > 10000:
        width = 16385
    score = rng.integers(-40, 41, (2, width)).astype(np.float32)
    score[1, 5::7] = np.nan
    score[1, -1] = 99
    mask = rng.random((2, width)) < 0.3
    for k in (1, 20) if backend == "simt" else (1, 20, 1000, 2100):
        check(score, k)
        check(score, k, mask)
    mask[:, 8:] = False
    check(score, 20, mask)


@pytest.mark.parametrize("kind", ["normal", "ties", "equal", "narrow"])
def test_rows_of_several_parts_and_threads(backend, kind, rng):
    """Rows longer than what one thread counts alone; the same bits for any number of threads."""
    n = 700 if backend == "simt" else 70001
    score = {
        "normal": rng.standard_normal((2, n)),
        "ties": rng.integers(-3, 4, (2, n)),
        "equal": np.ones((2, n)),
        "narrow": 1 + 1e-6 * rng.random((2, n)),
    }[kind].astype(np.float32)
    mask = rng.random((2, n)) < 0.9
    try:
        for threads in (1, 2):
            tokernel.set_num_threads(threads)
            for k in (1, 300, n // 2, n - 1):
                check(score, k)
            check(score, n // 3, mask)
            check(np.repeat(score[:, :200], 20, axis=0), 37)
    finally:
        tokernel.set_num_threads(0)


def test_out(backend, rng):
    score = rng.standard_normal((2, 9)).astype(np.float32)
    out = np.full((2, 4), 7, np.float32), np.full((2, 4), 7)
    value, index = select.topk(score, 4, out=out)
    assert value is out[0]
    assert index is out[1]
    np.testing.assert_array_equal(index, oracle(score, 4)[1])
    marks = np.ones((2, 9), bool)
    assert select.topk_mask(score, 0, out=marks) is marks
    assert not marks.any()


@pytest.mark.parametrize("op", [select.topk, select.topk_mask])
@pytest.mark.parametrize("k", [-1, 5])
def test_k_out_of_range(op, k):
    rule = r"in \[0, 4\]" if k > 0 else ".*"
    with pytest.raises(ValueError, match=rf"^{op.__name__}: k must be {rule}, got {k}$"):
        op(np.zeros((2, 4), np.float32), k)
