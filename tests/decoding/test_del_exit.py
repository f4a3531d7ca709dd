# SPDX-License-Identifier: Apache-2.0
"""DEL: the official controller's numbers, and every law of the paper's list."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from del_cases import KINDS, LAYERS, VOCAB, plain, prompt, tiny, torch

from tokernel.decoding import Sampling, generate
from tokernel.decoding.del_exit import (
    DELController,
    DelExit,
    accept_chain,
    accept_sampled,
    self_speculative_generate,
    shadow_tokens,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "del_exit"


class Scheduled(DELController):
    """Any schedule: the layer and the length of a draft are drawn, whatever the statistics say."""

    def __init__(self, layers: int, seed: int = 0, fixed: tuple[int, int] | None = None) -> None:
        super().__init__(layers)
        self.draw = np.random.default_rng(seed)
        self.fixed = fixed
        self.select()

    def select(self) -> tuple[int, int]:
        self.exit_layer = int(self.draw.integers(1, self.num_layers))
        self.gamma = int(self.draw.integers(0, 7))
        if self.fixed is not None:
            self.exit_layer, self.gamma = self.fixed
        return self.exit_layer, self.gamma


def session(model, ids, method=None, room=40, sampling=None):
    return (method or DelExit()).start(model, list(ids), sampling or Sampling(), room)


def run(model, ids, method=None, count=40, **settings):
    found = session(model, ids, method, count, **settings)
    text = []
    while len(text) < count:
        text += found.step([True])[0]
    return text, found.rows[0]


def filled(seen, layers=5, **settings):
    """A controller that has seen (matches, mismatches) of every layer."""
    controller = DELController(layers, **settings)
    controller.counts = np.array(seen, np.float32)
    return controller


# ---- the official code


@pytest.mark.parametrize("name", ["stats_l8", "stats_subset_gmin"])
def test_controller_follows_the_official_statistics(name):
    gold = np.load(GOLDEN / f"{name}.npz")
    settings = (int(gold["gamma_max"]), int(gold["gamma_min"]), float(gold["omega"]))
    controller = DELController(int(gold["num_layers"]), gold["eligible"].tolist(), *settings)
    for r, columns in enumerate(gold["round_len"]):
        tokens, conf = gold["shadow_tokens"][r, :, :columns], gold["shadow_conf"][r, :, :columns]
        controller.update(tokens, conf, int(gold["round_exit_layer"][r]), int(gold["round_context_len"][r]))
        assert np.array_equal(controller.counts, gold["counts"][r])
        # Sums of at most 18 float32 in another order, over at most 14 rounds.
        np.testing.assert_allclose(controller.confidence, gold["conf_sums"][r], rtol=32 * 2**-24, atol=1e-6)
        mean = controller.mean_confidence()
        np.testing.assert_allclose(np.where(np.isnan(mean), -1, mean), gold["avg_conf"][r], atol=1e-6)
        assert controller.select() == (gold["next_exit_layer"][r], gold["next_gamma"][r])


def test_shadow_pass_follows_the_official_run():
    gold = np.load(GOLDEN / "hidden_l6.npz")
    head, norm = torch.from_numpy(gold["lm_head"]), torch.from_numpy(gold["norm_weight"])
    controller = DELController(6, gamma_max=int(gold["gamma_max"]), omega=float(gold["omega"]))
    for r, columns in enumerate(gold["round_len"]):
        given = int(gold["round_input_len"][r])
        context = min(int(gold["prefill_window"]), given)
        hidden = torch.from_numpy(gold["hidden"][r])[:, given - context : columns]
        ids, prob = shadow_tokens(hidden, norm, float(gold["norm_eps"]), head)
        want = gold["target_tokens"][r]
        assert ids[-1, context:].tolist() == want[want >= 0].tolist()
        controller.update(ids, prob[:-1], int(gold["round_exit_layer"][r]), context)
        assert np.array_equal(controller.counts, gold["counts"][r])
        mean = controller.mean_confidence()
        np.testing.assert_allclose(np.where(np.isnan(mean), -1, mean), gold["avg_conf"][r], atol=1e-5)
        assert controller.select() == (gold["next_exit_layer"][r], gold["next_gamma"][r])


# ---- what must be true


@pytest.mark.parametrize("dynamic", [True, False], ids=["DDE", "DELE"])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_output_is_plain_greedy_decoding(kind, dynamic):
    model, ids = tiny(kind), prompt()
    text, row = run(model, ids, DelExit(dynamic=dynamic))
    assert text[:40] == plain(model, ids, 40)[0]
    assert sum(r.accepted for r in row.rounds) > 5
    assert any(r.accepted < r.drafted for r in row.rounds)


@pytest.mark.parametrize("length", [1, 2, 40])
def test_greedy_output_is_that_for_prompts_of_any_length(length):
    model, ids = tiny("gpt2", branch=0.02), prompt(length=length)
    assert run(model, ids)[0][:40] == plain(model, ids, 40)[0]


def test_early_layers_that_agree_save_layers():
    model = tiny(branch=0.003)
    text, row = run(model, prompt(), count=60)
    passes = sum(r.exit_layer * (r.drafted + 1) + LAYERS - r.exit_layer for r in row.rounds)
    assert passes < 0.5 * LAYERS * len(text)


@pytest.mark.parametrize("dynamic", [True, False], ids=["DDE", "DELE"])
@pytest.mark.parametrize("seed", range(3))
def test_greedy_output_is_that_for_any_schedule(seed, dynamic):
    model, ids = tiny(branch=0.02, seed=seed), prompt(seed=seed)
    text, row = run(model, ids, DelExit(dynamic=dynamic, controller=lambda count: Scheduled(count, seed)))
    assert text[:40] == plain(model, ids, 40)[0]
    assert len({r.exit_layer for r in row.rounds}) > 2


@pytest.mark.parametrize("exit_layer", range(1, LAYERS))
@pytest.mark.parametrize("gamma", [0, 1, 6])
def test_greedy_output_is_that_for_every_exit_layer_and_length(exit_layer, gamma):
    model, ids = tiny("gpt2", branch=0.02), prompt()
    fixed = DelExit(dynamic=False, controller=lambda count: Scheduled(count, fixed=(exit_layer, gamma)))
    text, row = run(model, ids, fixed, count=24)
    assert text[:24] == plain(model, ids, 24)[0]
    assert all(r.drafted == gamma for r in row.rounds[1:-4])


def test_alpha_is_a_share():
    """Of tokens per layer run at g = 1: (1 + alpha) / (L + l + 1)."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        seen = draw.integers(0, 50, (4, 2)) + draw.random((4, 2))
        alpha = filled(seen).tpl()[:, 1] * (5 + np.arange(1, 5)) - 1
        assert np.all((alpha > -1e-12) & (alpha < 1 + 1e-12))


