# SPDX-License-Identifier: Apache-2.0
"""verify_stochastic on every backend: bits equal everywhere, the rules one by one, hostile sizes, bad input.

Official codes are in test_verify_official.py; that the output is distributed as the target's samples, in
test_verify_lossless.py.
"""

import numpy as np
import pytest
from bits import on_one_and_two_threads
from trees import BROKEN_ROWS, distinct_siblings, ragged_parents

import tokernel
from tokernel.kernels import tree
from tokernel.kernels.tree import TokenTree

RULES = ["sequoia", "specinfer", "eagle", "target_only", "typical"]
WITH_DRAFT = ("sequoia", "specinfer")
LAST_COIN = np.float32(1 - 2.0**-24)
BACKENDS = [name for name in tokernel.backends()["usable"] if name != "cuda"]


def case(rng, batch, nodes, words, rule, near=0.7):
    """Random trees, distributions of which the draft is near the target, tokens and coins."""
    target = rng.dirichlet(np.full(words, 0.5), (batch, nodes)).astype(np.float32)
    other = rng.dirichlet(np.full(words, 0.5), (batch, nodes)).astype(np.float32)
    draft = (near * target + (1 - near) * other).astype(np.float32)
    tokens = rng.integers(0, words, (batch, nodes))
    coins = rng.random((batch, nodes + 1), dtype=np.float32)
    parents = ragged_parents(rng, batch, nodes)
    return tokens, target, draft if rule in WITH_DRAFT else None, coins, parents, rule


