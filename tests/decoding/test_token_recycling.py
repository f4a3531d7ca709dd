# SPDX-License-Identifier: Apache-2.0
"""Token Recycling: the official code's steps, and every law of the paper, on tiny models in float32 and float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")

from tokernel import ops
from tokernel.decoding import TargetModel, generate
from tokernel.decoding import token_recycling as tr
from tokernel.decoding._recycling_templates import expected_tokens
from tokernel.kernels.tree import TokenTree

from tiny_models import KINDS, VOCABULARY, greedy, prompts, tiny

CASES = ["default_tree_v40", "small_tree_v24"]
CHAIN = [[0], [0, 0], [0, 0, 0], [0, 0, 0, 0]]
UNEVEN = [[1], [0], [1, 2], [0, 0], [0, 1], [1, 2, 0]]  # children of a node in any order, ranks left out
TEMPLATES = ["2.2.2", "best-12", CHAIN, UNEVEN, []]


def random_matrix(seed: int, k: int = 8) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (VOCABULARY, k), generator=torch.Generator().manual_seed(seed))


def spy(model, method, ids, count):
    """Generate, and every step's matrix before, tree tokens, logits, target and matrix after."""
    steps = []
    session = method.start(model, [row.clone() for row in ids], tr.Sampling(), count)
    score = session.target.score
    emitted = [[] for _ in ids]

    def watched(tokens, tree):
        steps.append({"before": session.matrix.clone(), "tokens": tokens.clone()})
        steps[-1]["logits"] = score(tokens, tree)
        return steps[-1]["logits"]

    session.target.score = watched
    while min(map(len, emitted)) < count:
        new = session.step([True] * len(ids))
        steps[-1] |= {"after": session.matrix.clone(), "new": new}
        for row, tokens in enumerate(new):
            emitted[row] += tokens
    return session, steps, emitted


@pytest.fixture(params=CASES)
def official(request, golden):
    """One run of the official code."""
    return dict(np.load(golden / "token_recycling" / f"{request.param}.npz"))


def template_of(run) -> list[list[int]]:
    return [[int(rank) for rank in path if rank >= 0] for path in run["template_paths"]]


class TestOfficial:
    def test_the_tree_is_the_official_one(self, official):
        tree = tr.TokenRecyclingTree(template_of(official))
        assert np.array_equal(tree.mask, official["tree_mask"])
        assert np.array_equal(tree.depth, official["tree_depth"])
        assert np.array_equal(tree.paths, official["search_path"])
        assert np.array_equal(tree.parent[1:], official["father_index"][1:])
        assert np.array_equal(tree.rank[1:], official["candi_index"][1:])

    def test_every_step_is_the_official_one(self, official):
        tree = tr.TokenRecyclingTree(template_of(official))
        prompt, vocabulary = official["prompt"], int(official["vocab_size"])
        matrix = torch.zeros(vocabulary, 8, dtype=torch.int64)
        root, committed = torch.tensor(int(prompt[-1])), len(prompt) - 1
        out = prompt.tolist()
        for step, logits in enumerate(torch.from_numpy(official["step_logits"])):
            if step < len(official["step_adj_before"]):
                assert np.array_equal(matrix, official["step_adj_before"][step])
            tokens = tr.recycle_fill_tree(matrix, root, tree)
            assert np.array_equal(tokens, official["step_tree_tokens"][step])
            assert np.array_equal(tree.tree.positions(committed), official["step_positions"][step])
            best, candidates = tr.likely(logits[None], 8)
            assert np.array_equal(best[0], official["step_argmax"][step])
            assert np.array_equal(candidates[0], official["step_top8"][step])
            found = ops.verify_greedy(tokens, best[0], tree.tree)
            assert int(found.accepted) + 1 == official["accept_lengths"][step]
            path = found.path[: int(found.accepted) + 1]
            out += [*tokens[path[1:]].tolist(), int(found.bonus)]
            committed += len(path)
            if step + 1 < len(official["accept_lengths"]):  # the official code leaves out the last update
                tr.recycle_update(matrix, tokens, candidates[0])
            root = found.bonus
        assert out[: len(official["output_ids"])] == official["output_ids"][: len(out)].tolist()
        if len(official["step_logits"]) == len(official["accept_lengths"]):
            assert np.array_equal(matrix, official["adj_final"])


