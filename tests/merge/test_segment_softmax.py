# SPDX-License-Identifier: Apache-2.0
"""segment_softmax and its backward: every backend against NumPy in float64."""

import numpy as np
import pytest

import tokernel
from segment_cases import cuts, ids_of
from tokernel.kernels import merge

SHAPES = [(1, 1, 1), (2, 5, 3), (1, 17, 1), (2, 33, 4), (1, 16, 1), (3, 15, 20), (1, 70, 2)]


def oracle(scores, ids, segments):
    out = np.zeros(scores.shape)
    for b in range(len(scores)):
        for s in range(segments):
            members = ids[b] == s
            if members.any() and scores[b, members].max() != -np.inf:
                e = np.exp(scores[b, members].astype(float) - scores[b, members].max())
                out[b, members] = e / e.sum()
    return out


def oracle_backward(grad, p, ids, segments):
    grad, p = grad.astype(float), p.astype(float)
    out = np.zeros(grad.shape)
    for b in range(len(grad)):
        for s in range(segments):
            members = ids[b] == s
            out[b, members] = p[b, members] * (grad[b, members] - (p[b, members] * grad[b, members]).sum())
    return out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_close_to_float64(backend, rng, shape, dtype):
    batch, tokens, segments = shape
    scores = (3 * rng.standard_normal((batch, tokens))).astype(dtype)
    scores[rng.random((batch, tokens)) < 0.2] = -np.inf
    offsets = cuts(rng, batch, tokens, segments)
    ids = ids_of(offsets, tokens)
    p = merge.segment_softmax(scores, offsets=offsets)
    assert p.dtype == dtype
    # exp to 2 ulp, the sum, the division and the subtraction, whose error exp turns into a relative one: |x| <= 16.
    unit = np.finfo(np.float32).eps
    np.testing.assert_allclose(
        p, oracle(scores, ids, segments), rtol=(20 + tokens) * unit + np.finfo(dtype).eps, atol=1e-7
    )
    assert (p[scores == -np.inf] == 0).all()
    grad = rng.standard_normal((batch, tokens)).astype(dtype)
    got = merge.segment_softmax_backward(grad, p, offsets=offsets)
    assert got.dtype == dtype
    exact = oracle_backward(grad, p, ids, segments)
    np.testing.assert_allclose(
        got, exact, rtol=np.finfo(dtype).eps, atol=4 * tokens * unit + np.finfo(dtype).smallest_subnormal
    )


@pytest.mark.parametrize("count", [1, 2, 16, 19])
def test_nothing_but_minus_infinity_gives_zeros(backend, count):
    scores = np.full((1, count), -np.inf, np.float32)
    assert not merge.segment_softmax(scores, offsets=np.array([0, count])).any()


@pytest.mark.parametrize("where", [0, 7, 18])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("other", [0.0, -np.inf])
def test_nan_and_infinity_spoil_their_segment_only(backend, where, value, other):
    scores = np.full((1, 22), other, np.float32)
    scores[0, where] = value
    scores[0, 19:] = 0
    got = merge.segment_softmax(scores, offsets=np.array([0, 19, 19, 22]))
    assert np.isnan(got[0, :19][scores[0, :19] != -np.inf]).all()
    np.testing.assert_allclose(got[0, 19:], 1 / 3)


def test_large_scores_do_not_overflow(backend):
    scores = np.array([[1e30, 1e30, -1e30]], np.float32)
    assert merge.segment_softmax(scores, offsets=np.array([0, 3])).tolist() == [[0.5, 0.5, 0.0]]


@pytest.mark.parametrize("shape", [(0, 4, 2), (2, 0, 3), (2, 0, 0)])
def test_nothing(backend, shape):
    batch, tokens, segments = shape
    scores = np.zeros((batch, tokens), np.float32)
    offsets = np.zeros(segments + 1, np.int64)
    offsets[1:] = tokens
    assert merge.segment_softmax(scores, offsets=offsets).shape == (batch, tokens)
    assert merge.segment_softmax_backward(scores, scores, offsets=offsets).shape == (batch, tokens)


def test_forms_views_and_threads(backend, rng):
    scores = rng.standard_normal((3, 24)).astype(np.float32)
    offsets = np.array([0, 5, 5, 12], np.int32)
    whole = merge.segment_softmax(scores[:, 6:18], offsets=offsets)
    assert np.array_equal(whole, merge.segment_softmax(scores[:, 6:18].copy(), offsets=np.tile(offsets, (3, 1))))
    assert np.array_equal(whole[1], merge.segment_softmax(scores[1, 6:18], offsets=offsets))
    strided = merge.segment_softmax(scores[:, ::2], offsets=offsets)
    assert np.array_equal(strided, merge.segment_softmax(scores[:, ::2].copy(), offsets=offsets))
    grad = rng.standard_normal((3, 24)).astype(np.float32)[:, ::2]
    back = merge.segment_softmax_backward(grad, whole, offsets=offsets)
    assert np.array_equal(back[1], merge.segment_softmax_backward(grad[1], whole[1], offsets=offsets))


def test_any_thread_count_gives_the_same_bits(rng):
    scores = rng.standard_normal((16, 3000)).astype(np.float32)
    offsets = cuts(rng, 16, 3000, 40)
    answers = []
    for threads in (1, 2, 0):
        tokernel.set_num_threads(threads)
        answers.append(merge.segment_softmax(scores, offsets=offsets))
    tokernel.set_num_threads(0)
    assert all(np.array_equal(a, answers[0]) for a in answers)


def test_bfloat16(backend):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    scores = torch.randn(2, 40).to(torch.bfloat16)
    offsets = torch.tensor([0, 3, 40])
    wide = merge.segment_softmax(scores.float(), offsets=offsets)
    assert torch.equal(merge.segment_softmax(scores, offsets=offsets), wide.to(torch.bfloat16))


SCORES = np.zeros((2, 4), np.float32)


@pytest.mark.parametrize(
    ("error", "message", "scores", "offsets"),
    [
        (TypeError, "offsets must be an array", SCORES, None),
        (ValueError, "offsets must be equal to the number of tokens at its end", SCORES, np.array([0, 3])),
        (ValueError, r"offsets must be \(B, T\) with B = 2 or \(T,\)", SCORES, np.zeros((3, 2), np.int64)),
        (ValueError, r"scores must be \(B, N\) or \(N,\)", SCORES[..., None], np.array([0, 4])),
        (TypeError, "scores must be float32, float16 or bfloat16, got float64", SCORES.astype(float), np.array([0, 4])),
    ],
)
def test_bad_arguments(error, message, scores, offsets):
    with pytest.raises(error, match=f"segment_softmax: {message}"):
        merge.segment_softmax(scores, offsets=offsets)


def test_backward_checks_both_rows():
    with pytest.raises(ValueError, match=r"segment_softmax_backward: p must be \(B, N\) with B = 2, N = 4"):
        merge.segment_softmax_backward(SCORES, SCORES[:, :3], offsets=np.array([0, 4]))
