# SPDX-License-Identifier: Apache-2.0
"""Zero-TPrune: every line of "What must be true" of the paper's page, and its traps. There is no official code, so
nothing golden: the oracle is a second implementation below, in float64, token by token."""

from __future__ import annotations

import copy
import math
import pickle
import random

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from integrations.timm_like import VisionTransformer
from tokernel.integrations import patch_of, unpatch
from tokernel.papers import paper
from tokernel.reduce import zero_tprune
from tokernel.reduce.zero_tprune import (
    SearchSpace,
    ZeroTPruneLayer,
    aggregate_heads,
    importance_guided_match,
    patch_vit,
    random_config_search,
    weighted_pagerank,
)

B, H, N, C = 2, 3, 17, 8


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention(tokens=N, heads=H, batch=B, sharpness=1.0, seed=0):
    return torch.softmax(sharpness * noise(batch, heads, tokens, tokens, seed=seed), -1)


def image(batch=2, edge=16):
    return noise(batch, 3, edge, edge, seed=1)


def vit(**options):
    torch.manual_seed(0)
    return VisionTransformer(**options).eval()


def close(got, want, atol=1e-6):
    torch.testing.assert_close(got, want, atol=atol, rtol=0)


# --- a second implementation ----------------------------------------------------------------------------------------


def oracle_rank(attn, iters, boost=True):
    """(H, N, N) -> (H, N): T explicit products of the transpose."""
    tokens = attn.shape[-1]
    start = torch.ones(tokens, dtype=torch.float64)
    start[0] = tokens**0.5 if boost else 1.0
    scores = []
    for head in attn.double():
        s = start / start.sum()
        for _ in range(iters):
            s = torch.stack([sum(s[i] * head[i, j] for i in range(tokens)) for j in range(tokens)])
        scores.append(s)
    return torch.stack(scores)


def oracle_layer(attn, keys, iters, rho, r):
    """Kept tokens of one sample with a class token."""
    tokens = attn.shape[-1]

    def importance(among, steps):
        heads = oracle_rank(attn_of(among), steps)
        mean_one = heads * heads.shape[-1]
        variance = (mean_one - 1).square().mean(-1)
        kept = [s for s, v in zip(heads, variance, strict=True) if 0.01 <= v <= 0.7] or list(heads)
        return (sum(s**2 for s in kept) / len(kept)).sqrt()

    def attn_of(among):
        part = attn.double()[:, among][:, :, among]
        return part / part.sum(-1, keepdim=True)

    alive = list(range(tokens))
    if r:
        score = importance(alive, 1)
        order = sorted(range(1, tokens), key=lambda i: (-score[i].item(), i))
        half = (tokens - 1) // 2
        more, less = order[: len(order) - half], order[len(order) - half :]
        unit = keys.double() / keys.double().norm(dim=-1, keepdim=True)
        best = {a: max((unit[a] @ unit[b]).item() for b in more) for a in less}
        dropped = sorted(less, key=lambda a: (-best[a], -a))[:r]
        alive = [i for i in alive if i not in dropped]
    score = importance(alive, iters)
    order = sorted(range(1, len(alive)), key=lambda i: (-score[i].item(), i))
    kept = order[: math.ceil(round(rho * (len(alive) - 1), 9))]
    return [alive[i] for i in sorted([0, *kept])]


@pytest.mark.parametrize(("iters", "rho", "r"), [(1, 1.0, 4), (5, 0.5, 0), (7, 0.6, 3), (30, 0.3, 8)])
def test_a_layer_keeps_what_the_second_implementation_keeps(iters, rho, r):
    for seed in range(3):
        attn, keys = attention(sharpness=1.5, seed=seed), noise(B, N, C, seed=seed + 10)
        got = ZeroTPruneLayer(iters, rho, r).choose(attn, keys)
        assert got.tolist() == [oracle_layer(attn[b], keys[b], iters, rho, r) for b in range(B)]


# --- what must be true: PageRank ------------------------------------------------------------------------------------


def test_scores_sum_to_one_and_are_not_negative_after_every_iteration():
    attn = attention(sharpness=3.0)
    s = weighted_pagerank(attn, 0)
    for step in range(30):
        before = s
        s = weighted_pagerank(attn, 1, init=before)
        assert (s >= 0).all(), step
        close(s.sum(-1), before.sum(-1))
    close(s.sum(-1), torch.ones(B, H), atol=3e-5)


