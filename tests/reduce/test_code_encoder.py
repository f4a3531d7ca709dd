# SPDX-License-Identifier: Apache-2.0
"""Segment merging inside tiny random RoBERTa and T5 models of transformers."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import Tensor, nn

from tokernel.reduce.code_token_merging import (
    LearnedSegmentMerger,
    patch_encoder,
    segment_mean,
    segment_restore,
    unpatch,
)

LAYERS = 3
ROBERTA = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "type_vocab_size": 1,
}
T5 = {
    "vocab_size": 50,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": LAYERS,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}

# 9, 6 and 7 real tokens; 6, 4 and 3 units.
IDS = torch.tensor([[0, 1, 1, 1, 2, 3, 4, 4, 5], [0, 1, 1, 2, 2, 3, -1, -1, -1], [0, 1, 1, 1, 1, 1, 2, -1, -1]])
MASK = (IDS >= 0).long()
TOKENS = torch.randint(3, 50, IDS.shape, generator=torch.Generator().manual_seed(0)).where(MASK.bool(), torch.tensor(1))
ALONE = (torch.arange(9).expand(3, -1)).where(MASK.bool(), torch.tensor(-1))


def roberta(kind: str = "RobertaModel", attention: str = "sdpa", **changes) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.RobertaConfig(**(ROBERTA | changes), attn_implementation=attention)
    return getattr(transformers, kind)(config).eval()


def t5(kind: str = "T5EncoderModel", attention: str = "sdpa") -> nn.Module:
    torch.manual_seed(0)
    return getattr(transformers, kind)(transformers.T5Config(**T5, attn_implementation=attention)).eval()


MODELS = [(roberta, "sdpa"), (roberta, "eager"), (t5, "sdpa"), (t5, "eager")]
each_model = pytest.mark.parametrize(
    ("make", "attention"), MODELS, ids=lambda v: v if isinstance(v, str) else v.__name__
)


@torch.no_grad()
def run(model: nn.Module, ids: Tensor | None = None, tokens: Tensor = TOKENS, mask: Tensor | None = MASK) -> Tensor:
    extra = {} if ids is None else {"segment_ids": ids}
    return model(input_ids=tokens, attention_mask=mask, **extra).last_hidden_state


# --- what must be true ----------------------------------------------------------------------------------------------


@each_model
@pytest.mark.parametrize("layer", [0, 1, LAYERS])
def test_segments_of_one_token_give_the_same_bits(make, attention: str, layer: int):
    model = make(attention=attention)
    whole, padded = run(model, tokens=TOKENS[:1], mask=None), run(model)
    patch_encoder(model, layer, segment_mean)
    assert torch.equal(run(model, torch.arange(9)[None], tokens=TOKENS[:1], mask=None), whole)
    assert torch.equal(run(model, ALONE)[MASK.bool()], padded[MASK.bool()])


def test_logits_of_a_classifier_are_the_same_bits():
    model = roberta("RobertaForSequenceClassification")
    with torch.no_grad():
        dense = model(TOKENS, attention_mask=MASK).logits
        patch_encoder(model, 1, segment_mean)
        assert torch.equal(model(TOKENS, attention_mask=MASK, segment_ids=ALONE).logits, dense)
        assert not torch.equal(model(TOKENS, attention_mask=MASK, segment_ids=IDS).logits, dense)


def test_merging_after_the_last_layer_only_pools():
    model = roberta()
    dense = run(model)
    patch_encoder(model, LAYERS, segment_mean)
    assert torch.equal(run(model, IDS), segment_mean(dense, IDS))


def test_merging_after_the_last_t5_layer_comes_before_the_final_norm():
    model = t5()
    before_norm: list[Tensor] = []
    model.encoder.final_layer_norm.register_forward_pre_hook(lambda m, args: before_norm.append(args[0]))
    run(model)
    patch_encoder(model, LAYERS, segment_mean)
    run(model, IDS)
    assert torch.equal(before_norm[1], segment_mean(before_norm[0], IDS))


@each_model
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_later_layers_see_one_state_a_unit(make, attention: str, layer: int):
    model = make(attention=attention)
    patch_encoder(model, layer, segment_mean)
    lengths: list[int] = []
    stack = model.encoder.layer if make is roberta else model.encoder.block
    for block in stack:
        part = block.attention if make is roberta else block.layer[0]
        part.register_forward_pre_hook(lambda m, args: lengths.append(args[0].shape[1]))
    assert run(model, IDS).shape == (3, 6, 16)
    assert lengths == [9] * layer + [6] * (LAYERS - layer)


@each_model
@pytest.mark.parametrize("layer", [0, 1])
def test_a_batch_of_different_units_equals_its_samples(make, attention: str, layer: int):
    model = make(attention=attention)
    patch_encoder(model, layer, segment_mean)
    together = run(model, IDS)
    for b in range(3):
        size = int(MASK[b].sum())
        alone = run(model, IDS[b : b + 1, :size], TOKENS[b : b + 1, :size], mask=None)
        torch.testing.assert_close(together[b, : alone.shape[1]], alone[0], atol=2e-6, rtol=1e-5)


@each_model
def test_padding_content_does_not_matter(make, attention: str):
    model = make(attention=attention)
    patch_encoder(model, 1, segment_mean)
    other = TOKENS.where(MASK.bool(), torch.tensor(7))
    # The positions of RoBERTa count tokens other than <pad>, which the real ones precede here.
    real = torch.arange(6) < IDS.amax(1, keepdim=True) + 1
    assert torch.equal(run(model, IDS)[real], run(model, IDS, tokens=other)[real])


@each_model
def test_merging_equals_the_model_run_by_hand(make, attention: str):
    """On one sample without padding: the layers called one by one, merged by index_add in between."""
    model, ids, tokens = make(attention=attention), IDS[:1], TOKENS[:1]
    with torch.no_grad():
        if make is roberta:
            h = model.embeddings(tokens)
            h = model.encoder.layer[0](h, None)
            h = torch.zeros(1, 6, 16).index_add(1, ids[0], h) / torch.bincount(ids[0])[None, :, None]
            for block in model.encoder.layer[1:]:
                h = block(h, None)
        else:
            blocks = model.encoder.block
            h = blocks[0](model.encoder.embed_tokens(tokens), None, None)[0]
            h = torch.zeros(1, 6, 16).index_add(1, ids[0], h) / torch.bincount(ids[0])[None, :, None]
            bias = blocks[0].layer[0].SelfAttention.compute_bias(6, 6)
            for block in blocks[1:]:
                h = block(h, None, bias)[0]
            h = model.encoder.final_layer_norm(h)
    patch_encoder(model, 1, segment_mean)
    torch.testing.assert_close(run(model, ids, tokens, mask=None), h, atol=2e-6, rtol=1e-5)


# --- restoring, training, decoding ----------------------------------------------------------------------------------


@each_model
def test_restored_outputs_are_copies_of_their_unit(make, attention: str):
    model = make(attention=attention)
    patch_encoder(model, 1, segment_mean)
    units = run(model, IDS)
    unpatch(model)
    patch_encoder(model, 1, segment_mean, restore=True)
    restored = run(model, IDS)
    assert restored.shape == (3, 9, 16)
    torch.testing.assert_close(restored[MASK.bool()], segment_restore(units, IDS)[MASK.bool()], atol=1e-6, rtol=1e-5)


def test_a_token_level_head_answers_for_every_subtoken():
    model = roberta("RobertaForMaskedLM")
    patch_encoder(model, 2, segment_mean, restore=True)
    with torch.no_grad():
        logits = model(TOKENS, attention_mask=MASK, segment_ids=IDS).logits
    assert logits.shape == (3, 9, 50)
    assert torch.equal(logits[0, 1], logits[0, 3])


def test_a_learnt_merger_is_trained_with_the_task():
    model = roberta("RobertaForSequenceClassification")
    names = [n for n, _ in model.named_parameters()]
    merger = LearnedSegmentMerger(16, hidden=8)
    patch_encoder(model, 1, merger)
    assert {n for n, _ in model.named_parameters()} - set(names) == {
        f"roberta.encoder.segment_merger.{n}" for n, _ in merger.named_parameters()
    }
    before = merger.score[-1].weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(TOKENS, attention_mask=MASK, segment_ids=IDS, labels=torch.tensor([0, 1, 0])).loss.backward()
    optimizer.step()
    assert not torch.equal(merger.score[-1].weight, before)
    unpatch(model)
    assert [n for n, _ in model.named_parameters()] == names


def test_a_t5_decoder_attends_to_the_units_only():
    model = t5("T5ForConditionalGeneration")
    decoder_tokens = torch.tensor([[0, 5, 6]] * 3)
    patch_encoder(model, 1, segment_mean)
    with torch.no_grad():
        together = model(TOKENS, attention_mask=MASK, decoder_input_ids=decoder_tokens, segment_ids=IDS)
        assert together.encoder_last_hidden_state.shape[1] == 6
        for b in range(3):
            size = int(MASK[b].sum())
            one = model(
                TOKENS[b : b + 1, :size], decoder_input_ids=decoder_tokens[:1], segment_ids=IDS[b : b + 1, :size]
            )
            torch.testing.assert_close(together.logits[b], one.logits[0], atol=1e-5, rtol=1e-5)


def test_generation_takes_segment_ids():
    model = t5("T5ForConditionalGeneration")
    patch_encoder(model, 1, segment_mean)
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": 2}
    together = model.generate(TOKENS, attention_mask=MASK, segment_ids=IDS, **options)
    for b in range(3):
        size = int(MASK[b].sum())
        one = model.generate(TOKENS[b : b + 1, :size], segment_ids=IDS[b : b + 1, :size], **options)
        assert together[b, : one.shape[1]].tolist() == one[0].tolist()


# --- T5's positions -------------------------------------------------------------------------------------------------


def test_positions_of_first_subtokens():
    model, ids = t5(), IDS[:1]
    patch = patch_encoder(model, 1, segment_mean, positions="first")
    seen: list[Tensor] = []
    model.encoder.block[2].layer[0].register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(kwargs["position_bias"]), with_kwargs=True
    )
    run(model, ids, TOKENS[:1])
    first = [0, 1, 4, 5, 6, 8]
    full = model.encoder.block[0].layer[0].SelfAttention.compute_bias(9, 9)
    assert torch.equal(seen[0], full[:, :, first][:, :, :, first])
    assert patch.positions == "first"
    # With one subtoken a unit both ways of counting agree.
    dense = run(t5(), tokens=TOKENS[:1], mask=None)
    assert torch.equal(run(model, torch.arange(9)[None], TOKENS[:1], mask=None), dense)


# --- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_mask_of_token_pairs_becomes_one_of_unit_pairs(attention: str):
    """GraphCodeBERT: data-flow nodes, never merged, see the code tokens that they come from and are seen by them."""
    model, ids = roberta(attention=attention), torch.tensor([[0, 1, 1, 2, 3, 4, 5, -1]])
    tokens = torch.arange(8)[None] + 5
    pairs = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    pairs[..., :5, :5] = True  # code sees code
    pairs[..., 5, 2] = pairs[..., 2, 5] = True  # node 5 comes from the second subtoken of the unit 1
    pairs[..., 6, 4] = pairs[..., 4, 6] = True
    pairs[..., torch.arange(7), torch.arange(7)] = True
    unit_pairs = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    unit_pairs[..., :4, :4] = True
    unit_pairs[..., 4, 1] = unit_pairs[..., 1, 4] = unit_pairs[..., 5, 3] = unit_pairs[..., 3, 5] = True
    unit_pairs[..., torch.arange(6), torch.arange(6)] = True

    def form(mask: Tensor) -> Tensor:
        smallest = torch.finfo(torch.float32).min
        return mask if attention == "sdpa" else torch.zeros(mask.shape).masked_fill(~mask, smallest)

    with torch.no_grad():
        h = model.encoder.layer[0](model.embeddings(tokens), form(pairs))
        h = segment_mean(h, ids)
        for block in model.encoder.layer[1:]:
            h = block(h, form(unit_pairs))
        patch_encoder(model, 1, segment_mean)
        merged = model(tokens, attention_mask=form(pairs), segment_ids=ids).last_hidden_state
    torch.testing.assert_close(merged, h, atol=1e-6, rtol=1e-5)


def test_padding_units_under_a_pair_mask_are_not_nan():
    model, ids = roberta(), IDS
    pairs = (MASK[:, None, :, None] * MASK[:, None, None, :]).bool()
    patch_encoder(model, 0, segment_mean)
    with torch.no_grad():
        out = model(TOKENS, attention_mask=pairs, segment_ids=ids).last_hidden_state
    assert out.isfinite().all()
    torch.testing.assert_close(out[0], run(model, ids)[0], atol=1e-6, rtol=1e-5)


# --- patching -------------------------------------------------------------------------------------------------------


@each_model
def test_without_segments_a_patched_model_runs_as_before(make, attention: str):
    model = make(attention=attention)
    dense = run(model)
    patch_encoder(model, 1, segment_mean)
    run(model, IDS)
    assert torch.equal(run(model), dense)


def snapshot(model: nn.Module) -> list[tuple[str, list[str], int]]:
    return [
        (name, sorted(vars(module)), len(module._forward_hooks) + len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("make", [lambda: roberta("RobertaForMaskedLM"), lambda: t5("T5ForConditionalGeneration")])
def test_unpatch_leaves_nothing_behind(make):
    model = make()
    before = snapshot(model)
    patch_encoder(model, 1, LearnedSegmentMerger(16))
    assert snapshot(model) != before
    unpatch(model)
    assert snapshot(model) == before
    unpatch(model)


def test_a_copy_of_a_patched_model_is_patched_on_its_own():
    model = roberta()
    patch_encoder(model, 1, LearnedSegmentMerger(16))
    twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    unpatch(model)
    assert [run(twin, IDS).shape for twin in twins] == [(3, 6, 16)] * 2
    assert run(model).shape == (3, 9, 16)


def test_the_signature_names_segment_ids():
    """transformers' Trainer keeps the columns of a batch that the signature names."""
    model = roberta("RobertaForSequenceClassification")
    dense = list(inspect.signature(model.forward).parameters)
    patch_encoder(model, 1, segment_mean)
    patched = list(inspect.signature(model.forward).parameters)
    assert set(patched) - set(dense) == {"segment_ids"}


