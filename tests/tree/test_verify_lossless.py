# SPDX-License-Identifier: Apache-2.0
"""What verification lets through is distributed as the target's own samples: exactly by enumeration, and by drawing.

The rules over fractions (coin_model) are shown to be lossless exactly; the op is shown to be these rules: every outcome
of given tokens as often as the model says, and whole texts as often as the target samples them. Coins come from fixed
seeds, so a test passes or fails for good; its bound is the value that chi-square exceeds once in 10 000 times.
"""

from fractions import Fraction

import coin_model
import numpy as np
import pytest

from tokernel.kernels import tree

LOSSLESS = ["sequoia", "specinfer", "eagle", "target_only"]
DRAWS = 100_000
# A root with two children, the first with two of its own and the second with one.
BUSHY = [-1, 0, 0, 1, 1, 2]
WORDS = 3


def chi_square_bound(freedom):
    """The Wilson-Hilferty approximation of the quantile at 1 - 1e-4, good to a percent from two degrees on."""
    return freedom * (1 - 2 / (9 * freedom) + 3.719 * (2 / (9 * freedom)) ** 0.5) ** 3


def check_counts(counts, chances):
    """Counted against expected, outcomes that are too rare for chi-square together."""
    assert abs(sum(chances) - 1) < 1e-9
    want = np.asarray(chances, np.float64) * sum(counts)
    counts = np.asarray(counts, np.float64)
    rare = want < 10
    assert (counts[want == 0] == 0).all()
    want = np.append(want[~rare], want[rare].sum())
    counts = np.append(counts[~rare], counts[rare].sum())
    kept = want > 0
    statistic = ((counts - want)[kept] ** 2 / want[kept]).sum()
    assert statistic < chi_square_bound(max(2, kept.sum() - 1))


def table(rng, words=WORDS, zeros=False):
    """Rows of fractions that floats hold exactly: what follows after each word."""
    rows = []
    for _ in range(words):
        parts = rng.multinomial(64 - (0 if zeros else words), np.full(words, 1 / words)) + (0 if zeros else 1)
        if zeros:
            parts[rng.integers(words)] = 0
            parts[rng.integers(words)] += 64 - parts.sum()
        rows.append([Fraction(int(x), 64) for x in parts])
    return rows


def floats(rows):
    return np.array([[float(x) for x in row] for row in rows], np.float32)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("rule", LOSSLESS)
def test_the_rules_are_lossless_exactly(rule, zeros, rng):
    """The chance of every text of three words, drafts and coins integrated out, is that of plain sampling, to the last
    digit; draft and target may give 0 to some words."""
    target, draft = table(rng, zeros=zeros), table(rng, zeros=zeros)
    found = coin_model.first_words(rule, BUSHY, target, draft, 0, 3)
    assert found == dict(coin_model.sampled(target, 0, 3))


def counted(result, keys):
    """How often each (path, bonus) came out."""
    width = max(len(path) for path, _ in keys) + 1
    rows = np.full((len(keys), width + 1), -1)
    for row, (path, bonus) in zip(rows, keys, strict=True):
        row[: len(path)] = path
        row[-1] = bonus
    seen = np.concatenate([result.path[:, :width], result.bonus[:, None]], 1)
    match = (seen[:, None] == rows).all(2)
    assert match.any(1).all()  # nothing that the model excludes
    return match.sum(0)


def repeated(x, rows):
    return np.broadcast_to(x, (rows, *np.shape(x)))


@pytest.mark.parametrize("rule", LOSSLESS)
@pytest.mark.parametrize("tokens", [[0, 1, 2, 0, 2, 1], [0, 2, 1, 1, 0, 2], [0, 1, 1, 2, 2, 0], [2, 0, 2, 0, 1, 0]])
def test_every_outcome_as_often_as_the_model_says(rule, tokens, rng):
    target, draft = table(rng), table(rng)
    rows = [target[x] for x in tokens]
    chances = coin_model.outcomes(rule, BUSHY, tokens, rows, [draft[x] for x in tokens])
    coins = rng.random((DRAWS, len(BUSHY) + 1), dtype=np.float32)
    q = floats([draft[x] for x in tokens]) if rule in coin_model.WITH_DRAFT else None
    found = tree.verify_stochastic(
        repeated(tokens, DRAWS),
        repeated(floats(rows), DRAWS),
        None if q is None else repeated(q, DRAWS),
        coins,
        np.array(BUSHY),
        rule,
    )
    check_counts(counted(found, list(chances)), [float(x) for x in chances.values()])


