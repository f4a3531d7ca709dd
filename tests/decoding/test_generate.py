# SPDX-License-Identifier: Apache-2.0
"""The loop, plain decoding, and the model that scores trees, against transformers' own generate and fresh passes."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")

from tokernel.decoding import Sampling, TargetModel, generate, method_names
from tokernel.kernels.tree import TokenTree

from tiny_models import KINDS, VOCABULARY, greedy, prompts, tiny

BRANCHES = TokenTree([-1, 0, 0, 1, 1, 2, 5, 0])


class Scripted:
    """A method that says what it was told to: rows of lists of tokens, one list a step."""

    name = "scripted"

    def __init__(self, *rows):
        self.rows = rows
        self.asked = []

    def start(self, model, prompts, sampling, room):
        self.prompts, self.sampling, self.room = prompts, sampling, room
        return self

    def step(self, active):
        self.asked.append(list(active))
        at = len(self.asked) - 1
        return [row[at] if on else [] for row, on in zip(self.rows, active, strict=True)]


class TestLoop:
    def test_cuts_at_exactly_as_many_tokens_as_asked(self):
        method = Scripted([[1, 2, 3], [4, 5, 6]])
        out = generate(tiny(), prompts(), method, max_new_tokens=5)
        assert out.new_tokens() == [1, 2, 3, 4, 5]
        assert out.emitted == [[3], [2]]
        assert (out.steps, out.lengths.tolist(), out.tokens_per_step) == (2, [5], 2.5)

    @pytest.mark.parametrize("stop", [9, [9], (8, 9), torch.tensor([9])])
    def test_cuts_behind_the_first_stop_token_also_in_the_middle_of_a_step(self, stop):
        out = generate(tiny(), prompts(), Scripted([[1], [2, 9, 3, 9]]), max_new_tokens=50, stop_tokens=stop)
        assert out.new_tokens() == [1, 2, 9]

    def test_a_stop_token_beyond_the_limit_does_not_count(self):
        out = generate(tiny(), prompts(), Scripted([[1, 2, 9]]), max_new_tokens=2, stop_tokens=9)
        assert out.new_tokens() == [1, 2]

    def test_the_model_s_own_end_is_the_default_and_can_be_ignored(self):
        model = tiny()
        model.generation_config.eos_token_id = [5, 6]
        assert generate(model, prompts(), Scripted([[6, 1, 2]]), max_new_tokens=3).new_tokens() == [6]
        out = generate(model, prompts(), Scripted([[6, 1, 2]]), max_new_tokens=3, stop_tokens=())
        assert out.new_tokens() == [6, 1, 2]
        model.generation_config.eos_token_id = None
        model.config.eos_token_id = 1
        assert generate(model, prompts(), Scripted([[6, 1, 2]]), max_new_tokens=3).new_tokens() == [6, 1]

    def test_rows_end_by_themselves_and_are_not_asked_again(self):
        method = Scripted([[1], [9], [0]], [[2, 3], [4, 5], [6]])
        out = generate(tiny(), prompts(2), method, max_new_tokens=5, stop_tokens=9)
        assert method.asked == [[True, True], [True, True], [False, True]]
        assert [out.new_tokens(0), out.new_tokens(1)] == [[1, 9], [2, 3, 4, 5, 6]]
        assert out.emitted == [[1, 2], [1, 2], [0, 1]]
        assert out.tokens_per_step == pytest.approx(7 / 5)

    def test_sequences_are_prompts_then_tokens_then_padding(self):
        model = tiny()
        model.config.pad_token_id = 63
        out = generate(model, prompts(2), Scripted([[1], [9]], [[2, 3], [4, 5]]), max_new_tokens=4, stop_tokens=9)
        assert torch.equal(out.sequences[:, :7], prompts(2))
        assert out.sequences[:, 7:].tolist() == [[1, 9, 63, 63], [2, 3, 4, 5]]
        assert out.lengths.tolist() == [2, 4]

    def test_streams_what_is_kept(self):
        heard = []
        script = Scripted([[1, 2], [9, 3]], [[4], [5]])
        keep = {"stop_tokens": 9, "stream": lambda row, tokens: heard.append((row, tokens))}
        generate(tiny(), prompts(2), script, max_new_tokens=2, **keep)
        assert heard == [(0, [1, 2]), (1, [4]), (1, [5])]

    @pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
    def test_a_method_gets_prompts_without_padding(self, dtype):
        ids = prompts(3).to(dtype)
        mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [1] * 7])
        method = Scripted([[1]], [[1]], [[1]])
        generate(tiny(), ids, method, max_new_tokens=1, attention_mask=mask, temperature=0.5)
        assert [p.tolist() for p in method.prompts] == [ids[0, 2:].tolist(), ids[1, :3].tolist(), ids[2].tolist()]
        assert {p.dtype for p in method.prompts} == {torch.int64}
        assert (method.sampling, method.room) == (Sampling(0.5), 1)

    def test_nothing_asked_and_nobody_there(self):
        out = generate(tiny(), prompts(2), "greedy", max_new_tokens=0)
        assert torch.equal(out.sequences, prompts(2))
        assert (out.steps, out.lengths.tolist(), out.tokens_per_step) == (0, [0, 0], 0.0)
        nobody = generate(tiny(), prompts(0), "greedy", max_new_tokens=3)
        assert (nobody.sequences.shape, nobody.lengths.shape) == ((0, 7), (0,))

    def test_a_step_without_a_token_is_the_method_s_mistake(self):
        with pytest.raises(RuntimeError, match="scripted must emit a token in every step"):
            generate(tiny(), prompts(), Scripted([[]]), max_new_tokens=3)


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"method": "beam"}, ValueError, "method must be one of .*greedy.*, got 'beam'"),
            ({"method": 3}, TypeError, "method must be a name or have a start"),
            ({"max_new_tokens": -1}, ValueError, "max_new_tokens must be at least 0, got -1"),
            ({"max_new_tokens": 2.5}, TypeError, "max_new_tokens must be an integer, got float"),
            ({"max_new_tokens": 250}, ValueError, r"the model's 256 positions, got 7 \+ 250"),
            ({"input_ids": [[1, 2]]}, TypeError, "input_ids must be a tensor of int64 or int32, got list"),
            ({"input_ids": torch.ones(1, 3)}, TypeError, "input_ids must be .*, got torch.float32"),
            ({"input_ids": torch.tensor([1, 2])}, ValueError, r"input_ids must be \(B, P\), got \(2,\)"),
            ({"input_ids": torch.tensor([[1, 64]])}, ValueError, r"input_ids must be in \[0, 64\), got 64"),
            ({"input_ids": torch.tensor([[-100, 3]])}, ValueError, r"input_ids must be in \[0, 64\), got -100"),
            ({"input_ids": torch.zeros(1, 0, dtype=torch.int64)}, ValueError, "got an empty prompt"),
            ({"attention_mask": torch.ones(1, 6)}, ValueError, r"attention_mask must be \(1, 7\)"),
            ({"attention_mask": torch.zeros(1, 7)}, ValueError, "got an empty prompt"),
            ({"attention_mask": torch.tensor([[1, 1, 0, 1, 1, 1, 1]])}, ValueError, "a hole in row 0"),
            ({"temperature": -1.0}, ValueError, "temperature must be finite and at least 0, got -1.0"),
            ({"temperature": float("nan")}, ValueError, "temperature must be finite"),
            ({"stop_tokens": ["end"]}, TypeError, "stop_tokens must be integers"),
        ],
    )
    def test_errors_name_the_argument(self, changes, error, message):
        keep = {"input_ids": prompts(), "method": "greedy", "max_new_tokens": 3} | changes
        with pytest.raises(error, match=f"generate: .*{message}"):
            generate(tiny(), **keep)

    def test_what_is_no_model(self):
        with pytest.raises(TypeError, match="generate: model must be a causal language model of transformers"):
            generate(object(), prompts(), max_new_tokens=1)
        with pytest.raises(TypeError, match="generate: model must be"):
            generate(torch.nn.Linear(2, 2), prompts(), max_new_tokens=1)


class TestPlain:
    @pytest.mark.parametrize("kind", KINDS)
    def test_equals_transformers_greedy(self, kind):
        model = tiny(kind)
        seen = torch.ones(2, 7, dtype=torch.int64)  # else transformers takes every 0 for padding
        expected = model.generate(prompts(2), attention_mask=seen, max_new_tokens=24, do_sample=False, pad_token_id=0)
        out = generate(model, prompts(2), "greedy", max_new_tokens=24)
        assert torch.equal(out.sequences, expected)
        assert out.steps == 24
        assert out.new_tokens(1) == greedy(model, prompts(2)[1], 24)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("left", [True, False])
    def test_padded_batch_equals_each_row_alone(self, kind, left):
        model = tiny(kind)
        ids, mask = prompts(3), torch.ones(3, 7, dtype=torch.int64)
        for row, length in enumerate((7, 1, 4)):
            mask[row, slice(0, 7 - length) if left else slice(length, 7)] = 0
        out = generate(model, ids, max_new_tokens=12, attention_mask=mask)
        for row in range(3):
            assert out.new_tokens(row) == greedy(model, ids[row][mask[row] != 0], 12)

    def test_stops_where_transformers_stops(self):
        model = tiny()
        free = greedy(model, prompts()[0], 20)
        model.generation_config.eos_token_id = free[6]
        out = generate(model, prompts(), max_new_tokens=20)
        expected = model.generate(prompts(), max_new_tokens=20, do_sample=False, pad_token_id=0)
        assert out.sequences.tolist() == expected.tolist()

    def test_rows_that_end_early_leave_the_others_alone(self):
        model = tiny()
        alone = [greedy(model, row, 16) for row in prompts(3)]
        stop = alone[1][3]
        out = generate(model, prompts(3), max_new_tokens=16, stop_tokens=stop)
        expected = [text[: text.index(stop) + 1] if stop in text else text for text in alone]
        assert [out.new_tokens(row) for row in range(3)] == expected
        assert len({len(text) for text in expected}) > 1

    def test_a_temperature_draws_from_the_model_s_distribution(self):
        model = tiny()
        rows, at = 4000, 0.7
        ids = prompts().expand(rows, -1)
        draws = generate(
            model, ids, max_new_tokens=1, temperature=at, generator=torch.Generator().manual_seed(0)
        ).sequences[:, -1]
        p = torch.softmax(model(prompts()).logits[0, -1].detach().double() / at, -1)
        expected, seen = p * rows, torch.bincount(draws, minlength=VOCABULARY).double()
        often = expected >= 5
        rest = torch.tensor([expected[~often].sum(), seen[~often].sum()])
        chi = ((seen - expected)[often] ** 2 / expected[often]).sum() + (rest[1] - rest[0]) ** 2 / rest[0].clamp(min=1)
        freedom = int(often.sum())
        assert chi < freedom + 4 * (2 * freedom) ** 0.5  # four standard deviations of chi-square
        again = generate(model, ids[:8], max_new_tokens=3, temperature=at, generator=torch.Generator().manual_seed(3))
        same = generate(model, ids[:8], max_new_tokens=3, temperature=at, generator=torch.Generator().manual_seed(3))
        assert torch.equal(again.sequences, same.sequences)

    def test_uses_every_position_the_model_has(self):
        model = tiny("gpt2", n_positions=16)
        out = generate(model, prompts(), max_new_tokens=9)
        assert out.new_tokens() == greedy(model, prompts()[0], 9)

    def test_names(self):
        assert "greedy" in method_names()


def alone(model, prefix, path):
    """Logits behind the last token of a path, by a fresh pass."""
    return model(torch.cat([prefix, path])[None], use_cache=False).logits[0, -1]


DTYPES = [torch.float32, torch.float64, torch.bfloat16]


class TestTargetModel:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_node_s_logits_are_those_of_its_path_alone(self, kind, dtype):
        model = tiny(kind, dtype)
        before = [prompts(seed=3)[0, :n] for n in (6, 0, 3)]
        target = TargetModel(model, 3, 32)
        target.prefill(before)
        tokens = prompts(3, len(BRANCHES), seed=4)
        logits = target.score(tokens, BRANCHES)
        exact = tiny(kind, torch.float64)
        for row in range(3):
            for node in range(len(BRANCHES)):
                path = tokens[row, BRANCHES.path(node)]
                true = alone(exact, before[row], path)
                naive = (alone(model, before[row], path).double() - true).abs().max()
                assert (logits[row, node].double() - true).abs().max() <= 2 * naive + 1e-4 * true.abs().max()

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_cache_after_accepting_is_that_of_a_fresh_prefill(self, kind):
        model = tiny(kind)
        before = [prompts(seed=3)[0, :n] for n in (6, 2)]
        tokens = prompts(2, len(BRANCHES), seed=4)
        target = TargetModel(model, 2, 8)
        target.prefill(before)
        target.score(tokens, BRANCHES)
        target.accept(torch.tensor([[0, 2, 5, 6], [0, 7, -1, -1]]))
        assert target.lengths.tolist() == [10, 4]
        fresh = TargetModel(model, 2, 64)
        fresh.prefill([torch.cat([before[0], tokens[0, [0, 2, 5, 6]]]), torch.cat([before[1], tokens[1, [0, 7]]])])
        for row, length in enumerate((10, 4)):
            for ours, theirs in ((target.cache.keys, fresh.cache.keys), (target.cache.values, fresh.cache.values)):
                torch.testing.assert_close(ours[:, row, :, :length], theirs[:, row, :, :length], atol=1e-5, rtol=1e-5)

    def test_a_row_that_accepts_nothing_stays(self):
        model = tiny()
        target = TargetModel(model, 2, 8)
        target.prefill(list(prompts(2)))
        tokens = prompts(2, 3, seed=5)
        first = target.score(tokens, TokenTree.chain(3))
        target.accept(torch.tensor([[0, 1], [-1, -1]]))
        assert target.lengths.tolist() == [9, 7]
        again = target.score(tokens, TokenTree.chain(3))
        torch.testing.assert_close(again[1], first[1], atol=1e-5, rtol=1e-5)

    def test_goes_on_with_some_rows_in_any_order(self):
        target = TargetModel(tiny(), 3, 32)
        target.prefill([prompts(3)[row, : 7 - row] for row in range(3)])
        tokens = prompts(3, len(BRANCHES), seed=4)
        expected = target.score(tokens, BRANCHES)
        target.keep([2, 0])
        assert target.lengths.tolist() == [5, 7]
        torch.testing.assert_close(target.score(tokens[[2, 0]], BRANCHES), expected[[2, 0]], atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("kind", ["llama", "gpt2"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_tree_scored_level_by_level_is_the_tree_scored_at_once(self, kind, dtype):
        model = tiny(kind, dtype)
        tokens = prompts(2, len(BRANCHES), seed=4)
        whole, grown = TargetModel(model, 2, 64), TargetModel(model, 2, 2)
        for target in (whole, grown):
            target.prefill([prompts()[0, :5], prompts()[0, :3]])
        at_once = whole.score(tokens, BRANCHES)
        parts = [grown.score(tokens[:, :1], TokenTree.chain(1))]
        for first, end in ((1, 3), (3, 6), (6, 8)):
            parts.append(grown.extend(tokens[:, first:end], TokenTree(BRANCHES.parents[:end]), first))
        torch.testing.assert_close(torch.cat(parts, 1), at_once, atol=1e-5, rtol=1e-5)
        for target in (whole, grown):
            target.accept(torch.tensor([[0, 1, 4], [0, 2, 5]]))
        torch.testing.assert_close(grown.score(tokens, BRANCHES), whole.score(tokens, BRANCHES), atol=1e-5, rtol=1e-5)

    def test_trees_may_differ_by_row_and_be_padded(self):
        model = tiny()
        parents = np.array([[-1, 0, 0, 1], [-1, 0, 1, -1]])
        tokens = prompts(2, 4, seed=4)
        target = TargetModel(model, 2, 32)
        target.prefill([prompts()[0], prompts()[0, :2]])
        logits = target.score(tokens, parents)
        for row, tree in enumerate((TokenTree(parents[0]), TokenTree(parents[1, :3]))):
            lone = TargetModel(model, 1, 32)
            lone.prefill([prompts()[0, : (7, 2)[row]]])
            expected = lone.score(tokens[row : row + 1, : len(tree)], tree)
            torch.testing.assert_close(logits[row : row + 1, : len(tree)], expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(target.score(tokens, torch.from_numpy(parents)), logits)
        assert torch.equal(target.score(tokens, [TokenTree(parents[0]), TokenTree(parents[1, :3])]), logits)

    def test_grows_beyond_its_capacity_without_a_change(self):
        model = tiny()
        small, large = TargetModel(model, 2, 1), TargetModel(model, 2, 200)
        for target in (small, large):
            target.prefill(list(prompts(2)))
        for seed in range(5):
            tokens = prompts(2, len(BRANCHES), seed=seed)
            assert torch.equal(small.score(tokens, BRANCHES), large.score(tokens, BRANCHES))
            for target in (small, large):
                target.accept(torch.tensor([[0, 1, 3], [0, 2, -1]]))
        assert small.cache.capacity < large.cache.capacity

    def test_deep_nodes_at_the_last_position_do_no_harm(self):
        model = tiny("gpt2", n_positions=8)
        target = TargetModel(model, 1, 8)
        target.prefill([prompts()[0]])
        logits = target.score(torch.tensor([[1, 2, 3]]), TokenTree.chain(3))
        torch.testing.assert_close(logits[0, 0], alone(model, prompts()[0], torch.tensor([1])), atol=1e-5, rtol=1e-5)
        target.accept(torch.tensor([[0]]))
        with pytest.raises(ValueError, match="must fit the model's 8 positions, got 9"):
            target.score(torch.tensor([[1]]), TokenTree.chain(1))

    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_the_model_is_left_as_it_was_also_after_an_error(self, implementation):
        model = tiny()
        model.set_attn_implementation(implementation)
        expected = model(prompts()).logits
        target = TargetModel(model, 1, 8)
        with pytest.raises(IndexError):
            target.score(torch.tensor([[VOCABULARY]]), TokenTree.chain(1))
        assert model.config._attn_implementation == implementation
        generate(model, prompts(), max_new_tokens=2)
        assert {m.config._attn_implementation for m in model.modules() if hasattr(m, "config")} == {implementation}
        assert torch.equal(model(prompts()).logits, expected)

    @pytest.mark.parametrize(
        ("kind", "changes", "message"),
        [
            ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}, "sliding_attention"),
            ("gpt2", {"add_cross_attention": True}, "no cross-attention"),
            (
                "llama",
                {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
                "'dynamic' scaling",
            ),
        ],
    )
    def test_attention_it_cannot_do_is_refused(self, kind, changes, message):
        with pytest.raises(ValueError, match=message):
            TargetModel(tiny(kind, **changes), 1, 8)

    def test_models_it_cannot_run_are_refused(self):
        with pytest.raises(ValueError, match="got one in training mode"):
            TargetModel(tiny().train(), 1, 8)
        with pytest.raises(TypeError, match="got Linear"):
            TargetModel(torch.nn.Linear(2, 2), 1, 8)
        import transformers as hf

        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        window = hf.MistralForCausalLM(hf.MistralConfig(vocab_size=8, **sizes, sliding_window=4))
        with pytest.raises(ValueError, match="every layer must attend to all that came before"):
            TargetModel(window.eval(), 1, 8)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda t: t.prefill([torch.tensor([1])]), "prompts must be 2 of"),
            (lambda t: t.prefill([torch.tensor([1])] * 2), "prompts must come first"),
            (lambda t: t.score(torch.tensor([1, 2]), BRANCHES), r"tokens must be \(2, T\)"),
            (lambda t: t.score(prompts(2, 3), TokenTree.chain(2)), "tree must have 3 nodes"),
            (lambda t: t.score(prompts(2, 3), np.array([-1, 2, 1])), "parents must be smaller than their nodes"),
            (lambda t: t.score(prompts(2, 0), TokenTree.chain(2)), "tree must have 0 nodes"),
            (lambda t: t.score(prompts(2, 2), np.zeros((3, 2), np.int64)), "parents for 2 rows, got 3"),
            (lambda t: t.extend(prompts(2, 1), BRANCHES, 1), r"first must be in \[0, 0\]"),
            (lambda t: t.accept(torch.tensor([[0], [0]])), "path must hold ascending nodes below 0"),
        ],
    )
    def test_bad_input_is_named(self, call, message):
        target = TargetModel(tiny(), 2, 8)
        target.prefill(list(prompts(2)))
        with pytest.raises(ValueError, match=message):
            call(target)

    def test_paths_are_ascending_and_of_scored_nodes(self):
        target = TargetModel(tiny(), 1, 8)
        target.score(prompts(1, 3), TokenTree.chain(3))
        for path in ([0, 3], [1, 0], [0, 0], [-1, 1]):
            with pytest.raises(ValueError, match="path must hold ascending nodes below 3"):
                target.accept(torch.tensor([path]))
        assert target.lengths.tolist() == [0]