def test_a_failed_forward_forgets_its_segments():
    model = roberta()
    patch = patch_encoder(model, 1, segment_mean)
    with pytest.raises(ValueError, match="segment_ids expected shape"):
        run(model, IDS[:, :8])
    assert patch.segments is None
    assert run(model).shape == (3, 9, 16)


@pytest.mark.parametrize(
    "ids",
    [
        torch.tensor([[0, 2, 2]]),
        torch.tensor([[1, 1, 2]]),
        torch.tensor([[0, 1, 0]]),
        torch.tensor([[0, -1, 1]]),
        torch.tensor([[0, 1, -2]]),
        torch.tensor([[0.0, 1.0, 2.0]]),
        torch.tensor([0, 1, 2]),
    ],
)
def test_segments_that_are_none_are_refused(ids: Tensor):
    model = roberta()
    patch_encoder(model, 1, segment_mean)
    with pytest.raises(ValueError, match="patch_encoder: segment_ids expected"):
        run(model, ids, TOKENS[:1, :3], mask=None)


def test_models_and_arguments_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match="model expected a RoBERTa-like or T5 model of transformers; got Linear"):
        patch_encoder(nn.Linear(2, 2), 0, segment_mean)
    with pytest.raises(ValueError, match=r"layer expected in \[0, 3\]; got 4"):
        patch_encoder(roberta(), 4, segment_mean)
    with pytest.raises(ValueError, match="positions expected 'unit' or 'first'; got 'last'"):
        patch_encoder(t5(), 0, segment_mean, positions="last")
    with pytest.raises(ValueError, match="expected an encoder; got a causal decoder"):
        patch_encoder(roberta(is_decoder=True), 0, segment_mean)
    model = roberta("RobertaForMaskedLM")
    patch_encoder(model, 0, segment_mean)
    with pytest.raises(ValueError, match="got one patched through another module"):
        patch_encoder(model.roberta, 0, segment_mean)


def test_a_second_patch_takes_the_place_of_the_first():
    model = roberta()
    before = snapshot(model)
    patch_encoder(model, 0, LearnedSegmentMerger(16))
    patch_encoder(model, 1, segment_mean)
    twin = roberta()
    patch_encoder(twin, 1, segment_mean)
    assert torch.equal(run(model, IDS), run(twin, IDS))
    unpatch(model)
    assert snapshot(model) == before


def test_gradient_checkpointing_is_refused():
    model = roberta().train()
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    patch_encoder(model, 1, segment_mean)
    with pytest.raises(ValueError, match="gradient checkpointing expected off"):
        run(model, IDS)
