# SPDX-License-Identifier: Apache-2.0
"""attention as a torch op: registration, gradients in float64, transforms."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from torch._subclasses.fake_tensor import FakeTensorMode

import tokernel
from tokernel import ops
from tokernel.ops._attention_parts import spread_parts

B, H, G, N, D = 2, 4, 2, 6, 3


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def flags(*shape, share=0.6):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(7)) < share


# The policy and the number of its keys, for 6 queries.
POLICIES = {
    "dense": (ops.Dense(), 5),
    "causal": (ops.Causal(), 7),
    "causal without keys at first": (ops.Causal(offset=-2), 6),
    "prefix causal": (ops.PrefixCausal(2, offset=0), 6),
    "block map": (ops.BlockMap(flags(B, H, 3, 2), torch.tensor([1, 0, 5]), torch.tensor([4, 3])), 7),
    "disc": (ops.Disc((2, 2), 1.5, prefix=2, pooled=1), 7),
    "segments": (ops.Segments(torch.tensor([0, 1, 1, 6]), torch.tensor([0, 2, 3, 8]), causal=True), 8),
    "tree": (ops.Tree(flags(B, N, N), prefix=2), 8),
    "mask": (ops.Mask(flags(B, 1, N, 5), causal=True), 5),
}
every_policy = pytest.mark.parametrize("name", POLICIES)


def heads(keys, dtype=torch.float64):
    q, k, v = normal(B, H, N, D), normal(B, G, keys, D, seed=1), normal(B, G, keys, D, seed=2)
    return [t.to(dtype).requires_grad_() for t in (q, k, v)]


@pytest.fixture
def scalar_reference():
    """Backend ref takes float64."""
    with tokernel.use_backend("ref"):
        yield


@every_policy
@pytest.mark.parametrize("extra", [0.0, 1.0])
def test_gradients_in_float64(name, extra, scalar_reference):
    policy, keys = POLICIES[name]
    bias = normal(1, H, keys, seed=3, dtype=torch.float32)

    def attend(q, k, v):
        o, lse = ops.attention(q, k, v, policy, key_bias=bias, extra_denominator=extra, return_lse=True)
        return o, lse.masked_fill(lse == -torch.inf, 0.0)

    assert torch.autograd.gradcheck(attend, heads(keys))


@every_policy
@pytest.mark.parametrize("shape", [(B, H), (1, H), (B, 1), (1, 1)], ids=str)
def test_gradient_of_the_bias(name, shape, scalar_reference):
    """The bias is float32: steps of a power of two are exact in it."""
    policy, keys = POLICIES[name]
    q, k, v = (t.detach() for t in heads(keys))
    bias = (normal(*shape, keys, seed=3) * 8).round() / 8

    def attend(bias):
        return ops.attention(q, k, v, policy, key_bias=bias.float(), extra_denominator=0.5, return_lse=True)

    assert torch.autograd.gradcheck(attend, bias.requires_grad_(), eps=2**-10, rtol=1e-4, atol=1e-5)


def test_only_one_result_needs_a_gradient(scalar_reference):
    policy, keys = POLICIES["causal"]
    for chosen in (0, 1):
        assert torch.autograd.gradcheck(
            lambda *t, chosen=chosen: ops.attention(*t, policy, return_lse=True)[chosen], heads(keys)
        )


def test_without_gradients_there_is_no_lse():
    q, k, v = heads(5, torch.float32)
    arguments = spread_parts("attention", ops.Dense(), q, k)
    op = torch.ops.tokernel.attention.default
    with torch.no_grad():
        out, lse = op(q, k, v, *arguments, None, None, 0.0, False)
    assert lse.shape == (0,)
    with torch.no_grad():
        torch.testing.assert_close(out, ops.attention(q, k, v), rtol=0, atol=0)
    # A gradient that nobody foresaw computes it then.
    out, _ = op(q, k, v, *arguments, None, None, 0.0, False)
    grads = torch.autograd.grad(out.pow(2).sum(), (q, k, v))
    for a, b in zip(grads, torch.autograd.grad(ops.attention(q, k, v).pow(2).sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_second_derivatives_are_refused():
    q, k, v = heads(5, torch.float32)
    (grad,) = torch.autograd.grad(ops.attention(q, k, v).pow(2).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="gradient has no gradient"):
        grad.sum().backward()


def loss(policy, bias=None):
    def value(q, k, v):
        o, lse = ops.attention(q, k, v, policy, key_bias=bias, return_lse=True)
        return o.pow(3).sum() + lse.masked_fill(lse == -torch.inf, 0.0).sum()

    return value


@every_policy
def test_compile_fullgraph(name):
    torch.compiler.reset()
    policy, keys = POLICIES[name]
    function = loss(policy, normal(B, 1, keys, seed=3, dtype=torch.float32))
    grads = []
    for run in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        leaves = heads(keys, torch.float32)
        grads.append(torch.autograd.grad(run(*leaves), leaves))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@every_policy
def test_opcheck(name):
    policy, keys = POLICIES[name]
    q, k, v = heads(keys, torch.float32)
    policy = spread_parts("attention", policy, q, k)
    bias = normal(1, H, keys, seed=3, dtype=torch.float32)
    out, lse = torch.ops.tokernel.attention.default(q, k, v, *policy, bias, None, 0.0, True)
    for with_lse in (False, True):
        arguments = (q, k, v, *policy, bias.clone().requires_grad_(), None, 0.0, with_lse)
        torch.library.opcheck(torch.ops.tokernel.attention.default, arguments)
    q, k, v, out, lse = (t.detach() for t in (q, k, v, out, lse))
    for grad_lse, given in ((None, None), (torch.ones_like(lse), bias)):
        arguments = (torch.ones_like(out), q, k, v, out, lse, grad_lse, *policy, given, None)
        torch.library.opcheck(torch.ops.tokernel.attention_backward.default, arguments)


def test_fake_tensors():
    with FakeTensorMode() as mode:
        q, k, v = (mode.from_tensor(t.detach()).requires_grad_() for t in heads(6, torch.bfloat16))
        bias = torch.zeros(1, H, 6, requires_grad=True)
        o, lse = ops.attention(q, k, v, ops.Causal(), key_bias=bias, return_lse=True)
        assert (o.shape, o.dtype, lse.shape, lse.dtype) == (q.shape, torch.bfloat16, (B, H, N), torch.float32)
        (o.float().sum() + lse.sum()).backward()
        assert [t.grad.shape for t in (q, k, v, bias)] == [t.shape for t in (q, k, v, bias)]
        assert [t.grad.dtype for t in (q, k, v, bias)] == [torch.bfloat16] * 3 + [torch.float32]


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap runs sample by sample
def test_function_transforms():
    policy, keys = POLICIES["causal"]
    leaves = heads(keys, torch.float32)
    expected = torch.autograd.grad(loss(policy)(*leaves), leaves)
    inputs = [t.detach() for t in leaves]
    gradient = torch.func.grad(loss(policy), argnums=(0, 1, 2))
    for a, b in zip(gradient(*inputs), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    many = torch.vmap(gradient)(*(torch.stack([t, t]) for t in inputs))
    for a, b in zip(many, expected, strict=True):
        torch.testing.assert_close(a[1], b, rtol=0, atol=0)


def test_autocast_leaves_the_dtypes_alone():
    q, k, v = heads(5, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.attention(q, k, v).dtype == torch.float32
        with pytest.raises(TypeError, match=r"^attention: k must be bfloat16, got float32$"):
            ops.attention(q.bfloat16(), k, v)


def test_inference_mode():
    with torch.inference_mode():
        q, k, v = (t.detach().clone() for t in heads(5, torch.float32))
        assert ops.attention(q, k, v).is_inference()