def same(found, want):
    for ours, theirs in zip(found, want, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def on_every_backend(args, **options):
    results = {}
    for name in BACKENDS:
        with tokernel.use_backend(name):
            results[name] = tree.verify_stochastic(*args, **options)
    for found in results.values():
        same(found, results["ref"])
    return results["ref"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("nodes", [1, 2, 5, 33, 40])
def test_backends_agree_bit_for_bit(rule, nodes, rng):
    for words in (1, 2, 7, 16, 31, 100):
        args = case(rng, 3, nodes, words, rule)
        path, accepted, _ = on_every_backend(args)
        assert (path[:, 0] == 0).all()
        np.testing.assert_array_equal((path >= 0).sum(1) - 1, accepted)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("words", [511, 512, 513, 1030, 4095, 4097])
def test_long_rows_agree_bit_for_bit(rule, words, rng):
    """Around a block of the drawn item and around the widths at which a GPU takes more threads."""
    on_every_backend(case(rng, 2, 3, words, rule, near=0.3))


@pytest.mark.parametrize("rule", RULES)
def test_half_precision(rule, rng):
    tokens, target, draft, coins, parents, rule = case(rng, 3, 6, 40, rule)
    half = None if draft is None else draft.astype(np.float16)
    found = on_every_backend((tokens, target.astype(np.float16), half, coins, parents, rule))
    wide = None if half is None else half.astype(np.float32)
    same(
        found, tree.verify_stochastic(tokens, target.astype(np.float16).astype(np.float32), wide, coins, parents, rule)
    )


@pytest.mark.parametrize("rule", RULES)
def test_threads_give_the_same(rule, rng):
    args = case(rng, 200, 12, 50, rule)
    one, two = on_one_and_two_threads(lambda: tree.verify_stochastic(*args))
    same(one, two)


@pytest.mark.parametrize("rule", RULES)
def test_strides_and_other_integers(rule, backend, rng):
    tokens, target, draft, coins, parents, rule = case(rng, 3, 7, 20, rule)
    want = tree.verify_stochastic(tokens, target, draft, coins, parents, rule)
    wide = np.zeros((7, 5, 30), np.float32)
    wide[:, 1:4, 6:26] = target.transpose(1, 0, 2)
    views = wide[:, 1:4, 6:26].transpose(1, 0, 2)
    apart = None if draft is None else np.repeat(draft, 2, 2)[..., ::2]
    same(
        tree.verify_stochastic(tokens.astype(np.int32), views, apart, coins[:, ::1], parents.astype(np.int32), rule),
        want,
    )


@pytest.mark.parametrize("rule", RULES)
def test_padding_is_never_read(rule, backend, rng):
    """Ragged trees beside each other give what each gives alone, whatever the rows of padding hold."""
    tokens, target, draft, coins, parents, rule = case(rng, 6, 9, 20, rule)
    sizes = (parents >= 0).sum(1) + 1
    for b, size in enumerate(sizes):
        target[b, size:] = np.nan
        tokens[b, size:] = 10**9
        if draft is not None:
            draft[b, size:] = -1
    tokens[:, 0] = -77
    found = tree.verify_stochastic(tokens, target, draft, coins, parents, rule)
    for b, size in enumerate(sizes):
        own = np.append(coins[b, :size], coins[b, -1])
        alone = tree.verify_stochastic(
            tokens[b, :size], target[b, :size], None if draft is None else draft[b, :size], own, parents[b, :size], rule
        )
        np.testing.assert_array_equal(found.path[b, :size], alone.path)
        assert (found.path[b, size:] == -1).all()
        assert (found.accepted[b], found.bonus[b]) == (alone.accepted, alone.bonus)


@pytest.mark.parametrize("rule", RULES)
def test_a_certain_target_is_the_greedy_walk(rule, backend, rng):
    parents = ragged_parents(rng, 5, 20)
    tokens = np.stack([distinct_siblings(rng, row, 24) for row in parents])
    say = rng.integers(0, 24, tokens.shape)
    for b, row in enumerate(parents):  # every second node says the token of its first child
        for node in range(0, 20, 2):
            say[b, node] = tokens[b, np.flatnonzero(row == node)[0]] if (row == node).any() else say[b, node]
    target = np.eye(24, dtype=np.float32)[say]
    draft = rng.dirichlet(np.ones(24), (5, 20)).astype(np.float32) if rule in WITH_DRAFT else None
    coins = rng.random((5, 21), dtype=np.float32)
    found = tree.verify_stochastic(tokens, target, draft, coins, parents, rule)
    same(found, tree.verify_greedy(tokens, say, parents))
    assert found.accepted.max() > 0


@pytest.mark.parametrize("rule", WITH_DRAFT)
def test_where_draft_is_target_the_first_child_is_kept(rule, backend, rng):
    p = rng.dirichlet(np.ones(30), (4, 5)).astype(np.float32)
    tokens = rng.integers(0, 30, (4, 5))
    for coin in (0, 0.5, LAST_COIN):
        coins = np.full((4, 6), coin, np.float32)
        found = tree.verify_stochastic(tokens, p, p, coins, TokenTree([-1, 0, 0, 1, 3]), rule)
        np.testing.assert_array_equal(found.path, [[0, 1, 3, 4, -1]] * 4)


@pytest.mark.parametrize("rule", RULES)
def test_keeps_no_more_than_the_depth(rule, backend, rng):
    tokens, target, draft, coins, parents, rule = case(rng, 8, 12, 2, rule)
    _, accepted, bonus = tree.verify_stochastic(tokens, target, draft, coins, parents, rule)
    depths = [TokenTree(row[: (row >= 0).sum() + 1]).depth.max() for row in parents]
    assert (accepted <= depths).all()
    assert ((bonus >= 0) & (bonus < 2)).all()


def one(p, q, words, coins, rule, **options):
    """A root with a child for each word, no rows beyond the root's but leaves' of word 0."""
    parents = np.array([-1, *[0] * len(words)])
    leaf = np.eye(len(p), dtype=np.float32)[0]
    target = np.stack([np.array(p, np.float32), *[leaf] * len(words)])
    draft = None if q is None else np.array([q], np.float32)
    coins = np.array(coins, np.float32)
    path, accepted, bonus = tree.verify_stochastic(
        np.array([0, *words]), target, draft, coins, parents, rule, **options
    )
    return path[: accepted + 1].tolist(), int(bonus)


@pytest.mark.parametrize("rule", WITH_DRAFT)
def test_a_residual_of_nothing_leaves_p(rule, backend):
    """p is q, and a word that neither gives was drafted all the same."""
    assert one([0, 0.25, 0.75], [0, 0.25, 0.75], [0], [0, 0.5, 0.9], rule) == ([0], 2)
    assert one([0, 0.25, 0.75], [0, 0.25, 0.75], [0], [0, 0.5, 0.1], rule) == ([0], 1)


def test_sequoia_stops_where_the_draft_is_exhausted(backend):
    """The draft had one word to give; another child, which the target would keep, was not drawn from it."""
    p = [0.5, 0.5, 0]
    assert one(p, [1, 0, 0], [0, 1], [0, 0.9, 0, 0.5], "sequoia") == ([0], 1)
    assert one(p, [0.875, 0.125, 0], [0, 1], [0, 0.9, 0, 0.5], "sequoia") == ([0, 2], 0)
    assert one(p, [1, 0, 0], [0, 1], [0, 0.25, 0, 0.5], "sequoia") == ([0, 1], 0)


@pytest.mark.parametrize("rule", ["specinfer", "eagle", "target_only"])
def test_a_repeated_sibling_is_a_node_of_its_own(rule, backend):
    """Rejected once, a word is rejected again; the child after it is tested all the same."""
    q = [0.75, 0.25, 0] if rule in WITH_DRAFT else None
    coins = {"specinfer": [0, 0.75, 0.0, 0.0, 0], "eagle": [0, 0.75, 0.0, 0.9, 0], "target_only": [0.75, 0, 0, 0, 0]}
    assert one([0.5, 0.5, 0], q, [0, 0, 1], coins[rule], rule) == ([0, 3], 0)


def test_equality_is_kept_by_specinfer_and_eagle_but_not_by_sequoia(backend):
    p, q = [0.25, 0.75], [0.5, 0.5]
    assert one(p, q, [0], [0, 0.5, 0], "specinfer")[0] == [0, 1]
    assert one(p, q, [0], [0, 0.5, 0], "sequoia")[0] == [0]
    assert one(p, None, [0], [0, 0.25, 0], "eagle")[0] == [0, 1]
    assert one(p, None, [0], [0.25, 0, 0], "target_only")[0] == [0, 1]


@pytest.mark.parametrize("rule", RULES)
def test_a_word_of_no_mass_is_not_kept_by_a_coin_of_zero(rule, backend):
    q = [0.5, 0.5] if rule in WITH_DRAFT else None
    assert one([0, 1], q, [0], [0, 0, 0], rule) == ([0], 1)


@pytest.mark.parametrize("rule", RULES)
def test_a_node_without_a_word_is_passed_over(rule, backend):
    q = [0.5, 0.5] if rule in WITH_DRAFT else None
    assert one([1, 0], q, [-1, 0], [0, 0, 0, 0], rule) == ([0, 2], 0)


def test_thresholds_of_target_only(backend):
    p, words = [0.25, 0.375, 0.375], [0, 1]
    assert one(p, None, words, [0.5, 0, 0, 0], "target_only") == ([0, 2], 0)
    assert one(p, None, words, [0.5, 0, 0, 0], "target_only", threshold_total=0.5) == ([0, 1], 0)
    assert one(p, None, words, [0.75, 0, 0, 0], "target_only") == ([0], 2)
    assert one(p, None, words, [0.75, 0, 0, 0], "target_only", threshold_single=0.375) == ([0, 2], 0)
    assert one([0, 1], None, [0], [0.5, 0, 0], "target_only", threshold_single=0) == ([0, 1], 0)


def test_typical_takes_the_longest_then_the_likeliest_then_the_lowest(backend, rng):
    parents = np.array([-1, 0, 0, 1, 2, 2])
    rows = np.array([[0.5, 0.5, 0], [0.3, 0.3, 0.4], [0.2, 0.4, 0.4], *[[1, 0, 0]] * 3], np.float32)
    coins = np.zeros(7, np.float32)

    def take(tokens):
        return tree.verify_stochastic(np.array(tokens), rows, None, coins, parents, "typical").path.tolist()

    assert take([0, 0, 1, 0, 0, 1]) == [0, 2, 5, -1, -1, -1]
    assert take([0, 0, 1, 2, 1, 2]) == [0, 1, 3, -1, -1, -1]
    assert take([0, 2, 2, 0, 0, 0]) == [0, -1, -1, -1, -1, -1]
    assert take([0, 2, 1, 2, 1, 2]) == [0, 2, 4, -1, -1, -1]


def test_the_limits_of_typical_acceptance(backend):
    """exp(-H) of a fair row of four is 1/4; alpha of it is the limit where it is below epsilon."""
    p = [0.25] * 4
    assert one(p, None, [1], [0, 0, 0], "typical", epsilon=0.2499)[0] == [0, 1]
    assert one(p, None, [1], [0, 0, 0], "typical", epsilon=0.2501, alpha=1000)[0] == [0]
    assert one(p, None, [1], [0, 0, 0], "typical", epsilon=1, alpha=0.999)[0] == [0, 1]
    assert one(p, None, [1], [0, 0, 0], "typical", epsilon=1, alpha=1.001)[0] == [0]


def test_no_sequences(backend):
    found = tree.verify_stochastic(
        np.zeros((0, 3), np.int64),
        np.zeros((0, 3, 4), np.float32),
        None,
        np.zeros((0, 4), np.float32),
        TokenTree.chain(3),
        "eagle",
    )
    assert found.path.shape == (0, 3)
    assert found.accepted.shape == found.bonus.shape == (0,)


def test_most_nodes(rng):
    parents = TokenTree.chain(4096)
    p = np.array([0.5, 0.5], np.float32)
    coins = np.zeros((1, 4097), np.float32)
    found = tree.verify_stochastic(
        np.zeros((1, 4096), np.int64), np.broadcast_to(p, (1, 4096, 2)), None, coins, parents, "eagle"
    )
    assert found.accepted == 4095


@pytest.mark.parametrize(("row", "got"), BROKEN_ROWS)
@pytest.mark.parametrize("rule", RULES)
def test_refuses_rows_that_are_no_distribution(backend, rule, row, got):
    p = np.full((2, 3, 2), 0.5, np.float32)
    q = p.copy() if rule in WITH_DRAFT else None
    tokens, coins = np.zeros((2, 3), np.int64), np.zeros((2, 4), np.float32)
    spoiled = p.copy()
    spoiled[1, 1] = row
    rule_text = "must be of rows of probabilities that sum to 1 within 0.001, got"
    with pytest.raises(ValueError, match=rf"^verify_stochastic: target_p {rule_text} {got} in row 1 of sequence 1$"):
        tree.verify_stochastic(tokens, spoiled, q, coins, TokenTree.chain(3), rule)
    if q is None:
        return
    q[0, 0] = row
    with pytest.raises(ValueError, match=rf"^verify_stochastic: draft_p {rule_text} {got} in row 0 of sequence 0$"):
        tree.verify_stochastic(tokens, p, q, coins, TokenTree.chain(3), rule)


@pytest.mark.parametrize("rule", RULES)
def test_rows_off_the_walk_may_hold_anything(backend, rule):
    p = np.array([[1, 0], [np.nan, 3], [1, 0]], np.float32)  # node 1 is rejected
    q = np.array([[0.5, 0.5], [7, 7], [np.inf, 0]], np.float32) if rule in WITH_DRAFT else None
    found = tree.verify_stochastic(np.array([0, 1, 0]), p, q, np.full(4, 0.5, np.float32), TokenTree([-1, 0, 0]), rule)
    np.testing.assert_array_equal(found.path, [0, 2, -1])


def good(rule="sequoia"):
    draft = np.full((2, 3, 4), 0.25, np.float32) if rule in WITH_DRAFT else None
    return {
        "tokens": np.zeros((2, 3), np.int64),
        "target_p": np.full((2, 3, 4), 0.25, np.float32),
        "draft_p": draft,
        "uniforms": np.zeros((2, 4), np.float32),
        "tree": np.array([[-1, 0, 1], [-1, 0, -1]]),
        "rule": rule,
    }


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ({"rule": "luck"}, "rule must be 'sequoia', 'specinfer', 'eagle', 'target_only' or 'typical', got 'luck'"),
        ({"draft_p": None}, "draft_p must be given, got None for rule 'sequoia'"),
        ({"rule": "eagle"}, "draft_p must be None, got an array for rule 'eagle'"),
        (
            {"tokens": np.array([[0, 4, 0], [0, 0, 0]])},
            r"tokens must be in \[0, 4\), or -1 for none, got 4 at flat position 1",
        ),
        ({"tokens": np.array([[0, 0, 0], [0, -2, 0]])}, r"tokens must be .*, got -2 at flat position 4"),
        ({"uniforms": np.ones((2, 4), np.float32)}, r"uniforms must be in \[0, 1\), got 1.0+ at flat position 0"),
        (
            {"uniforms": np.zeros((2, 3), np.float32)},
            r"uniforms must be \(B, U\) with B = 2, U = 4, got \(2, 3\) float32",
        ),
        (
            {"draft_p": np.full((2, 1, 4), 0.25, np.float32)},
            "draft_p must be of a row for every node that has a child, node 1, got 1 rows",
        ),
        ({"draft_p": np.full((2, 4, 4), 0.25, np.float32)}, "draft_p must be of at most 3 rows, one a node, got 4"),
        ({"tree": np.array([-1, 2, 1])}, "parents must be smaller than its node, or -1 for padding, got 2 for node 1"),
        ({"threshold_single": 1.5}, r"threshold_single must be in \[0.*, 1.*\], got 1.5"),
        ({"threshold_total": -1}, r"threshold_total must be in \[0.*, 1.*\], got -1"),
        ({"epsilon": float("nan")}, r"epsilon must be in \[0.*, 1.*\], got nan"),
        ({"alpha": -0.1}, r"alpha must be in \[0.*\], got -0.1"),
    ],
)
def test_refuses(spoiled, message):
    with pytest.raises(ValueError, match=f"^verify_stochastic: {message}$"):
        tree.verify_stochastic(**{**good(), **spoiled})


def test_draft_rows_of_the_last_nodes_may_be_left_out(backend):
    given = good()
    whole = tree.verify_stochastic(**given)
    same(tree.verify_stochastic(**{**given, "draft_p": given["draft_p"][:, :2]}), whole)


def test_a_chain_of_no_drafts(backend):
    kept, accepted = tree.verify_chain(
        np.zeros((1, 0), np.int64),
        np.array([[[0.25, 0.75]]], np.float32),
        np.zeros((1, 0, 2), np.float32),
        np.array([[0.5]], np.float32),
    )
    assert (kept.tolist(), accepted.tolist()) == ([[1]], [0])


def test_a_chain_refuses_other_ranks():
    with pytest.raises(ValueError, match=r"^verify_chain: tokens and uniforms must be .*, got \(1,\) and \(2,\)$"):
        tree.verify_chain(
            np.zeros(1, int), np.ones((2, 1), np.float32), np.ones((1, 1), np.float32), np.zeros(2, np.float32)
        )
