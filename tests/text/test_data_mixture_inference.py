# SPDX-License-Identifier: Apache-2.0
"""Mixtures read off merge lists: the official solver, the whole linear program, and the laws of the paper's card."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the linear program is solved by SciPy, extra lp")

from tokernel.text import data_mixture_inference as mixture
from tokernel.text._mixture_segments import Segments
from tokernel.text.data_mixture_inference import MixtureProblem

GOLDEN = Path(__file__).parents[1] / "golden" / "data_mixture_inference"
CASES = ("three_categories", "four_categories", "exact_counts")


class Case:
    def __init__(self, name):
        data = np.load(GOLDEN / f"{name}.npz")
        self.data, self.n, self.steps = data, len(data["denoms"]), int(data["num_merges"])
        self.merges, self.denoms = data["merges"][: self.steps], data["denoms"].astype(np.float64)
        self.histories = [
            (data[f"delta{i}"][:, :2], data[f"delta{i}"][:, 2], data[f"delta{i}_off"]) for i in range(self.n)
        ]

    def problem(self, order=None, **changes):
        order = range(self.n) if order is None else order
        histories = changes.get("histories", self.histories)
        denoms = changes.get("denoms", self.denoms)
        return MixtureProblem([histories[i] for i in order], self.merges, [denoms[i] for i in order])

    def words(self, category):
        """Words as ids of the golden vocabulary, and their counts."""
        chars, offsets = self.data["vocab_chars"], self.data["vocab_off"]
        ids = {tuple(chars[a:b]): at for at, (a, b) in enumerate(itertools.pairwise(offsets))}
        chars, offsets = self.data[f"words{category}_chars"], self.data[f"words{category}_off"]
        words = [[ids[(c,)] for c in chars[a:b]] for a, b in itertools.pairwise(offsets)]
        return words, self.data[f"words{category}_count"].tolist()


@pytest.fixture(params=CASES)
def case(request):
    return Case(request.param)


def counted(words, counts):
    """Adjacent pairs from scratch, overlaps of runs each for itself."""
    total = Counter()
    for word, count in zip(words, counts, strict=True):
        for pair in itertools.pairwise(word):
            total[pair] += count
    return +total


def merged(word, left, right, result):
    out, at = [], 0
    while at < len(word):
        if word[at : at + 2] == [left, right]:
            out.append(result)
            at += 2
        else:
            out.append(word[at])
            at += 1
    return out


def replayed(words, counts, merges):
    """Yield all pair counts at step 0 and after every merge, the slow way."""
    words = [list(word) for word in words]
    yield counted(words, counts)
    for left, right, result in merges:
        words = [merged(word, left, right, result) for word in words]
        yield counted(words, counts)


def cumulated(history):
    """The same from a history."""
    pairs, counts, offsets = history
    now = Counter()
    for a, b in itertools.pairwise(offsets):
        for pair, count in zip(map(tuple, pairs[a:b].tolist()), counts[a:b].tolist(), strict=True):
            now[pair] = count
        yield +now


def history_of(words, counts, merges):
    """What pair_count_history returns, the slow way."""
    pairs, values, offsets, before = [], [], [0], Counter()
    for now in replayed(words, counts, merges):
        changed = sorted(p for p in now.keys() | before.keys() if now[p] != before[p])
        pairs += changed
        values += [now[p] for p in changed]
        offsets.append(len(pairs))
        before = now
    return np.array(pairs, np.int64).reshape(-1, 2), np.array(values, np.int64), np.array(offsets)


def test_golden_mixtures(case):
    result = case.problem().solve()
    np.testing.assert_allclose(result.alpha, case.data["alpha_hat"], rtol=0, atol=1e-3)
    assert result.objective == pytest.approx(float(case.data["objective_full_lp"]), abs=1e-5)
    assert not len(result.missing)


def test_law_1_own_training_data_leaves_no_slack():
    case = Case("exact_counts")
    result = case.problem().solve()
    assert result.objective == 0
    np.testing.assert_allclose(result.alpha, case.denoms / case.denoms.sum(), rtol=0, atol=1e-3)


def test_law_2_lazy_constraints_reach_the_optimum_of_all(case):
    problem = case.problem()
    lazy, full = problem.solve(), problem.solve_full()
    assert lazy.objective == pytest.approx(full.objective, abs=1e-6)
    np.testing.assert_allclose(lazy.alpha, full.alpha, rtol=0, atol=1e-4)
    np.testing.assert_allclose(full.alpha, case.data["alpha_full_lp"], rtol=0, atol=1e-4)
    assert lazy.constraints < full.constraints / 50
    one_by_one = problem.solve(max_add=1, per_merge=1)
    assert one_by_one.objective == pytest.approx(full.objective, abs=1e-6)


def test_law_3_shares_are_shares(case):
    alpha = case.problem().solve().alpha
    assert (alpha >= 0).all()
    assert alpha.sum() == pytest.approx(1, abs=1e-12)


def test_law_4_permuting_categories_permutes_alpha(case):
    order = np.random.default_rng(0).permutation(case.n)
    straight, permuted = case.problem().solve(), case.problem(order).solve()
    np.testing.assert_allclose(permuted.alpha, straight.alpha[order], rtol=0, atol=1e-3)
    assert permuted.objective == pytest.approx(straight.objective, abs=1e-5)


def test_law_5_a_category_twice_shares_its_weight(case):
    once, twice = case.problem().solve(), case.problem([*range(case.n), 0]).solve()
    np.testing.assert_allclose(twice.alpha[0] + twice.alpha[-1], once.alpha[0], rtol=0, atol=1e-3)
    np.testing.assert_allclose(twice.alpha[1:-1], once.alpha[1:], rtol=0, atol=1e-3)
    assert twice.objective == pytest.approx(once.objective, abs=1e-5)


def test_law_6_a_category_and_its_denominator_may_be_scaled(case):
    pairs, counts, offsets = case.histories[1]
    histories = [case.histories[0], (pairs, counts * 7, offsets), *case.histories[2:]]
    denoms = case.denoms * np.where(np.arange(case.n) == 1, 7, 1)
    scaled, plain = case.problem(histories=histories, denoms=denoms).solve(), case.problem().solve()
    np.testing.assert_allclose(scaled.alpha, plain.alpha, rtol=0, atol=1e-6)


def test_law_7_pairs_at_step_0_are_the_neighbours_in_words(case):
    for category, (_, counts, offsets) in enumerate(case.histories):
        words, often = case.words(category)
        assert counts[: offsets[1]].sum() == sum(c * (len(w) - 1) for w, c in zip(words, often, strict=True))


def test_default_denominators_are_the_pairs(case):
    problem = MixtureProblem(case.histories, case.merges)
    np.testing.assert_array_equal(problem.denoms, case.denoms)


def test_law_11_a_single_category_is_everything(case):
    for category in range(case.n):
        assert case.problem([category]).solve().alpha.tolist() == [1.0]
    assert case.problem([0]).solve_full().alpha.tolist() == [1.0]


def test_trap_pair_id_zero_is_not_missing():
    """The official code tests the number of the merge's pair for zero, where it means its count."""
    words, counts = [[0, 1], [1, 2], [0, 1, 2]], [5, 3, 1]
    history = history_of(words, counts, [(0, 1, 3)])
    problem = MixtureProblem([history], np.array([[0, 1]]))
    assert problem.pairs[0].tolist() == [0, 1]
    assert not len(problem.solve().missing)