def test_a_layer_that_always_agrees_gives_one_token_more_per_draft():
    controller = filled([[3, 0]] * 4)
    g = np.arange(18)
    tokens = controller.tpl() * (5 + g * np.arange(1, 5)[:, None])
    np.testing.assert_allclose(tokens, np.broadcast_to(g + 1, (4, 18)), rtol=1e-12)
    assert controller.select() == (1, 17)


def test_a_layer_that_never_agrees_drafts_nothing():
    controller = filled([[0, 3]] * 4)
    tokens = controller.tpl() * (5 + np.arange(18) * np.arange(1, 5)[:, None])
    np.testing.assert_allclose(tokens, 1, rtol=1e-12)
    assert np.all(np.diff(controller.tpl(), axis=1) < 0)
    assert controller.select() == (1, 0)


def test_expected_tokens_are_the_closed_form():
    controller = filled([[1, 3], [2, 2], [3, 1], [9, 1]])
    alpha, g = np.array([0.25, 0.5, 0.75, 0.9])[:, None], np.arange(18)
    want = (1 - alpha ** (g + 1)) / (1 - alpha) / (5 + g * np.arange(1, 5)[:, None])
    np.testing.assert_allclose(controller.tpl(), want, rtol=1e-12)


def test_without_a_draft_every_layer_gives_one_token_for_the_whole_model():
    for seen in ([[0, 0]] * 4, [[1, 3], [0, 2], [2, 0], [0, 0]]):
        assert filled(seen).tpl()[:, 0].tolist() == [1 / 5] * 4


