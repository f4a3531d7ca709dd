# SPDX-License-Identifier: Apache-2.0
"""DivPrune in a live LLaVA, before and inside its decoder."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("transformers", reason="transformers is an extra")

from integrations.llava_cases import IMAGE, caches, features_of, plain_logits, prompts, tiny
from tokernel.integrations import unpatch
from tokernel.reduce import divprune

OPTIONS = {"max_new_tokens": 3, "do_sample": False, "suppress_tokens": [IMAGE]}


def farthest(x, k):
    """The greedy choice, distance by distance."""
    x = torch.nn.functional.normalize(x.double(), dim=-1)
    distance = 1 - x @ x.T
    chosen = [int(distance.clone().fill_diagonal_(torch.inf).min(0).values.argmax())]
    while len(chosen) < k:
        nearest = distance[chosen].min(0).values
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return torch.tensor(sorted(chosen[:k]))


def check_steps(model, inputs, out, before, rules):
    """Every step's logits, against the plain computation of every row; `before` says what an image keeps."""
    length = inputs["input_ids"].shape[1]
    for row, images in enumerate(features_of(model, inputs)):
        start = int((inputs["attention_mask"][row] == 0).sum())
        kept = [before(image) for image in images]
        for step, logits in enumerate(out.logits):
            ids = out.sequences[row, start : length + step]
            expected = plain_logits(model, ids, images, kept, rules)
            torch.testing.assert_close(logits[row], expected, atol=3e-4, rtol=3e-4)


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request):
    return tiny(request.param)


@pytest.mark.parametrize("rows", [("ttItt",), ("tIttItt", "ttItt", "tt")], ids=["one", "uneven"])
@torch.no_grad()
def test_before_the_decoder(model, rows):
    inputs = prompts(*rows)
    divprune.patch_llava(model, ratio=0.1)
    out = model.generate(**inputs, **OPTIONS, output_logits=True, return_dict_in_generate=True)
    unpatch(model)
    check_steps(model, inputs, out, lambda image: farthest(image, 4), {})


@pytest.mark.parametrize("rows", [("ttItt",), ("tIttItt", "ttItt", "tt")], ids=["one", "uneven"])
@pytest.mark.parametrize("layer", [0, -2])
@torch.no_grad()
def test_after_a_layer_of_the_decoder(model, rows, layer):
    inputs = prompts(*rows)
    divprune.patch_llava(model, k=5, layer=layer)
    out = model.generate(**inputs, **OPTIONS, output_logits=True, return_dict_in_generate=True)
    unpatch(model)
    longest = max(row.count("t") + 5 * row.count("I") for row in rows) + 2
    full = inputs["input_ids"].shape[1] + 2
    assert [x.keys.shape[2] for x in caches(out)] == [full] * (layer % 3 + 1) + [longest] * (2 - layer % 3)

    def rule(places, hidden):
        return torch.cat([own[farthest(hidden[own], 5)] for own in places.split(36)]) if len(places) else places

    check_steps(model, inputs, out, lambda image: torch.arange(36), {layer % 3: rule})


@pytest.mark.parametrize("layer", [None, 1])
@torch.no_grad()
def test_a_ratio_of_one_changes_no_bit(model, layer):
    inputs = prompts("tIttItt", "ttItt", "tt")
    logits, ids = model(**inputs).logits, model.generate(**inputs, **OPTIONS, num_beams=2)
    handle = divprune.patch_llava(model, ratio=1.0, layer=layer)
    assert torch.equal(model(**inputs).logits, logits)
    assert torch.equal(model.generate(**inputs, **OPTIONS, num_beams=2), ids)
    handle.k = 100
    assert torch.equal(model(**inputs).logits, logits)
    handle.k = 0
    assert model(**inputs).logits.shape[1] == 5
    unpatch(model)
    assert torch.equal(model(**inputs).logits, logits)


def test_gradients_reach_the_tokens_kept_alone():
    model, inputs = tiny(), prompts("ttItt")
    handle = divprune.patch_llava(model, ratio=0.1)
    seen = []
    model.model.multi_modal_projector.register_forward_hook(lambda *args: seen.append(args[-1]))
    out = model(**inputs)
    (gradient,) = torch.autograd.grad(out.logits.square().mean(), seen)
    kept = handle.kept[0] - 2
    kept = kept[(kept >= 0) & (kept < 36)]
    assert gradient[0].abs().sum(-1).nonzero()[:, 0].tolist() == kept.tolist()


def test_bad_settings_are_refused(model):
    for changes, message in [({"ratio": 1.1}, "ratio"), ({"k": -1}, "k"), ({"layer": 3}, "layer expected one of 3")]:
        with pytest.raises(ValueError, match=message):
            divprune.patch_llava(model, **changes)
