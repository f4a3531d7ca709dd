# SPDX-License-Identifier: Apache-2.0
"""masked_transfer on every backend against its rules in NumPy, and what samplers of diffusion models promise."""

import numpy as np
import pytest
from bits import on_one_and_two_threads

from tokernel.kernels import tree


def oracle(confidence, mask, count=None, threshold=None):
    confidence = np.asarray(confidence).astype(np.float64)
    out = np.zeros(mask.shape, bool)
    for b in range(len(mask)):
        masked = np.flatnonzero(mask[b])
        key = np.where(np.isnan(confidence[b, masked]), np.inf, -confidence[b, masked])
        ranked = masked[np.lexsort((masked, np.isnan(confidence[b, masked]), key))]
        for rank, j in enumerate(ranked if count is None else ranked[: count[b]]):
            out[b, j] = threshold is None or rank == 0 or confidence[b, j] >= np.float32(threshold)
    return out


def check(confidence, mask, count=None, threshold=None):
    got = tree.masked_transfer(confidence, mask, count, threshold)
    assert got.dtype == bool
    np.testing.assert_array_equal(got, oracle(confidence, mask, count, threshold))
    return got


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 63, 65, 200, 2050])
def test_equals_the_rules(backend, length, rng):
    for values in (rng.random((4, length)), rng.integers(0, 4, (4, length)) / 4):  # and with many ties
        confidence = values.astype(np.float32)
        mask = rng.random((4, length)) < np.array([[0.6], [1], [0], [0.1]])
        count = rng.integers(0, length + 2, 4)
        check(confidence, mask, count)
        for threshold in (0.5, 0.25, -1.0, 2.0):
            check(confidence, mask, threshold=threshold)
            check(confidence, mask, count, threshold)


def test_long_rows(backend, rng):
    length = 70000 if backend != "simt" else 3000
    confidence = rng.integers(0, 500, (2, length)).astype(np.float32)
    mask = rng.random((2, length)) < 0.5
    check(confidence, mask, np.array([700, 5]), 250.0)
    check(confidence, mask, threshold=498.0)


def test_nan_and_infinities(backend):
    """NaN is ranked after every number and reaches no threshold, yet one position is always fixed."""
    nan, inf = np.nan, np.inf
    confidence = np.array([[nan, -inf, 0.5, nan], [nan, nan, 9, nan], [inf, nan, -inf, inf]], np.float32)
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], bool)
    for count in (None, np.array([3, 1, 4])):
        for threshold in (None, 0.25, -inf, inf):
            if count is not None or threshold is not None:
                check(confidence, mask, count, threshold)
    assert check(confidence, mask, threshold=0.25)[1].tolist() == [True, False, False, False]


def test_fast_dllm_threshold(backend, rng):
    """Written as Fast-dLLM says it: rank all masked, keep the first, drop every other below the threshold."""
    confidence = rng.random((5, 64)).astype(np.float32)
    mask = rng.random((5, 64)) < 0.5
    held = np.where(mask, confidence, -np.inf)
    order = np.argsort(-held, -1, kind="stable")
    for tau in (0.9, 0.5, 1.1, 0.0):
        want = np.zeros_like(mask)
        for b in range(5):
            first, *others = order[b, : mask[b].sum()]
            want[b, [first, *(j for j in others if held[b, j] >= np.float32(tau))]] = True
        np.testing.assert_array_equal(tree.masked_transfer(confidence, mask, threshold=tau), want)


def test_dparallel_entropy(backend, rng):
    """Lowest entropies first, those at most tau fixed: the rule on negatives."""
    entropy = rng.random((3, 40)).astype(np.float32) * 4
    mask = rng.random((3, 40)) < 0.7
    got = tree.masked_transfer(-entropy, mask, threshold=-0.5)
    want = mask & (entropy <= np.float32(0.5))
    want[np.arange(3), np.where(mask, entropy, np.inf).argmin(-1)] = True
    np.testing.assert_array_equal(got, want)


