# SPDX-License-Identifier: Apache-2.0
"""SpAtten's cascades inside tiny random BERT and GPT-2 models of transformers."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import pickle

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
transformers = pytest.importorskip("transformers", reason="transformers is an extra")

from torch import Tensor, nn

from tokernel.integrations import patch_of, unpatch
from tokernel.reduce import spatten

LAYERS, HEADS, WIDTH, VOCABULARY = 4, 4, 32, 50
# Wide weights, so that attention is far from uniform.
BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": 64,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": None,
}
TOKENS, SOME_HEADS = [0.0, 0.3, 0.4, 0.0], [0.0, 0.25, 0.34, 0.0]
IDS = torch.randint(1, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(3))
RIGHT = (torch.arange(12) < torch.tensor([12, 8])[:, None]).long()
LEFT = RIGHT.flip(1)


def bert(kind: str = "BertModel", attention: str = "sdpa", **changes) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(**(BERT | changes), attn_implementation=attention)
    return getattr(transformers, kind)(config).eval()


def gpt2(kind: str = "GPT2LMHeadModel", attention: str = "sdpa", **changes) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(**(GPT2 | changes), attn_implementation=attention)
    return getattr(transformers, kind)(config).eval()


def cache_of(out):
    return out.cache if "cache" in out else out.past_key_values


def with_cache(model: nn.Module, cache) -> dict:
    name = "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"
    return {name: cache, "use_cache": True}


def generate(model: nn.Module, ids: Tensor, mask: Tensor | None = None, new: int = 6, **options):
    mask = torch.ones_like(ids) if mask is None else mask
    return model.generate(ids, attention_mask=mask, max_new_tokens=new, pad_token_id=0, do_sample=False, **options)


def sizes(handle) -> list[tuple[int, int]]:
    return [(layer.tokens.shape[1], layer.heads.shape[1]) for layer in handle.layers]


def sets(handle, b: int) -> list[list[int]]:
    """The tokens of sample b in each layer."""
    return [x.tokens[b].tolist() if x.valid is None else x.tokens[b][x.valid[b]].tolist() for x in handle.layers]


def best(score: Tensor, candidates: list[int], count: int, stay: list[int]) -> list[int]:
    """The oracle's choice: sorted by score, then by index."""
    order = sorted(candidates, key=lambda j: (j not in stay, -float(score[j]), j))
    return sorted(order[: min(count, len(candidates))])


def left_over(count: int, ratio: float) -> int:
    return max(1, math.floor(count * (1 - ratio) + 1e-9))


@torch.no_grad()
def bert_oracle(model: nn.Module, ids: Tensor, tokens, heads, values=0.0) -> tuple[Tensor, list[list[int]]]:
    """One sample at full length: who is pruned is hidden by masks, and keeps the state it had."""
    x = model.embeddings(ids)[0]
    n = len(x)
    score, magnitude = torch.zeros(n), torch.zeros(HEADS)
    alive, left, kept = list(range(n)), list(range(HEADS)), []
    for i, layer in enumerate(model.encoder.layer):
        kept.append(alive)
        inner = layer.attention.self
        q, k, v = (m(x).view(n, HEADS, -1).transpose(0, 1) for m in (inner.query, inner.key, inner.value))
        hidden = torch.full((n,), -torch.inf)
        hidden[alive] = 0
        p = torch.softmax(q @ k.mT * k.shape[-1] ** -0.5 + hidden, -1)
        score += p[left][:, alive].sum((0, 1))
        keep = left_over(len(alive), values)
        p = p * torch.zeros_like(p).scatter(-1, p.topk(keep).indices, 1)
        e = p @ v
        magnitude += e[:, alive].abs().sum((1, 2))
        gate = torch.zeros(HEADS, 1, 1)
        gate[left] = 1
        out = layer.attention.output((e * gate).transpose(0, 1).flatten(1), x)
        new = layer.feed_forward_chunk(out)
        x = torch.where(torch.tensor([j in alive for j in range(n)])[:, None], new, x)
        if i < LAYERS - 1:
            alive = best(score, alive, left_over(len(alive), tokens[i]), [])
            left = best(magnitude, left, left_over(len(left), heads[i]), [])
    return x, kept


