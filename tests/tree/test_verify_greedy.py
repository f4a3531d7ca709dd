# SPDX-License-Identifier: Apache-2.0
"""verify_greedy on every backend against Medusa's and EAGLE's choices, a search over all paths, and plain decoding."""

from itertools import pairwise

import numpy as np
import pytest
from bits import on_one_and_two_threads
from trees import distinct_siblings, ragged_parents, random_parents

import tokernel
from tokernel.kernels import tree
from tokernel.kernels.tree import TokenTree


@pytest.fixture
def vectors(golden):
    return lambda name: np.load(golden / "tree_attention" / f"{name}.npz")


def longest_path(tokens, target, parents):
    """The kept nodes, by looking at the path to every node: the longest on which the target chose every token; where
    siblings have the same token, the path through the first."""
    nodes = int((parents >= 0).sum()) + 1
    best = [0]
    for node in range(nodes):
        path = TokenTree(parents[:nodes]).path(node)
        if all(tokens[c] == target[p] for p, c in pairwise(path)) and len(path) > len(best):
            best = path
    return best


def check(tokens, target, parents):
    path, accepted, bonus = tree.verify_greedy(tokens, target, parents)
    rows = np.broadcast_to(parents, tokens.shape)
    for b in range(len(tokens)):
        want = longest_path(tokens[b], target[b], rows[b])
        np.testing.assert_array_equal(path[b], [*want, *[-1] * (tokens.shape[1] - len(want))])
        assert accepted[b] == len(want) - 1
        assert bonus[b] == target[b, want[-1]]
    return accepted


@pytest.mark.parametrize("name", ["medusa_small", "medusa_mc63_v48"])
def test_medusa(vectors, name, backend):
    d = vectors(name)
    given = TokenTree.from_paths([path[path >= 0] for path in d["choice_paths"]])
    tokens = np.broadcast_to(d["tree_tokens"], d["target_logits"].shape[:2])
    path, accepted, _ = tree.verify_greedy(tokens, d["target_logits"].argmax(-1), given)
    # Where the official code reads token 0 for padding, a longer false match is possible; here none happens.
    np.testing.assert_array_equal(accepted, d["greedy_accept"])
    for found, best, length in zip(path, d["greedy_best"], accepted, strict=True):
        np.testing.assert_array_equal(found[: length + 1], d["retrieve_indices"][best][: length + 1])


@pytest.mark.parametrize("name", ["eagle2_k4_d3_t12", "eagle2_k10_d5_t59"])
def test_eagle(vectors, name, backend):
    d = vectors(name)
    given = TokenTree.from_mask(d["tree_mask"])
    target = d["target_logits"].argmax(-1)
    tokens = np.broadcast_to(d["draft_tokens"], target.shape)
    path, accepted, bonus = tree.verify_greedy(tokens, target, given)
    np.testing.assert_array_equal(accepted, d["greedy_accept"])
    for row in range(len(path)):
        way = d["retrieve_indices"][d["greedy_best"][row]][: accepted[row] + 1]
        np.testing.assert_array_equal(path[row, : accepted[row] + 1], way)
        assert bonus[row] == target[row, way[-1]]