def test_with_a_longest_draft_of_one_the_first_eligible_layer_is_chosen():
    assert filled([[0, 9], [5, 5], [9, 0]], 8, eligible=[2, 3, 5], gamma_max=1).select() == (3, 0)


def test_omega_one_counts_plainly():
    draw = np.random.default_rng(1)
    controller = DELController(4, omega=1.0)
    columns = 0
    for _ in range(9):
        tokens = draw.integers(0, 3, (4, 6))
        conf = draw.random((3, 6))
        wrong = np.flatnonzero(tokens[1] != tokens[3])
        columns += 6 if not wrong.size else wrong[0] + 1
        controller.update(tokens, conf, exit_layer=2, context_len=0)
        assert np.array_equal(controller.counts.sum(1), [columns] * 3)


def test_statistics_do_not_depend_on_chunks():
    draw = np.random.default_rng(2)
    tokens, conf = draw.integers(0, 3, (4, 12)), draw.random((3, 12)).astype(np.float32)
    whole, parts = (DELController(4, omega=1.0) for _ in range(2))
    whole.update(tokens, conf, 1, context_len=12)
    for part in (slice(0, 1), slice(1, 5), slice(5, 12)):
        parts.update(tokens[:, part], conf[:, part], 1, context_len=part.stop - part.start)
    assert np.array_equal(whole.counts, parts.counts)
    np.testing.assert_allclose(whole.confidence, parts.confidence, rtol=1e-6)


def test_shadow_tokens_do_not_depend_on_chunks():
    torch.manual_seed(0)
    hidden, head, norm = torch.randn(3, 70, 16), torch.randn(30, 16), torch.rand(16)
    ids, prob = shadow_tokens(hidden, norm, 1e-6, head)
    parts = [shadow_tokens(hidden[:, a:b], norm, 1e-6, head) for a, b in ((0, 1), (1, 40), (40, 70))]
    assert torch.equal(torch.cat([p[0] for p in parts], 1), ids)
    torch.testing.assert_close(torch.cat([p[1] for p in parts], 1), prob, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_shadow_tokens_against_float64(dtype):
    torch.manual_seed(0)
    hidden, head, norm = torch.randn(3, 7, 16).to(dtype), torch.randn(30, 16).to(dtype), torch.rand(16).to(dtype)
    wide = hidden.double()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5) * norm.double()
    best, at = torch.softmax(wide @ head.double().T, -1).max(-1)
    ids, prob = shadow_tokens(hidden, norm, 1e-5, head)
    assert (ids == at).float().mean() > (0.999 if dtype == torch.float32 else 0.8)
    # A logit of size 10 is known to about 20 roundings of its dtype.
    unit = torch.finfo(dtype).eps
    assert torch.all((prob - best).abs() < 20 * 10 * unit)


def test_the_last_layer_never_enters_the_counts():
    tokens = np.array([[1, 2, 3], [1, 9, 3], [1, 2, 3]])
    controller = DELController(3)
    controller.update(tokens, np.ones((2, 3)), 1, 3)
    assert controller.counts.tolist() == [[3, 0], [2, 1]]
    model = tiny()
    _, row = run(model, prompt(), count=10)
    assert row.controller.counts.shape == (LAYERS - 1, 2)


def test_the_threshold_lies_between_the_means():
    model, ids = tiny(branch=0.02), prompt()
    _, row = run(model, ids)
    controller = row.controller
    for row_of, layer in enumerate(controller.eligible):
        low, high = sorted(controller.mean_confidence()[row_of])
        assert low <= controller.threshold(layer + 1) <= high