class Gpt2Oracle:
    """One sample, token by token and set by set: nothing is compacted, keys and values of all heads stay in a dict."""

    def __init__(self, model: nn.Module, tokens, heads) -> None:
        self.model, self.tokens, self.heads = model.transformer, tokens, heads
        self.head = model.lm_head
        self.score, self.magnitude = torch.zeros(64), torch.zeros(HEADS)
        self.known = [[] for _ in range(LAYERS)]
        self.left = [None] * LAYERS
        self.left[0] = list(range(HEADS))
        self.store = [{} for _ in range(LAYERS)]
        self.length = 0

    @torch.no_grad()
    def step(self, ids: list[int]) -> Tensor:
        new = list(range(self.length, self.length + len(ids)))
        x = {j: self.model.wte.weight[i] + self.model.wpe.weight[j] for i, j in zip(ids, new, strict=True)}
        alive = self.known[0] + new
        for i, block in enumerate(self.model.h):
            self.known[i] = alive
            rows = [j for j in alive if j in new]
            for j in rows:
                self.store[i][j] = block.attn.c_attn(block.ln_1(x[j])).view(3, HEADS, -1)
            updates = {}
            for j in rows:
                seen = [a for a in alive if a <= j]
                q, k, v = self.store[i][j][0], *(torch.stack([self.store[i][a][m] for a in seen], 1) for m in (1, 2))
                p = torch.softmax((k @ q[:, :, None])[..., 0] * k.shape[-1] ** -0.5, -1)
                e = (p[:, None] @ v)[:, 0]
                gate = torch.zeros(HEADS, 1)
                gate[self.left[i]] = 1
                self.score[seen] += (p * gate).sum(0)
                self.magnitude += (e * gate).abs().sum(1)
                y = x[j] + block.attn.c_proj((e * gate).flatten())
                updates[j] = y + block.mlp(block.ln_2(y))
            x |= updates
            if i < LAYERS - 1:
                candidates = [j for j in alive if j in new or j in self.known[i + 1]]
                alive = best(self.score, candidates, left_over(len(alive), self.tokens[i]), [new[-1]])
                if self.left[i + 1] is None:
                    count = left_over(len(self.left[i]), self.heads[i])
                    self.left[i + 1] = best(self.magnitude, self.left[i], count, [])
        self.length += len(ids)
        return torch.stack([self.head(self.model.ln_f(x[j])) for j in new])


