# SPDX-License-Identifier: Apache-2.0
"""DySpec's trees: the paper's algorithms draw by draw, and what must be true of the trees they make."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")

from dyspec_oracle import Tables, fixed, threshold

from tokernel import ops
from tokernel.decoding import dyspec
from tokernel.kernels.tree import TokenTree
from tokernel.papers import paper


def uniforms(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).clamp(min=1e-7)


def noise_by_number(u):
    return lambda node, path: u[node].double().numpy()


class NoiseByPath:
    """Noise that hangs on the tokens down to a node, so that trees of different searches can be compared draw by draw.
    Ours takes noise by number; the draft function is asked first, and tells which node has which tokens."""

    def __init__(self, tables, nodes):
        self.tables, self.vocabulary = tables, tables.logits.shape[-1]
        self.uniforms = torch.zeros(nodes + 1, self.vocabulary)

    def of(self, path):
        return np.random.default_rng(path).uniform(1e-6, 1, self.vocabulary).astype(np.float32)

    def draft_one(self, tokens, parents, nodes):
        tree = TokenTree(parents.numpy())
        for node in nodes.tolist():
            self.uniforms[node] = torch.from_numpy(self.of([int(tokens[i]) for i in tree.path(node)]))
        return self.tables.draft_one(tokens, parents, nodes)


def tokens_below(tree):
    """Every node by its tokens from the root."""
    made = tree.tree()
    return [tuple(tree.tokens[made.path(i)].tolist()) for i in range(len(made))]


def fixed_tree(tables, nodes, seed=0, **more):
    return dyspec.dyspec_tree_fixed(
        tables.draft_one, 0, nodes, uniforms(nodes + 1, tables.logits.shape[-1], seed=seed), **more
    )


def popped(tree):
    """The value of every draw before it was made: that of its parent, times what its earlier siblings left."""
    made = tree.tree()
    values = []
    for i in range(1, len(made)):
        parent = int(made.parents[i])
        chance = tree.draft_probs[parent]
        before = [int(tree.tokens[s]) for s in range(1, i) if made.parents[s] == parent]
        values.append(float(tree.value[parent] * (1 - chance[before].double().sum())))
    return values


def test_it_is_in_the_registry():
    assert dyspec.PAPER is paper("dyspec")


class TestAgainstTheAlgorithms:
    @pytest.mark.parametrize(("vocabulary", "nodes"), [(2, 3), (4, 1), (4, 7), (9, 16), (30, 40)])
    @pytest.mark.parametrize("seed", range(4))
    def test_fixed(self, vocabulary, nodes, seed):
        tables = Tables(vocabulary, seed=seed)
        u = uniforms(nodes + 1, vocabulary, seed=seed)
        tree = dyspec.dyspec_tree_fixed(tables.draft_one, 1, nodes, u)
        want = fixed(tables.row, noise_by_number(u), 1, nodes)
        assert tree.tree().parents.tolist() == want.parents
        assert tree.tokens.tolist() == want.tokens
        np.testing.assert_allclose(tree.value, want.value, rtol=1e-5)

    @pytest.mark.parametrize(("vocabulary", "t"), [(2, 0.3), (4, 0.1), (9, 0.02), (30, 0.02)])
    @pytest.mark.parametrize("seed", range(4))
    def test_threshold(self, vocabulary, t, seed):
        tables = Tables(vocabulary, seed=seed)
        u = uniforms(401, vocabulary, seed=seed)
        tree = dyspec.dyspec_tree_threshold(tables.draft_one, 1, t, 400, uniforms=u)
        want = threshold(tables.row, noise_by_number(u), 1, t)
        assert tree.tree().parents.tolist() == want.parents
        assert tree.tokens.tolist() == want.tokens
        np.testing.assert_allclose(tree.value, want.value, rtol=1e-5)

    def test_the_distributions_are_those_drawn_from(self):
        tables = Tables(9)
        tree = fixed_tree(tables, 12, temperature=0.6)
        assert set(tree.tree().parents[1:].tolist()) <= set(tree.known.nonzero()[:, 0].tolist())
        logits = tables.look_up(tree.tokens[None], tree.parents[None])[0]
        want = torch.where(tree.known[:, None], torch.softmax(logits / 0.6, -1), torch.eye(9)[0].double())
        torch.testing.assert_close(tree.draft_probs.double(), want, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("search", ["fixed", "threshold"])
    def test_rows_are_grown_as_if_alone(self, search):
        tables, rows, nodes = Tables(6), 5, 10
        u = uniforms(rows, nodes + 1, 6)
        root = torch.tensor([0, 1, 2, 3, 0])

        def grown(draft_fn, root, u):
            if search == "fixed":
                return dyspec.dyspec_tree_fixed(draft_fn, root, nodes, u)
            return dyspec.dyspec_tree_threshold(draft_fn, root, 0.1, nodes, uniforms=u)

        together = grown(tables.draft_fn, root, u)
        for row in range(rows):
            alone = grown(tables.draft_one, int(root[row]), u[row])
            size = int(alone.count)
            assert together.tree(row) == alone.tree()
            assert int(together.count[row]) == size
            for field in ("tokens", "value"):
                assert torch.equal(getattr(together, field)[row, :size], getattr(alone, field)), field
                assert (getattr(together, field)[row, size:] == 0).all(), field
            inner = alone.tree().parents[1:].astype(np.int64)
            assert torch.equal(together.draft_probs[row, inner], alone.draft_probs[inner])

    def test_asking_early_saves_forwards_and_changes_nothing(self):
        tables, nodes = Tables(30), 40
        tree = fixed_tree(tables, nodes)
        assert tree.forwards < len(set(tree.tree().parents.tolist()))  # asked one by one: one for every inner node
        deepest = int(tree.tree().depth.max())
        assert tree.forwards >= deepest


class TestWhatMustBeTrue:
    def test_popped_values_are_nonincreasing(self):
        for seed in range(10):
            values = np.array(popped(fixed_tree(Tables(7, seed=seed), 30, seed)))
            assert (values[1:] <= values[:-1] * (1 + 1e-4) + 1e-6).all()

    @pytest.mark.parametrize("search", ["fixed", "threshold"])
    def test_siblings_have_distinct_tokens(self, search):
        tables = Tables(5)
        u = uniforms(41, 5)
        if search == "fixed":
            tree = dyspec.dyspec_tree_fixed(tables.draft_one, 0, 40, u)
        else:
            tree = dyspec.dyspec_tree_threshold(tables.draft_one, 0, 0.01, 40, uniforms=u)
        children = list(zip(tree.parents[1:].tolist(), tree.tokens[1:].tolist(), strict=True))
        assert len(set(children)) == len(children) == 40

    def test_a_value_is_the_product_formula(self):
        tree = fixed_tree(Tables(7), 30)
        made = tree.tree()
        for i, before in zip(range(1, len(made)), popped(tree), strict=True):
            parent = int(made.parents[i])
            q = tree.draft_probs[parent].double()
            siblings = [int(tree.tokens[s]) for s in range(1, i) if made.parents[s] == parent]
            own = float(q[tree.tokens[i]] / (1 - q[siblings].sum()))
            assert float(tree.value[i]) == pytest.approx(before * own, rel=1e-4)

    @pytest.mark.parametrize("budget", [0, 1, 2, 3, 16, 65])
    def test_a_budget_gives_exactly_so_many_nodes(self, budget):
        assert int(fixed_tree(Tables(5), budget).count) == budget + 1

    def test_fewer_where_no_mass_remains(self):
        logits = torch.tensor([0.0, 0.0, -torch.inf])
        tree = dyspec.dyspec_tree_fixed(lambda tokens, parents, nodes: logits.expand(len(nodes), 3), 0, 9, max_depth=2)
        assert int(tree.count) == 1 + 2 + 4
        assert set(tree.tokens.tolist()) == {0, 1}

    def test_budget_1_is_ordinary_speculation(self):
        tree = fixed_tree(Tables(5), 1)
        assert tree.parents.tolist() == [-1, 0]
        assert tree.forwards == 1

    @pytest.mark.parametrize("temperature", [0, 1])
    def test_a_point_mass_draft_makes_a_chain(self, temperature):
        def draft_fn(tokens, parents, nodes):
            return torch.log(torch.nn.functional.one_hot((tokens[nodes] + 1) % 4, 4))

        tree = dyspec.dyspec_tree_fixed(draft_fn, 0, 6, temperature=temperature)
        assert tree.tree() == TokenTree.chain(7)
        assert tree.tokens.tolist() == [0, 1, 2, 3, 0, 1, 2]
        assert tree.value.tolist() == [1] * 7

    def test_a_threshold_above_1_gives_an_empty_tree(self):
        def never(tokens, parents, nodes):
            raise AssertionError("nothing is drawn: nobody need be asked")

        tree = dyspec.dyspec_tree_threshold(never, 3, 1.01)
        assert (tree.tokens.tolist(), tree.parents.tolist(), tree.forwards) == ([3], [-1], 0)

    def test_a_smaller_threshold_gives_a_superset(self):
        tables = Tables(6)
        found = []
        for t in (0.5, 0.2, 0.1, 0.05, 0.02):
            noise = NoiseByPath(tables, 400)
            tree = dyspec.dyspec_tree_threshold(noise.draft_one, 0, t, 400, uniforms=noise.uniforms)
            found.append(set(tokens_below(tree)))
        assert all(more > fewer for fewer, more in itertools.pairwise(found))

    def test_all_nodes_were_drawn_at_the_threshold_or_above(self):
        tables, t = Tables(6), 0.03
        u = uniforms(201, 6)
        tree = dyspec.dyspec_tree_threshold(tables.draft_one, 0, t, 200, uniforms=u)
        assert min(popped(tree)) >= t * (1 - 1e-5)
        assert tree.forwards == len({int(d) for d in tree.tree().depth[tree.known.numpy()]})

    def test_the_last_value_as_threshold_gives_the_same_tree(self):
        tables, nodes = Tables(6), 25
        noise = NoiseByPath(tables, nodes)
        by_budget = dyspec.dyspec_tree_fixed(noise.draft_one, 0, nodes, noise.uniforms)
        noise = NoiseByPath(tables, 100)
        t = popped(by_budget)[-1] * (1 - 1e-5)
        by_threshold = dyspec.dyspec_tree_threshold(noise.draft_one, 0, t, 100, uniforms=noise.uniforms)
        assert set(tokens_below(by_threshold)) == set(tokens_below(by_budget))

    def test_block_counts_fall_by_depth_first_order_as_published(self):
        # Of random recursive trees in the order they grew. The paper does not say how it made its own; these fit it.
        published = {256: (36, 22.5), 512: (135.5, 52.8), 1024: (490.2, 119.3), 2048: (1654.5, 278.7)}
        rng = np.random.default_rng(0)
        for nodes, (grown, reordered) in published.items():
            trees = [TokenTree([-1, *(int(rng.integers(i)) for i in range(1, nodes))]) for _ in range(3)]
            counts = np.array([[dyspec.mask_block_count(form) for form in _forms(tree)] for tree in trees])
            as_grown, dfs, hpd = counts.mean(0)
            assert as_grown == pytest.approx(grown, rel=0.06)
            assert dfs == pytest.approx(reordered, rel=0.06)
            assert hpd <= dfs

    def test_depth_first_counts_at_most_as_many_blocks_as_breadth_first(self):
        saved = []
        for seed in range(6):
            tree = fixed_tree(Tables(8, seed=seed), 250, seed).tree()
            by_depth = tree.reordered(np.argsort(tree.depth, kind="stable"))
            saved.append(by_depth.mask_blocks() - by_depth.reordered(dyspec.dfs_order(by_depth)).mask_blocks())
        assert np.mean(saved) > 0


def _forms(tree):
    return tree, tree.reordered(dyspec.dfs_order(tree)), tree.reordered(dyspec.hpd_order(tree))


class TestTraps:
    @pytest.mark.parametrize("cap", [{"max_nodes": 5}, {"max_depth": 1}])
    def test_a_cap_stops_the_draws_and_drops_none(self, cap):
        tables = Tables(6)
        nodes = cap.get("max_nodes", 30)
        u = uniforms(31, 6)
        tree = dyspec.dyspec_tree_threshold(
            tables.draft_one, 0, 0.01, nodes, cap.get("max_depth"), uniforms=u[: nodes + 1]
        )
        whole = threshold(tables.row, noise_by_number(uniforms(2000, 6)), 0, 0.01)
        size = int(tree.count)
        assert size < len(whole.tokens)
        made = tree.tree()
        for parent in set(made.parents[1:].tolist()):  # the children are the first draws of their parent, in order
            q = tree.draft_probs[parent].double()
            order = (torch.log(u[parent].double()) / q).argsort(descending=True)
            drawn = [int(tree.tokens[i]) for i in range(size) if made.parents[i] == parent]
            assert drawn == order[: len(drawn)].tolist()

    def test_a_threshold_keeps_drawing_while_the_value_is_at_least_it(self):
        """The paper prints "below". Two equal tokens: the root draws at 1 and at 1/2, and its children once, at 1/2."""
        logits = torch.zeros(2)
        tree = dyspec.dyspec_tree_threshold(lambda tokens, parents, nodes: logits.expand(len(nodes), 2), 0, 0.5, 9)
        assert tree.parents.tolist() == [-1, 0, 0, 1, 2]


class TestBadInput:
    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (lambda f: dyspec.dyspec_tree_fixed(f, 0, -1), r"budget must be in \[0, 4094\], got -1"),
            (lambda f: dyspec.dyspec_tree_fixed(f, 0, 5000), "budget must be in .*, got 5000"),
            (lambda f: dyspec.dyspec_tree_threshold(f, 0, 0.0), "t must be finite and more than 0, got 0.0"),
            (lambda f: dyspec.dyspec_tree_threshold(f, 0, float("nan")), "t must be finite .*, got nan"),
            (lambda f: dyspec.dyspec_tree_threshold(f, 0, 0.1, 3, -1), "max_depth must be at least 0, got -1"),
            (lambda f: dyspec.dyspec_tree_fixed(f, 0, 3, temperature=-1.0), "temperature must be .*, got -1.0"),
            (
                lambda f: dyspec.dyspec_tree_fixed(f, 0, 3, torch.rand(3, 4)),
                r"uniforms must be \(1, 4, 4\), got \(3, 4\)",
            ),
            (lambda f: dyspec.dyspec_tree_fixed(lambda *a: torch.zeros(4), 0, 3), "draft_fn must give .* logits"),
            (lambda f: dyspec.mask_block_count([-1, 2, 0]), "parents must be smaller"),
            (lambda f: dyspec.mask_block_count([-1, 0], 0), "block must be at least 1, got 0"),
            (lambda f: dyspec.mask_block_count([-1, 0], prefix=-1), "prefix_length must be at least 0, got -1"),
            (lambda f: dyspec.DySpec(None, "beam"), "mode must be threshold or budget, got 'beam'"),
            (lambda f: dyspec.DySpec(None, order="bfs"), "order must be None, dfs or hpd, got 'bfs'"),
            (lambda f: dyspec.DySpec(None, t=-1), "t must be finite and more than 0, got -1"),
            (lambda f: dyspec.DySpec(None, draft_temperature=-1), "temperature must be .*, got -1"),
        ],
    )
    def test_values(self, call, words):
        with pytest.raises(ValueError, match=words):
            call(Tables(4).draft_one)

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (lambda f: dyspec.dyspec_tree_fixed(f, 0.5, 3), r"root must be an integer or \(B\) integers, got"),
            (lambda f: dyspec.dyspec_tree_fixed(f, 0, 3.0), "dyspec_tree_fixed: budget must be an integer, got float"),
            (lambda f: dyspec.dyspec_tree_threshold(f, 0, 0.1, 3, 1.5), "max_depth must be an integer, got float"),
            (lambda f: dyspec.DySpec(None, max_nodes="9"), "dyspec: max_nodes must be an integer, got str"),
        ],
    )
    def test_types(self, call, words):
        with pytest.raises(TypeError, match=words):
            call(Tables(4).draft_one)

    def test_no_roots(self):
        tree = dyspec.dyspec_tree_fixed(None, torch.zeros(0, dtype=torch.int64), 3)
        assert (tree.tokens.shape, tree.forwards) == ((0, 1), 0)

    def test_nothing_is_drawn_from_nan(self):
        nothing = torch.full((1, 3), torch.nan)
        tree = dyspec.dyspec_tree_fixed(lambda tokens, parents, nodes: nothing, 0, 3)
        assert tree.parents.tolist() == [-1]
        p, coins = torch.full((1, 3), 1 / 3), torch.tensor([0, 0.5])
        walk = ops.verify_stochastic(tree.tokens, p, tree.draft_probs, coins, tree.parents, rule="sequoia")
        assert (int(walk.accepted), int(walk.bonus)) == (0, 1)