def test_an_unknown_threshold_stops_nothing():
    controller = filled([[3, 0]] * 4)
    controller.confidence = np.array([[2, 0]] * 4, np.float32)
    assert np.isnan(controller.threshold(2))
    model = tiny(branch=0)  # every layer says the same, so that no mismatch is ever seen
    _, row = run(model, prompt(), DelExit(longest=5), count=30)
    assert [r.drafted for r in row.rounds] == [1, 5, 5, 5, 5, 3]
    assert all(r.accepted == r.drafted for r in row.rounds)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_cache_after_a_round_is_that_of_a_fresh_pass(kind):
    model, ids = tiny(kind, branch=0.02), prompt()
    found = session(model, ids)
    text = ids[0].tolist()
    for _ in range(8):
        text += found.step([True])[0]
        cache = found.rows[0].cache
        assert cache.lengths == [len(text) - 1] * LAYERS
        with torch.no_grad():
            fresh = model(torch.tensor([text[:-1]]), use_cache=True)[1]
        for layer in range(LAYERS):
            for ours, theirs in ((cache.keys, "keys"), (cache.values, "values")):
                want = getattr(fresh.layers[layer], theirs)
                torch.testing.assert_close(ours[layer][:, :, : len(text) - 1], want, rtol=1e-5, atol=1e-5)


# ---- traps


def test_a_choice_is_looked_up_in_a_list_with_gaps():
    controller = filled([[0, 9], [1, 9], [9, 1]], 12, eligible=[2, 5, 9])
    assert controller.select()[0] == 10
    assert controller.exit_layer == 10


def test_columns_behind_a_mismatch_count_when_no_draft_was_asked_for():
    tokens, conf = np.array([[7, 1, 2, 3], [7, 9, 2, 3]]), np.full((1, 4), 0.5)
    asked, not_asked = DELController(2), DELController(2)
    not_asked.gamma = 0
    asked.update(tokens, conf, 1, context_len=1)
    not_asked.update(tokens, conf, 1, context_len=1)
    assert asked.counts.tolist() == [[1, 1]]
    assert not_asked.counts.tolist() == [[3, 1]]


def test_a_mismatch_inside_the_context_ends_nothing():
    tokens = np.array([[1, 5, 5, 5], [9, 5, 5, 6]])
    controller = DELController(2)
    controller.update(tokens, np.ones((1, 4)), 1, context_len=2)
    assert controller.counts.tolist() == [[2, 2]]


def test_the_first_round_counts_at_most_the_window():
    model = tiny(branch=0)  # all columns match
    for length, window, want in ((50, 32, 34), (10, 32, 11), (10, 4, 6), (1, 32, 2), (10, 0, 2)):
        _, row = run(model, prompt(length=length), DelExit(window=window), count=2)
        assert row.rounds[0].drafted == 1
        assert row.controller.counts[0].sum() == want


def test_no_draft_is_longer_than_what_is_wanted():
    model = tiny(branch=0)
    for count in range(1, 8):
        text, row = run(model, prompt(), count=count)
        assert len(text) == count
        assert row.cache.lengths == [7 + count - 1] * LAYERS


def test_a_draft_ends_at_the_models_end():
    model, ids = tiny(branch=0), prompt()
    text = plain(model, ids, 12)[0]
    model.generation_config.eos_token_id = [text[3], 999]
    method = DelExit(controller=lambda count: Scheduled(count, fixed=(2, 6)))
    _, row = run(model, ids, method, count=30)
    assert row.rounds[1].drafted == next(i for i, t in enumerate(text[2:], 1) if t == text[3])
    out = generate(model, ids, "del_exit", max_new_tokens=30)
    assert out.new_tokens() == text[: text.index(text[3]) + 1]


# ---- sampling


def chi_square(counts, p, total):
    expected = p * total
    return float(((counts - expected) ** 2 / expected).sum())


def test_sampled_acceptance_has_the_models_distribution():
    draw = torch.Generator().manual_seed(0)
    q = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]])
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.0, 0.0, 1.0, 0.0]])
    first, second = torch.zeros(4), torch.zeros(4)
    for _ in range(4000):
        draft = torch.multinomial(q, 1, generator=draw)[:, 0].tolist()
        count, token = accept_sampled(draft, q, p, draw)
        text = [*draft[:count], token]
        first[text[0]] += 1
        if count >= 1:
            second[text[1]] += 1
        if count == 2:
            assert text[2] == 2
    assert chi_square(first, p[0], first.sum()) < 16.3  # 0.999 of 3 degrees of freedom
    assert chi_square(second, p[1], second.sum()) < 16.3


def test_sampled_acceptance_without_a_draft_is_a_draw_of_the_model():
    draw = torch.Generator().manual_seed(0)
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    found = [accept_sampled([], p[:0], p, draw) for _ in range(2000)]
    assert {count for count, _ in found} == {0}
    counts = torch.bincount(torch.tensor([token for _, token in found]), minlength=4).float()
    assert chi_square(counts, p[0], 2000) < 16.3


