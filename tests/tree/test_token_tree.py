# SPDX-License-Identifier: Apache-2.0
"""TokenTree against the buffers of Medusa, EAGLE-2, Sequoia and SGLang, and against its own definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokernel.kernels.tree import TokenTree


@st.composite
def trees(draw, most=140):
    nodes = draw(st.integers(1, most))
    return TokenTree([-1, *(draw(st.integers(0, i - 1)) for i in range(1, nodes))])


@pytest.fixture
def vectors(golden):
    return lambda name: np.load(golden / "tree_attention" / f"{name}.npz")


@pytest.mark.parametrize("name", ["medusa_small", "medusa_mc63_v48"])
def test_medusa_buffers(vectors, name):
    d = vectors(name)
    tree = TokenTree.from_paths([path[path >= 0] for path in d["choice_paths"]])
    np.testing.assert_array_equal(tree.mask, d["attn_mask"])
    np.testing.assert_array_equal(tree.positions(0), d["position_ids"])
    np.testing.assert_array_equal(tree.paths("descending"), d["retrieve_indices"])


@pytest.mark.parametrize("name", ["eagle2_k4_d3_t12", "eagle2_k10_d5_t59"])
def test_eagle_buffers(vectors, name):
    d = vectors(name)
    tree = TokenTree.from_mask(d["tree_mask"])
    np.testing.assert_array_equal(tree.positions(0), d["position_ids"])
    for order, key in (("ascending", "retrieve_indices_unsorted"), ("lexicographic", "retrieve_indices")):
        rows = tree.paths(order)
        padded = np.full(d[key].shape, -1)  # the official rows are as long as the tree may get deep
        padded[:, : rows.shape[1]] = rows
        np.testing.assert_array_equal(padded, d[key])


def test_sequoia_grow_map(vectors):
    d = vectors("sequoia_growmap")
    tree = TokenTree(d["parents"])
    np.testing.assert_array_equal(tree.depth, d["depth"])
    np.testing.assert_array_equal(tree.mask, d["mask"])
    np.testing.assert_array_equal(np.bincount(tree.parents[1:], minlength=len(tree)), d["branches"])
    np.testing.assert_array_equal(np.bincount(tree.depth), d["level_sizes"])


def test_sibling_links(vectors):
    d = vectors("sibling_verify")
    for child, sibling in zip(d["next_token"], d["next_sibling"], strict=True):
        tree, order = TokenTree.from_siblings(child, sibling)
        old = np.append(order, -1)  # -1 stays -1
        np.testing.assert_array_equal(old[tree.first_child], child[order])
        np.testing.assert_array_equal(old[tree.next_sibling], sibling[order])


@settings(deadline=None, max_examples=50)
@given(trees())
def test_the_mask_is_the_transitive_closure(tree):
    nodes = len(tree)
    closure = np.eye(nodes)
    closure[np.arange(1, nodes), tree.parents[1:]] = 1
    for _ in range(8):  # 2^8 edges
        closure = np.minimum(closure @ closure, 1)
    np.testing.assert_array_equal(tree.mask, closure > 0)
    np.testing.assert_array_equal(tree.mask.sum(1), tree.depth + 1)
    assert not np.triu(tree.mask, 1).any()


@settings(deadline=None, max_examples=50)
@given(trees())
def test_bits_are_the_mask(tree):
    for i in range(len(tree)):
        word = sum(int(w) << (64 * k) for k, w in enumerate(tree.bits[i]))
        assert word == sum(1 << j for j in range(len(tree)) if tree.mask[i, j])


@settings(deadline=None, max_examples=50)
@given(trees())
def test_every_form_leads_back(tree):
    assert TokenTree.from_mask(tree.mask) == tree
    linked, order = TokenTree.from_siblings(tree.first_child, tree.next_sibling)
    assert linked == tree
    np.testing.assert_array_equal(order, np.arange(len(tree)))
    assert hash(TokenTree(tree.parents)) == hash(tree)
    by_depth = TokenTree.from_paths([tuple(tree.rank[tree.path(i)[1:]]) for i in range(1, len(tree))])
    assert sorted(by_depth.depth) == sorted(tree.depth)
    assert sorted(by_depth.subtree_sizes) == sorted(tree.subtree_sizes)


@settings(deadline=None, max_examples=50)
@given(trees())
def test_paths_hold_every_leaf_once(tree):
    rows = tree.paths()
    assert [row[row >= 0][-1] for row in rows] == tree.leaves.tolist()
    for row in rows:
        way = row[row >= 0]
        assert way.tolist() == tree.path(int(way[-1]))
        assert (row[len(way) :] == -1).all()
    np.testing.assert_array_equal(tree.paths("descending"), rows[::-1])
    by_row = sorted(rows.tolist(), key=lambda row: [len(tree) if i < 0 else i for i in row])
    np.testing.assert_array_equal(tree.paths("lexicographic"), by_row)


@settings(deadline=None, max_examples=50)
@given(trees(), st.booleans())
def test_depth_first_order_is_the_same_tree(tree, heavy):
    order = tree.depth_first(heavy)
    again = tree.reordered(order)
    np.testing.assert_array_equal(again.mask, tree.mask[order][:, order])
    np.testing.assert_array_equal(again.depth_first(heavy), np.arange(len(tree)))
    sizes = again.subtree_sizes
    for i in range(len(again)):  # a subtree is an interval
        assert again.mask[i : i + sizes[i], i].all()


def test_depth_first_needs_fewer_blocks_on_average():
    rng = np.random.default_rng(0)
    saved = []
    for _ in range(20):
        tree = TokenTree([-1, *(int(rng.integers(max(0, i - 64), i)) for i in range(1, 512))])
        saved.append(tree.mask_blocks() - tree.reordered(tree.depth_first()).mask_blocks())
    assert np.mean(saved) > 0


@settings(deadline=None, max_examples=50)
@given(trees(40), st.integers(0, 9))
def test_packed_mask(tree, prefix):
    packed, columns = tree.packed_mask(prefix), prefix + len(tree)
    for i in range(len(tree)):
        for j in range(columns):
            off = i * columns + j
            assert bool(packed[off >> 3] >> (off & 7) & 1) == (j < prefix or tree.mask[i, j - prefix])


def test_small_trees():
    root = TokenTree.chain(1)
    assert root.paths().tolist() == [[0]]
    assert root.bits.tolist() == [[1]]
    assert TokenTree.from_paths([]) == root


def test_a_chain_is_causal():
    tree = TokenTree.chain(70)
    np.testing.assert_array_equal(tree.mask, np.tril(np.ones((70, 70), bool)))
    assert tree.bits.shape == (70, 2)


def test_parents_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        TokenTree.chain(3).parents[1] = 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenTree([]), "of at least one node, got an empty tree"),
        (lambda: TokenTree.chain(0), "of at least one node, got an empty tree"),
        (lambda: TokenTree.from_siblings([], []), "of at least one node, got an empty tree"),
        (lambda: TokenTree.from_mask(np.ones((0, 0))), r"of at least one node, got \(0, 0\)"),
        (lambda: TokenTree([0, 0]), "must begin with -1, the root's, got 0"),
        (lambda: TokenTree([-1, 2, 0]), "must be smaller than their nodes, got 2 for node 1"),
        (lambda: TokenTree([-1, 1]), "got 1 for node 1"),
        (lambda: TokenTree([-1, -1]), "got -1 for node 1"),
        (lambda: TokenTree([[-1]]), r"must be \(T\) integers, got \(1, 1\) int64"),
        (lambda: TokenTree([-1.0]), r"must be \(T\) integers, got \(1,\) float64"),
        (lambda: TokenTree.from_paths([[0], [1, 0]]), r"must hold the beginning of each, got \[1, 0\] without it"),
        (lambda: TokenTree.from_paths([[0], [0]]), "must be distinct, got one twice"),
        (lambda: TokenTree.from_paths([[]]), "got an empty path or a negative rank"),
        (lambda: TokenTree.from_mask(np.ones((2, 3))), r"must be \(T, T\) of at least one node, got \(2, 3\)"),
        (lambda: TokenTree.from_mask(np.eye(2)), "must have one root, node 0, got several"),
        (lambda: TokenTree.from_mask([[1, 0, 0], [1, 1, 0], [0, 1, 1]]), "got rows that no tree has"),
        (lambda: TokenTree.from_siblings([1, 0], [-1, -1]), r"must reach each node in \[1, 2\) once, got 0 from 1"),
        (lambda: TokenTree.from_siblings([1, -1, -1], [-1, -1, -1]), "once, got 2 never"),
        (lambda: TokenTree.from_siblings([1, -1], [-1, 1]), "once, got 1 from 0"),
        (lambda: TokenTree.from_siblings([-1, 2, 1], [-1, -1, -1]), "got some that go round"),
        (lambda: TokenTree.from_siblings([1], [-1, -1]), r"must be \(T\) and \(T\), got \(1,\) and \(2,\)"),
        (lambda: TokenTree.chain(3).reordered([0, 2, 1]), "must be smaller than their nodes"),
        (lambda: TokenTree.chain(3).reordered([0, 0, 1]), "must be a permutation of 3 nodes"),
        (lambda: TokenTree.chain(3).path(3), r"must be in \[0, 3\), got 3"),
        (lambda: TokenTree.chain(3).paths("by luck"), "must be ascending, descending or lexicographic"),
        (lambda: TokenTree.chain(3).mask_blocks(0), "must be at least 1, got 0"),
        (lambda: TokenTree.chain(3).packed_mask(-1), "must be at least 0, got -1"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=f"TokenTree: .*{message}"):
        make()