class TestWhatMustBeTrue:
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_ratio_0_is_the_dense_encoder_bit_for_bit(self, attention):
        model = bert(attention=attention)
        with torch.no_grad():
            dense = model(IDS, attention_mask=RIGHT)
            handle = spatten.patch_bert(model, 0.0, 0.0, [0.0] * LAYERS)
            out = model(IDS, attention_mask=RIGHT)
        assert torch.equal(out.last_hidden_state, dense.last_hidden_state)
        assert torch.equal(out.pooler_output, dense.pooler_output)
        assert handle.layers == []

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_ratio_0_generates_the_same_bits(self, attention):
        model = gpt2(attention=attention)
        options = {"output_logits": True, "return_dict_in_generate": True}
        dense = generate(model, IDS, LEFT, **options)
        spatten.patch_gpt2(model, 0.0)
        out = generate(model, IDS, LEFT, **options)
        assert torch.equal(out.sequences, dense.sequences)
        assert all(torch.equal(a, b) for a, b in zip(out.logits, dense.logits, strict=True))

    def test_layers_that_prune_nothing_agree_with_the_dense_model(self):
        # A ratio too small to cost a token goes through our attention.
        for model, patch in ((bert(), spatten.patch_bert), (gpt2("GPT2Model"), spatten.patch_gpt2)):
            with torch.no_grad():
                dense = model(IDS, attention_mask=RIGHT).last_hidden_state
                handle = patch(model, [0.0] * (LAYERS - 1) + [0.5], 0.0)
                out = model(IDS, attention_mask=RIGHT).last_hidden_state
            assert [size[0] for size in sizes(handle)] == [12] * LAYERS
            torch.testing.assert_close(out[RIGHT.bool()], dense[RIGHT.bool()], atol=1e-4, rtol=1e-4)

    def test_kept_sets_are_nested_and_counts_follow_floor(self):
        for model, patch in ((bert(), spatten.patch_bert), (gpt2("GPT2Model"), spatten.patch_gpt2)):
            handle = patch(model, TOKENS, SOME_HEADS)
            with torch.no_grad():
                model(IDS, attention_mask=RIGHT)
            for b, counts in enumerate(([12, 12, 8, 4], [8, 8, 5, 3])):
                kept = sets(handle, b)
                assert [len(s) for s in kept] == counts
                assert all(set(after) <= set(before) for before, after in itertools.pairwise(kept))
            assert [layer.heads.shape[1] for layer in handle.layers] == [4, 4, 3, 1]
            heads = [layer.heads[0].tolist() for layer in handle.layers]
            assert all(set(after) <= set(before) for before, after in itertools.pairwise(heads))

    def test_a_pruned_token_never_comes_back_and_its_keys_are_dropped(self):
        model = gpt2()
        handle = spatten.patch_gpt2(model, TOKENS, SOME_HEADS)
        cache, before = transformers.DynamicCache(), [set()] * LAYERS
        with torch.no_grad():
            for step, ids in enumerate([IDS[:1], *IDS[1:, :6].split(1, 1)]):
                past = cache.get_seq_length()
                model(ids, **with_cache(model, cache))
                total = past + ids.shape[1]
                kept = [set(s) for s in sets(handle, 0)]
                fresh = set(range(past, total))
                for layer in range(LAYERS):
                    assert kept[layer] <= before[layer] | fresh
                    assert layer == 0 or kept[layer] <= kept[layer - 1]
                    assert cache.layers[layer].keys.shape == (1, [4, 4, 3, 1][layer], len(kept[layer]), 8)
                    if layer:
                        assert len(kept[layer]) == left_over(len(kept[layer - 1]), TOKENS[layer - 1])
                    assert total - 1 in kept[layer], f"step {step}: the last token is asked for"
                assert cache.get_seq_length() == total
                before = kept