def test_a_doubly_stochastic_map_keeps_uniform_scores():
    permutations = [torch.eye(N)[torch.randperm(N, generator=torch.Generator().manual_seed(i))] for i in range(5)]
    doubly = (torch.stack(permutations) * torch.tensor([0.4, 0.3, 0.1, 0.1, 0.1]).view(-1, 1, 1)).sum(0)
    close(weighted_pagerank(doubly, 25, cls_boost=False), torch.full((N,), 1 / N))


def test_many_iterations_reach_a_left_eigenvector_whatever_the_start():
    attn = attention()
    s = weighted_pagerank(attn, 200)
    assert ((attn.mT @ s[..., None])[..., 0] - s).abs().max() < 1e-6
    close(weighted_pagerank(attn, 200, cls_boost=False), s)
    one_hot = torch.zeros(N).index_fill(0, torch.tensor([5]), 1.0)
    close(weighted_pagerank(attn, 200, init=one_hot), s)


def test_no_iteration_returns_the_start():
    attn = attention()
    uniform = weighted_pagerank(attn, 0, cls_boost=False)
    assert torch.equal(uniform, torch.full((B, H, N), 1 / N))
    boosted = weighted_pagerank(attn, 0)
    close(boosted[..., 0], N**0.5 * boosted[..., 1])
    close(boosted.sum(-1), torch.ones(B, H))
    start = noise(B, H, N).abs()
    assert torch.equal(weighted_pagerank(attn, 0, init=start), start)


def test_permuting_tokens_permutes_scores():
    attn = attention()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    permuted = attn[:, :, order][:, :, :, order]
    s = weighted_pagerank(attn, 12, cls_boost=False)
    close(weighted_pagerank(permuted, 12, cls_boost=False), s[:, :, order])


def test_a_block_diagonal_map_never_mixes_mass_between_blocks():
    attn = torch.zeros(1, 1, 12, 12)
    attn[..., :5, :5], attn[..., 5:, 5:] = attention(5, 1, 1), attention(7, 1, 1)
    start = weighted_pagerank(attn, 0)
    for iters in (1, 7, 40):
        s = weighted_pagerank(attn, iters)
        close(s[..., :5].sum(), start[..., :5].sum())
        close(s[..., 5:].sum(), start[..., 5:].sum())


@pytest.mark.parametrize("iters", [1, 2, 9, 50])
def test_the_iterated_kernel_equals_explicit_products(iters):
    attn = attention(sharpness=2.0)
    want = torch.stack([oracle_rank(sample, iters) for sample in attn[:1, :2]])
    close(weighted_pagerank(attn[:1, :2], iters).double(), want)


# --- what must be true: heads ---------------------------------------------------------------------------------------


def scores(*rows):
    s = torch.tensor(rows)
    return (s / s.sum(-1, keepdim=True))[None]


def test_one_head_is_returned_as_it_is():
    s = scores([1.0, 2.0, 3.0, 2.0])
    importance, kept = aggregate_heads(s)
    close(importance, s[:, 0], atol=1e-8)
    assert kept.all()


def test_equal_heads_give_that_head():
    s = scores(*[[1.0, 2.0, 3.0, 2.0]] * 5)
    close(aggregate_heads(s)[0], s[:, 0], atol=1e-7)


def test_the_root_mean_square_is_at_least_the_mean():
    s = weighted_pagerank(attention(sharpness=2.0), 6)
    importance, kept = aggregate_heads(s)
    assert kept.any(1).all()
    mean = torch.where(kept[..., None], s, 0.0).sum(1) / kept.sum(1, keepdim=True)
    assert (importance >= mean - 1e-8).all()


def test_a_uniform_head_and_a_one_hot_head_are_excluded():
    informative = [1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 2.0, 1.0]
    one_hot = [1.0, 0, 0, 0, 0, 0, 0, 0]
    s = scores([1.0] * 8, informative, one_hot)
    close((8 * s).var(-1, correction=0)[0, ::2], torch.tensor([0.0, 7.0]))  # N - 1
    importance, kept = aggregate_heads(s)
    assert kept.tolist() == [[False, True, False]]
    close(importance, s[:, 1], atol=1e-8)


