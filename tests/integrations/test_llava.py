# SPDX-License-Identifier: Apache-2.0
"""Visual tokens pruned before and inside the decoder of a live LLaVA."""

from __future__ import annotations

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("transformers", reason="transformers is an extra")

from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, MistralConfig

from integrations.llava_cases import IMAGE, PAD, PATCHES, caches, features_of, plain_logits, prompts, shared, tiny
from tokernel.integrations import patch_of, unpatch
from tokernel.integrations.llava import LlavaPatch

ROWS = {
    "one": ("ttIttt",),
    "even": ("ttIttt", "tItttt"),
    "padded": ("tIt", "ttIttttt"),
    "uneven": ("tIttItt", "ttItt", "ttttt"),
}


class Every(LlavaPatch):
    """Keep every n-th visual token before the decoder, and every m-th of these after some of its layers."""

    def __init__(self, model, before=1, inside=None, positions="renumber"):
        self.before, self.every = before, inside or {}
        super().__init__(model, positions, tuple(self.every))

    def choose(self, features):
        assert not features.requires_grad
        return torch.arange(0, features.shape[1], self.before).expand(len(features), -1)

    def choose_inside(self, layer, hidden, run):
        keep = torch.ones(hidden.shape[:2], dtype=torch.bool)
        for row, visual in enumerate(run.visual):
            places = visual.nonzero()[:, 0]
            keep[row, places] = torch.arange(len(places)) % self.every[layer] == 0
        return keep


def patched(model, *args, **kwargs):
    patch = Every(model, *args, **kwargs)
    patch.install()
    return patch


