# SPDX-License-Identifier: Apache-2.0
"""DivPrune: the official picks, the published costs, and every line of "What must be true" of the paper's page."""

import copy
import itertools
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from tokernel.papers import paper
from tokernel.reduce import divprune as dp
from tokernel.reduce.divprune import divprune, max_min_select


def load(golden, name):
    with np.load(golden / "divprune" / f"{name}.npz") as file:
        return {k: torch.from_numpy(v) if v.ndim else v.item() for k, v in file.items()}


def tokens(n=24, width=8, batch=None, seed=0):
    shape = (n, width) if batch is None else (batch, n, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clusters(count=6, each=20, width=16, noise=0.05, seed=0):
    """Tight clusters in random directions, shuffled, and the cluster of every token."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count).repeat_interleave(each)[torch.randperm(count * each, generator=generator)]
    centre = torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=1)
    x = centre[label] + noise * torch.randn(count * each, width, generator=generator) / width**0.5
    return x * (0.5 + torch.rand(count * each, 1, generator=generator)), label


def distance(x):
    """(N, N) cosine distances in float64; a zero row is at distance 1."""
    x = x.double()
    length = x.norm(dim=-1, keepdim=True)
    unit = torch.where(length > 0, x / length, 0.0)
    return 1 - unit @ unit.T


def smallest(d, chosen):
    """The smallest distance between two chosen tokens."""
    among = d[chosen][:, chosen].clone()
    return among.fill_diagonal_(float("inf")).min().item()


def reference(x, k):
    """The paper's loop over the whole matrix, in float64: picks and their scores."""
    d = distance(x)
    score = d.clone().fill_diagonal_(float("inf")).min(0).values
    order, scores = [], []
    for _ in range(k):
        score[order] = -float("inf")
        order.append(int(score.argmax()))
        scores.append(score[order[-1]].item())
        score = d[order].min(0).values
    return order, scores


class TestGolden:
    @pytest.mark.parametrize("name", ["small_random", "clustered"])
    def test_picks_on_every_backend(self, golden, name, backend):
        d = load(golden, name)
        assert max_min_select(d["x"], d["k"]).tolist() == d["selected"].tolist()
        kept, index = divprune(d["x"], d["ratio"])
        assert index.tolist() == d["selected_sorted"].tolist()
        assert torch.equal(kept, d["x"][d["selected_sorted"]])

    def test_picks_of_llava(self, golden):
        d = load(golden, "llava576")
        assert max_min_select(d["x"], d["k"]).tolist() == d["selected"].tolist()
        assert divprune(d["x"])[1].tolist() == d["selected_sorted"].tolist()

    @pytest.mark.parametrize("name", ["small_random", "clustered", "llava576"])
    def test_count_margins_and_smallest_distance(self, golden, name):
        d = load(golden, name)
        index = divprune(d["x"], d["ratio"])[1]
        assert len(index) == d["k"]
        assert smallest(distance(d["x"]), index) == pytest.approx(d["min_pairwise_distance"], abs=1e-5)
        assert d["margin"].min() > 5e-5, "the official picks are those of any float32 version"

    def test_the_distances_are_the_official_ones(self, golden):
        d = load(golden, "small_random")
        off_diagonal = ~torch.eye(36, dtype=torch.bool)
        expected = d["distance"].double()[off_diagonal]
        torch.testing.assert_close(distance(d["x"])[off_diagonal], expected, atol=2e-6, rtol=0)


# Mean tokens of text, per benchmark, and for LLaVA-1.6 of the image, as the official cost script states them.
TEXT = (15, 15, 23, 83, 25, 113, 15, 39, 21, 91, 57)
CROPS = (2225, 1922, 2239, 1927, 2108, 1882, 2292, 2249, 2250, 1598, 2116)
TEXT_VIDEO = (28, 63, 21, 38, 196)
LLAMA_7B, LLAMA_13B = {"d": 4096, "m": 11008, "layers": 32}, {"d": 5120, "m": 13824, "layers": 40}


class TestPublishedCosts:
    def test_tflops_of_llava_15_7b(self):
        full = np.mean([dp.llm_flops(t + 576, **LLAMA_7B) for t in TEXT]) / 1e12
        pruned = np.mean([dp.llm_flops(t + 576 - round(0.902 * 576), **LLAMA_7B) for t in TEXT]) / 1e12
        assert (f"{full:.4f}", f"{pruned:.4f}") == ("3.2280", "0.5122")

    @pytest.mark.parametrize(
        ("text", "visual", "r", "llama", "percent"),
        [
            (TEXT, [576] * 11, 0.098, LLAMA_7B, "15.63"),
            (TEXT, [576] * 11, 0.098, LLAMA_13B, "15.71"),
            (TEXT, CROPS, 0.098, LLAMA_7B, "10.80"),
            (TEXT_VIDEO, [8 * 144] * 5, 0.1, LLAMA_7B, "14.10"),
        ],
        ids=["1.5-7B", "1.5-13B", "1.6-7B", "1.6-7B video"],
    )
    def test_mean_ratio(self, text, visual, r, llama, percent):
        ratios = [dp.pruned_flops_ratio(0, r, t, v, **llama) for t, v in zip(text, visual, strict=True)]
        assert f"{100 * np.mean(ratios):.2f}" == percent

    def test_a_later_layer_costs_more_and_the_last_saves_nothing(self):
        ratios = [dp.pruned_flops_ratio(layer, 0.098, 40, 576) for layer in range(33)]
        assert ratios == sorted(ratios)
        assert ratios[-1] == 1
        assert dp.pruned_flops_ratio(0, 1.0, 40, 576) == 1
        assert dp.pruned_flops_ratio(0, 0.5, 0, 0) == 1

    @pytest.mark.parametrize("bad", [{"layer": 33}, {"layer": -1}, {"r": 1.5}, {"r": float("nan")}, {"n_text": -1}])
    def test_bad_input(self, bad):
        with pytest.raises(ValueError, match=r"pruned_flops_ratio: (layer|r|tokens) must be"):
            dp.pruned_flops_ratio(**{"layer": 0, "r": 0.1, "n_text": 1, "n_visual": 1} | bad)
        with pytest.raises(ValueError, match="llm_flops: extents must be"):
            dp.llm_flops(-1)


class TestWhatMustBeTrue:
    @pytest.mark.parametrize(
        ("n", "ratio", "k"), [(576, 0.098, 56), (25, 0.1, 2), (35, 0.1, 4), (15, 0.1, 2), (9, 1.0, 9), (9, 0.0, 0)]
    )
    def test_k_is_round_half_even_of_ratio_times_n_distinct_tokens(self, n, ratio, k):
        kept, index = divprune(tokens(n, 4), ratio)
        assert kept.shape == (k, 4)
        assert len(set(index.tolist())) == k
        assert index.tolist() == sorted(index.tolist())

    def test_k_equal_to_n_returns_every_token(self):
        x = tokens()
        kept, index = divprune(x, k=24)
        assert index.tolist() == list(range(24))
        assert torch.equal(kept, x)
        assert sorted(max_min_select(x, 24).tolist()) == list(range(24))

    def test_k_1_returns_the_most_isolated_token(self):
        x = tokens()
        nearest_other = distance(x).fill_diagonal_(float("inf")).min(0).values
        assert max_min_select(x, 1).tolist() == [nearest_other.argmax().item()]

    def test_the_choice_for_k_is_a_prefix_of_that_for_k_plus_1(self):
        x = tokens(batch=2)
        everything = max_min_select(x, 24)
        assert all(torch.equal(max_min_select(x, k), everything[:, :k]) for k in range(24))

    def test_a_positive_factor_on_any_row_changes_nothing(self):
        x = tokens()
        factor = torch.logspace(-4, 4, 24)[torch.randperm(24, generator=torch.Generator().manual_seed(1))]
        assert torch.equal(max_min_select(x * factor[:, None], 12), max_min_select(x, 12))

    def test_permuting_rows_permutes_the_choice(self):
        x, permutation = tokens(), torch.randperm(24, generator=torch.Generator().manual_seed(2))
        assert torch.equal(permutation[max_min_select(x[permutation], 12)], max_min_select(x, 12))

    def test_winning_scores_do_not_increase_and_the_last_is_the_smallest_pairwise_distance(self):
        x = tokens(40, 12)
        d, order = distance(x), max_min_select(x, 15).tolist()
        scores = [d[order[:i], order[i]].min().item() for i in range(1, 15)]
        assert all(late <= early + 1e-6 for early, late in itertools.pairwise(scores))
        for k in range(2, 16):
            assert smallest(d, order[:k]) == pytest.approx(scores[k - 2], abs=1e-6)

    @pytest.mark.parametrize("seed", range(12))
    def test_the_smallest_angle_is_at_least_half_of_the_best_possible(self, seed):
        n, k = 11, 4
        angle = distance(tokens(n, 3, seed=seed)).neg().add(1).clamp(-1, 1).arccos()
        best = max(smallest(angle, list(chosen)) for chosen in itertools.combinations(range(n), k))
        assert smallest(angle, max_min_select(tokens(n, 3, seed=seed), k)) >= best / 2 - 1e-6

    @pytest.mark.parametrize("seed", range(5))
    def test_on_clusters_no_random_or_most_attended_subset_is_more_diverse(self, seed):
        x, label = clusters(seed=seed)
        d, k = distance(x), 12
        ours = smallest(d, max_min_select(x, k))
        attention = torch.rand(120, generator=torch.Generator().manual_seed(seed)) + 2.0 * (label == 3)
        assert ours >= smallest(d, attention.topk(k).indices)
        for _ in range(50):
            assert ours >= smallest(d, torch.randperm(120)[:k])

    @pytest.mark.parametrize("k", [6, 7, 12])
    def test_every_cluster_is_covered_once_there_are_as_many_picks(self, k):
        x, label = clusters()
        assert set(label[max_min_select(x, k)].tolist()) == set(range(6))
        uncovered = [6 - len(set(label[torch.randperm(120)[:k]].tolist())) for _ in range(50)]
        assert sum(uncovered) > 0, "random subsets of that size miss clusters"

    def test_the_loop_of_the_paper_in_float64_picks_the_same(self):
        x = tokens(60, 12, seed=3)
        assert max_min_select(x, 30).tolist() == reference(x, 30)[0]


class TestTraps:
    def test_duplicates_are_never_taken_twice(self):
        x = tokens(4, 8).repeat(6, 1)
        order = max_min_select(x, 24)
        assert sorted(order.tolist()) == list(range(24))
        assert len({i % 4 for i in order[:4].tolist()}) == 4, "one copy of each before any second copy"

    def test_collinear_tokens_go_by_index(self):
        x = torch.arange(1.0, 7)[:, None] * torch.tensor([1.0, 0.0, 0.0])
        assert max_min_select(x, 6).tolist() == list(range(6))

    def test_a_zero_row_is_at_distance_1_from_all(self):
        x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 0.0], [0.1, 0.9], [0.0, 1.0]])
        order = max_min_select(x, 5)
        assert order[0] == 2
        assert sorted(order.tolist()) == list(range(5))
        assert max_min_select(torch.zeros(3, 4), 3).tolist() == [0, 1, 2]

    def test_the_nearest_other_of_an_exact_duplicate_is_its_copy(self):
        x = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.9, 0.3]])
        assert max_min_select(x, 1).tolist() == [2], "the copies have distance 0 to each other"

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_distances_of_half_precision_tokens_are_those_of_their_values(self, golden, dtype):
        x = load(golden, "small_random")["x"].to(dtype)
        order, _ = reference(x.float(), 9)
        assert max_min_select(x, 9).tolist() == order
        assert divprune(x, 0.25)[0].dtype == dtype

    def test_nan_comes_after_every_number(self):
        x = tokens()
        x[5, 2] = float("nan")
        order = max_min_select(x, 24).tolist()
        clean = [i for i in range(24) if i != 5]
        assert order[-1] == 5
        assert order[:-1] == [clean[i] for i in max_min_select(x[clean], 23).tolist()]

    def test_padding_is_nobodys_neighbour_and_comes_last(self):
        x, valid = tokens(batch=2), torch.ones(2, 24, dtype=torch.bool)
        valid[1, 10:] = False
        order = max_min_select(x, 24, valid_mask=valid)
        assert torch.equal(order[0], max_min_select(x[0], 24))
        assert torch.equal(order[1, :10], max_min_select(x[1, :10], 10))
        assert order[1, 10:].tolist() == list(range(10, 24))

    def test_euclidean_distance_on_request(self):
        x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0], [5.0, 0.1]])
        assert max_min_select(x, 2, normalize=False).tolist() == [0, 3]
        unit = torch.nn.functional.normalize(tokens(), dim=1)
        assert torch.equal(max_min_select(unit, 12, normalize=False), max_min_select(unit, 12))

    @pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4), (0, 5, 4)])
    def test_nothing_in_nothing_out(self, shape):
        kept, index = divprune(torch.zeros(shape), 0.0)
        assert kept.shape == (*shape[:-2], 0, 4)
        assert index.shape == (*shape[:-2], 0)
        assert index.dtype == torch.int64

    def test_the_gradient_goes_to_the_kept_tokens(self):
        x = tokens().requires_grad_()
        kept, index = divprune(x, 0.25)
        kept.sum().backward()
        expected = torch.zeros(24, 8)
        expected[index] = 1
        assert torch.equal(x.grad, expected)

    def test_it_compiles(self):
        x = tokens(batch=2)
        compiled = torch.compile(divprune, fullgraph=True, backend="aot_eager")
        for ours, expected in zip(compiled(x, 0.25), divprune(x, 0.25), strict=True):
            assert torch.equal(ours, expected)

    def test_a_count_may_be_of_any_integer_type(self):
        assert torch.equal(max_min_select(tokens(), np.int64(5)), max_min_select(tokens(), 5))

    def test_bad_input_is_named(self):
        x = tokens()
        with pytest.raises(ValueError, match=r"max_min_select: k must be in \[0, 24\].* got 25"):
            max_min_select(x, 25)
        with pytest.raises(ValueError, match="divprune: k must be at least 0, got -1"):
            divprune(x, k=-1)
        with pytest.raises(TypeError, match="max_min_select: k must be an int, got float"):
            max_min_select(x, 2.0)
        with pytest.raises(ValueError, match=r"divprune: ratio must be in \[0, 1\], got 1.5"):
            divprune(x, 1.5)
        with pytest.raises(TypeError, match="divprune: ratio must be a number, got str"):
            divprune(x, "all")
        with pytest.raises(ValueError, match=r"max_min_select: x must be \(N, D\) or \(B, N, D\), got \(4,\)"):
            max_min_select(torch.zeros(4), 2)
        with pytest.raises(TypeError, match="divprune: x must be a tensor, got list"):
            divprune([[1.0]])


