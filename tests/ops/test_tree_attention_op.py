# SPDX-License-Identifier: Apache-2.0
"""tree_attention as a torch op: registration, compilation, and no gradient."""

import pytest

torch = pytest.importorskip("torch")

from tokernel import ops
from tokernel.kernels import tree as kernels
from tokernel.kernels.tree import TokenTree

TREE = TokenTree([-1, 0, 0, 1])
PARENTS = torch.tensor([-1, 0, 0, 1])


@pytest.fixture
def arrays():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, heads, rows, 8, generator=generator) for heads, rows in ((4, 4), (2, 12), (2, 12))]


def test_equals_the_kernel(arrays):
    lengths = torch.tensor([5, 8])
    want = kernels.tree_attention(*arrays, lengths, TREE, return_lse=True)
    for tree in (TREE, [TREE, TREE], PARENTS, PARENTS.int(), PARENTS.expand(2, 4)):
        o, lse = ops.tree_attention(*arrays, lengths, tree, return_lse=True)
        torch.testing.assert_close((o, lse), want, rtol=0, atol=0)
        assert torch.equal(ops.tree_attention(*arrays, lengths, tree), o)


def test_one_length_and_pages(arrays):
    q, k, v = arrays
    want = ops.tree_attention(q, k, v, 7, TREE)
    pools = [x.view(2, 2, 3, 4, 8).transpose(1, 2).reshape(6, 2, 4, 8) for x in (k, v)]
    pages = torch.arange(6).view(2, 3)
    assert torch.equal(ops.tree_attention(q, *pools, torch.tensor([7, 7]), TREE, pages=pages), want)


def test_opcheck(arrays):
    op = torch.ops.tokernel.tree_attention.default
    torch.library.opcheck(op, (*arrays, torch.tensor([5, 8]), 0, PARENTS, None, None, True))
    torch.library.opcheck(op, (*arrays, None, 8, PARENTS, 0.5, None, False))


def test_compiles_whole(arrays):
    def step(q, k, v, lengths):
        return ops.tree_attention(2 * q, k, v, lengths, PARENTS, return_lse=True)

    lengths = torch.tensor([5, 8])
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arrays, lengths), step(*arrays, lengths), rtol=0, atol=0)


def test_has_no_gradient(arrays):
    q, k, v = (x.requires_grad_() for x in arrays)
    out = ops.tree_attention(q, k, v, 8, TREE)
    with pytest.raises(RuntimeError, match="does not require grad"):
        out.sum().backward()


def test_says_what_is_wrong(arrays):
    q, k, v = arrays
    with pytest.raises(ValueError, match=r"^tree_attention: lengths must be within the cache"):
        ops.tree_attention(q, k, v, 9, TREE)
    with pytest.raises(TypeError, match=r"^tree_attention: tree must be a TokenTree, a list of them, or an array"):
        ops.tree_attention(q, k, v, 8, [3])