def test_one_token_or_the_whole_block(backend, rng):
    """A threshold above every confidence fixes one position a row, one below all of them fixes all."""
    confidence = rng.random((3, 33)).astype(np.float32)
    mask = rng.random((3, 33)) < 0.5
    assert tree.masked_transfer(confidence, mask, threshold=1.5).sum(-1).tolist() == [1, 1, 1]
    np.testing.assert_array_equal(tree.masked_transfer(confidence, mask, threshold=0.0), mask)
    left = [tree.masked_transfer(confidence, mask, threshold=t).sum() for t in (0.9, 0.6, 0.3)]
    assert left == sorted(left)


def test_a_schedule_fixes_everything_once(backend, rng):
    """LLaDA: M // S and one more in the first M % S steps."""
    mask = rng.random((2, 37)) < 0.8
    total, steps = mask.sum(-1), 5
    fixed = np.zeros(mask.shape, int)
    for i in range(steps):
        got = tree.masked_transfer(rng.random((2, 37), np.float32), mask, total // steps + (i < total % steps))
        assert got.sum(-1).tolist() == (total // steps + (i < total % steps)).tolist()
        fixed += got
        mask &= ~got
    assert not mask.any()
    assert fixed.max() == 1


def test_nothing_to_fix(backend):
    confidence = np.ones((2, 20), np.float32)
    for limits in ({"count": np.zeros(2, int)}, {"threshold": 0.5}):
        mask = np.full((2, 20), "count" in limits)
        assert not tree.masked_transfer(confidence, mask, **limits).any()
    for shape in ((0, 5), (2, 0), (0, 0)):
        empty = np.zeros(shape, np.float32)
        assert tree.masked_transfer(empty, empty > 0, np.ones(shape[0], int), 0.5).shape == shape


def test_dtypes_views_and_out(backend, rng):
    confidence = rng.random((6, 80)).astype(np.float16)
    mask = rng.random((6, 80)) < 0.5
    check(confidence, mask, np.full(6, 9, np.int32), 0.25)
    for view in ((slice(None, None, 2),), (slice(None), slice(3, 70)), (slice(None, None, -1), slice(None, None, 2))):
        check(confidence[view], mask[view], threshold=0.7)
    out = np.ones((6, 80), bool)
    assert tree.masked_transfer(confidence, mask.view(np.uint8), threshold=0.7, out=out) is out
    np.testing.assert_array_equal(out, oracle(confidence, mask, threshold=0.7))


def test_bfloat16(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    confidence = torch.from_numpy(rng.random((2, 50), np.float32)).bfloat16()
    mask = torch.from_numpy(rng.random((2, 50)) < 0.5)
    got = tree.masked_transfer(confidence, mask, torch.tensor([9, 20]), 0.5)
    np.testing.assert_array_equal(got, oracle(confidence.float().numpy(), mask.numpy(), [9, 20], 0.5))


def test_refuses(backend):
    confidence, mask = np.zeros((2, 3), np.float32), np.ones((2, 3), bool)
    with pytest.raises(ValueError, match=r"masked_transfer: count must be given where threshold is not, got neither"):
        tree.masked_transfer(confidence, mask)
    with pytest.raises(ValueError, match=r"masked_transfer: threshold must be .*, got nan"):
        tree.masked_transfer(confidence, mask, threshold=np.nan)
    out = np.ones((2, 3), bool)
    with pytest.raises(ValueError, match=r"masked_transfer: count must be .*, got -1 at flat position 1"):
        tree.masked_transfer(confidence, mask, np.array([1, -1]), out=out)
    assert out.all()


def test_bits_do_not_depend_on_threads(backend, rng):
    length = 70000 if backend != "simt" else 700
    confidence, mask = rng.random((2, length), np.float32), rng.random((2, length)) < 0.5
    one, two = on_one_and_two_threads(lambda: tree.masked_transfer(confidence, mask, np.array([99, 7]), 0.5))
    np.testing.assert_array_equal(one, two)
