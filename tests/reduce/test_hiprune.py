# SPDX-License-Identifier: Apache-2.0
"""HiPrune: every law of ../shared/papers/hiprune.md, the official outputs, and live models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is an extra")

from tokernel.papers import paper
from tokernel.reduce import hiprune
from tokernel.reduce.hiprune import attention_received, attention_received_qk, hiprune_select

GOLDEN = Path(__file__).parent.parent / "golden" / "hiprune"


def golden(name):
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f"{name}.npz").items()}


def scores(seed, batch=3, h=5, w=7):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, h * w, generator=generator), torch.rand(batch, h * w, generator=generator)


def oracle(mid, deep, grid, budget, alpha, clamp):
    """One image, in plain Python; candidates within the budget."""
    h, w = grid
    n = h * w
    order = sorted(range(n), key=lambda j: (-mid[j], j))
    kept = set()
    for a in order[: round(budget * alpha / 5)]:
        kept.add(a)
        if clamp == "repo":
            kept |= {min(max(a + step, 0), n - 1) for step in (-1, 1, -w, w)}
        else:
            y, x = divmod(a, w)
            near = [(y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x)]
            kept |= {j * w + i for j, i in near if 0 <= j < h and 0 <= i < w}
    if len(kept) > budget:
        return None
    rest = sorted((j for j in range(n) if j not in kept), key=lambda j: (-deep[j], j))
    return kept | set(rest[: budget - len(kept)])


# The official outputs.


@pytest.mark.parametrize("name", ["llava15_192", "llava_next_5crops_640", "alpha_half_64"])
def test_the_official_masks_of_llava(name):
    case = golden(name)
    mid, deep = attention_received(case["mid_attn"]), attention_received(case["deep_attn"])
    budget = hiprune.crop_budget(int(case["retention_total"]), len(mid))
    alpha, grid = float(case["alpha"]), (int(case["grid_h"]), int(case["grid_w"]))
    anchors = int(case["anchor_num"])
    assert hiprune.anchor_count(budget, alpha) == anchors
    assert torch.equal(mid.topk(anchors).indices, case["anchors"])
    mask = hiprune_select(mid, deep, grid, budget, alpha)
    assert torch.equal(mask, case["mask"])
    assert mask.sum(1).tolist() == [budget] * len(mid)


def test_the_official_mask_and_positions_of_qwen():
    case = golden("qwen_grid13x17")
    n, alpha = len(case["mid_score"]), float(case["alpha"])
    budget = round(n * float(case["retain_ratio"]))
    grid = (int(case["grid_h"]), int(case["grid_w"]))
    mask = hiprune_select(case["mid_score"][None], case["deep_score"][None], grid, budget, alpha)[0]
    assert torch.equal(mask, case["select_mask"])
    positions = hiprune.kept_positions(mask, int(case["n_prefix"]), int(case["n_suffix"]))
    assert torch.equal(positions, case["kept_positions"])


# What must be true.


@pytest.mark.parametrize("clamp", ["repo", "grid"])
@given(seed=st.integers(0, 10**6), h=st.integers(1, 6), w=st.integers(1, 6), data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_choice_is_the_plain_one(clamp, seed, h, w, data):
    budget = data.draw(st.integers(0, h * w))
    alpha = data.draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    mid, deep = scores(seed, 2, h, w)
    mid, deep = (mid * 8).round(), (deep * 8).round()  # ties
    mask = hiprune_select(mid, deep, (h, w), budget, alpha, clamp)
    assert mask.sum(1).tolist() == [budget] * 2
    for row in range(2):
        expected = oracle(mid[row].tolist(), deep[row].tolist(), (h, w), budget, alpha, clamp)
        if expected is not None:
            assert set(mask[row].nonzero()[:, 0].tolist()) == expected


@pytest.mark.parametrize("clamp", ["repo", "grid"])
@pytest.mark.parametrize("budget", [1, 5, 20, 35])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_exactly_the_budget_is_kept_and_contains_the_anchors(clamp, budget, alpha):
    mid, deep = scores(1)
    mask = hiprune_select(mid, deep, (5, 7), budget, alpha, clamp)
    assert mask.sum(1).tolist() == [budget] * 3
    anchors = mid.topk(hiprune.anchor_count(budget, alpha)).indices
    assert mask.gather(1, anchors).all()


def test_alpha_zero_is_the_top_of_the_deep_score():
    mid, deep = scores(2)
    mask = hiprune_select(mid, deep, (5, 7), 9, alpha=0.0)
    assert torch.equal(mask, torch.zeros_like(mask).scatter_(1, deep.topk(9).indices, True))


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_a_budget_of_everything_keeps_everything(alpha):
    mid, deep = scores(3)
    assert hiprune_select(mid, deep, (5, 7), 35, alpha).all()


@pytest.mark.parametrize("clamp", ["repo", "grid"])
def test_candidates_are_between_one_and_five_an_anchor(clamp):
    for seed in range(20):
        mid, _ = scores(seed, 1)
        budget = 30
        # With the deep score NaN, what is chosen before index order sets in are the candidates.
        mask = hiprune_select(mid, -torch.arange(35.0)[None].flip(1), (5, 7), budget, 0.5, clamp)
        registers = hiprune_select(mid, mid, (5, 7), budget, 0.0, clamp)
        assert mask.sum() == registers.sum() == budget
        candidates = count_candidates(mid, (5, 7), 0.5, budget, clamp)
        assert 3 <= candidates <= 15


def count_candidates(mid, grid, alpha, budget, clamp):
    """How many tokens are chosen whatever the deep score says."""
    always = torch.ones(mid.shape, dtype=torch.bool)
    for low in range(mid.shape[1]):
        deep = torch.ones_like(mid)
        deep[0, low] = 0
        always &= hiprune_select(mid, deep, grid, budget, alpha, clamp)
    return int(always.sum())


@pytest.mark.parametrize(
    ("place", "repo", "grid"), [(16, 5, 5), (0, 3, 3), (34, 3, 3), (7, 5, 4), (13, 5, 4), (3, 4, 4)]
)
def test_one_anchor_has_five_candidates_inside_and_fewer_at_a_border(place, repo, grid):
    mid = torch.zeros(1, 35)
    mid[0, place] = 1
    assert count_candidates(mid, (5, 7), 0.2, 20, "repo") == repo + int(place == 3)  # above the top: token 0
    assert count_candidates(mid, (5, 7), 0.2, 20, "grid") == grid


def test_positive_factors_change_nothing():
    mid, deep = scores(4)
    mask = hiprune_select(mid, deep, (5, 7), 12, 0.8)
    assert torch.equal(hiprune_select(mid * 8, deep / 4, (5, 7), 12, 0.8), mask)


@pytest.mark.parametrize(("heads", "width"), [(2, 8), (3, 5)])
def test_column_means_over_all_keys_sum_to_one(heads, width):
    q, k = torch.randn(2, 2, heads, 17, width)
    received = attention_received_qk(q, k, drop_cls=False)
    torch.testing.assert_close(received.sum(1), torch.ones(2))
    attn = (q @ k.mT * width**-0.5).softmax(-1)
    torch.testing.assert_close(attention_received(attn, drop_cls=False).sum(1), torch.ones(2))


@pytest.mark.parametrize("drop_cls", [False, True])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("tokens", [1, 2, 17, 65])
def test_streaming_means_are_those_of_the_stored_map(drop_cls, reduce, tokens):
    generator = torch.Generator().manual_seed(tokens)
    q, k = torch.randn(2, 2, 3, tokens, 16, generator=generator)
    attn = (q.double() @ k.double().mT * 0.3).softmax(-1)
    torch.testing.assert_close(attn.sum(-1), torch.ones(2, 3, tokens, dtype=torch.float64))  # rows sum to one
    expected = attention_received(attn, drop_cls, reduce)
    mine = attention_received_qk(q, k, 0.3, drop_cls, reduce)
    factor = 1 if reduce == "mean" else tokens
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-6 * factor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_projections_are_added_up_in_float32(dtype):
    q, k = torch.randn(2, 1, 2, 33, 16).to(dtype)
    attn = (q.double() @ k.double().mT * 0.25).softmax(-1)
    torch.testing.assert_close(attention_received_qk(q, k), attention_received(attn), rtol=0, atol=2e-6)


def test_shared_key_heads():
    q, k = torch.randn(1, 4, 9, 8), torch.randn(1, 2, 9, 8)
    attn = (q @ k.repeat_interleave(2, 1).mT * 8**-0.5).softmax(-1)
    torch.testing.assert_close(attention_received_qk(q, k), attention_received(attn), rtol=0, atol=1e-6)


@pytest.mark.parametrize("clamp", ["repo", "grid"])
def test_a_larger_budget_never_removes_a_token(clamp):
    mid, deep = scores(5)
    for anchors in (0, 1, 2):
        before = torch.zeros(3, 35, dtype=torch.bool)
        for budget in range(5 * anchors, 36):
            alpha = min(5 * anchors / max(budget, 1), 1.0)
            assert hiprune.anchor_count(budget, alpha) == anchors
            mask = hiprune_select(mid, deep, (5, 7), budget, alpha, clamp)
            assert (before <= mask).all()
            before = mask


def test_grid_mode_never_leaves_the_neighbourhood_of_an_anchor():
    for place in range(35):
        mid = torch.zeros(1, 35)
        mid[0, place] = 1
        y, x = divmod(place, 7)
        near = {(y, x), (y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x)}
        expected = {j * 7 + i for j, i in near if 0 <= j < 5 and 0 <= i < 7}
        mask = hiprune_select(mid, torch.zeros(1, 35), (5, 7), len(expected), 1.0, "grid")
        if hiprune.anchor_count(len(expected), 1.0) == 1:
            assert set(mask[0].nonzero()[:, 0].tolist()) == expected


# The traps.


def test_the_row_width_is_the_grids():
    mid = torch.zeros(1, 12)
    mid[0, 5] = 1
    mask = hiprune_select(mid, torch.zeros(1, 12), (3, 4), 5, 1.0)
    assert mask[0].nonzero()[:, 0].tolist() == [1, 4, 5, 6, 9]


def test_an_anchor_in_the_last_column_reaches_the_next_row_in_repo_mode_alone():
    mid = torch.zeros(1, 35)
    mid[0, 13] = 1  # row 1, last column
    deep = torch.arange(35.0).flip(0)[None]
    assert hiprune_select(mid, deep, (5, 7), 5, 1.0, "repo")[0].nonzero()[:, 0].tolist() == [6, 12, 13, 14, 20]
    assert hiprune_select(mid, deep, (5, 7), 5, 1.0, "grid")[0].nonzero()[:, 0].tolist() == [0, 6, 12, 13, 20]


def test_sums_above_one_do_not_choose_a_candidate_twice():
    """The official code subtracts 1 from a sum over queries: a candidate can win again, and tokens are missing."""
    mid, deep = torch.zeros(1, 35), torch.rand(1, 35)
    mid[0, 16] = 1
    deep[0, [15, 16, 17]] = 30.0
    assert hiprune_select(mid, deep, (5, 7), 8, 0.6).sum() == 8


def test_rounding_is_to_even():
    assert hiprune.anchor_count(64, 0.1) == 1
    assert [hiprune.anchor_count(budget, 1.0) for budget in (2, 3, 12, 13)] == [0, 1, 2, 3]
    assert hiprune.anchor_count(25, 0.5) == round(2.5) == 2
    assert hiprune.anchor_count(25, 0.1) == round(0.5) == 0
    assert hiprune.anchor_count(75, 0.1) == round(1.5) == 2


def test_candidates_beyond_the_budget_lose_their_lowest():
    mid = torch.arange(35.0)[None] / 100
    mid[0, [8, 26]] = torch.tensor([2.0, 1.0])
    mask = hiprune_select(mid, torch.zeros(1, 35), (5, 7), 8, 1.0)  # 2 anchors and 8 neighbours
    assert mask.sum() == 8
    assert mask[0].nonzero()[:, 0].tolist() == [8, 9, 15, 19, 25, 26, 27, 33]


def test_all_queries_count_not_the_class_token_alone():
    attn = torch.rand(1, 2, 10, 10).softmax(-1)
    attn[:, :, 0] = torch.eye(10)[3]
    received = attention_received(attn)
    torch.testing.assert_close(received, attn.mean((1, 2))[:, 1:])
    assert not torch.allclose(received, attn[:, :, 0, 1:].mean(1))


def test_merged_tokens_of_qwen_are_means_of_four_put_back_from_their_windows():
    patches = torch.rand(2, 24)
    window = torch.tensor([3, 0, 5, 1, 4, 2])
    folded = hiprune.fold_merged(patches, 4, window)
    for place, token in enumerate(window.tolist()):
        torch.testing.assert_close(folded[:, token], patches[:, 4 * place : 4 * place + 4].mean(1))
    torch.testing.assert_close(hiprune.fold_merged(patches), patches.reshape(2, 6, 4).mean(2))


def test_nan_scores_are_chosen_last_and_infinities_do_not_displace_candidates():
    mid, deep = scores(6, 1)
    deep[0, :10] = torch.nan
    assert not hiprune_select(mid, deep, (5, 7), 25, 0.0)[0, :10].any()
    mid[:] = 0
    mid[0, 16] = 1
    deep = torch.full((1, 35), torch.inf)
    assert hiprune_select(mid, deep, (5, 7), 5, 1.0)[0].nonzero()[:, 0].tolist() == [9, 15, 16, 17, 23]


@pytest.mark.parametrize(("shape", "grid"), [((0, 6), (2, 3)), ((2, 0), (0, 3)), ((2, 0), (3, 0)), ((2, 1), (1, 1))])
def test_nothing_to_choose_from(shape, grid):
    nothing = torch.zeros(shape)
    for clamp in ("repo", "grid"):
        assert not hiprune_select(nothing, nothing, grid, 0, 1.0, clamp).any()
        assert hiprune_select(nothing, nothing, grid, shape[1], 1.0, clamp).all()


def test_bad_input_is_refused():
    mid, deep = scores(7)
    for changes, message in [
        ({"deep": deep[:2]}, "mid and deep expected"),
        ({"grid": (5, 6)}, "grid expected h \\* w = 35"),
        ({"grid": (-5, -7)}, "grid expected"),
        ({"budget": 36}, "budget expected in \\[0, 35\\]; got 36"),
        ({"budget": -1}, "budget expected"),
        ({"alpha": 1.5}, "alpha expected"),
        ({"alpha": float("nan")}, "alpha expected"),
        ({"clamp": "torus"}, "clamp expected"),
    ]:
        with pytest.raises(ValueError, match=message):
            hiprune_select(**{"mid": mid, "deep": deep, "grid": (5, 7), "budget": 5} | changes)
    with pytest.raises(ValueError, match="attn expected"):
        attention_received(mid)
    with pytest.raises(ValueError, match="reduce expected"):
        attention_received(torch.ones(1, 1, 2, 2), reduce="max")
    with pytest.raises(ValueError, match="q expected"):
        attention_received_qk(mid, mid)
    with pytest.raises(ValueError, match="none"):
        attention_received(torch.ones(1, 1, 2, 0))
    with pytest.raises(ValueError, match="crops expected"):
        hiprune.crop_budget(64, 0)
    with pytest.raises(ValueError, match="received expected"):
        hiprune.fold_merged(torch.ones(1, 7))
    with pytest.raises(ValueError, match="window_index expected"):
        hiprune.fold_merged(torch.ones(1, 8), 4, torch.tensor([0]))
    with pytest.raises(ValueError, match="mask expected"):
        hiprune.kept_positions(torch.ones(2, 2), 0, 0)


def test_the_record():
    assert hiprune.PAPER is paper("hiprune")
    assert hiprune.PAPER.verified_against == "repo"
