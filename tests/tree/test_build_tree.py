# SPDX-License-Identifier: Apache-2.0
"""build_tree and update_adjacency on every backend, against a walk in Python and the official code."""

import numpy as np
import pytest

import tokernel
from tokernel.kernels import tree
from tokernel.kernels.tree import TokenTree

GOLDEN = ["small_tree_v24", "default_tree_v40"]


def walked(adjacency, root, parents, rank):
    tokens = np.full((len(root), len(parents)), -1)
    for row, start in zip(tokens, root, strict=True):
        row[0] = start
        for i in range(1, len(parents)):
            if parents[i] >= 0:
                row[i] = adjacency[row[parents[i]], rank[i]]
    return tokens


def random_tree(rng, nodes, children):
    """Parents of a tree in which no node has more than so many children."""
    parents, room = [-1], [0] * children
    for i in range(1, nodes):
        parents.append(room.pop(rng.integers(len(room))))
        room += [i] * children
    return TokenTree(parents)


@pytest.mark.parametrize("nodes", [1, 2, 31, 32, 33, 64, 100])
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_equals_a_walk(backend, nodes, dtype, rng):
    shape = random_tree(rng, nodes, 3)
    adjacency = rng.integers(0, 50, (50, 3)).astype(dtype)
    root = rng.integers(0, 50, 4)
    want = walked(adjacency, root, shape.parents, shape.rank)
    got = tree.build_tree(adjacency, root, shape)
    assert tokernel.last_backend() == backend
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(tree.build_tree(adjacency, root.astype(np.int32), shape, shape.rank), want)
    np.testing.assert_array_equal(tree.build_tree(adjacency, root, shape.parents), want)


def test_ranks_need_not_follow_the_order_of_children(backend, rng):
    shape = TokenTree([-1, 0, 0, 1, 1, 4])
    adjacency = rng.integers(0, 9, (9, 4))
    rank = np.array([[-7, 3, 0, 2, 2, 1], [99, 0, 1, 3, 0, 3]])  # node 0 has none
    got = tree.build_tree(adjacency, np.array([8, 0]), shape, rank)
    for b in range(2):
        np.testing.assert_array_equal(got[b], walked(adjacency, [[8, 0][b]], shape.parents, rank[b])[0])


@pytest.mark.parametrize("nodes", [2, 33, 90])
def test_a_chain_follows_the_first_candidates(backend, nodes, rng):
    adjacency = rng.integers(0, 30, (30, 1))
    got = tree.build_tree(adjacency, np.array([5]), TokenTree.chain(nodes))[0]
    assert all(got[i] == adjacency[got[i - 1], 0] for i in range(1, nodes))


def test_a_tree_for_every_sequence(backend, rng):
    trees = [TokenTree([-1, 0, 0, 2]), TokenTree([-1]), TokenTree([-1, 0, 1])]
    adjacency = rng.integers(0, 20, (20, 2))
    root = np.array([3, 19, 0])
    got = tree.build_tree(adjacency, root, trees)
    assert got.shape == (3, 4)
    for b, shape in enumerate(trees):
        want = walked(adjacency, root[b : b + 1], shape.parents, shape.rank)[0]
        np.testing.assert_array_equal(got[b], [*want, *[-1] * (4 - len(shape))])


def test_strided_tables_and_out(backend, rng):
    adjacency = rng.integers(0, 20, (40, 6))
    shape = TokenTree([-1, 0, 0, 1])
    root = np.array([1, 2])
    for view in (adjacency[::2, 1:4], adjacency[20:, ::2], adjacency[:20][::-1]):
        out = np.zeros((2, 4), np.int64)
        assert tree.build_tree(view, root, shape, out=out) is out
        np.testing.assert_array_equal(out, walked(view, root, shape.parents, shape.rank))


def test_no_sequences(backend):
    assert tree.build_tree(np.zeros((3, 2), np.int64), np.zeros(0, np.int64), TokenTree([-1, 0])).shape == (0, 2)


