# SPDX-License-Identifier: Apache-2.0
"""soft_aggregate as a torch op: registration, gradients of gradients, transforms."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from torch._subclasses.fake_tensor import FakeTensorMode

from tokernel import ops


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = normal(2, 6, 5)
LOGITS = normal(2, 3, 6, seed=1)
MASS = normal(2, 6, seed=2).abs() + 0.5


def over_tokens(x, logits):
    return torch.softmax(logits, -1) @ x


def over_targets(x, logits, mass=None):
    moved = torch.softmax(logits, 1)
    if mass is not None:
        moved = moved * mass[:, None]
    total = moved.sum(-1)
    return moved @ x / total[..., None], total


CASES = {
    "tokens": (ops.soft_aggregate, over_tokens, (X, LOGITS)),
    "targets": (lambda x, s: ops.soft_aggregate(x, s, "targets"), over_targets, (X, LOGITS)),
    "targets with mass": (lambda x, s, m: ops.soft_aggregate(x, s, "targets", m), over_targets, (X, LOGITS, MASS)),
}
every_case = pytest.mark.parametrize("name", CASES)


def scalar(function, power=3):
    def value(*tensors):
        results = function(*tensors)
        return sum(r.pow(power).sum() for r in (results if isinstance(results, tuple) else (results,)))

    return value


@every_case
def test_two_derivatives_equal_torch(name):
    ours, theirs, inputs = CASES[name]
    derivatives = []
    for function, dtype in ((ours, torch.float32), (theirs, torch.float64)):
        leaves = [t.to(dtype, copy=True).requires_grad_() for t in inputs]
        first = torch.autograd.grad(scalar(function)(*leaves), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), leaves)
        derivatives.append([*(g.detach() for g in first), *second])
    for a, b in zip(*derivatives, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)


def test_only_one_result_needs_a_gradient():
    for chosen in (0, 1):
        grads = []
        for function in (CASES["targets with mass"][0], over_targets):
            leaves = [t.clone().requires_grad_() for t in (X, LOGITS, MASS)]
            value = function(*leaves)[chosen].pow(2).sum()
            grads.append(torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True))
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@every_case
def test_compile_fullgraph(name):
    function, _, inputs = CASES[name]
    grads = []
    for run in (scalar(function), torch.compile(scalar(function), fullgraph=True, backend="aot_eager")):
        leaves = [t.clone().requires_grad_() for t in inputs]
        run(*leaves).backward()
        grads.append([leaf.grad for leaf in leaves])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@every_case
def test_vmap_and_nested_transforms(name):
    ours, theirs, inputs = CASES[name]
    many = [torch.stack([t, t * 2, t * 0.5]) for t in inputs]
    torch.testing.assert_close(torch.vmap(ours)(*many), torch.vmap(theirs)(*many))
    argnums = tuple(range(len(inputs)))
    for a, b in zip(
        *(torch.vmap(torch.func.grad(scalar(f), argnums=argnums))(*many) for f in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def leaf(t):
    return t.clone().requires_grad_()


@pytest.mark.parametrize("transposed", [False, True], ids=["row-major", "transposed"])
def test_opcheck(transposed):
    logits = LOGITS.mT.contiguous().mT if transposed else LOGITS
    check = torch.library.opcheck
    check(torch.ops.tokernel.soft_aggregate.default, (leaf(X), leaf(logits)))
    check(torch.ops.tokernel.soft_aggregate_targets.default, (leaf(X), leaf(logits), None))
    check(torch.ops.tokernel.soft_aggregate_targets.default, (leaf(X), leaf(logits), leaf(MASS)))
    y = over_tokens(X, LOGITS)
    check(torch.ops.tokernel.soft_aggregate_backward.default, (leaf(y), leaf(X), leaf(logits), y))
    y, total = over_targets(X, LOGITS, MASS)
    for mass in (None, leaf(MASS)):
        check(
            torch.ops.tokernel.soft_aggregate_targets_backward.default,
            (leaf(y), leaf(total), leaf(X), leaf(logits), mass, y, total),
        )


def test_transposed_logits_get_a_gradient_of_their_shape():
    z = normal(2, 6, 3, seed=3).requires_grad_()
    ops.soft_aggregate(X, z.transpose(1, 2)).pow(2).sum().backward()
    w = z.detach().clone().requires_grad_()
    over_tokens(X, w.transpose(1, 2)).pow(2).sum().backward()
    torch.testing.assert_close(z.grad, w.grad)


def test_fake_autocast_and_inference():
    with FakeTensorMode():
        x = torch.empty(2, 6, 5, dtype=torch.bfloat16)
        y, total = ops.soft_aggregate(x, torch.empty(2, 3, 6), "targets")
        assert ops.soft_aggregate(x, torch.empty(2, 3, 6)).dtype == torch.bfloat16
    assert (y.shape, y.dtype, total.shape, total.dtype) == ((2, 3, 5), torch.bfloat16, (2, 3), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.soft_aggregate(X, LOGITS).dtype == torch.float32
    with torch.inference_mode():
        torch.testing.assert_close(ops.soft_aggregate(X, LOGITS), over_tokens(X, LOGITS))


def test_second_derivative_where_every_logit_is_minus_infinity():
    logits = LOGITS.clone()
    logits[0, 1] = -torch.inf
    leaves = [leaf(X), leaf(logits)]
    first = torch.autograd.grad(ops.soft_aggregate(*leaves).pow(2).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), leaves)
    assert all(torch.isfinite(g).all() for g in (*first, *second))


def test_bad_words():
    with pytest.raises(ValueError, match="over must be 'tokens' or 'targets', got 'rows'"):
        ops.soft_aggregate(X, LOGITS, "rows")
    with pytest.raises(ValueError, match="mass must be None where over is 'tokens'"):
        ops.soft_aggregate(X, LOGITS, "tokens", MASS)


KEEP = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)


def test_compact_rows():
    index, cu_seqlens = ops.compact_rows(KEEP)
    assert index.tolist() == [0, 2, 3, 9]
    assert cu_seqlens.tolist() == [0, 3, 3, 4]
    torch.library.opcheck(torch.ops.tokernel.compact_rows.default, (KEEP,))


def test_compact_rows_compiles_with_a_size_that_depends_on_data():
    def pack(x, mask):
        index, cu_seqlens = ops.compact_rows(mask)
        return ops.gather_rows(x.reshape(1, -1, x.shape[2]), index[None]).sum(1), cu_seqlens

    x = normal(3, 4, 5)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(pack, fullgraph=True, backend="aot_eager")
        for mask in (KEEP, ~KEEP):
            for a, b in zip(compiled(x, mask), pack(x, mask), strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_compact_rows_under_vmap_needs_equal_totals():
    masks = torch.stack([KEEP, KEEP.flip(0)])
    index, cu_seqlens = torch.vmap(ops.compact_rows)(masks)
    assert index.tolist() == [[0, 2, 3, 9], [1, 8, 10, 11]]
    assert cu_seqlens.tolist() == [[0, 3, 3, 4], [0, 1, 1, 4]]
    with pytest.raises(RuntimeError, match="equal size"):
        torch.vmap(ops.compact_rows)(torch.stack([KEEP, ~KEEP]))
