# SPDX-License-Identifier: Apache-2.0
"""The segment ops in torch: every route gives the kernel's answer and the gradients of a composition."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from torch._subclasses.fake_tensor import FakeTensorMode

import tokernel
from tokernel import ops
from tokernel.kernels import merge as kernels

IDS = torch.tensor([[0, 2, -1, 0, 1], [1, 1, 1, 0, -1]])
OFFSETS = torch.tensor([0, 2, 2, 5])
FORMS = {"ids": {"ids": IDS, "segments": 3}, "offsets": {"offsets": OFFSETS}}
MODES = ("mean", "sum", "amax")


def randn(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options)


def membership(form, dtype):
    """(B, N, S) of 0 and 1."""
    ids = IDS if form == "ids" else torch.searchsorted(OFFSETS[1:], torch.arange(5), right=True).expand(2, -1)
    return torch.nn.functional.one_hot(ids + 1, 4)[..., 1:].to(dtype)


def dense_reduce(x, form, mode, weight=None):
    """segment_reduce as a dense formula with gradients of every order."""
    member = membership(form, x.dtype)
    if mode == "amax":
        masked = torch.where(member.unsqueeze(-1) > 0, x.unsqueeze(2), -torch.inf).amax(1)
        return torch.where(member.sum(1).unsqueeze(-1) > 0, masked, 0.0)
    if weight is not None:
        member = member * weight.unsqueeze(-1)
    total = torch.einsum("bns,bnc->bsc", member, x)
    mass = member.sum(1).unsqueeze(-1)
    return total if mode == "sum" else torch.where(mass == 0, 0.0, total / torch.where(mass == 0, 1.0, mass))


def dense_broadcast(y, form):
    return torch.einsum("bns,bsc->bnc", membership(form, y.dtype), y)


def dense_softmax(scores):
    return torch.cat([part.softmax(-1) for part in scores.tensor_split([2], dim=-1)], -1)


def cases():
    """(name, ours, dense, inputs) of every op that has a gradient."""
    x, weight = randn(2, 5, 7), randn(2, 5, seed=1).abs() + 0.1
    for form, index in FORMS.items():
        for mode in MODES:
            yield f"reduce-{form}-{mode}", _reduce(index, mode), _dense(form, mode), (x,)
        for mode in ("mean", "sum"):
            yield f"weighted-{form}-{mode}", _reduce(index, mode), _dense(form, mode), (x, weight)
        tokens = {"tokens": 5} if form == "offsets" else {}
        yield (
            f"broadcast-{form}",
            _broadcast({k: v for k, v in index.items() if k != "segments"} | tokens),
            _dense_broadcast(form),
            (x[:, :3],),
        )
    yield "softmax", lambda s: ops.segment_softmax(s, offsets=OFFSETS), dense_softmax, (x[..., 0].contiguous(),)


def _reduce(index, mode):
    return lambda x, weight=None: ops.segment_reduce(x, **index, mode=mode, weight=weight)


def _dense(form, mode):
    return lambda x, weight=None: dense_reduce(x, form, mode, weight)


def _broadcast(index):
    return lambda y: ops.segment_broadcast(y, **index)


def _dense_broadcast(form):
    return lambda y: dense_broadcast(y, form)


CASES = [pytest.param(*rest, id=name) for name, *rest in cases()]


def leaves(inputs, dtype=torch.float32):
    return [value.detach().to(dtype).clone().requires_grad_() for value in inputs]


def close(ours, dense):
    """Single precision against double: the inputs are of size one and few."""
    torch.testing.assert_close(ours, dense.to(ours.dtype), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("ours", "dense", "inputs"), CASES)
def test_forward_and_gradients(ours, dense, inputs):
    single, double = leaves(inputs), leaves(inputs, torch.float64)
    out, exact = ours(*single), dense(*double)
    close(out, exact)
    for a, b in zip(
        torch.autograd.grad(out.sin().sum(), single), torch.autograd.grad(exact.sin().sum(), double), strict=True
    ):
        close(a, b)


@pytest.mark.parametrize(("ours", "dense", "inputs"), CASES)
def test_second_gradients(ours, dense, inputs):
    def second(function, arguments):
        first = torch.autograd.grad(function(*arguments).pow(3).sum(), arguments, create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in first), arguments)

    for a, b in zip(second(ours, leaves(inputs)), second(dense, leaves(inputs, torch.float64)), strict=True):
        torch.testing.assert_close(a, b.to(a.dtype), rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize(("ours", "dense", "inputs"), CASES)
def test_compile_fullgraph(ours, dense, inputs):
    def loss(*arguments):
        return ours(*(a * 2 for a in arguments)).sin().sum()

    torch.compiler.reset()  # `loss` is one code object for all cases
    eager, compiled = leaves(inputs), leaves(inputs)
    expected = torch.autograd.grad(loss(*eager), eager)
    got = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(*compiled), compiled)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("ours", "dense", "inputs"), CASES)
def test_vmap_and_nested_transforms(ours, dense, inputs):
    many = [torch.stack([value, value.flip(0), value * 0.5]) for value in inputs]
    singles = [ours(*arguments) for arguments in zip(*many, strict=True)]
    assert torch.equal(torch.vmap(ours)(*many), torch.stack(singles))

    def gradients(function):
        return torch.vmap(torch.func.grad(lambda *a: function(*a).pow(3).sum(), tuple(range(len(inputs)))))

    for a, b in zip(gradients(ours)(*many), gradients(dense)(*many), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_vmap_over_the_index():
    x = randn(2, 5, 7)
    offsets = torch.tensor([[0, 2, 2, 5], [0, 0, 4, 5]])
    got = torch.vmap(lambda o: ops.segment_reduce(x, offsets=o))(offsets)
    assert torch.equal(got, torch.stack([ops.segment_reduce(x, offsets=o) for o in offsets]))
    wide = randn(2, 2, 5, 7)
    got = torch.vmap(lambda a, o: ops.segment_reduce(a, offsets=o), in_dims=(1, 0))(wide, offsets)
    assert torch.equal(got, torch.stack([ops.segment_reduce(wide[:, i], offsets=offsets[i]) for i in range(2)]))


def test_mass_has_a_gradient():
    x, weight = leaves((randn(2, 5, 7), randn(2, 5, seed=1).abs()))
    out, mass = ops.segment_reduce(x, **FORMS["ids"], weight=weight, return_mass=True)
    assert torch.equal(out, ops.segment_reduce(x, **FORMS["ids"], weight=weight))
    (grad,) = torch.autograd.grad((out.sin().sum() + mass.pow(2).sum()), weight)
    wide_x, wide_weight = leaves((x, weight), torch.float64)
    dense_mass = (membership("ids", torch.float64) * wide_weight.unsqueeze(-1)).sum(1)
    loss = dense_reduce(wide_x, "ids", "mean", wide_weight).sin().sum() + dense_mass.pow(2).sum()
    close(grad, torch.autograd.grad(loss, wide_weight)[0])
    _, counts = ops.segment_reduce(x, **FORMS["ids"], return_mass=True)
    assert counts.tolist() == [[2, 1, 1], [1, 3, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_dtype(dtype):
    x, weight = randn(2, 5, 7).to(dtype).requires_grad_(), randn(2, 5, seed=1).abs().requires_grad_()
    out = ops.segment_reduce(x, **FORMS["ids"], weight=weight)
    grad_x, grad_weight = torch.autograd.grad(out.float().sin().sum(), (x, weight), create_graph=True)
    assert (out.dtype, grad_x.dtype, grad_weight.dtype) == (dtype, dtype, torch.float32)
    fast_x, fast_weight = torch.autograd.grad(
        ops.segment_reduce(x, **FORMS["ids"], weight=weight).float().sin().sum(), (x, weight)
    )
    torch.testing.assert_close(fast_x, grad_x)
    torch.testing.assert_close(fast_weight, grad_weight, rtol=1e-2, atol=1e-2)


def test_forms_without_batch():
    x, weight = randn(5, 7), randn(5).abs()
    out, mass = ops.segment_reduce(x, offsets=OFFSETS, weight=weight, return_mass=True)
    assert torch.equal(out, kernels.segment_reduce(x, offsets=OFFSETS, weight=weight))
    assert mass.shape == (3,)
    assert torch.equal(ops.segment_reduce(x, ids=IDS[0], segments=3), kernels.segment_reduce(x, ids=IDS[0], segments=3))
    assert torch.equal(ops.segment_broadcast(out, offsets=OFFSETS), kernels.segment_broadcast(out, offsets=OFFSETS))
    assert torch.equal(ops.segment_softmax(x[:, 0], offsets=OFFSETS), kernels.segment_softmax(x[:, 0], offsets=OFFSETS))
    rows = x.clone().requires_grad_()
    ops.segment_reduce(rows, offsets=OFFSETS, mode="sum").sum().backward()
    assert torch.equal(rows.grad, torch.ones(5, 7))


def test_opcheck():
    registered = torch.ops.tokernel
    x, weight, p = (
        randn(2, 5, 7, requires_grad=True),
        randn(2, 5).abs().requires_grad_(),
        randn(2, 5, requires_grad=True),
    )
    grad, grad_mass = randn(2, 3, 7), randn(2, 3)
    samples = [
        (registered.segment_reduce, (x, OFFSETS, None, None, "mean", None)),
        (registered.segment_reduce, (x, None, IDS, 3, "amax", None)),
        (registered.segment_reduce_mass, (x, None, IDS, 3, "mean", weight)),
        (registered.segment_reduce_backward, (grad, None, None, IDS, 5, "mean", weight.detach())),
        (
            registered.segment_reduce_weight_backward,
            (grad, x.detach(), None, IDS, 5, "mean", weight.detach(), grad_mass),
        ),
        (registered.segment_broadcast, (randn(2, 3, 7, requires_grad=True), OFFSETS, None, 5)),
        (registered.segment_broadcast, (randn(2, 3, 7, requires_grad=True), None, IDS, None)),
        (registered.segment_softmax, (p, OFFSETS)),
        (registered.segment_softmax_backward, (p.detach(), p.detach(), OFFSETS)),
    ]
    for op, arguments in samples:
        torch.library.opcheck(op.default, arguments)


def test_fake_tensors_have_shapes_only():
    with FakeTensorMode():
        x = torch.empty(2, 5, 7, dtype=torch.bfloat16)
        ids, offsets = torch.zeros(2, 5, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
        out, mass = ops.segment_reduce(x, ids=ids, segments=3, return_mass=True)
        back = ops.segment_broadcast(out, ids=ids)
        p = ops.segment_softmax(x[..., 0], offsets=offsets)
        assert ops.segment_reduce(x, offsets=offsets).shape == (2, 3, 7)
        assert ops.segment_broadcast(out, offsets=offsets, tokens=9).shape == (2, 9, 7)
    assert (out.shape, mass.shape, back.shape, p.shape) == ((2, 3, 7), (2, 3), (2, 5, 7), (2, 5))
    assert (out.dtype, mass.dtype, p.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)


def test_autocast_and_inference_mode():
    x = randn(2, 5, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.segment_reduce(x, offsets=OFFSETS).dtype == torch.float32
    with torch.inference_mode():
        out = ops.segment_reduce(x, offsets=OFFSETS)
        assert torch.equal(ops.segment_broadcast(out, offsets=OFFSETS), kernels.segment_broadcast(out, offsets=OFFSETS))


def test_gradient_of_an_expanded_tensor():
    """sum() hands back a gradient with strides of zero."""
    x = randn(2, 5, 7, requires_grad=True)
    ops.segment_reduce(x, offsets=OFFSETS).sum().backward()
    assert torch.equal(x.grad[:, :2], torch.full((2, 2, 7), 0.5))


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="segment_reduce: offsets must be given, or else ids, got neither"):
        ops.segment_reduce(randn(2, 5, 7))
    with pytest.raises(ValueError, match=r"segment_reduce: ids must be in \[-1, 2\)"):
        ops.segment_reduce(randn(2, 5, 7), ids=IDS, segments=2)


def test_no_tokens_at_all():
    """torch gives an empty tensor no address."""
    ids = torch.zeros(2, 0, dtype=torch.int64)
    for name in ("ref", *(b for b in tokernel.backends()["usable"] if b not in ("ref", "cuda"))):
        with tokernel.use_backend(name):
            for mode in MODES:
                assert torch.equal(
                    ops.segment_reduce(randn(2, 0, 4), ids=ids, segments=3, mode=mode), torch.zeros(2, 3, 4)
                )
            assert ops.segment_broadcast(randn(2, 3, 4), ids=ids).shape == (2, 0, 4)
            assert torch.equal(ops.segment_broadcast(randn(2, 0, 4), ids=torch.full((2, 3), -1)), torch.zeros(2, 3, 4))
