# SPDX-License-Identifier: Apache-2.0
"""head_argmax_prob as a torch op: registration, compilation, dtypes."""

import pytest

torch = pytest.importorskip("torch")

from tokernel import ops


@pytest.fixture
def head():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 24, generator=generator), torch.randn(40, 24, generator=generator), torch.rand(24) + 0.5


def test_opcheck(head):
    h, W, weight = head
    torch.library.opcheck(torch.ops.tokernel.head_argmax_prob.default, (h, W, weight, 1e-5))
    torch.library.opcheck(torch.ops.tokernel.head_argmax_prob.default, (h, W, None, 1e-6))


def test_equals_torch(head):
    h, W, weight = head
    normed = weight * (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-5))
    want = (normed @ W.T).softmax(-1).max(-1)
    choice = ops.head_argmax_prob(h, W, weight, 1e-5)
    assert torch.equal(choice.id, want.indices)
    torch.testing.assert_close(choice.prob, want.values)


def test_has_no_gradient(head):
    h, W, _ = head
    choice = ops.head_argmax_prob(h.requires_grad_(), W)
    assert not choice.prob.requires_grad


def test_compiles_whole(head):
    h, W, weight = head

    def step(h):
        choice = ops.head_argmax_prob(2 * h, W, weight)
        return choice.id + 1, choice.prob * 2

    torch._dynamo.reset()
    for got, want in zip(torch.compile(step, backend="aot_eager", fullgraph=True)(h), step(h), strict=True):
        torch.testing.assert_close(got, want)
