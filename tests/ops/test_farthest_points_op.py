# SPDX-License-Identifier: Apache-2.0
"""farthest_points as a torch op: registration, transforms, compilation."""

import pytest

torch = pytest.importorskip("torch")

from tokernel import ops


@pytest.fixture
def x():
    return torch.randn(3, 19, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mask():
    return torch.rand(3, 19, generator=torch.Generator().manual_seed(1)) < 0.7


def test_opcheck(x, mask):
    op = torch.ops.tokernel.farthest_points.default
    torch.library.opcheck(op, (x, 5, "cosine", "maxmin", "maxmin", None, None, None))
    torch.library.opcheck(op, (x, 5, "l2", "maxsum", "maxmin", 3, None, mask))
    torch.library.opcheck(op, (x, 5, "cosine", "maxsum", "maxmin", None, torch.tensor([0, 4, 18]), mask))


def test_one_sample_and_its_batch(x, mask):
    order, score = ops.farthest_points(x, 6, mask=mask, return_score=True)
    assert order.shape == score.shape == (3, 6)
    for b in range(3):
        alone, alone_score = ops.farthest_points(x[b], 6, mask=mask[b], return_score=True)
        assert torch.equal(alone, order[b])
        assert torch.equal(alone_score, score[b])
    starts = torch.tensor([0, 4, 18])
    assert torch.equal(ops.farthest_points(x, 6, start=starts)[1], ops.farthest_points(x[1], 6, start=4))


def test_no_gradient(x):
    order, score = ops.farthest_points(x.requires_grad_(), 4, return_score=True)
    assert not order.requires_grad
    assert not score.requires_grad


def test_vmap(x, mask):
    stacked, masks = torch.stack([x, x.flip(1)]), torch.stack([mask, mask.flip(1)])
    got = torch.vmap(lambda s, m: ops.farthest_points(s, 4, mask=m))(stacked, masks)
    rows = torch.vmap(lambda s, m: ops.farthest_points(s, 4, mask=m))(x, mask)
    for i in range(2):
        assert torch.equal(got[i], ops.farthest_points(stacked[i], 4, mask=masks[i]))
    assert torch.equal(rows, got[0])


def test_compiles_whole(x, mask):
    def step(s, m):
        order, score = ops.farthest_points(s * 2, 5, "l2", "maxsum", 3, m, return_score=True)
        return order + 1, score.square(), ops.farthest_points(s[0], 3)

    want = step(x, mask)
    torch._dynamo.reset()
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(x, mask)
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w)


def test_errors_pass_through():
    with pytest.raises(ValueError, match=r"^farthest_points: k must be in \[0, 4\], got 5$"):
        ops.farthest_points(torch.zeros(2, 4, 3), 5)
    with pytest.raises(ValueError, match=r"^farthest_points: start must be 'maxmin', .*, got 'near'$"):
        ops.farthest_points(torch.zeros(4, 3), 2, start="near")
    with pytest.raises(ValueError, match=r"^farthest_points: x must be .*, got \(4,\) float32$"):
        ops.farthest_points(torch.zeros(4), 2)
    with pytest.raises(ValueError, match=r"^farthest_points: mask must be .*, got "):
        ops.farthest_points(torch.zeros(2, 4, 3), 2, mask=torch.ones(4, dtype=torch.bool))