class TestTemplate:
    def test_the_paper_s_template_is_the_default(self):
        tree = tr.TokenRecyclingTree()
        assert len(tree) == 81
        assert np.bincount(tree.depth).tolist() == [1, 8, 21, 25, 15, 8, 3]
        assert tr.tree_from_paths(tr.TREE_222).tree == tree.tree

    @pytest.mark.parametrize("template", TEMPLATES)
    def test_mask_rows_have_depth_plus_one_ones_below_the_diagonal_and_close_the_parents(self, template):
        tree = tr.TokenRecyclingTree(template)
        assert np.array_equal(tree.mask.sum(1), tree.depth + 1)
        assert np.array_equal(tree.mask, np.tril(tree.mask))
        step = np.eye(len(tree), dtype=bool)
        step[np.arange(1, len(tree)), tree.parent[1:]] = True
        closure = np.linalg.matrix_power(step.astype(np.int64), len(tree)) > 0
        assert np.array_equal(tree.mask, closure)

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            ("3.3.3", "template must be 2.2.2, best-N or paths, got '3.3.3'"),
            ([[0], []], r"ranks of at least 0, got \[\]"),
            ([[0], [0, -1]], r"ranks of at least 0, got \[0, -1\]"),
            ([[0], [0]], r"every path once, got \[0\] twice"),
            ([[0], [1, 0]], r"the beginning of each path before it, got \[1, 0\] at 1"),
            ([[0], [0, 0], [1]], r"ordered by depth, .* got \[1\] at 2"),
        ],
    )
    def test_bad_templates_are_named(self, template, message):
        with pytest.raises(ValueError, match=message):
            tr.TokenRecyclingTree(template)

    def test_best_first_adds_the_most_likely_path_each_time(self):
        shares = (0.5, 0.3, 0.1)
        chance = {path: np.prod([shares[r] for r in path]) for path in tr.best_first_template(40, shares)}
        grown = [set(tr.best_first_template(n, shares)) for n in range(41)]
        added = [next(iter(more - less)) for less, more in itertools.pairwise(grown)]
        assert all(len(more - less) == 1 for less, more in itertools.pairwise(grown))
        values = [chance[path] for path in added]
        assert values == sorted(values, reverse=True)
        assert tr.best_first_template(0) == ()
        with pytest.raises(ValueError, match="nodes must be at least 0"):
            tr.best_first_template(-1)
        with pytest.raises(ValueError, match="shares must descend"):
            tr.best_first_template(3, (0.1, 0.2))


class TestFastest:
    """The choice by a clock that says what each pass should take: by the number of nodes it was asked for."""

    def choose(self, monkeypatch, cost, **options):
        told = [0.0]
        score = TargetModel.score

        def timed(target, tokens, tree):
            told[0] += cost(len(tree))
            return score(target, tokens, tree)

        monkeypatch.setattr(TargetModel, "score", timed)
        return tr.fastest_template(tiny(), prefix=8, clock=lambda: told[0], **options)

    def test_the_largest_where_nodes_cost_nothing(self, monkeypatch):
        assert len(self.choose(monkeypatch, lambda nodes: 1.0)) == 80

    def test_none_where_every_node_costs_a_pass(self, monkeypatch):
        assert self.choose(monkeypatch, lambda nodes: float(nodes), nodes=(0, 4, 16)) == ()

    def test_the_best_ratio_in_between(self, monkeypatch):
        def cost(nodes):
            return 1 + nodes / 20

        sizes = (2, 4, 8, 16, 32, 64)
        chosen = self.choose(monkeypatch, cost, nodes=sizes, rows=2)
        pace = {n: expected_tokens(tr.best_first_template(n)) / cost(n + 1) for n in sizes}
        assert len(chosen) == max(pace, key=pace.get)

    def test_expectation_is_the_sum_over_nodes_of_their_paths_chances(self):
        template = tr.best_first_template(30, (0.5, 0.2))
        drawn = np.random.default_rng(0).random((20000, 40))
        total = 0
        for coins in drawn:  # at each depth one draw says which rank was right, if any
            path = []
            for coin in coins:
                rank = 0 if coin < 0.5 else 1 if coin < 0.7 else None
                if rank is None or (*path, rank) not in template:
                    break
                path.append(rank)
            total += 1 + len(path)
        assert expected_tokens(template, (0.5, 0.2)) == pytest.approx(total / len(drawn), abs=0.05)

    def test_nothing_to_choose_from_is_named(self):
        with pytest.raises(ValueError, match=r"nodes and repeats must be at least one, got \[\] and 3"):
            tr.fastest_template(tiny(), nodes=())


