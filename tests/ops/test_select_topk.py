# SPDX-License-Identifier: Apache-2.0
"""topk and topk_mask as torch ops: registration, gradients, transforms, compilation."""

import pytest

torch = pytest.importorskip("torch")

from tokernel import ops


@pytest.fixture
def score():
    return torch.randn(3, 17, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mask():
    return torch.rand(3, 17, generator=torch.Generator().manual_seed(1)) < 0.6


def test_opcheck(score, mask):
    leaf = score.clone().requires_grad_()
    for given in (None, mask):
        for in_order in (True, False):
            torch.library.opcheck(torch.ops.tokernel.topk.default, (leaf, 5, in_order, given))
        torch.library.opcheck(torch.ops.tokernel.topk_mask.default, (score, 5, given))


@pytest.mark.parametrize("shape", [(40,), (3, 40), (2, 3, 40), (2, 1, 2, 2, 40)])
def test_equals_torch(shape):
    score = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    value, index = ops.topk(score, 7)
    want_value, want_index = score.topk(7)
    assert torch.equal(value, want_value)
    assert torch.equal(index, want_index)
    marks = ops.topk_mask(score, 7)
    assert torch.equal(marks, torch.zeros_like(score, dtype=torch.bool).scatter(-1, want_index, True))


def test_gradient_goes_to_the_chosen_items(score, mask):
    leaf = score.clone().requires_grad_()
    for in_order in (True, False):
        value, index = ops.topk(leaf, 5, in_order)
        assert not index.requires_grad
        weight = torch.randn(3, 5)
        (grad,) = torch.autograd.grad((value * weight).sum(), leaf)
        assert torch.equal(grad, torch.zeros(3, 17).scatter(-1, index, weight))
    value, index = ops.topk(leaf, 17, mask=mask)
    (grad,) = torch.autograd.grad(value.sum(), leaf)
    assert torch.equal(grad, mask.float())
    assert not ops.topk_mask(leaf, 5).requires_grad


def test_second_gradient(score):
    leaf = score.clone().requires_grad_()
    (grad,) = torch.autograd.grad(ops.topk(leaf, 4)[0].pow(3).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), leaf)
    assert torch.allclose(second, 6 * score * ops.topk_mask(score, 4))


def test_vmap(score, mask):
    stacked, masks = torch.stack([score, score.flip(1)]), torch.stack([mask, mask.flip(1)])
    value, index = torch.vmap(lambda s, m: ops.topk(s, 4, True, m))(stacked, masks)
    for i in range(2):
        want = ops.topk(stacked[i], 4, True, masks[i])
        assert torch.equal(value[i], want[0])
        assert torch.equal(index[i], want[1])
    assert torch.equal(torch.vmap(lambda s: ops.topk_mask(s, 4))(score), ops.topk_mask(score, 4))
    per_sample = torch.func.vmap(torch.func.grad(lambda s: ops.topk(s, 4)[0].sum()))(score)
    assert torch.equal(per_sample, ops.topk_mask(score, 4).float())


def test_compiles_whole(score, mask):
    def step(s, m):
        value, index = ops.topk(s[None], 6, mask=m[None])
        return value.square().sum(), index, ops.topk_mask(s, 6, m)

    want = step(score, mask)
    torch._dynamo.reset()
    leaf = score.clone().requires_grad_()
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(leaf, mask)
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w)
    got[0].backward()
    assert leaf.grad is not None


def test_errors_pass_through():
    with pytest.raises(ValueError, match=r"^topk: k must be in \[0, 4\], got 5$"):
        ops.topk(torch.zeros(2, 4), 5)
    with pytest.raises(ValueError, match=r"^topk: mask must be .*, got "):
        ops.topk(torch.zeros(2, 2, 4), 2, mask=torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"^topk_mask: score must be .*, got "):
        ops.topk_mask(torch.tensor(1.0), 0)


def test_topp_mask(score):
    prob, size = score.softmax(-1), torch.randint(1, 4, (3, 17)).float()
    for weight in (None, size):
        torch.library.opcheck(torch.ops.tokernel.topp_mask.default, (prob, 0.7, 1, weight))
    marks = ops.topp_mask(prob, 0.7)
    assert torch.equal(torch.vmap(lambda s: ops.topp_mask(s, 0.7))(prob), marks)
    assert torch.equal(ops.topp_mask(prob[None, :, None], 0.7)[0, :, 0], marks)
    torch._dynamo.reset()
    compiled = torch.compile(lambda s, w: ops.topp_mask(s, 0.5, 2, w), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(prob, size), ops.topp_mask(prob, 0.5, 2, size))
    assert not ops.topp_mask(prob.requires_grad_(), 0.7).requires_grad
