# SPDX-License-Identifier: Apache-2.0
"""The torch layer on one small op: which path a call takes, and that every path gives the same answer."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from torch._subclasses.fake_tensor import FakeTensorMode

from tokernel import ops
from tokernel.ops import _torch_op

INDEX = torch.tensor([[3, 0, 0], [1, 4, 2]])


def payload(**options):
    return torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), **options)


def expected(x):
    return torch.gather(x, 1, INDEX[..., None].expand(-1, -1, x.shape[2]))


def route(*args):
    return _torch_op._C.torch_route(args)


def test_plain_tensors_take_the_kernel():
    assert route(payload(), INDEX) == _torch_op._KERNEL
    assert route(torch.nn.Parameter(payload(), requires_grad=False), 3, None) == _torch_op._KERNEL


def test_gradients_take_the_function_unless_disabled():
    x = payload(requires_grad=True)
    assert route(x, INDEX) == _torch_op._GRADIENT
    with torch.no_grad():
        assert route(x, INDEX) == _torch_op._KERNEL
    with torch.inference_mode():
        assert route(x, INDEX) == _torch_op._KERNEL


def test_anything_that_intercepts_takes_the_dispatcher():
    class Subclass(torch.Tensor):
        pass

    assert route(payload().as_subclass(Subclass)) == _torch_op._DISPATCHER
    with FakeTensorMode():
        assert route(payload()) == _torch_op._DISPATCHER
    seen = []
    torch.vmap(lambda a: (seen.append(route(a)), a)[1])(payload())
    torch.jit.trace(lambda a: (seen.append(route(a)), a + 1)[1], payload(), check_trace=False)
    assert seen == [_torch_op._TRANSFORM, _torch_op._DISPATCHER]


def test_dispatcher_gives_the_same_bits():
    assert torch.equal(torch.ops.tokernel.gather_rows(payload(), INDEX), expected(payload()))


def test_backward_equals_torch():
    ours, theirs = payload(requires_grad=True), payload(requires_grad=True)
    weight = torch.linspace(-1, 1, 42).reshape(2, 3, 7)
    (ops.gather_rows(ours, INDEX) * weight).sum().backward()
    (expected(theirs) * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_compile_fullgraph():
    def loss(x):
        return ops.gather_rows(x * 2, INDEX).sin().sum()

    eager, compiled = payload(requires_grad=True), payload(requires_grad=True)
    loss(eager).backward()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(compiled).backward()
    torch.testing.assert_close(compiled.grad, eager.grad)


def test_vmap_folds_into_the_batch():
    x = torch.randn(3, 2, 5, 7)
    torch.testing.assert_close(
        torch.vmap(lambda a: ops.gather_rows(a, INDEX))(x), torch.stack([expected(a) for a in x])
    )


def test_nested_transforms():
    x = torch.randn(3, 2, 5, 7)

    def loss(gather):
        return lambda a: gather(a).pow(3).sum()

    ours = torch.vmap(torch.func.grad(loss(lambda a: ops.gather_rows(a, INDEX))))(x)
    theirs = torch.vmap(torch.func.grad(loss(expected)))(x)
    torch.testing.assert_close(ours, theirs)
    jacobian = torch.func.jacrev(lambda a: ops.gather_rows(a, INDEX))(x[0])
    torch.testing.assert_close(jacobian, torch.func.jacrev(expected)(x[0]))


def test_double_backward():
    x = payload(requires_grad=True)
    (first,) = torch.autograd.grad(ops.gather_rows(x, INDEX).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), x)
    y = payload(requires_grad=True)
    (first_y,) = torch.autograd.grad(expected(y).pow(3).sum(), y, create_graph=True)
    (second_y,) = torch.autograd.grad(first_y.pow(2).sum(), y)
    torch.testing.assert_close(second, second_y)


def test_fake_tensors_have_shapes_only():
    with FakeTensorMode():
        out = ops.gather_rows(torch.empty(2, 5, 7, dtype=torch.bfloat16), torch.zeros(2, 4, dtype=torch.int64))
    assert out.shape == (2, 4, 7)
    assert out.dtype == torch.bfloat16


def test_autocast_leaves_the_dtype_alone():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.gather_rows(payload(), INDEX).dtype == torch.float32


def test_inference_mode():
    with torch.inference_mode():
        assert torch.equal(ops.gather_rows(payload(), INDEX), expected(payload()))
