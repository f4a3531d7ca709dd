# SPDX-License-Identifier: Apache-2.0
"""The matches as torch ops: transforms, compilation, and gradients of what plans do with payloads."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tokernel import ops
from tokernel.kernels import merge as kernels


@pytest.fixture
def metric():
    return torch.randn(3, 17, 8, generator=torch.Generator().manual_seed(0))


def test_opcheck(metric):
    mask = torch.rand(3, 9) > 0.3
    a, b = metric[:, ::2], metric[:, 1::2]
    torch.library.opcheck(torch.ops.tokernel.cosine_match.default, (a, b, None, None))
    torch.library.opcheck(torch.ops.tokernel.cosine_match.default, (a, b, mask, mask[:, :8].contiguous()))
    score, index = ops.cosine_match(a, b)
    tail = (None, None, 17)
    torch.library.opcheck(
        torch.ops.tokernel.select_edges.default, (score, index, 4, 8, None, None, True, False, True, *tail)
    )
    take, valid = torch.tensor([0, 4, 2]), torch.rand(3, 17) > 0.2
    torch.library.opcheck(
        torch.ops.tokernel.select_edges.default, (None, index, 4, 8, take, valid, False, True, False, *tail)
    )


MAKERS = {
    "bipartite": lambda lib, m: lib.bipartite_match(m, 5, class_token=True),
    "distilled": lambda lib, m: lib.bipartite_match(m, 5, class_token=True, distill_token=True),
    "identity": lambda lib, m: lib.bipartite_match(m, 0),
    "kth": lambda lib, m: lib.kth_match(m, 3),
    "grid": lambda lib, m: lib.match_2d(m[:, :16], 4, 4, 2, 2, 8, no_rand=True),
    "partition": lambda lib, m: lib.random_match(m, 1, partition=(np.arange(5), np.arange(5, 17))),
}


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_same_plans_as_the_kernels(metric, maker):
    plan, want = maker(ops, metric), maker(kernels, metric.numpy())
    assert isinstance(plan, ops.MergePlan)
    assert (plan.kept, plan.is_identity) == (want.kept, want.is_identity)
    for name in ("map", "unm_idx", "src_idx", "dst_idx"):
        np.testing.assert_array_equal(getattr(plan, name).numpy(), getattr(want, name), err_msg=name)
    np.testing.assert_array_equal(plan.source().numpy(), want.source())
    on_torch = maker(kernels, metric)  # the low-level functions take tensors as well
    assert torch.equal(on_torch.map, plan.map)
    assert torch.equal(on_torch.source(), plan.source())


@pytest.mark.parametrize("options", [{"tau": 0.3}, {"r": 3}, {"r": 3, "max_r": 2}, {"tau": 0.1, "class_token": True}])
def test_same_threshold_plans_as_the_kernels(metric, options):
    valid = torch.ones(3, 17, dtype=torch.bool)
    valid[1, 11:] = False
    for part, mask in ((metric, None), (metric[:1], None), (metric, valid)):
        plan, tau = ops.threshold_match(part, **options, valid=mask)
        array_mask = None if mask is None else mask.numpy()
        want, want_tau = kernels.threshold_match(part.numpy(), **options, valid=array_mask)
        assert tau == want_tau
        assert (plan.valid is None) == (want.valid is None)
        np.testing.assert_array_equal(plan.map.numpy(), want.map)
        if want.valid is not None:
            np.testing.assert_array_equal(plan.valid.numpy(), want.valid)


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_compiles_whole(metric, maker):
    def step(m, x):
        plan = maker(ops, m)
        y, size = plan.merge_weighted(x[:, : plan.tokens])
        return plan.unmerge(y), size, plan.map

    x = torch.randn(3, 17, 4)
    want = step(metric, x)
    torch._dynamo.reset()
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(metric, x)
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w)


def test_vmap(metric):
    stacked = torch.stack([metric, metric.flip(1)])
    for maker in (MAKERS["bipartite"], MAKERS["grid"], MAKERS["distilled"]):
        got = torch.vmap(lambda m, maker=maker: maker(ops, m).map)(stacked)
        assert torch.equal(got, torch.stack([maker(ops, m).map for m in stacked]))


def test_fake_tensors(metric):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        fake = mode.from_tensor(metric)
        plan = ops.bipartite_match(fake, 5)
        assert plan.merge(fake).shape == (3, 12, 8)
        assert plan.unmerge(plan.merge(fake)).shape == fake.shape


def test_gradient_reaches_the_payload_and_never_the_metric(metric):
    metric = metric.clone().requires_grad_()
    x = torch.randn(3, 17, 4, dtype=torch.float32, requires_grad=True)
    for maker in (MAKERS["bipartite"], MAKERS["distilled"], MAKERS["partition"]):
        plan = maker(ops, metric)
        y, _ = plan.merge_weighted(x)
        grad_x, grad_metric = torch.autograd.grad(plan.unmerge(y).square().sum(), (x, metric), allow_unused=True)
        assert grad_metric is None
        rows = torch.zeros(3, plan.kept, 17).scatter_(1, plan.map[:, None], 1.0)
        mean = rows / rows.sum(2, keepdim=True)
        whole = mean.transpose(1, 2) * rows.sum(2)[:, None] @ mean  # dense unmerge(merge(x)), twice its own adjoint
        torch.testing.assert_close(grad_x, 2 * whole @ x, rtol=1e-4, atol=1e-4)
    compiled = torch.compile(lambda m, v: ops.bipartite_match(m, 4).merge(v).sum(), fullgraph=True, backend="aot_eager")
    torch._dynamo.reset()
    compiled(metric, x).backward()
    assert metric.grad is None
    assert x.grad is not None


def test_random_draws(metric):
    def seeded(s):
        return torch.Generator().manual_seed(s)

    assert torch.equal(ops.random_match(metric, 5, seeded(1)).map, ops.random_match(metric, 5, seeded(1)).map)
    assert not torch.equal(ops.random_match(metric, 5, seeded(1)).map, ops.random_match(metric, 5, seeded(2)).map)
    grid = metric[:, :15]
    one, same, other = (ops.match_2d(grid, 5, 3, 2, 2, 6, seeded(s)).map for s in (1, 1, 3))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert ops.match_2d(grid, 5, 3, 2, 2, 99, seeded(1)).kept == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(metric, dtype):
    half = metric.to(dtype)
    plan = ops.bipartite_match(half, 5)
    assert torch.equal(plan.map, ops.bipartite_match(half.float(), 5).map)
    assert plan.merge(half).dtype == dtype
