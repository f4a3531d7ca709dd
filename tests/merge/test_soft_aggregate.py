# SPDX-License-Identifier: Apache-2.0
"""soft_aggregate on every backend, forward and backward, against torch autograd of the formula in float64."""

import functools
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the oracle is torch autograd")

from bits import on_one_and_two_threads
from row_cases import DTYPES

import tokernel
from tokernel.kernels import merge

SMALL = [
    # B, N, M, C
    (1, 1, 1, 1),
    (2, 5, 3, 7),
    (1, 16, 6, 8),
    (2, 3, 17, 15),
    (1, 25, 7, 17),
    (1, 33, 2, 33),
]
LARGE = [(1, 97, 25, 65), (2, 100, 49, 130), (1, 197, 13, 64), (1, 24, 97, 31)]
PAIRED = [(1, 1, 1, 1), (2, 1, 3, 5), (1, 2, 7, 16), (1, 3, 17, 31), (2, 33, 2, 33), (1, 95, 50, 63), (1, 99, 6, 66)]
EMPTY = [(0, 3, 2, 4), (2, 0, 3, 4), (2, 3, 0, 4), (2, 3, 2, 0)]


def case(shape, dtype=torch.float32, logits_dtype=torch.float32, seed=0):
    batch, tokens, targets, width = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*extents):
        return torch.randn(*extents, generator=generator)

    x = normal(batch, tokens, width).to(dtype)
    logits = (3 * normal(batch, targets, tokens)).to(logits_dtype)
    mass = torch.rand(batch, tokens, generator=generator) + 0.5
    grads = normal(batch, targets, width).to(dtype), normal(batch, targets)
    return x, logits, mass, grads


def formula(x, logits, over, mass=None):
    """The definition in the dtypes of its arguments."""
    if over == "tokens":
        return (torch.softmax(logits, -1).to(x.dtype) @ x,)
    moved = torch.softmax(logits, 1)
    if mass is not None:
        moved = moved * mass[:, None]
    total = moved.sum(-1)
    return (moved / total[..., None]).to(x.dtype) @ x, total


def formula_gradients(x, logits, over, mass, grads, dtype=None):
    """Results and gradients by autograd, in `dtype` or in the dtypes of the arguments."""
    leaves = [t.to(dtype or t.dtype, copy=True).requires_grad_() for t in (x, logits, mass) if t is not None]
    results = formula(leaves[0], leaves[1], over, *leaves[2:])
    pairs = zip(results, grads[: len(results)], strict=True)
    loss = sum((result * grad.to(dtype or grad.dtype)).sum() for result, grad in pairs)
    return [r.detach() for r in results], list(torch.autograd.grad(loss, leaves))


def pairs_of(*answers):
    """The results and gradients of several (results, gradients), side by side."""
    return zip(*(itertools.chain(*answer) for answer in answers), strict=True)


def ours(x, logits, over, mass, grads):
    results = merge.soft_aggregate(x, logits, over, mass)
    if over == "tokens":
        return [results], list(merge.soft_aggregate_backward(grads[0], x, logits, results))
    y, mass_out = results
    gradients = merge.soft_aggregate_backward(
        grads[0], x, logits, y, grad_mass_out=grads[1], mass=mass, mass_out=mass_out
    )
    return [y, mass_out], list(gradients[: 2 if mass is None else 3])


def error(value, exact):
    return (value.double() - exact).abs().max().item() if exact.numel() else 0.0


def modes(mass):
    return ("tokens", None), ("targets", None), ("targets", mass)


@functools.cache  # the oracle is slower than what it judges, and the same for every backend
def oracles(shape, dtype, logits_dtype):
    x, logits, mass, grads = case(shape, dtype, logits_dtype)
    return [
        (formula_gradients(x, logits, over, m, grads, torch.float64), formula_gradients(x, logits, over, m, grads))
        for over, m in modes(mass)
    ]


def rounding_of_y(results, mass, grads):
    """How far g . y is off because y was rounded to its dtype, after the factors it meets on its way to a gradient."""
    y, *total = results
    reach = (grads[0].double() * y).abs().sum(-1)
    if total:
        reach = reach / total[0] * (1 if mass is None else mass.max().item())
    return torch.finfo(grads[0].dtype).eps * reach.max().item()