class TestBert:
    @pytest.mark.parametrize("values", [0.0, 0.5])
    def test_it_is_the_masked_model_at_full_length(self, values):
        model = bert()
        expected, kept = bert_oracle(model, IDS[:1], TOKENS, SOME_HEADS, values)
        handle = spatten.patch_bert(model, TOKENS, SOME_HEADS, values)
        with torch.no_grad():
            out = model(IDS[:1]).last_hidden_state[0]
        assert sets(handle, 0) == kept
        torch.testing.assert_close(out, expected, atol=2e-4, rtol=1e-4)

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("values", [0.0, 0.4])
    @pytest.mark.parametrize("mask", [RIGHT, LEFT], ids=["right", "left"])
    def test_padding_changes_nothing(self, attention, values, mask):
        model = bert(attention=attention)
        handle = spatten.patch_bert(model, TOKENS, SOME_HEADS, values)
        places = (mask.cumsum(1) - 1).clamp_min(0)
        with torch.no_grad():
            together = model(IDS, attention_mask=mask, position_ids=places).last_hidden_state
            kept = [sets(handle, b) for b in range(2)]
            for b in range(2):
                real = mask[b].bool()
                alone = model(IDS[b : b + 1, real]).last_hidden_state[0]
                torch.testing.assert_close(together[b, real], alone, atol=1e-5, rtol=1e-4)
                first = int(real.nonzero()[0])
                assert kept[b] == [[first + j for j in s] for s in sets(handle, 0)]

    def test_layers_see_shorter_sequences_and_fewer_channels(self):
        model = bert()
        handle = spatten.patch_bert(model, TOKENS, SOME_HEADS)
        lengths = []
        for layer in model.encoder.layer:
            layer.intermediate.register_forward_pre_hook(lambda m, args: lengths.append(args[0].shape[1]))
        with torch.no_grad():
            model(IDS[:1])
        assert lengths == [12, 12, 8, 4]
        assert sizes(handle) == [(12, 4), (12, 4), (8, 3), (4, 1)]

    def test_a_head_on_top_sees_the_full_length(self):
        labels = IDS % 2
        for kind, shape in (
            ("BertForTokenClassification", (2, 12, 2)),
            ("BertForMaskedLM", (2, 12, VOCABULARY)),
            ("BertForSequenceClassification", (2, 2)),
        ):
            model = bert(kind)
            spatten.patch_bert(model, 0.4, 0.3)
            out = model(IDS, attention_mask=RIGHT, labels=labels[:, 0] if len(shape) == 2 else labels)
            assert out.logits.shape == shape
            assert out.loss.isfinite()

    @pytest.mark.parametrize("dropout", [0.0, 0.1])
    def test_it_trains(self, dropout):
        model = bert("BertForSequenceClassification", attention_probs_dropout_prob=dropout).train()
        spatten.patch_bert(model, TOKENS, SOME_HEADS)
        model(IDS, attention_mask=RIGHT, labels=IDS[:, 0] % 2).loss.backward()
        last = model.bert.encoder.layer[-1].attention.self.query.weight.grad
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.bert.encoder.parameters())
        # One head is left to a sample there: rows of heads that no sample kept get nothing.
        heads = {int(h) for h in patch_of(model).layers[-1].heads.flatten()}
        assert {h for h in range(HEADS) if last[8 * h : 8 * h + 8].abs().sum() > 0} <= heads

    def test_gradients_are_those_of_the_dense_model_while_nothing_goes(self):
        grads = []
        for ratios in ([0.0] * LAYERS, [0.0] * (LAYERS - 1) + [0.5]):
            model = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
            spatten.patch_bert(model, ratios)
            model(IDS).last_hidden_state.square().sum().backward()
            grads.append(model.encoder.layer[0].attention.self.key.weight.grad)
        torch.testing.assert_close(*grads, atol=1e-3, rtol=1e-3)

    def test_protected_tokens_stay(self):
        model = bert()
        protect = torch.zeros(12, dtype=torch.bool)
        protect[[0, 7]] = True
        handle = spatten.patch_bert(model, 0.6, protect=protect)
        with torch.no_grad():
            model(IDS, attention_mask=RIGHT)
            assert all({0, 7} <= set(s) for b in range(2) for s in sets(handle, b))
            with pytest.raises(ValueError, match="protect expected at most 5 tokens; got 12"):
                model(IDS[:, :5])

    def test_a_number_is_the_mean_of_the_papers_line(self):
        handle = spatten.patch_bert(bert(), 0.3, 0.2, 0.1)
        assert handle.ratios.tokens == spatten.schedule(LAYERS, 0.3, 0.15)
        assert handle.ratios.heads == spatten.schedule(LAYERS, 0.2, 0.3)
        assert handle.ratios.values == [0.1] * LAYERS

    def test_one_token_and_one_head_stay(self):
        model = bert()
        handle = spatten.patch_bert(model, [1.0] * LAYERS, [1.0] * LAYERS)
        with torch.no_grad():
            assert model(IDS).last_hidden_state.isfinite().all()
            assert sizes(handle) == [(12, 4)] + [(1, 1)] * 3
            assert model(IDS[:, :1]).last_hidden_state.shape == (2, 1, WIDTH)

    def test_a_sample_of_padding_alone_is_finite_and_spoils_no_other(self):
        model = bert()
        spatten.patch_bert(model, TOKENS, SOME_HEADS)
        mask = RIGHT.clone()
        mask[1] = 0
        with torch.no_grad():
            out = model(IDS, attention_mask=mask).last_hidden_state
            assert out.isfinite().all()
            torch.testing.assert_close(out[0], model(IDS[:1]).last_hidden_state[0], atol=1e-5, rtol=1e-4)

    def test_relatives_with_the_same_layers(self):
        torch.manual_seed(0)
        model = transformers.RobertaModel(transformers.RobertaConfig(**(BERT | {"pad_token_id": 0}))).eval()
        handle = spatten.patch_bert(model, TOKENS, SOME_HEADS)
        with torch.no_grad():
            assert model(IDS, attention_mask=RIGHT).last_hidden_state.shape == (2, 12, WIDTH)
        assert [size[0] for size in sizes(handle)] == [12, 12, 8, 4]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype):
        model = bert(initializer_range=0.05).to(dtype)
        handle = spatten.patch_bert(model, TOKENS, SOME_HEADS)
        with torch.no_grad():
            out = model(IDS, attention_mask=RIGHT).last_hidden_state
        assert out.dtype == dtype
        assert out.isfinite().all()
        assert sizes(handle)[-1] == (4, 1)


