# SPDX-License-Identifier: Apache-2.0
"""The ops of SpAtten as torch ops: registration, gradients, transforms, compilation."""

import pytest

torch = pytest.importorskip("torch")

from tokernel import ops


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def prob():
    return randn(2, 4, 3, 17).softmax(-1)


@pytest.fixture
def live():
    return torch.tensor([[True, False, True], [True, True, False]])


def registered(name):
    return getattr(torch.ops.tokernel, name).default


def test_opcheck_of_the_scores(prob, live):
    leaf, score = prob.requires_grad_(), randn(2, 17).requires_grad_()
    e, sizes = randn(2, 4, 3, 5).requires_grad_(), randn(2, 4).requires_grad_()
    for valid in (None, live):
        torch.library.opcheck(registered("accumulate_importance"), (leaf, score, valid))
        torch.library.opcheck(registered("accumulate_importance"), (leaf, None, valid))
        torch.library.opcheck(registered("accumulate_head_scores"), (e, sizes, valid))


def test_opcheck_of_the_products(prob):
    v = randn(2, 2, 17, 5).requires_grad_()
    torch.library.opcheck(registered("local_value_attention"), (prob.requires_grad_(), v, 6))
    k = randn(2, 2, 17, 5)
    planes = ops.split_bits(k)
    torch.library.opcheck(registered("split_bits"), (k, 8, 4))
    torch.library.opcheck(registered("join_bits"), (*planes, 4))
    q = randn(2, 4, 3, 5)
    for threshold in (0.0, 0.3):
        args = (q, *planes, k, threshold, None, 4, None, torch.ones(2, 17, dtype=torch.bool), True)
        torch.library.opcheck(registered("progressive_attention"), args)


def test_gradients_of_importance(prob, live):
    score, weight = randn(2, 17), randn(2, 17, seed=1)
    for dtype in (torch.float32, torch.bfloat16):
        leaf, base = prob.detach().to(dtype).requires_grad_(), score.clone().requires_grad_()
        out = ops.accumulate_importance(leaf, base, live)
        grads = torch.autograd.grad((out * weight).sum(), (leaf, base))
        want = weight[:, None, None] * live[:, None, :, None]
        assert torch.equal(grads[0], want.expand(leaf.shape).to(dtype))
        assert torch.equal(grads[1], weight)


def test_gradients_of_head_scores(live):
    e = randn(2, 4, 3, 5)
    e[0, 0, 0, 0] = 0
    leaf, base = e.clone().requires_grad_(), randn(2, 4).requires_grad_()
    weight = randn(2, 4, seed=1)
    grads = torch.autograd.grad((ops.accumulate_head_scores(leaf, base, live) * weight).sum(), (leaf, base))
    want = e.sign() * weight[:, :, None, None] * live[:, None, :, None]
    assert torch.equal(grads[0], want)
    assert grads[0][0, 0, 0, 0] == 0
    assert torch.equal(grads[1], weight)


def test_dead_rows_get_no_gradient_even_where_they_are_nan(live):
    e = randn(2, 4, 3, 5)
    e[:, :, 1] = torch.nan
    leaf = e.requires_grad_()
    valid = torch.tensor([[True, False, True]] * 2)
    (grad,) = torch.autograd.grad(ops.accumulate_head_scores(leaf, None, valid).sum(), leaf)
    assert (grad[:, :, 1] == 0).all()


@pytest.mark.parametrize("keep", [0, 1, 6, 17])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gradients_of_local_value_attention(prob, keep, groups):
    v = randn(2, groups, 17, 5)
    weight = randn(2, 4, 3, 5, seed=1)
    leaves = prob.clone().requires_grad_(), v.clone().requires_grad_()
    got = torch.autograd.grad((ops.local_value_attention(*leaves, keep) * weight).sum(), leaves)
    plain = prob.clone().requires_grad_(), v.clone().requires_grad_()
    masked = plain[0] * ops.topk_mask(prob, keep)
    want = torch.autograd.grad((masked @ plain[1].repeat_interleave(4 // groups, 1) * weight).sum(), plain)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients_of_nothing():
    for shape, groups in (((2, 0, 3, 4), 0), ((0, 2, 3, 4), 1), ((1, 2, 0, 4), 2), ((1, 2, 3, 0), 2)):
        leaves = torch.zeros(shape).requires_grad_(), torch.zeros(shape[0], groups, shape[3], 5).requires_grad_()
        grads = torch.autograd.grad(ops.local_value_attention(*leaves, 0).sum(), leaves)
        assert [g.shape for g in grads] == [x.shape for x in leaves]


def test_second_gradient(prob):
    leaf = prob.clone().requires_grad_()
    v = randn(2, 4, 17, 5)
    (grad,) = torch.autograd.grad(ops.local_value_attention(leaf, v, 6).pow(2).sum(), leaf, create_graph=True)
    assert torch.isfinite(torch.autograd.grad(grad.sum(), leaf)[0]).all()


def test_planes_and_progressive_attention_carry_no_gradient():
    q, k = randn(1, 2, 3, 8).requires_grad_(), randn(1, 1, 9, 8).requires_grad_()
    planes = ops.split_bits(k)
    out, refetched = ops.progressive_attention(q, *planes, k, 0.5)
    assert not any(x.requires_grad for x in (*planes, out, refetched, ops.join_bits(*planes)))


def test_vmap(prob, live):
    stacked, valid = torch.stack([prob, prob.flip(3)]), torch.stack([live, live.flip(1)])
    got = torch.vmap(lambda p, m: ops.accumulate_importance(p, None, m))(stacked, valid)
    v = randn(2, 2, 17, 5)
    products = torch.vmap(lambda p: ops.local_value_attention(p, v, 6))(stacked)
    for i in range(2):
        assert torch.equal(got[i], ops.accumulate_importance(stacked[i], None, valid[i]))
        assert torch.equal(products[i], ops.local_value_attention(stacked[i], v, 6))
    rows = randn(3, 4, 6)
    for ours, theirs in zip(torch.vmap(ops.split_bits)(rows), ops.split_bits(rows), strict=True):
        assert torch.equal(ours, theirs)


def test_compiles_whole(prob, live):
    q, k = randn(2, 4, 3, 6), randn(2, 2, 17, 6)

    def step(p, x):
        score = ops.accumulate_importance(p, None, live)
        e = ops.local_value_attention(p, x, 6)
        out, refetched = ops.progressive_attention(q, *ops.split_bits(x), x, 0.3, causal=True)
        return score.square().sum() + ops.accumulate_head_scores(e).sum(), out, refetched

    want = step(prob, k)
    torch._dynamo.reset()
    leaf = prob.clone().requires_grad_()
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(leaf, k)
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w)
    got[0].backward()
    assert leaf.grad is not None


def test_errors_pass_through(prob):
    with pytest.raises(ValueError, match=r"^local_value_attention: keep must be in \[0, 17\], got 18$"):
        ops.local_value_attention(prob, randn(2, 2, 17, 5), 18)
    with pytest.raises(ValueError, match=r"^accumulate_importance: score must be .*, got "):
        ops.accumulate_importance(prob, randn(2, 16))
