# SPDX-License-Identifier: Apache-2.0
"""verify_stochastic on every backend against the decisions of Sequoia, SpecInfer, EAGLE, SGLang and Medusa."""

import numpy as np
import pytest

from tokernel.kernels import tree
from tokernel.kernels.tree import TokenTree


@pytest.fixture
def vectors(golden):
    return lambda name: np.load(golden / "tree_attention" / f"{name}.npz")


def softmax(logits, temperature=1.0):
    z = logits.astype(np.float64) / temperature
    e = np.exp(z - z.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(np.float32)


def draws(probability, coins):
    """The items that coins draw from a distribution: float64, running sums."""
    running = np.cumsum(probability.astype(np.float64))
    return np.searchsorted(running, coins.astype(np.float64) * running[-1], side="right")


def check_bonus(run, probability, rng):
    """The bonus of many coins, but for those that fall on the edge of an item."""
    coins = rng.random(64, dtype=np.float32)
    probability = np.maximum(probability.astype(np.float64), 0)
    running = np.cumsum(probability) / probability.sum()
    clear = np.abs(running[:, None] - coins).min(0) > 1e-5
    np.testing.assert_array_equal(run(coins)[clear], draws(probability, coins)[clear])


def golden_case(d, rule, trial, rng):
    """One trial of Sequoia's vectors, its bonus drawn by many coins at once."""
    draft = softmax(d["draft_logits"][trial], d["temperature"])
    target = d["target_probs"][trial]

    def run(coins):
        rows = len(coins)
        uniforms = np.concatenate([np.broadcast_to(d["uniforms"][trial], (rows, 10)), coins[:, None]], 1)
        many = [np.broadcast_to(x, (rows, *x.shape)) for x in (d["tokens"][trial], target, draft)]
        return tree.verify_stochastic(*many, uniforms, d["parents"].astype(np.int64), rule)

    found = run(rng.random(1, dtype=np.float32))
    np.testing.assert_array_equal(found.path[0], d["accepted_nodes"][trial])
    assert found.accepted[0] == d["accepted_len"][trial] - 1
    final = d["final_probs"][trial]
    if (final >= 0).all():  # else the official code had divided by zero
        check_bonus(lambda coins: run(coins).bonus, final, rng)


@pytest.mark.parametrize("rule", ["sequoia", "specinfer"])
def test_sequoia_repository(vectors, rule, backend, rng):
    d = vectors(f"{rule}_reject")
    for trial in range(3 if backend == "simt" else len(d["tokens"])):
        golden_case(d, rule, trial, rng)


def coins_in_order(d, trial, parents, tokens, target):
    """The coins of EAGLE's walk, which takes them in the order of its tests, one by one, at the nodes they test."""
    coins = np.zeros(len(parents), np.float32)
    used, node, moved = 0, 0, True
    while moved:
        moved = False
        p = target[node].astype(np.float64)
        for child in np.flatnonzero(parents == node):
            coins[child] = d["stoch_uniforms"][trial, used]
            used += 1
            if coins[child] <= p[tokens[child]]:
                node, moved = child, True
                break
            p[tokens[child]] = 0
            p /= p.sum()
    assert used == d["stoch_num_uniforms"][trial]
    return coins


@pytest.mark.parametrize("name", ["eagle2_k4_d3_t12", "eagle2_k10_d5_t59"])
def test_eagle(vectors, name, backend, rng):
    d = vectors(name)
    given = TokenTree.from_mask(d["tree_mask"])
    tokens = d["draft_tokens"]
    for trial in range(len(d["target_logits"])):
        target = softmax(d["target_logits"][trial], d["temperature"])
        coins = coins_in_order(d, trial, given.parents, tokens, target)

        def run(last, target=target, coins=coins):
            rows = len(last)
            uniforms = np.concatenate([np.broadcast_to(coins, (rows, len(coins))), last[:, None]], 1)
            many = [np.broadcast_to(x, (rows, *x.shape)) for x in (tokens, target)]
            return tree.verify_stochastic(*many, None, uniforms, given, "eagle")

        found = run(rng.random(1, dtype=np.float32))
        assert found.accepted[0] == d["stoch_accept"][trial]
        way = d["retrieve_indices"][d["stoch_best"][trial]][: found.accepted[0] + 1]
        np.testing.assert_array_equal(found.path[0, : len(way)], way)
        if backend != "simt":
            check_bonus(lambda last: run(last).bonus, d["stoch_final_probs"][trial], rng)


@pytest.mark.parametrize("name", ["medusa_small", "medusa_mc63_v48"])
def test_medusa_typical(vectors, name, backend):
    d = vectors(name)
    given = TokenTree.from_paths([path[path >= 0] for path in d["choice_paths"]])
    target = softmax(d["target_logits"], d["temperature"])
    tokens = np.broadcast_to(d["tree_tokens"], target.shape[:2])
    coins = np.zeros((len(target), len(given) + 1), np.float32)
    limits = {"epsilon": float(d["posterior_threshold"]), "alpha": float(d["posterior_alpha"])}
    found = tree.verify_stochastic(tokens, target, None, coins, given, "typical", **limits)
    for row, best in enumerate(d["typical_best"]):
        official = d["retrieve_indices"][best][: d["typical_accept"][row] + 1]
        ours = found.path[row, : found.accepted[row] + 1]
        if (official >= 0).all():
            np.testing.assert_array_equal(ours, official)
        else:  # the official code reads token 0 where a path has ended, and here kept it as if it had been drafted
            assert len(ours) == (official >= 0).sum()


@pytest.mark.parametrize("threshold", [1, 0])
def test_sglang(vectors, threshold, backend):
    d = vectors("sibling_verify")
    target = softmax(d["target_logits"], d["temperature"])
    pairs = zip(d["next_token"], d["next_sibling"], strict=True)
    links = [TokenTree.from_siblings(child, sibling) for child, sibling in pairs]
    order = np.stack([order for _, order in links])  # links may visit children in any order
    tokens = np.take_along_axis(d["candidates"], order, 1)
    limits = {"threshold_single": threshold, "threshold_total": threshold}
    found = tree.verify_stochastic(
        tokens,
        np.take_along_axis(target, order[..., None], 1),
        None,
        np.zeros((2, 7), np.float32),
        [given for given, _ in links],
        "target_only",
        **limits,
    )
    for row in range(2):
        length = d[f"thr{threshold}_accept_num"][row]
        want = d[f"thr{threshold}_accept_index"][row, : length + 1] - 6 * row
        assert found.accepted[row] == length
        np.testing.assert_array_equal(order[row, found.path[row, : length + 1]], want)
        # `predicts` holds, at a node of the path, the token after it.
        predicted = d[f"thr{threshold}_predicts"].reshape(2, 6)[row, want]
        after = [*d["candidates"][row, want[1:]], found.bonus[row]]
        np.testing.assert_array_equal(after, predicted)