def test_merges_of_no_category_are_missing_and_say_nothing(case):
    merges = np.concatenate([case.merges[:10], [[5, 5]], case.merges[10:]])
    used = [(pairs, counts, np.concatenate([offsets[:12], offsets[11:]])) for pairs, counts, offsets in case.histories]
    merges[10] = [900, 901]
    with_stranger = MixtureProblem(used, merges, case.denoms).solve()
    assert with_stranger.missing.tolist() == [10]
    np.testing.assert_allclose(with_stranger.alpha, case.problem().solve().alpha, rtol=0, atol=1e-6)


def test_an_inherited_vocabulary_asks_for_nothing(case):
    everything = MixtureProblem(case.histories, case.merges, case.denoms, first=case.steps).solve()
    assert everything.constraints == 0
    np.testing.assert_allclose(everything.alpha, 1 / case.n)
    half = MixtureProblem(case.histories, case.merges, case.denoms, first=20)
    assert half.solve().objective <= case.problem().solve().objective + 1e-9
    assert (half.solve().v[:20] == 0).all()


def test_no_merges_no_pairs_no_answer(case):
    nothing = (np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros(2, np.int64))
    for problem in (
        MixtureProblem(case.histories, case.merges[:0]),
        MixtureProblem([nothing] * 3, np.zeros((0, 2), np.int64)),
    ):
        result = problem.solve()
        np.testing.assert_allclose(result.alpha, 1 / len(result.alpha))
        assert result.objective == 0
    empty = (nothing[0], nothing[1], np.zeros(4, np.int64))
    assert MixtureProblem([empty], np.array([[0, 1], [1, 2]])).solve().missing.tolist() == [0, 1]


