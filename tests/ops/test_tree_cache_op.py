# SPDX-License-Identifier: Apache-2.0
"""compact_cache, build_tree and update_adjacency as torch ops: mutation, compilation, autograd's versions."""

import pytest

torch = pytest.importorskip("torch")

from tokernel import ops
from tokernel.kernels.tree import TokenTree

LENGTHS = torch.tensor([1, 3])
PATH = torch.tensor([[0, 2, 3], [1, -1, -1]])
PARENTS = torch.tensor([-1, 0, 0, 1])


@pytest.fixture
def cache():
    return torch.randn(2, 3, 8, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def adjacency():
    return torch.randint(0, 9, (9, 2), generator=torch.Generator().manual_seed(0))


def moved(cache):
    want = cache.clone()
    want[0, :, 1:4] = cache[0, :, [1, 3, 4]]
    want[1, :, 3] = cache[1, :, 4]
    return want


def test_moves_in_place(cache):
    want = moved(cache)
    lengths = ops.compact_cache(cache, LENGTHS, PATH)
    assert torch.equal(lengths, torch.tensor([4, 4]))
    assert torch.equal(cache, want)


def test_opcheck(cache, adjacency):
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.tokernel.compact_cache.default, (cache, LENGTHS, PATH, None), test_utils=checks)
    torch.library.opcheck(torch.ops.tokernel.build_tree.default, (adjacency, LENGTHS, PARENTS, None), test_utils=checks)
    tokens = torch.tensor([[1, 2]])
    torch.library.opcheck(
        torch.ops.tokernel.update_adjacency.default,
        (adjacency, tokens, torch.zeros(1, 2, 2, dtype=torch.int64)),
        test_utils=checks,
    )


def test_autograd_notices_the_change(cache):
    weight = torch.ones((), requires_grad=True)
    product = (weight * cache).sum()
    before = cache._version
    ops.compact_cache(cache, LENGTHS, PATH)
    assert cache._version == before + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_autograd(mode, cache, adjacency):
    with mode():
        own = cache.clone()
        ops.compact_cache(own, LENGTHS, PATH)
        assert torch.equal(own, moved(cache))
        table = adjacency.clone()
        ops.update_adjacency(table, torch.tensor([[1]]), torch.tensor([[[7, 8]]]))
        assert table[1].tolist() == [7, 8]


def test_refuses_a_cache_that_needs_grad(cache):
    with pytest.raises(ValueError, match=r"compact_cache: cache must be detached from autograd"):
        ops.compact_cache(cache.requires_grad_(), LENGTHS, PATH)


def test_compiles_whole(cache, adjacency):
    tokens = torch.tensor([[1, 2]])

    def step(cache, table):
        scaled = cache * 2
        lengths = ops.compact_cache(scaled, LENGTHS, PATH)
        ops.compact_cache(cache, LENGTHS, PATH)
        built = ops.build_tree(table, tokens[0], PARENTS)
        ops.update_adjacency(table, tokens, built[:, 1:3].expand(1, 2, 2).contiguous())
        return scaled, lengths, built

    def run(function):
        own, table = cache.clone(), adjacency.clone()
        return *function(own, table), own, table

    torch._dynamo.reset()
    for got, want in zip(run(torch.compile(step, backend="aot_eager", fullgraph=True)), run(step), strict=True):
        assert torch.equal(got, want)


def test_trees_of_every_kind(adjacency):
    root = torch.tensor([1, 2])
    shape = TokenTree([-1, 0, 0, 1])
    want = ops.build_tree(adjacency, root, PARENTS)
    assert torch.equal(ops.build_tree(adjacency, root, shape), want)
    assert torch.equal(ops.build_tree(adjacency, root, [shape, shape]), want)
    assert torch.equal(ops.build_tree(adjacency.int(), root.int(), PARENTS.int(), torch.tensor(shape.rank)), want)
