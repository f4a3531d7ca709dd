# SPDX-License-Identifier: Apache-2.0
"""Mixtures read off merge lists: the official solver, the whole linear program, and the laws of the paper's card."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the linear program is solved by SciPy, extra lp")

from tokernel.kernels import bpe
from tokernel.text import Encoding, _mixture_pieces, _mixture_problem, kl3m
from tokernel.text import data_mixture_inference as mixture
from tokernel.text._mixture_lp import Solution
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
    few_at_a_time = problem.solve(max_add=30, per_merge=2)
    assert few_at_a_time.objective == pytest.approx(full.objective, abs=1e-6)


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


def with_results(case):
    """Merges of a case as (left, right, result): the golden vocabulary has 16 letters, then the merges in order."""
    results = len(case.data["vocab_off"]) - 1 - len(case.data["merges"]) + np.arange(case.steps)
    return np.column_stack([case.merges, results])


def test_golden_histories(case):
    """The pairs' counts, as they change, are those of the golden files, and so is the mixture read from words."""
    merges = with_results(case)
    histories = []
    for category, (pairs, counts, offsets) in enumerate(case.histories):
        words, often = case.words(category)
        ours = bpe.pair_count_history(words, np.array(often), merges)
        histories.append(tuple(ours))
        for a, b in itertools.pairwise(offsets.tolist()):
            expected = sorted(zip(pairs[a:b].tolist(), counts[a:b].tolist(), strict=True))
            got = zip(ours.delta_pairs[a:b].tolist(), ours.delta_counts[a:b].tolist(), strict=True)
            assert list(got) == expected
        np.testing.assert_array_equal(ours.off, offsets)
    result = MixtureProblem(histories, merges).solve()
    assert result.objective == pytest.approx(float(case.data["objective_full_lp"]), abs=1e-5)


def test_law_8_deltas_add_up_to_a_recount_at_every_step():
    case = Case("four_categories")
    merges = with_results(case).tolist()
    words, often = case.words(2)
    ours = bpe.pair_count_history(words, np.array(often), np.array(merges))
    for step, (now, expected) in enumerate(zip(cumulated(ours), replayed(words, often, merges), strict=True)):
        assert now == expected, step


RUNS = [[0, 0, 0], [0, 0, 0, 0, 1], [1, 0, 0], [0, 1] * 3, [2]]


def test_law_9_a_merged_pair_is_gone_runs_included():
    merges = [(0, 0, 3), (3, 3, 4), (0, 1, 5), (5, 5, 6), (1, 3, 7), (9, 9, 8)]
    history = bpe.pair_count_history(RUNS, np.array([3, 5, 2, 7, 1]), np.array(merges))
    steps = list(cumulated(history))
    assert steps[0][(0, 0)] == 3 * 2 + 5 * 3 + 2  # trap: overlaps of runs count, and merge from the left
    for (left, right, _), now in zip(merges, steps[1:], strict=True):
        assert now[(left, right)] == 0
    assert list(replayed(RUNS, [3, 5, 2, 7, 1], merges)) == steps


def corpora(seed, categories=3, letters=12, words=4000):
    """Words of random first-order chains over the same letters, one chain a category, as texts."""
    rng = np.random.default_rng(seed)
    for _ in range(categories):
        chain = np.cumsum(rng.dirichlet(np.full(letters, 0.3), letters), 1)
        state, made = rng.integers(0, letters, words), []
        for draw in rng.random((5, words)):
            state = np.minimum((chain[state] < draw[:, None]).sum(1), letters - 1)
            made.append(state)
        yield [" ".join("".join(chr(97 + c) for c in word) for word in np.array(made).T.tolist())]


def pieces(texts):
    return bpe.count_pieces(texts, "gpt2")


def trained(texts, merges):
    return bpe.train_merges(*pieces(texts), vocab_size=256 + merges)


