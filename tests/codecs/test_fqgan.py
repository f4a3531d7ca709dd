# SPDX-License-Identifier: Apache-2.0
"""FQGAN: the official quantizer's and generator's outputs, and what must be true of factorized codes."""

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from torch.nn import functional

from tokernel.codecs import fqgan
from tokernel.papers import paper

GOLDEN = Path(__file__).parents[1] / "golden" / "fqgan"


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantizer(k=2, size=16, dim=4, seed=0, **settings):
    torch.manual_seed(seed)
    return fqgan.FactorizedQuantizer(k, size, dim, **settings)


def test_it_is_in_the_registry():
    assert fqgan.PAPER is paper("fqgan")


# ---- official outputs ----


def official_quantizer(data):
    settings = {"beta": float(data["beta"]), "entropy_ratio": float(data["entropy_loss_ratio"])}
    ours = fqgan.FactorizedQuantizer(1, *data["codebook"].shape, **settings)
    ours.load_state_dict({"codebooks": data["codebook"][None]})
    return ours


def test_golden_codes_and_losses():
    data = golden("sub_quantizer_train")
    out = official_quantizer(data)([data["z"]])
    assert torch.equal(out.index[0], data["indices"])
    torch.testing.assert_close(out.quantized, data["z_q"], rtol=0, atol=1e-5)
    for ours, theirs in {"codebook": "vq_loss", "commitment": "commit_loss", "entropy": "entropy_loss"}.items():
        torch.testing.assert_close(out.losses[ours], data[theirs], rtol=0, atol=1e-5)


def test_golden_gradients():
    data = golden("sub_quantizer_train")
    ours, z = official_quantizer(data), data["z"].clone().requires_grad_()
    out = ours([z])
    (grad,) = torch.autograd.grad((out.quantized * data["upstream"]).sum(), z, retain_graph=True)
    torch.testing.assert_close(grad, data["grad_z_from_upstream"], rtol=0, atol=2e-5)
    grads = torch.autograd.grad(sum(out.losses.values()), (z, ours.codebooks))
    torch.testing.assert_close(grads[0], data["grad_z_from_losses"], rtol=0, atol=2e-5)
    torch.testing.assert_close(grads[1][0], data["grad_codebook_from_losses"], rtol=0, atol=2e-5)


def test_golden_disentangling():
    data = golden("disentangle")
    a, b, c = (data[name] for name in "abc")
    for name, pair in {"ab": (a, b), "ac": (a, c), "bc": (b, c), "triple": (a, b, c)}.items():
        key = f"loss_{name}"
        torch.testing.assert_close(fqgan.disentangle_loss(pair, float(data["ratio"])), data[key], rtol=0, atol=1e-6)


def test_golden_info_nce():
    data = golden("infonce")
    loss = fqgan.info_nce(data["head_out"][:, 0], data["image_feat"])
    torch.testing.assert_close(loss, data["loss"], rtol=0, atol=1e-5)


def official_model():
    data = golden("far_head_tiny")
    model = fqgan.FactorizedAR(4, (3, 3), 16, int(data["n_head"]), 1, 1, (16, 16), hidden=48)
    names = {
        "cls_embedding.embedding_table.": "label_embedding.",
        "tok_embeddings_1.": "token_embeddings.0.",
        "tok_embeddings_2.": "token_embeddings.1.",
        "aggregation_layer.": "aggregation.",
        "layers.": "blocks.",
        "ar_head.": "head.blocks.",
        "norm.": "head.norm.",
        "output_1.": "head.outputs.0.",
        "output_2.": "head.outputs.1.",
    }
    state = {}
    for key, value in data.items():
        if key.startswith("w."):
            old = next(name for name in names if key[2:].startswith(name))
            state[names[old] + key[2 + len(old) :]] = value
    model.load_state_dict(state)
    return data, model.eval()


def test_golden_generator():
    data, model = official_model()
    torch.testing.assert_close(model.table, data["freqs_cis"], rtol=0, atol=1e-6)
    index = [data["idx_1"], data["idx_2"]]
    logits = model(data["cond"], index)
    for ours, ids, name in zip(logits, index, ("logits_1", "logits_2"), strict=True):
        assert ours.shape[:2] == ids.shape
        torch.testing.assert_close(ours, data[name], rtol=0, atol=2e-5)
    losses = [
        functional.cross_entropy(ours.flatten(0, 1), ids.flatten()) for ours, ids in zip(logits, index, strict=True)
    ]
    assert torch.stack(losses).mean().item() == pytest.approx(float(data["loss"]), abs=2e-5)