def test_sampled_acceptance_takes_all_where_both_agree():
    draw = torch.Generator().manual_seed(0)
    p = torch.softmax(torch.randn(3, 9, generator=draw), -1)
    for _ in range(20):
        assert accept_sampled([3, 5], p[:2], p, draw)[0] == 2


def test_sampled_output_has_the_models_distribution():
    """Every continuation of three tokens, by the chain rule, against how often it came."""
    vocab, rows = 4, 500
    model, ids = tiny(layers=3, vocab=vocab, branch=0.05), prompt(vocab=vocab)
    texts = torch.cartesian_prod(*[torch.arange(vocab)] * 3)
    with torch.no_grad():
        logits = model(torch.cat([ids.expand(len(texts), -1), texts], 1)).logits[:, -4:-1]
    p = torch.log_softmax(logits / 0.8, -1).gather(-1, texts[..., None]).sum((1, 2)).exp()
    draw = torch.Generator().manual_seed(3)
    method = DelExit(dynamic=False, controller=lambda count: Scheduled(count, fixed=(1, 2)))
    out = generate(model, ids.expand(rows, -1), method, max_new_tokens=3, temperature=0.8, generator=draw)
    found = out.sequences[:, -3:] @ torch.tensor([16, 4, 1])
    counts = torch.bincount(found, minlength=64).float()
    often = p * rows >= 4  # the others as one class
    counts = torch.cat([counts[often], counts[~often].sum()[None]])
    p = torch.cat([p[often], p[~often].sum()[None]])
    degrees = len(p) - 1
    assert chi_square(counts, p, rows) < degrees + 3.1 * (2 * degrees) ** 0.5 + 6


def test_the_same_seed_draws_the_same_text():
    model, ids = tiny(branch=0.05), prompt()
    texts = []
    for seed in (5, 5, 6):
        draw = torch.Generator().manual_seed(seed)
        out = generate(model, ids, "del_exit", max_new_tokens=30, temperature=1.0, generator=draw)
        texts.append(out.sequences.tolist())
    assert texts[0] == texts[1] != texts[2]


# ---- around it


def test_rows_are_sessions_of_their_own():
    model = tiny(branch=0.02)
    ids = torch.cat([prompt(length=9), prompt(length=9, seed=4)])
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    out = generate(model, ids, "del_exit", max_new_tokens=20, attention_mask=mask)
    assert out.new_tokens(0) == plain(model, ids[:1], 20)[0]
    assert out.new_tokens(1) == plain(model, ids[1:, 4:], 20)[0]


def test_eager_attention_and_other_precisions():
    model, ids = tiny(), prompt()
    model.set_attn_implementation("eager")
    assert run(model, ids)[0][:40] == plain(model, ids, 40)[0]
    wide = tiny().double()
    assert run(wide, ids)[0][:40] == plain(wide, ids, 40)[0]
    half = tiny().bfloat16()
    text, row = run(half, ids)
    assert len(text) == 40
    assert all(0 <= token < VOCAB for token in text)
    assert row.controller.counts.sum() > 0


def test_a_model_of_nan_is_followed_as_any_other():
    model, ids = tiny(), prompt()
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    assert run(model, ids, count=10)[0] == plain(model, ids, 10)[0]


def test_a_head_that_is_no_plain_linear_layer():
    model, ids = tiny(), prompt()
    model.lm_head.bias = torch.nn.Parameter(torch.linspace(-1, 1, VOCAB))
    assert run(model, ids)[0][:40] == plain(model, ids, 40)[0]


def test_a_controller_can_be_kept():
    model, ids = tiny(branch=0.02), prompt()
    controller = DELController(LAYERS)
    want = plain(model, ids, 20)[0]
    for _ in range(2):
        before = controller.counts.sum()
        out = self_speculative_generate(model, ids, controller, max_new_tokens=20)
        assert out.new_tokens() == want
        assert controller.counts.sum() > before
    with pytest.raises(ValueError, match=r"input_ids expected \(1, P\); got \(2, 7\)"):
        self_speculative_generate(model, ids.expand(2, -1), controller, max_new_tokens=2)
    with pytest.raises(ValueError, match=r"del_exit: controller expected of 6 layers; got of 4"):
        self_speculative_generate(model, ids, DELController(4), max_new_tokens=2)