def test_a_finer_tolerance_breaks_less(case):
    problem = case.problem()
    fine = problem.solve(tol=1e-9)
    assert fine.objective == pytest.approx(problem.solve_full().objective, abs=1e-8)
    assert not problem._broken(mixture.Solution(fine.alpha, fine.v, fine.u, 0.0), set(), 10, 100, 1e-8)


def test_segments_hold_the_counts_of_every_step(case):
    segments = Segments(case.histories, case.merges)
    keys = {key: at for at, key in enumerate(segments.keys.tolist())}
    weights = np.random.default_rng(1).random(case.n)
    value = segments.values(weights)
    steps = zip(*(cumulated(history) for history in case.histories), strict=True)
    for step, now in zip(range(case.steps), steps, strict=False):
        if step % 12 not in (0, 1):
            continue
        for pair in set().union(*now):
            at = keys[pair[0] << 32 | pair[1]]
            holds = (segments.pair == at) & (segments.start <= step) & (step < segments.end)
            (segment,) = np.flatnonzero(holds)
            expected = [each[pair] for each in now]
            assert segments.counts(segment).tolist() == expected
            assert value[segment] == pytest.approx(weights @ expected, rel=1e-9)
            if pair == tuple(case.merges[step]):
                assert segments.own[step] == segment


@pytest.mark.parametrize("seed", range(8))
def test_broken_constraints_are_those_of_a_plain_search(seed):
    """The search by range minima and a heap of the broken, against a loop over every step and pair."""
    case, rng = Case("four_categories"), np.random.default_rng(seed)
    segments = Segments(case.histories, case.merges)
    value = segments.values(rng.dirichlet(np.ones(case.n)) / case.denoms)
    value -= rng.choice([0.0, 0.001], len(segments.keys))[segments.pair]
    threshold = value[segments.own] + rng.choice([0.0, 0.0005], case.steps) + 1e-6
    threshold[rng.integers(0, case.steps, 5)] = np.inf
    known = {(int(t), int(p)) for t, p in rng.integers(0, [case.steps, len(segments.keys)], (300, 2))}
    per_merge, most = int(rng.integers(1, 12)), int(rng.integers(1, 150))
    expected = []
    for step in range(case.steps):
        over = np.flatnonzero((segments.start <= step) & (step < segments.end) & (value > threshold[step]))
        over = [s for s in over[np.lexsort((over, -value[over]))] if (step, int(segments.pair[s])) not in known]
        expected += [(step, int(s)) for s in over[:per_merge]]
        if len(expected) >= most:
            break
    assert segments.broken(value, threshold, known, per_merge, most) == expected


def test_bad_histories_are_named(case):
    pairs, counts, offsets = case.histories[0]
    with pytest.raises(ValueError, match="at least one category"):
        MixtureProblem([], case.merges)
    with pytest.raises(ValueError, match=r"merges must have shape \(T, 2\)"):
        MixtureProblem(case.histories, case.merges[:, 0])
    with pytest.raises(ValueError, match="first must be between 0 and"):
        MixtureProblem(case.histories, case.merges, first=-1)
    with pytest.raises(ValueError, match=rf"histories\[1\] must have at least {case.steps + 2} offsets"):
        MixtureProblem([case.histories[0], (pairs, counts, offsets[:10])], case.merges)
    with pytest.raises(ValueError, match=r"histories\[0\] must hold pairs"):
        MixtureProblem([(pairs, counts[1:], offsets)], case.merges)
    with pytest.raises(ValueError, match=r"offsets of histories\[0\] must not descend"):
        MixtureProblem([(pairs, counts, np.concatenate([[0, 9, 3], offsets[3:]]))], case.merges)
    for denoms in ([1.0], [0.0] * case.n, [np.nan] * case.n):
        with pytest.raises(ValueError, match=f"denoms must be {case.n} positive numbers"):
            MixtureProblem(case.histories, case.merges, denoms)
    with pytest.raises(ValueError, match="must be positive"):
        case.problem().solve(tol=0)


def test_too_many_constraints_for_the_full_program(case, monkeypatch):
    monkeypatch.setattr(mixture, "MOST_ROWS", 1000)
    with pytest.raises(ValueError, match=r"solve_full: .* more than 1000"):
        case.problem().solve_full()


def test_trap_proportions_are_of_bytes():
    """Three-byte characters: half of the pairs, three quarters of the bytes."""
    np.testing.assert_allclose(mixture.to_bytes([0.5, 0.5], [1, 3]), [0.25, 0.75])


def test_log10_mse():
    assert mixture.log10_mse([0.1, 0.9], [0.2, 0.8]) == pytest.approx(-2)
    assert mixture.log10_mse([0.5, 0.5], [0.5, 0.5]) == -np.inf
