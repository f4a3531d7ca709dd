# SPDX-License-Identifier: Apache-2.0
"""head_argmax_prob on every backend against NumPy in float64."""

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels import tree

EPSILON = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float16): 2.0**-11}


def normed64(h, weight, eps):
    """RMSNorm in float64, without the roundings to the dtype of h."""
    h = h.astype(np.float64)
    if weight is None:
        return h
    return h / np.sqrt((h**2).mean(-1, keepdims=True) + eps) * weight.astype(np.float64)


def logits64(h, W, weight=None, eps=1e-6):
    return normed64(h, weight, eps) @ W.astype(np.float64).T


def error_of_a_logit(h, W, weight, eps):
    """D + 8 roundings of float32 in a sum of products, and with a norm two roundings of x to its dtype."""
    sizes = np.abs(normed64(h, weight, eps)) @ np.abs(W.astype(np.float64)).T
    roundings = (h.shape[1] + 8) * 2.0**-24 + (2 * EPSILON[h.dtype] if weight is not None else 0)
    return (sizes * roundings).max(-1)


def softmax64(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def check(h, W, weight=None, eps=1e-6):
    choice = tree.head_argmax_prob(h, W, weight, eps)
    z = logits64(h, W, weight, eps)
    error = error_of_a_logit(h, W, weight, eps)
    rows = np.arange(len(h))
    chosen = z[rows, choice.id]
    assert (chosen >= z.max(-1) - 2 * error).all()  # the best, or one that rounding cannot tell from it
    # p = exp(z_id) / sum exp z changes by a factor exp(2 error) at most; 16 roundings of the exponentials and sums.
    want = softmax64(z)[rows, choice.id]
    assert (np.abs(choice.prob - want) <= want * (np.expm1(2 * error) + 1e-5)).all()
    if W.shape[0] > 1:
        second = np.sort(z, -1)[:, -2]
        clear = z.max(-1) - second > 2 * error
        np.testing.assert_array_equal(choice.id[clear], z.argmax(-1)[clear])
    return choice


def made(rng, rows, vocabulary, width, dtype=np.float32):
    h = rng.standard_normal((rows, width)).astype(dtype)
    W = (rng.standard_normal((vocabulary, width)) * 3 / max(width, 1) ** 0.5).astype(dtype)
    return h, W


# Around the few rows that a kernel treats apart, a vector of rows, two vectors, a device tile.
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 65])
def test_rows(backend, rows, rng):
    check(*made(rng, rows, 70, 20))
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("rows", [1, 3, 8, 12])
@pytest.mark.parametrize("width", [0, 1, 2, 7, 15, 16, 17, 31, 33, 64, 255, 256, 257, 600])
def test_widths(backend, rows, width, rng):
    if backend == "simt":
        width = min(width, 40)
    check(*made(rng, rows, 30, width))


@pytest.mark.parametrize("rows", [1, 2, 4, 7, 20])
@pytest.mark.parametrize("vocabulary", [1, 2, 3, 5, 7, 8, 9, 23, 24, 25, 63, 64, 65, 959, 960, 961, 2000])
def test_vocabularies(backend, rows, vocabulary, rng):
    if backend == "simt":
        vocabulary = min(vocabulary, 200 if rows == 2 else 66)
    check(*made(rng, rows, vocabulary, 12))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("rows", [1, 5, 20])
def test_norm(backend, dtype, rows, rng):
    h, W = made(rng, rows, 100, 40, dtype)
    weight = rng.uniform(0.5, 2, 40).astype(dtype)
    check(4 * h, W, weight, 1e-5)
    check((h / 64).astype(dtype), W, weight, 0.5)  # an eps that matters
    plain = tree.head_argmax_prob(h, W)
    assert not np.array_equal(plain.prob, tree.head_argmax_prob(h, W, weight).prob)


def test_half_precision(backend, rng):
    for rows in (1, 6, 18):
        check(*made(rng, rows, 90, 70, np.float16))