# ---- what must be true of the quantizer ----


def test_one_branch_is_an_ordinary_cosine_codebook():
    z, ours = seeded(2, 4, 3, 3), quantizer(k=1)
    out = ours.eval()([z])
    rows, codes = functional.normalize(z, dim=1).movedim(1, -1), functional.normalize(ours.codebooks[0], dim=-1)
    assert torch.equal(out.index[0], (rows @ codes.T).argmax(-1))
    assert torch.equal(out.quantized, codes[out.index[0]].movedim(-1, 1))
    assert "disentangle" not in ours.train()([z]).losses


def test_a_branch_never_changes_the_indices_of_another():
    a, b = seeded(2, 4, 5), seeded(2, 4, 5, seed=1)
    ours = quantizer().eval()
    before, after = ours([a, b]), ours([a + 1, b])
    assert torch.equal(before.index[1], after.index[1])
    assert not torch.equal(before.index[0], after.index[0])


def test_codes_have_norm_one_and_a_scale_changes_nothing():
    a, b = seeded(2, 4, 5), seeded(2, 4, 5, seed=1)
    ours = quantizer().eval()
    out = ours([a, b])
    for part in out.quantized.split(4, 1):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(2, 5))
    scaled = ours([4 * a, 0.25 * b])
    assert torch.equal(scaled.quantized, out.quantized)


def test_ids_give_back_what_was_decoded_and_codes_themselves():
    ours = quantizer(k=3).eval()
    out = ours([seeded(2, 4, 3, 3, seed=seed) for seed in range(3)])
    assert torch.equal(ours.lookup(out.index), out.quantized)
    again = ours(out.quantized.split(4, 1))
    assert all(torch.equal(a, b) for a, b in zip(again.index, out.index, strict=True))


def test_each_loss_trains_its_own_side():
    z = seeded(2, 4, 5).requires_grad_()
    ours = quantizer(k=1, entropy_ratio=0.0)
    losses = ours([z]).losses
    sides = (z, ours.codebooks)
    grads = {
        name: torch.autograd.grad(loss, sides, allow_unused=True, retain_graph=True) for name, loss in losses.items()
    }
    assert grads["codebook"][0] is None
    assert grads["codebook"][1].abs().max() > 0
    assert grads["commitment"][1] is None
    assert grads["commitment"][0].abs().max() > 0
    assert losses["commitment"].item() == pytest.approx(0.25 * losses["codebook"].item())


def test_the_gradient_passes_through_the_normalisation():
    z = seeded(2, 4, 5).requires_grad_()
    (grad,) = torch.autograd.grad((quantizer(k=1).eval()([z]).quantized * seeded(2, 4, 5, seed=2)).sum(), z)
    torch.testing.assert_close((grad * z).sum(1), torch.zeros(2, 5), rtol=0, atol=1e-6)


def test_the_entropy_is_that_of_a_softmax_over_all_codes():
    a, b = seeded(3, 4, 5), seeded(3, 4, 5, seed=1)
    ours = quantizer(entropy_ratio=0.5)
    expected = 0.0
    for z, codes in zip((a, b), ours.codebooks, strict=True):
        rows = functional.normalize(z.double(), dim=1).transpose(1, 2).flatten(0, 1)
        logits = -100 * torch.cdist(rows, functional.normalize(codes.double(), dim=-1)).square()
        p, used = logits.softmax(-1), logits.softmax(-1).mean(0)
        expected += -(p * logits.log_softmax(-1)).sum(-1).mean() + (used * (used + 1e-5).log()).sum()
    assert ours([a, b]).losses["entropy"].item() == pytest.approx(0.5 * expected.item(), rel=1e-4, abs=1e-5)


