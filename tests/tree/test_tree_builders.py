# SPDX-License-Identifier: Apache-2.0
"""EAGLE-2's and Sequoia's trees against their official codes, against all trees of small size, and their laws."""

import itertools

import numpy as np
import pytest

from tokernel.kernels import tree
from tokernel.kernels.tree import TokenTree, eagle2_tree, sequoia_tokens, sequoia_tree


@pytest.fixture
def vectors(golden):
    return lambda name: np.load(golden / "tree_attention" / f"{name}.npz")


class Script:
    """A draft model whose logits are written down; notes what it is called with."""

    def __init__(self, logits):
        self.logits, self.tokens, self.parents = logits, [], []

    def __call__(self, tokens, parents):
        self.tokens.append(tokens.tolist())
        self.parents.append(parents.tolist())
        return self.logits[len(self.tokens) - 1]


@pytest.mark.parametrize("name", ["eagle2_k4_d3_t12", "eagle2_k10_d5_t59"])
def test_eagle2_golden(vectors, name):
    d = vectors(name)
    draft = Script(d["level_logits"])
    sizes = (int(d[key]) for key in ("top_k", "depth", "total_tokens"))
    got = eagle2_tree(int(d["root_token"]), d["level0_logits"], draft, *sizes)
    np.testing.assert_array_equal(draft.tokens, d["level_input_tokens"])
    np.testing.assert_array_equal(got.tokens, d["draft_tokens"])
    np.testing.assert_array_equal(got.tree.mask, d["tree_mask"])
    np.testing.assert_array_equal(got.tree.positions(0), d["position_ids"])


def random_draft(rng, k, depth, width, dtype=np.float32):
    return rng.standard_normal(width).astype(dtype), rng.standard_normal((depth, k, width)).astype(dtype)


def test_eagle2_scores_are_sums_of_log_probabilities(rng):
    """Followed from the leaves by what the draft model was called with."""
    k, depth = 3, 4
    first, levels = random_draft(rng, k, depth, 20)
    draft = Script(levels)
    got = eagle2_tree(5, first, draft, k, depth, 25)
    log_p = [first - np.log(np.exp(first).sum()), *(x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in levels)]
    beams = [{(): 0}]  # way from the root -> row of the logits of that level
    ways = [()]
    for tokens, parents in zip(draft.tokens, draft.parents, strict=True):
        ways = [(*ways[p if len(beams) > 1 else 0], t) for t, p in zip(tokens, parents, strict=True)]
        beams.append({way: row for row, way in enumerate(ways)})
    assert got.tokens[0] == 5
    assert got.score[0] == 0
    for i in range(1, len(got.tree)):
        way = tuple(got.tokens[got.tree.path(i)[1:]])
        want = log_p[0][way[0]]
        for level in range(1, len(way)):
            want += log_p[level][beams[level][way[:level]], way[level]]
        np.testing.assert_allclose(got.score[i], want, rtol=1e-5)


def test_eagle2_trees_grow_with_the_total(rng):
    """A smaller total keeps the best of a larger one; a parent scores at least as much as its child."""
    first, levels = random_draft(rng, 4, 3, 30)
    trees = [eagle2_tree(0, first, Script(levels), 4, 3, total) for total in range(0, 53, 4)]
    for got in trees:
        parents = got.tree.parents[1:]
        assert (got.score[parents] >= got.score[1:]).all()
        assert got.tree.depth.max() <= 4
    for small, large in itertools.pairwise(trees):
        assert set(small.score.tolist()) <= set(large.score.tolist())
        assert min(small.score) >= np.sort(large.score)[::-1][len(small.score) - 1] - 1e-6


def test_eagle2_ties_keep_the_parent(rng):
    """A certain draft: every continuation scores as much as its parent, which comes first."""
    certain = np.full((2, 8), -np.inf, np.float32)
    certain[:, 3] = 0
    got = eagle2_tree(1, certain[0], lambda tokens, parents: certain, 2, 4, 4)
    assert got.tree == TokenTree.chain(5)
    assert got.tokens.tolist() == [1, 3, 3, 3, 3]
    assert (got.score == 0).all()