@pytest.mark.parametrize("width", [1, 2, 31, 33, 64, 65, 300])
def test_bfloat16(backend, width, rng):
    """Equal to float64 over the same bfloat16 numbers; the norm is rounded where transformers rounds it."""
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    if backend == "simt":
        width = min(width, 65)
    for rows in (1, 3, 8, 19):
        h, W = (torch.from_numpy(x).bfloat16() for x in made(rng, rows, 70, width))
        weight = torch.from_numpy(rng.uniform(0.5, 2, width).astype(np.float32)).bfloat16()
        unit = (h.double() * torch.rsqrt(h.double().square().mean(-1, keepdim=True) + 1e-6)).float().bfloat16()
        for x, choice in (
            (h, tree.head_argmax_prob(h, W)),
            (weight * unit, tree.head_argmax_prob(h, W, weight)),
        ):
            z = logits64(x.float().numpy(), W.float().numpy())
            # As above; and a sum on the edge of two bfloat16 numbers may make one x differ by 2^-7 of itself.
            sizes = np.abs(x.float().numpy()).astype(np.float64) @ np.abs(W.float().numpy()).T
            error = (sizes * (width + 8) * 2.0**-24).max(-1) + 2.0**-7 * (np.abs(z).max() if x is not h else 0)
            p = softmax64(z)[np.arange(rows), choice.id.numpy()]
            assert (z[np.arange(rows), choice.id.numpy()] >= z.max(-1) - 2 * error).all()
            assert (np.abs(choice.prob.numpy() - p) <= p * (np.expm1(2 * error) + 1e-5)).all()


def test_as_the_head_of_a_llama(backend, rng):
    """The same ids as transformers' norm and head, on rows where its rounded logits do not tie."""
    torch = pytest.importorskip("torch", reason="the model is torch's")
    llama = pytest.importorskip("transformers.models.llama.modeling_llama", reason="transformers is an extra")
    norm = llama.LlamaRMSNorm(48, eps=1e-5)
    with torch.no_grad():
        norm.weight.copy_(torch.from_numpy(rng.uniform(0.5, 2, 48)))
    h, W = (torch.from_numpy(x) for x in made(rng, 9, 200, 48))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        own, head = h.to(dtype), W.to(dtype)
        logits = torch.nn.functional.linear(norm.to(dtype)(own), head).float().detach()
        choice = tree.head_argmax_prob(own, head, norm.weight.detach(), 1e-5)
        top = logits.topk(2).values
        clear = top[:, 0] - top[:, 1] > tolerance
        assert clear.sum() >= 3
        assert torch.equal(choice.id[clear], logits.argmax(-1)[clear])
        torch.testing.assert_close(choice.prob, logits.softmax(-1).amax(-1), rtol=tolerance, atol=0)
        norm.float()


@pytest.mark.parametrize("rows", [1, 4, 17])
def test_equal_rows_go_to_the_lowest_id(backend, rows, rng):
    """Wherever the two are, in one tile, in two, or in two parts: their logits are the same bits."""
    vocabulary = 1500 if backend != "simt" else 150
    h, W = made(rng, rows, vocabulary, 37)
    best = logits64(h, W).argmax(-1)
    for copy in (0, 1, 8, vocabulary // 2, vocabulary - 1):
        for n in range(min(rows, 2)):
            doubled = W.copy()
            doubled[copy] = 2 * W[best[n]]
            doubled[vocabulary - 1 - copy] = 2 * W[best[n]]
            choice = tree.head_argmax_prob(h, doubled)
            if 2 * logits64(h, W)[n, best[n]] > 0:
                assert choice.id[n] == min(copy, vocabulary - 1 - copy)
    same = np.repeat(W[:1], 50, 0)
    choice = tree.head_argmax_prob(h, same)
    assert (choice.id == 0).all()
    np.testing.assert_allclose(choice.prob, 1 / 50, rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 12])
def test_rising_and_large_logits(backend, rows):
    """The shift follows the largest so far; 1e4 and more neither overflow nor vanish."""
    vocabulary = 2000 if backend != "simt" else 200
    h = np.linspace(1, 2, rows, dtype=np.float32)[:, None]
    for W in (np.linspace(-1e4, 1e4, vocabulary), np.linspace(1e4, -1e4, vocabulary), np.linspace(0, 40, vocabulary)):
        check(h, W.astype(np.float32)[:, None])
    far = np.array([[-3e38], [3e38], [3e37]], np.float32)
    choice = tree.head_argmax_prob(np.ones((rows, 1), np.float32), far)
    assert choice.id.tolist() == [1] * rows
    assert choice.prob.tolist() == [1] * rows


