# SPDX-License-Identifier: Apache-2.0
"""Attention over shared tokens as torch ops: registration, gradients, compilation."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from tokernel import ops
from tokernel.ops import _attention_rope as module


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


INDEX = torch.tensor([[0, 2, 2, 1, 0], [1, 1, 1, 3, 3]])
COS, SIN = normal(2, 5, 8, seed=1), normal(2, 5, 8, seed=2)


def turn(x, index, cos, sin):
    picked = torch.gather(x, 2, index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
    low, high = picked.chunk(2, -1)
    return picked * cos[:, None] + torch.cat((-high, low), -1) * sin[:, None]


def test_gather_gradient_equals_torch():
    x = normal(2, 3, 4, 8).requires_grad_()
    weight = normal(2, 3, 5, 8, seed=3)
    ours = torch.autograd.grad((ops.rope_gather(x, INDEX, COS, SIN) * weight).sum(), x)[0]
    theirs = torch.autograd.grad((turn(x, INDEX, COS, SIN) * weight).sum(), x)[0]
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("mean", [False, True])
def test_scatter_gradient_equals_torch(mean):
    x = normal(2, 3, 5, 8).requires_grad_()
    weight = normal(2, 3, 4, 8, seed=3)
    places = torch.nn.functional.one_hot(INDEX, 4).float()
    expected = torch.einsum("bnu,bhnd->bhud", places, x)
    if mean:
        expected = expected / places.sum(1).clamp(min=1)[:, None, :, None]
    out = ops.rope_scatter(x, INDEX, 4, mean=mean)
    torch.testing.assert_close(out, expected)
    ours = torch.autograd.grad((out * weight).sum(), x)[0]
    torch.testing.assert_close(ours, torch.autograd.grad((expected * weight).sum(), x)[0])


def test_gradient_through_turned_scatter():
    x, weight = normal(2, 3, 5, 8).requires_grad_(), normal(2, 3, 4, 8, seed=3)
    ours = torch.autograd.grad((ops.rope_scatter(x, INDEX, 4, COS, SIN) * weight).sum(), x)[0]
    torch.testing.assert_close(ours, turn(weight, INDEX, COS, SIN))


def test_the_way_back_has_a_way_back():
    x = normal(2, 3, 4, 8).requires_grad_()
    first = torch.autograd.grad(ops.rope_gather(x, INDEX, COS, SIN).pow(3).sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first.pow(2).sum(), x)[0]
    first_plain = torch.autograd.grad(turn(x, INDEX, COS, SIN).pow(3).sum(), x, create_graph=True)[0]
    torch.testing.assert_close(second, torch.autograd.grad(first_plain.pow(2).sum(), x)[0], rtol=1e-4, atol=1e-4)


def plain_attention(q, k, v, index, cos, sin):
    query, key = turn(q, index, cos, sin), turn(k, index, cos, sin)
    value = torch.gather(v, 2, index[:, None, :, None].expand(-1, v.shape[1], -1, v.shape[3]))
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    places = torch.nn.functional.one_hot(index, q.shape[2]).float()
    return torch.einsum("bnu,bhnd->bhud", places, out) / places.sum(1).clamp(min=1)[:, None, :, None]


def test_attention_over_shared_tokens_trains():
    q, k, v = (normal(2, 3, 4, 8, seed=i).requires_grad_() for i in range(3))
    weight = normal(2, 3, 4, 8, seed=5)
    ours = ops.gathered_rope_attention(q, k, v, INDEX, COS, SIN)
    theirs = plain_attention(q, k, v, INDEX, COS, SIN)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), (q, k, v)),
        torch.autograd.grad((theirs * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_registration():
    x, y = normal(2, 3, 4, 8).requires_grad_(), normal(2, 3, 5, 8).requires_grad_()
    torch.library.opcheck(torch.ops.tokernel.rope_gather.default, (x, INDEX, COS, SIN))
    torch.library.opcheck(torch.ops.tokernel.rope_scatter.default, (y, INDEX, 4, COS, SIN, False))
    torch.library.opcheck(torch.ops.tokernel.rope_scatter.default, (y, INDEX, 4, None, None, True))


def test_compiles_in_one_graph():
    q, k, v = (normal(2, 3, 4, 8, seed=i) for i in range(3))
    compiled = torch.compile(ops.gathered_rope_attention, fullgraph=True, backend="aot_eager")
    plain = ops.gathered_rope_attention(q, k, v, INDEX, COS, SIN)
    assert torch.equal(compiled(q, k, v, INDEX, COS, SIN), plain)


@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("remerge", [True, False])
def test_few_heads_at_a_time_are_the_same_attention(monkeypatch, groups, remerge):
    q, k, v = normal(2, 6, 4, 8), normal(2, groups, 4, 8, seed=1), normal(2, groups, 4, 8, seed=2)
    taken = []
    gather = module.rope_gather
    monkeypatch.setattr(module, "rope_gather", lambda x, *rest: taken.append(x.shape[1]) or gather(x, *rest))
    whole = ops.gathered_rope_attention(q, k, v, INDEX, COS, SIN, remerge=remerge)
    assert taken == [6, groups, groups]
    for policy in (ops.Causal(), ops.Dense(), ops.PrefixCausal(2)):
        whole = ops.gathered_rope_attention(q, k, v, INDEX, COS, SIN, policy, remerge=remerge)
        taken.clear()
        with monkeypatch.context() as small:
            small.setattr(module, "_TURNED_BYTES", 2 * 5 * 8 * 4 * 2 * (1 + 6 // groups) * 2)  # two groups
            parts = ops.gathered_rope_attention(q, k, v, INDEX, COS, SIN, policy, remerge=remerge)
        assert max(taken) == min(groups, 2) * (6 // groups)
        torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)


def test_few_heads_at_a_time_hide_no_mistake(monkeypatch):
    monkeypatch.setattr(module, "_TURNED_BYTES", 1)
    q, k = normal(2, 6, 4, 8), normal(2, 3, 4, 8)
    with pytest.raises(ValueError, match="attention: "):
        ops.gathered_rope_attention(q, k, normal(2, 6, 4, 8), INDEX, COS, SIN)
    with pytest.raises(ValueError, match="attention: "):
        ops.gathered_rope_attention(q, normal(2, 4, 4, 8), normal(2, 4, 4, 8), INDEX, COS, SIN)
    with pytest.raises(ValueError, match="rope_gather: "):
        ops.gathered_rope_attention(q[0], k, k, INDEX, COS, SIN)
    with pytest.raises(ValueError, match="rope_gather: "):
        ops.gathered_rope_attention(q, k, k, INDEX[:, :3], COS, SIN)


def test_many_rows_compile_in_one_graph(monkeypatch):
    monkeypatch.setattr(module, "_TURNED_BYTES", 1)
    q, k, v = (normal(2, 3, 4, 8, seed=i) for i in range(3))
    compiled = torch.compile(ops.gathered_rope_attention, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, k, v, INDEX, COS, SIN), ops.gathered_rope_attention(q, k, v, INDEX, COS, SIN))