def test_eagle2_takes_torch_tensors(rng):
    torch = pytest.importorskip("torch", reason="torch is an extra")
    first, levels = random_draft(rng, 3, 2, 40)
    want = eagle2_tree(0, first, Script(levels), 3, 2, 9)
    got = eagle2_tree(0, torch.from_numpy(first), Script(torch.from_numpy(levels)), 3, 2, 9)
    assert got.tree == want.tree
    np.testing.assert_array_equal(got.tokens, want.tokens)
    half = eagle2_tree(0, torch.from_numpy(first).bfloat16(), Script(torch.from_numpy(levels).bfloat16()), 3, 2, 9)
    assert len(half.tree) == 10


def test_eagle2_small():
    logits = np.zeros(3, np.float32)
    assert eagle2_tree(2, logits, Script([]), 3, 0, 0).tree == TokenTree([-1])
    got = eagle2_tree(2, logits, Script([]), 2, 0, 2)
    assert got.tokens.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"depth": -1}, "depth must be at least 0, got -1"),
        ({"total": -1}, "total must be at least 0, got -1"),
        ({"total": 7}, "total must be at most 6, got 7"),
        ({"top_k": 4, "total": 3}, r"logits must be 1 rows of at least 4 items, got \(1, 3\)"),
        ({"expand": lambda *_: np.zeros((3, 3), np.float32)}, r"expand's result must be 2 rows .*, got \(3, 3\)"),
        ({"expand": lambda *_: np.zeros(3, np.float32)}, r"expand's result must be 2 rows .*, got \(3,\)"),
    ],
)
def test_eagle2_refuses(change, message):
    sizes = {"top_k": 2, "depth": 1, "total": 4, "expand": lambda *_: np.zeros((2, 3), np.float32)} | change
    with pytest.raises(ValueError, match=f"eagle2_tree: {message}"):
        eagle2_tree(0, np.zeros(3, np.float32), **sizes)


def all_trees(nodes):
    """Every tree of so many nodes, as the tuple of the root's subtrees."""
    if nodes == 1:
        return [()]
    found = []

    def forests(left):
        if left == 0:
            return [()]
        return [(one, *rest) for size in range(1, left + 1) for one in all_trees(size) for rest in forests(left - size)]

    found.extend(forests(nodes - 1))
    return found


def expected(shape, rates):
    return 1 + sum(rate * expected(child, rates) for rate, child in zip(rates, shape, strict=False))


def height(shape):
    return 1 + max(map(height, shape)) if shape else 0


def fits(shape, most):
    return len(shape) <= most and all(fits(child, most) for child in shape)


def tokens_of(found, rates):
    reached = np.ones(len(found))
    for i in range(1, len(found)):
        reached[i] = reached[found.parents[i]] * rates[found.rank[i]]
    return reached.sum()


@pytest.mark.parametrize("rates", [[0.6, 0.2, 0.1], [0.3, 0.3, 0.3], [0.9], [0.2, 0.7]], ids=str)
def test_sequoia_is_the_best_of_all_trees(rates):
    table = sequoia_tokens(rates, 6, 5)
    for nodes in range(1, 7):
        shapes = [s for s in all_trees(nodes) if fits(s, len(rates))]
        for deepest in range(6):
            best = max([expected(s, rates) for s in shapes if height(s) <= deepest], default=-np.inf)
            np.testing.assert_allclose(table[nodes, deepest], best, rtol=1e-6)
            if best > 0:
                got = sequoia_tree(rates, nodes, deepest)
                assert len(got) == nodes
                assert got.depth.max() <= deepest
                np.testing.assert_allclose(tokens_of(got, rates), best, rtol=1e-6)