@pytest.mark.parametrize("rows", [1, 3, 20])
def test_nan_and_infinity(backend, rows, rng):
    h, W = made(rng, rows, 100, 8)
    want = tree.head_argmax_prob(h, W)
    for bad in (np.nan, np.inf, -np.inf):
        spoiled = h.copy()
        spoiled[-1, 3] = bad  # spoils every logit of its row, no other
        choice = tree.head_argmax_prob(spoiled, W)
        np.testing.assert_array_equal(choice.id[:-1], want.id[:-1])
        np.testing.assert_array_equal(choice.prob[:-1], want.prob[:-1])
        assert np.isnan(choice.prob[-1])
    assert tree.head_argmax_prob(np.full((rows, 8), np.nan, np.float32), W).id.tolist() == [0] * rows
    for where in (0, 50, 99):
        spoiled = W.copy()
        spoiled[where] = np.nan  # one logit of every row
        choice = tree.head_argmax_prob(h, spoiled)
        z = logits64(h, W)
        z[:, where] = -np.inf
        np.testing.assert_array_equal(choice.id, z.argmax(-1))
        assert np.isnan(choice.prob).all()


@pytest.mark.parametrize("rows", [1, 20])
def test_minus_infinity(backend, rows):
    """A head that forbids tokens: their logit is -inf and counts nothing."""
    h = np.ones((rows, 1), np.float32)
    W = np.full((30, 1), -np.inf, np.float32)
    choice = tree.head_argmax_prob(h, W)
    assert (choice.id == 0).all()
    assert np.isnan(choice.prob).all()
    W[[7, 20]] = 1
    choice = tree.head_argmax_prob(h, W)
    assert (choice.id == 7).all()
    assert (choice.prob == 0.5).all()
    W[:] = np.nan
    W[9] = -np.inf  # a number, if the least
    choice = tree.head_argmax_prob(h, W)
    assert (choice.id == 9).all()


def test_strided_views_and_out(backend, rng):
    h, W = made(rng, 20, 80, 33)
    whole = np.ascontiguousarray(np.concatenate([h, h], 1))
    for rows, table in ((h[::2], W), (whole[:, :33], W[::3]), (h[:, ::2], W[:, ::2]), (h[::-1], W[::-1])):
        check(rows, table)
    out = np.zeros(20, np.int64), np.zeros(20, np.float32)
    choice = tree.head_argmax_prob(h, W, out=out)
    assert choice.id is out[0]
    assert choice.prob is out[1]
    np.testing.assert_array_equal(out[0], check(h, W).id)


def test_no_rows(backend):
    choice = tree.head_argmax_prob(np.zeros((0, 4), np.float32), np.zeros((3, 4), np.float32))
    assert choice.id.shape == choice.prob.shape == (0,)


def test_refuses(backend):
    h, W = np.zeros((2, 3), np.float32), np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"head_argmax_prob: W must be of at least one row, got none"):
        tree.head_argmax_prob(h, W[:0])
    for eps in (-1, np.nan, 2):
        with pytest.raises(ValueError, match=r"head_argmax_prob: eps must be in \[0.0, 1.0\], got "):
            tree.head_argmax_prob(h, W, eps=eps)
    with pytest.raises(TypeError, match=r"head_argmax_prob: W must be float32, got float16"):
        tree.head_argmax_prob(h, W.astype(np.float16))
    with pytest.raises(TypeError, match=r"head_argmax_prob: norm_weight must be float32, got float16"):
        tree.head_argmax_prob(h, W, np.ones(3, np.float16))


@pytest.mark.parametrize("rows", [1, 20])
def test_bits_do_not_depend_on_threads(backend, rows, rng):
    h, W = made(rng, rows, 5000 if backend != "simt" else 100, 30)
    for one, two in zip(*on_one_and_two_threads(lambda: tree.head_argmax_prob(h, W)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_official_code_chooses_the_same_tokens(backend, golden):
    """The target tokens of DEL: norm and head over the last layer's states of the generated columns."""
    data = np.load(golden / "del_exit" / "hidden_l6.npz")
    for n, (length, prompt) in enumerate(zip(data["round_len"], data["round_input_len"], strict=True)):
        states = data["hidden"][n, -1, :length]
        choice = check(states, data["lm_head"], data["norm_weight"], float(data["norm_eps"]))
        want = data["target_tokens"][n]
        np.testing.assert_array_equal(choice.id[prompt:], want[want >= 0])