class TestGpt2:
    def test_every_step_is_the_oracles(self):
        model = gpt2()
        oracle = Gpt2Oracle(model, TOKENS, SOME_HEADS)
        handle = spatten.patch_gpt2(model, TOKENS, SOME_HEADS)
        cache = transformers.DynamicCache()
        chunks = [
            IDS[:1],
            IDS[1:, :1],
            IDS[1:, 1:2],
            IDS[1:, 2:6],
            *IDS[1:, 6:].split(1, 1),
        ]  # a prompt, tokens, a chunk
        with torch.no_grad():
            for ids in chunks:
                out = model(ids, **with_cache(model, cache)).logits[0]
                expected = oracle.step(ids[0].tolist())
                assert sets(handle, 0) == oracle.known
                assert [layer.heads[0].tolist() for layer in handle.layers] == oracle.left
                torch.testing.assert_close(out, expected, atol=5e-4, rtol=1e-3)

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("values", [0.0, 0.4])
    def test_a_padded_batch_generates_what_its_samples_do(self, attention, values):
        model = gpt2(attention=attention)
        spatten.patch_gpt2(model, TOKENS, SOME_HEADS, values)
        together = generate(model, IDS, LEFT, new=9)
        for b in range(2):
            first = int(LEFT[b].argmax())
            alone = generate(model, IDS[b : b + 1, first:], new=9)
            assert torch.equal(together[b, first:], alone[0])

    def test_a_padded_chunk_behind_a_padded_prompt(self):
        model = gpt2()
        spatten.patch_gpt2(model, TOKENS, SOME_HEADS)
        chunk, mask = IDS[:, :3], torch.cat([LEFT, torch.ones(2, 3, dtype=torch.long)], 1)
        places = (mask.cumsum(1) - 1).clamp_min(0)
        with torch.no_grad():
            cache = transformers.DynamicCache()
            model(IDS, attention_mask=LEFT, position_ids=places[:, :12], **with_cache(model, cache))
            out = model(chunk, attention_mask=mask, position_ids=places[:, 12:], **with_cache(model, cache)).logits
            for b in range(2):
                cache = transformers.DynamicCache()
                model(IDS[b : b + 1, LEFT[b].bool()], **with_cache(model, cache))
                alone = model(chunk[b : b + 1], **with_cache(model, cache)).logits
                torch.testing.assert_close(out[b], alone[0], atol=5e-4, rtol=1e-3)

    def test_positions_count_on_as_without_pruning(self):
        model = gpt2()
        seen = []
        model.transformer.wpe.register_forward_pre_hook(lambda m, args: seen.append(args[0].flatten().tolist()))
        spatten.patch_gpt2(model, TOKENS, SOME_HEADS)
        generate(model, IDS[:1], new=4)
        assert seen == [list(range(12)), [12], [13], [14]]

    def test_the_prompt_can_be_left_alone(self):
        model = gpt2()
        cache = transformers.DynamicCache()
        with torch.no_grad():
            dense = model(IDS).logits
            handle = spatten.patch_gpt2(model, TOKENS, prompt=False)
            out = model(IDS, **with_cache(model, cache)).logits
            torch.testing.assert_close(out, dense, atol=1e-3, rtol=1e-3)
            assert [n for n, _ in sizes(handle)] == [12] * LAYERS
            model(IDS[:, :1], **with_cache(model, cache))
        assert [n for n, _ in sizes(handle)] == [13, 13, 9, 5]
        assert [layer.keys.shape[2] for layer in cache.layers] == [13, 13, 9, 5]

    def test_scores_add_up_over_layers_and_steps(self):
        model = gpt2()
        spatten.patch_gpt2(model, [0.0, 0.0, 0.0, 0.5])
        cache = transformers.DynamicCache()
        with torch.no_grad():
            model(IDS, **with_cache(model, cache))
            torch.testing.assert_close(cache.layers[0].rows["score"].sum(1), torch.full((2,), 12.0 * LAYERS * HEADS))
            model(IDS[:, :1], **with_cache(model, cache))
        torch.testing.assert_close(cache.layers[0].rows["score"].sum(1), torch.full((2,), 13.0 * LAYERS * HEADS))

    def test_normalised_scores(self):
        model = gpt2()
        plain = spatten.patch_gpt2(model, TOKENS)
        with torch.no_grad():
            model(IDS)
            by_sum = sets(plain, 0)
            fair = spatten.patch_gpt2(model, TOKENS, normalise=True)
            model(IDS)
        assert sets(fair, 0) != by_sum
        assert sum(sets(fair, 0)[-1]) > sum(by_sum[-1])  # later tokens
        assert generate(model, IDS, LEFT).shape == (2, 18)

    def test_samples_that_change_places_take_their_tokens_along(self):
        model = gpt2()
        spatten.patch_gpt2(model, TOKENS, SOME_HEADS)
        logits = []
        with torch.no_grad():
            for change in (None, "reorder_cache", "batch_select_indices"):
                cache = transformers.DynamicCache()
                model(IDS, attention_mask=LEFT, **with_cache(model, cache))
                order = torch.tensor([0, 1] if change is None else [1, 0])
                if change is not None:
                    getattr(cache, change)(order)
                mask = torch.cat([LEFT[order], torch.ones(2, 1, dtype=torch.long)], 1)
                out = model(IDS[order, :1], attention_mask=mask, **with_cache(model, cache)).logits
                logits.append(out[order])
            cache.batch_repeat_interleave(2)
        assert torch.equal(logits[0], logits[1])
        assert torch.equal(logits[0], logits[2])
        assert [len(layer.rows["tokens"]) for layer in cache.layers] == [4] * LAYERS

    def test_beams(self):
        model = gpt2()
        spatten.patch_gpt2(model, TOKENS, SOME_HEADS)
        together = generate(model, IDS, LEFT, num_beams=3)
        for b in range(2):
            first = int(LEFT[b].argmax())
            assert torch.equal(together[b, first:], generate(model, IDS[b : b + 1, first:], num_beams=3)[0])

    def test_a_copied_cache_is_a_memory_of_its_own(self):
        model = gpt2()
        spatten.patch_gpt2(model, TOKENS, SOME_HEADS)
        cache = transformers.DynamicCache()
        with torch.no_grad():
            model(IDS, **with_cache(model, cache))
            twin = copy.deepcopy(cache)
            first = model(IDS[:, :1], **with_cache(model, cache)).logits
            assert torch.equal(model(IDS[:, :1], **with_cache(model, twin)).logits, first)
            cache.reset()
            fresh = model(IDS, **with_cache(model, cache)).logits
            assert torch.equal(fresh, model(IDS).logits)

    def test_a_language_model_trains_at_full_length(self):
        model = gpt2().train()
        spatten.patch_gpt2(model, TOKENS, SOME_HEADS)
        out = model(IDS, attention_mask=RIGHT, labels=IDS, use_cache=False)
        out.loss.backward()
        assert out.logits.shape == (2, 12, VOCABULARY)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.transformer.h.parameters())

    def test_a_classifier_reads_the_last_token(self):
        model = gpt2("GPT2ForSequenceClassification", pad_token_id=0)
        handle = spatten.patch_gpt2(model, [0.9] * LAYERS)
        ids = IDS * RIGHT
        with torch.no_grad():
            model(ids, attention_mask=RIGHT)
        assert [s[-1] for s in sets(handle, 1)] == [7] * LAYERS

    def test_scales_of_the_config(self):
        changes = {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False}
        model = gpt2("GPT2Model", **changes)
        with torch.no_grad():
            dense = model(IDS).last_hidden_state
            spatten.patch_gpt2(model, [0.0] * (LAYERS - 1) + [0.5])
            torch.testing.assert_close(model(IDS).last_hidden_state, dense, atol=1e-4, rtol=1e-4)


