# SPDX-License-Identifier: Apache-2.0
"""Stacks of codebooks as torch ops: registration, gradients, transforms, and the compiler."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from tokernel import ops

INDEX = torch.tensor([[3, 0, -1], [1, 4, 2]])


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def read(codes, index):
    return codes[index] * (index >= 0)[..., None]


def decode(index, codes):
    return sum(read(codes[q], index[:, q]) for q in range(codes.shape[0]))


def grads(run, *leaves):
    given = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    out = run(*given)
    return out, torch.autograd.grad((out * randn(*out.shape, seed=7)).sum(), given)


def test_opcheck():
    tk = torch.ops.tokernel
    codes, rows, index = randn(2, 5, 4).requires_grad_(), randn(6, 4).requires_grad_(), INDEX
    torch.library.opcheck(tk.lookup.default, (codes, index))
    torch.library.opcheck(tk.lookup_backward.default, (randn(2, 3, 4).requires_grad_(), index, 5))
    torch.library.opcheck(tk.rotate_to.default, (rows, randn(6, 4, seed=1), 1e-6))
    torch.library.opcheck(tk.straight_through.default, (rows, randn(6, 4, seed=1)))
    books, stack = randn(1, 3, 5, 4).requires_grad_(), INDEX[None]
    torch.library.opcheck(tk.rvq_decode.default, (stack, books, 2))
    torch.library.opcheck(tk.rvq_decode_backward.default, (randn(1, 2, 4).requires_grad_(), stack, 5, None))
    for counts, n_q in ((None, None), (None, 2), (torch.tensor([1, 0, 3, 2, 3, 3]), None)):
        torch.library.opcheck(tk.rvq_encode.default, (randn(1, 6, 4), randn(1, 3, 5, 4), counts, n_q, "l2"))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3)])
def test_lookup_and_its_gradient(shape):
    index = INDEX.flatten()[: torch.Size(shape).numel()].reshape(shape)
    ours, (grad,) = grads(lambda codes: ops.lookup(codes, index), randn(5, 4))
    theirs, (expected,) = grads(lambda codes: read(codes, index), randn(5, 4))
    torch.testing.assert_close((ours, grad), (theirs, expected))


def test_lookup_of_books():
    codes = randn(2, 5, 4)
    ours, (grad,) = grads(lambda c: ops.lookup(c, INDEX), codes)
    theirs, (expected,) = grads(lambda c: torch.stack([read(c[q], INDEX[q]) for q in range(2)]), codes)
    torch.testing.assert_close((ours, grad), (theirs, expected))
    assert ops.lookup(codes, INDEX[:, :0]).shape == (2, 0, 4)


def test_decode_and_its_gradient():
    codes = randn(3, 5, 4)
    ours, (grad,) = grads(lambda c: ops.rvq_decode(INDEX, c), codes)
    theirs, (expected,) = grads(lambda c: decode(INDEX, c), codes)
    torch.testing.assert_close((ours, grad), (theirs, expected))
    _, (grad,) = grads(lambda c: ops.rvq_decode(INDEX, c, 1), codes)
    assert (grad[1:] == 0).all()
    double = torch.func.grad(lambda g: torch.func.grad(lambda c: (ops.rvq_decode(INDEX, c) * g).sum())(codes).sum())
    torch.testing.assert_close(double(randn(2, 4)), decode(INDEX, torch.ones(3, 5, 4)))


def test_encode_has_no_gradient_and_takes_counts():
    x, codes = randn(6, 4).requires_grad_(), randn(3, 5, 4).requires_grad_()
    found = ops.rvq_encode(x, codes, torch.tensor([0, 1, 2, 3, 3, 3]))
    assert not found.quantized.requires_grad
    assert found.index.tolist()[0] == [-1, -1, -1]
    torch.testing.assert_close(ops.rvq_decode(found.index, codes), found.quantized, rtol=0, atol=0)
    groups = ops.rvq_encode(x.reshape(6, 2, 2).transpose(0, 1), randn(2, 3, 5, 2))
    assert groups.index.shape == (2, 6, 3)


def test_rotation_trick():
    x, q = randn(2, 3, 5), randn(2, 3, 5, seed=1)
    ours, (grad, none) = grads(lambda x, q: ops.rotate_to(x, q) + 0 * q, x, q)
    torch.testing.assert_close(ours, q)
    assert (none == 0).all()
    upstream = randn(2, 3, 5, seed=7)
    scale = q.norm(dim=-1) / x.norm(dim=-1)
    torch.testing.assert_close(grad.norm(dim=-1), scale * upstream.norm(dim=-1))
    torch.testing.assert_close((grad * x).sum(-1) / scale, (upstream * q).sum(-1) / scale)
    with pytest.raises(ValueError, match=r"^rotate_to: q must be of the shape of x"):
        ops.rotate_to(x, q[:1])


def test_straight_through():
    q = torch.tensor([-0.0, 0.1, 3e8])
    out, (grad,) = grads(lambda x: ops.straight_through(x, q), randn(3))
    assert out.view(torch.int32).tolist() == q.view(torch.int32).tolist()
    torch.testing.assert_close(grad, randn(3, seed=7))
    half = randn(3).bfloat16().requires_grad_()
    ops.straight_through(half, q).sum().backward()
    assert half.grad.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"^straight_through: q must be of the shape of x"):
        ops.straight_through(q, q[:1])


def test_vmap():
    x, q, codes = randn(4, 3, 5), randn(4, 3, 5, seed=1), randn(4, 6, 5)
    index = torch.tensor([[0, 5], [1, -1], [2, 2], [3, 4]])
    torch.testing.assert_close(torch.vmap(ops.rotate_to)(x, q), q)
    expected = torch.stack([ops.lookup(c, i) for c, i in zip(codes, index, strict=True)])
    torch.testing.assert_close(torch.vmap(ops.lookup)(codes, index), expected)
    books = randn(4, 2, 6, 5)
    found = torch.vmap(lambda x, c: ops.rvq_encode(x, c).quantized)(x, books)
    torch.testing.assert_close(found, ops.rvq_encode(x, books).quantized)


def test_compiled_whole():
    def layer(x, codes):
        found = ops.rvq_encode(x, codes)
        q = ops.rvq_decode(found.index, codes)
        return ops.rotate_to(x, q.detach()) + ops.straight_through(x, q) + ops.lookup(codes[0], found.index[:, 0])

    x, codes = randn(6, 4), randn(3, 5, 4)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(grads(compiled, x, codes), grads(layer, x, codes))