def test_when_every_head_is_excluded_all_are_used():
    s = scores([1.0] * 4, [1.0, 0, 0, 0])
    importance, kept = aggregate_heads(s)
    assert kept.all()
    close(importance, s.square().mean(1).sqrt())
    assert torch.isfinite(importance).all()


# --- what must be true: stages --------------------------------------------------------------------------------------


def test_nothing_to_drop_is_the_identity():
    x = noise(B, N, C)
    y, keep = ZeroTPruneLayer(30, 1.0, 0)(x, attention(), x)
    assert y is x
    assert torch.equal(keep, torch.arange(N).expand(B, -1))


@pytest.mark.parametrize("rho", [1.0, 0.9, 0.7, 0.5, 0.1, 0.01])
@pytest.mark.parametrize("r", [0, 1, 5, 8])
def test_count_and_class_token(rho, r):
    keys = noise(B, N, C)
    attn = attention().clone()
    attn[..., 0] = 0  # nobody looks at the class token
    attn /= attn.sum(-1, keepdim=True)
    layer = ZeroTPruneLayer(3, rho, r)
    y, keep = layer(keys, attn, keys)
    count = 1 + math.ceil(rho * (N - 1 - r) - 1e-9)
    assert y.shape == (B, count, C)
    assert layer.kept(N) == count
    assert (keep[:, 0] == 0).all()
    assert (keep.diff(dim=1) > 0).all()
    assert torch.equal(y, torch.take_along_dim(keys, keep[..., None], 1))


def test_a_product_that_is_whole_but_for_rounding_is_not_rounded_up():
    assert 0.28 * 25 > 7
    assert ZeroTPruneLayer(1, 0.28, 0).kept(26) == 1 + 7


def test_duplicates_of_more_important_tokens_are_removed_first():
    keys, importance = noise(1, N, C), torch.arange(N, 0, -1.0)[None]  # the lower half of the patches is 9..16
    for source, twin in ((2, 11), (5, 14), (8, 9)):
        keys[0, twin] = keys[0, source] * (1 + source)  # a cosine knows no length
    assert set(range(N)) - set(importance_guided_match(keys, importance, 3)[0].tolist()) == {9, 11, 14}
    for r in (4, 8):
        assert {9, 11, 14} <= set(range(N)) - set(importance_guided_match(keys, importance, r)[0].tolist())


@pytest.mark.parametrize("r", [0, 1, 4, 8])
def test_the_important_half_loses_nothing(r):
    keys, importance = noise(B, N, C), noise(B, N, seed=4)
    keep = importance_guided_match(keys, importance, r)
    assert keep.shape == (B, N - r)
    important = importance[:, 1:].argsort(1, descending=True)[:, :8] + 1
    for b in range(B):
        assert {0, *important[b].tolist()} <= set(keep[b].tolist())


# --- splits and ties ------------------------------------------------------------------------------------------------


def test_alternate_lets_every_second_token_go():
    importance = torch.tensor([[9.0, 1, 5, 3, 4, 2]])  # patches by importance: 2 4 3 5 1
    keep = importance_guided_match(noise(1, 6, C), importance, 2, "alternate")
    assert keep.tolist() == [[0, 1, 2, 3]]


def test_a_random_split_follows_its_generator():
    keys, importance = noise(B, N, C), noise(B, N, seed=4)

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return importance_guided_match(keys, importance, 8, "random", generator=generator)

    assert torch.equal(draw(0), draw(0))
    assert any(not torch.equal(draw(0), draw(seed)) for seed in (1, 2, 3))
    assert draw(0).shape == (B, N - 8)


def test_of_equals_the_lower_index_stays():
    assert importance_guided_match(torch.ones(1, 7, 2), torch.ones(1, 7), 2).tolist() == [[0, 1, 2, 3, 4]]
    keep = ZeroTPruneLayer(2, 0.5, 0).choose(torch.full((1, 2, 9, 9), 1 / 9), torch.ones(1, 9, 2))
    assert keep.tolist() == [[0, 1, 2, 3, 4]]