class TestFill:
    def test_only_rows_of_tokens_of_the_depth_above_are_read(self):
        matrix, tree = random_matrix(0), tr.TokenRecyclingTree(UNEVEN)
        tokens = tr.recycle_fill_tree(matrix, torch.tensor(5), tree)
        inner = set(tokens[[0, *tree.parent[1:]]].tolist())
        for token in range(VOCABULARY):
            changed = matrix.clone()
            changed[token] = (changed[token] + 1) % VOCABULARY
            same = torch.equal(tr.recycle_fill_tree(changed, torch.tensor(5), tree), tokens)
            assert same == (token not in inner)

    @pytest.mark.parametrize("template", TEMPLATES)
    def test_filling_twice_is_filling_once_and_follows_the_formula(self, template):
        matrix, tree = random_matrix(1), tr.TokenRecyclingTree(template)
        roots = torch.tensor([3, 60, 3])
        before = matrix.clone()
        tokens = tr.recycle_fill_tree(matrix, roots, tree)
        assert torch.equal(tr.recycle_fill_tree(matrix, roots, tree), tokens)
        assert torch.equal(matrix, before)
        assert torch.equal(tokens[:, 0], roots)
        for i in range(1, len(tree)):
            assert torch.equal(tokens[:, i], matrix[tokens[:, tree.parent[i]], int(tree.rank[i])])

    def test_a_cold_matrix_fills_with_token_0(self):
        tokens = tr.recycle_fill_tree(torch.zeros(9, 8, dtype=torch.int64), torch.tensor(4), tr.TokenRecyclingTree())
        assert tokens.tolist() == [4] + [0] * 80


class TestUpdate:
    def test_the_last_node_that_carries_a_token_wins_and_other_rows_stay(self):
        matrix = random_matrix(2)
        before = matrix.clone()
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, 10, (3, 40), generator=generator)
        candidates = torch.randint(0, VOCABULARY, (3, 40, 8), generator=generator)
        tr.recycle_update(matrix, tokens, candidates)
        flat = tokens.flatten().tolist()
        for token in range(VOCABULARY):
            if token in flat:
                last = len(flat) - 1 - flat[::-1].index(token)
                assert torch.equal(matrix[token], candidates.view(-1, 8)[last])
            else:
                assert torch.equal(matrix[token], before[token])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_after_a_step_a_row_is_the_top_8_of_the_last_node_with_that_token(self, dtype):
        method = tr.TokenRecycling()
        _, steps, _ = spy(tiny(dtype=dtype), method, prompts(2), 12)
        for step in steps:
            expected = step["before"].clone()
            for row, logits in zip(step["tokens"], step["logits"], strict=True):
                order = logits.double().argsort(descending=True, stable=True)[:, :8]
                for token, best in zip(row.tolist(), order, strict=True):
                    expected[token] = best
            assert torch.equal(step["after"], expected)

    @pytest.mark.parametrize("k", [1, 3, 8, 12])
    def test_any_k(self, k):
        template = [path for path in tr.TREE_222 if max(path) < k]
        method = tr.TokenRecycling(template, k=k)
        out = generate(tiny(), prompts(), method, max_new_tokens=20)
        assert method.matrix.shape == (VOCABULARY, k)
        assert out.new_tokens() == greedy(tiny(), prompts()[0], 20)