def test_bounds_symmetry_and_reach_of_the_disentangling():
    a, b = seeded(2, 4, 6).requires_grad_(), seeded(2, 4, 6, seed=1).requires_grad_()
    loss = fqgan.disentangle_loss([a, b])
    assert 0 <= loss.item() <= 0.1
    assert loss.item() == fqgan.disentangle_loss([b, a]).item()
    assert fqgan.disentangle_loss([a, 2 * a]).item() == pytest.approx(0.1)
    right_angle = torch.cat([-a[:, 1:2], a[:, 0:1], -a[:, 3:4], a[:, 2:3]], 1)
    assert fqgan.disentangle_loss([a, right_angle]).item() == pytest.approx(0, abs=1e-12)
    ours = quantizer(entropy_ratio=0.0)
    sides = (a, b, ours.codebooks)
    grads = torch.autograd.grad(ours([a, b]).losses["disentangle"], sides, allow_unused=True)
    assert all(grad.abs().max() > 0 for grad in grads[:2])
    assert grads[2] is None


def test_bounds_of_info_nce():
    assert fqgan.info_nce(torch.ones(5, 3), torch.ones(5, 3)).item() == pytest.approx(math.log(5))
    assert fqgan.info_nce(100 * torch.eye(4), torch.eye(4)).item() >= 0
    student, teacher = seeded(4, 6).requires_grad_(), seeded(4, 6, seed=1).requires_grad_()
    grads = torch.autograd.grad(fqgan.info_nce(student, teacher), (student, teacher), allow_unused=True)
    assert grads[0].abs().max() > 0
    assert grads[1] is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_and_an_empty_batch(dtype):
    ours = quantizer()
    out = ours([seeded(2, 4, 5).to(dtype)] * 2)
    assert out.quantized.dtype == dtype
    assert all(loss.dtype == torch.float32 for loss in out.losses.values())
    empty = ours.eval()([torch.zeros(0, 4, 5, dtype=dtype)] * 2)
    assert empty.quantized.shape == (0, 8, 5)
    assert [tuple(ids.shape) for ids in empty.index] == [(0, 5)] * 2


def test_autocast_changes_nothing():
    ours, given = quantizer(), [seeded(2, 4, 5), seeded(2, 4, 5, seed=1)]
    with torch.autocast("cpu", torch.bfloat16):
        inside = ours(given)
    outside = ours(given)
    assert torch.equal(inside.quantized, outside.quantized)
    assert {name: loss.item() for name, loss in inside.losses.items()} == {
        name: loss.item() for name, loss in outside.losses.items()
    }


def test_compiled_in_one_graph():
    ours, given = quantizer(), [seeded(2, 4, 5), seeded(2, 4, 5, seed=1)]
    fast, plain = torch.compile(ours, fullgraph=True, backend="aot_eager")(given), ours(given)
    assert all(torch.equal(a, b) for a, b in zip(fast.index, plain.index, strict=True))
    torch.testing.assert_close(sum(fast.losses.values()), sum(plain.losses.values()))


