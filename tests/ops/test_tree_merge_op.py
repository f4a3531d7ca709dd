# SPDX-License-Identifier: Apache-2.0
"""merge_attention as a torch op: registration, gradients, compilation, and what attention makes of it."""

import pytest

torch = pytest.importorskip("torch")

from tokernel import ops


@pytest.fixture
def parts():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 1, 2, 5, 8, generator=generator), torch.randn(3, 1, 2, 5, generator=generator)


def by_torch(outs, lses):
    return (lses.softmax(0)[..., None] * outs).sum(0), lses.logsumexp(0)


def test_opcheck(parts):
    torch.library.opcheck(torch.ops.tokernel.merge_attention.default, tuple(x.requires_grad_() for x in parts))


def test_equals_torch_and_its_gradients(parts):
    leaves = [x.clone().requires_grad_() for x in parts]
    twins = [x.double().requires_grad_() for x in parts]
    for ours, theirs in zip(ops.merge_attention(*leaves), by_torch(*twins), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
        weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
        got = torch.autograd.grad((ours * weight).sum(), leaves, retain_graph=True)
        want = torch.autograd.grad((theirs * weight).sum(), twins, retain_graph=True, allow_unused=True)
        for mine, other in zip(got, want, strict=True):
            expected = torch.zeros_like(mine).double() if other is None else other
            torch.testing.assert_close(mine.double(), expected, rtol=1e-4, atol=1e-6)


def test_gradient_passes_by_a_part_without_keys(parts):
    outs, lses = (x.clone() for x in parts)
    outs[1], lses[1] = torch.nan, -torch.inf
    leaves = [outs.requires_grad_(), lses.requires_grad_()]
    o, lse = ops.merge_attention(*leaves)
    grads = torch.autograd.grad(o.sum() + lse.sum(), leaves)
    assert all(bool(g.isfinite().all()) and not g[1].any() for g in grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_halves_of_the_keys_are_the_joint_softmax(dtype):
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, h, n, 32, generator=generator).to(dtype) for h, n in ((4, 7), (2, 40), (2, 40)))
    whole, whole_lse = ops.attention(q, k, v, return_lse=True)
    halves = [ops.attention(q, k[:, :, s], v[:, :, s], return_lse=True) for s in (slice(0, 13), slice(13, 40))]
    o, lse = ops.merge_attention(*(torch.stack(x) for x in zip(*halves, strict=True)))
    unit = 1e-5 if dtype == torch.float32 else 2**-6
    torch.testing.assert_close(o.float(), whole.float(), rtol=unit, atol=unit)
    torch.testing.assert_close(lse, whole_lse, rtol=1e-5, atol=1e-5)


def test_halves_have_the_gradients_of_the_joint_softmax():
    generator = torch.Generator().manual_seed(3)
    leaves = [torch.randn(1, 2, n, 16, generator=generator).requires_grad_() for n in (5, 20, 20)]

    def merged(q, k, v):
        halves = [ops.attention(q, k[:, :, s], v[:, :, s], return_lse=True) for s in (slice(0, 9), slice(9, 20))]
        return ops.merge_attention(*(torch.stack(x) for x in zip(*halves, strict=True)))[0]

    got = torch.autograd.grad(merged(*leaves).pow(2).sum(), leaves)
    want = torch.autograd.grad(ops.attention(*leaves).pow(2).sum(), leaves)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_compiles_whole(parts):
    def step(outs, lses):
        o, lse = ops.merge_attention(outs, lses)
        return o.sum() + lse.sum()

    torch._dynamo.reset()
    leaves = [x.clone().requires_grad_() for x in parts]
    want = torch.autograd.grad(step(*leaves), leaves)
    got = torch.autograd.grad(torch.compile(step, backend="aot_eager", fullgraph=True)(*leaves), leaves)
    torch.testing.assert_close(got, want)