def generate(model, inputs, steps=4, **kwargs):
    options = {"max_new_tokens": steps, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    options["suppress_tokens"] = [IMAGE]
    return model.generate(**inputs, **options | kwargs)


def plain_steps(model, inputs, sequences, before, inside, renumber):
    """(rows, steps, vocabulary): what each step's logits must be, row by row."""
    length = inputs["input_ids"].shape[1]
    out = []
    for row, (images, mask) in enumerate(zip(features_of(model, inputs), inputs["attention_mask"], strict=True)):
        start = int((mask == 0).sum())
        index = [torch.arange(0, PATCHES, before)] * len(images)
        rules = {layer: (lambda places, hidden, m=m: places[::m]) for layer, m in inside.items()}
        steps = [
            plain_logits(model, sequences[row, start:stop], images, index, rules, renumber)
            for stop in range(length, sequences.shape[1])
        ]
        out.append(torch.stack(steps))
    return torch.stack(out)


@pytest.fixture(params=["sdpa", "eager"])
def model(request):
    yield shared(request.param)
    unpatch(shared(request.param))


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("inside", [{}, {1: 1}], ids=["before", "inside"])
@torch.no_grad()
def test_without_pruning_everything_is_the_same_bit_for_bit(model, rows, inside):
    inputs = prompts(*rows)
    ways = [
        {},
        {"num_beams": 3},
        {"do_sample": True},
        {"use_cache": False},
        {"num_return_sequences": 2, "do_sample": True},
    ]

    def everything():
        torch.manual_seed(3)
        return [model(**inputs).logits] + [generate(model, inputs, **way).sequences for way in ways]

    expected = everything()
    patch = patched(model, 1, inside)
    for mine, theirs in zip(everything(), expected, strict=True):
        assert torch.equal(mine, theirs)
    assert patch.kept is None
    steps = generate(model, inputs)
    unpatch(model)
    for mine, theirs in zip(steps.logits, generate(model, inputs).logits, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("inside", [{}, {0: 2}, {0: 2, 1: 2}], ids=["before", "inside", "twice inside"])
@pytest.mark.parametrize("before", [1, 9], ids=["all", "4 of 36"])
@pytest.mark.parametrize("positions", ["renumber", "original"])
@torch.no_grad()
def test_every_step_is_the_plain_computation(model, rows, inside, before, positions):
    inputs = prompts(*rows)
    patched(model, before, inside, positions)
    out = generate(model, inputs)
    uncached = generate(model, inputs, use_cache=False)
    unpatch(model)
    expected = plain_steps(model, inputs, out.sequences, before, inside, positions == "renumber")
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=2e-4, rtol=2e-4)
    assert torch.equal(uncached.sequences, out.sequences)
    torch.testing.assert_close(torch.stack(uncached.logits, 1), expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@torch.no_grad()
def test_caches_hold_what_each_layer_saw(model, rows):
    inputs = prompts(*rows)
    patch = patched(model, 9, {1: 2})
    out = generate(model, inputs, steps=4)
    lengths = [layer.keys.shape[2] for layer in caches(out)]
    images = [row.count("I") for row in rows]
    longest = [max(row.count("t") + kept * row.count("I") for row in rows) for kept in (4, 2)]
    assert lengths == [longest[0] + 3] * 2 + [longest[1] + 3]
    assert all(torch.isfinite(logits).all() for logits in out.logits)
    logits = model(**inputs).logits
    assert logits.shape[1] == longest[1]
    assert torch.isfinite(logits).all()
    kept = patch.kept
    assert kept.shape == logits.shape[:2]
    ids = inputs["input_ids"].gather(1, kept.clamp_min(0))
    assert [int((row[place >= 0] == IMAGE).sum()) for row, place in zip(ids, kept, strict=True)] == [
        2 * n for n in images
    ]


@torch.no_grad()
def test_logits_of_the_prompt_are_those_of_the_tokens_kept(model):
    inputs = prompts("ttIttt")
    patch = patched(model, 9, {1: 2})
    logits = model(**inputs).logits[0]
    unpatch(model)
    assert patch.kept[0].tolist() == [0, 1, 2, 20, 38, 39, 40]
    ids, images = inputs["input_ids"][0], features_of(model, inputs)[0]
    for mine, stop in zip(logits[4:], (39, 40, 41), strict=True):
        expected = plain_logits(
            model, ids[:stop], images, [torch.arange(0, 36, 9)], {1: lambda places, hidden: places[::2]}
        )
        torch.testing.assert_close(mine, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("rows", [ROWS["padded"], ROWS["uneven"]], ids=["padded", "uneven"])
@torch.no_grad()
def test_beams_score_as_the_plain_computation(model, rows):
    inputs = prompts(*rows)
    patched(model, 9, {1: 2})
    out = generate(model, inputs, steps=3, num_beams=3, num_return_sequences=3, length_penalty=0.0, output_scores=True)
    unpatch(model)
    repeated = {
        "input_ids": inputs["input_ids"].repeat_interleave(3, 0),
        "attention_mask": inputs["attention_mask"].repeat_interleave(3, 0),
        "pixel_values": torch.cat(
            [inputs["pixel_values"][start : start + n].repeat(3, 1, 1, 1) for start, n in image_runs(rows)]
        ),
    }
    logits = plain_steps(model, repeated, out.sequences, 9, {1: 2}, True)
    new = out.sequences[:, inputs["input_ids"].shape[1] :]
    scores = logits.log_softmax(-1).gather(-1, new[..., None]).sum((1, 2))
    torch.testing.assert_close(out.sequences_scores, scores, atol=1e-3, rtol=1e-3)


def image_runs(rows):
    start, runs = 0, []
    for row in rows:
        runs.append((start, row.count("I")))
        start += row.count("I")
    return [run for run in runs if run[1]]


@torch.no_grad()
def test_sampling_with_and_without_caches_draws_the_same(model):
    inputs = prompts(*ROWS["uneven"])
    patched(model, 9, {1: 2})
    drawn = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        drawn.append(generate(model, inputs, do_sample=True, use_cache=use_cache).sequences)
    assert torch.equal(*drawn)


@torch.no_grad()
def test_every_visual_token_can_go(model):
    inputs = prompts("ttIttt", "tIt")
    patched(model, 1, {1: 100})
    patch_of(model).choose = lambda features: torch.empty(len(features), 0, dtype=torch.int64)
    mine = generate(model, inputs)
    unpatch(model)
    text = {
        "input_ids": torch.tensor([row[row != IMAGE].tolist() for row in prompts("ttttt", "tt")["input_ids"]]),
        "attention_mask": prompts("ttttt", "tt")["attention_mask"],
    }
    words = [row[(row != IMAGE) & (row != PAD)] for row in inputs["input_ids"]]
    text["input_ids"] = torch.stack([torch.cat([torch.zeros(5 - len(w), dtype=torch.int64), w]) for w in words])
    theirs = generate(model, text)
    torch.testing.assert_close(torch.stack(mine.logits), torch.stack(theirs.logits), atol=2e-4, rtol=2e-4)


@torch.no_grad()
def test_a_prompt_without_images_is_left_alone(model):
    inputs = prompts("ttttt", "tt")
    expected = generate(model, inputs, num_beams=2).sequences
    patched(model, 9, {1: 2})
    assert torch.equal(generate(model, inputs, num_beams=2).sequences, expected)


@pytest.mark.parametrize("positions", ["renumber", "original"])
@torch.no_grad()
def test_a_conversation_goes_on_in_the_same_caches(model, positions):
    """``generate`` counts what is new by the cache's length, and gives tokens that a shortened cache has seen again."""
    inputs = prompts("ttIttt")
    patched(model, 9, {0: 2}, positions)
    first = generate(model, inputs)
    second = prompts("tIt", seed=2)
    ids = torch.cat([first.sequences, second["input_ids"]], 1)
    out = generate(model, {"input_ids": ids, "pixel_values": second["pixel_values"]}, cache=first.cache)
    unpatch(model)
    pixels = torch.cat([inputs["pixel_values"], second["pixel_values"]])
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}

    # Every turn keeps every 2nd of its own visual tokens inside: 4 = 2 * 2 of each image.
    expected = plain_steps(model, whole, out.sequences, 9, {0: 2}, positions == "renumber")
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_an_image_may_follow_text_that_is_in_the_cache(model, masked):
    inputs = prompts("ttttItt")
    patched(model, 9, {1: 2})
    whole = model(**inputs)
    ids = inputs["input_ids"]
    mask = torch.ones_like(ids) if masked else None
    text = model(input_ids=ids[:, :3])
    rest = {"input_ids": ids[:, 3:], "pixel_values": inputs["pixel_values"], "attention_mask": mask}
    out = model(**rest, cache=text.cache)
    assert [x.keys.shape for x in caches(out)] == [x.keys.shape for x in caches(whole)]
    for _ in range(2):
        torch.testing.assert_close(out.logits[:, -1], whole.logits[:, -1], atol=1e-4, rtol=1e-4)
        out, whole = (model(input_ids=torch.tensor([[7]]), cache=x.cache) for x in (out, whole))


@torch.no_grad()
def test_assisted_decoding_takes_back_guesses(model):
    inputs = prompts("ttttItt")
    patched(model, 9, {1: 2})
    guessed = generate(model, inputs, 8, prompt_lookup_num_tokens=3)
    assert torch.equal(guessed.sequences, generate(model, inputs, 8).sequences)


@torch.no_grad()
def test_a_loop_by_hand_needs_no_position_ids(model):
    inputs = prompts("ttIttt")
    patched(model, 9, {1: 2})
    expected = generate(model, inputs, steps=3)
    out = model(**{**inputs, "attention_mask": None})
    for step in range(3):
        torch.testing.assert_close(out.logits[:, -1], expected.logits[step], atol=2e-4, rtol=2e-4)
        out = model(input_ids=out.logits[:, -1:].argmax(-1), cache=out.cache)


def test_labels_follow_their_tokens(model):
    inputs = prompts("ttIttt", "tIt")
    labels = inputs["input_ids"].masked_fill((inputs["input_ids"] == IMAGE) | (inputs["attention_mask"] == 0), -100)
    dense = model(**inputs, labels=labels)
    patch = patched(model, 1, {1: 1})
    same = model(**inputs, labels=labels)
    assert torch.equal(same.loss, dense.loss)
    patch.before, patch.every = 9, {1: 2}
    out = model(**inputs, labels=labels)
    kept = patch.kept
    mine = labels.gather(1, kept.clamp_min(0)).masked_fill(kept < 0, -100)
    flat = out.logits[:, :-1].flatten(0, 1)
    torch.testing.assert_close(out.loss, torch.nn.functional.cross_entropy(flat, mine[:, 1:].flatten()))
    out.loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert model.model.vision_tower.embeddings.patch_embedding.weight.grad.abs().sum() > 0
    assert model(**inputs, labels=labels, return_dict=False)[0] == out.loss
    model.zero_grad()


def test_checkpointed_layers_have_the_same_gradient():
    model = tiny()
    inputs = prompts("ttIttt", "tIt")
    patched(model, 9, {0: 2})

    def gradients():
        model.zero_grad()
        model(**inputs, use_cache=False).logits.square().mean().backward()
        return {
            name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
        }

    expected = gradients()
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision(dtype):
    model, inputs = tiny().to(dtype), prompts(*ROWS["uneven"])
    ids = generate(model, inputs).sequences
    patch = patched(model, 1, {1: 1})
    assert torch.equal(generate(model, inputs).sequences, ids)
    patch.before, patch.every = 9, {1: 2}
    assert all(torch.isfinite(logits).all() for logits in generate(model, inputs).logits)


@torch.no_grad()
def test_a_sliding_window_is_pruned_before_but_not_inside():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    words = MistralConfig(**sizes, vocab_size=99, num_key_value_heads=2, sliding_window=8, eos_token_id=None)
    vision = CLIPVisionConfig(**sizes, image_size=24, patch_size=4)
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=vision, text_config=words, image_token_index=IMAGE)
    model, inputs = LlavaForConditionalGeneration(config).eval(), prompts("ttIttttt")
    with pytest.raises(ValueError, match="full attention to prune inside; got sliding"):
        patched(model, 9, {0: 2})
    patched(model, 9)
    cached, anew = (generate(model, inputs, use_cache=use) for use in (True, False))
    assert torch.equal(cached.sequences, anew.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(anew.logits), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_layer_called_by_itself_is_the_layer(model):
    inputs, hidden = prompts("ttIttt"), torch.randn(1, 7, 32)
    decoder = model.model.language_model
    rotation = decoder.rotary_emb(hidden, torch.arange(7)[None])
    expected = decoder.layers[2](hidden, position_embeddings=rotation)
    patched(model, 9, {1: 2})
    model(**inputs)
    assert torch.equal(decoder.layers[2](hidden, position_embeddings=rotation), expected)


def everything(model):
    skip = {"_output_capturing_hooks_installed", "_forward_hooks"}
    return {n: {k: id(v) for k, v in vars(part).items() if k not in skip} for n, part in model.named_modules()}


@torch.no_grad()
def test_unpatch_leaves_nothing(model):
    inputs = prompts("ttIttt")
    generate(model, inputs)
    before = everything(model)
    patch = patched(model, 9, {1: 2})
    second = patched(model, 4)
    assert patch_of(model) is second is not patch
    generate(model, inputs)
    unpatch(model)
    assert everything(model) == before
    assert patch_of(model) is None


@torch.no_grad()
def test_copies_and_pickles_are_patched_models_of_their_own():
    model = tiny()
    inputs = prompts("tIt", "ttItt")
    patched(model, 9, {1: 2})
    stream = io.BytesIO()
    pickle.dump(model, stream)  # Before it ran: transformers then adds hooks that nothing can pickle.
    expected = generate(model, inputs).sequences
    for other in (copy.deepcopy(model), pickle.loads(stream.getvalue())):
        assert torch.equal(generate(other, inputs).sequences, expected)
        assert patch_of(other) is not patch_of(model)
        assert patch_of(other).model is other
        patch_of(other).before = 1
        unpatch(other)
    assert torch.equal(generate(model, inputs).sequences, expected)


@torch.no_grad()
def test_caches_can_be_copied_between_steps(model):
    inputs = prompts("ttIttt")
    patched(model, 9, {1: 2})
    out = model(**inputs)
    token = out.logits[:, -1:].argmax(-1)
    again = copy.deepcopy(out.cache)
    first = model(input_ids=token, cache=out.cache).logits
    assert torch.equal(model(input_ids=token, cache=again).logits, first)


@torch.no_grad()
def test_what_cannot_work_is_refused(model):
    inputs = prompts("ttIttt")
    with pytest.raises(ValueError, match="model expected a LLaVA"):
        patched(model.model.language_model)
    with pytest.raises(ValueError, match="positions expected"):
        patched(model, positions="both")
    with pytest.raises(ValueError, match="layer expected one of 3"):
        patched(model, inside={3: 2})
    patch = patched(model, 9, {1: 2})
    with pytest.raises(ValueError, match="dynamic"):
        generate(model, inputs, cache_implementation="static")
    with pytest.raises(ValueError, match="image features expected"):
        generate(model, inputs, prefill_chunk_size=16)
    with pytest.raises(ValueError, match="labels expected without"):
        model(**inputs, labels=inputs["input_ids"], logits_to_keep=2)
    with pytest.raises(ValueError, match="logits_to_keep expected"):
        model(**inputs, logits_to_keep=torch.tensor([0]))
    with pytest.raises(ValueError, match="attention_mask expected"):
        model(**inputs | {"attention_mask": torch.ones(1, 1, 41, 41, dtype=torch.bool)})
    packed = torch.arange(41)[None] % 20
    with pytest.raises(ValueError, match="several packed"):
        model(**inputs | {"attention_mask": None}, position_ids=packed, use_cache=False)
    cache = model(**inputs).cache
    with pytest.raises(ValueError, match="batch expected 1"):
        model(input_ids=torch.ones(2, 1, dtype=torch.int64), cache=cache)
    with pytest.raises(ValueError, match="attention_mask expected"):
        model(input_ids=torch.ones(1, 1, dtype=torch.int64), attention_mask=torch.ones(1, 3), cache=cache)
    cache.crop(-2)
    with pytest.raises(ValueError, match="cache expected at least"):
        model(input_ids=torch.ones(1, 1, dtype=torch.int64), cache=cache)
    cache.reset()
    assert torch.isfinite(model(**inputs, cache=cache).logits).all()
    for wrong in ([3, 2], [0, 36], [-1, 2], [4, 4]):
        patch.choose = lambda features, wrong=wrong: torch.tensor([wrong])
        with pytest.raises(ValueError, match="choice expected ascending"):
            model(**inputs)
