# SPDX-License-Identifier: Apache-2.0
"""SpAtten: the official caches and traces, LTP's masks, and every line of "What must be true" of the paper's page."""

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from tokernel import ops
from tokernel.papers import paper
from tokernel.reduce import spatten


def tensors(golden, name):
    with np.load(golden / "spatten" / f"{name}.npz") as file:
        return {k: torch.from_numpy(v) if v.ndim else v.item() for k, v in file.items()}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def maps(*shape, seed=0):
    return torch.softmax(2 * randn(*shape, seed=seed), -1)


def test_it_is_in_the_registry():
    assert spatten.PAPER is paper("spatten")
    assert "our reconstruction" in spatten.PAPER.notes.lower()


class TestGolden:
    @pytest.mark.parametrize("name", ["kv_prune_multi_layer", "kv_prune_no_start"])
    def test_the_cache_keeps_what_the_official_one_keeps(self, golden, name):
        d = tensors(golden, name)
        cache = spatten.SpAttenKVCache(d["start_size"], d["recent_size"], d["important_size"])
        for layer in range(len(d["k"])):
            k, v = cache.prune(d["k"][layer], d["v"][layer], d["scores"][layer], d["num_coming"])
            assert torch.equal(k, d["k_out"][layer])
            assert torch.equal(v, d["v_out"][layer])

    def test_a_cache_that_fits_comes_back_as_it_is(self, golden):
        d = tensors(golden, "kv_prune_noop")
        cache = spatten.SpAttenKVCache(d["start_size"], d["recent_size"], d["important_size"])
        k, v = cache.prune(d["k"][0], d["v"][0], d["scores"][0], d["num_coming"])
        assert k.data_ptr() == d["k"].data_ptr()
        assert torch.equal(k, d["k_out"][0])
        assert torch.equal(v, d["v_out"][0])

    def test_ltp_prunes_the_same_tokens(self, golden):
        d = tensors(golden, "ltp_cascade_topk")
        rates = spatten.ltp_keep_rates(d["num_layers"], d["token_keep_rate"])
        np.testing.assert_allclose(rates, d["keep_rates"], rtol=1e-6)
        alive = torch.arange(16) < d["lengths"][:, None]
        for i, rate in enumerate(rates):
            alive, score = spatten.ltp_prune(d[f"probs{i}"], alive, d["lengths"], rate)
            assert torch.equal(alive, d[f"kept{i}"])
            if f"score{i}" in d:
                torch.testing.assert_close(score, d[f"score{i}"], atol=1e-5, rtol=0)

    def test_trace_counts(self, golden):
        d = tensors(golden, "gpt2_medium_trace")
        for step, length in enumerate(d["sentence_length"].tolist()):
            counts = spatten.trace_counts(length, prompt=step == 0)
            assert counts.keys == d["key_fetch"][step].tolist()
            assert counts.values == d["value_fetch"][step].tolist()
            assert counts.heads == d["heads"][step].tolist()


