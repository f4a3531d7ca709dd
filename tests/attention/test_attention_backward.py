# SPDX-License-Identifier: Apache-2.0
"""attention_backward on every backend against torch autograd of the definition in float64."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the oracle is torch autograd")

from backward_cases import DTYPES, case, disc, magnitudes, naive_gradients, policies, tree

import tokernel
from tokernel.kernels.attention import BlockMap, Causal, Dense, Mask, Segments, attention, attention_backward


NAMES = list(policies(np.random.default_rng(0), 1, 1, 3, 3))
# B, H, G, Nq, Nk, D
SMALL = [(2, 2, 1, 2, 3, 4), (1, 3, 1, 17, 16, 17)]
LARGE = [(1, 2, 1, 66, 100, 20)]
SIZES = [(1, 1, 1, 1, 1, 1), (1, 2, 2, 5, 7, 15), (2, 1, 1, 9, 33, 8)]
LARGE_SIZES = [(1, 1, 1, 65, 97, 64), (1, 1, 1, 130, 193, 20), (1, 2, 1, 33, 95, 40), (1, 1, 1, 2100, 70, 4)]
EMPTY = [(0, 2, 2, 3, 4, 5), (1, 0, 0, 3, 4, 5), (2, 2, 1, 0, 4, 5), (2, 2, 1, 3, 0, 5)]


def sizes(backend, small=SMALL, large=LARGE):
    return small if backend == "simt" else small + large


def ours(inputs, grad, grad_lse, policy, bias=None, extra=0.0):
    o, lse = attention(*inputs, policy, key_bias=bias, extra_denominator=extra, return_lse=True)
    return attention_backward(grad, *inputs, o, lse, policy, key_bias=bias, grad_lse=grad_lse)


def unit_of(dtype):
    return torch.finfo(dtype).eps / 2


def largest(x):
    return x.abs().max().item() if x.numel() else 0.0


def check(inputs, grad, grad_lse, policy, seen, bias=None, extra=0.0):
    """Errors against float64: at most twice those of the formula in the same dtype, and a few roundings.

    These are sums of `width` products in float32, relative to what is added up, and the answer in its own dtype.
    """
    got = ours(inputs, grad, grad_lse, policy, bias, extra)
    _, exact = naive_gradients(inputs, grad, grad_lse, seen, bias, extra, torch.float64)
    _, plain = naive_gradients(inputs, grad, grad_lse, seen, bias, extra)
    sums = magnitudes(inputs, grad, grad_lse, seen, bias, extra)
    assert len(got) == len(exact)
    for name, a, b, c, added in zip(("q", "k", "v", "bias"), got, exact, plain, sums, strict=False):
        assert a.shape == b.shape, name
        assert a.dtype == (torch.float32 if name == "bias" else inputs[0].dtype), name
        allowed = 2 * largest(c.double() - b) + 4 * unit_of(inputs[0].dtype) * largest(b)
        allowed += (inputs[0].shape[3] + 16) * 2.0**-24 * added
        assert largest(a.double() - b) <= allowed, f"grad of {name}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_policy_and_dtype(name, dtype, backend, rng):
    for shape in sizes(backend):
        policy, seen = policies(rng, shape[0], shape[1], shape[3], shape[4])[name]
        q, k, v, grad, grad_lse, bias = case(shape, dtype)
        check((q, k, v), grad, grad_lse, policy, seen, bias)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_disc_and_tree(dtype, backend, rng):
    grids = [(1, 1, 1.0, 0, 0), (3, 4, 1.5, 2, 1)] + ([] if backend == "simt" else [(3, 66, 3.2, 5, 3)])
    cases = [disc(*grid) for grid in grids] + [tree(rng, 2, nodes, 3) for nodes in (1, 5)]
    for policy, seen, (queries, keys) in cases + ([] if backend == "simt" else [tree(rng, 2, 66, 31)]):
        q, k, v, grad, grad_lse, bias = case((2, 2, 1, queries, keys, 20), dtype)
        check((q, k, v), grad, grad_lse, policy, seen, bias)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_size(dtype, backend):
    for shape in sizes(backend, SIZES, LARGE_SIZES):
        q, k, v, grad, _, _ = case(shape, dtype)
        check((q, k, v), grad, None, Dense(), np.ones(shape[3:5], bool))


@pytest.mark.parametrize("width", [1, 2, 7, 9, 16, 31, 33, 63, 80, 128, 255, 256])
def test_every_width(width, backend):
    shape = (1, 1, 1, 4, 5, width) if backend == "simt" else (1, 1, 1, 7, 17, width)
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v, grad, grad_lse, _ = case(shape, dtype)
        check((q, k, v), grad, grad_lse, Dense(), np.ones(shape[3:5], bool))


@pytest.mark.parametrize("bias_shape", [(1, 1), (1, 4), (3, 1), (3, 4)], ids=str)
def test_the_bias_gets_sums_over_what_it_serves(bias_shape, backend):
    shape = (3, 4, 2, 5, 9, 8)
    q, k, v, grad, grad_lse, _ = case(shape)
    bias = torch.randn(*bias_shape, 9, generator=torch.Generator().manual_seed(3))
    check((q, k, v), grad, grad_lse, Causal(), np.tri(5, 9, 4, dtype=bool), bias)


@pytest.mark.parametrize("extra", [1.0, 0.25])
def test_extra_denominator(extra, backend, rng):
    shape = (1, 2, 1, 9, 7, 8)
    policy, seen = policies(rng, 1, 2, 9, 7)["mask, causal"]
    q, k, v, grad, grad_lse, bias = case(shape)
    check((q, k, v), grad, grad_lse, policy, seen, bias, extra)


@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_empty_extents(shape, backend):
    q, k, v, grad, grad_lse, bias = case(shape)
    got = ours((q, k, v), grad, grad_lse, Dense(), bias)
    assert [g.shape for g in got] == [t.shape for t in (q, k, v, bias)]
    assert all((g == 0).all() for g in got)


def test_queries_without_keys_contribute_nothing(backend):
    """Their gradients are zeros, whatever the gradient of their lse of -inf says."""
    q, k, v, grad, grad_lse, _ = case((1, 2, 1, 6, 5, 4))
    mask = torch.rand(1, 2, 6, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[:, :, 2] = False
    with_numbers = ours((q, k, v), grad, grad_lse.clone(), Mask(mask))
    grad_lse[:, :, 2] = torch.nan
    got = ours((q, k, v), grad, grad_lse, Mask(mask))
    assert (got[0][:, :, 2] == 0).all()
    for a, b in zip(got, with_numbers, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_bias_of_minus_infinity_hides(backend):
    q, k, v, grad, grad_lse, bias = case((1, 2, 1, 6, 9, 4))
    bias[:, :, 3] = -torch.inf
    k[:, :, 3] = torch.nan
    v[:, :, 3] = torch.inf
    got = ours((q, k, v), grad, grad_lse, Dense(), bias)
    kept = [0, 1, 2, 4, 5, 6, 7, 8]
    small = ours((q, k[:, :, kept], v[:, :, kept]), grad, grad_lse, Dense(), bias[:, :, kept].contiguous())
    torch.testing.assert_close(got[0], small[0], rtol=1e-5, atol=1e-6)
    for a, b in zip(got[1:], small[1:], strict=True):
        torch.testing.assert_close(a[:, :, kept], b, rtol=1e-5, atol=1e-6)
        assert (a[:, :, 3] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["q", "k", "v", "grad"])
@pytest.mark.parametrize("name", ["block map", "segments, causal", "mask", "causal"])
def test_what_is_hidden_is_never_read(name, where, poison, dtype, backend, rng):
    """A poisoned row changes the gradients of the pairs that it is part of, and not a bit beyond them."""
    shape = (2, 2, 1, 11, 13, 6)
    policy, seen = policies(rng, 2, 2, 11, 13)[name]
    seen = torch.from_numpy(seen).expand(2, 2, 11, 13)
    arrays = dict(zip(("q", "k", "v", "grad"), case(shape, dtype)[:4], strict=True))

    def gradients(**changed):
        q, k, v, grad = {**arrays, **changed}.values()
        return ours((q, k, v), grad, None, policy)

    clean = gradients()
    row = 4
    poisoned = arrays[where].clone()
    poisoned[1, :, row, 2] = poison
    got = gradients(**{where: poisoned})
    pairs = torch.zeros_like(seen)
    if where in ("q", "grad"):
        pairs[1, :, row] = seen[1, :, row]
    else:
        pairs[1] = (
            seen[1] & seen[1, :, :, row : row + 1]
        )  # through the softmax: every pair of a query that sees the key
    queries, keys = pairs.any(3), pairs.any(2).any(1, keepdim=True)
    if where in ("q", "grad"):
        queries[1, :, row] = True
    for a, b, touched in zip(got, clean, (queries, keys, keys), strict=True):
        bound = 64 * unit_of(dtype) * largest(b)  # another path of the kernel, which rounds elsewhere
        torch.testing.assert_close(a[~touched], b[~touched], rtol=0, atol=bound)
    if where == "q" and pairs.any():
        assert got[0][1][queries[1] & seen[1].any(-1)].isnan().all()


def test_strided_inputs(backend):
    shape = (2, 4, 2, 7, 9, 5)
    q, k, v, grad, grad_lse, _ = case(shape)
    expected = ours((q, k, v), grad, grad_lse, Causal())

    def spread(t):
        """Heads inside tokens, with a gap behind every row: the layout of a fused projection."""
        wide = torch.full((t.shape[0], t.shape[2], t.shape[1], t.shape[3] + 3), 7.0)
        view = wide.transpose(1, 2)[..., 1 : 1 + t.shape[3]]
        view.copy_(t)
        return view

    o, lse = attention(q, k, v, Causal(), return_lse=True)
    got = attention_backward(
        spread(grad), spread(q), spread(k), spread(v), spread(o), lse.mT.contiguous().mT, Causal(), grad_lse=grad_lse
    )
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_logits_of_ten_thousand(backend):
    q, k, v, grad, _, _ = case((1, 1, 1, 5, 6, 4))
    q = q * 1e4
    got = ours((q, k, v), grad, None, Dense())
    assert all(g.isfinite().all() for g in got)
    _, exact = naive_gradients((q, k, v), grad, None, np.ones((5, 6), bool), dtype=torch.float64)
    # A float32 logit of 1e4 is known to 1e-3, and so is its weight.
    torch.testing.assert_close(got[2].double(), exact[2], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("shape", [(1, 1, 1, 300, 150, 20), (2, 8, 4, 130, 70, 16), (1, 12, 12, 70, 33, 8)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_threads_change_no_bit(shape, dtype, backend, rng):
    if backend == "simt":
        shape = (1, 2, 1, 9, 7, 4)
    q, k, v, grad, grad_lse, bias = case(shape, dtype)
    for name in ("dense", "block map", "segments"):
        policy, _ = policies(rng, shape[0], shape[1], shape[3], shape[4])[name]
        answers = []
        for threads in (1, 2, 3):
            tokernel.set_num_threads(threads)
            answers.append(ours((q, k, v), grad, grad_lse, policy, bias))
        tokernel.set_num_threads(0)
        for other in answers[1:]:
            assert all(torch.equal(a, b) for a, b in zip(answers[0], other, strict=True))


def test_thousands_of_short_segments(backend):
    lengths = np.arange(200 if backend != "simt" else 12) % 5
    cu = np.concatenate([[0], np.cumsum(lengths)])
    q, k, v, grad, grad_lse, _ = case((1, 2, 2, int(cu[-1]), int(cu[-1]), 8))
    owner = np.repeat(np.arange(len(lengths)), lengths)
    check((q, k, v), grad, grad_lse, Segments(torch.from_numpy(cu)), owner[:, None] == owner)


def test_a_broken_forward_is_no_input():
    q, k, v, grad, _, _ = case((1, 2, 1, 3, 4, 5))
    o, lse = attention(q, k, v, return_lse=True)
    arguments = {"grad": grad, "q": q, "k": k, "v": v, "o": o, "lse": lse}
    for name, bad, error, message in [
        ("lse", lse[:, :1], ValueError, "lse must be .* got"),
        ("lse", lse.double(), TypeError, "lse must be float32, got float64"),
        ("o", o[:, :, :2], ValueError, "o must be .* got"),
        ("grad", grad.half(), TypeError, "grad must be float32, got float16"),
        ("v", v[..., :3], ValueError, "v must be .* got"),
    ]:
        with pytest.raises(error, match=f"^attention_backward: {message}"):
            attention_backward(**{**arguments, name: bad})
    with pytest.raises(ValueError, match=r"^attention_backward: grad_lse must be"):
        attention_backward(**arguments, grad_lse=lse[0])
    with pytest.raises(ValueError, match=r"^attention_backward: key_bias must be"):
        attention_backward(**arguments, key_bias=torch.zeros(2, 1, 4))
    one = torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"row_sizes must be .*add up to the number of tokens, 3"):
        attention_backward(**arguments, policy=BlockMap(one, torch.tensor([2]), torch.tensor([4])))
