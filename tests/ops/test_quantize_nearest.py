# SPDX-License-Identifier: Apache-2.0
"""nearest, nearest_topk and nearest_rank as torch ops: registration, transforms, compilation."""

import pytest

torch = pytest.importorskip("torch")

from tokernel import ops


@pytest.fixture
def x():
    return torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def codes():
    return torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(1))


RANK = torch.tensor([[0, 11, 3, 1, 2, 7, 5, 4, 6]] * 2)


def test_opcheck(x, codes):
    torch.library.opcheck(torch.ops.tokernel.nearest.default, (x, codes, "l2"))
    torch.library.opcheck(torch.ops.tokernel.nearest_two.default, (x, codes, "cosine"))
    torch.library.opcheck(torch.ops.tokernel.nearest_topk.default, (x, codes, 3, "dot"))
    torch.library.opcheck(torch.ops.tokernel.nearest_rank.default, (x, codes, RANK, "l2"))


def test_equals_torch(x, codes):
    best, index = torch.cdist(x, codes).square().topk(4, largest=False)
    found = ops.nearest(x, codes, second=True)
    assert torch.equal(found.index, index[..., 0])
    assert torch.equal(found.second, index[..., 1])
    torch.testing.assert_close(found.second_best, best[..., 1], atol=1e-5, rtol=1e-5)
    assert torch.equal(ops.nearest_topk(x, codes, 4).index, index)
    order = torch.einsum("qnd,qkd->qnk", x, codes).sort(-1, descending=True)
    got, value = ops.nearest_rank(x, codes, RANK, "dot")
    assert torch.equal(got, order.indices.gather(-1, RANK[..., None])[..., 0])
    torch.testing.assert_close(value, order.values.gather(-1, RANK[..., None])[..., 0])


def test_books_are_shared_without_a_copy(x, codes):
    def same(a, b):
        assert all(p is q or torch.equal(p, q) for p, q in zip(a, b, strict=True))

    same(ops.nearest(x[0], codes, "dot", True), ops.nearest(x[:1].repeat(2, 1, 1), codes, "dot", True))
    same(ops.nearest(x, codes[0]), ops.nearest(x, codes[:1].repeat(2, 1, 1)))
    same(ops.nearest_topk(x[0], codes[0], 3), [t[0] for t in ops.nearest_topk(x, codes, 3)])
    same(ops.nearest_rank(x[0], codes[0], RANK[0]), [t[0] for t in ops.nearest_rank(x, codes, RANK)])
    same(ops.nearest_rank(x, codes[1], RANK[0]), ops.nearest_rank(x, codes[1:].repeat(2, 1, 1), RANK))


def test_no_gradient(x, codes):
    leaf, book = x.clone().requires_grad_(), codes.clone().requires_grad_()
    found = [
        *ops.nearest(leaf, book, second=True),
        *ops.nearest_topk(leaf, book, 2),
        *ops.nearest_rank(leaf, book, RANK),
    ]
    assert not any(t.requires_grad for t in found)


def test_vmap(x, codes):
    got = torch.vmap(lambda r, c: ops.nearest_topk(r, c, 3), (0, 0))(x, codes)
    assert torch.equal(got[0], ops.nearest_topk(x, codes, 3).index)
    shared = torch.vmap(lambda r: ops.nearest(r, codes[0]).index)(x)
    assert torch.equal(shared, ops.nearest(x, codes[0]).index)
    ranks = torch.vmap(lambda r, k: ops.nearest_rank(r, codes[0], k)[0])(x, RANK)
    assert torch.equal(ranks, ops.nearest_rank(x, codes[0], RANK)[0])


def test_compiles_whole(x, codes):
    def step(r, c):
        index, best, second, _ = ops.nearest(r, c[0], second=True)
        return index, best, second, ops.nearest_topk(r, c, 2).best, ops.nearest_rank(r, c, RANK)[0]

    want = step(x, codes)
    torch._dynamo.reset()
    for got, expected in zip(torch.compile(step, fullgraph=True, backend="aot_eager")(x, codes), want, strict=True):
        assert torch.equal(got, expected)


def test_errors_pass_through(x, codes):
    with pytest.raises(ValueError, match=r"^nearest: codes must be .*, got "):
        ops.nearest(x, codes[..., :3])
    with pytest.raises(ValueError, match=r"^nearest: x must be .*, got "):
        ops.nearest(x[0, 0], codes)
    with pytest.raises(ValueError, match=r"^nearest_topk: k must be in \[1, 12\], got 13$"):
        ops.nearest_topk(x, codes, 13)
    with pytest.raises(ValueError, match=r"^nearest_rank: rank must be in \[0, 12\), got 12"):
        ops.nearest_rank(x, codes, RANK + 1)