def test_without_a_class_token_everything_may_go():
    keys, importance = torch.ones(1, 6, 2), torch.tensor([[0.0, 1, 2, 3, 4, 5]])
    assert importance_guided_match(keys, importance, 3, protected=0).tolist() == [[3, 4, 5]]
    layer = ZeroTPruneLayer(5, 0.5, 0, protected=0)
    attn = torch.zeros(1, 1, 6, 6)
    attn[..., 3:] = 1 / 3
    assert layer.choose(attn, keys).tolist() == [[3, 4, 5]]


def test_keys_without_a_direction():
    keys = torch.ones(1, 9, 2)
    keys[0, 5] = 0.0
    keys[0, 6] = float("nan")
    keys[0, 7] = float("inf")
    importance = torch.arange(9, 0, -1.0)[None]
    # 8 is a duplicate; 5 has cosine 0; 6 and 7 are similar to nobody.
    dropped = [set(range(9)) - set(importance_guided_match(keys, importance, r)[0].tolist()) for r in (1, 2, 3)]
    assert dropped == [{8}, {8, 5}, {8, 5, 7}]


def test_a_score_that_is_no_number_is_least_important():
    importance = torch.tensor([[1.0, float("nan"), 1.0, 2.0, 0.5]])
    assert importance_guided_match(torch.ones(1, 5, 2), importance, 2).tolist() == [[0, 2, 3]]


# --- traps ----------------------------------------------------------------------------------------------------------


def test_the_filter_sees_scores_of_mean_one():
    """Raw scores at N = 197 have variances that no head of the default thresholds could pass."""
    s = weighted_pagerank(attention(197, 4, 1, sharpness=2.0), 1, cls_boost=False)
    assert s.var(-1, correction=0).max() < 1e-4
    importance, kept = aggregate_heads(s)
    assert kept.all()
    assert (kept == ((197 * s).var(-1, correction=0) >= 0.01)).all()
    assert torch.isfinite(importance).all()


def test_a_dropped_head_has_no_influence_even_if_it_is_not_a_number():
    s = scores([1.0, 2.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0])
    s[0, 1] = float("nan")
    importance, kept = aggregate_heads(s)
    assert kept.tolist() == [[True, False]]
    close(importance, s[:, 0])


def test_heads_without_any_score():
    importance, kept = aggregate_heads(torch.zeros(1, 2, 5))
    assert kept.all()
    assert torch.equal(importance, torch.zeros(1, 5))


def test_a_map_near_the_identity_is_defined_by_its_iterations():
    attn = 0.98 * torch.eye(N) + 0.02 * attention(batch=1, heads=1)[0, 0]
    after = weighted_pagerank(attn, 50)
    moved = (weighted_pagerank(attn, 51) - after).abs().max()
    assert moved > 1e-5  # far from its fixed point
    assert not torch.allclose(after, weighted_pagerank(attn, 2000), atol=1e-3)


def test_eps_stops_a_head_by_itself():
    attn = torch.stack([attention(batch=1, heads=1)[0, 0], 0.98 * torch.eye(N) + 0.02 / N])[None]
    full, early = weighted_pagerank(attn, 40), weighted_pagerank(attn, 40, eps=1e-4)
    assert not torch.equal(early[0, 0], full[0, 0])
    close(early[0, 0], full[0, 0], atol=1e-3)
    assert torch.equal(early[0, 1], full[0, 1])


def test_removing_duplicates_first_saves_the_object():
    """A large group of similar tokens votes for itself and outranks a small object, unless its duplicates go first."""
    background, objects = slice(0, 12), slice(12, 14)
    attn = torch.empty(1, 1, 14, 14)
    attn[..., background, background], attn[..., background, objects] = 1.0, 0.5
    attn[..., objects, background], attn[..., objects, objects] = 0.19, 1.0
    attn /= attn.sum(-1, keepdim=True)
    keys = noise(1, 14, 32)
    keys[:, background] = keys[:, :1] + 0.01 * noise(12, 32, seed=5)
    options = {"protected": 0, "vmin": 0.0}
    assert ZeroTPruneLayer(60, 2 / 14, 0, **options).choose(attn, keys)[0].tolist() == [0, 1]
    assert ZeroTPruneLayer(60, 2 / 9, 5, **options).choose(attn, keys)[0].tolist() == [12, 13]


