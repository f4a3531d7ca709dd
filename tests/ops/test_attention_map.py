# SPDX-License-Identifier: Apache-2.0
"""Rows, column sums, extras, Regions and Window as torch ops: the answers of the kernels, gradients, compilation."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from tokernel import ops
from tokernel.kernels import attention as kernels


def tensors(batch=2, heads=4, groups=2, queries=9, keys=9, width=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = ((batch, heads, queries, width), (batch, groups, keys, width), (batch, groups, keys, width))
    return [torch.randn(shape, generator=g) for shape in shapes]


IDS = torch.tensor([[0, 1, 0, -1, 2, 2, 1, 0, 1], [3, 3, 0, 1, -1, 0, 1, 3, 0]])
POLICIES = {
    "dense": ops.Dense(),
    "blocks": ops.BlockMap(torch.eye(2, dtype=torch.bool), torch.tensor([4, 5]), torch.tensor([3, 6])),
    "tree": ops.Tree(torch.ones(9, 9, dtype=torch.bool).tril(), 0),
    "regions": ops.Regions(IDS),
    "window": ops.Window((1, 3, 3), (1, 3, 3), (0, 1, 1)),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_as_the_kernels(policy):
    q, k, v = tensors()
    o, lse, extras = ops.attention(
        q, k, v, policy, return_lse=True, extras=ops.Extras(torch.tensor([2, 0]), True, over_heads=True)
    )
    expected = kernels.attention(
        q, k, v, policy, return_lse=True, extras=ops.Extras(torch.tensor([2, 0]), True, over_heads=True)
    )
    for ours, theirs in zip((o, lse, *extras), (*expected[:2], *expected[2]), strict=True):
        assert torch.equal(ours, theirs)
    only = ops.attention(q, k, v, policy, extras=ops.Extras(column_sums=True))
    assert only[1].rows is None
    assert torch.equal(only[1].column_sums, ops.attention_column_sums(q, k, lse, policy))


def test_gradients_through_regions_are_those_of_a_mask():
    mask = (IDS[:, :, None] == IDS[:, None]) & (IDS[:, :, None] >= 0)
    bias = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(1))
    gradients = []
    for policy in (ops.Regions(IDS), ops.Mask(mask[:, None])):
        inputs = [x.requires_grad_() for x in tensors()] + [bias.clone().requires_grad_()]
        o, lse = ops.attention(*inputs[:3], policy, key_bias=inputs[3], return_lse=True)
        loss = (o * torch.linspace(0, 1, o.numel()).reshape(o.shape)).sum() + lse[lse.isfinite()].sum()
        gradients.append(torch.autograd.grad(loss, inputs))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_extras_carry_no_gradient():
    q, k, v = (x.requires_grad_() for x in tensors())
    o, extras = ops.attention(q, k, v, ops.Causal(), extras=ops.Extras(torch.tensor([1]), True))
    assert o.requires_grad
    assert not extras.rows.requires_grad
    assert not extras.column_sums.requires_grad
    o.sum().backward()
    assert q.grad is not None


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_compiles_without_breaks(policy):
    q, k, _ = tensors()
    lse = torch.zeros(2, 4, 9)
    rows = torch.tensor([1, 2])

    def f(q, k, lse):
        sums = ops.attention_column_sums(q, k, lse, policy, over_heads=True, key_groups=torch.arange(9), groups=9)
        return ops.attention_rows(q, k, rows, lse, policy), sums

    expected = f(q, k, lse)  # a policy that sorts finds its order here
    got = torch.compile(f, fullgraph=True, backend="aot_eager")(q, k, lse)
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_policies_of_other_frameworks():
    q, k, v = tensors()
    ids = IDS.numpy()
    assert torch.equal(ops.attention(q, k, v, ops.Regions(ids)), ops.attention(q, k, v, ops.Regions(IDS)))
    blocks = ops.BlockMap(np.eye(2, dtype=bool), np.array([4, 5]), np.array([3, 6]))
    assert torch.equal(ops.attention(q, k, v, blocks), ops.attention(q, k, v, POLICIES["blocks"]))
    tree = ops.Tree(np.tril(np.ones((9, 9), bool)), 0)
    assert torch.equal(ops.attention(q, k, v, tree), ops.attention(q, k, v, POLICIES["tree"]))


def test_one_policy_serves_numpy_and_torch():
    q, k, v = tensors()
    for policy in (ops.Regions(IDS), ops.Window((1, 3, 3), (1, 1, 3))):
        from_torch = ops.attention(q, k, v, policy)
        from_numpy = kernels.attention(q.numpy(), k.numpy(), v.numpy(), policy)
        assert (from_torch.numpy() == from_numpy).all()
        assert torch.equal(kernels.attention(q, k, v, policy), from_torch)


def test_mistakes():
    q, k, v = tensors()
    lse = torch.zeros(2, 4, 9)
    with pytest.raises(ValueError, match=r"^attention_column_sums: groups must be given together with key_groups"):
        ops.attention_column_sums(q, k, lse, key_groups=torch.arange(9))
    with pytest.raises(ValueError, match=r"^attention: q must be \(B, heads, tokens, D\), got \(4, 9, 8\)"):
        ops.attention(q[0], k, v)
