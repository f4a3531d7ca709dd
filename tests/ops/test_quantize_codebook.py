# SPDX-License-Identifier: Apache-2.0
"""ema_update and codebook_stats as torch ops: registration, transforms, compilation."""

import pytest

torch = pytest.importorskip("torch")

from tokernel import ops


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 30, 4, generator=generator), torch.randint(-1, 5, (2, 30), generator=generator)


def test_opcheck(rows):
    torch.library.opcheck(torch.ops.tokernel.ema_update.default, (*rows, 5))
    torch.library.opcheck(torch.ops.tokernel.codebook_stats.default, (rows[1], 5))


def test_against_one_hot(rows):
    x, index = rows
    one_hot = (index[..., None] == torch.arange(5)).double()
    counts, sums = ops.ema_update(x, index, 5)
    assert torch.equal(counts, one_hot.sum(1).long())
    torch.testing.assert_close(sums.double(), one_hot.transpose(1, 2) @ x.double(), atol=1e-5, rtol=1e-5)
    single = ops.ema_update(x[0], index[0], 5)
    assert torch.equal(single.sums, sums[0])
    assert not ops.ema_update(x.clone().requires_grad_(), index, 5).sums.requires_grad


def test_stats(rows):
    index = rows[1]
    books = ops.codebook_stats(index, 5, per_book=True)
    assert books.counts.shape == (2, 5)
    for q in range(2):
        alone = ops.codebook_stats(index[q].reshape(5, 2, 3), 5)
        assert alone.usage.shape == ()
        for ours, theirs in zip(alone, books, strict=True):
            assert torch.equal(ours, theirs[q])
    assert torch.equal(ops.codebook_stats(index, 5).counts, books.counts.sum(0))
    with pytest.raises(ValueError, match=r"^codebook_stats: index must be"):
        ops.codebook_stats(index[0], 5, per_book=True)


def test_vmap(rows):
    x, index = rows
    counts, sums = torch.vmap(lambda a, b: ops.ema_update(a, b, 5))(x, index)
    want = ops.ema_update(x, index, 5)
    assert torch.equal(counts, want.counts)
    assert torch.equal(sums, want.sums)
    stats = torch.vmap(lambda i: ops.codebook_stats(i, 5))(index)
    for ours, theirs in zip(stats, ops.codebook_stats(index, 5, per_book=True), strict=True):
        assert torch.equal(ours, theirs)


def test_compiles_whole(rows):
    def step(x, index):
        counts, sums = ops.ema_update(x, index, 5)
        return sums / counts.clamp(min=1)[..., None], ops.codebook_stats(index, 5).perplexity

    torch._dynamo.reset()
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(*rows)
    for ours, theirs in zip(got, step(*rows), strict=True):
        torch.testing.assert_close(ours, theirs)