@pytest.mark.parametrize("nodes", [1, 2, 3, 7, 8, 9, 10, 31, 32, 33, 64, 65, 130])
def test_equals_the_search_over_all_paths(backend, nodes, rng):
    parents = np.stack([random_parents(rng, nodes) for _ in range(5)])
    tokens = np.stack([distinct_siblings(rng, row, 4) for row in parents])
    target = rng.integers(0, 4, tokens.shape)
    check(tokens, target, parents)
    check(tokens, target, parents[0])
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("nodes", [2, 9, 33, 100])
def test_a_chain_is_kept_as_far_as_it_agrees(backend, nodes):
    tokens = np.arange(nodes)[None] + 5
    for kept in {0, 1, nodes // 2, nodes - 1}:
        target = tokens + 1
        target[0, kept] = 0
        path, accepted, bonus = tree.verify_greedy(tokens, target, TokenTree.chain(nodes))
        assert accepted == kept
        assert bonus == 0
        np.testing.assert_array_equal(path[0], [*range(kept + 1), *[-1] * (nodes - 1 - kept)])


def test_ragged_trees(backend, rng):
    parents = ragged_parents(rng, 40, 20)
    tokens = np.stack([distinct_siblings(rng, row, 3) for row in parents])
    target = rng.integers(0, 3, tokens.shape)
    accepted = check(tokens, target, parents)
    assert accepted.max() > 2
    given = [TokenTree(row[: (row >= 0).sum() + 1]) for row in parents]
    for ours, theirs in zip(
        tree.verify_greedy(tokens, target, parents), tree.verify_greedy(tokens, target, given), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_the_first_of_equal_siblings_is_kept(backend):
    tokens = np.array([[0, 7, 7, 3]])
    path, accepted, bonus = tree.verify_greedy(tokens, np.array([[7, 1, 3, 2]]), np.array([-1, 0, 0, 2]))
    np.testing.assert_array_equal(path, [[0, 1, -1, -1]])
    assert (accepted, bonus) == (1, 1)


def test_the_walk_is_plain_greedy_decoding(backend, rng):
    """A model that says (7 a + 3) mod 11 after token a: however the draft guesses, the same text comes out."""

    def say(token):
        return (7 * token + 3) % 11

    text, want = [1], [1]
    for _ in range(60):
        want.append(say(want[-1]))
    while len(text) < 50:
        parents = random_parents(rng, 30)
        tokens = rng.integers(0, 11, 30)
        tokens[0] = text[-1]
        path, accepted, bonus = tree.verify_greedy(tokens[None], say(tokens)[None], parents)
        text += [*tokens[path[0, 1 : accepted[0] + 1]], bonus[0]]
    assert text == want[: len(text)]


def test_accepts_no_more_than_the_depth(backend, rng):
    for nodes in (1, 12, 50):
        given = TokenTree(random_parents(rng, nodes))
        tokens = np.zeros((1, nodes), np.int64)
        _, accepted, _ = tree.verify_greedy(tokens, tokens, given)  # every child agrees
        assert accepted <= given.depth.max()


def test_without_a_batch(backend, rng):
    parents, tokens, target = random_parents(rng, 9), rng.integers(0, 2, 9), rng.integers(0, 2, 9)
    batched = tree.verify_greedy(tokens[None], target[None], parents)
    for ours, theirs in zip(tree.verify_greedy(tokens, target, parents), batched, strict=True):
        assert ours.shape == theirs.shape[1:]
        np.testing.assert_array_equal(ours, theirs[0])


def test_no_sequences(backend):
    nothing = np.zeros((0, 3), np.int64)
    path, accepted, bonus = tree.verify_greedy(nothing, nothing, TokenTree.chain(3))
    assert path.shape == (0, 3)
    assert accepted.shape == bonus.shape == (0,)


def test_any_integers_and_strides(backend, rng):
    parents, tokens, target = random_parents(rng, 20), rng.integers(-3, 3, (4, 20)), rng.integers(-3, 3, (4, 20))
    want = tree.verify_greedy(tokens, target, parents)
    for kind in (np.int32, np.int64):
        wide = np.repeat(tokens.astype(kind), 2, 1)[:, ::2]
        found = tree.verify_greedy(wide, target.astype(kind), parents.astype(kind))
        for ours, theirs in zip(found, want, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_fills_given_arrays(backend):
    out = (np.zeros((1, 2), np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64))
    found = tree.verify_greedy(np.array([[0, 4]]), np.array([[4, 6]]), TokenTree.chain(2), out=out)
    assert all(ours is given for ours, given in zip(found, out, strict=True))
    np.testing.assert_array_equal(out[0], [[0, 1]])


def test_threads_give_the_same(rng):
    parents = ragged_parents(rng, 3000, 30)
    tokens, target = rng.integers(0, 3, (2, 3000, 30))
    for one, two in zip(*on_one_and_two_threads(lambda: tree.verify_greedy(tokens, target, parents)), strict=True):
        np.testing.assert_array_equal(one, two)


PAIR = np.array([[0, 1], [0, 1]])


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ([0, 0], "-1 for node 0, got 0 for node 0"),
        ([-1, 1], "smaller than its node, or -1 for padding, got 1 for node 1"),
        ([-1, 7], "smaller than its node, or -1 for padding, got 7 for node 1"),
        ([-1, -2], "smaller than its node, or -1 for padding, got -2 for node 1"),
        ([[-1, 0], [3, 0]], "-1 for node 0, got 3 for node 0 of tree 1"),
        ([[-1, 0], [-1, 2]], "smaller than its node, or -1 for padding, got 2 for node 1 of tree 1"),
    ],
)
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_refuses_what_is_no_tree(backend, parents, message, kind):
    out = tuple(np.full(shape, 9) for shape in ((2, 2), (2,), (2,)))
    with pytest.raises(ValueError, match=f"^verify_greedy: parents must be {message}$"):
        tree.verify_greedy(PAIR, PAIR, np.array(parents, kind), out=out)
    assert all((x == 9).all() for x in out)


def test_refuses_a_node_behind_padding(backend):
    tokens = np.zeros((1, 4), np.int64)
    with pytest.raises(ValueError, match=r"^verify_greedy: parents must be -1 behind padding, got 0 for node 3$"):
        tree.verify_greedy(tokens, tokens, np.array([-1, 0, -1, 0]))


def test_refuses_trees_of_no_size():
    nothing = np.zeros((1, 0), np.int64)
    with pytest.raises(ValueError, match=r"^verify_greedy: parents must be of at least one node, got an empty tree$"):
        tree.verify_greedy(nothing, nothing, np.zeros(0, np.int64))
    many = np.zeros((1, 4097), np.int64)
    with pytest.raises(ValueError, match=r"^verify_greedy: parents must be of at most 4096 nodes, got 4097$"):
        tree.verify_greedy(many, many, TokenTree.chain(4097))
    most = np.zeros((1, 4096), np.int64)
    assert tree.verify_greedy(most, most, TokenTree.chain(4096)).accepted == 4095


def test_refuses_what_is_no_list_of_trees():
    with pytest.raises(TypeError, match=r"^verify_greedy: tree must be a TokenTree, .*, got a list of int$"):
        tree.verify_greedy(PAIR, PAIR, [-1, 0])
    with pytest.raises(
        ValueError, match=r"^verify_greedy: parents must be \(T\) .* or \(B, T\) .*, got \(3, 2\) int64$"
    ):
        tree.verify_greedy(PAIR, PAIR, [TokenTree.chain(2)] * 3)