def test_rows_among_the_survivors_sum_to_one_again_unless_told_not_to():
    attn, keep = attention(), torch.tensor([[0, 2, 3, 9]] * B)
    part = ZeroTPruneLayer(1)._among(attn, keep)
    close(part.sum(-1), torch.ones(B, H, 4))
    raw = ZeroTPruneLayer(1, renormalise=False)._among(attn, keep)
    assert torch.equal(raw, attn[:, :, keep[0]][:, :, :, keep[0]])
    blind = torch.zeros(B, H, N, N)
    blind[..., 1] = 1.0  # everyone looks at a token that is gone
    assert torch.equal(ZeroTPruneLayer(1)._among(blind, keep), torch.full((B, H, 4, 4), 0.25))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps(dtype):
    attn, x = attention(sharpness=2.0).to(dtype), noise(B, N, C).to(dtype)
    y, keep = ZeroTPruneLayer(5, 0.5, 4)(x, attn, x)
    assert y.dtype == dtype
    assert keep.tolist() == ZeroTPruneLayer(5, 0.5, 4).choose(attn.float(), x.float()).tolist()


def test_the_smallest_inputs():
    assert weighted_pagerank(torch.ones(1, 1, 1, 1), 3).tolist() == [[[1.0]]]
    assert weighted_pagerank(torch.zeros(0, 2, 5, 5), 3).shape == (0, 2, 5)
    assert weighted_pagerank(torch.zeros(1, 2, 0, 0), 3).shape == (1, 2, 0)
    assert aggregate_heads(torch.zeros(0, 2, 5))[0].shape == (0, 5)
    assert importance_guided_match(torch.ones(1, 1, 2), torch.ones(1, 1), 0).tolist() == [[0]]
    assert importance_guided_match(torch.ones(1, 2, 2), torch.ones(1, 2), 0).tolist() == [[0, 1]]
    assert importance_guided_match(torch.ones(0, 7, 2), torch.ones(0, 7), 2).shape == (0, 5)
    assert ZeroTPruneLayer(3, 0.5).choose(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 2)).tolist() == [[0]]
    assert ZeroTPruneLayer(3, 0.5, 2).choose(torch.ones(0, 1, 9, 9), torch.ones(0, 9, 2)).shape == (0, 4)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: weighted_pagerank(torch.ones(1, 2, 3, 4), 1), r"weighted_pagerank: attn expected \(..., N, N\)"),
        (lambda: weighted_pagerank(torch.ones(3), 1), r"weighted_pagerank: attn expected"),
        (lambda: weighted_pagerank(attention(), -1), r"iters"),
        (lambda: weighted_pagerank(attention(), 1, init=torch.ones(N + 1)), r"weighted_pagerank: init expected"),
        (lambda: aggregate_heads(torch.ones(2, 5)), r"aggregate_heads: s expected \(B, H, N\)"),
        (lambda: aggregate_heads(torch.ones(2, 0, 5)), r"aggregate_heads: s expected \(B, H, N\) with H > 0"),
        (lambda: aggregate_heads(torch.ones(2, 1, 5), 0.5, 0.1), r"vmin expected at most vmax"),
        (lambda: aggregate_heads(torch.ones(2, 1, 5), float("nan")), r"vmin expected at most vmax"),
        (lambda: importance_guided_match(noise(B, N, C), noise(B, N), 9), r"r expected in \[0, 8\]"),
        (lambda: importance_guided_match(noise(B, N, C), noise(B, N), -1), r"r expected in \[0, 8\]"),
        (lambda: importance_guided_match(noise(B, N, C), noise(B, N - 1), 1), r"keys and importance expected"),
        (lambda: importance_guided_match(noise(B, N, C), noise(B, N), 1, "best"), r"split expected one of"),
        (lambda: importance_guided_match(noise(B, N, C), noise(B, N), 1, protected=N + 1), r"protected expected"),
        (lambda: ZeroTPruneLayer(-1), r"iters expected at least 0; got -1"),
        (lambda: ZeroTPruneLayer(1, 0.0), r"rho expected in \(0, 1\]; got 0.0"),
        (lambda: ZeroTPruneLayer(1, 1.5), r"rho expected in"),
        (lambda: ZeroTPruneLayer(1, float("nan")), r"rho expected in"),
        (lambda: ZeroTPruneLayer(1, 1.0, -2), r"r expected at least 0"),
        (lambda: ZeroTPruneLayer(1, split="best"), r"split expected one of"),
        (lambda: ZeroTPruneLayer(1, vmin=2.0, vmax=1.0), r"vmin expected at most vmax"),
        (lambda: ZeroTPruneLayer(1, 1.0, 9).kept(N), r"17 tokens expected at least 19, protected \+ 2 r"),
        (lambda: ZeroTPruneLayer(1).choose(attention(N + 1), noise(B, N, C)), r"attn and keys expected"),
        (lambda: ZeroTPruneLayer(1)(noise(B, 5, C), attention(), noise(B, N, C)), r"x expected"),
        (lambda: patch_vit(vit(), {3: (1, 1.0, 0)}), r"block in \[0, 3\)"),
        (lambda: patch_vit(vit(), {0: (1, 1.0)}), r"config expected \{block: \(iters, rho, r\)\}"),
        (lambda: patch_vit(vit(), {0: 5}), r"config expected"),
        (lambda: patch_vit(torch.nn.Linear(2, 2), {0: (1, 1.0, 0)}), r"expected exactly one ViT"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_types_are_refused():
    with pytest.raises(TypeError, match="iters expected an integer; got float"):
        ZeroTPruneLayer(1.5)
    with pytest.raises(TypeError, match="r expected an integer; got bool"):
        ZeroTPruneLayer(1, 1.0, True)
    with pytest.raises(TypeError, match="rate"):
        patch_vit(vit(), {0: (1, 1.0, 0)}, rate=3)


# --- a live ViT -----------------------------------------------------------------------------------------------------


def transformers_vit(kind="ViT", **options):
    transformers = pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(**sizes, image_size=16, patch_size=4, num_labels=5, **options)
    return getattr(transformers, f"{kind}ForImageClassification")(config).eval()


MODELS = {
    "timm": vit,
    "timm, layer scale and qk norm": lambda: vit(init_values=0.5, qk_norm=True),
    "timm, distilled": lambda: vit(dist_token=True),
    "timm, mean": lambda: vit(global_pool="avg", class_token=False),
    "transformers ViT": transformers_vit,
    "transformers DeiT": lambda: transformers_vit("DeiT"),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())


def logits(model, x):
    out = model(x)
    return getattr(out, "logits", out)


@every_model
@torch.no_grad()
def test_rate_zero_is_the_unpatched_model_bit_for_bit(make):
    model = make()
    dense = logits(model, image())
    handle = patch_vit(model, {0: (30, 1.0, 0), 2: (1, 1.0, 0)})
    assert torch.equal(logits(model, image()), dense)
    assert handle.kept is None


@every_model
@torch.no_grad()
def test_a_patched_model_is_blocks_and_layers_by_hand(make):
    model = make()
    handle = patch_vit(model, {0: (5, 1.0, 4), 1: (3, 0.5, 0)})
    x = image()
    got, kept = logits(model, x), handle.kept
    views, protected = handle.vit.views, handle.vit.protected
    seen = {}
    unpatch(model)
    inner = handle.vit.module
    hook = views[0].module.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    dense = logits(model, x)
    hook.remove()
    tokens = seen["x"]
    index = torch.arange(tokens.shape[1]).expand(2, -1)
    for block, view in enumerate(views):
        q, k, _ = view.heads(tokens)
        tokens = view.module(tokens)
        if block in handle.layers:
            attn = torch.softmax(q @ k.mT * view.scale, -1)
            tokens, keep = handle.layers[block](tokens, attn, k.transpose(1, 2).flatten(2))
            index = index.gather(1, keep)
    assert torch.equal(kept, index)
    assert kept.shape[1] == protected + 6  # 16 patches, 12, 6
    assert torch.equal(kept[:, :protected], torch.arange(protected).expand(2, -1))
    if hasattr(inner, "forward_head"):
        want = inner.forward_head(inner.norm(tokens))
    else:
        state = inner.layernorm(tokens)
        want = model.classifier(state[:, 0])
    close(got, want, atol=1e-5)
    assert not torch.allclose(got, dense, atol=1e-4)


@pytest.mark.parametrize(("kind", "protected"), [("CLIPVision", 1), ("SiglipVision", 0), ("Dinov2", 1)])
@torch.no_grad()
def test_vision_towers(kind, protected):
    transformers = pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(**sizes, image_size=16, patch_size=4)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    dense = model(image())
    patch_vit(model, {1: (5, 1.0, 0)})
    assert torch.equal(model(image()).last_hidden_state, dense.last_hidden_state)
    handle = patch_vit(model, {0: (5, 1.0, 4), 1: (3, 0.5, 0)})
    short = model(image())
    assert short.last_hidden_state.shape == (2, protected + 6, 16)
    assert short.pooler_output.shape == dense.pooler_output.shape
    assert handle.kept.shape == (2, protected + 6)
    unpatch(model)
    assert torch.equal(model(image()).pooler_output, dense.pooler_output)


def test_blocks_not_named_are_untouched_and_unpatching_is_exact():
    model = vit()
    dense = model(image())
    before = [dict(vars(module)) for module in model.modules()]
    handle = patch_vit(model, {1: (3, 0.5, 2)})
    assert ["forward" in vars(block) for block in model.blocks] == [False, True, False]
    assert patch_of(model) is handle
    assert not torch.equal(model(image()), dense)
    unpatch(model)
    assert [dict(vars(module)) for module in model.modules()] == before
    assert torch.equal(model(image()), dense)


@torch.no_grad()
def test_the_map_is_made_at_pruning_layers_only(monkeypatch):
    model, maps = vit(depth=5), []
    softmax = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, dim: maps.append(tuple(x.shape)) or softmax(x, dim))
    patch_vit(model, {1: (3, 1.0, 4), 2: (3, 1.0, 0), 3: (3, 0.5, 0)})
    assert model.forward_features(image()).shape[1] == 7
    assert maps == [(2, 2, 17, 17), (2, 2, 13, 13)]


