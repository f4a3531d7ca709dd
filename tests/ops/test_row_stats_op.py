# SPDX-License-Identifier: Apache-2.0
"""row_stats as a torch op: registration, gradients, transforms, compilation."""

import pytest

torch = pytest.importorskip("torch")

from tokernel import ops


@pytest.fixture
def logits():
    return 2 * torch.randn(3, 40, generator=torch.Generator().manual_seed(0))


IDS = torch.tensor([[1, 39], [0, 0], [5, 7]])


def by_torch(logits, temperature):
    """The same numbers by ops that autograd knows."""
    log_p = (logits / temperature).log_softmax(-1)
    p = log_p.exp()
    best = logits.topk(2).indices
    return p.gather(-1, best), (logits / temperature).logsumexp(-1), -(p * log_p).sum(-1), p.gather(-1, IDS)


def test_opcheck(logits):
    leaf = logits.clone().requires_grad_()
    torch.library.opcheck(torch.ops.tokernel.row_stats.default, (leaf, IDS, 0.7))
    torch.library.opcheck(torch.ops.tokernel.row_stats.default, (leaf, None, 1.0))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_equals_torch_and_its_gradients(logits, temperature):
    leaf = logits.clone().requires_grad_()
    stats = ops.row_stats(leaf, IDS, temperature)
    assert not stats.best.requires_grad
    ours = (stats.p_best, stats.lse, stats.entropy, stats.p_ids)
    twin = logits.double().requires_grad_()
    theirs = by_torch(twin, temperature)
    weights = [torch.randn(x.shape, generator=torch.Generator().manual_seed(i)) for i, x in enumerate(ours)]
    for got, want, weight in zip(ours, theirs, weights, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)
        (grad,) = torch.autograd.grad((got * weight).sum(), leaf, retain_graph=True)
        (expected,) = torch.autograd.grad((want * weight).sum(), twin, retain_graph=True)
        torch.testing.assert_close(grad.double(), expected, rtol=1e-4, atol=1e-6)


def test_gradient_of_all_at_once_and_in_half(logits):
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        leaf = logits.to(dtype).requires_grad_()
        stats = ops.row_stats(leaf, IDS)
        loss = stats.entropy.sum() + stats.lse.sum() + stats.p_ids.sum() + stats.margin.sum()
        (grad,) = torch.autograd.grad(loss, leaf)
        twin = logits.to(dtype).double().requires_grad_()
        p_best, lse, entropy, p_ids = by_torch(twin, 1.0)
        want = entropy.sum() + lse.sum() + p_ids.sum() + (p_best[:, 0] - p_best[:, 1]).sum()
        (expected,) = torch.autograd.grad(want, twin)
        assert grad.dtype == dtype
        torch.testing.assert_close(grad.double(), expected, rtol=tolerance, atol=tolerance)


def test_the_entropy_falls_when_it_is_minimised(logits):
    leaf = logits.clone().requires_grad_()
    before = ops.row_stats(leaf).entropy.sum()
    before.backward()
    assert ops.row_stats(leaf.detach() - 0.1 * leaf.grad).entropy.sum() < before


def test_one_item_a_row_has_no_gradient():
    leaf = torch.randn(2, 1, requires_grad=True)
    stats = ops.row_stats(leaf)
    assert stats.best.tolist() == [[0, -1], [0, -1]]
    (grad,) = torch.autograd.grad(stats.p_best.sum() + stats.entropy.sum(), leaf)
    torch.testing.assert_close(grad, torch.zeros(2, 1), atol=1e-6, rtol=0)


def test_vmap(logits):
    stacked = torch.stack([logits, logits.flip(1)])
    stats = torch.vmap(lambda x: ops.row_stats(x[None], IDS[None]).entropy[0])(stacked)
    torch.testing.assert_close(stats, torch.stack([ops.row_stats(x).entropy for x in stacked]))


def test_compiles_whole(logits):
    def step(x):
        stats = ops.row_stats(x, IDS, 0.5)
        return stats.entropy.sum() + stats.p_argmax.sum(), stats.argmax

    torch._dynamo.reset()
    leaf = logits.clone().requires_grad_()
    want, index = step(leaf)
    (grad,) = torch.autograd.grad(want, leaf)
    got, compiled_index = torch.compile(step, backend="aot_eager", fullgraph=True)(leaf)
    (compiled_grad,) = torch.autograd.grad(got, leaf)
    torch.testing.assert_close(got, want)
    assert torch.equal(compiled_index, index)
    torch.testing.assert_close(compiled_grad, grad)
