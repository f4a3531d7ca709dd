# SPDX-License-Identifier: Apache-2.0
"""HiPrune behind live towers and inside live LLaVAs."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("transformers", reason="transformers is an extra")

from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from integrations.llava_cases import IMAGE, features_of, plain_logits, prompts, tiny
from tokernel.integrations import unpatch
from tokernel.reduce import hiprune

SIZES = {"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 48}
PICTURE = {"image_size": 24, "patch_size": 4}


def sharper(model):
    with torch.no_grad():  # Larger weights: random attention is otherwise nearly uniform.
        for parameter in model.parameters():
            parameter.mul_(3)
    return model.eval()


def clip():
    torch.manual_seed(0)
    return sharper(CLIPVisionModel(CLIPVisionConfig(**SIZES, **PICTURE)))


def siglip():
    torch.manual_seed(0)
    return sharper(SiglipVisionModel(SiglipVisionConfig(**SIZES, **PICTURE)))


def stored(tower, pixels, class_token, layer, deep, budget, alpha):
    """The choice from the maps that the tower itself stores."""
    tower.set_attn_implementation("eager")
    maps = tower(pixels, output_attentions=True).attentions
    mid, last = (hiprune.attention_received(maps[i], class_token) for i in (layer, deep))
    return hiprune.hiprune_select(mid, last, (6, 6), budget, alpha)


@pytest.mark.parametrize(("make", "class_token"), [(clip, True), (siglip, False)], ids=["clip", "siglip"])
@pytest.mark.parametrize("deep", [-2, -1, 4])
@torch.no_grad()
def test_a_tower_is_pruned_by_the_attention_that_it_computes(make, class_token, deep):
    tower, pixels = make(), torch.randn(2, 3, 24, 24)
    full = tower(pixels, output_hidden_states=True).hidden_states[deep][:, int(class_token) :]
    out = hiprune.HiPrune(tower, budget=10, alpha=0.5, deep_layer=deep)(pixels)
    expected = stored(tower, pixels, class_token, 1, deep if deep < 0 else deep - 1, 10, 0.5)
    assert torch.equal(out.mask, expected)
    assert torch.equal(out.features, torch.stack([x[m] for x, m in zip(full, expected, strict=True)]))
    assert torch.equal(torch.zeros_like(out.mask).scatter_(1, out.index, True), out.mask)
    assert not any(part._forward_hooks for name, part in tower.named_modules() if "proj" in name)


@torch.no_grad()
def test_an_object_layer_of_ones_own():
    tower, pixels = clip(), torch.randn(1, 3, 24, 24)
    out = hiprune.HiPrune(tower, 10, 0.9, object_layer=4)(pixels)
    assert torch.equal(out.mask, stored(tower, pixels, True, 3, -2, 10, 0.9))


def test_the_papers_layer_of_a_large_tower_is_the_ninth():
    tower = CLIPVisionModel(CLIPVisionConfig(**SIZES | {"num_hidden_layers": 24}, **PICTURE))
    assert hiprune.HiPrune(tower, 10)._rule.object_layer == 9
    assert hiprune.HiPrune(tower, 10)._rule.deep_layer == 22


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_llava_generates_from_the_chosen_tokens(attention):
    model = tiny(attention)
    inputs = prompts("ttIt", "tIttItt", "tt")
    options = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    options["suppress_tokens"] = [IMAGE]
    masks = stored(model.model.vision_tower, inputs["pixel_values"], True, 0, -2, 4, 0.9)
    model.set_attn_implementation(attention)
    features = features_of(model, inputs)
    hiprune.patch_llava(model, budget=4, alpha=0.9)
    out = model.generate(**inputs, **options)
    unpatch(model)
    chosen = [mask.nonzero()[:, 0] for mask in masks]
    length = inputs["input_ids"].shape[1]
    for row, images in enumerate(features):
        start = int((inputs["attention_mask"][row] == 0).sum())
        before = [chosen.pop(0) for _ in images]
        for step in range(3):
            expected = plain_logits(model, out.sequences[row, start : length + step], images, before)
            torch.testing.assert_close(out.logits[step][row], expected, atol=2e-4, rtol=2e-4)


@torch.no_grad()
def test_a_full_budget_changes_no_bit():
    model, inputs = tiny(), prompts("ttIt", "tIttItt", "tt")
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2, "suppress_tokens": [IMAGE]}
    logits, ids = model(**inputs).logits, model.generate(**inputs, **options)
    handle = hiprune.patch_llava(model, budget=36)
    assert torch.equal(model(**inputs).logits, logits)
    assert torch.equal(model.generate(**inputs, **options), ids)
    handle.budget = 1000
    assert torch.equal(model(**inputs).logits, logits)
    handle.budget = 4
    assert model(**inputs).logits.shape[1] < logits.shape[1]
    assert torch.isfinite(model(**inputs).logits).all()
    unpatch(model)
    assert torch.equal(model(**inputs).logits, logits)


def llava_next():
    torch.manual_seed(0)
    text = LlamaConfig(**SIZES, vocab_size=99, eos_token_id=None)
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**SIZES, **PICTURE),
        text_config=text,
        image_token_index=IMAGE,
        image_grid_pinpoints=[[24, 48], [48, 24], [48, 48]],
    )
    return sharper(LlavaNextForConditionalGeneration(config))


@pytest.mark.parametrize(("size", "crops", "grid"), [((20, 40), 3, (1, 2)), ((48, 48), 5, (2, 2))])
@torch.no_grad()
def test_llava_next_shares_the_budget_and_keeps_its_newlines(size, crops, grid):
    model = llava_next()
    pixels, sizes = torch.randn(1, crops, 3, 24, 24), torch.tensor([size])
    features = model.model.get_image_features(pixels, sizes, return_dict=True).pooler_output[0]
    ids = torch.tensor([[5, 6] + [IMAGE] * len(features) + [7]])
    inputs = {"input_ids": ids, "pixel_values": pixels, "image_sizes": sizes}
    logits = model(**inputs).logits
    handle = hiprune.patch_llava(model, budget=36 * crops)
    assert torch.equal(model(**inputs).logits, logits)
    handle.budget, handle.rule.alpha = 40, 0.5
    model(**inputs)
    kept = handle.kept[0] - 2
    unpatch(model)
    masks = stored(model.model.vision_tower, pixels[0], True, 1, -2, 40 // crops, 0.5)
    base, rest = masks[0], masks[1:].reshape(*grid, 6, 6).permute(0, 2, 1, 3).reshape(grid[0] * 6, grid[1] * 6)
    rows = (len(features) - 36) // (grid[1] * 6 + 1)
    off = (rest.shape[0] - rows) // 2
    rest = rest[off : off + rows]
    newline = torch.ones(rows, 1, dtype=torch.bool)
    expected = torch.cat([base, torch.cat([rest, newline], 1).flatten()]).nonzero()[:, 0]
    assert kept[2:-1].tolist() == expected.tolist()
    options = {"max_new_tokens": 3, "suppress_tokens": [IMAGE]}
    handle = hiprune.patch_llava(model, budget=40)
    assert model.generate(**inputs, **options).shape[1] == ids.shape[1] + 3


def test_what_does_not_fit_is_refused():
    model = tiny()
    for changes, message in [
        ({"budget": -1}, "budget"),
        ({"alpha": 2.0}, "alpha"),
        ({"object_layer": 0}, "object_layer expected in \\[1, 3\\]"),
        ({"object_layer": 4}, "object_layer expected"),
    ]:
        with pytest.raises(ValueError, match=message):
            hiprune.patch_llava(model, **{"budget": 4} | changes)
    with pytest.raises(ValueError, match="deep_layer expected"):
        hiprune.HiPrune(clip(), 4, deep_layer=-6)
    with pytest.raises(ValueError, match="tower expected one encoder"):
        hiprune.HiPrune(model.model.language_model, 4)
    with pytest.raises(ValueError, match="budget expected"):
        hiprune.patch_llava(model, 4).budget = -1
    vision, text = CLIPVisionConfig(**SIZES, **PICTURE), LlamaConfig(**SIZES, vocab_size=99)
    for changes, message in [
        ({"vision_feature_layer": [-1, -2]}, "vision_feature_layer expected one"),
        ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy expected"),
    ]:
        config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, **changes)
        with pytest.raises(ValueError, match=message):
            hiprune.patch_llava(LlavaForConditionalGeneration(config), 4)