def test_dropout_is_not_in_the_map():
    model = vit(attn_drop=0.9).train()
    handle = patch_vit(model, {0: (5, 0.5, 0)})
    model(image())
    first = handle.kept
    for _ in range(3):
        model(image())
        assert torch.equal(handle.kept, first)


def test_a_mask_is_refused():
    model = vit()
    patch_vit(model, {0: (5, 0.5, 0)})
    with pytest.raises(ValueError, match="attention mask expected None"):
        model(image(), attn_mask=torch.ones(17, 17))


def test_a_rate_too_high_for_the_image_is_refused():
    model = vit()
    patch_vit(model, {0: (5, 0.5, 0), 1: (5, 1.0, 5)})  # 8 patches are left
    with pytest.raises(ValueError, match=r"9 tokens expected at least 11"):
        model(image())


def test_gradients_flow_to_all_weights_also_with_checkpointing():
    gradients = []
    for checkpointing in (False, True):
        model = vit().train()
        model.grad_checkpointing = checkpointing
        patch_vit(model, {0: (5, 1.0, 4), 2: (3, 0.5, 0)})
        model(image()).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert plain is not None
        assert plain.abs().sum() > 0
        close(again, plain)


@torch.no_grad()
def test_copies_and_pickles_prune_alike_and_on_their_own():
    model = vit()
    patch_vit(model, {0: (5, 1.0, 4), 2: (3, 0.5, 0)})
    pruned = model(image())
    twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for twin in twins:
        assert patch_of(twin) is not patch_of(model)
        assert patch_of(twin).kept is None
        assert torch.equal(twin(image()), pruned)
    unpatch(twins[0])
    assert torch.equal(model(image()), pruned)


