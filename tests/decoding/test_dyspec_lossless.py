# SPDX-License-Identifier: Apache-2.0
"""DySpec emits what the target would: by exact enumeration, by counting, and through live models."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")

from dyspec_oracle import Tables, exact_walk, first_two
from tiny_models import fits, greedy, near, prompts, tiny

from tokernel import ops
from tokernel.decoding import Sampling, TargetModel, dyspec, generate
from tokernel.decoding._dyspec_draft import DraftRows
from tokernel.kernels.tree import TokenTree

SEARCHES = {
    "fixed": lambda draft_fn, root, nodes, u: dyspec.dyspec_tree_fixed(draft_fn, root, nodes, u),
    "threshold": lambda draft_fn, root, nodes, u: dyspec.dyspec_tree_threshold(draft_fn, root, 0.15, nodes, uniforms=u),
}


class TestExact:
    """All orders in which the children of each node can come, as noise that forces them, with their probabilities."""

    FORCED = np.array([0.999, 0.95, 0.1353, 1e-26], np.float32)  # log u / q falls by rank while q is in [0.1, 1]

    @pytest.mark.parametrize("search", SEARCHES)
    @pytest.mark.parametrize(("vocabulary", "nodes"), [(2, 1), (2, 3), (3, 2), (3, 4), (4, 2)])
    @pytest.mark.parametrize("seed", range(2))
    def test_the_law_of_two_tokens_is_the_targets(self, search, vocabulary, nodes, seed):
        draft, target = Tables(vocabulary, seed=seed, sharp=0.4), Tables(vocabulary, seed=100 + seed, sharp=2)
        orders = np.array(list(itertools.permutations(range(vocabulary))))
        noise = np.empty((len(orders), vocabulary), np.float32)
        np.put_along_axis(noise, orders, np.tile(self.FORCED[:vocabulary], (len(orders), 1)), 1)
        choice = np.array(list(itertools.product(range(len(orders)), repeat=nodes)))
        u = np.concatenate([noise[choice], np.full((len(choice), 1, vocabulary), 0.5, np.float32)], 1)
        trees = SEARCHES[search](draft.draft_fn, torch.zeros(len(u)).long(), nodes, torch.from_numpy(u))
        joint, mass = np.zeros((vocabulary, vocabulary)), 0.0
        for row in range(len(u)):
            made = trees.tree(row)
            assert not trees.known[row, nodes:].any()
            chance = 1.0
            for node in range(nodes):
                if node < len(made) and trees.known[row, node]:
                    q = draft.row(tuple(trees.tokens[row, made.path(node)].tolist()))  # not what the tree says it was
                    order = orders[choice[row, node]]
                    left = 1 - np.concatenate([[0], q[order].cumsum()[:-1]])
                    chance *= float(np.prod(q[order] / left))
                else:
                    chance /= len(orders)  # nobody asked: every order gives this tree
            mass += chance
            walk = exact_walk(
                made.parents.tolist(),
                trees.tokens[row].tolist(),
                lambda i, row=row: trees.draft_probs[row, i],
                target.row,
            )
            for text, part in first_two(walk, target.row, 0).items():
                joint[text] += chance * part
        want = np.array([target.row((0,))[a] * target.row((0, a)) for a in range(vocabulary)])
        assert mass == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(joint, want, atol=2e-6)

    def test_a_drawn_token_dropped_is_a_bias(self):
        """The same sum, but with the less likely of two drawn siblings thrown away: the test above can fail."""
        p, q = np.array([0.2, 0.5, 0.3]), np.array([0.5, 0.3, 0.2])
        emitted = np.zeros(3)
        for first, second in itertools.permutations(range(3), 2):
            kept = max(first, second, key=lambda y: q[y])
            chance = q[first] * q[second] / (1 - q[first])
            for text, part in exact_walk([-1, 0], [0, kept], lambda i: q, lambda path: p).items():
                emitted[text[0]] += chance * part
        assert np.abs(emitted - p).max() > 0.02


class TestCounted:
    DRAWS = 150_000

    @pytest.mark.parametrize("search", SEARCHES)
    def test_emitted_tokens_are_draws_of_the_target(self, search):
        nodes, vocabulary = 4, 4
        draft, target = Tables(vocabulary, seed=3), Tables(vocabulary, seed=4)
        generator = torch.Generator().manual_seed(0)
        u = torch.rand(self.DRAWS, nodes + 1, vocabulary, generator=generator)
        trees = SEARCHES[search](draft.draft_fn, torch.zeros(self.DRAWS).long(), nodes, u)
        p = torch.softmax(target.look_up(trees.tokens, trees.parents), -1).float()
        coins = torch.rand(self.DRAWS, trees.tokens.shape[1] + 1, generator=generator)
        walk = ops.verify_stochastic(trees.tokens, p, trees.draft_probs, coins, trees.parents, rule="sequoia")
        accepted = trees.tokens.gather(1, walk.path[:, 1:2].clamp(min=0))[:, 0]
        first = torch.where(walk.accepted > 0, accepted, walk.bonus)
        assert fits(np.bincount(first, minlength=vocabulary), target.row((0,)))
        # The second token: emitted too, or, where the first was the last, drawn here as the next step would.
        deeper = trees.tokens.gather(1, walk.path[:, 2:3].clamp(min=0))[:, 0]
        later = torch.from_numpy(target.logits)[1, first].softmax(-1).multinomial(1, generator=generator)[:, 0]
        second = torch.where(walk.accepted > 1, deeper, torch.where(walk.accepted == 1, walk.bonus, later))
        want = np.array([target.row((0,))[a] * target.row((0, a)) for a in range(vocabulary)])
        assert fits(np.bincount(first * vocabulary + second, minlength=vocabulary**2), want.reshape(-1))

    def test_a_draft_that_is_the_target_is_accepted_along_first_children(self):
        tables, rows, nodes = Tables(5), 2000, 12
        generator = torch.Generator().manual_seed(0)
        trees = SEARCHES["fixed"](
            tables.draft_fn, torch.zeros(rows).long(), nodes, torch.rand(rows, 13, 5, generator=generator)
        )
        p = torch.where(
            trees.known[..., None],
            trees.draft_probs,
            torch.softmax(tables.look_up(trees.tokens, trees.parents), -1).float(),
        )
        coins = torch.rand(rows, nodes + 2, generator=generator)
        walk = ops.verify_stochastic(trees.tokens, p, trees.draft_probs, coins, trees.parents, rule="sequoia")
        for row in range(rows):
            first_child = trees.tree(row).first_child
            at, length = 0, 0
            while first_child[at] >= 0:
                at, length = first_child[at], length + 1
            assert int(walk.accepted[row]) == length

    def test_a_one_hot_target_emits_what_greedy_decoding_does(self):
        draft, target, rows, nodes = Tables(5), Tables(5, seed=7), 500, 12
        generator = torch.Generator().manual_seed(0)
        trees = SEARCHES["fixed"](
            draft.draft_fn, torch.zeros(rows).long(), nodes, torch.rand(rows, 13, 5, generator=generator)
        )
        best = target.look_up(trees.tokens, trees.parents).argmax(-1)
        p = torch.nn.functional.one_hot(best, 5).float()
        coins = torch.rand(rows, nodes + 2, generator=generator)
        walk = ops.verify_stochastic(trees.tokens, p, trees.draft_probs, coins, trees.parents, rule="sequoia")
        plain = ops.verify_greedy(trees.tokens, best, trees.parents)
        assert all(torch.equal(a, b) for a, b in zip(walk, plain, strict=True))
        for row in range(rows):
            path = walk.path[row, 1 : 1 + int(walk.accepted[row])]
            text = [0]
            for token in [*trees.tokens[row, path].tolist(), int(walk.bonus[row])]:
                assert token == int(target.row(tuple(text)).argmax())
                text.append(token)


METHODS = {
    "threshold": {},
    "deep": {"t": 0.005, "max_nodes": 40},
    "budget": {"mode": "budget", "max_nodes": 12},
    "one": {"mode": "budget", "max_nodes": 1},
    "nothing": {"t": 1.5},
    "dfs": {"order": "dfs", "t": 0.01},
    "hpd": {"order": "hpd", "mode": "budget", "max_nodes": 20},
    "point mass": {"draft_temperature": 0, "max_depth": 4},
}


class TestModels:
    @pytest.mark.parametrize("settings", METHODS.values(), ids=METHODS)
    @pytest.mark.parametrize("kind", ["llama", "gpt2"])
    def test_greedy_output_is_the_targets_own(self, kind, settings):
        target, draft = tiny(kind), near(kind)
        prompt = prompts(1, 7)
        out = generate(target, prompt, method=dyspec.DySpec(draft, **settings), max_new_tokens=24)
        assert out.new_tokens() == greedy(target, prompt[0], 24)
        with torch.no_grad():
            plain = target.generate(prompt, max_new_tokens=24, do_sample=False, use_cache=True, pad_token_id=0)
        assert out.sequences.tolist() == plain.tolist()

    def test_rows_of_a_batch_are_as_if_alone(self):
        target, draft = tiny(), near("llama")
        rows = [prompts(1, length, seed=length)[0] for length in (1, 5, 9)]
        padded = torch.stack([torch.cat([row.new_zeros(9 - len(row)), row]) for row in rows])
        mask = torch.stack([torch.arange(9) >= 9 - len(row) for row in rows])
        out = generate(target, padded, method=dyspec.DySpec(draft), attention_mask=mask, max_new_tokens=20)
        for i, row in enumerate(rows):
            assert out.new_tokens(i) == greedy(target, row, 20)
        assert max(out.emitted[-1]) > 0
        assert min(out.emitted[-1]) == 0  # rows went on without the others

    def test_more_than_a_token_a_step_where_the_draft_is_good(self):
        target = tiny()
        out = generate(target, prompts(), method=dyspec.DySpec(target, draft_temperature=0), max_new_tokens=24)
        assert out.steps <= 4
        assert out.new_tokens() == greedy(target, prompts()[0], 24)

    @pytest.mark.parametrize("temperature", [0.0, 0.8])
    def test_bfloat16(self, temperature):
        target, draft = (model.to(torch.bfloat16) for model in (tiny(), near()))
        prompt = prompts(2, 7)
        generator = torch.Generator().manual_seed(0)
        method = dyspec.DySpec(draft, order="dfs")
        out = generate(target, prompt, method, max_new_tokens=20, temperature=temperature, generator=generator)
        assert out.lengths.tolist() == [20, 20]
        if temperature == 0:
            with torch.no_grad():
                rounded, exact = target(out.sequences).logits.float(), target.float()(out.sequences).logits
            error = float((rounded - exact).abs().max())
            behind, new = exact[:, 6:-1], out.sequences[:, 7:]
            gap = behind.amax(-1) - behind.gather(2, new[..., None])[..., 0]
            assert float(gap.max()) <= 4 * error  # two passes in bfloat16, either way

    def test_the_same_generator_gives_the_same_text(self):
        target, draft = tiny(), near("llama")

        def text(seed):
            generator = torch.Generator().manual_seed(seed)
            method = dyspec.DySpec(draft)
            return generate(
                target, prompts(), method=method, max_new_tokens=16, temperature=1.0, generator=generator
            ).new_tokens()

        assert text(0) == text(0)
        assert text(0) != text(1)

    def test_both_caches_hold_what_a_fresh_prefill_would(self):
        target, draft = tiny(), near("llama")
        rows = [prompts(1, length, seed=length)[0] for length in (3, 6)]
        method = dyspec.DySpec(draft, t=0.005, max_nodes=40)
        session = method.start(target, rows, Sampling(), 40)
        texts = [row.tolist() for row in rows]
        late = 0
        for _ in range(8):
            for text, new in zip(texts, session.step([True, True]), strict=True):
                text += new
            behind = [run.late for run in session.draft.runs]
            late += sum(map(len, behind))
            for held, model, lag in (
                (session.target, target, [[], []]),
                (session.draft.model, draft, behind),
            ):
                for row, text in enumerate(texts):
                    known = text[: len(text) - 1 - len(lag[row])]
                    assert int(held.lengths[row]) == len(known)
                    assert text[len(known) : -1] == lag[row]
                    with torch.no_grad():
                        fresh = model(torch.tensor([known]), use_cache=True).past_key_values
                    for layer in range(2):
                        keys = held.cache.keys[layer, row, :, : len(known)]
                        torch.testing.assert_close(keys, fresh.layers[layer].keys[0], atol=1e-4, rtol=1e-4)
        assert late > 0  # a leaf was accepted at times

    @pytest.mark.parametrize("order", [dyspec.dfs_order, dyspec.hpd_order])
    def test_reordering_leaves_outputs_equal_up_to_permutation(self, order):
        rng = np.random.default_rng(0)
        tree = TokenTree([-1, *(int(rng.integers(i)) for i in range(1, 30))])
        tokens = torch.from_numpy(rng.integers(64, size=(1, 30)))
        target = TargetModel(tiny(), 1, 64)
        target.prefill(list(prompts(1, 7)))
        logits = target.score(tokens, tree)
        visited = torch.from_numpy(order(tree)).long()
        again = target.score(tokens[:, visited], tree.reordered(visited.numpy()))
        torch.testing.assert_close(again, logits[:, visited], atol=1e-4, rtol=1e-4)

    def test_a_short_draft_or_another_vocabulary_is_refused(self):
        target = tiny()
        with pytest.raises(ValueError, match="draft must have the target's vocabulary of 64, got 32"):
            generate(target, prompts(), method=dyspec.DySpec(tiny(vocab_size=32)), max_new_tokens=4)
        with pytest.raises(ValueError, match="draft must have positions for 11 tokens, got 8"):
            generate(target, prompts(), method=dyspec.DySpec(tiny(max_position_embeddings=8)), max_new_tokens=4)
        with pytest.raises(TypeError, match="draft must be a causal language model of transformers, got str"):
            generate(target, prompts(), method=dyspec.DySpec("gpt2"), max_new_tokens=4)


class TestDraftRows:
    def test_late_tokens_change_nothing_but_the_numbering(self):
        """A row behind by a token gives the logits of a fresh pass over the whole path, beside a row that is not."""
        model = tiny()
        rows = [prompts(1, length, seed=length)[0] for length in (4, 6)]
        draft = DraftRows(model, rows, 40)
        draft.runs[0].late = [9]
        tokens = torch.tensor([[7, 1, 2, 3], [8, 4, 0, 0]])
        parents = torch.tensor([[-1, 0, 0, 2], [-1, 0, -1, -1]])
        first = draft.logits(tokens[:, :1], parents[:, :1], torch.tensor([[0], [0]]))
        rest = draft.logits(tokens, parents, torch.tensor([[1, 2, 3], [1, -1, -1]]))
        paths = [(0, [9, 7], first[0, 0]), (1, [8], first[1, 0]), (0, [9, 7, 1], rest[0, 0])]
        paths += [(0, [9, 7, 2], rest[0, 1]), (0, [9, 7, 2, 3], rest[0, 2]), (1, [8, 4], rest[1, 0])]
        for row, text, got in paths:
            whole = torch.tensor([[*rows[row][:-1].tolist(), *text]])
            with torch.no_grad():
                torch.testing.assert_close(got, model(whole).logits[0, -1], atol=1e-4, rtol=1e-4)


def _many(tables, rows, nodes, generator):
    u = torch.rand(rows, nodes + 1, tables.logits.shape[-1], generator=generator)
    return SEARCHES["fixed"](tables.draft_fn, torch.zeros(rows).long(), nodes, u)