class TestHook:
    def test_a_projector_puts_out_the_kept_tokens(self):
        projector, prune = torch.nn.Linear(8, 16), dp.DivPrune(0.25)
        full = projector(tokens(batch=2))
        projector.register_forward_hook(prune)
        short = projector(tokens(batch=2))
        assert short.shape == (2, 6, 16)
        assert torch.equal(short, full.gather(1, prune.keep_idx[..., None].expand(-1, -1, 16)))

    def test_it_is_a_function_of_tokens_too(self):
        prune = dp.DivPrune(k=5)
        assert torch.equal(prune(tokens()), divprune(tokens(), k=5)[0])
        assert repr(prune) == "DivPrune(k=5)"
        assert repr(dp.DivPrune()) == "DivPrune(ratio=0.098)"

    def test_a_hooked_projector_copies_and_pickles(self):
        projector = torch.nn.Linear(8, 16)
        projector.register_forward_hook(dp.DivPrune(k=3))
        for copied in (copy.deepcopy(projector), pickle.loads(pickle.dumps(projector))):
            assert copied(tokens()).shape == (3, 16)

    def test_bad_rates_are_refused_at_once(self):
        with pytest.raises(ValueError, match="DivPrune: ratio must be"):
            dp.DivPrune(2.0)
        with pytest.raises(ValueError, match="DivPrune: k must be at least 0, got -2"):
            dp.DivPrune(k=-2)
        with pytest.raises(TypeError, match="DivPrune: k must be an int, got str"):
            dp.DivPrune(k="few")