class TestLossless:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_output_is_greedy_decoding_for_any_template_and_any_matrix(self, kind, dtype):
        model = tiny(kind, dtype)
        expected = model.generate(
            prompts(), attention_mask=torch.ones_like(prompts()), max_new_tokens=24, do_sample=False, pad_token_id=0
        )
        for seed, template in enumerate(TEMPLATES):
            method = tr.TokenRecycling(template)
            for matrix in (None, random_matrix(seed), expected[0, -1] + torch.zeros(VOCABULARY, 8, dtype=torch.int64)):
                method.matrix = matrix
                out = generate(model, prompts(), method, max_new_tokens=24)
                assert torch.equal(out.sequences, expected)

    @pytest.mark.parametrize("kind", ["llama", "gpt2"])
    def test_a_padded_batch_is_each_row_alone(self, kind):
        model, ids = tiny(kind), prompts(4)
        mask = torch.ones(4, 7, dtype=torch.int64)
        mask[1, :5], mask[2, 1:] = 0, 0
        alone = [greedy(model, row[seen != 0], 16) for row, seen in zip(ids, mask, strict=True)]
        method = tr.TokenRecycling("best-20")
        for _ in range(2):  # cold, then with what it has learnt
            out = generate(model, ids, method, max_new_tokens=16, attention_mask=mask)
            assert [out.new_tokens(row) for row in range(4)] == alone

    def test_a_batch_whose_rows_end_early(self):
        model, ids = tiny(), prompts(3)
        alone = [greedy(model, row, 16) for row in ids]
        stop = alone[1][4]
        expected = [text[: text.index(stop) + 1] if stop in text else text for text in alone]
        out = generate(model, ids, "token_recycling", max_new_tokens=16, stop_tokens=stop)
        assert [out.new_tokens(row) for row in range(3)] == expected

    def test_bfloat16_emits_what_its_own_trees_say(self):
        """Greedy by the logits of the passes it made: rounding differs between a tree and a single token."""
        method = tr.TokenRecycling("best-12")
        _, steps, emitted = spy(tiny(dtype=torch.bfloat16), method, prompts(), 20)
        for step in steps:
            tokens, best = step["tokens"][0].tolist(), step["logits"][0].argmax(-1).tolist()
            node = 0
            for token in step["new"][0]:
                assert token == best[node]
                below = [i for i in range(1, len(tokens)) if method.tree.parent[i] == node and tokens[i] == token]
                node = below[0] if below else node
        assert len(emitted[0]) >= 20

    def test_generate_cuts_where_the_official_code_overshoots(self):
        method = tr.TokenRecycling()
        expected = greedy(tiny(), prompts()[0], 40)
        generate(tiny(), prompts(), method, max_new_tokens=40)
        for count in (1, 2, 3, 7):
            assert generate(tiny(), prompts(), method, max_new_tokens=count).new_tokens() == expected[:count]

    def test_up_to_the_model_s_last_position(self):
        model = tiny("gpt2", n_positions=24)
        method = tr.TokenRecycling()
        for _ in range(2):
            out = generate(model, prompts(), method, max_new_tokens=17)
            assert out.new_tokens() == greedy(model, prompts()[0], 17)