@pytest.mark.parametrize("name", GOLDEN)
def test_fills_as_the_official_code(backend, golden, name):
    data = np.load(golden / "token_recycling" / f"{name}.npz")
    shape = TokenTree.from_paths([[int(r) for r in path if r >= 0] for path in data["template_paths"]])
    np.testing.assert_array_equal(shape.parents, data["father_index"])
    for step, adjacency in enumerate(data["step_adj_before"]):
        want = data["step_tree_tokens"][step]
        np.testing.assert_array_equal(tree.build_tree(adjacency, want[:1], shape)[0], want)
        rank = data["candi_index"]  # -1 for the root
        np.testing.assert_array_equal(tree.build_tree(adjacency, want[:1], shape, rank)[0], want)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_updates_as_the_official_code(backend, golden, name, dtype):
    data = np.load(golden / "token_recycling" / f"{name}.npz")
    adjacency = data["step_adj_before"][0].astype(dtype)
    steps = len(data["step_adj_before"])
    for step in range(steps):
        np.testing.assert_array_equal(adjacency, data["step_adj_before"][step])
        tree.update_adjacency(adjacency, data["step_tree_tokens"][step][None], data["step_top8"][step][None])
        assert tokernel.last_backend() == backend


def test_the_last_of_equal_tokens_wins(backend, rng):
    tokens = rng.integers(-1, 6, (3, 70))
    candidates = rng.integers(0, 40, (3, 70, 5))
    adjacency = np.full((40, 5), 39)
    want = adjacency.copy()
    for token, row in zip(tokens.ravel(), candidates.reshape(-1, 5), strict=True):
        if token >= 0:
            want[token] = row
    tree.update_adjacency(adjacency, tokens.astype(np.int32), candidates.astype(np.int32))
    np.testing.assert_array_equal(adjacency, want)
    assert (adjacency[6:] == 39).all()


def test_updates_a_strided_table(backend):
    whole = np.zeros((6, 7), np.int64)
    tree.update_adjacency(whole[::2, 2:5], np.array([[1, 0]]), np.array([[[1, 2, 0], [2, 2, 1]]]))
    want = np.zeros_like(whole)
    want[2, 2:5], want[0, 2:5] = [1, 2, 0], [2, 2, 1]
    np.testing.assert_array_equal(whole, want)


@pytest.mark.parametrize("shape", [(0, 4, 2), (2, 0, 2), (2, 4, 0)], ids=str)
def test_updates_with_nothing(backend, shape):
    adjacency = np.ones((5, shape[2]), np.int64)
    tree.update_adjacency(adjacency, np.zeros(shape[:2], np.int64), np.zeros(shape, np.int64))
    assert (adjacency == 1).all()


def test_refuses(backend):
    adjacency = np.array([[1, 2], [5, 0], [0, 1]])
    shape = TokenTree([-1, 0, 0, 1])
    root = np.array([0])
    out = np.full((1, 4), 7)
    for message, call in (
        (r"root must be in \[0, 3\), got 3", {"root": np.array([3])}),
        (r"root must be in \[0, 3\), got -1", {"root": np.array([-1])}),
        (r"adjacency must be filled with tokens in \[0, 3\), got 5 for node 3 of sequence 0", {}),
        (r"rank must be in \[0, 2\), the candidates of a token, got 2 for node 3", {"tree": TokenTree([-1, 0, 0, 0])}),
        (r"rank must be in \[0, 2\), the candidates of a token, got -1 for node 2", {"rank": np.array([0, 0, -1, 0])}),
        (r"parents must be .*, got 1 for node 1", {"tree": np.array([-1, 1, 0, 0])}),
        (r"parents must be .*, got an empty tree", {"tree": np.zeros(0, np.int64)}),
    ):
        with pytest.raises(ValueError, match=f"^build_tree: {message}"):
            tree.build_tree(**{"adjacency": adjacency, "root": root, "tree": shape, "out": out, **call})
        assert (out == 7).all()
    assert tree.build_tree(adjacency, root, TokenTree([-1, 0, 0])).tolist() == [[0, 1, 2]]  # the 5 is not on the way


def test_refuses_updates(backend):
    adjacency = np.zeros((3, 2), np.int64)
    tokens, candidates = np.array([[0, 1]]), np.array([[[1, 2], [0, 0]]])
    repeated = np.lib.stride_tricks.as_strided(adjacency, (3, 2), (0, 8))
    for message, call in (
        (r"tokens must be in \[-1, 3\), got 3", {"tokens": np.array([[0, 3]])}),
        (r"tokens must be in \[-1, 3\), got -2", {"tokens": np.array([[0, -2]])}),
        (r"candidates must be in \[0, 3\), got 3", {"candidates": candidates + 1}),
        (r"adjacency must be free of shared memory", {"adjacency": repeated}),
    ):
        with pytest.raises(ValueError, match=f"^update_adjacency: {message}"):
            tree.update_adjacency(**{"adjacency": adjacency, "tokens": tokens, "candidates": candidates, **call})
        assert (adjacency == 0).all()
