# SPDX-License-Identifier: Apache-2.0
"""DyMU in live decoders and LLaVAs, against a dense version in plain torch: expand, attend, average back."""

import copy
import pickle

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
transformers = pytest.importorskip("transformers", reason="transformers is an extra")

from tokernel.integrations import patch_of, unpatch
from tokernel.reduce import dymu
from tokernel.reduce._dymu_llava import shared_places

IMAGE, PATCHES = 63, 36
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 24,
    "patch_size": 4,
}
HIGH = [0.3, -1.0, 1.0]  # of the tower's three layers; the last one's output is not read


def larger(model):
    """Random weights large enough that every token matters to the logits."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(4)
    return model.eval()


def llava(tower="clip", layer=-2, attention="sdpa"):
    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig if tower == "clip" else transformers.SiglipVisionConfig
    config = transformers.LlavaConfig(
        vision_config=vision(**VISION),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        image_seq_length=PATCHES,
        vision_feature_layer=layer,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
        attn_implementation=attention,
    )
    return larger(transformers.LlavaForConditionalGeneration(config))


def pixels(images=1):
    return torch.randn(images, 3, 24, 24, generator=torch.Generator().manual_seed(1))


def prompt(*parts):
    """Token ids; None stands for an image."""
    ids = []
    for part in parts:
        ids += [IMAGE] * PATCHES if part is None else [part]
    return torch.tensor([ids])


def generate(model, ids, images, **options):
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 5, "do_sample": False} | options
    return model.generate(
        input_ids=ids,
        pixel_values=images,
        return_dict_in_generate=True,
        output_logits=True,
        eos_token_id=None,
        **options,
    )


def turned(x, position, theta=10000.0):
    """Rotate rows (H, N, D) by their positions."""
    half = x.shape[-1] // 2
    angle = position[:, None].double() * theta ** (-torch.arange(half).double() / half)
    low, high = x.double().chunk(2, -1)
    return torch.cat((low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()), -1)


def dense_decoder(decoder, embeddings, mapping, live=None):
    """States of all positions (N, C) after the last norm, and each layer's keys and values, in plain torch."""
    length, tokens = len(mapping), int(mapping.max()) + 1
    live = torch.ones(length, dtype=torch.bool) if live is None else live
    position = (live.cumsum(0) - 1).clamp(min=0)
    average = torch.nn.functional.one_hot(mapping, tokens).double().mT
    average = average / average.sum(1, keepdim=True)
    seen = torch.ones(length, length).tril().bool() & live | torch.eye(length).bool()
    x, cached = (average @ embeddings.double()).float(), []
    for layer in decoder.layers:
        attention, full = layer.self_attn, layer.input_layernorm(x[mapping])
        q, k, v = (getattr(attention, f"{n}_proj")(full).view(length, -1, attention.head_dim) for n in ("q", "k", "v"))
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        q, k, v = (y.transpose(0, 1) for y in (q, k, v))
        q, k = turned(q, position), turned(k, position)
        cached.append((k.float(), v))
        k, v = (y.double().repeat_interleave(len(q) // len(k), 0) for y in (k, v))
        weights = (q @ k.mT * attention.scaling).masked_fill(~seen, -torch.inf).softmax(-1)
        out = (average @ (weights @ v).transpose(0, 1).flatten(1)).float()
        x = x + attention.o_proj(out)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return decoder.norm(x[mapping]), cached


def parts(model, images):
    """Features (I, P, C) of every patch and its merged token, from the tower's own output."""
    core, tower = model.model, patch_of(model).tower
    hidden = core.vision_tower(images, output_hidden_states=True).hidden_states[-2]
    mapping = tower.mappings[-2]
    if tower.vit.class_token:
        hidden, mapping = hidden[:, 1:], mapping[:, 1:] - 1
    features = core.multi_modal_projector(hidden)
    return torch.stack([f[m] for f, m in zip(features, mapping, strict=True)]), mapping


def dense_llava(model, ids, images, live=None):
    """Logits (B, N, V) and the caches, one prompt after the other."""
    core, (features, merged) = model.model, parts(model, images)
    logits, caches, image = [], [], 0
    for b, row in enumerate(ids):
        embeddings, names, seen = core.language_model.embed_tokens(row), [], 0
        spots = (row == IMAGE).nonzero().flatten()
        for i in range(len(row)):
            if row[i] == IMAGE:
                which, patch = image + seen // PATCHES, seen % PATCHES
                names.append((which, int(merged[which, patch])))
                seen += 1
            else:
                names.append(("text", i))
        first = image
        image += seen // PATCHES
        embeddings = embeddings.index_copy(0, spots, features[first:image].flatten(0, 1))
        order = {name: u for u, name in enumerate(dict.fromkeys(names))}
        mapping = torch.tensor([order[name] for name in names])
        states, cached = dense_decoder(core.language_model, embeddings, mapping, None if live is None else live[b])
        logits.append(model.lm_head(states))
        caches.append(cached)
    return torch.stack(logits), caches


def same(a, b):
    torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


class TestRateZero:
    @pytest.mark.parametrize("thresholds", [None, [1.0, 2.0, 1.0]])
    @pytest.mark.parametrize("tower", ["clip", "siglip"])
    @torch.no_grad()
    def test_logits_and_generated_ids_are_the_unpatched_ones(self, tower, thresholds):
        model, ids = llava(tower), prompt(1, 5, None, 7, 8)
        before, said = model(input_ids=ids, pixel_values=pixels()).logits, generate(model, ids, pixels())
        handle = dymu.patch_llava(model, thresholds)
        assert torch.equal(model(input_ids=ids, pixel_values=pixels()).logits, before)
        again = generate(model, ids, pixels())
        assert torch.equal(again.sequences, said.sequences)
        assert all(torch.equal(a, b) for a, b in zip(again.logits, said.logits, strict=True))
        assert handle.tokens is None

    @torch.no_grad()
    def test_also_when_no_edge_is_above_the_thresholds(self):
        model, ids = llava(), prompt(1, None, 7)
        before = model(input_ids=ids, pixel_values=pixels()).logits
        handle = dymu.patch_llava(model, [0.99999] * 3)
        same(model(input_ids=ids, pixel_values=pixels()).logits, before)
        assert handle.tokens is None

    @torch.no_grad()
    def test_text_alone_is_untouched(self):
        model, ids = llava(), prompt(1, 4, 9)
        before = model(input_ids=ids).logits
        dymu.patch_llava(model, HIGH)
        assert torch.equal(model(input_ids=ids).logits, before)

    @torch.no_grad()
    def test_unpatching_is_exact(self):
        model, ids = llava(), prompt(1, None, 7)
        parts = dict(model.named_modules())
        before, clean = model(input_ids=ids, pixel_values=pixels()).logits, {n: set(vars(m)) for n, m in parts.items()}
        handle = dymu.patch_llava(model, HIGH)
        handle = dymu.patch_llava(model, handle.thresholds)  # once more: the former patch is undone first
        assert not torch.equal(model(input_ids=ids, pixel_values=pixels()).logits, before)
        unpatch(model)
        assert torch.equal(model(input_ids=ids, pixel_values=pixels()).logits, before)
        assert {n: set(vars(m)) for n, m in parts.items()} == clean
        assert patch_of(model) is None


class TestHighRate:
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("tower", ["clip", "siglip"])
    @torch.no_grad()
    def test_prefill_equals_the_dense_version(self, tower, attention):
        model, ids = llava(tower, attention=attention), prompt(1, 5, None, 7, 8)
        plain = model(input_ids=ids, pixel_values=pixels()).logits
        handle = dymu.patch_llava(model, HIGH)
        out = model(input_ids=ids, pixel_values=pixels())
        expected, caches = dense_llava(model, ids, pixels())
        same(out.logits, expected)
        assert (out.logits - plain).abs().max() > 0.05
        assert 4 <= handle.tokens[0] <= 18
        for layer, (keys, values) in zip(cache_of(out).layers, caches[0], strict=True):
            same(layer.keys[0], keys)
            same(layer.values[0], values)

    @torch.no_grad()
    def test_rows_that_run_through_the_layers_are_the_unique_ones(self):
        model, ids, seen = llava(), prompt(1, 5, None, 7, 8), []
        handle = dymu.patch_llava(model, HIGH)
        for layer in model.model.language_model.layers:
            layer.mlp.register_forward_hook(lambda _, x, y: seen.append(y.shape[1]))
        model(input_ids=ids, pixel_values=pixels())
        assert seen == [4 + handle.tokens[0]] * 2

    @torch.no_grad()
    def test_decoding_is_ordinary_on_the_expanded_cache(self):
        model, ids = llava(), prompt(1, 5, None, 7, 8)
        twin = copy.deepcopy(model)
        dymu.patch_llava(model, HIGH)
        said = generate(model, ids, pixels())
        length = ids.shape[1]
        assert said.sequences.shape == (1, length + 5)
        assert cache_of(said).get_seq_length() == length + 4
        assert all(x.isfinite().all() for x in said.logits)
        cache = transformers.DynamicCache()
        logits, caches = dense_llava(model, ids, pixels())
        for i, (keys, values) in enumerate(caches[0]):
            cache.update(keys[None], values[None], i)
        same(said.logits[0], logits[:, -1])
        for step in range(1, 5):
            token = said.sequences[:, length + step - 1][:, None]
            out = twin.model.language_model(
                input_ids=token, position_ids=torch.tensor([[length + step - 1]]), **{cache_name(): cache}
            )
            same(said.logits[step], twin.lm_head(out.last_hidden_state[:, -1]))

    @torch.no_grad()
    def test_a_second_turn_continues_the_cache(self):
        model, ids = llava(), prompt(1, None, 7)
        dymu.patch_llava(model, HIGH)
        first = model(input_ids=ids, pixel_values=pixels(), use_cache=True)
        more = torch.tensor([[9, 10, 11]])
        second = model(input_ids=more, **{cache_name(): cache_of(first)})
        one_by_one = model(input_ids=ids, pixel_values=pixels(), use_cache=True)
        for i in range(3):
            step = model(input_ids=more[:, i : i + 1], **{cache_name(): cache_of(one_by_one)})
            same(second.logits[:, i], step.logits[:, 0])

    @torch.no_grad()
    def test_left_padded_batch(self):
        model = llava()
        ids = torch.cat(
            [torch.cat([torch.zeros(1, 3, dtype=torch.long), prompt(1, None, 8)], 1), prompt(1, 5, 6, 4, None, 7)]
        )
        live = ids != 0
        handle = dymu.patch_llava(model, HIGH)
        out = model(
            input_ids=ids,
            pixel_values=pixels(2),
            attention_mask=live.long(),
            position_ids=(live.cumsum(1) - 1).clamp(min=0),
        )
        expected, _ = dense_llava(model, ids, pixels(2), live)
        same(out.logits[live], expected[live])
        assert len(handle.tokens) == 2
        said = generate(model, ids, pixels(2), attention_mask=live.long())
        for b in range(2):
            alone = generate(model, ids[b : b + 1, live[b].logical_not().sum() :], pixels(2)[b : b + 1])
            assert torch.equal(said.sequences[b, -5:], alone.sequences[0, -5:])

    @torch.no_grad()
    def test_two_images_in_one_prompt_and_none_in_the_other(self):
        model = llava()
        ids = prompt(1, None, 5, None, 7)
        text = torch.full_like(ids, 9)
        dymu.patch_llava(model, HIGH)
        out = model(input_ids=torch.cat([text, ids]), pixel_values=pixels(2))
        expected, _ = dense_llava(model, torch.cat([text, ids]), pixels(2))
        same(out.logits, expected)

    @torch.no_grad()
    def test_beams_and_a_static_cache(self):
        model, ids = llava(), prompt(1, None, 7)
        dymu.patch_llava(model, HIGH)
        greedy = generate(model, ids, pixels())
        static = generate(model, ids, pixels(), cache_implementation="static")
        assert torch.equal(static.sequences, greedy.sequences)
        beams = generate(model, ids, pixels(), num_beams=3)
        assert beams.sequences.shape == greedy.sequences.shape

    @torch.no_grad()
    def test_90_percent_merged(self):
        model, ids = llava(), prompt(1, 5, None, 7, 8)
        model.model.config.vision_feature_layer = model.config.vision_feature_layer = -1
        handle = dymu.patch_llava(model, [-1.0] * 3)
        said = generate(model, ids, pixels())
        assert handle.tokens[0] <= 6
        assert said.sequences.shape == (1, ids.shape[1] + 5)
        assert all(x.isfinite().all() for x in said.logits)
        assert cache_of(said).get_seq_length() == ids.shape[1] + 4

    @torch.no_grad()
    def test_other_feature_layers(self):
        model, ids = llava(), prompt(1, None, 7)
        handle = dymu.patch_llava(model, HIGH)
        lengths = []
        for layer in (1, 2, -3, -4):
            model(input_ids=ids, pixel_values=pixels(), vision_feature_layer=layer)
            lengths.append(handle.tokens[0] if handle.tokens else PATCHES)
        assert lengths[3] == PATCHES  # the embeddings
        assert lengths[0] == lengths[2] > lengths[1]

    @torch.no_grad()
    def test_features_made_beforehand(self):
        model, ids = llava(), prompt(1, None, 7)
        handle = dymu.patch_llava(model, HIGH)
        expected = model(input_ids=ids, pixel_values=pixels()).logits
        ready = model.get_image_features(pixel_values=pixels(), return_dict=True)
        model.get_image_features(pixel_values=pixels(2), return_dict=True)  # of other images: must not interfere
        assert torch.equal(model(input_ids=ids, mm_encoder_outputs={"image": ready}).logits, expected)
        ready.pooler_output = [feature.clone() for feature in ready.pooler_output]
        with pytest.raises(ValueError, match="image features expected"):
            model(input_ids=ids, mm_encoder_outputs={"image": ready})
        features = model.model.get_image_features(pixels(), return_dict=False)
        assert isinstance(features, tuple)
        handle.thresholds = [1.0] * 3
        model(input_ids=ids, mm_encoder_outputs={"image": ready})

    @torch.no_grad()
    def test_copies_and_pickles(self):
        model, ids = llava(), prompt(1, None, 7)
        handle = dymu.patch_llava(model, HIGH)
        loaded = pickle.loads(pickle.dumps(model))  # before a pass: transformers' own hooks cannot be pickled
        out = model(input_ids=ids, pixel_values=pixels()).logits
        for twin in (copy.deepcopy(model), loaded):
            assert patch_of(twin) is not handle
            assert torch.equal(twin(input_ids=ids, pixel_values=pixels()).logits, out)
            patch_of(twin).thresholds = [1.0] * 3
        assert torch.equal(model(input_ids=ids, pixel_values=pixels()).logits, out)

    def test_training_and_recomputed_layers(self):
        model, ids = llava(), prompt(1, None, 7, 8)
        dymu.patch_llava(model, HIGH)
        gradients = []
        for recompute in (False, True):
            if recompute:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            model.zero_grad()
            model.train()(input_ids=ids, pixel_values=pixels(), labels=ids, use_cache=False).loss.backward()
            gradients.append([w.grad.clone() for w in model.model.language_model.parameters()])
        assert all(g.isfinite().all() for g in gradients[0])
        assert gradients[0][1].abs().max() > 0
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)

    def test_what_is_refused(self):
        model, ids = llava(), prompt(1, None, 7)
        dymu.patch_llava(model, HIGH)
        with pytest.raises(ValueError, match="vision_feature_layer expected one layer"):
            model(input_ids=ids, pixel_values=pixels(), vision_feature_layer=[-2, -1])
        with pytest.raises(ValueError, match="image features expected"):
            generate(model, ids, pixels(), prefill_chunk_size=16)
        with pytest.raises(ValueError, match="inside one prompt"):
            model(input_ids=torch.full((2, PATCHES // 2), IMAGE), pixel_values=pixels())
        flat = llava("siglip")
        dymu.patch_llava(flat, HIGH)
        with pytest.raises(ValueError, match="without a class token"):
            flat(input_ids=ids, pixel_values=pixels(), vision_feature_select_strategy="default")
        with pytest.raises(ValueError, match="one for each of 3 layers"):
            dymu.patch_llava(llava(), [0.5])
        with pytest.raises(ValueError, match="LlavaForConditionalGeneration"):
            dymu.patch_llava(transformers.LlamaModel(transformers.LlamaConfig(**TEXT)))
        next_model = transformers.LlavaNextForConditionalGeneration(
            transformers.LlavaNextConfig(
                vision_config=transformers.CLIPVisionConfig(**VISION), text_config=transformers.LlamaConfig(**TEXT)
            )
        )
        with pytest.raises(ValueError, match=r"expected LLaVA 1\.5"):
            dymu.patch_llava(next_model)


def cache_of(out):
    return out.get("cache", out.get("past_key_values"))


def cache_name():
    import inspect

    names = inspect.signature(transformers.LlamaModel.forward).parameters
    return "cache" if "cache" in names else "past_key_values"


def decoder(kind, **options):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**TEXT, **options)
    return larger(getattr(transformers, f"{kind}ForCausalLM")(config))


class TestDecoder:
    mapping = torch.tensor([0, 1, 1, 2, 1, 2, 3, 4])
    ids = torch.tensor([[5, 9, 9, 7, 9, 7, 3, 4]])

    @pytest.mark.parametrize(
        ("kind", "options"),
        [("Llama", {}), ("Mistral", {"sliding_window": None}), ("Qwen2", {}), ("Qwen3", {"head_dim": 16})],
    )
    @torch.no_grad()
    def test_equals_the_dense_version(self, kind, options):
        model = decoder(kind, **options)
        plain = model(input_ids=self.ids).logits
        handle = dymu.patch_decoder(model)
        assert torch.equal(model(input_ids=self.ids).logits, plain)
        handle.use_mapping(self.mapping)
        ours = model(input_ids=self.ids).logits
        states, _ = dense_decoder(model.model, model.model.embed_tokens(self.ids[0]), self.mapping)
        theta = model.config.rope_parameters["rope_theta"]
        assert theta == 10000.0
        same(ours, model.lm_head(states)[None])
        assert (ours - plain).abs().max() > 0.01
        assert torch.equal(model(input_ids=self.ids).logits, plain)  # the mapping was for one pass

    @torch.no_grad()
    def test_the_identity_mapping_is_the_model(self):
        model = decoder("Llama")
        plain = model(input_ids=self.ids).logits
        dymu.patch_decoder(model).use_mapping(torch.arange(8))
        same(model(input_ids=self.ids).logits, plain)

    @torch.no_grad()
    def test_text_rows_are_exact_in_layer_1(self):
        model, states = decoder("Llama"), []
        dense = decoder("Llama")
        handle = dymu.patch_decoder(model)
        for one in (model, dense):
            one.model.layers[0].mlp.register_forward_hook(lambda _, x, y: states.append(y))
        handle.use_mapping(self.mapping)
        model(input_ids=self.ids)
        dense(input_ids=self.ids)
        same(states[0][:, [0, 3, 4]], states[1][:, [0, 6, 7]])
        assert (states[0][:, 1] - states[1][:, 1]).abs().max() > 1e-3

    @torch.no_grad()
    def test_each_prompt_its_own_mapping(self):
        model = decoder("Llama")
        handle = dymu.patch_decoder(model)
        ids = torch.cat([self.ids, torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])])
        handle.use_mapping(torch.stack([self.mapping, torch.arange(8)]))
        both = model(input_ids=ids).logits
        handle.use_mapping(self.mapping)
        same(both[:1], model(input_ids=ids[:1]).logits)
        same(both[1:], model(input_ids=ids[1:]).logits)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @torch.no_grad()
    def test_low_precision(self, dtype):
        model = decoder("Llama")
        handle = dymu.patch_decoder(model)
        handle.use_mapping(self.mapping)
        exact = model(input_ids=self.ids).logits
        handle.unpatch()
        handle = dymu.patch_decoder(model.to(dtype))
        handle.use_mapping(self.mapping)
        error = (model(input_ids=self.ids).logits.float() - exact).abs().max()
        assert error <= 64 * torch.finfo(dtype).eps * exact.abs().max()

    @pytest.mark.parametrize(
        ("mapping", "error", "match"),
        [
            (torch.tensor([0.0]), TypeError, "int64"),
            ([0], TypeError, "int64"),
            (torch.zeros(1, 1, 1).long(), ValueError, r"\(N\) or \(B, N\)"),
            (torch.tensor([0, 2]), ValueError, r"in \[0, 2\)"),
            (torch.tensor([0, -1]), ValueError, r"in \[0, 2\)"),
        ],
    )
    def test_bad_mappings(self, mapping, error, match):
        with pytest.raises(error, match=match):
            dymu.patch_decoder(decoder("Llama")).use_mapping(mapping)

    def test_a_pass_of_another_length_is_refused(self):
        model = decoder("Llama")
        dymu.patch_decoder(model).use_mapping(torch.tensor([0, 0, 1]))
        with pytest.raises(ValueError, match="mapping expected"):
            model(input_ids=self.ids)
        model(input_ids=self.ids)  # and forgotten

    def test_other_decoders_are_refused(self):
        with pytest.raises(ValueError, match="exactly one decoder"):
            dymu.patch_decoder(torch.nn.Linear(2, 2))
        with pytest.raises(ValueError, match="expected"):
            dymu.patch_decoder(decoder("Cohere"))  # turns neighbours, not halves
        with pytest.raises(ValueError, match="expected"):
            dymu.patch_decoder(decoder("Glm"))  # turns half of each head


def test_places_of_images():
    is_image = torch.tensor([[0, 1, 1, 1, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0, 0]]).bool()
    rows = torch.tensor([[1, 0, 1], [0, 0, 0], [2, 1, 0]])
    assert shared_places(is_image, rows).tolist() == [[0, 1, 2, 1, 3, 4, 4, 4], [0, 1, 2, 3, 4, 5, 6, 7]]
    is_image[0, 1] = False
    with pytest.raises(ValueError, match="9 image positions; got 8"):
        shared_places(is_image, rows)