@torch.no_grad()
def test_another_paper_may_patch_next():
    from tokernel.reduce import tome

    model = vit()
    dense = model(image())
    patch_vit(model, {1: (5, 0.5, 0)})
    tome.patch_vit(model, 2)
    patch_vit(model, {2: (5, 0.5, 0)})
    assert ["forward" in vars(block) for block in model.blocks] == [False, False, True]
    unpatch(model)
    assert torch.equal(model(image()), dense)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_models(dtype):
    model = vit().to(dtype)
    patch_vit(model, {0: (5, 1.0, 4), 1: (3, 0.5, 0)})
    out = model(image().to(dtype))
    assert out.dtype == dtype
    assert torch.isfinite(out).all()


@torch.no_grad()
def test_batches_of_none_and_one():
    model = vit()
    patch_vit(model, {0: (5, 1.0, 4), 1: (3, 0.5, 0)})
    assert model(image(0)).shape == (0, 5)
    both = model(image(2))
    close(torch.cat([model(image(2)[:1]), model(image(2)[1:])]), both, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_a_patched_model_compiles():
    model = vit()
    patch_vit(model, {0: (5, 1.0, 4), 1: (3, 0.5, 0)})
    want = model(image())
    close(torch.compile(model, backend="eager")(image()), want, atol=1e-5)


# --- search ---------------------------------------------------------------------------------------------------------

SPACE = SearchSpace(depth=12, tokens=197, width=384)


def test_the_search_keeps_the_best_of_what_it_tries():
    found = random_config_search(lambda config: max(config), 30, SPACE, progress=False)
    assert len(found.trials) == 30
    assert found.score == max(score for _, score in found.trials) == max(found.config)
    assert found.config == next(config for config, score in found.trials if score == found.score)
    assert random_config_search(lambda config: max(config), 30, SPACE, progress=False) == found
    assert random_config_search(lambda config: max(config), 30, SPACE, seed=1, progress=False) != found


def test_everything_it_tries_costs_what_it_should_and_fits():
    found = random_config_search(lambda config: 0.0, 50, SPACE, progress=False)
    for config, _ in found.trials:
        assert 0.6 <= SPACE.cost_of(config) <= 0.7
        assert 1 <= len(config) <= 5
        tokens = SPACE.tokens_of(config)
        for block, (iters, rho, r) in config.items():
            assert 0 <= r <= (tokens[block] - 1) // 2
            assert rho in SPACE.rhos
            low, high = (30, 50) if block < 3 else (1, 1) if block > 8 else (5, 10)
            assert low <= iters <= high


def test_the_cost_counts_the_multiply_adds_of_the_blocks():
    space = SearchSpace(depth=2, tokens=17, width=8)
    assert space.cost_of({}) == 1
    assert space.tokens_of({0: (5, 0.5, 4)}) == [17, 7]

    def block(n):
        return 12 * n * 8**2 + 2 * n**2 * 8

    assert space.cost_of({0: (5, 0.5, 4)}) == pytest.approx((block(17) + block(7)) / (2 * block(17)))
    assert space.cost_of({1: (1, 0.5, 0)}) == 1  # what leaves the last block costs nothing here


def test_its_counts_are_those_of_the_patched_model():
    space = SearchSpace(depth=3, tokens=17, width=16, cost=(0.3, 0.9))
    config = space.sample(random.Random(5))
    model = vit()
    patch_vit(model, config)
    lengths = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    model(image())
    assert lengths == space.tokens_of(config)


def test_a_score_that_is_no_number_loses():
    seen = []

    def score(config):
        seen.append(config)
        return float("nan") if len(seen) != 3 else -1.0

    found = random_config_search(score, 5, SPACE, progress=False)
    assert found.config == seen[2]


def test_a_search_that_cannot_work_says_so():
    with pytest.raises(ValueError, match="budget expected at least 1; got 0"):
        random_config_search(lambda config: 0.0, 0, SPACE)
    with pytest.raises(ValueError, match="space expected configurations of cost"):
        random_config_search(lambda config: 0.0, 1, SearchSpace(2, 17, 8, cost=(0.01, 0.02)), progress=False)
    with pytest.raises(ValueError, match="cost expected"):
        SearchSpace(2, 17, 8, cost=(0.7, 0.6))
    with pytest.raises(ValueError, match="protected below tokens"):
        SearchSpace(2, 1, 8)
    with pytest.raises(ValueError, match="rhos expected"):
        SearchSpace(2, 17, 8, rhos=(0.0,))


def test_it_shows_a_bar_and_does_without_rich(monkeypatch, capsys):
    pytest.importorskip("rich", reason="rich is an extra")
    random_config_search(lambda config: 0.0, 2, SPACE)
    assert "searching" in capsys.readouterr().out
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    random_config_search(lambda config: 0.0, 2, SPACE)
    assert capsys.readouterr().out == ""


def test_registered():
    assert zero_tprune.PAPER is paper("zero_tprune")
