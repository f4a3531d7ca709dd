# SPDX-License-Identifier: Apache-2.0
"""ToDRE in a live LLaVA: the pivot, stage 1, and visual tokens that leave the decoder."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("transformers", reason="transformers is an extra")

from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen3Config, SiglipVisionConfig

from integrations.llava_cases import IMAGE, caches, features_of, plain_logits, prompts, shared, tiny
from tokernel.integrations import unpatch
from tokernel.reduce import todre
from tokernel.reduce.todre import ToDRE

OPTIONS = {"max_new_tokens": 3, "do_sample": False, "suppress_tokens": [IMAGE]}
LOGITS = {"output_logits": True, "return_dict_in_generate": True}
ROWS = ("tIttItt", "ttItt", "tt")


@pytest.fixture(params=["sdpa", "eager"])
def model(request):
    yield shared(request.param)
    unpatch(shared(request.param))


def least_similar(x, pivot, k):
    x = torch.nn.functional.normalize(x.double(), dim=-1)
    similar = x @ x.T
    chosen = [pivot]
    while len(chosen) < k:
        total = similar[chosen].sum(0)
        total[chosen] = torch.inf
        chosen.append(int(total.argmin()))
    return torch.tensor(sorted(chosen))


def choices(model, inputs, k):
    """What stage 1 keeps of every image of every row, from the map that the tower's last layer stores."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    tower = model.model.vision_tower
    pivots = tower(inputs["pixel_values"], output_attentions=True).attentions[-1][:, :, 0, 1:].mean(1).argmax(-1)
    pivots = pivots.tolist()
    return [[least_similar(image, pivots.pop(0), k) for image in row] for row in features_of(model, inputs)]


def check_steps(model, inputs, out, kept, rules):
    length = inputs["input_ids"].shape[1]
    for row, images in enumerate(features_of(model, inputs)):
        start = int((inputs["attention_mask"][row] == 0).sum())
        for step, logits in enumerate(out.logits):
            expected = plain_logits(model, out.sequences[row, start : length + step], images, kept[row], rules[row])
            torch.testing.assert_close(logits[row], expected, atol=3e-4, rtol=3e-4)


@torch.no_grad()
def test_stage_1_starts_from_the_class_tokens_favourite(model):
    inputs = prompts(*ROWS)
    todre.patch_llava(model, ToDRE(retention=0.1, tau=0.0))
    out = model.generate(**inputs, **OPTIONS, **LOGITS)
    unpatch(model)
    check_steps(model, inputs, out, choices(model, inputs, 4), [{}] * 3)