def check(shape, dtype, logits_dtype, *, transposed=False):
    """Within twice the error of the same formula in the working dtypes, plus the roundings of y and of the answer."""
    x, logits, mass, grads = case(shape, dtype, logits_dtype)
    if transposed:
        logits = logits.transpose(1, 2).contiguous().transpose(1, 2)
    for (over, m), (exact, naive) in zip(modes(mass), oracles(shape, dtype, logits_dtype), strict=True):
        mine = ours(x, logits, over, m, grads)
        for k, (value, right, plain) in enumerate(pairs_of(mine, exact, naive)):
            scale = right.abs().max().item()
            bound = 2 * error(plain, right) + torch.finfo(value.dtype).eps * scale + 1e-6 * (scale + 1)
            bound += rounding_of_y(exact[0], m, grads)
            assert error(value, right) <= bound, (over, m is not None, k)


@pytest.mark.parametrize("transposed", [False, True], ids=["row-major", "transposed"])
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_float32(backend, shape, transposed):
    check(shape, torch.float32, torch.float32, transposed=transposed)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("transposed", [False, True], ids=["row-major", "transposed"])
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_float32_around_tile_widths(backend, shape, transposed):
    check(shape, torch.float32, torch.float32, transposed=transposed)


@pytest.mark.parametrize("logits_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 5, 3, 7), (1, 25, 7, 17), (1, 9, 17, 40)], ids=str)
def test_all_dtypes(backend, shape, dtype, logits_dtype):
    check(shape, dtype, logits_dtype)
    check(shape, dtype, logits_dtype, transposed=True)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_half_precision_around_tile_widths(backend, dtype):
    for shape in LARGE[:2]:
        check(shape, dtype, dtype)


@pytest.mark.parametrize("transposed", [False, True], ids=["row-major", "transposed"])
@pytest.mark.parametrize("shape", PAIRED, ids=str)
def test_bfloat16_in_pairs(backend, shape, transposed):
    """Processors that multiply bfloat16 in pairs: odd numbers of tokens and channels leave half a pair."""
    for logits_dtype in (torch.float32, torch.bfloat16):
        check(shape, torch.bfloat16, logits_dtype, transposed=transposed)


def defined(x, logits, over, mass):
    """The formula with zeros where every logit or mass of a sum is nothing."""
    weight = torch.softmax(logits, -1 if over == "tokens" else 1).nan_to_num()
    if over == "tokens":
        return (weight.to(x.dtype) @ x,)
    weight = weight if mass is None else weight * mass[:, None]
    total = weight.sum(-1)
    return (weight / total[..., None]).nan_to_num().to(x.dtype) @ x, total


@pytest.mark.parametrize("transposed", [False, True], ids=["row-major", "transposed"])
@pytest.mark.parametrize("kind", ["large", "minus infinity"])
def test_bfloat16_hostile_logits(backend, kind, transposed):
    x, logits, mass, grads = case((2, 37, 5, 19), torch.bfloat16, torch.bfloat16)
    if kind == "large":
        logits = logits * 2.0**14
    else:
        logits[0, 1, 36] = logits[0, 2, 1::2] = logits[1, :, 5] = logits[1, 3, :] = logits[1, 4, 1:] = -torch.inf
    if transposed:
        logits = logits.transpose(1, 2).contiguous().transpose(1, 2)
    for over, m in modes(mass):
        exact = defined(x.double(), logits.double(), over, None if m is None else m.double())
        naive = defined(x, logits, over, m)
        results, gradients = ours(x, logits, over, m, grads)
        for value, right, plain in zip(results, exact, naive, strict=True):
            scale = right.abs().max().item()
            assert error(value, right) <= 2 * error(plain, right) + (torch.finfo(value.dtype).eps + 1e-6) * scale
        assert all(torch.isfinite(g).all() for g in gradients)
        assert not gradients[1][logits == -torch.inf].any()


@pytest.mark.parametrize("shape", SMALL[1:3], ids=str)
def test_relative_error_in_float32(backend, shape):
    x, logits, mass, grads = case(shape)
    for (over, m), (exact, _) in zip(modes(mass), oracles(shape, torch.float32, torch.float32), strict=True):
        for value, right in pairs_of(ours(x, logits, over, m, grads), exact):
            torch.testing.assert_close(value.double(), right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_empty(backend, shape):
    x, logits, mass, grads = case(shape)
    for over, m in modes(mass):
        results, gradients = ours(x, logits, over, m, grads)
        assert results[0].shape == grads[0].shape
        assert not results[0].any()
        assert [g.shape for g in gradients[:2]] == [x.shape, logits.shape]
        if over == "tokens":
            assert not gradients[1].any()
        if shape[2] == 0:
            assert not gradients[0].any()


def test_huge_logits_do_not_overflow(backend):
    x, logits, mass, grads = case((2, 5, 3, 7))
    logits = logits * 1e4
    for over, m in modes(mass):
        right_results = formula(x.double(), logits.double(), over, m)
        for value, right in zip(ours(x, logits, over, m, grads)[0], right_results, strict=True):
            torch.testing.assert_close(value.double(), right, rtol=1e-5, atol=1e-6)


def test_minus_infinity_has_no_weight(backend):
    x, logits, mass, grads = case((1, 6, 4, 5))
    logits[0, 1, 2] = -torch.inf
    logits[0, :, 4] = -torch.inf
    logits[0, 3, :] = -torch.inf
    y = merge.soft_aggregate(x, logits)
    torch.testing.assert_close(y[0, :3], formula(x, logits, "tokens")[0][0, :3])
    assert not y[0, 3].any()
    y, total = merge.soft_aggregate(x, logits, "targets", mass)
    kept = [0, 1, 2, 3, 5]
    right = formula(x[:, kept], logits[:, :3, kept], "targets", mass[:, kept])
    torch.testing.assert_close(y[:, :3], right[0])
    torch.testing.assert_close(total[:, :3], right[1])
    assert not y[0, 3].any()
    assert total[0, 3] == 0
    for over, m in modes(mass):
        results, gradients = ours(x, logits, over, m, grads)
        assert all(torch.isfinite(t).all() for t in results + gradients)
        assert not gradients[1][logits == -torch.inf].any()


def test_token_without_mass(backend):
    """Mass 0 everywhere: rows of zeros and finite gradients."""
    x, logits, mass, grads = case((1, 4, 3, 5))
    results, gradients = ours(x, logits, "targets", torch.zeros_like(mass), grads)
    assert not results[0].any()
    assert not results[1].any()
    assert all(torch.isfinite(g).all() for g in gradients)


def test_nan_logit_stays_in_its_sum(backend):
    x, logits, _, _ = case((2, 6, 4, 5))
    logits[0, 1, 2] = torch.nan
    y = merge.soft_aggregate(x, logits)
    assert torch.isnan(y[0, 1]).all()
    others = torch.ones(2, 4, dtype=torch.bool)
    others[0, 1] = False
    torch.testing.assert_close(y[others], formula(x, logits, "tokens")[0][others])


def test_strided_views(backend):
    x, logits, mass, grads = case((2, 12, 8, 18))
    views = [
        (x[:, ::2, 1:14], logits[:, ::2, ::2]),
        (x[:, 3:9, ::2], logits[:, 1:5, 5:11]),
        (x[:, :6], logits.transpose(1, 2)[:, :4, :6]),
        (x[:, :1].expand(-1, 6, -1), logits[:, 0, 0][:, None, None].expand(-1, 4, 6)),
    ]
    for part, scores in views:
        grad = grads[0][:, : scores.shape[1], : part.shape[2]], grads[1][:, : scores.shape[1]]
        for over, m in modes(mass[:, ::2]):
            viewed = ours(part, scores, over, m, grad)
            dense = [None if t is None else t.contiguous() for t in (part, scores, m)]
            packed = ours(dense[0], dense[1], over, dense[2], [g.contiguous() for g in grad])
            for a, b in pairs_of(viewed, packed):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_out_and_numpy(backend):
    x, logits, mass, _ = case((2, 5, 3, 7))
    out = torch.full((2, 3, 7), torch.nan)
    assert merge.soft_aggregate(x, logits, out=out) is out
    assert np.array_equal(merge.soft_aggregate(x.numpy(), logits.numpy()), out.numpy())
    y, _ = merge.soft_aggregate(x, logits, "targets", mass, out=out)
    assert y is out


def test_laws(backend):
    """Convex hull, permutation of tokens, conservation of mass and of the mass-weighted sum."""
    x, logits, mass, _ = case((2, 9, 4, 5))
    constant = torch.full_like(x, 2.5)
    torch.testing.assert_close(merge.soft_aggregate(constant, logits), torch.full((2, 4, 5), 2.5))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(merge.soft_aggregate(x[:, order], logits[:, :, order]), merge.soft_aggregate(x, logits))
    y, total = merge.soft_aggregate(x, logits, "targets", mass)
    torch.testing.assert_close(total.sum(1), mass.sum(1))
    torch.testing.assert_close((total[..., None] * y).sum(1), (mass[..., None] * x).sum(1), rtol=1e-5, atol=1e-5)
    cold = merge.soft_aggregate(x, logits * 0)
    torch.testing.assert_close(cold, x.mean(1, keepdim=True).expand_as(cold))
    hot = merge.soft_aggregate(x, logits * 1e6)
    torch.testing.assert_close(hot, merge.gather_rows(x, logits.argmax(-1)))


BAD = {
    "x rank": (lambda x, s, m: (x[0], s), ValueError, r"soft_aggregate: x must be \(B, N, C\), got"),
    "logits": (
        lambda x, s, m: (x, s[:, :, :2]),
        ValueError,
        r"logits must be \(B, M, N\) with B = 2, M = 3, N = 5, got",
    ),
    "logits dtype": (lambda x, s, m: (x, s.double()), TypeError, r"logits must be float32, float16 or bfloat16"),
    "over": (lambda x, s, m: (x, s, "rows"), ValueError, r"over must be 'tokens' or 'targets', got 'rows'"),
    "mass over tokens": (lambda x, s, m: (x, s, "tokens", m), ValueError, "mass must be None where over is 'tokens'"),
    "mass shape": (lambda x, s, m: (x, s, "targets", m[:1]), ValueError, r"mass must be \(B, N\) with B = 2, N = 5"),
    "mass dtype": (lambda x, s, m: (x, s, "targets", m.half()), TypeError, r"mass must be float32, got float16"),
    "no array": (lambda x, s, m: (x, [1.0]), TypeError, "soft_aggregate: logits must be an array"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(backend, name):
    change, kind, message = BAD[name]
    x, logits, mass, _ = case((2, 5, 3, 7))
    with pytest.raises(kind, match=message):
        merge.soft_aggregate(*change(x, logits, mass))


def test_bad_gradient_input(backend):
    x, logits, mass, (grad, _) = case((2, 5, 3, 7))
    y = merge.soft_aggregate(x, logits)
    with pytest.raises(ValueError, match="mass_out must be an array where there is a mass, got None"):
        merge.soft_aggregate_backward(grad, x, logits, y, mass=mass)
    with pytest.raises(TypeError, match="soft_aggregate_backward: x must be float32, got float16"):
        merge.soft_aggregate_backward(grad, x.half(), logits, y)
    with pytest.raises(ValueError, match=r"y must be \(B, M, C\) with B = 2, M = 3, C = 7"):
        merge.soft_aggregate_backward(grad, x, logits, y[:1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bits_do_not_depend_on_threads(backend, dtype):
    shape = (1, 30, 20, 40) if backend in ("ref", "simt") else (2, 197, 50, 130)
    x, logits, mass, grads = case(shape, dtype)
    runs = on_one_and_two_threads(
        lambda: [t for over, m in modes(mass) for part in ours(x, logits, over, m, grads) for t in part]
    )
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_official_token_slimming_module(backend, golden):
    """SiT's TokenSlimmingModule, composed here: LayerNorm, two linear maps, softmax over the tokens, weighted sum."""
    v = {name: torch.from_numpy(a) if a.ndim else a for name, a in np.load(golden / "self_slimmed_vit/tsm.npz").items()}
    x = v["x"].requires_grad_()
    hidden = torch.nn.functional.layer_norm(x, x.shape[-1:], v["w.weight.0.weight"], v["w.weight.0.bias"], 1e-5)
    hidden = torch.nn.functional.gelu(hidden @ v["w.weight.1.weight"].T + v["w.weight.1.bias"])
    scores = hidden @ v["w.weight.3.weight"].T + v["w.weight.3.bias"]
    logits = (scores * v["w.scale"]).transpose(1, 2)
    y = merge.soft_aggregate(x.detach(), logits.detach())
    torch.testing.assert_close(y, v["y"], rtol=1e-5, atol=1e-6)
    identity = torch.eye(16).expand(2, -1, -1)
    torch.testing.assert_close(merge.soft_aggregate(identity, logits.detach()), v["assign"], rtol=1e-5, atol=1e-6)
    direct, through = merge.soft_aggregate_backward(v["grad_out"], x.detach(), logits.detach(), y)
    (rest,) = torch.autograd.grad(logits, x, through)
    torch.testing.assert_close(direct + rest, v["grad_x"], rtol=1e-4, atol=1e-5)
