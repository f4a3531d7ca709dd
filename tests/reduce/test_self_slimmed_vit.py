# SPDX-License-Identifier: Apache-2.0
"""Self-slimmed ViT against the official code's outputs, and the laws of its specification."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from integrations.timm_like import VisionTransformer
from tokernel.reduce.self_slimmed_vit import (
    LVVIT,
    FRDLoss,
    LVViT,
    LVViTConfig,
    ReverseTokenSlimming,
    SlimmedViT,
    TokenSlimming,
    from_official,
    slim_vit,
    stages_to_counts,
)

TINY = LVViTConfig(dim=16, depth=4, heads=2, stages=(1, 1, 2), image=64, mlp_ratio=2.0, classes=5)


def load(golden: Path, name: str) -> dict[str, Tensor]:
    with np.load(golden / "self_slimmed_vit" / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key].copy()) for key in file.files}


def weights(vectors: dict[str, Tensor], module: str = "") -> dict[str, Tensor]:
    """Rename the official weights of one module, or of the whole model."""
    renamed = from_official({module + key[2:]: value for key, value in vectors.items() if key.startswith("w.")})
    return {key.split(".", 2)[2] if module else key: value for key, value in renamed.items()}


def golden_model(vectors: dict[str, Tensor]) -> SlimmedViT:
    model = slim_vit(LVViT(TINY), TINY.stages, rho=float(vectors["keeping_ratio"]))
    model.load_state_dict(weights(vectors))
    return model.eval()


def slimmer(seed: int = 0, dim: int = 8, keep: int = 3) -> TokenSlimming:
    torch.manual_seed(seed)
    return TokenSlimming(dim, keep)


# --- the official outputs -------------------------------------------------------------------------------------------


def test_golden_tsm(golden: Path):
    v = load(golden, "tsm")
    module = TokenSlimming(8, int(v["keeped_patches"]), float(v["ratio"]))
    module.load_state_dict(weights(v, "tsm.0."))
    x = v["x"].requires_grad_()
    y = module(x)
    torch.testing.assert_close(module.weights(x), v["assign"], atol=1e-5, rtol=0)
    torch.testing.assert_close(y, v["y"], atol=1e-5, rtol=0)
    y.backward(v["grad_out"])
    torch.testing.assert_close(x.grad, v["grad_x"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(module.scale.grad, v["grad_scale"].reshape(()), rtol=1e-4, atol=1e-6)


def test_golden_rtsm(golden: Path):
    v = load(golden, "rtsm")
    module = ReverseTokenSlimming(8, int(v["keeped_patches"]), int(v["recovered_patches"]), float(v["ratio"]))
    module.load_state_dict(weights(v, "rtsm.0."))
    torch.testing.assert_close(module(v["x"]), v["y"], atol=1e-5, rtol=0)


def test_golden_frd_loss(golden: Path):
    v = load(golden, "frd_loss")
    loss = FRDLoss(float(v["lambda_token"]), float(v["lambda_logits"]), float(v["tau"]))
    logits, tokens = v["student_logits"].requires_grad_(), v["student_tokens"].requires_grad_()
    terms = loss.terms(logits, list(tokens), v["teacher_logits"], list(v["teacher_tokens"]), v["soft_labels"])
    for term, name in zip(terms, ("loss_cls", "loss_token", "loss_logits"), strict=True):
        torch.testing.assert_close(term, v[name], atol=1e-5, rtol=0)
    total = loss(logits, list(tokens), v["teacher_logits"], list(v["teacher_tokens"]), v["soft_labels"])
    torch.testing.assert_close(total, v["loss"], atol=1e-5, rtol=0)
    total.backward()
    torch.testing.assert_close(logits.grad, v["grad_student_logits"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(tokens.grad, v["grad_student_tokens"], rtol=1e-4, atol=1e-6)


def test_golden_whole_model(golden: Path):
    v = load(golden, "lvvit_small")
    model = golden_model(v)
    with torch.no_grad():
        logits, tokens = model(v["image"])
        recovered = model.recover_tokens(tokens)
    torch.testing.assert_close(logits, v["logits"], atol=5e-5, rtol=0)
    assert [t.shape[1] for t in tokens] == v["token_counts"].tolist()
    assert model.counts == v["keeped_patches"].tolist()
    for i, (ours, expanded) in enumerate(zip(tokens, recovered, strict=True)):
        torch.testing.assert_close(ours, v[f"layer_tokens.{i}"], atol=5e-5, rtol=0)
        torch.testing.assert_close(expanded, v[f"recovered_tokens.{i}"], atol=5e-5, rtol=0)


# --- what must be true ----------------------------------------------------------------------------------------------


def test_weights_sum_to_one_and_a_constant_stays():
    module, x = slimmer(), torch.randn(2, 11, 8)
    torch.testing.assert_close(module.weights(x).sum(-1), torch.ones(2, 3))
    constant = torch.randn(1, 1, 8).expand(2, 11, 8)
    torch.testing.assert_close(module(constant), constant[:, :3])


def test_outputs_lie_in_the_hull_of_the_inputs():
    module, x = slimmer(), torch.randn(2, 11, 8)
    y = module(x)
    eps = 1e-6
    assert (y <= x.amax(1, keepdim=True) + eps).all()
    assert (y >= x.amin(1, keepdim=True) - eps).all()


def test_order_of_the_inputs_does_not_matter():
    module, x = slimmer(), torch.randn(2, 11, 8)
    torch.testing.assert_close(module(x[:, torch.randperm(11)]), module(x))


def test_scale_zero_gives_the_mean_token():
    module, x = slimmer(), torch.randn(2, 11, 8)
    with torch.no_grad():
        module.scale.zero_()
    torch.testing.assert_close(module(x), x.mean(1, keepdim=True).expand(-1, 3, -1))


def test_large_scale_copies_the_best_token():
    module, x = slimmer(), torch.randn(2, 11, 8)
    best = module.logits(x).argmax(-1)
    with torch.no_grad():
        module.scale.fill_(1e6)
    torch.testing.assert_close(module(x), torch.take_along_dim(x, best.unsqueeze(-1), 1))


@pytest.mark.parametrize(("patches", "counts"), [(196, [196, 98, 49, 24]), (324, [324, 162, 81, 40])])
def test_counts_are_truncated(patches: int, counts: list[int]):
    assert stages_to_counts(patches, [1, 1, 1, 11]) == counts


def test_class_token_passes_the_slimming_untouched():
    torch.manual_seed(0)
    model = slim_vit(LVViT(TINY), TINY.stages).eval()
    seen: list[Tensor] = []
    blocks = list(model.vit.blocks)
    # Hooks run in order of registration: the last one of block 0 sees its slimmed output, block 1's input.
    blocks[0].register_forward_hook(lambda m, a, out: seen.append(out))
    blocks[1].register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    raw: list[Tensor] = []
    blocks[0].mlp.register_forward_hook(lambda m, a, out: raw.append(out[:, 0]))
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64))
    assert seen[1].shape[1] == 1 + 8
    assert torch.equal(seen[0], seen[1])
    assert raw[0].shape == seen[1][:, 0].shape


def test_student_without_slimming_equals_its_teacher():
    torch.manual_seed(0)
    teacher = LVViT(TINY).eval()
    student = slim_vit(copy.deepcopy(teacher), [TINY.depth]).train()
    student.vit.eval()  # BatchNorm in training would use the batch's own statistics
    watched = slim_vit(teacher, [TINY.depth]).eval()
    image, labels = torch.randn(2, 3, 64, 64), torch.tensor([0, 3])
    terms = FRDLoss().terms(*student(image), *watched(image), labels)
    assert terms.token.item() == 0
    assert terms.logits.item() == 0
    assert torch.equal(student(image).logits, watched(image).logits)


def test_recovered_tokens_have_the_full_count_and_recovery_leaves_the_logits():
    torch.manual_seed(0)
    model = slim_vit(LVViT(LVViTConfig(16, 4, 2, (2, 1, 1), image=64, classes=5)), (2, 1, 1)).eval()
    image = torch.randn(2, 3, 64, 64)
    logits, tokens = model(image)
    assert [t.shape[1] for t in tokens] == [16, 8, 4, 4]
    assert all(t.shape == (2, 16, 16) for t in model.recover_tokens(tokens))
    assert torch.equal(model.recover_tokens(tokens)[0], tokens[0])
    model.train()
    model.vit.eval()
    assert all(t.shape == (2, 16, 16) for t in model(image).tokens)
    assert torch.equal(model.drop_recovery().eval()(image).logits, logits)


def test_loss_is_zero_only_where_student_and_teacher_agree():
    torch.manual_seed(0)
    logits, tokens, labels = torch.randn(3, 5), [torch.randn(3, 6, 4)], torch.tensor([0, 1, 2])
    same = FRDLoss().terms(logits, tokens, logits, tokens, labels)
    assert same.token.item() == 0
    assert abs(same.logits.item()) < 1e-7
    moved = FRDLoss().terms(logits + torch.eye(3, 5), [tokens[0] + 1e-3], logits, tokens, labels)
    assert moved.token.item() > 0
    assert moved.logits.item() > 0


def test_gradient_scale_for_small_differences_does_not_depend_on_tau():
    torch.manual_seed(0)
    teacher = 1e-2 * torch.randn(4, 7, dtype=torch.float64)
    tokens = [torch.zeros(4, 1, 1, dtype=torch.float64)]
    grads = []
    for tau in (1.0, 4.0, 16.0):
        student = (teacher + 1e-3 * torch.randn(4, 7, generator=torch.Generator().manual_seed(1))).requires_grad_()
        FRDLoss(tau=tau).terms(student, tokens, teacher, tokens, torch.zeros(4, dtype=torch.long)).logits.backward()
        grads.append(student.grad)
    # Equal to first order in the logits, which are about 1e-2.
    assert all((g - grads[0]).abs().max() < 3e-2 * grads[0].abs().max() for g in grads[1:])


def test_fused_slimming_equals_einsum_forward_and_backward():
    module, x = slimmer(), torch.randn(2, 11, 8, requires_grad=True)
    up = torch.randn(2, 3, 8)
    inputs = (x, module.scale, module.mlp.fc2.weight)
    fused = module(x)
    plain = torch.einsum("bkn,bnc->bkc", module.weights(x), x)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    for a, b in zip(
        torch.autograd.grad(fused, inputs, up), torch.autograd.grad(plain, inputs, up, retain_graph=True), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_student_learns_from_its_unslimmed_self():
    torch.manual_seed(0)
    teacher = slim_vit(LVViT(TINY), [TINY.depth]).eval().requires_grad_(False)
    student = slim_vit(LVViT(TINY), TINY.stages).train()
    student.vit.load_state_dict(teacher.vit.state_dict())
    student.vit.eval()
    image, labels = torch.randn(8, 3, 64, 64), torch.arange(8) % 5
    target, criterion, losses = teacher(image), FRDLoss(), []
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        loss = criterion(*student(image), *target, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]


# --- traps ----------------------------------------------------------------------------------------------------------


def test_slimming_takes_any_number_of_tokens_and_layer_norm_eps_is_1e_5():
    module = slimmer()
    assert [module(torch.randn(1, n, 8)).shape[1] for n in (1, 2, 50)] == [3, 3, 3]
    assert all(m.eps == 1e-5 for m in slim_vit(LVViT(TINY), TINY.stages).modules() if isinstance(m, nn.LayerNorm))


def test_half_precision_accumulates_in_fp32():
    module = slimmer().half()
    with torch.no_grad():
        module.scale.zero_()
    x = torch.full((1, 4096, 8), 30.0, dtype=torch.float16)  # a running fp16 sum of these would stop growing
    assert torch.equal(module(x), x[:, :3])


def test_teacher_tokens_are_taken_before_the_final_norm():
    torch.manual_seed(0)
    model = slim_vit(LVViT(TINY), [TINY.depth]).eval()
    seen: list[Tensor] = []
    model.vit.norm.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    with torch.no_grad():
        tokens = model(torch.randn(1, 3, 64, 64)).tokens
    assert torch.equal(tokens[-1], seen[0][:, 1:])


def test_unslim_gives_the_model_back():
    torch.manual_seed(0)
    vit = LVViT(TINY).eval()
    image = torch.randn(1, 3, 64, 64)
    dense = vit(image)
    slimmed = slim_vit(vit, TINY.stages).eval()
    assert not torch.equal(slimmed(image).logits, dense)
    assert slimmed.unslim() is vit
    assert torch.equal(vit(image), dense)


@pytest.mark.parametrize("options", [{}, {"dist_token": True}, {"class_token": False, "global_pool": "avg"}])
def test_timm_shaped_models_are_slimmed(options: dict[str, object]):
    torch.manual_seed(0)
    vit = VisionTransformer(depth=3, **options)
    model = slim_vit(vit, [1, 1, 1])
    logits, tokens = model(torch.randn(2, 3, 16, 16))
    assert model.prefix == vit.num_prefix_tokens
    assert [t.shape[1] for t in model.eval()(torch.randn(2, 3, 16, 16)).tokens] == [8, 4, 4]
    assert [t.shape for t in tokens] == [(2, 16, 16)] * 3
    (logits.sum() + sum(t.square().mean() for t in tokens)).backward()
    assert all(p.grad is not None for p in model.slim.parameters())


@torch.no_grad()
def test_a_slimmed_model_compiles_in_one_graph():
    torch.manual_seed(0)
    model = slim_vit(LVViT(TINY), TINY.stages).eval()
    image = torch.randn(2, 3, 64, 64)
    eager, compiled = model(image), torch.compile(model, backend="aot_eager", fullgraph=True)(image)
    torch.testing.assert_close(compiled.logits, eager.logits, atol=1e-6, rtol=1e-6)
    assert [t.shape for t in compiled.tokens] == [t.shape for t in eager.tokens]


def test_a_failed_forward_leaves_no_tokens_behind():
    model = slim_vit(LVViT(TINY), TINY.stages).eval()
    with pytest.raises(RuntimeError):
        model(torch.randn(1, 3, 48, 48))  # nine patches do not fit the position embedding
    assert len(model(torch.randn(1, 3, 64, 64)).tokens) == TINY.depth


@pytest.mark.parametrize(("name", "millions"), [("tiny", 15.9), ("small", 25.6), ("medium", 55.6), ("large", 148.2)])
def test_parameter_counts_are_the_published_ones(name: str, millions: float):
    config = LVVIT[name]
    with torch.device("meta"):
        model = slim_vit(LVViT(config), config.stages).drop_recovery()
    token_labelling_head = config.classes * (config.dim + 1)  # counted by the authors, not part of our model
    count = sum(p.numel() for p in model.parameters()) + token_labelling_head
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stages_to_counts(4, [1, 1, 1, 1]), "stages_to_counts: expected"),
        (lambda: stages_to_counts(4, []), "stages_to_counts: expected"),
        (lambda: stages_to_counts(16, [1, 1], rho=0), "stages_to_counts: expected"),
        (lambda: slim_vit(LVViT(TINY), [1, 1]), "slim_vit: stages expected to sum to the 4 blocks"),
        (lambda: FRDLoss(tau=0), "FRDLoss: tau expected"),
        (lambda: LVViT(LVViTConfig(16, 1, 1, (1,), stem="5c")), "LVViT: stem expected one of 4c, 6c"),
        (
            lambda: FRDLoss()(torch.zeros(1, 2), [torch.zeros(1, 3, 4)], torch.zeros(1, 2), [], torch.zeros(1)),
            "FRDLoss: student_tokens expected",
        ),
    ],
)
def test_bad_arguments_are_named(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()


def test_not_a_vit_is_a_type_error():
    with pytest.raises(TypeError, match="slim_vit: vit expected a ViT with blocks and pos_embed; got Linear"):
        slim_vit(nn.Linear(2, 2), [1])