def shares(model, inputs, probe, text):
    """alpha_tv and alpha_vt of every row, one row at a time, from the maps that the decoder stores."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    found = []
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        ids = ids[mask == 1][None]
        pixels = shares.pixels[: int((ids == IMAGE).sum()) // 36]
        shares.pixels = shares.pixels[len(pixels) :]
        out = model(input_ids=ids, pixel_values=pixels if len(pixels) else None, output_attentions=True)
        attention = out.attentions[probe][0].mean(0)
        visual = ids[0] == IMAGE
        words = ~visual & (visual.cumsum(0) > 0) if text == "after" else ~visual
        tv = attention[words][:, visual].sum() / words.sum()
        vt = attention[visual][:, words].sum() / visual.sum()
        found.append((float(tv), float(vt)) if visual.any() else (0.0, 0.0))
    return torch.tensor(found).T


@pytest.mark.parametrize("text", ["after", "all"])
@torch.no_grad()
def test_stage_2_sees_the_shares_of_the_probed_layer(model, text):
    inputs = prompts(*ROWS)
    shares.pixels = inputs["pixel_values"]
    expected = shares(model, inputs, 1, text)
    handle = todre.patch_llava(model, ToDRE(retention=1.0, tau=0.0), probe=1, text=text)
    model(**inputs)
    torch.testing.assert_close(torch.stack(handle.ratios), expected, atol=2e-5, rtol=1e-4)
    if text == "after":
        assert handle.ratios[1][1] == 0  # vision never sees the question behind it
    assert handle.ratios[1][0] > 0  # the second image sees text behind the first


@torch.no_grad()
def test_prompts_of_a_batch_decide_for_themselves(model):
    inputs = prompts("tItt", "ttItttt")
    handle = todre.patch_llava(model, ToDRE(retention=0.25, tau=0.0), probe=1)
    model(**inputs)
    low, high = handle.ratios[0].sort().values.tolist()
    first = int(handle.ratios[0].argmin())
    assert low < high
    handle.policy = ToDRE(retention=0.25, tau=(low + high) / 2)
    out = model.generate(**inputs, **OPTIONS, **LOGITS)
    unpatch(model)
    rules = [{}, {}]
    rules[first] = {1: lambda places, hidden: places[:0]}
    check_steps(model, inputs, out, choices(model, inputs, 9), rules)


@torch.no_grad()
def test_all_visual_tokens_leave_the_layers_above_and_their_caches(model):
    inputs = prompts("ttItt", "tIt")
    todre.patch_llava(model, ToDRE(retention=0.1, tau=2.0), probe=0)
    out = model.generate(**inputs, **OPTIONS, **LOGITS)
    unpatch(model)
    assert [layer.keys.shape[2] for layer in caches(out)] == [4 + 4 + 2, 4 + 2, 4 + 2]
    check_steps(model, inputs, out, choices(model, inputs, 4), [{0: lambda places, hidden: places[:0]}] * 2)


@torch.no_grad()
def test_tau_zero_never_prunes_and_above_one_always(model):
    inputs = prompts(*ROWS)
    logits, ids = model(**inputs).logits, model.generate(**inputs, **OPTIONS, num_beams=2)
    handle = todre.patch_llava(model, ToDRE(retention=1.0, tau=0.0))
    assert torch.equal(model(**inputs).logits, logits)
    assert torch.equal(model.generate(**inputs, **OPTIONS, num_beams=2), ids)
    assert handle.kept is None
    handle.policy = ToDRE(retention=1.0, tau=1.5)
    model(**inputs)
    ids = inputs["input_ids"].gather(1, handle.kept.clamp_min(0))
    assert not ((ids == IMAGE) & (handle.kept >= 0)).any()


@torch.no_grad()
def test_pruning_after_the_last_layer_leaves_the_text_logits_unchanged(model):
    inputs = prompts(*ROWS)
    logits = model(**inputs).logits
    handle = todre.patch_llava(model, ToDRE(retention=1.0, tau=2.0), probe=-1)
    out = model(**inputs).logits
    kept = handle.kept
    for row in range(3):
        own = kept[row][kept[row] >= 0]
        assert torch.equal(inputs["input_ids"][row, own] == IMAGE, torch.zeros(len(own), dtype=torch.bool))
        assert torch.equal(out[row, kept[row] >= 0], logits[row, own])


@torch.no_grad()
def test_the_probed_layer_is_at_seven_eighths():
    assert todre.patch_llava(tiny(layers=8)).probe == 6
    assert todre.patch_llava(tiny(layers=3)).probe == 1


@torch.no_grad()
def test_a_tower_without_class_token_and_a_decoder_that_norms_its_heads():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    vision = SiglipVisionConfig(**sizes, image_size=24, patch_size=4)
    words = Qwen3Config(**sizes, vocab_size=99, num_key_value_heads=2, head_dim=8)
    options = {"image_token_index": IMAGE, "vision_feature_select_strategy": "full"}
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=words, **options)).eval()
    inputs = prompts(*ROWS)
    shares.pixels = inputs["pixel_values"]
    expected = shares(model, inputs, 1, "after")
    handle = todre.patch_llava(model, ToDRE(retention=1.0, tau=0.0), probe=1)
    model(**inputs)
    torch.testing.assert_close(torch.stack(handle.ratios), expected, atol=2e-5, rtol=1e-4)
    handle.policy, handle.generator = ToDRE(retention=0.1), torch.Generator().manual_seed(3)
    assert model.generate(**inputs, **OPTIONS).shape[1] == inputs["input_ids"].shape[1] + 3


def test_bad_settings_are_refused(model):
    for changes, message in [({"probe": 3}, "layer expected one of 3"), ({"text": "none"}, "text must be")]:
        with pytest.raises(ValueError, match=message):
            todre.patch_llava(model, **changes)
    with pytest.raises(ValueError, match="model expected a LLaVA"):
        todre.patch_llava(model.model.language_model)
    todre.patch_llava(model)
    with pytest.raises(ValueError, match="one token a patch"):
        model(**prompts("ttItt"), vision_feature_select_strategy="full")