def handles():
    yield bert("BertForSequenceClassification"), spatten.patch_bert
    yield gpt2(), spatten.patch_gpt2


class TestPatching:
    def test_unpatch_is_exact(self):
        for model, patch in handles():
            with torch.no_grad():
                before = {name: dict(vars(module)) for name, module in model.named_modules()}
                dense = model(IDS).logits
                handle = patch(model, TOKENS, SOME_HEADS)
                assert patch_of(model) is handle
                assert not torch.equal(model(IDS).logits, dense)
                unpatch(model)
                assert torch.equal(model(IDS).logits, dense)
            assert {name: set(vars(module)) for name, module in model.named_modules()} == {
                name: set(kept) for name, kept in before.items()
            }

    def test_a_copy_has_a_handle_of_its_own(self):
        for model, patch in handles():
            patch(model, TOKENS, SOME_HEADS)
            with torch.no_grad():
                out = model(IDS).logits
                for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
                    assert torch.equal(twin(IDS).logits, out)
                    patch_of(twin).configure(0.0)
                    assert not torch.equal(twin(IDS).logits, out)
                assert torch.equal(model(IDS).logits, out)

    def test_another_patch_replaces_the_first(self):
        for model, patch in handles():
            with torch.no_grad():
                patch(model, 0.5)
                handle = patch(model, TOKENS)
                model(IDS)
                assert [n for n, _ in sizes(handle)] == [12, 12, 8, 4]
                handle.configure(tokens=[0.0, 0.5, 0.0, 0.0])
                model(IDS)
            assert [n for n, _ in sizes(handle)] == [12, 12, 6, 6]

    def test_compiled_models(self):
        model = bert()
        handle = spatten.patch_bert(model, TOKENS, SOME_HEADS)
        compiled = torch.compile(model, backend="eager")
        with torch.no_grad():
            for ratios in (TOKENS, 0.0):
                handle.configure(ratios)
                torch.testing.assert_close(compiled(IDS).last_hidden_state, model(IDS).last_hidden_state)

    def test_signatures_are_kept(self):
        model = bert()
        before = inspect.signature(model.forward)
        spatten.patch_bert(model, 0.5)
        assert inspect.signature(model.forward) == before

    def test_a_failed_pass_leaves_nothing_behind(self):
        model = bert()
        handle = spatten.patch_bert(model, TOKENS)
        with torch.no_grad():
            good = model(IDS).last_hidden_state
            hook = model.encoder.layer[2].intermediate.register_forward_pre_hook(lambda m, args: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model(IDS)
            assert handle.run is None
            hook.remove()
            assert torch.equal(model(IDS).last_hidden_state, good)


class TestRefused:
    def test_other_models(self):
        for patch, model in (
            (spatten.patch_bert, gpt2()),
            (spatten.patch_gpt2, bert()),
            (spatten.patch_bert, nn.Linear(2, 2)),
        ):
            with pytest.raises(TypeError, match="model expected a"):
                patch(model, 0.5)
        with pytest.raises(ValueError, match="expected an encoder; got a decoder"):
            spatten.patch_bert(bert(is_decoder=True), 0.5)
        with pytest.raises(ValueError, match="expected no cross-attention"):
            spatten.patch_gpt2(gpt2(add_cross_attention=True), 0.5)

    def test_ratios(self):
        for ratios in ([0.5], [0.5, 0.5, 0.5, 1.5], -0.1, float("nan")):
            with pytest.raises(ValueError, match="patch_bert: tokens expected"):
                spatten.patch_bert(bert(), ratios)
            with pytest.raises(ValueError, match="patch_gpt2: heads expected"):
                spatten.patch_gpt2(gpt2(), 0.1, ratios)
            with pytest.raises(ValueError, match="patch_gpt2: values expected"):
                spatten.patch_gpt2(gpt2(), 0.1, 0.1, ratios)

    def test_a_refused_configuration_leaves_the_model_alone(self):
        model = bert()
        with pytest.raises(ValueError, match="tokens expected"):
            spatten.patch_bert(model, 2.0)
        assert patch_of(model) is None
        assert "forward" not in vars(model)

    def test_projections_that_cannot_be_sliced(self):
        class Adapter(nn.Linear):
            pass

        model = bert()
        model.encoder.layer[2].attention.self.value = Adapter(WIDTH, WIDTH)
        with pytest.raises(ValueError, match="heads expected 0 for projections that are no plain Linear; got Adapter"):
            spatten.patch_bert(model, 0.5, 0.5)
        spatten.patch_bert(model, 0.5)
        model = gpt2()
        model.transformer.h[0].attn.c_proj = nn.Linear(WIDTH, WIDTH)
        with pytest.raises(ValueError, match="no plain Conv1D; got Linear"):
            spatten.patch_gpt2(model, 0.5, 0.5)

    def test_a_stack_patched_through_another_module(self):
        model = bert("BertForMaskedLM")
        spatten.patch_bert(model.bert, 0.5)
        with pytest.raises(ValueError, match="one patched through another module"):
            spatten.patch_bert(model, 0.5)

    def test_masks_other_than_padding(self):
        model = bert()
        spatten.patch_bert(model, TOKENS)
        pairs = torch.ones(2, 1, 12, 12, dtype=torch.bool).tril()
        with pytest.raises(ValueError, match="patch_bert: attention_mask expected padding alone"):
            model(IDS, attention_mask=pairs)
        model = gpt2()
        spatten.patch_gpt2(model, TOKENS)
        pairs[:, :, 6:, :6] = False  # two packed sequences
        with pytest.raises(ValueError, match="patch_gpt2: attention_mask expected padding alone"):
            model(IDS, attention_mask=pairs)

    def test_attention_maps_and_checkpointing(self):
        for model, patch in handles():
            patch(model, TOKENS)
            with pytest.raises(ValueError, match="output_attentions expected False"):
                model(IDS, output_attentions=True)
            model.train().gradient_checkpointing_enable()
            with pytest.raises(ValueError, match="gradient checkpointing expected off"):
                model(IDS)

    def test_other_caches(self):
        model = gpt2()
        full = transformers.DynamicCache()
        model(IDS, **with_cache(model, full))
        spatten.patch_gpt2(model, TOKENS)
        with pytest.raises(ValueError, match="got one filled without pruning"):
            model(IDS[:, :1], **with_cache(model, full))
        static = transformers.StaticCache(config=model.config, max_cache_len=32)
        with pytest.raises(ValueError, match="cache expected a DynamicCache, not offloaded; got StaticCache"):
            model(IDS, **with_cache(model, static))
        pruned = transformers.DynamicCache()
        model(IDS, **with_cache(model, pruned))
        assert not pruned.layers[0].is_croppable
        with pytest.raises(ValueError, match="cannot come back"):
            pruned.crop(-1)

    def test_a_pruned_cache_in_the_dense_model(self):
        model = gpt2()
        handle = spatten.patch_gpt2(model, TOKENS)
        cache = transformers.DynamicCache()
        model(IDS, **with_cache(model, cache))
        for end in (lambda: handle.configure(0.0), handle.unpatch):
            end()
            with pytest.raises(ValueError, match="expected the pruning model that filled the cache"):
                model(IDS[:, :1], **with_cache(model, cache))

    def test_a_layer_on_its_own(self):
        model = bert()
        spatten.patch_bert(model, TOKENS)
        with pytest.raises(ValueError, match="layers expected to run in order"):
            model.encoder.layer[1](torch.zeros(1, 4, WIDTH))
