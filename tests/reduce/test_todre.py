# SPDX-License-Identifier: Apache-2.0
"""ToDRE: every line of "What must be true" of the paper's page, against loops in float64. There is no official code."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from tokernel.ops import farthest_points
from tokernel.papers import paper
from tokernel.reduce import todre
from tokernel.reduce.todre import ToDRE, cls_pivot, cross_modal_ratios, max_sum_select, modal_shares

OBJECTIVES = ("sum", "min")


def tokens(n=24, width=8, batch=None, seed=0):
    shape = (n, width) if batch is None else (batch, n, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def similarity(x):
    """(N, N) cosines in float64; a zero row has similarity 0 to all."""
    x = x.double()
    length = x.norm(dim=-1, keepdim=True)
    unit = torch.where(length > 0, x / length, 0.0)
    return unit @ unit.T


def reference(x, k, pivot=0, objective="sum"):
    """O(N k^2): every similarity to everything chosen is added up anew for every pick."""
    s, order = similarity(x), [pivot]
    while len(order) < k:
        to_chosen = s[:, order]
        score = to_chosen.sum(1) if objective == "sum" else to_chosen.max(1).values
        score[order] = float("inf")
        order.append(int(score.argmin()))
    return order[:k]


def qk(length=20, heads=2, width=8, batch=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (heads, length, width) if batch is None else (batch, heads, length, width)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def attention_map(q, k, causal):
    """The whole map in float64."""
    scores = q.double() @ k.double().mT / q.shape[-1] ** 0.5
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, -float("inf"))
    return scores.softmax(-1)


SPANS = {"sys": slice(0, 3), "vis": slice(3, 14), "txt": slice(14, 20)}


class TestStageOneMustBeTrue:
    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_the_choice_for_k_is_a_prefix_of_that_for_k_plus_1(self, objective):
        x = tokens(batch=2)
        everything = max_sum_select(x, 24, 3, objective)
        assert all(torch.equal(max_sum_select(x, k, 3, objective), everything[:, :k]) for k in range(24))

    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_k_distinct_tokens_with_the_pivot_first(self, objective):
        for pivot in (0, 7, 23):
            order = max_sum_select(tokens(), 12, pivot, objective).tolist()
            assert order[0] == pivot
            assert len(set(order)) == 12

    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_permuting_rows_permutes_the_choice(self, objective):
        x, permutation = tokens(), torch.randperm(24, generator=torch.Generator().manual_seed(2))
        pivot = int((permutation == 5).nonzero())
        ours = permutation[max_sum_select(x[permutation], 12, pivot, objective)]
        assert torch.equal(ours, max_sum_select(x, 12, 5, objective))

    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_a_positive_factor_on_any_row_changes_nothing(self, objective):
        x = tokens()
        factor = torch.logspace(-4, 4, 24)[torch.randperm(24, generator=torch.Generator().manual_seed(1))]
        scaled = max_sum_select(x * factor[:, None], 12, 0, objective)
        assert torch.equal(scaled, max_sum_select(x, 12, 0, objective))

    def test_running_sums_do_not_drift(self, backend):
        x = tokens(48, 16)
        order, score = farthest_points(x, 32, mode="maxsum", start=0, return_score=True)
        d = 1 - similarity(x)
        for i in range(1, 32):
            anew = d[order[:i], order[i]].sum().item()
            assert score[i].item() == pytest.approx(anew, abs=1e-5), f"after {i} picks"

    def test_at_the_papers_288_picks_the_sums_drift_no_more_than_float32_must(self):
        x = tokens(720, 32) + 0.3
        order, score = farthest_points(x, 288, mode="maxsum", start=0, return_score=True)
        assert order.tolist() == reference(x, 288)
        d = 1 - similarity(x)
        for i in range(1, 288):
            anew = d[order[:i], order[i]].sum().item()
            assert score[i].item() == pytest.approx(anew, rel=i * 2.0**-24, abs=1e-5), f"after {i} picks"

    @pytest.mark.parametrize("objective", OBJECTIVES)
    @pytest.mark.parametrize("seed", range(3))
    def test_the_result_equals_a_reference_that_adds_up_anew(self, objective, seed):
        x = tokens(60, 12, seed=seed)
        assert max_sum_select(x, 40, 11, objective).tolist() == reference(x, 40, 11, objective)

    def test_and_so_it_does_on_every_backend(self, backend):
        x = tokens(17, 5)
        assert max_sum_select(x, 9, 4).tolist() == reference(x, 9, 4)

    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_k_1_returns_the_pivot(self, objective):
        assert max_sum_select(tokens(), 1, 9, objective).tolist() == [9]

    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_k_equal_to_n_returns_all_tokens(self, objective):
        assert sorted(max_sum_select(tokens(), 24, 9, objective).tolist()) == list(range(24))

    def test_two_antipodal_clusters_are_visited_in_turns(self):
        centre = torch.tensor([1.0, 0, 0, 0])
        side = torch.tensor([1, 1, -1, 1, -1, -1, 1, -1, 1, -1])
        x = side[:, None] * centre + 0.01 * tokens(10, 4)
        picked = side[max_sum_select(x, 10)].tolist()
        assert picked == [1, -1] * 5


class TestStageOneTraps:
    def test_duplicates_are_never_taken_twice(self):
        order = max_sum_select(tokens(4, 8).repeat(6, 1), 24, 2)
        assert sorted(order.tolist()) == list(range(24))

    def test_max_sum_keeps_near_duplicates_of_two_extremes_where_max_min_does_not(self):
        x = torch.tensor([[1.0, 0.0], [0.99, 0.1], [-1.0, 0.0], [-0.99, 0.1], [0.0, 1.0]])
        assert set(max_sum_select(x, 4).tolist()) == {0, 1, 2, 3}
        assert 4 in max_sum_select(x, 3, objective="min").tolist()

    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_min_is_the_loop_of_divprune_from_the_pivot(self, objective):
        x = tokens()
        assert max_sum_select(x, 9, 3, "min").tolist() == farthest_points(x, 9, start=3).tolist()

    def test_a_zero_row_has_similarity_0_to_all(self):
        x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 0.0], [-1.0, 0.3]])
        assert max_sum_select(x, 4).tolist() == [0, 3, 2, 1]
        assert max_sum_select(torch.zeros(3, 4), 3, 1).tolist() == [1, 0, 2]

    def test_ties_go_to_the_lowest_index(self):
        assert max_sum_select(torch.eye(6), 6, 3).tolist() == [3, 0, 1, 2, 4, 5]

    def test_nan_comes_last_and_spoils_nobody(self):
        x = tokens()
        x[5, 2] = float("nan")
        clean = [i for i in range(24) if i != 5]
        order = max_sum_select(x, 24, 0).tolist()
        assert order[-1] == 5
        assert order[:-1] == [clean[i] for i in max_sum_select(x[clean], 23, 0).tolist()]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_sums_of_half_precision_tokens_are_float32(self, dtype):
        x = tokens(60, 12).to(dtype)
        assert max_sum_select(x, 40).tolist() == reference(x.float(), 40)

    def test_a_pivot_for_every_sample(self):
        x = tokens(batch=3)
        order = max_sum_select(x, 6, torch.tensor([4, 0, 23]))
        assert all(order[b].tolist() == reference(x[b], 6, p) for b, p in enumerate((4, 0, 23)))
        assert torch.equal(max_sum_select(x, 6), max_sum_select(x, 6, torch.zeros(3, dtype=torch.int32)))

    @pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4), (0, 5, 4)])
    def test_nothing_in_nothing_out(self, shape):
        assert max_sum_select(torch.zeros(shape), 0).shape == (*shape[:-2], 0)

    def test_bad_input_is_named(self):
        x = tokens()
        with pytest.raises(ValueError, match=r"max_sum_select: k must be in \[0, 24\].* got 25"):
            max_sum_select(x, 25)
        with pytest.raises(ValueError, match=r"got 24"):
            max_sum_select(x, 2, 24)
        with pytest.raises(ValueError, match="max_sum_select: objective must be 'sum' or 'min', got 'max'"):
            max_sum_select(x, 2, objective="max")
        with pytest.raises(ValueError, match=r"max_sum_select: x must be .* got \(3,\)"):
            max_sum_select(torch.zeros(3), 2)


class TestPivot:
    attention = torch.tensor([0.05, 0.3, 0.05, 0.1, 0.4, 0.1])

    def test_a_single_image_takes_the_most_attended_token(self):
        assert cls_pivot(self.attention) == 4

    def test_crops_are_left_out(self):
        assert cls_pivot(self.attention, thumbnail_span=(0, 3)) == 1

    def test_a_video_takes_the_best_of_the_frames_winners(self):
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            a, frame = torch.rand(18, generator=generator), torch.arange(3).repeat_interleave(6)
            winners = [int(a.masked_fill(frame != f, -1.0).argmax()) for f in range(3)]
            assert cls_pivot(a, frame_ids=frame) == max(winners, key=lambda i: a[i].item())

    def test_a_token_of_no_frame_is_no_candidate(self):
        assert cls_pivot(self.attention, frame_ids=torch.tensor([0, 0, 0, 0, -1, 1])) == 1

    def test_a_batch_has_a_pivot_a_sample(self):
        pivots = cls_pivot(torch.stack([self.attention, self.attention.flip(0)]), thumbnail_span=(0, 4))
        assert pivots.tolist() == [1, 1]
        assert pivots.dtype == torch.int64

    def test_ties_and_nan(self):
        assert cls_pivot(torch.tensor([0.1, 0.5, 0.5])) == 1
        assert cls_pivot(torch.tensor([float("nan"), 0.1, 0.5])) == 2
        assert cls_pivot(torch.tensor([0.5, 0.1], dtype=torch.float64)) == 0

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"cls_attn": torch.zeros(0)}, "must have a candidate in every row"),
            ({"cls_attn": torch.zeros(1, 2, 3)}, r"cls_attn must be \(N\) or \(B, N\), got \(1, 2, 3\)"),
            ({"thumbnail_span": (0, 7)}, r"thumbnail_span must hold tokens of \[0, 6\), got \(0, 7\)"),
            ({"thumbnail_span": (2, 2)}, "thumbnail_span must hold tokens"),
            ({"frame_ids": torch.zeros(5)}, r"frame_ids must be \(6,\), got \(5,\)"),
            ({"frame_ids": torch.full((6,), -1)}, "must have a candidate"),
        ],
    )
    def test_bad_input_is_named(self, change, message):
        with pytest.raises(ValueError, match=f"cls_pivot: .*{message}"):
            cls_pivot(**{"cls_attn": self.attention} | change)


class TestStageTwoMustBeTrue:
    @pytest.mark.parametrize("causal", [True, False])
    def test_ratios_are_those_of_the_map_and_in_0_1(self, causal, backend):
        q, k = qk()
        a = attention_map(q, k, causal)
        expected_tv = a[:, SPANS["txt"], SPANS["vis"]].sum() / a[:, SPANS["txt"]].sum()
        expected_vt = a[:, SPANS["vis"], SPANS["txt"]].sum() / a[:, SPANS["vis"]].sum()
        for attn in ((q, k, causal), a, a.float()):
            alpha_tv, alpha_vt = cross_modal_ratios(attn, **SPANS)
            assert alpha_tv.item() == pytest.approx(expected_tv.item(), abs=1e-6)
            assert alpha_vt.item() == pytest.approx(expected_vt.item(), abs=1e-6)
            assert 0 <= alpha_tv <= 1
            assert 0 <= alpha_vt <= 1

    @pytest.mark.parametrize("causal", [True, False])
    def test_alpha_tv_and_the_shares_of_s_and_t_sum_to_1(self, causal):
        q, k = qk()
        for attn in ((q, k, causal), attention_map(q, k, causal)):
            of_text, of_vision = modal_shares(attn, **SPANS)
            assert of_text.sum().item() == pytest.approx(1, abs=1e-6)
            assert of_vision.sum().item() == pytest.approx(1, abs=1e-6)
            assert of_text[1] == cross_modal_ratios(attn, **SPANS)[0]
            assert of_vision[2] == cross_modal_ratios(attn, **SPANS)[1]

    def test_without_visual_tokens_alpha_tv_is_0(self):
        q, k = qk()
        for attn in ((q, k, True), attention_map(q, k, True)):
            alpha_tv, alpha_vt = cross_modal_ratios(attn, slice(0, 14), [], slice(14, 20))
            assert (alpha_tv, alpha_vt) == (0, 0)

    def test_uniform_causal_attention_has_a_closed_form(self):
        zero = torch.zeros(2, 20, 8)
        expected = sum(11 / (i + 1) for i in range(14, 20)) / 6
        alpha_tv, _ = cross_modal_ratios((zero, zero, True), **SPANS)
        assert alpha_tv.item() == pytest.approx(expected, abs=1e-6)

    def test_in_causal_order_s_v_t_vision_never_sees_text(self):
        q, k = qk()
        for attn in ((q, k, True), attention_map(q, k, True)):
            assert cross_modal_ratios(attn, **SPANS)[1] == 0

    def test_with_vision_behind_text_alpha_vt_is_positive(self):
        q, k = qk()
        for attn in ((q, k, True), attention_map(q, k, True)):
            alpha_tv, alpha_vt = cross_modal_ratios(attn, sys=slice(0, 3), vis=slice(9, 20), txt=slice(3, 9))
            assert alpha_vt > 0
            assert alpha_tv == 0

    def test_template_text_before_the_image_may_count_as_text(self):
        q, k = qk()
        alpha_vt = cross_modal_ratios((q, k, True), sys=[], vis=SPANS["vis"], txt=[0, 1, 2, *range(14, 20)])[1]
        assert alpha_vt > 0

    @pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
    def test_tau_0_never_prunes_and_tau_above_1_always_does(self, alpha):
        assert not ToDRE(tau=0.0).decide(alpha, alpha)
        assert ToDRE(tau=1.0001).decide(alpha, alpha)
        assert not ToDRE(tau=0.0).decide(torch.tensor([alpha]), torch.tensor([alpha])).any()
        assert ToDRE(tau=1.0001).decide(torch.tensor([alpha]), torch.tensor([alpha])).all()

    @torch.no_grad()
    def test_pruning_at_the_last_layer_leaves_the_text_logits_unchanged(self):
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=50, **sizes)).eval()
        embeds = torch.randn(1, 20, 32)
        full = model(inputs_embeds=embeds).logits
        policy = ToDRE(tau=1.1, probe_depth=1.0)
        visual = torch.zeros(1, 20, dtype=torch.bool)
        visual[:, SPANS["vis"]] = True
        stays = policy.keep_mask(visual, torch.tensor([0.5]), torch.tensor([0.0]))

        def drop(module, inputs, output):
            hidden = output[0] if isinstance(output, tuple) else output
            short = hidden[stays].reshape(1, -1, 32)
            return (short, *output[1:]) if isinstance(output, tuple) else short

        model.model.layers[policy.probe_layer(3)].register_forward_hook(drop)
        short = model(inputs_embeds=embeds).logits
        assert short.shape[1] == 9
        torch.testing.assert_close(short, full[:, ~visual[0]], atol=1e-6, rtol=1e-5)


class TestStageTwoTraps:
    def test_the_sets_may_come_in_any_form(self):
        q, k = qk()
        expected = cross_modal_ratios((q, k, False), **SPANS)
        masks = [torch.zeros(20, dtype=torch.bool).index_fill(0, torch.arange(20)[s], True) for s in SPANS.values()]
        forms = [[range(20)[s] for s in SPANS.values()], masks]
        forms.append([torch.arange(20)[s].int() for s in SPANS.values()])
        forms.append([m[None] for m in masks])
        assert all(cross_modal_ratios((q, k, False), *form) == expected for form in forms)

    def test_scattered_text_rows(self):
        q, k = qk()
        a, text, vision = attention_map(q, k, True), [4, 9, 15, 18], [5, 6, 16]
        system = [0, 1, 2]
        rows = a[:, text]
        expected = rows[..., vision].sum() / rows[..., system + vision + text].sum()
        for attn in ((q, k, True), a):
            assert cross_modal_ratios(attn, system, vision, text)[0].item() == pytest.approx(expected.item(), abs=1e-6)

    def test_a_batch_of_different_samples_with_padding(self):
        q, k = qk(batch=2)
        sets = {name: torch.zeros(2, 20, dtype=torch.bool) for name in SPANS}
        for name, span in SPANS.items():
            sets[name][0, span] = True
            sets[name][1, span.start // 2 + 4 : span.stop // 2 + 4] = True
        bias = torch.zeros(2, 1, 20)
        bias[1, :, :4] = -float("inf")
        alpha_tv, alpha_vt = cross_modal_ratios((q, k, True), **sets, key_bias=bias)
        assert alpha_tv.shape == alpha_vt.shape == (2,)
        alone = cross_modal_ratios((q[0], k[0], True), **SPANS)
        assert alpha_tv[0].item() == pytest.approx(alone[0].item(), abs=1e-6)
        moved = {name: mask[1, 4:] for name, mask in sets.items()}
        alone = cross_modal_ratios((q[1, :, 4:], k[1, :, 4:], True), **moved)
        assert alpha_tv[1].item() == pytest.approx(alone[0].item(), abs=1e-6)

    def test_fewer_heads_of_keys(self):
        q, k = qk(heads=4)
        repeated = k[:2].repeat_interleave(2, 0)
        ours = cross_modal_ratios((q, k[:2], True), **SPANS)
        assert ours == cross_modal_ratios((q, repeated, True), **SPANS)

    def test_the_scale_of_the_model(self):
        q, k = qk()
        ours = cross_modal_ratios((q, k, True), **SPANS, scale=0.7)
        expected = cross_modal_ratios(attention_map(q * 0.7 * 8**0.5, k, True), **SPANS)
        assert ours[0].item() == pytest.approx(expected[0].item(), abs=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_summed_in_float32(self, dtype):
        q, k = (x.to(dtype) for x in qk())
        a = attention_map(q, k, True)
        alpha_tv = cross_modal_ratios((q, k, True), **SPANS)[0]
        assert alpha_tv.dtype == torch.float32
        assert alpha_tv.item() == pytest.approx(cross_modal_ratios(a, **SPANS)[0].item(), abs=1e-5)
        half = cross_modal_ratios(a.to(dtype), **SPANS)[0]
        assert half.dtype == torch.float32
        assert half.item() == pytest.approx(cross_modal_ratios(a.to(dtype).double(), **SPANS)[0].item(), abs=1e-6)

    def test_no_gradient_and_no_graph(self):
        q, k = (x.requires_grad_() for x in qk())
        assert not cross_modal_ratios((q, k, True), **SPANS)[0].requires_grad
        assert not cross_modal_ratios(attention_map(q, k, True), **SPANS)[0].requires_grad

    def test_a_long_prompt_needs_no_map(self):
        """5000 tokens by 8 heads: the map would take 800 MB, and the rows of text alone 4 MB."""
        q, k = qk(5000, heads=8, width=16)
        sets = {"sys": slice(0, 35), "vis": slice(35, 4976), "txt": slice(4976, 5000)}
        a = attention_map(q[:, -24:], k, False)
        a = a * torch.ones(24, 5000).tril(4976)
        a = a / a.sum(-1, keepdim=True)
        ours = modal_shares((q, k, True), **sets)[0]
        assert ours[1].item() == pytest.approx(a[..., 35:4976].sum().item() / 192, abs=1e-5)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"txt": slice(13, 20)}, "txt must not share a token with another set"),
            ({"txt": [20]}, r"txt must be \(n\) positions in \[0, 20\), got \[20\]"),
            ({"txt": [-1]}, r"txt must be \(n\) positions"),
            ({"vis": torch.ones(19, dtype=torch.bool)}, r"vis must be \(20\) or \(1, 20\) as a mask, got \(19,\)"),
            ({"attn": torch.zeros(2, 20, 19)}, r"attn must be \(H, L, L\)"),
            ({"attn": torch.zeros(20, 20)}, r"attn must be \(H, L, L\)"),
            ({"attn": (torch.zeros(2, 20, 8), torch.zeros(2, 19, 8), True)}, r"attn must be \(H, L, L\)"),
            (
                {"attn": (torch.zeros(2, 20, 8), torch.zeros(2, 20, 8))},
                r"attn must be a map or \(q, k, causal\), got 2",
            ),
            ({"scale": 0.5, "attn": torch.zeros(2, 20, 20)}, "scale and key_bias must be None with a map"),
        ],
    )
    def test_bad_input_is_named(self, change, message):
        with pytest.raises(ValueError, match=f"cross_modal_ratios: {message}"):
            cross_modal_ratios(**{"attn": (*qk(), True), **SPANS} | change)

    def test_wrong_types_are_named(self):
        with pytest.raises(
            TypeError, match=r"cross_modal_ratios: txt must be int64, int32 or bool, got torch\.float32"
        ):
            cross_modal_ratios((*qk(), True), sys=[0], vis=[1], txt=torch.tensor([2.0]))
        with pytest.raises(TypeError, match=r"cross_modal_ratios: attn must be a map or \(q, k, causal\), got"):
            cross_modal_ratios(("q", "k", True), sys=[0], vis=[1], txt=[2])


class TestToDRE:
    @pytest.mark.parametrize(("retention", "k"), [(0.25, 720), (0.1, 288)])
    def test_retention_of_the_paper(self, retention, k):
        assert ToDRE(retention).select(tokens(2880, 2)).shape == (k,)

    def test_select_is_stage_one_from_the_pivot_in_order(self):
        x, attn = tokens(batch=2), torch.rand(2, 24, generator=torch.Generator().manual_seed(1))
        index = ToDRE(0.25).select(x, attn)
        for b in range(2):
            assert index[b].tolist() == sorted(reference(x[b], 6, int(attn[b].argmax())))
        assert int(attn[0, 4:9].argmax()) + 4 in ToDRE(0.25).select(x, attn, thumbnail_span=(4, 9))[0]

    def test_without_a_class_token_the_pivot_is_the_first_or_drawn(self):
        x = tokens()
        assert ToDRE(0.25).select(x).tolist() == sorted(reference(x, 6, 0))
        drawn = int(torch.randint(24, (), generator=torch.Generator().manual_seed(5)))
        ours = ToDRE(0.25).select(x, generator=torch.Generator().manual_seed(5))
        assert ours.tolist() == sorted(reference(x, 6, drawn))

    def test_version_1(self):
        x = tokens()
        assert ToDRE(0.25, objective="min").select(x).tolist() == sorted(reference(x, 6, 0, "min"))

    @pytest.mark.parametrize(("layers", "index"), [(32, 27), (40, 34), (28, 23), (8, 6), (1, 0), (2, 0)])
    def test_probed_layer(self, layers, index):
        assert ToDRE().probe_layer(layers) == index

    def test_depth_1_is_the_last_layer_and_rounding_does_not_lose_one(self):
        assert ToDRE(probe_depth=1.0).probe_layer(32) == 31
        assert ToDRE(probe_depth=0.29).probe_layer(100) == 28

    def test_both_ratios_must_be_below_tau(self):
        policy = ToDRE(tau=0.1)
        assert policy.decide(0.09, 0.09) is True
        assert policy.decide(0.1, 0.0) is False
        assert policy.decide(0.0, 0.2) is False
        assert policy.decide(float("nan"), 0.0) is False
        per_sample = policy.decide(torch.tensor([0.09, 0.5]), torch.tensor([0.0, 0.0]))
        assert per_sample.tolist() == [True, False]

    def test_keep_mask_drops_vision_of_the_samples_that_decided_so(self):
        visual = torch.tensor([[False, True, True, False]]).expand(2, -1)
        stays = ToDRE(tau=0.1).keep_mask(visual, torch.tensor([0.05, 0.5]), torch.tensor([0.0, 0.0]))
        assert stays.tolist() == [[True, False, False, True], [True] * 4]
        one = ToDRE(tau=0.1).keep_mask(visual[0], torch.tensor(0.05), torch.tensor(0.0))
        assert one.tolist() == [True, False, False, True]

    def test_no_tokens(self):
        assert ToDRE().select(torch.zeros(0, 4), torch.zeros(0)).shape == (0,)

    @pytest.mark.parametrize(
        ("bad", "name"),
        [
            ({"retention": 1.1}, "retention"),
            ({"tau": -0.1}, "tau"),
            ({"tau": float("nan")}, "tau"),
            ({"probe_depth": 0.0}, "probe_depth"),
            ({"probe_depth": 1.5}, "probe_depth"),
            ({"objective": "mean"}, "objective"),
        ],
    )
    def test_bad_settings_are_named(self, bad, name):
        with pytest.raises(ValueError, match=f"ToDRE: {name} must be"):
            ToDRE(**bad)
        with pytest.raises(ValueError, match=r"ToDRE\.select: cls_attn must be \(24,\), got \(23,\)"):
            ToDRE().select(tokens(), torch.zeros(23))
        with pytest.raises(ValueError, match=r"ToDRE\.probe_layer: layers must be at least 1"):
            ToDRE().probe_layer(0)


def test_the_record_says_what_is_ours():
    assert todre.PAPER is paper("todre")
    assert todre.PAPER.verified_against == "paper"
    assert "our reconstruction" in todre.PAPER.notes
    assert "our reconstruction" in todre.__doc__