class TestPruneInputs:
    """Three text tokens, four visual ones, two text tokens."""

    embeds = torch.arange(36.0).reshape(2, 9, 2)

    def test_text_stays_and_positions_are_renumbered_as_the_official_code_does(self):
        short = dp.prune_inputs(self.embeds, (3, 7), torch.tensor([[2, 0], [1, 3]]))
        assert short.kept.tolist() == [[0, 1, 2, 3, 5, 7, 8], [0, 1, 2, 4, 6, 7, 8]]
        assert torch.equal(short.inputs_embeds, self.embeds.gather(1, short.kept[..., None].expand(-1, -1, 2)))
        assert short.position_ids.tolist() == [list(range(7))] * 2
        assert short.attention_mask is None

    def test_original_positions_on_request(self):
        short = dp.prune_inputs(self.embeds, (3, 7), torch.tensor([2, 0]), positions="original")
        assert short.position_ids.tolist() == [[0, 1, 2, 3, 5, 7, 8]] * 2
        given = torch.arange(9).expand(2, -1) * 10
        short = dp.prune_inputs(self.embeds, (3, 7), torch.tensor([2, 0]), None, given, "original")
        assert short.position_ids.tolist() == [[0, 10, 20, 30, 50, 70, 80]] * 2

    def test_keeping_every_token_changes_nothing(self):
        mask, positions = torch.ones(2, 9), torch.arange(9).expand(2, -1)
        short = dp.prune_inputs(self.embeds, (3, 7), torch.arange(4), mask, positions)
        assert torch.equal(short.inputs_embeds, self.embeds)
        assert torch.equal(short.attention_mask, mask)
        assert torch.equal(short.position_ids, positions)

    @pytest.mark.parametrize("positions", ["renumber", "original"])
    def test_padding_is_not_counted(self, positions):
        mask = torch.ones(2, 9, dtype=torch.int64)
        mask[1, :2] = 0
        visual = torch.zeros(2, 9, dtype=torch.bool)
        visual[0, 3:7] = visual[1, 4:8] = True
        short = dp.prune_inputs(self.embeds, visual, torch.tensor([[0, 1], [2, 3]]), mask, positions=positions)
        assert short.kept.tolist() == [[0, 1, 2, 3, 4, 7, 8], [0, 1, 2, 3, 6, 7, 8]]
        assert short.attention_mask.tolist() == [[1] * 7, [0, 0, 1, 1, 1, 1, 1]]
        expected = {
            "renumber": [[0, 1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 2, 3, 4]],
            "original": [[0, 1, 2, 3, 4, 7, 8], [0, 0, 0, 1, 4, 5, 6]],
        }
        assert short.position_ids.tolist() == expected[positions]

    def test_visual_tokens_in_several_pieces_are_numbered_through(self):
        visual = torch.tensor([False, True, True, False, False, True, False, True, False]).expand(2, -1)
        short = dp.prune_inputs(self.embeds, visual, torch.tensor([1, 3]))
        assert short.kept.tolist() == [[0, 2, 3, 4, 6, 7, 8]] * 2

    def test_nothing_kept_and_nothing_there(self):
        assert dp.prune_inputs(self.embeds, (3, 7), torch.zeros(0, dtype=torch.int64)).kept.shape == (2, 5)
        assert dp.prune_inputs(self.embeds, (3, 3), torch.zeros(0, dtype=torch.int64)).kept.shape == (2, 9)
        assert dp.prune_inputs(self.embeds[:0], (3, 7), torch.zeros(0, 2, dtype=torch.int64)).kept.shape[0] == 0

    def test_it_is_differentiable(self):
        embeds = self.embeds.clone().requires_grad_()
        dp.prune_inputs(embeds, (3, 7), torch.tensor([1])).inputs_embeds.sum().backward()
        assert embeds.grad[..., 0].tolist() == [[1, 1, 1, 0, 1, 0, 0, 1, 1]] * 2

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"visual": (3, 10)}, r"visual must be a span within \[0, 9\], got \(3, 10\)"),
            ({"visual": torch.ones(2, 8, dtype=torch.bool)}, r"visual must be \(2, 9\), got \(2, 8\)"),
            (
                {"visual": torch.eye(9)[:2].bool() | (torch.arange(18).reshape(2, 9) > 15)},
                "as many tokens in every row",
            ),
            ({"keep_idx": torch.tensor([4])}, r"keep_idx must name visual tokens in \[0, 4\), got"),
            ({"keep_idx": torch.tensor([1, 1])}, "keep_idx must not repeat a token"),
            ({"keep_idx": torch.zeros(3, 1, dtype=torch.int64)}, r"keep_idx must be \(2, K\) or \(K\), got \(3, 1\)"),
            ({"attention_mask": torch.ones(2, 8)}, r"attention_mask must be \(2, 9\), got \(2, 8\)"),
            ({"position_ids": torch.ones(9)}, r"position_ids must be \(2, 9\), got \(9,\)"),
            ({"positions": "shifted"}, "positions must be 'renumber' or 'original', got 'shifted'"),
            ({"inputs_embeds": torch.zeros(9, 2)}, r"inputs_embeds must be \(B, L, C\), got \(9, 2\)"),
        ],
    )
    def test_bad_input_is_named(self, change, message):
        arguments = {"inputs_embeds": self.embeds, "visual": (3, 7), "keep_idx": torch.tensor([1])} | change
        with pytest.raises(ValueError, match=f"prune_inputs: .*{message}"):
            dp.prune_inputs(**arguments)

    def test_wrong_types_are_named(self):
        with pytest.raises(TypeError, match="prune_inputs: keep_idx must be int64 or int32, got"):
            dp.prune_inputs(self.embeds, (3, 7), torch.tensor([1.0]))
        with pytest.raises(TypeError, match="prune_inputs: visual must be bool, got"):
            dp.prune_inputs(self.embeds, torch.ones(2, 9), torch.tensor([1]))