def test_law_10_more_merges_and_more_text_help_on_average():
    errors = {(merges, words): [] for merges, words in ((15, 4000), (80, 4000), (80, 400))}
    for seed in range(3):
        halves = [text[0].split(" ") for text in corpora(seed, words=8000)]
        share = np.random.default_rng(seed).dirichlet(np.ones(3) * 3)
        mixed = [" ".join(w[: int(4000 * s)]) for w, s in zip(halves, share, strict=True)]
        true = np.array([len(text) for text in mixed]) / sum(map(len, mixed))
        for merges, words in errors:
            rest = {str(i): pieces([" ".join(w[-words:])]) for i, w in enumerate(halves)}
            guess = mixture.infer_from_merges(trained(mixed, merges), rest)
            errors[merges, words].append(mixture.log10_mse(list(guess.values()), true))
    few, many, little = (np.mean(errors[key]) for key in errors)
    assert many < few
    assert many < little
    assert many < -3


def test_law_12_a_trainer_s_own_merges_stay_on_top():
    text = next(corpora(7))
    merges = trained(text, 60)
    history = bpe.pair_count_history(*words_of(pieces(text)), merges)
    for (left, right, _), now in zip(merges.tolist(), cumulated(history), strict=False):
        top = max(now.values())
        assert now[(left, right)] == top
        assert min(pair for pair, count in now.items() if count == top) == (left, right)
    alone = MixtureProblem([history], merges)
    assert alone.solve().objective == 0
    assert alone.solve().constraints == 0


def words_of(counted):
    flat, offsets, counts = counted
    return (flat.astype(np.int64), offsets), counts


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
    assert not problem._broken(Solution(fine.alpha, fine.v, fine.u, 0.0), set(), 10, 100, 1e-8)


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
    monkeypatch.setattr(_mixture_problem, "MOST_ROWS", 1000)
    with pytest.raises(ValueError, match=r"solve_full: .* more than 1000"):
        case.problem().solve_full()


def test_trap_proportions_are_of_bytes():
    """Three-byte characters: half of the pairs, three quarters of the bytes."""
    np.testing.assert_allclose(mixture.to_bytes([0.5, 0.5], [1, 3]), [0.25, 0.75])


def test_log10_mse():
    assert mixture.log10_mse([0.1, 0.9], [0.2, 0.8]) == pytest.approx(-2)
    assert mixture.log10_mse([0.5, 0.5], [0.5, 0.5]) == -np.inf


def test_bytes_without_an_id_are_left_out():
    byte_ids = np.full(256, -1)
    byte_ids[[97, 98, 99]] = [0, 1, 2]
    merges = np.array([[0, 1, 3], [1, 2, 4]])
    samples = {"x": pieces(["abab ab"]), "y": pieces(["bcbc!bc"])}
    guess = mixture.infer_from_merges(merges, samples, byte_ids)
    assert guess["x"] >= 0.5
    assert sum(guess.values()) == pytest.approx(1)


def test_an_encoding_is_its_merges():
    """Ranks list no merges: the trained split of every token is found again among those the vocabulary knows."""
    texts = list(corpora(11, categories=2))
    merges = trained([*texts[0], *texts[1], *texts[1]], 60)
    spelled = [bytes([b]) for b in range(256)]
    for left, right, _ in merges.tolist():
        spelled.append(spelled[left] + spelled[right])
    ranks = {token: rank for rank, token in enumerate(spelled)}
    encoding = Encoding("toy", pat_str="gpt2", mergeable_ranks=ranks, special_tokens={"<|end|>": 400})
    listed = _mixture_pieces.listed_merges(encoding.vocab)
    assert len(listed) >= 60  # the vocabulary may know other splits of a token too
    assert mixture.trained_merges(listed).tolist() == merges.tolist()
    named = {"x": texts[0], "y": texts[1]}
    expected = mixture.infer_from_merges(merges, {name: pieces(each) for name, each in named.items()})
    assert mixture.infer_mixture(encoding, named) == expected
    few = mixture.infer_mixture(encoding, named, merges=20, unit="pairs")
    assert few == mixture.infer_from_merges(merges[:20], {n: pieces(e) for n, e in named.items()}, unit="pairs")