class TestWhatMustBeTrue:
    def test_ratio_0_keeps_everything(self):
        state = spatten.TokenHeadState(7, 3, 2)
        state.update_from_probs(maps(2, 3, 7, 7))
        keep_tokens, keep_heads = state.prune(0, 0)
        assert torch.equal(keep_tokens, torch.arange(7).expand(2, 7))
        assert torch.equal(keep_heads, torch.arange(3).expand(2, 3))
        assert state.valid is None

    def test_kept_sets_are_nested_and_keep_their_order(self):
        state = spatten.TokenHeadState(20, 6, 2)
        tokens, heads = [state.tokens], [state.heads]
        for i in range(4):
            n, h = state.tokens.shape[1], state.heads.shape[1]
            state.update_from_probs(maps(2, h, n, n, seed=i))
            state.update_heads(randn(2, h, n, 4, seed=i))
            keep_tokens, keep_heads = state.prune(0.25, 0.2)
            assert torch.equal(tokens[-1].gather(1, keep_tokens), state.tokens)
            assert torch.equal(heads[-1].gather(1, keep_heads), state.heads)
            tokens.append(state.tokens)
            heads.append(state.heads)
        for sets in (tokens, heads):
            for b in range(2):
                for before, after in itertools.pairwise(sets):
                    assert set(after[b].tolist()) <= set(before[b].tolist())
                    assert after[b].tolist() == sorted(after[b].tolist())

    @pytest.mark.parametrize("ratio", [0.0, 0.1, 1 / 3, 0.5, 0.9, 1.0])
    @pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 197])
    def test_counts_follow_floor(self, count, ratio):
        exact = {0.1: (9, 10), 1 / 3: (2, 3), 0.5: (1, 2), 0.9: (1, 10)}.get(ratio, (1 - ratio, 1))
        expected = math.floor(count * exact[0]) // exact[1]
        assert spatten.kept_count(count, ratio) == expected
        state = spatten.TokenHeadState(count, count)
        keep_tokens, keep_heads = state.prune(ratio, ratio)
        assert keep_tokens.shape == keep_heads.shape == (1, expected)

    @pytest.mark.parametrize("padded", [False, True])
    def test_the_sum_of_token_scores_grows_by_heads_times_live_queries(self, padded):
        valid = torch.arange(9) < torch.tensor([9, 5])[:, None] if padded else None
        state = spatten.TokenHeadState(9, 3, 2, valid=valid)
        for i in range(3):
            n, h = state.tokens.shape[1], state.heads.shape[1]
            logits = randn(2, h, n, n, seed=i)
            if state.valid is not None:
                logits = logits.masked_fill(~state.valid[:, None, None], -torch.inf)
            before, live = state.all_token_score.sum(1), torch.tensor(state.live)
            state.update_from_probs(torch.softmax(logits, -1))
            torch.testing.assert_close(state.all_token_score.sum(1) - before, (h * live).float(), atol=1e-4, rtol=0)
            state.prune(0.3, 0.3)

    def test_head_scores_are_not_negative_and_scale_with_the_values(self):
        p, v = maps(1, 3, 8, 8), randn(1, 3, 8, 4)
        scores = []
        for factor in (1, -2.0):
            state = spatten.TokenHeadState(8, 3)
            state.update_heads(p @ (factor * v))
            assert (state.head_score >= 0).all()
            scores.append(state.head_score)
        torch.testing.assert_close(scores[1], 2 * scores[0])

    @pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 300])
    def test_topk_threshold_is_a_stable_argsort(self, n):
        x = (4 * randn(3, n)).round()  # many equal values
        for k in {0, 1, n // 2, n}:
            found = spatten.topk_threshold(x, k)
            expected = torch.argsort(x, dim=1, descending=True, stable=True)[:, :k].sort(1).values
            assert torch.equal(found, expected)
            if k:
                kth = x.sort(1, descending=True).values[:, k - 1]
                chosen = torch.zeros_like(x, dtype=torch.bool).scatter(1, found, True)
                assert (chosen.sum(1) == k).all()
                assert (chosen | (x <= kth[:, None])).all()

    def test_local_value_pruning_that_keeps_every_row_is_exact(self):
        p, v = maps(2, 3, 5, 9), randn(2, 3, 9, 4)
        torch.testing.assert_close(spatten.local_value_attention(p, v, 9), p @ v, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("keep", [1, 4, 8])
    def test_dropped_mass_bounds_the_error_of_local_value_pruning(self, keep):
        p, v = maps(2, 3, 5, 9), randn(2, 3, 9, 4)
        error = (spatten.local_value_attention(p, v, keep) - p @ v).abs().amax(-1)
        dropped = 1 - p.sort(-1, descending=True).values[..., :keep].sum(-1)
        assert (error <= dropped * v.abs().amax() + 1e-6).all()

    @staticmethod
    def planes(threshold, msb=8, lsb=4):
        """One step of generation: what the op gives, and the maps of both precisions."""
        q, k, v = 3 * randn(2, 3, 5, 8), randn(2, 3, 33, 8, seed=1), randn(2, 3, 33, 8, seed=2)
        step = q.abs().amax(-1, keepdim=True) / 32767  # the op reads queries in 16 bits
        q = (q / step).round() * step
        high, low, scale = spatten.split_bits(k, msb, lsb)
        out, refetched = spatten.progressive_attention(q, high, low, scale, v, threshold, lsb=lsb)
        coarse, fine = (
            torch.softmax(q @ keys.mT * 8**-0.5, -1)
            for keys in (spatten.join_bits(high, None, scale, lsb), spatten.join_bits(high, low, scale, lsb))
        )
        return out, refetched, coarse, fine, v

    def test_progressive_with_threshold_0_never_refetches(self):
        out, refetched, coarse, _, v = self.planes(0.0)
        assert not refetched.any()
        torch.testing.assert_close(out, coarse @ v, atol=1e-5, rtol=1e-5)

    def test_progressive_above_threshold_1_is_attention_of_all_bits(self):
        out, refetched, _, fine, v = self.planes(1.5)
        assert refetched.all()
        torch.testing.assert_close(out, fine @ v, atol=1e-5, rtol=1e-5)

    def test_progressive_refetches_exactly_the_flat_rows(self):
        out, refetched, coarse, fine, v = self.planes(0.3, msb=6)
        assert torch.equal(refetched, coarse.amax(-1) < 0.3)
        assert 0 < refetched.sum() < refetched.numel()
        torch.testing.assert_close(out, torch.where(refetched[..., None], fine, coarse) @ v, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize(("msb", "lsb"), [(8, 4), (6, 4)])
    def test_bit_planes_recombine_to_the_same_integer(self, msb, lsb):
        most = 2 ** (msb + lsb - 1) - 1
        x = torch.arange(-most, most + 1).float()[None]
        high, low, scale = spatten.split_bits(x, msb, lsb)
        assert torch.equal(spatten.join_bits(high, low, lsb=lsb), x)
        assert scale.item() == 1

    def test_trace_fractions_are_of_the_longest_sequence_not_of_this_one(self):
        assert spatten.trace_counts(300).keys == [300] * 24
        assert spatten.trace_counts(50).values[0] == 50


class TestState:
    def test_scores_without_the_map_are_those_of_the_map(self):
        q, k, v = randn(3, 2, 3, 11, 8)
        for policy in (ops.Dense(), ops.Causal()):
            logits = q @ k.mT * 8**-0.5
            if isinstance(policy, ops.Causal):
                logits = logits.masked_fill(~torch.ones(11, 11, dtype=torch.bool).tril(), -torch.inf)
            by_map, streamed = spatten.TokenHeadState(11, 3, 2), spatten.TokenHeadState(11, 3, 2)
            by_map.update_from_probs(torch.softmax(logits, -1))
            _, lse = ops.attention(q, k, v, policy, return_lse=True)
            streamed.update_from_attention(q, k, lse, policy)
            torch.testing.assert_close(streamed.token_score, by_map.token_score, atol=1e-5, rtol=1e-5)

    def test_scores_accumulate_and_a_pruned_token_keeps_the_score_it_had(self):
        state = spatten.TokenHeadState(4, 1)
        state.update_from_probs(torch.tensor([[[0.1, 0.2, 0.3, 0.4]]]))
        state.prune(0.5, 0)
        state.update_from_probs(torch.tensor([[[0.9, 0.1]]]))
        torch.testing.assert_close(state.all_token_score, torch.tensor([[0.1, 0.2, 1.2, 0.5]]))
        torch.testing.assert_close(state.token_score, torch.tensor([[1.2, 0.5]]))

    def test_samples_of_a_batch_prune_as_they_do_alone(self):
        lengths = [9, 4, 1, 0]
        valid = torch.arange(9) < torch.tensor(lengths)[:, None]
        together = spatten.TokenHeadState(9, 2, 4, valid=valid)
        alone = [spatten.TokenHeadState(n, 2) for n in lengths]
        for i in range(3):
            n = together.tokens.shape[1]
            full = maps(4, 2, n, n, seed=i)
            together.update_from_probs(full)
            for b, state in enumerate(alone):
                m = state.live[0]
                state.update_from_probs(full[b : b + 1, :, :m, :m])
            together.prune(0.4, 0)
            for b, state in enumerate(alone):
                state.prune(0.4, 0)
                m = state.live[0]
                assert together.live[b] == m
                assert torch.equal(together.tokens[b, :m], state.tokens[0])
                assert together.valid is None or together.valid[b].tolist() == [
                    j < m for j in range(len(together.valid[b]))
                ]

    def test_ties_go_to_the_lowest_index_and_nan_goes_first(self):
        state = spatten.TokenHeadState(4, 1)
        state.update_from_probs(torch.tensor([[[0.5, float("nan"), 0.5, 0.5]]]))
        assert state.prune(0.5, 0)[0].tolist() == [[0, 2]]

    def test_class_tokens_are_not_protected_unless_asked(self):
        p = torch.tensor([[[0.0, 0.5, 0.3, 0.2]]])
        for protect, kept in ((None, [1, 2]), (torch.tensor([True, False, False, False]), [0, 1])):
            state = spatten.TokenHeadState(4, 1, protect=protect)
            state.update_from_probs(p)
            assert state.prune(0.5, 0)[0].tolist() == [kept]

    def test_more_protected_tokens_than_places_all_stay(self):
        state = spatten.TokenHeadState(4, 1, protect=torch.tensor([[True, True, False, True]]))
        assert state.prune(0.9, 0)[0].tolist() == [[0, 1, 3]]

    def test_a_protected_token_survives_an_infinite_score(self):
        state = spatten.TokenHeadState(3, 1, protect=torch.tensor([False, False, True]))
        state.update_from_probs(torch.tensor([[[torch.inf, 0.5, 0.1]]]))
        assert state.prune(0.5, 0)[0].tolist() == [[2]]

    def test_causal_scores_favour_early_tokens_unless_normalised(self):
        n = 12
        p = torch.ones(1, n, n).tril() / torch.arange(1, n + 1)[:, None]  # every query is indifferent
        plain = spatten.TokenHeadState(n, 1)
        plain.update_from_probs(p)
        assert plain.prune(0.5, 0)[0].tolist() == [list(range(6))]
        fair = spatten.TokenHeadState(n, 1, normalise=True)
        received = torch.eye(n)[None] * 0.5 + p * 0.5  # ... and a little in love with itself: late ones more so
        fair.update_from_probs(received, seen=torch.arange(n, 0, -1)[None])
        assert fair.prune(0.5, 0)[0].tolist() != [list(range(6))]

    def test_normalised_streaming_knows_causal(self):
        q, k = randn(2, 1, 2, 6, 4)
        _, lse = ops.attention(q, k, k, ops.Causal(), return_lse=True)
        state = spatten.TokenHeadState(6, 2, normalise=True)
        state.update_from_attention(q, k, lse, ops.Causal())
        assert state.seen.tolist() == [[12, 10, 8, 6, 4, 2]]
        with pytest.raises(ValueError, match="seen expected the queries"):
            state.update_from_attention(q, k, lse, ops.Segments(torch.tensor([0, 6])))

    def test_no_tokens_no_heads_no_samples(self):
        for shape in ((0, 2, 1), (3, 0, 1), (0, 0, 0)):
            state = spatten.TokenHeadState(*shape)
            state.update_from_probs(torch.zeros(shape[2], shape[1], shape[0], shape[0]))
            keep_tokens, keep_heads = state.prune(0.5, 0.5)
            assert keep_tokens.shape == (shape[2], shape[0] // 2)
            assert keep_heads.shape == (shape[2], shape[1] // 2)

    def test_bad_input(self):
        state = spatten.TokenHeadState(4, 2)
        for wrong in (torch.zeros(2, 4, 5), torch.zeros(3, 4, 4), torch.zeros(2, 2, 4, 4), torch.zeros(4, 4)):
            with pytest.raises(ValueError, match="TokenHeadState: P expected shape"):
                state.update_from_probs(wrong)
        with pytest.raises(ValueError, match="TokenHeadState: E expected shape"):
            state.update_heads(torch.zeros(3, 4, 8))
        q, lse = torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4)
        with pytest.raises(ValueError, match="TokenHeadState: q expected shape"):
            state.update_from_attention(torch.zeros(1, 3, 4, 8), q, lse)
        with pytest.raises(ValueError, match="TokenHeadState: k expected 4 tokens"):
            state.update_from_attention(q, torch.zeros(1, 2, 5, 8), lse)
        elsewhere = torch.zeros(2, 4, 4, device="meta")
        for update in (state.update_from_probs, state.update_heads):
            with pytest.raises(ValueError, match="expected on cpu; got meta"):
                update(elsewhere)
        with pytest.raises(ValueError, match="query_valid expected bool"):
            state.update_heads(torch.zeros(2, 4, 8), query_valid=torch.ones(1, 3, dtype=torch.bool))
        with pytest.raises(ValueError, match="L, H and B expected at least 0"):
            spatten.TokenHeadState(-1, 2)
        with pytest.raises(ValueError, match="valid expected bool of shape"):
            spatten.TokenHeadState(4, 2, valid=torch.ones(1, 4))
        with pytest.raises(ValueError, match="protect expected bool of shape"):
            spatten.TokenHeadState(4, 2, protect=torch.ones(5, dtype=torch.bool))
        for ratio in (-0.1, 1.1, float("nan")):
            with pytest.raises(ValueError, match=r"p_t expected in \[0, 1\]"):
                state.prune(ratio, 0)
            with pytest.raises(ValueError, match=r"p_h expected in \[0, 1\]"):
                state.prune(0, ratio)
        fair = spatten.TokenHeadState(4, 2, normalise=True)
        with pytest.raises(ValueError, match="seen expected shape"):
            fair.update_from_probs(torch.zeros(2, 4, 4), seen=torch.ones(4))


class TestSchedule:
    @pytest.mark.parametrize("layers", [1, 2, 3, 12, 24])
    @pytest.mark.parametrize("avg", [0.0, 0.2, 0.5, 0.8, 1.0])
    def test_a_line_of_the_asked_mean_behind_a_dense_start(self, layers, avg):
        for start_frac in (0.0, 0.15, 0.3):
            ratios = spatten.schedule(layers, avg, start_frac)
            dense = math.ceil(round(start_frac * layers, 9))
            assert ratios[:dense] == [0.0] * dense
            rest = ratios[dense:]
            assert all(0 <= r <= 1 for r in rest)
            if rest:
                assert sum(rest) / len(rest) == pytest.approx(avg)
                assert rest[0] + rest[-1] == pytest.approx(2 * avg)
                np.testing.assert_allclose(np.diff(rest, 2), 0, atol=1e-12)

    def test_kinds_and_edges(self):
        assert spatten.schedule(4, 0.3, 0.25, "constant") == [0.0, 0.3, 0.3, 0.3]
        assert spatten.schedule(0, 0.3) == []
        assert spatten.schedule(3, 0.3, 1.0) == [0.0] * 3
        assert spatten.schedule(20, 0.3)[:4] == [0.0, 0.0, 0.0, 0.15]  # 15 % of 20 is 3, whatever float64 says

    def test_bad_input(self):
        for arguments in ((4, -0.1), (4, 1.1), (4, 0.5, -1), (4, 0.5, 2.0), (-1, 0.5)):
            with pytest.raises(ValueError, match="schedule: "):
                spatten.schedule(*arguments)
        with pytest.raises(ValueError, match="kind expected 'linear' or 'constant'"):
            spatten.schedule(4, 0.5, kind="cubic")
        with pytest.raises(ValueError, match="start expected None"):
            spatten.schedule(4, 0.5, kind="constant", start=0.1)
        with pytest.raises(ValueError, match=r"2 \* avg - start expected in \[0, 1\]"):
            spatten.schedule(4, 0.8, start=0.1)
        with pytest.raises(ValueError, match="kept_count: ratio expected"):
            spatten.kept_count(4, float("nan"))


class TestLtp:
    def test_the_map_is_left_alone(self):
        p = maps(1, 2, 6, 6)
        copy, alive = p.clone(), torch.tensor([[True] * 4 + [False] * 2])
        spatten.ltp_prune(p, alive, torch.tensor([4]), 0.5)
        assert torch.equal(p, copy)

    def test_one_token_stays_and_dead_ones_stay_dead(self):
        alive = torch.tensor([[False, True, True, False]])
        after, _ = spatten.ltp_prune(maps(1, 1, 4, 4), alive, torch.tensor([4]), 0.01)
        assert after.sum() == 1
        assert not (after & ~alive).any()
        assert torch.equal(spatten.ltp_prune(maps(1, 1, 4, 4), alive, torch.tensor([4]), 0.9)[0], alive)

    def test_few_layers_keep_all(self):
        assert spatten.ltp_keep_rates(3, 0.1) == [1.0] * 3
        assert spatten.ltp_keep_rates(5, 0.0)[-1] == 0.01

    def test_bad_input(self):
        p, alive, lengths = maps(1, 1, 4, 4), torch.ones(1, 4, dtype=torch.bool), torch.tensor([4])
        with pytest.raises(ValueError, match="alive expected bool"):
            spatten.ltp_prune(p, alive.float(), lengths, 0.5)
        with pytest.raises(ValueError, match="lengths expected shape"):
            spatten.ltp_prune(p, alive, torch.tensor([4, 4]), 0.5)
        with pytest.raises(ValueError, match="keep_rate expected"):
            spatten.ltp_prune(p, alive, lengths, 1.5)
        with pytest.raises(ValueError, match="keep expected"):
            spatten.ltp_keep_rates(4, -1)
        with pytest.raises(ValueError, match="length expected at least 0"):
            spatten.trace_counts(-1)


class TestKVCache:
    def test_start_important_and_recent_stay(self):
        cache = spatten.SpAttenKVCache(start_size=2, recent_size=4, important_size=3)
        scores = randn(1, 2, 3, 20)
        kept = cache.select(scores, coming=1)
        assert kept.shape == (2, 2 + 3 + 3)
        for head, row in enumerate(kept.tolist()):
            assert row[:2] == [0, 1]
            assert row[-3:] == [17, 18, 19]
            middle = scores[0, head].sum(0)[2:17]
            assert row[2:-3] == sorted((middle.topk(3).indices + 2).tolist())

    def test_heads_choose_for_themselves(self):
        cache = spatten.SpAttenKVCache(0, 1, 1)
        scores = torch.tensor([[[5.0, 0, 0, 0], [0, 0, 5.0, 0]]])
        assert cache.select(scores, 1).tolist() == [[0], [2]]

    def test_scores_without_the_map(self):
        q, k = randn(1, 2, 5, 8), randn(1, 2, 9, 8, seed=1)
        expected = (q @ k.mT * 8**-0.5).sum(2)
        torch.testing.assert_close(spatten.SpAttenKVCache.scores(q, k), expected, atol=1e-5, rtol=1e-5)
        with pytest.raises(ValueError, match="grouped queries"):
            spatten.SpAttenKVCache.scores(q, k[:, :1])

    def test_a_transformers_cache_is_pruned_in_place(self):
        transformers = pytest.importorskip("transformers")
        cache = transformers.DynamicCache()
        for layer in range(2):
            cache.update(randn(1, 2, 9, 4, seed=layer), randn(1, 2, 9, 4, seed=layer + 9), layer)
        scores = [randn(1, 2, 3, 9, seed=layer) for layer in range(2)]
        pruner = spatten.SpAttenKVCache(1, 2, 3)
        expected = [pruner.prune(x.keys, x.values, s, 1) for x, s in zip(cache.layers, scores, strict=True)]
        pruner.prune_cache(cache, scores, 1)
        for layer, (k, v) in zip(cache.layers, expected, strict=True):
            assert torch.equal(layer.keys, k)
            assert torch.equal(layer.values, v)
        assert cache.get_seq_length() == 5
        with pytest.raises(ValueError, match="one tensor for each of 2 layers"):
            pruner.prune_cache(cache, scores[:1], 1)

    def test_a_refused_layer_leaves_the_others_alone(self):
        transformers = pytest.importorskip("transformers")
        cache = transformers.DynamicCache()
        for layer in range(2):
            cache.update(randn(1, 2, 9, 4), randn(1, 2, 9, 4), layer)
        with pytest.raises(ValueError, match="scores expected 9 keys"):
            spatten.SpAttenKVCache(1, 2, 3).prune_cache(cache, [randn(1, 2, 3, 9), randn(1, 2, 3, 8)], 1)
        assert [layer.keys.shape[2] for layer in cache.layers] == [9, 9]

    def test_the_official_traps_are_errors(self):
        with pytest.raises(ValueError, match="important_size expected at least 1; got 0"):
            spatten.SpAttenKVCache(important_size=0)
        with pytest.raises(ValueError, match="start_size expected at least 0"):
            spatten.SpAttenKVCache(start_size=-1)
        cache = spatten.SpAttenKVCache(start_size=2, recent_size=4, important_size=9)
        k = randn(1, 2, 10, 4)
        with pytest.raises(ValueError, match="9 important places of 8 candidates"):
            cache.prune(k, k, randn(1, 2, 1, 10), coming=6)  # more come than the recent places hold
        with pytest.raises(ValueError, match=r"expected one shape \(1, H, T, D\)"):
            cache.prune(randn(2, 2, 10, 4), randn(2, 2, 10, 4), randn(2, 2, 1, 10), 1)
        with pytest.raises(ValueError, match="grouped queries are not"):
            cache.prune(k, k, randn(1, 4, 1, 10), 1)
        with pytest.raises(ValueError, match="scores expected 10 keys; got 9"):
            cache.prune(k, k, randn(1, 2, 1, 9), 1)
        with pytest.raises(ValueError, match="coming expected at least 0"):
            cache.select(randn(1, 2, 10), -1)
        with pytest.raises(ValueError, match="scores expected shape"):
            cache.select(randn(2, 2, 1, 10), 1)