class TestSteps:
    @pytest.mark.parametrize("template", TEMPLATES)
    def test_accepts_lie_between_1_and_the_depth_plus_1_and_sum_to_the_tokens(self, template):
        method = tr.TokenRecycling(template)
        session, steps, emitted = spy(tiny(), method, prompts(2), 30)
        deepest = int(method.tree.depth.max())
        counts = [[len(tokens) for tokens in step["new"]] for step in steps]
        assert all(1 <= count <= deepest + 1 for step in counts for count in step)
        assert [sum(row) for row in zip(*counts, strict=True)] == [len(text) for text in emitted]
        assert session.target.lengths.tolist() == [6 + len(text) for text in emitted]

    def test_a_cold_matrix_accepts_only_true_zeros(self):
        session, steps, _ = spy(tiny(), tr.TokenRecycling(), prompts(), 1)
        zeros = greedy(tiny(), prompts()[0], 1)[0] == 0
        assert (len(steps[0]["new"][0]) == 1) == (not zeros)
        assert not zeros  # else this test shows nothing
        assert session.target.lengths.tolist() == [7]

    def test_a_perfect_matrix_accepts_everything(self):
        """A model that always says the same token, and a matrix that knows it."""
        model = tiny(tie_word_embeddings=False)
        model.lm_head.weight.data.zero_()
        method = tr.TokenRecycling(CHAIN)
        out = generate(model, prompts(), method, max_new_tokens=20)
        assert out.new_tokens() == [0] * 20
        assert out.emitted == [[5]] * 4

    def test_a_chain_template_is_ordinary_speculation(self):
        tree = tr.TokenRecyclingTree(CHAIN)
        assert tree.tree == TokenTree.chain(5)
        method = tr.TokenRecycling(tree)
        _, steps, _ = spy(tiny(), method, prompts(), 30)
        for step in steps:
            tokens, best = step["tokens"][0].tolist(), step["logits"][0].argmax(-1).tolist()
            right = 0
            while right < 4 and tokens[right + 1] == best[right]:
                right += 1
            assert step["new"][0] == best[: right + 1]

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_cache_after_compaction_is_that_of_a_fresh_causal_prefill(self, kind):
        model, ids = tiny(kind), prompts(2)
        session, _, emitted = spy(model, tr.TokenRecycling("best-20"), ids, 24)
        for row, text in enumerate(emitted):
            committed = torch.cat([ids[row], torch.tensor(text[:-1])])[None]
            fresh = model(committed, use_cache=True).past_key_values
            for layer in range(2):
                keys, values = fresh.layers[layer].keys[0], fresh.layers[layer].values[0]
                length = committed.shape[1]
                assert session.target.lengths[row] == length
                for ours, theirs in ((session.target.cache.keys, keys), (session.target.cache.values, values)):
                    torch.testing.assert_close(ours[layer, row, :, :length], theirs, atol=1e-5, rtol=1e-5)


class TestMatrix:
    def test_stays_warm_between_calls_until_reset(self):
        model, method = tiny(), tr.TokenRecycling()
        cold = generate(model, prompts(), method, max_new_tokens=40)
        learnt = method.matrix.clone()
        assert torch.equal(method._matrix_for(TargetModel(model, 1, 1)), learnt)
        warm = generate(model, prompts(), method, max_new_tokens=40)
        assert warm.emitted != cold.emitted
        assert torch.equal(warm.sequences, cold.sequences)
        method.reset()
        assert method.matrix is None
        again = generate(model, prompts(), method, max_new_tokens=40)
        assert again.emitted == cold.emitted

    def test_takes_what_the_paper_says(self):
        method = tr.TokenRecycling()
        generate(tiny(), prompts(), method, max_new_tokens=1)
        assert method.matrix.nbytes == tr.matrix_bytes(VOCABULARY) == VOCABULARY * 8 * 8
        assert tr.matrix_bytes(32000) / 2**20 == pytest.approx(1.95, abs=5e-3)

    def test_a_decoder_is_the_method_and_its_model(self):
        decoder = tr.TokenRecyclingDecoder(tiny(), template="best-8")
        expected = greedy(tiny(), prompts()[0], 10)
        assert decoder.generate(prompts(), 10).new_tokens() == expected
        assert (
            decoder.generate(prompts(), 10, eos=expected[3]).new_tokens() == expected[: expected.index(expected[3]) + 1]
        )
        decoder.reset()
        assert decoder.method.matrix is None


class TestBadInput:
    def test_what_it_cannot_do_is_named(self):
        with pytest.raises(ValueError, match="k must be above the template's ranks, 7, got 7"):
            tr.TokenRecycling(k=7)
        with pytest.raises(ValueError, match="k must be at most the vocabulary, 64, got 65"):
            generate(tiny(), prompts(), tr.TokenRecycling(k=65), max_new_tokens=2)
        with pytest.raises(ValueError, match=r"temperature must be 0 for token_recycling, which is greedy, got 0\.5"):
            generate(tiny(), prompts(), "token_recycling", max_new_tokens=2, temperature=0.5)

    def test_a_matrix_of_another_vocabulary_is_refused(self):
        method = tr.TokenRecycling()
        generate(tiny(), prompts(), method, max_new_tokens=1)
        with pytest.raises(ValueError, match="model must be as before, 64 tokens on cpu, got 80 on cpu: call reset"):
            generate(tiny(vocab_size=80), prompts(), method, max_new_tokens=1)
