# SPDX-License-Identifier: Apache-2.0
"""The permutation half of family cluster as torch ops: registration, gradients of gradients, transforms."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from torch._subclasses.fake_tensor import FakeTensorMode

from tokernel import ops


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


PERM = torch.tensor([[3, 0, 4, 1, 2], [1, 4, 2, 0, 3]])
PERM_HEADS = torch.stack([PERM, PERM.flip(1), PERM], 1)
X, X_HEADS = normal(2, 5, 7), normal(2, 3, 5, 7)
LABELS = torch.tensor([[2, 0, 2, 0], [1, 1, 0, 2]])
QC, KC = normal(2, 3, 4, 8), normal(2, 3, 6, 8)
SIZE_Q, SIZE_K = torch.arange(24).reshape(2, 3, 4), torch.arange(36).reshape(2, 3, 6)


def permute(x, perm):
    return torch.gather(x, -2, perm[..., None].expand_as(x))


def restore(y, perm):
    return torch.zeros_like(y).scatter(-2, perm[..., None].expand_as(y), y)


CASES = {
    "permute_rows": (ops.permute_rows, permute, X, PERM),
    "permute_rows of heads": (ops.permute_rows, permute, X_HEADS, PERM_HEADS),
    "inverse_permute_rows": (ops.inverse_permute_rows, restore, X, PERM),
    "inverse_permute_rows of heads": (ops.inverse_permute_rows, restore, X_HEADS, PERM_HEADS),
}
every_case = pytest.mark.parametrize("name", CASES)


@every_case
def test_three_derivatives_equal_torch(name):
    ours, theirs, x, perm = CASES[name]
    derivatives = []
    for function in (ours, theirs):
        leaf = x.clone().requires_grad_()
        value = function(leaf, perm).pow(3).sum()
        found = []
        for _ in range(3):
            (grad,) = torch.autograd.grad(value, leaf, create_graph=True)
            found.append(grad.detach())
            value = grad.pow(2).sum()
        derivatives.append(found)
    for a, b in zip(*derivatives, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@every_case
def test_the_gradient_is_the_other_op_bit_for_bit(name):
    ours, _, x, perm = CASES[name]
    other = ops.inverse_permute_rows if ours is ops.permute_rows else ops.permute_rows
    leaf, grad = x.clone().requires_grad_(), normal(*x.shape)
    ours(leaf, perm).backward(grad)
    assert torch.equal(leaf.grad, other(grad, perm))


@every_case
def test_compile_fullgraph(name):
    ours, _, x, perm = CASES[name]

    def loss(y, index):
        return ours(y * 2, index).sin().sum()

    grads = []
    for run in (loss, torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")):
        leaf = x.clone().requires_grad_()
        run(leaf, perm).backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


@every_case
def test_vmap_and_nested_transforms(name):
    ours, theirs, x, perm = CASES[name]
    many = torch.stack([x, x * 2, x - 1])
    torch.testing.assert_close(*(torch.vmap(f, (0, None))(many, perm) for f in (ours, theirs)))

    def grads(function):
        return torch.vmap(torch.func.grad(lambda y: function(y, perm).pow(3).sum()))(many)

    torch.testing.assert_close(grads(ours), grads(theirs), rtol=1e-5, atol=1e-5)


def test_a_whole_chain_under_compile():
    """What svg2 does between k-means and attention: a permutation, there and back, a map and its density."""

    def chain(labels, x, qc, kc, size_q, size_k):
        perm, offsets = ops.sort_by_label(labels, 3)
        map_, prob = ops.centroid_topp_map(qc, kc, size_k, 0.7, 0.1, return_prob=True)
        back = ops.inverse_permute_rows(ops.permute_rows(x, perm), perm)
        return back, offsets, prob, ops.map_density(map_, size_q, size_k)

    inputs = LABELS, normal(2, 4, 3), QC, KC, SIZE_Q, SIZE_K
    plain = chain(*inputs)
    assert torch.equal(plain[0], inputs[1])
    compiled = torch.compile(chain, fullgraph=True, backend="aot_eager")(*inputs)
    for a, b in zip(plain, compiled, strict=True):
        assert torch.equal(a, b)


def test_vmap_of_the_ops_without_gradient():
    perms, offsets = torch.vmap(lambda labels: ops.sort_by_label(labels, 3))(torch.stack([LABELS, LABELS.flip(1)]))
    for i, labels in enumerate((LABELS, LABELS.flip(1))):
        wanted = ops.sort_by_label(labels, 3)
        assert torch.equal(perms[i], wanted[0])
        assert torch.equal(offsets[i], wanted[1])
    maps = torch.vmap(lambda q: ops.centroid_topp_map(q, KC, SIZE_K, 0.7))(torch.stack([QC, -QC]))
    assert torch.equal(maps[1], ops.centroid_topp_map(-QC, KC, SIZE_K, 0.7))
    densities = torch.vmap(lambda m: ops.map_density(m, SIZE_Q, SIZE_K))(maps)
    assert torch.equal(densities[1], ops.map_density(maps[1], SIZE_Q, SIZE_K))


MAP = ops.centroid_topp_map(QC, KC, SIZE_K, 0.7)
OPCHECKS = {
    "sort_by_label": ("sort_by_label", (LABELS, 3)),
    "permute_rows": ("permute_rows", (X.clone().requires_grad_(), PERM)),
    "permute_rows of heads": ("permute_rows", (X_HEADS.bfloat16(), PERM_HEADS.int())),
    "inverse_permute_rows": ("inverse_permute_rows", (X_HEADS.clone().requires_grad_(), PERM_HEADS)),
    "centroid_topp_map": ("centroid_topp_map", (QC, KC, SIZE_K, 0.7, 0.1, None)),
    "centroid_topp_map_prob": ("centroid_topp_map_prob", (QC.half(), KC.half(), SIZE_K.int(), 0.7, 0.0, 0.5)),
    "map_density": ("map_density", (MAP, SIZE_Q, SIZE_K)),
}


@pytest.mark.parametrize("name", OPCHECKS)
def test_opcheck(name):
    op, args = OPCHECKS[name]
    torch.library.opcheck(getattr(torch.ops.tokernel, op).default, args)


def test_fake_autocast_and_inference():
    with FakeTensorMode() as mode:
        x, perm, qc, kc, size_k = (mode.from_tensor(t) for t in (X_HEADS, PERM_HEADS, QC, KC, SIZE_K))
        assert ops.permute_rows(x.transpose(1, 2).contiguous().transpose(1, 2), perm).is_contiguous()
        assert ops.centroid_topp_map(qc, kc, size_k, 0.5).dtype == torch.bool
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.permute_rows(X, PERM).dtype == torch.float32
    with torch.inference_mode():
        assert torch.equal(ops.inverse_permute_rows(ops.permute_rows(X, PERM), PERM), X)


def test_the_map_has_no_gradient():
    map_, prob = ops.centroid_topp_map(QC.clone().requires_grad_(), KC, SIZE_K, 0.7, return_prob=True)
    assert not map_.requires_grad
    assert not prob.requires_grad


def test_bad_input_says_the_same():
    with pytest.raises(ValueError, match=r"^permute_rows: perm must be a permutation in every row, got 0 a second"):
        ops.permute_rows(torch.zeros(1, 2, 3), torch.tensor([[0, 0]]))
    with pytest.raises(ValueError, match=r"^centroid_topp_map: p must be in \[0.0, 1.0\], got 2.0$"):
        ops.centroid_topp_map(QC, KC, SIZE_K, 2.0)