def test_an_encoding_of_hugging_face_cuts_as_it_does(tmp_path):
    texts = list(corpora(11, categories=2))
    trained_here = kl3m.train_bpe([*texts[0], *texts[1]], 13 + 256 + 60, min_frequency=2, lowercase=True)
    trained_here.to_hf_json(tmp_path / "tokenizer.json")
    encoding = Encoding.from_hf(tmp_path / "tokenizer.json")
    assert (
        mixture.trained_merges(_mixture_pieces.listed_merges(encoding.vocab)).tolist() == trained_here.merges.tolist()
    )
    upper = {"x": [texts[0][0].upper()], "y": texts[1]}  # the normalizer undoes it
    lower = {"x": texts[0], "y": texts[1]}
    assert mixture.infer_mixture(encoding, upper) == mixture.infer_mixture(encoding, lower)
    regex = pytest.importorskip("regex", reason="other patterns run in the regex package, extra text")
    assert regex
    words = Encoding("w", pat_str=r"\w+|\W+", mergeable_ranks={bytes([b]): b for b in range(256)}, special_tokens={})
    counted = _mixture_pieces.pieces_of(words, ["ab, ab"])
    assert counted.pieces.tobytes() == b", ab"
    assert counted.counts.tolist() == [1, 2]


def test_pairs_are_what_the_program_weighs():
    """The unit decides: categories of unlike pieces have unlike bytes a pair."""
    samples = {"x": pieces(["abab ab ab"]), "y": pieces(["a b b c c bcbcbcbcbc"])}
    merges = np.array([[98, 99, 256], [97, 98, 257]])
    in_pairs = mixture.infer_from_merges(merges, samples, unit="pairs")
    in_bytes = mixture.infer_from_merges(merges, samples)
    per_pair = []
    for counted in samples.values():
        (_, offsets), counts = words_of(counted)
        per_pair.append(np.diff(offsets) @ counts / (np.maximum(np.diff(offsets) - 1, 0) @ counts))
    np.testing.assert_allclose(list(in_bytes.values()), mixture.to_bytes(list(in_pairs.values()), per_pair))
    with pytest.raises(ValueError, match="unit must be"):
        mixture.infer_from_merges(merges, samples, unit="words")
    with pytest.raises(ValueError, match=r"samples\['z'\] must hold"):
        mixture.infer_from_merges(merges, samples | {"z": pieces(["a"])})


def test_trained_merges_keep_the_split_that_training_made():
    """SentencePiece conversions list every split: the trained one is what earlier merges leave of the token."""
    letters = next(corpora(3))
    merges = trained(letters, 80)
    spelled = {i: bytes([i]) for i in range(256)}
    listed = []
    for left, right, result in merges.tolist():
        spelled[result] = spelled[left] + spelled[right]
        ids = {text: i for i, text in spelled.items()}
        text = spelled[result]
        splits = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        listed += [[ids[a], ids[b], result] for a, b in splits if a in ids and b in ids]
    assert len(listed) > len(merges)
    assert mixture.trained_merges(np.array(listed)).tolist() == merges.tolist()
    assert mixture.trained_merges(merges).tolist() == merges.tolist()


def test_merges_made_by_hand_are_dropped_with_all_that_needs_them():
    by_hand = [[0, 0, 5], [5, 5, 6]]
    listed = np.array([*by_hand, [0, 1, 7], [5, 1, 8], [8, 1, 9], [7, 7, 10]])
    assert mixture.trained_merges(listed, drop=2).tolist() == [[0, 1, 7], [7, 7, 10]]
    with pytest.raises(ValueError, match="drop must be between 0 and 6"):
        mixture.trained_merges(listed, drop=7)
    with pytest.raises(ValueError, match=r"must have shape \(M, 3\)"):
        mixture.trained_merges(listed[:, :2])
    assert mixture.trained_merges(np.zeros((0, 3), np.int64)).shape == (0, 3)


def test_tee_recovers_a_log_log_law():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(4), 6)
    efficiencies = np.exp(0.3 * np.log(shares) + 0.1)
    fit = mixture.fit_tee(efficiencies, shares)
    np.testing.assert_allclose(mixture.tee(efficiencies[0], fit), shares[0], rtol=1e-9)
    assert mixture.efficiency([10], [5], [2]).tolist() == [0.4]


def test_tokens_are_classified_by_their_frequency():
    counts = np.array([[10, 0, 5, 0], [0, 3, 1, 0]])
    np.testing.assert_allclose(mixture.token_classification(counts), [2 / 3, 1 / 3])  # 5/15 against 1/4
    assert mixture.token_classification(np.zeros((2, 3), int)).tolist() == [0, 0]


def test_the_missing_extra_is_named(monkeypatch, case):
    monkeypatch.setitem(__import__("sys").modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"pip install 'tokernel\[lp\]'"):
        case.problem().solve()