def draw_rows(p, coins):
    """An item of every row."""
    return (np.cumsum(p, -1, dtype=np.float64) <= coins[:, None]).sum(-1).clip(max=p.shape[-1] - 1)


def draw_draft(rule, parents, draft, rng):
    """Tokens of DRAWS trees, by the rule's own way of drawing children."""
    tokens = np.zeros((DRAWS, len(parents)), np.int64)
    for node in range(len(parents)):
        q = draft[tokens[:, node]].astype(np.float64)
        for child in np.flatnonzero(np.array(parents) == node):
            if rule in coin_model.WITH_DRAFT:
                tokens[:, child] = draw_rows(q / q.sum(-1, keepdims=True), rng.random(DRAWS))
            else:
                tokens[:, child] = q.argmax(-1)
            if rule != "specinfer":
                np.put_along_axis(q, tokens[:, child, None], 0, 1)
    return tokens


@pytest.mark.parametrize("rule", LOSSLESS)
def test_texts_as_often_as_the_target_samples_them(rule, rng):
    """Two words of five, drafted, verified, and continued by plain samples where a walk ends early."""
    words = 5
    target, draft = (rng.dirichlet(np.full(words, 0.8), words).astype(np.float32) for _ in range(2))
    draft = (draft + target) / 2
    tokens = draw_draft(rule, BUSHY, draft, rng)
    coins = rng.random((DRAWS, len(BUSHY) + 1), dtype=np.float32)
    q = draft[tokens] if rule in coin_model.WITH_DRAFT else None
    path, accepted, bonus = tree.verify_stochastic(tokens, target[tokens], q, coins, np.array(BUSHY), rule)
    row = np.arange(DRAWS)
    first = np.where(accepted > 0, tokens[row, path[:, 1]], bonus)
    second = np.where(accepted == 1, bonus, draw_rows(target[first], rng.random(DRAWS)))
    second = np.where(accepted > 1, tokens[row, path[:, 2]], second)
    counts = np.bincount(first * words + second, minlength=words * words)
    p = target.astype(np.float64) / target.sum(-1, keepdims=True, dtype=np.float64)
    check_counts(counts, (p[0][:, None] * p).reshape(-1))
    assert accepted.mean() > 0.5


def test_typical_acceptance_is_not_lossless(rng):
    """The counter-example that the docstring's warning rests on: the likeliest word is always kept."""
    p = np.array([[0.6, 0.4], [0.5, 0.5]], np.float32)
    coins = rng.random((1000, 3), dtype=np.float32)
    tokens = repeated([0, 0], 1000)
    found = tree.verify_stochastic(tokens, repeated(p, 1000), None, coins, np.array([-1, 0]), "typical")
    assert (found.accepted == 1).all()


def test_a_chain_is_ordinary_speculative_sampling(rng):
    """verify_chain's first word is distributed as the target, and its outputs are FlashInfer's."""
    words = 4
    target = rng.dirichlet(np.ones(words), 3).astype(np.float32)
    draft = rng.dirichlet(np.ones(words), 2).astype(np.float32)
    tokens = np.stack([draw_rows(repeated(q, DRAWS), rng.random(DRAWS)) for q in draft], 1)
    coins = rng.random((DRAWS, 3), dtype=np.float32)
    kept, accepted = tree.verify_chain(tokens, repeated(target, DRAWS), repeated(draft, DRAWS), coins)
    check_counts(np.bincount(kept[:, 0], minlength=words), target[0] / target[0].sum(dtype=np.float64))
    for column in range(2):
        np.testing.assert_array_equal((kept[:, column] == tokens[:, column])[accepted > column], True)
    assert (kept[np.arange(DRAWS), accepted] >= 0).all()
    assert (kept[np.arange(3) > accepted[:, None]] == -1).all()
    # A word that was rejected does not come out in its place.
    rejected = accepted < 2
    assert (kept[rejected, accepted[rejected]] != tokens[rejected, accepted[rejected]]).all()