def test_its_state_is_one_tensor():
    assert list(quantizer(k=3).state_dict()) == ["codebooks"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fqgan.FactorizedQuantizer(0), "must be at least 1"),
        (lambda: fqgan.FactorizedQuantizer(2, 0), "must be at least 1"),
        (lambda: quantizer()([torch.zeros(1, 4, 2)]), "branches must be 2 tensors, got 1"),
        (lambda: quantizer()([torch.zeros(1, 4, 2), torch.zeros(1, 4, 3)]), "branches must all have shape"),
        (lambda: quantizer()([torch.zeros(1, 5, 2)] * 2), "branches must all have shape"),
        (lambda: quantizer().lookup([torch.zeros(1, 2, dtype=torch.int64)]), "index must hold 2"),
        (lambda: quantizer().lookup([torch.full((1, 2), 16)] * 2), "index"),
        (lambda: fqgan.disentangle_loss([torch.zeros(1, 4, 2)]), "at least two tensors"),
        (lambda: fqgan.info_nce(torch.zeros(2, 3), torch.zeros(2, 4)), "must both have shape"),
    ],
)
def test_bad_input_of_the_quantizer(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- branches ----


def test_adapters_and_heads_fit_one_grid():
    torch.manual_seed(0)
    adapter = fqgan.BranchAdapter((4, 4), 32, 8, heads=4, layers=1, hidden=16)
    code = adapter(seeded(2, 32, 4, 4))
    assert code.shape == (2, 8, 4, 4)
    assert fqgan.RepresentationHead(16, 8, 32, heads=4, layers=1)(code).shape == (2, 32)
    with pytest.raises(ValueError, match="features must have shape"):
        adapter(seeded(2, 32, 4, 5))
    with pytest.raises(ValueError, match="codes must have 16 positions"):
        fqgan.RepresentationHead(16, 8, 32, heads=4, layers=1)(seeded(2, 8, 4, 5))


# ---- the generator ----


def small_model(k=3, seed=0):
    torch.manual_seed(seed)
    model = fqgan.FactorizedAR(3, (2, 3), 16, 2, 1, 1, (5, 6, 7)[:k], hidden=32)
    for output in model.head.outputs:
        torch.nn.init.normal_(output.weight)
    return model.eval()


def small_index(k=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(vocab, (2, 6), generator=generator) for vocab in (5, 6, 7)[:k]]


@pytest.mark.parametrize("j", [0, 1, 2])
def test_a_sub_token_knows_only_those_before_it(j):
    model, index, labels = small_model(), small_index(), torch.tensor([0, 2])
    before = model(labels, index)
    for later in range(j, 3):
        other = [ids.clone() for ids in index]
        other[later][:, 4:] = (other[later][:, 4:] + 1) % (5, 6, 7)[later]
        after = model(labels, other)
        assert torch.equal(after[j][:, :5], before[j][:, :5])


@pytest.mark.parametrize("k", [1, 2, 3])
def test_greedy_generation_repeats_under_teacher_forcing(k):
    model, labels = small_model(k), torch.tensor([1, 2])
    drawn = model.generate(labels, temperature=0.0)
    assert [tuple(ids.shape) for ids in drawn] == [(2, 6)] * k
    logits = model(labels, drawn)
    assert all(torch.equal(each.argmax(-1), ids) for each, ids in zip(logits, drawn, strict=True))


def test_guidance_is_linear_in_the_logits():
    model, labels = small_model(), torch.tensor([1, 2])
    nothing = torch.full_like(labels, model.classes)
    drawn = model.generate(labels, cfg_scale=3.0, temperature=0.0)
    with_label, without = model(labels, drawn), model(nothing, drawn)
    for given, bare, ids in zip(with_label, without, drawn, strict=True):
        assert torch.equal((bare + 3.0 * (given - bare)).argmax(-1), ids)


def test_generation_follows_the_generator():
    model, labels = small_model(), torch.tensor([1, 2])
    settings = {"top_k": 4, "top_p": 0.9, "cfg_scale": 2.0}
    a, b, c = (model.generate(labels, generator=torch.Generator().manual_seed(s), **settings) for s in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert any(not torch.equal(x, y) for x, y in zip(a, c, strict=True))
    assert model.generate(labels[:0])[0].shape == (0, 6)


def test_a_vocabulary_of_k_codebooks_costs_k_lookups_and_all_their_combinations():
    ours = quantizer(k=3, size=16)
    assert ours.codebooks.shape[0] * ours.codebooks.shape[1] == 48
    every = torch.cartesian_prod(*[torch.arange(16)] * 3)[::13]
    decoded = ours.lookup([ids[:, None] for ids in every.T])
    assert len(decoded.flatten(1).unique(dim=0)) == len(every)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fqgan.FactorizedARHead(12, 2, 1, (4,)), "multiple of 4"),
        (lambda: fqgan.FactorizedARHead(16, 2, 1, ()), "vocabs must name"),
        (lambda: fqgan.FactorizedAR(0, (2, 2), 16, 2, 1, 1, (4,)), "extents must be at least 1"),
        (lambda: small_model()(torch.tensor([0]), [torch.zeros(1, 5, dtype=torch.int64)] * 3), "index must be 3"),
        (lambda: small_model().head(torch.zeros(2, 15), [torch.zeros(2)] * 3, None), "h must have shape"),
        (lambda: small_model().head(torch.zeros(2, 16), [torch.zeros(2)] * 2, None), "index must hold 3"),
        (lambda: small_model().generate(torch.tensor([0]), temperature=-1.0), "temperature must be at least 0"),
        (lambda: small_model().generate(torch.tensor([0]), top_p=1.5), "top_p in"),
    ],
)
def test_bad_input_of_the_generator(call, message):
    with pytest.raises(ValueError, match=message):
        call()
