# SPDX-License-Identifier: Apache-2.0
"""A tiny LLaVA with random weights, prompts for it, and its pruned forward pass written out plainly."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

IMAGE, PAD, PATCHES = 98, 0, 36


def tiny(attention: str = "sdpa", layers: int = 3) -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    heads = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    vision = CLIPVisionConfig(**heads, num_hidden_layers=3, image_size=24, patch_size=4)
    text = LlamaConfig(
        **heads,
        vocab_size=99,
        num_hidden_layers=layers,
        num_key_value_heads=2,
        pad_token_id=PAD,
        bos_token_id=1,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE))
    with torch.no_grad():  # Larger weights: random attention is otherwise nearly uniform, and nothing matters.
        for parameter in model.parameters():
            parameter.mul_(3)
    model.set_attn_implementation(attention)
    return model.eval()


@cache
def shared(attention: str) -> LlavaForConditionalGeneration:
    """One :func:`tiny` for tests that leave it as it was."""
    return tiny(attention)


def prompts(*rows: str, seed: int = 1) -> dict[str, Tensor]:
    """Inputs of rows such as ``"tIttt"`` (t: a random word, I: an image), padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    ids = []
    for row in rows:
        words = torch.randint(3, IMAGE, (len(row),), generator=generator).tolist()
        ids.append(
            [w for word, kind in zip(words, row, strict=True) for w in ([word] if kind == "t" else [IMAGE] * PATCHES)]
        )
    longest = max(map(len, ids))
    images = sum(row.count("I") for row in rows)
    inputs = {
        "input_ids": torch.tensor([[PAD] * (longest - len(row)) + row for row in ids]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids]),
    }
    if images:
        inputs["pixel_values"] = torch.randn(images, 3, 24, 24, generator=generator)
    return inputs


def caches(out) -> list:
    """The caches of an output, layer by layer."""
    return (out["cache"] if "cache" in out else out["past_key_values"]).layers


def plain_logits(model, ids, features, before, inside=None, renumber=True):
    """Logits of the last token of one unpadded row, every layer and every token computed anew, without a cache.

    Args:
        model: an unpatched model.
        ids: (L) token ids, images as placeholders, and everything generated so far.
        features: list of (N, C), the row's images.
        before: for each image the places kept before the decoder.
        inside: layer -> function of the places of the visual tokens left in the shortened sequence, and of the hidden
            states that the layer put out, to the places kept.
    """
    inside = inside or {}
    hidden = model.model.get_input_embeddings()(ids)
    visual = ids == IMAGE
    if features:
        hidden[visual] = torch.cat(features)
        keep = torch.ones(len(ids), dtype=torch.bool)
        kept = [torch.isin(torch.arange(len(f)), index) for f, index in zip(features, before, strict=True)]
        keep[visual] = torch.cat(kept)
        hidden, visual, place = hidden[keep], visual[keep], torch.arange(len(ids))[keep]
    else:
        place = torch.arange(len(ids))
    place = torch.arange(len(hidden)) if renumber else place
    hidden, place = hidden[None], place[None]
    decoder = model.model.language_model
    for index, layer in enumerate(decoder.layers):
        n = hidden.shape[1]
        mask = torch.full((n, n), torch.finfo(hidden.dtype).min, dtype=hidden.dtype).triu(1)[None, None]
        rotation = decoder.rotary_emb(hidden, place)
        hidden = layer(hidden, attention_mask=mask, position_ids=place, position_embeddings=rotation)
        if index in inside:
            keep = ~visual
            keep[inside[index](visual.nonzero()[:, 0], hidden[0])] = True
            hidden, place, visual = hidden[:, keep], place[:, keep], visual[keep]
    return model.lm_head(decoder.norm(hidden))[0, -1]


def features_of(model, inputs) -> list[list[Tensor]]:
    """The projected images of every row, from an unpatched model."""
    if "pixel_values" not in inputs:
        return [[] for _ in inputs["input_ids"]]
    images = list(model.model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output)
    return [[images.pop(0) for _ in range(int((row == IMAGE).sum()) // PATCHES)] for row in inputs["input_ids"]]
