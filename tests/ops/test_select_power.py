# SPDX-License-Identifier: Apache-2.0
"""power_iterate as a torch op: registration, transforms, compilation."""

import pytest

torch = pytest.importorskip("torch")

from tokernel import ops


@pytest.fixture
def maps():
    return torch.randn(2, 3, 17, 17, generator=torch.Generator().manual_seed(0)).softmax(-1)


def test_opcheck(maps):
    start = torch.rand(2, 3, 17)
    for A, s0 in (
        (maps, None),
        (maps, start),
        (maps[0], start[0]),
        (maps[0, 0], start[0, 0]),
        (maps.bfloat16(), start),
    ):
        for eps in (None, 1e-3):
            torch.library.opcheck(torch.ops.tokernel.power_iterate.default, (A, s0, 4, eps))


def test_equals_products(maps):
    s = torch.full((2, 3, 1, 17), 1 / 17)
    for _ in range(5):
        s = s @ maps
    got = ops.power_iterate(maps, iters=5)
    torch.testing.assert_close(got, s[:, :, 0], atol=1e-6, rtol=0)
    half = ops.power_iterate(maps.half(), iters=5)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, s[:, :, 0], atol=1e-4, rtol=0)


def test_has_no_gradient(maps):
    assert not ops.power_iterate(maps.requires_grad_(), iters=2).requires_grad


def test_vmap(maps):
    start = torch.rand(2, 3, 17)
    want = ops.power_iterate(maps, start, iters=3)
    assert torch.equal(ops.power_iterate(maps[1, 2], start[1, 2], iters=3), want[1, 2])
    assert torch.equal(torch.vmap(lambda A, s: ops.power_iterate(A, s, iters=3))(maps, start), want)
    assert torch.equal(torch.vmap(lambda A: ops.power_iterate(A, iters=3))(maps), ops.power_iterate(maps, iters=3))


def test_vmap_over_single_maps(maps):
    want = ops.power_iterate(maps[0], iters=3)
    assert torch.equal(torch.vmap(lambda A: ops.power_iterate(A, iters=3))(maps[0]), want)


def test_compiles_whole(maps):
    start = torch.rand(2, 3, 17)
    torch._dynamo.reset()
    step = torch.compile(
        lambda A, s: ops.power_iterate(A, s, iters=6, eps=1e-6) * 2, fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(step(maps, start), 2 * ops.power_iterate(maps, start, iters=6, eps=1e-6))


def test_errors_pass_through(maps):
    with pytest.raises(ValueError, match=r"^power_iterate: A must be .*, got \(17,\) float32$"):
        ops.power_iterate(maps[0, 0, 0], iters=1)
    with pytest.raises(ValueError, match=r"^power_iterate: eps must be a number of at least 0, got -1.0$"):
        ops.power_iterate(maps, iters=1, eps=-1.0)
