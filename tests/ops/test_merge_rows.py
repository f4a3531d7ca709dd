# SPDX-License-Identifier: Apache-2.0
"""gather_rows, scatter_rows and scatter_add_rows as torch ops: registration, gradients of gradients, transforms."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from torch._subclasses.fake_tensor import FakeTensorMode

from tokernel import ops

INDEX = torch.tensor([[3, 0, 0, 3], [1, 4, 2, 1]])  # duplicates, and rows that nobody names
ROWS = 5


def normal(*shape, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), **options)


Y = normal(2, 4, 7)
X = normal(2, ROWS, 7)
WEIGHT = normal(2, 4)


def expand(index, width):
    return index[..., None].expand(-1, -1, width)


def gather(x):
    return torch.gather(x, 1, expand(INDEX, x.shape[2]))


def add(y, weight=None):
    values = y if weight is None else y * weight[..., None].to(y.dtype)
    return y.new_zeros(y.shape[0], ROWS, y.shape[2]).scatter_add(1, expand(INDEX, y.shape[2]), values)


def winners(index):
    return torch.stack([(row[:, None] == row[None]).int().tril(-1).sum(1) == 0 for row in index])


def scatter(y, base=None):
    won = winners(INDEX)[..., None]
    out = y.new_zeros(y.shape[0], ROWS, y.shape[2]).scatter_add(1, expand(INDEX, y.shape[2]), y * won)
    if base is None:
        return out
    named = torch.stack([torch.bincount(row, minlength=ROWS) > 0 for row in INDEX])
    return out + base * ~named[..., None]


CASES = {
    "gather_rows": (lambda x: ops.gather_rows(x, INDEX), gather, (X,)),
    "scatter_rows": (lambda y: ops.scatter_rows(y, INDEX, ROWS), scatter, (Y,)),
    "scatter_rows on a base": (lambda y, base: ops.scatter_rows(y, INDEX, ROWS, base), scatter, (Y, X)),
    "scatter_add_rows": (lambda y: ops.scatter_add_rows(y, INDEX, ROWS), add, (Y,)),
    "scatter_add_rows weighted": (lambda y, w: ops.scatter_add_rows(y, INDEX, ROWS, w), add, (Y, WEIGHT)),
}
every_case = pytest.mark.parametrize("name", CASES)


@every_case
def test_three_derivatives_equal_torch(name):
    ours, theirs, inputs = CASES[name]
    derivatives = []
    for function in (ours, theirs):
        leaves = [t.clone().requires_grad_() for t in inputs]
        value = function(*leaves).pow(3).sum()
        found = []
        for _ in range(3):
            grads = torch.autograd.grad(value, leaves, create_graph=True)
            found.extend(g.detach() for g in grads)
            value = sum(g.pow(2).sum() for g in grads)
        derivatives.append(found)
    for a, b in zip(*derivatives, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@every_case
def test_compile_fullgraph(name):
    function, _, inputs = CASES[name]

    def loss(*tensors):
        return function(*(t * 2 for t in tensors)).sin().sum()

    grads = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaves = [t.clone().requires_grad_() for t in inputs]
        run(*leaves).backward()
        grads.append([leaf.grad for leaf in leaves])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_compile_with_dynamic_rows():
    def function(y):
        return ops.scatter_rows(y, INDEX, y.shape[1] + 1).sum((1, 2))

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(Y), function(Y))


@every_case
def test_vmap_and_nested_transforms(name):
    ours, theirs, inputs = CASES[name]
    many = [torch.stack([t, t * 2, t - 1]) for t in inputs]
    torch.testing.assert_close(torch.vmap(ours)(*many), torch.vmap(theirs)(*many))

    def grads(function):
        inner = torch.func.grad(lambda *t: function(*t).pow(3).sum(), argnums=tuple(range(len(inputs))))
        return torch.vmap(inner)(*many)

    for a, b in zip(grads(ours), grads(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


OPCHECKS = {
    "gather_rows": ("gather_rows", (X.clone().requires_grad_(), INDEX)),
    "gather_rows int32": ("gather_rows", (X, INDEX.int())),
    "scatter_rows": ("scatter_rows", (Y.clone().requires_grad_(), INDEX, ROWS, None)),
    "scatter_rows base": ("scatter_rows", (Y.clone().requires_grad_(), INDEX, ROWS, X.clone().requires_grad_())),
    "scatter_rows_backward": ("scatter_rows_backward", (X.clone().requires_grad_(), INDEX)),
    "scatter_add_rows": ("scatter_add_rows", (Y.clone().requires_grad_(), INDEX, ROWS, None)),
    "scatter_add_rows weighted": (
        "scatter_add_rows",
        (Y.clone().requires_grad_(), INDEX, ROWS, WEIGHT.clone().requires_grad_()),
    ),
    "scatter_add_rows_backward": (
        "scatter_add_rows_backward",
        (X.clone().requires_grad_(), Y.clone().requires_grad_(), INDEX, WEIGHT.clone().requires_grad_()),
    ),
    "scatter_add_rows bfloat16": ("scatter_add_rows", (Y.bfloat16(), INDEX, ROWS, WEIGHT)),
}


@pytest.mark.parametrize("name", OPCHECKS)
def test_opcheck(name):
    op, args = OPCHECKS[name]
    torch.library.opcheck(getattr(torch.ops.tokernel, op).default, args)


@every_case
def test_fake_autocast_and_inference(name):
    function, expected, inputs = CASES[name]
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(t) for t in inputs]
        index = mode.from_tensor(INDEX)
        out = {"gather_rows": lambda: ops.gather_rows(*fake, index)}.get(
            name,
            lambda: (ops.scatter_rows if "add" not in name else ops.scatter_add_rows)(fake[0], index, ROWS, *fake[1:]),
        )()
    assert out.shape == expected(*inputs).shape
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert function(*inputs).dtype == torch.float32
    with torch.inference_mode():
        torch.testing.assert_close(function(*inputs), expected(*inputs))


def test_losers_and_named_rows_get_no_gradient():
    y, base = Y.clone().requires_grad_(), X.clone().requires_grad_()
    ops.scatter_rows(y, INDEX, ROWS, base).sum().backward()
    assert torch.equal(y.grad[..., 0], winners(INDEX).float())
    named = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 1, 0, 1]])
    assert torch.equal(base.grad[..., 0], 1.0 - named)


def test_bfloat16_gradient_of_many_duplicates_is_rounded_once():
    x = torch.zeros(1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    ops.gather_rows(x, torch.zeros(1, 300, dtype=torch.int64)).sum().backward()
    assert x.grad.item() == 300.0