class Broken(torch.nn.Module):
    def forward(self, *_, **__):
        raise KeyError("broken")


def test_the_model_is_left_as_it_was_even_when_it_fails():
    model, ids = tiny(), prompt()
    before = copy.deepcopy(model.state_dict())
    config, names = model.config.to_dict(), {n: set(vars(m)) for n, m in model.named_modules()}
    run(model, ids, count=10)
    last = model.model.layers[-1].mlp
    model.model.layers[-1].mlp = Broken()
    with pytest.raises(KeyError, match="broken"):
        run(model, ids, count=10)
    model.model.layers[-1].mlp = last
    assert model.config.to_dict() == config
    assert {n: set(vars(m)) for n, m in model.named_modules()} == names
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert run(model, ids, count=10)[0] == plain(model, ids, 10)[0]


def test_accept_chain():
    assert accept_chain([], [3]) == 0
    assert accept_chain([1, 2], [1, 2]) == 2
    assert accept_chain([1, 2], [3, 2, 1]) == 0
    with pytest.raises(ValueError, match=r"accept_chain: target expected at least 2 tokens; got 1"):
        accept_chain([1, 2], [1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_layers": 1}, r"eligible expected ascending layers of 0\.\.-1, at least one; got \[\]"),
        ({"num_layers": 4, "eligible": [1, 3]}, r"eligible expected ascending layers of 0\.\.2.*got \[1, 3\]"),
        ({"num_layers": 4, "eligible": [2, 1]}, r"eligible expected ascending"),
        ({"num_layers": 4, "eligible": [-1, 1]}, r"eligible expected ascending"),
        ({"num_layers": 4, "gamma_min": 3, "gamma_max": 3}, r"gamma_min expected in \[0, gamma_max\); got 3 and 3"),
        ({"num_layers": 4, "omega": 0.0}, r"omega expected in \(0, 1\]; got 0\.0"),
        ({"num_layers": 4, "omega": float("nan")}, r"omega expected in \(0, 1\]; got nan"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=r"DELController: " + message):
        DELController(**settings)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((np.zeros((3, 2)), np.zeros((3, 2)), 1, 0), r"shadow_tokens expected \(4, T\); got \(3, 2\)"),
        ((np.zeros((4, 2)), np.zeros((4, 2)), 1, 0), r"conf expected \(3, 2\); got \(4, 2\)"),
        ((np.zeros((4, 2)), np.zeros((3, 2)), 4, 0), r"exit_layer expected one of 1, 2, 3; got 4"),
        ((np.zeros((4, 2)), np.zeros((3, 2)), 1, 3), r"context_len expected in \[0, 2\]; got 3"),
    ],
)
def test_bad_updates_change_nothing(args, message):
    controller = DELController(4)
    with pytest.raises(ValueError, match=r"update: " + message):
        controller.update(*args)
    assert not controller.counts.any()


def test_bad_methods_and_models():
    with pytest.raises(ValueError, match=r"del_exit: longest expected at least 1; got 0"):
        DelExit(longest=0)
    with pytest.raises(ValueError, match=r"del_exit: window expected at least 0; got -1"):
        DelExit(window=-1)
    with pytest.raises(TypeError, match=r"del_exit: model expected a causal language model.*got Linear"):
        DelExit().start(torch.nn.Linear(2, 2), [], Sampling(), 4)
    with pytest.raises(ValueError, match=r"del_exit: model expected in evaluation mode"):
        session(tiny().train(), prompt())
    model = tiny()
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match=r"model expected attention eager or sdpa .*; got flex_attention"):
        session(model, prompt())


def test_windows_and_stretched_positions_are_refused():
    model = tiny("qwen2")
    model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(ValueError, match=r"model expected full attention in every layer"):
        session(model, prompt())
    model = tiny()
    model.config.rope_parameters = {"rope_type": "dynamic"}
    with pytest.raises(ValueError, match=r"free of the length so far; got 'dynamic' scaling"):
        session(model, prompt())