@pytest.fixture(scope="module")
def llama():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=50, **sizes)).eval()


class TestInALanguageModel:
    """Five text tokens, forty visual ones, six text tokens, in a tiny Llama."""

    prompt = torch.randn(2, 51, 32, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def run(self, llama, ratio, positions):
        index = divprune(self.prompt[:, 5:45], ratio)[1]
        short = dp.prune_inputs(self.prompt, (5, 45), index, torch.ones(2, 51), positions=positions)
        return short, llama(
            inputs_embeds=short.inputs_embeds, attention_mask=short.attention_mask, position_ids=short.position_ids
        ).logits

    @pytest.mark.parametrize("positions", ["renumber", "original"])
    def test_keeping_all_is_the_model_as_it_was(self, llama, positions):
        with torch.no_grad():
            dense = llama(inputs_embeds=self.prompt, attention_mask=torch.ones(2, 51)).logits
        assert torch.equal(self.run(llama, 1.0, positions)[1], dense)

    def test_renumbered_positions_are_those_the_model_counts_itself(self, llama):
        short, logits = self.run(llama, 0.1, "renumber")
        assert logits.shape == (2, 15, 50)
        with torch.no_grad():
            assert torch.equal(llama(inputs_embeds=short.inputs_embeds).logits, logits)

    def test_with_original_positions_dropping_is_hiding(self, llama):
        short, logits = self.run(llama, 0.1, "original")
        mask = torch.zeros(2, 51).scatter(1, short.kept, 1.0)
        with torch.no_grad():
            hidden = llama(inputs_embeds=self.prompt, attention_mask=mask, position_ids=torch.arange(51)[None]).logits
        torch.testing.assert_close(logits, hidden.gather(1, short.kept[..., None].expand(-1, -1, 50)))


def test_the_record():
    assert dp.PAPER is paper("divprune")
    assert (dp.PAPER.verified_against, dp.PAPER.licence) == ("repo", "CC-BY-NC-4.0")
