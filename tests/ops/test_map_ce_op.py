# SPDX-License-Identifier: Apache-2.0
"""attention_map_ce as a torch op: registration, gradients, compilation."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from tokernel import ops


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs():
    student = [normal(2, 3, n, 8, seed=n).requires_grad_() for n in (5, 7)]
    return *student, normal(2, 3, 5, 4, seed=1), normal(2, 3, 7, 4, seed=2)


def plain(q_s, k_s, q_t, k_t):
    student = q_s @ k_s.transpose(-1, -2) / 8**0.5
    teacher = q_t @ k_t.transpose(-1, -2) / 2.0
    return -(teacher.softmax(-1) * student.log_softmax(-1)).sum(-1)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradients_equal_torch(reduction):
    q_s, k_s, q_t, k_t = inputs()
    ours = ops.attention_map_ce(q_s, k_s, q_t, k_t, reduction=reduction)
    theirs = plain(q_s, k_s, q_t, k_t)
    if reduction == "mean":
        theirs = theirs.mean()
    torch.testing.assert_close(ours, theirs)
    weight = torch.rand(ours.shape, generator=torch.Generator().manual_seed(4))
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), (q_s, k_s)),
        torch.autograd.grad((theirs * weight).sum(), (q_s, k_s)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_teacher_gets_no_gradient():
    q_s, k_s, q_t, k_t = inputs()
    q_t.requires_grad_()
    ops.attention_map_ce(q_s, k_s, q_t, k_t).backward()
    assert q_t.grad is None
    assert q_s.grad is not None


def test_registration():
    args = (*inputs(), None, None, 0.5)
    torch.library.opcheck(torch.ops.tokernel.attention_map_ce.default, args)


def test_compiles_in_one_graph():
    q_s, k_s, q_t, k_t = inputs()
    compiled = torch.compile(ops.attention_map_ce, fullgraph=True, backend="aot_eager")
    loss = compiled(q_s, k_s, q_t, k_t)
    loss.backward()
    compiled_grad = q_s.grad
    q_s.grad = None
    ops.attention_map_ce(q_s, k_s, q_t, k_t).backward()
    assert torch.equal(compiled_grad, q_s.grad)


def test_unknown_reduction():
    with pytest.raises(ValueError, match=r"^attention_map_ce: reduction must be 'mean' or 'none', got 'sum'$"):
        ops.attention_map_ce(*inputs(), reduction="sum")