def test_sequoia_golden(vectors):
    d = vectors("sequoia_growmap")
    rates = d["acceptance_rate"][1:]  # the official arrays begin with an unused 0
    times = dict(zip(d["valid_budget"].tolist(), d["target_time"].tolist(), strict=True))
    levels = int(d["max_depth"])  # the root's among them
    got = sequoia_tree(rates, int(d["max_budget"]), levels - 1, float(d["draft_time"]), times)
    np.testing.assert_array_equal(got.parents, d["parents"])
    np.testing.assert_array_equal(got.depth, d["depth"])
    np.testing.assert_array_equal(np.bincount(got.parents[1:], minlength=len(got)), d["branches"])


def test_sequoia_tokens_never_fall(rng):
    rates = np.sort(rng.dirichlet(np.ones(7))[:6])[::-1]
    table = sequoia_tokens(rates, 40, 9)
    table = np.where(np.isfinite(table), table, 0)
    assert (np.diff(table, axis=1) >= -1e-6).all()
    for column in table.T:
        held = column[column > 0]
        assert (np.diff(held) >= -1e-6).all()
        assert (held <= len(column)).all()


def test_sequoia_times():
    """A dear draft model makes the tree shallow, a dear target small."""
    rates = [0.7, 0.1]
    flat = sequoia_tree(rates, 3, 8, draft_time=100, target_times={3: 1.0})
    assert flat == TokenTree([-1, 0, 0])
    assert sequoia_tree(rates, 3, 8, draft_time=0, target_times={3: 1.0}) == TokenTree.chain(3)
    assert len(sequoia_tree(rates, 16, 8, target_times={m: float(m) for m in range(1, 17)})) == 1
    assert len(sequoia_tree(rates, 16, 15, target_times=dict.fromkeys(range(1, 17), 1.0))) == 16


def test_sequoia_small():
    assert sequoia_tree([], 1, 0) == TokenTree([-1])
    assert sequoia_tree([0.5], 4, 3) == TokenTree.chain(4)
    assert sequoia_tokens([], 2, 1).tolist() == [[-np.inf, -np.inf], [1, 1], [-np.inf, -np.inf]]
    assert sequoia_tree([0.0, 0.0], 3, 2) == TokenTree([-1, 0, 0])  # the shallowest of equal ones


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"acceptance_rates": [[0.5]]}, r"acceptance_rates must be \(K\).*, got \[\[0.5\]\]"),
        ({"acceptance_rates": [-0.1]}, "acceptance_rates must be .*, got"),
        ({"acceptance_rates": [np.nan]}, "acceptance_rates must be .*, got"),
        ({"acceptance_rates": [0.7, 0.7]}, "acceptance_rates must be .* sum at most 1, got"),
        ({"budget": 0}, "budget must be at least 1, got 0"),
        ({"max_depth": -1}, "max_depth must be at least 0, got -1"),
        ({"draft_time": -1.0}, "draft_time must be at least 0, got -1"),
        ({"draft_time": np.nan}, "draft_time must be at least 0, got nan"),
        ({"target_times": {9: 1.0}}, "target_times must be positive for 1 to 4 nodes, got {9: 1.0}"),
        ({"target_times": {2: 0.0}}, "target_times must be positive .*, got"),
        ({"target_times": {}}, "target_times must be positive .*, got none"),
        ({"max_depth": 1}, r"budget must be that of some tree 1 deep, got \[4\]"),
    ],
)
def test_sequoia_refuses(change, message):
    sizes = {"acceptance_rates": [0.5, 0.25], "budget": 4, "max_depth": 3} | change
    with pytest.raises(ValueError, match=f"sequoia_tree: ({message})"):
        sequoia_tree(**sizes)


def test_a_built_tree_is_a_tree_of_verification():
    """What is built can be given to the ops that take trees."""
    built = sequoia_tree([0.5, 0.25], 4, 2)
    target = np.array([[1, 2, 0, 0]])
    got = tree.verify_greedy(np.array([[9, 1, 5, 2]]), target, built)
    assert got.accepted.tolist() == [2]
