# SPDX-License-Identifier: Apache-2.0
"""SkipDecode: every law of the paper's list, on random models and on a small one that is trained."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
from del_cases import KINDS, LAYERS, plain, prompt, tiny, torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokernel.decoding import generate
from tokernel.decoding.skipdecode import (
    SkipDecode,
    SkipDecodeModel,
    SkipSchedule,
    active_layers,
    mean_depth,
    plan_for_speedup,
    skip_forward_train,
    skip_schedule,
)

DENSE = SkipSchedule(LAYERS, LAYERS, n_ref=8)
SHORT = SkipSchedule(5, 2, n_ref=6)
MODES = ("generated", "positional")


def decode(model, schedule, ids, count, mask=None):
    """Greedy tokens (B, count) and the logits each was read from (B, count, V)."""
    run = SkipDecodeModel(model, schedule)
    logits = [run.prefill(ids, mask, room=count)]
    tokens = [logits[0].argmax(-1)]
    while len(tokens) < count:
        logits.append(run.step(tokens[-1]))
        tokens.append(logits[-1].argmax(-1))
    return torch.stack(tokens, 1), torch.stack(logits, 1), run


# ---- what must be true


@pytest.mark.parametrize("kind", KINDS)
def test_all_layers_everywhere_is_the_dense_model(kind):
    model, ids = tiny(kind, branch=0.1), prompt(rows=2)
    tokens, logits, _ = decode(model, DENSE, ids, 12)
    assert tokens.tolist() == plain(model, ids, 12)
    with torch.no_grad():
        want = model(torch.cat([ids, tokens[:, :-1]], 1)).logits[:, 6:]
    torch.testing.assert_close(logits, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))


def test_all_layers_everywhere_gives_the_very_bits_of_the_models_own_cache():
    model, ids = tiny(branch=0.1), prompt(rows=2)
    tokens, logits, _ = decode(model, DENSE, ids, 6)
    with torch.no_grad():
        out = model(ids, use_cache=True, logits_to_keep=1)
        want = [out.logits[:, -1]]
        for column in range(5):
            out = model(tokens[:, column : column + 1], use_cache=True, **{_cache_name(out): out[1]})
            want.append(out.logits[:, -1])
    assert torch.equal(logits, torch.stack(want, 1))


def _cache_name(out):
    return "cache" if "cache" in out else "past_key_values"


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_depths_never_grow_and_layers_are_nested(data):
    layers = data.draw(st.integers(1, 40))
    warmup = data.draw(st.integers(0, layers))
    k_min = data.draw(st.integers(max(1, warmup), layers))
    k_max = data.draw(st.integers(k_min, layers))
    n_ref, n, given_ = (data.draw(st.integers(low, 60)) for low in (2, 0, 0))
    mode = data.draw(st.sampled_from(MODES))
    k = skip_schedule(layers, n, k_max, k_min, n_ref, warmup, mode, given_)
    assert k.dtype == np.int64
    assert k.shape == (n,)
    assert np.all(np.diff(k) <= 0)
    assert np.all((k >= k_min) & (k <= k_max))
    sets = [set(active_layers(int(depth), layers, warmup)) for depth in k]
    assert all(len(found) == depth for found, depth in zip(sets, k, strict=True))
    assert all(later <= earlier for earlier, later in itertools.pairwise(sets))


def test_an_opt_with_projections_and_late_norms():
    model = tiny("opt", branch=0.1, word_embed_proj_dim=16, do_layer_norm_before=False)
    ids = prompt(rows=2)
    tokens, logits, _ = decode(model, DENSE, ids, 8)
    assert tokens.tolist() == plain(model, ids, 8)
    with torch.no_grad():
        whole = skip_forward_train(model, torch.cat([ids, tokens[:, :-1]], 1), DENSE, prompt=7)
    torch.testing.assert_close(logits, whole[:, 6:], rtol=1e-5, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_decoding_with_caches_is_the_forward_pass_of_training(kind, mode):
    model, ids = tiny(kind, branch=0.1), prompt(rows=2)
    schedule = SkipSchedule(5, 2, n_ref=11, mode=mode)
    tokens, logits, _ = decode(model, schedule, ids, 9)
    with torch.no_grad():
        whole = skip_forward_train(model, torch.cat([ids, tokens[:, :-1]], 1), schedule, prompt=7)
    torch.testing.assert_close(logits, whole[:, 6:], rtol=1e-5, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("mode", MODES)
def test_a_layer_in_use_holds_every_earlier_column(mode):
    model, ids = tiny(), prompt(rows=2)
    schedule = SkipSchedule(5, 2, n_ref=15, mode=mode)
    run = SkipDecodeModel(model, schedule)
    seen = []
    tokens = run.prefill(ids, room=9).argmax(-1)
    for column in range(7, 16):
        depth = schedule.depths(LAYERS, column + 1, 7)[column]
        in_use = active_layers(depth, LAYERS)
        assert [run.cache.lengths[layer] for layer in in_use] == [column] * depth
        before = list(run.cache.lengths)
        tokens = run.step(tokens).argmax(-1)
        grown = [now - then for now, then in zip(run.cache.lengths, before, strict=True)]
        assert grown == [int(layer in in_use) for layer in range(LAYERS)]
        seen.append(depth)
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) > 2
    counts = [sum(layer in active_layers(k, LAYERS) for k in run.depths) for layer in range(LAYERS)]
    assert run.cache.lengths == counts


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_sequences(kind):
    model, ids = tiny(kind, branch=0.1), prompt(rows=3)
    tokens, logits, _ = decode(model, SHORT, ids, 9)
    for row in range(3):
        alone, its, _ = decode(model, SHORT, ids[row : row + 1], 9)
        assert torch.equal(alone[0], tokens[row])
        torch.testing.assert_close(its[0], logits[row], rtol=1e-5, atol=1e-5 * float(its.abs().max()))


@pytest.mark.parametrize("mode", MODES)
def test_layers_are_called_as_often_as_the_schedule_says(mode):
    model, ids = tiny(), prompt(rows=2)
    calls = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda _, args, __: calls.append(args[0].shape[1]))
    schedule = SkipSchedule(5, 2, n_ref=11, mode=mode)
    _, _, run = decode(model, schedule, ids, 12)
    columns = 7 + 12 - 1
    depths = schedule.depths(LAYERS, columns, 7)
    assert run.depths == depths.tolist()
    assert sum(calls) == run.layer_calls == depths.sum()
    assert LAYERS * columns / run.layer_calls == pytest.approx(LAYERS / mean_depth(depths), rel=1e-12)


@pytest.mark.parametrize(("k", "warmup", "kept"), [(3, 0, slice(3, 6)), (3, 3, slice(0, 3))], ids=["top", "bottom"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_no_warmup_is_the_top_and_nothing_else_the_bottom(kind, k, warmup, kept):
    model, ids = tiny(kind, branch=0.1), prompt(rows=2)
    tokens, logits, _ = decode(model, SkipSchedule(k, k, 4, warmup), ids, 5)
    cut = copy.deepcopy(model)
    base = cut.base_model
    name = "h" if kind == "gpt2" else "layers"
    setattr(base, name, getattr(base, name)[kept])
    cut.config.num_hidden_layers = k
    with torch.no_grad():
        want = cut(torch.cat([ids, tokens[:, :-1]], 1), use_cache=False).logits[:, 6:]
    torch.testing.assert_close(logits, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))


class Language:
    """Texts in which the two last symbols decide what may follow."""

    def __init__(self, symbols=8, length=16):
        self.draw = torch.Generator().manual_seed(0)
        table = torch.softmax(2.5 * torch.randn(symbols, symbols, symbols, generator=self.draw), -1)
        x = torch.randint(0, symbols, (4096, 2), generator=self.draw)
        while x.shape[1] < length:
            x = torch.cat([x, torch.multinomial(table[x[:, -2], x[:, -1]], 1, generator=self.draw)], 1)
        self.held, self.given = x[:256], x[256:]

    def train(self, model, forward, steps):
        torch.manual_seed(0)
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            x = self.given[torch.randint(0, len(self.given), (16,), generator=self.draw)]
            optimiser.zero_grad()
            self.loss(forward(model, x), x).backward()
            optimiser.step()
            rate.step()

    def loss(self, logits, x):
        return torch.nn.functional.cross_entropy(logits[:, 1:-1].flatten(0, 1), x[:, 2:].flatten())

    @torch.no_grad()
    def perplexity(self, model, forward):
        return float(self.loss(forward(model, self.held), self.held).exp())


def test_fine_tuning_with_the_schedule_keeps_what_skipping_alone_loses():
    language = Language()
    plan = plan_for_speedup(LAYERS, 16, s=2)
    schedule = SkipSchedule(plan.k_max, plan.k_min, 16, mode="positional")
    assert LAYERS / mean_depth(schedule.depths(LAYERS, 16)) == 2

    def dense(model, x):
        return model(x).logits

    def skipping(model, x):
        return skip_forward_train(model, x, schedule)

    model = tiny(vocab=8, branch=1.0)
    model.apply(
        lambda m: torch.nn.init.normal_(m.weight, 0, 0.02) if hasattr(m, "weight") and m.weight.dim() > 1 else m
    )
    language.train(model, dense, 200)
    tuned = copy.deepcopy(model)
    language.train(model, dense, 120)
    untuned = language.perplexity(model, skipping)
    language.train(tuned, skipping, 120)
    full, short = language.perplexity(model, dense), language.perplexity(tuned, skipping)
    print(full, untuned, short)
    assert full < 5.5  # of 8 symbols: it has learnt something
    assert untuned > 1.25 * full
    assert short < 1.12 * full


# ---- schedules


def test_the_line_of_depths():
    assert skip_schedule(24, 5, 24, 4, n_ref=5).tolist() == [24, 19, 14, 9, 4]
    assert skip_schedule(24, 4, 5, 4, n_ref=3).tolist() == [5, 5, 4, 4]  # 4.5 rounds up
    assert skip_schedule(24, 6, 5, 3, 3, prompt=3).tolist() == [5, 5, 5, 5, 4, 3]
    assert skip_schedule(24, 6, 5, 3, 3, mode="positional", prompt=3).tolist() == [5, 4, 3, 3, 3, 3]
    assert skip_schedule(24, 0, 5, 3, 3).shape == (0,)


def test_longer_texts_run_the_fewest_layers_for_ever():
    assert set(skip_schedule(24, 5000, 12, 4, n_ref=100)[100:]) == {4}


def test_depth_counts_warmup_layers_and_the_top_always_runs():
    assert active_layers(4, 12, warmup=2) == [0, 1, 10, 11]
    assert active_layers(12, 12, warmup=3) == list(range(12))
    assert active_layers(0, 12, warmup=0) == []


@pytest.mark.parametrize("s", [1, 1.5, 2, 3, 4, 5])
@pytest.mark.parametrize("layers", [6, 24, 32])
def test_a_plan_has_the_mean_it_was_asked_for(layers, s):
    if s == 5 and layers == 6:
        with pytest.raises(ValueError, match=r"plan_for_speedup: s expected reachable"):
            plan_for_speedup(layers, 64, s)
        return
    plan = plan_for_speedup(layers, 64, s)
    assert plan.k_min >= 2
    # Means come in halves; a quarter of 6 layers is less than the two that must run.
    assert abs(mean_depth(plan.depths(layers, 64)) - layers / s) <= (0.5 if layers == 6 else 0.26)


def test_a_plan_keeps_what_is_given():
    assert plan_for_speedup(24, 64, 2, k_max=20) == SkipSchedule(20, 4, 64)
    assert plan_for_speedup(24, 64, 2, k_min=10) == SkipSchedule(14, 10, 64)
    assert plan_for_speedup(24, 64, 2, k_max=12, k_min=12) == SkipSchedule(12, 12, 64)
    with pytest.raises(ValueError, match=r"s expected reachable with 24 layers, k_max 4, k_min None; got 2"):
        plan_for_speedup(24, 64, 2, k_max=4)


# ---- around it


@pytest.mark.parametrize("kind", KINDS)
def test_padded_rows_are_what_they_are_alone(kind):
    """Schedules go by column, positions by row: with depths counted from the answer, padding changes nothing."""
    model, ids = tiny(kind, branch=0.1), prompt(rows=2)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    tokens, logits, _ = decode(model, SHORT, ids, 9, mask)
    for row, its in enumerate((ids[:1, 3:], ids[1:])):
        alone, want, _ = decode(model, SHORT, its, 9)
        assert torch.equal(alone[0], tokens[row])
        torch.testing.assert_close(logits[row], want[0], rtol=1e-5, atol=1e-5 * float(want.abs().max()))
    with torch.no_grad():
        text, seen = torch.cat([ids, tokens[:, :-1]], 1), torch.cat([mask, torch.ones(2, 8, dtype=torch.long)], 1)
        whole = skip_forward_train(model, text, SHORT, prompt=7, attention_mask=seen)
    torch.testing.assert_close(logits, whole[:, 6:], rtol=1e-5, atol=1e-5 * float(whole.abs().max()))


def test_eager_attention_with_padding():
    model, ids = tiny(branch=0.1), prompt(rows=2)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    want = decode(model, SHORT, ids, 9, mask)[1]
    model.set_attn_implementation("eager")
    found = decode(model, SHORT, ids, 9, mask)[1]
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))


def test_generate_by_name_by_schedule_and_by_model():
    model = tiny(branch=0.1)
    ids = prompt(rows=3, length=9)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    mask[2, 6:] = 0
    assert generate(model, ids, SkipDecode(DENSE), max_new_tokens=9).sequences[:, 9:].tolist() == plain(model, ids, 9)
    method = SkipDecode(SHORT)
    out = generate(model, ids, method, max_new_tokens=12, attention_mask=mask)
    for row, its in enumerate((ids[:1], ids[1:2, 4:], ids[2:, :6])):
        assert out.new_tokens(row) == decode(model, SHORT, its, 12)[0][0].tolist()
    again = SkipDecodeModel(model, SHORT).generate(ids, max_new_tokens=12, attention_mask=mask)
    assert torch.equal(again.sequences, out.sequences)
    named = generate(model, ids, "skipdecode", max_new_tokens=12)
    planned = SkipDecode(plan_for_speedup(LAYERS, 12, 2.0))
    assert torch.equal(named.sequences, generate(model, ids, planned, max_new_tokens=12).sequences)


def test_finished_rows_leave_the_batch():
    model, ids = tiny(branch=0.1), prompt(rows=3)
    text = decode(model, SHORT, ids, 14)[0].tolist()
    stops = {text[0][3], text[2][6]}
    out = generate(model, ids, SkipDecode(SHORT), max_new_tokens=14, stop_tokens=stops)
    for row in range(3):
        end = next((at + 1 for at, token in enumerate(text[row]) if token in stops), 14)
        assert out.new_tokens(row) == text[row][:end]
    assert len(set(out.lengths.tolist())) > 1


def test_sampling_follows_its_seed():
    model, ids = tiny(branch=0.1), prompt(rows=2)
    texts = []
    for seed in (1, 1, 2):
        draw = torch.Generator().manual_seed(seed)
        out = generate(model, ids, SkipDecode(SHORT), max_new_tokens=12, temperature=1.0, generator=draw)
        texts.append(out.sequences.tolist())
    assert texts[0] == texts[1] != texts[2]


def test_gradients_reach_the_layers_that_ran():
    model, ids = tiny(), prompt(rows=2)
    model.train()
    skip_forward_train(model, ids, SkipSchedule(3, 2, n_ref=4, mode="positional")).logsumexp(-1).sum().backward()
    ran = [layer.mlp.down_proj.weight.grad is not None for layer in model.model.layers]
    assert ran == [True, False, False, False, True, True]


def test_the_model_is_left_as_it_was():
    model, ids = tiny(), prompt()
    before, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    names = {n: set(vars(m)) for n, m in model.named_modules()}
    decode(model, SHORT, ids, 5)
    assert model.config.to_dict() == config
    assert {n: set(vars(m)) for n, m in model.named_modules()} == names
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((4, 5, 8), r"k_min expected in \[1, k_max\] .*; got 5 with k_max 4"),
        ((4, 0, 8, 0), r"k_min expected in \[1, k_max\] .*; got 0 with k_max 4"),
        ((4, 1, 8, 2), r"k_min expected in \[2, k_max\] .*; got 1 with k_max 4"),
        ((4, 2, 1), r"n_ref expected at least 2; got 1"),
        ((4, 2, 8, -1), r"warmup expected at least 0; got -1"),
        ((4, 2, 8, 1, "other"), r"mode expected 'generated' or 'positional'; got 'other'"),
    ],
)
def test_bad_schedules(args, message):
    with pytest.raises(ValueError, match=r"SkipSchedule: " + message):
        SkipSchedule(*args)


def test_bad_arguments():
    model, ids = tiny(), prompt()
    with pytest.raises(ValueError, match=r"k_max expected at most 6, the layers of the model; got 7"):
        SkipDecodeModel(model, SkipSchedule(7, 2, n_ref=4))
    with pytest.raises(ValueError, match=r"active_layers: k expected in \[1, 6\]; got 7"):
        active_layers(7, 6)
    with pytest.raises(ValueError, match=r"mean_depth: depths expected at least one position"):
        mean_depth([])
    with pytest.raises(ValueError, match=r"plan_for_speedup: s expected at least 1 and finite; got 0\.5"):
        plan_for_speedup(6, 8, 0.5)
    with pytest.raises(ValueError, match=r"skip_forward_train: prompt expected in \[0, 7\]; got 8"):
        skip_forward_train(model, ids, SHORT, prompt=8)
    with pytest.raises(ValueError, match=r"input_ids expected \(B, N\) with N at least 1; got \(1, 0\)"):
        skip_forward_train(model, ids[:, :0], SHORT)
    with pytest.raises(ValueError, match=r"attention_mask expected \(1, 7\); got \(1, 6\)"):
        skip_forward_train(model, ids, SHORT, attention_mask=ids[:, 1:])
    with pytest.raises(TypeError, match=r"skipdecode: model expected a causal language model"):
        SkipDecodeModel(torch.nn.Linear(2, 2), SHORT)
    with pytest.raises(ValueError, match=r"skipdecode: model expected in evaluation mode"):
        SkipDecodeModel(tiny().train(), SHORT)
    run = SkipDecodeModel(model, SHORT)
    run.prefill(ids, room=1)
    run.step(ids[:, 0])
    with pytest.raises(ValueError, match=r"step expected within 8 columns; got one more"):
        run.step(ids[:, 0])
    assert (run.cache.lengths[0], len(run.depths), run.valid.shape) == (8, 8, (1, 8))
    with pytest.raises(ValueError, match=r"tokens expected \(1,\); got \(1, 7\)"):
        run.step(ids)
    with pytest.raises(ValueError, match=r"step expected behind a prefill"):
        SkipDecodeModel(model, SHORT).step(ids[:, 0])
    for mask in ([1, 1, 1, 1, 1, 1, 0], [0, 1, 0, 1, 1, 1, 1], [0] * 7):
        with pytest.raises(ValueError, match=r"attention_mask expected padding on the left"):
            run.prefill(ids, torch.tensor([mask]))
