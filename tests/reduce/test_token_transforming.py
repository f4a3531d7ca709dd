# SPDX-License-Identifier: Apache-2.0
"""Token transforming: the laws of its specification, and the reductions that are special cases of it."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from integrations.timm_like import VisionTransformer
from tokernel import ops
from tokernel.integrations import unpatch
from tokernel.reduce.token_transforming import (
    TokenTransform,
    classify,
    from_assignment,
    from_fuse,
    from_merge,
    from_prune,
    patch_vit,
    transform_matrix,
)

B, N, M, D, C = 2, 13, 5, 4, 6


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def soft(tau: float = 0.1, mass: Tensor | None = None, targets: int = M, **options) -> TokenTransform:
    return transform_matrix(random(B, N, D), random(B, N, seed=1), targets, tau, mass, **options)


def masses(seed: int = 2) -> Tensor:
    return random(B, N, seed=seed).abs() + 0.5


EVERY = {
    "soft": lambda: soft(mass=masses()),
    "soft top 2": lambda: soft(mass=masses(), topk=2),
    "prune": lambda: from_prune(torch.tensor([[3, 0, 7], [1, 2, 12]]), N, masses()),
    "groups": lambda: from_assignment(torch.arange(N).remainder(M).expand(B, -1), M, masses()),
    "fuse": lambda: from_fuse(torch.tensor([[3, 0, 7], [1, 2, 12]]), random(B, N, seed=3).abs(), masses()),
    "composed": lambda: second_of(soft(mass=masses())).compose(soft(mass=masses())),
}
every_transform = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY.keys())


def second_of(first: TokenTransform) -> TokenTransform:
    return transform_matrix(random(B, M, D, seed=4), random(B, M, seed=5), 3, 0.2, first.mass)


# --- what must be true ----------------------------------------------------------------------------------------------


@every_transform
def test_rows_of_w_sum_to_one_and_columns_of_p_to_one_or_none(make):
    t = make()
    assert t.P.shape == t.W.shape == (t.batch, t.targets, t.tokens)
    torch.testing.assert_close(t.W.sum(-1), torch.ones(t.batch, t.targets))
    columns = t.P.sum(1)
    torch.testing.assert_close(columns, (columns > 0.5).float())


@pytest.mark.parametrize("name", ["soft", "soft top 2", "groups", "fuse", "composed"])
def test_nothing_is_lost(name: str):
    t = EVERY[name]()
    torch.testing.assert_close(t.P.sum(1), torch.ones(t.batch, t.tokens))
    torch.testing.assert_close(t.mass.sum(1), masses().sum(1), rtol=1e-5, atol=1e-5)


@every_transform
def test_apply_and_restore_are_the_products_with_w_and_p(make):
    t, x = make(), random(B, N, C, seed=6)
    y = t.apply(x)
    torch.testing.assert_close(y, t.W @ x, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(t.restore(y), t.P.mT @ y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["soft", "soft top 2", "groups", "composed"])
def test_the_mass_weighted_sum_is_conserved(name: str):
    t, x = EVERY[name](), random(B, N, C, seed=6)
    before, after = (masses().unsqueeze(-1) * x).sum(1), (t.mass.unsqueeze(-1) * t.apply(x)).sum(1)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_mass_is_the_same_before_and_after_apply():
    early, late = soft(mass=masses()), soft(mass=masses())
    mass = early.mass
    late.apply(random(B, N, C))
    torch.testing.assert_close(late.mass, mass)
    assert late.mass.dtype == torch.float32


def test_small_tau_and_all_targets_give_the_identity():
    t, x = soft(1e-4, targets=N), random(B, N, C, seed=6)
    torch.testing.assert_close(t.P, torch.eye(N).expand(B, -1, -1), atol=1e-6, rtol=0)
    torch.testing.assert_close(t.apply(x), x)


def test_small_tau_sends_every_token_to_its_most_similar_target():
    t = soft(1e-5)
    unit = nn.functional.normalize(random(B, N, D), dim=-1)
    similarity = torch.take_along_dim(unit, t.sel_idx.unsqueeze(-1), 1) @ unit.mT
    best = similarity[:, 1:, 1:].argmax(1) + 1
    expected = nn.functional.one_hot(best, M).mT.float()
    torch.testing.assert_close(t.P[:, :, 1:], expected, atol=1e-6, rtol=0)
    assert classify(from_assignment(t.P.argmax(1), M)) == "merge"


def test_infinite_tau_gives_equal_outputs_but_for_the_class_token():
    x = random(B, N, C, seed=6)
    t = soft(float("inf"))
    y = t.apply(x)
    torch.testing.assert_close(y[:, 1:], x[:, 1:].mean(1, keepdim=True).expand(-1, M - 1, -1))
    assert torch.equal(y[:, 0], x[:, 0])


@pytest.mark.parametrize("name", ["bsm_plain", "bsm_cls", "bsm_cls_dist"])
def test_from_merge_equals_the_official_weighted_merge(golden: Path, name: str):
    with np.load(golden / "tome" / f"{name}.npz") as file:
        v = {key: torch.from_numpy(file[key].copy()) for key in file.files}
    plan = ops.bipartite_match(v["metric"], int(v["r"]), bool(v["class_token"]), bool(v["distill_token"]))
    t = from_merge(plan, v["size"].squeeze(-1))
    torch.testing.assert_close(t.apply(v["x"]), v["wavg_x"], atol=1e-5, rtol=0)
    torch.testing.assert_close(t.mass.unsqueeze(-1), v["wavg_size"], atol=1e-5, rtol=0)
    ones = from_merge(plan)
    torch.testing.assert_close(ones.apply(v["x"]), v["wavg1_x"], atol=1e-5, rtol=0)
    assert torch.equal(ones.P, v["source"])
    assert classify(ones) == "merge"


def test_from_prune_equals_gather():
    keep, x = torch.tensor([[3, 0, 7], [1, 2, 12]]), random(B, N, C)
    x[:, 5] = float("nan")  # what is dropped has no influence
    t = from_prune(keep, N, masses())
    assert torch.equal(t.apply(x), torch.take_along_dim(x, keep.unsqueeze(-1), 1))
    assert torch.equal(t.mass, masses().gather(1, keep))
    restored = t.restore(t.apply(x))
    assert torch.equal(restored[0, keep[0]], x[0, keep[0]])
    assert (restored[0, 5] == 0).all()


def test_compose_applies_one_after_the_other():
    first = soft(mass=masses())
    second, x = second_of(first), random(B, N, C, seed=6)
    both = second.compose(first)
    assert torch.equal(both.apply(x), second.apply(first.apply(x)))
    torch.testing.assert_close(both.P, second.P @ first.P)
    torch.testing.assert_close(both.W, second.W @ first.W)
    assert torch.equal(both.sel_idx, first.sel_idx.gather(1, second.sel_idx))
    assert torch.equal(both.restore(both.apply(x)), first.restore(second.restore(both.apply(x))))


@pytest.mark.parametrize("name", ["soft", "soft top 2", "groups", "fuse", "composed"])
def test_a_constant_survives_apply_and_restore(name: str):
    t = EVERY[name]()
    constant = random(1, 1, C).expand(B, N, -1)
    torch.testing.assert_close(t.restore(t.apply(constant)), constant)


@every_transform
def test_outputs_are_convex_combinations(make):
    t, x = make(), random(B, N, C, seed=6)
    assert (t.W >= 0).all()
    y = t.apply(x)
    assert (y <= x.amax(1, keepdim=True) + 1e-6).all()
    assert (y >= x.amin(1, keepdim=True) - 1e-6).all()


@pytest.mark.parametrize("protected", [0, 1, 2])
def test_protected_rows_pass_unchanged(protected: int):
    x = random(B, N, C, seed=6)
    t = soft(mass=masses(), protected=protected)
    y = t.apply(x)
    torch.testing.assert_close(y[:, :protected], x[:, :protected])
    assert torch.equal(t.P[:, :protected, :protected], torch.eye(protected).expand(B, -1, -1))
    assert (t.P[:, :protected, protected:] == 0).all()
    assert (t.P[:, protected:, :protected] == 0).all()
    assert torch.equal(t.mass[:, :protected], masses()[:, :protected])


def test_permuting_sources_permutes_columns_only():
    order = torch.cat([torch.zeros(1, dtype=torch.long), torch.randperm(N - 1) + 1])
    metric, importance = random(B, N, D), random(B, N, seed=1)
    straight = transform_matrix(metric, importance, M)
    permuted = transform_matrix(metric[:, order], importance[:, order], M)
    # Targets keep the order of the tokens, so rows are compared through the tokens that they stand for.
    rows = [
        torch.stack([(order[s] == want).nonzero()[0, 0] for want in w])
        for s, w in zip(permuted.sel_idx, straight.sel_idx, strict=True)
    ]
    aligned = torch.stack([p[r] for p, r in zip(permuted.P, rows, strict=True)])
    torch.testing.assert_close(aligned, straight.P[:, :, order], atol=1e-6, rtol=1e-5)


def clustered(clusters: int = 4, size: int = 6, noise: float = 0.0, seed: int = 0) -> Tensor:
    """A class token, then `size` tokens around each of a few centres, well apart."""
    centres = nn.functional.normalize(random(1, clusters, 8, seed=seed), dim=-1)
    tokens = centres.repeat_interleave(size, 1) + noise * random(1, clusters * size, 8, seed=seed + 1)
    return torch.cat([random(1, 1, 8, seed=seed + 2), tokens], 1)


def test_many_to_many_restores_better_than_pruning_on_clusters():
    x = clustered(noise=0.15)
    importance = random(1, x.shape[1], seed=9)
    for targets in (5, 7, 9):
        errors = []
        for tau in (0.05, 0.1, 0.2, 0.4):
            t = transform_matrix(x, importance, targets, tau)
            errors.append((x - t.restore(t.apply(x))).norm())
        kept = from_prune(t.sel_idx, x.shape[1])
        assert min(errors) <= (x - kept.restore(kept.apply(x))).norm()


# --- top-k and ties -------------------------------------------------------------------------------------------------


def test_topk_keeps_the_largest_shares_and_renormalises():
    full, cut = soft(), soft(topk=2)
    largest = full.P[:, 1:, 1:].topk(2, 1)
    expected = torch.zeros(B, M - 1, N - 1).scatter(1, largest.indices, largest.values)
    torch.testing.assert_close(cut.P[:, 1:, 1:], expected / expected.sum(1, keepdim=True))
    assert ((cut.P > 0).sum(1) <= 2).all()
    assert torch.equal(soft(topk=99).P, full.P)


def test_top_one_is_merging_with_the_nearest_target():
    t, x = soft(topk=1, mass=masses()), random(B, N, C, seed=6)
    assert classify(t) == "merge"
    group = from_assignment(soft().P.argmax(1), M, masses())
    torch.testing.assert_close(t.apply(x), group.apply(x))


def test_ties_go_to_the_lowest_index():
    same = torch.ones(1, 6, 3)
    t = transform_matrix(same, torch.zeros(1, 6), 3, topk=1)
    assert t.sel_idx.tolist() == [[0, 1, 2]]
    assert t.P.argmax(1).tolist() == [[0, 1, 1, 1, 1, 1]]


def test_nan_importance_ranks_last_and_nan_or_zero_metrics_are_unlike_everything():
    importance = torch.tensor([[0.0, float("nan"), 2.0, float("-inf"), 1.0]])
    metric = random(1, 5, 3)
    metric[0, 1], metric[0, 3, 0] = 0, float("nan")
    t = transform_matrix(metric, importance, 3)
    assert t.sel_idx.tolist() == [[0, 2, 4]]
    torch.testing.assert_close(t.P[0, :, [1, 3]], torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.5, 0.5]]))


# --- special cases --------------------------------------------------------------------------------------------------


def test_fuse_averages_the_rest_by_importance():
    keep, importance = torch.tensor([[3, 0], [1, 2]]), random(B, N, seed=3).abs()
    importance[1] = 0
    t, x = from_fuse(keep, importance, masses()), random(B, N, C)
    y = t.apply(x)
    assert torch.equal(y[:, :2], torch.take_along_dim(x, keep.unsqueeze(-1), 1))
    rest = [i for i in range(N) if i not in (0, 3)]
    weight = importance[0, rest] / importance[0, rest].sum()
    torch.testing.assert_close(y[0, 2], weight @ x[0, rest])
    torch.testing.assert_close(y[1, 2], x[1, [0, *range(3, N)]].mean(0))
    assert from_fuse(torch.arange(N).expand(B, -1), importance).targets == N


@pytest.mark.parametrize(
    ("w", "kind"),
    [
        (torch.eye(4)[[2, 0]], "prune"),
        (torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]), "merge"),
        (torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]), "many-to-many"),
        (torch.tensor([[1.0, 0.0], [1.0, 0.0]]), "many-to-many"),
    ],
)
def test_classify(w: Tensor, kind: str):
    assert classify(w) == kind
    assert classify(torch.stack([torch.eye(w.shape[1])[: w.shape[0]], w])) == kind


def test_classify_of_transforms():
    kinds = {name: classify(make()) for name, make in EVERY.items()}
    assert kinds == {
        "soft": "many-to-many",
        "soft top 2": "many-to-many",
        "prune": "prune",
        "groups": "merge",
        "fuse": "merge",
        "composed": "many-to-many",
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tokens_keep_their_dtype_and_the_mass_fp32(dtype: torch.dtype):
    t, x = soft(mass=masses()), random(B, N, C, seed=6)
    y = t.apply(x.to(dtype))
    assert y.dtype == t.restore(y).dtype == dtype
    torch.testing.assert_close(y.float(), t.apply(x), atol=2 * torch.finfo(dtype).eps, rtol=2 * torch.finfo(dtype).eps)
    assert t.mass.dtype == torch.float32


def test_gradients_reach_tokens_and_metric():
    metric, x = random(1, 6, 3).double().float().requires_grad_(), random(1, 6, 2).requires_grad_()
    t = transform_matrix(metric, torch.arange(6.0)[None], 3, tau=0.5)
    up = random(1, 3, 2, seed=7)
    ours = torch.autograd.grad(t.apply(x), (x, metric), up, retain_graph=True)
    plain = torch.autograd.grad(t.W @ x, (x, metric), up)
    torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-5)


# --- inside a network -----------------------------------------------------------------------------------------------


def vit(**options) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**({"depth": 4} | options)).eval()


def images(seed: int = 0) -> Tensor:
    return random(2, 3, 16, 16, seed=seed)


@torch.no_grad()
def test_duplicates_and_small_tau_give_the_dense_logits():
    """Each of four patches four times: what merges is equal, and log-mass counts it as often as it was there."""
    model = vit()
    model.pos_embed.zero_()
    image = random(1, 3, 4, 16).repeat(1, 1, 4, 1)  # rows of patches, all the same
    dense = model(image)
    handle = patch_vit(model, {1: 5, 2: 5}, tau=1e-4)
    # Importance must name one patch of each cluster: those of the first row.
    first_row = ((torch.arange(17) >= 1) & (torch.arange(17) <= 4)).float()[None]
    handle._transform = lambda q, k, mass, M, scale: transform_matrix(k.mean(1), first_row, M, 1e-4, mass)
    torch.testing.assert_close(model(image), dense, atol=1e-5, rtol=1e-4)
    assert handle.transforms[1] is not None
    torch.testing.assert_close(handle.size.flatten(), torch.tensor([1.0, 4, 4, 4, 4]))
    handle.prop_attn = False
    assert not torch.allclose(model(image), dense, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "options", [{}, {"dist_token": True}, {"class_token": False, "global_pool": "avg"}], ids=["cls", "dist", "avg"]
)
def test_token_counts_follow_the_targets_and_restore_brings_all_back(options: dict[str, object]):
    model = vit(**options)
    protected = model.num_prefix_tokens
    lengths: list[int] = []
    handle = patch_vit(model, {0: 12, 2: 7, 3: 99})
    for block in model.blocks:
        block.mlp.register_forward_pre_hook(lambda m, args: lengths.append(args[0].shape[1]))
    tokens = model.forward_features(images())
    assert lengths == [12, 12, 7, 7]
    assert [t is not None for t in handle.transforms] == [True, False, True, False]
    total = torch.full((2, 1), 16.0 + protected)
    torch.testing.assert_close(handle.size.sum(1), total, rtol=1e-5, atol=1e-5)
    restored = handle.restore(tokens)
    assert restored.shape == (2, 16 + protected, 16)
    both = handle.transforms[2].compose(handle.transforms[0])
    torch.testing.assert_close(restored, both.restore(tokens))
    torch.testing.assert_close(restored[:, :protected], tokens[:, :protected])


@torch.no_grad()
def test_no_targets_leave_the_model_as_it_is_bit_for_bit():
    model, image = vit(), images()
    dense = model(image)
    handle = patch_vit(model, {})
    assert torch.equal(model(image), dense)
    patch_vit(model, {1: 17})
    assert torch.equal(model(image), dense)
    assert handle.size is None


@torch.no_grad()
def test_unpatch_and_copies():
    model, image = vit(), images()
    dense = model(image)
    patch_vit(model, {1: 6})
    changed = model(image)
    assert not torch.equal(changed, dense)
    twin, thawed = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    unpatch(model)
    assert torch.equal(model(image), dense)
    assert all("forward" not in vars(m) for m in model.modules())
    assert torch.equal(twin(image), changed)
    assert torch.equal(thawed(image), changed)


@torch.no_grad()
def test_a_patched_model_compiles_in_one_graph():
    model = vit(depth=2)
    handle = patch_vit(model, {0: 8, 1: 5})
    eager = model(images())
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images()), eager, atol=1e-6, rtol=1e-6)
    assert handle.restore(torch.zeros(2, 5, 16)).shape == (2, 17, 16)


def test_training_through_transforms_reaches_every_parameter():
    model = vit()
    patch_vit(model, {1: 8, 2: 5})
    model(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# --- bad and empty input --------------------------------------------------------------------------------------------


def test_empty_batches_and_single_tokens():
    none = transform_matrix(torch.zeros(0, 5, 3), torch.zeros(0, 5), 2)
    assert none.apply(torch.zeros(0, 5, 4)).shape == (0, 2, 4)
    one = transform_matrix(torch.ones(1, 1, 3), torch.ones(1, 1), 1)
    assert one.apply(torch.full((1, 1, 4), 3.0)).tolist() == [[[3.0] * 4]]
    assert from_assignment(torch.zeros(1, 0, dtype=torch.long), 2).apply(torch.zeros(1, 0, 4)).tolist() == [
        [[0.0] * 4] * 2
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft(targets=0), r"M expected a number in \[2, 13\]; got 0"),
        (lambda: soft(targets=1), r"M expected a number in \[2, 13\]; got 1"),
        (lambda: soft(targets=N + 1), "M expected"),
        (lambda: soft(tau=0.0), "tau expected at least"),
        (lambda: soft(tau=float("nan")), "tau expected at least"),
        (lambda: soft(topk=0), "topk expected None or at least 1; got 0"),
        (lambda: soft(protected=-1), "protected expected"),
        (lambda: soft(mass=torch.ones(B, 3)), r"mass expected shape \(2, 13\); got \(2, 3\)"),
        (lambda: transform_matrix(torch.ones(3, 2), torch.ones(3, 2), 1), r"metric expected shape \(B, N, D\)"),
        (lambda: transform_matrix(torch.ones(1, 3, 2), torch.ones(1, 2), 1), "importance expected shape"),
        (lambda: from_prune(torch.tensor([[1, 1]]), 3), "from_prune: keep_idx expected .* distinct"),
        (lambda: from_prune(torch.tensor([[3]]), 3), r"from_prune: keep_idx expected tokens in \[0, 3\)"),
        (lambda: from_assignment(torch.tensor([[2]]), 2), r"from_assignment: labels expected \(B, N\) in \[-1, 2\)"),
        (lambda: soft().apply(torch.ones(B, N + 1, C)), r"apply: x expected shape \(2, 13, C\); got \(2, 14, 6\)"),
        (lambda: soft().restore(torch.ones(B, N, C)), r"restore: y expected shape \(2, 5, C\)"),
        (
            lambda: soft().compose(soft()),
            r"compose: earlier expected to give \(batch, tokens\) \(2, 13\); got \(2, 5\)",
        ),
        (lambda: patch_vit(vit(), {4: 5}), r"patch_vit: targets expected .* block in \[0, 4\)"),
        (lambda: patch_vit(vit(), {0: 1}), "patch_vit: targets expected .* M > 1"),
        (lambda: patch_vit(vit(), {0: 5}, tau=0.0), "patch_vit: tau expected"),
    ],
)
def test_bad_arguments_are_named(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
