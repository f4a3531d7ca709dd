# SPDX-License-Identifier: Apache-2.0
"""WeTok: the official quantizer's outputs and gradients, and what must be true of groups of sign bits."""

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from tokernel.codecs import wetok
from tokernel.papers import paper

GOLDEN = Path(__file__).parents[1] / "golden" / "wetok"
TRAINED = ["gq_train_g4_d8", "gq_train_g2_d5_1d"]
LN2 = math.log(2)


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def seeded(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantizer_of(data):
    return wetok.GroupLFQ(
        int(data["groups"]),
        int(data["bits_per_group"]),
        float(data["sample_minimization_weight"]),
        float(data["batch_maximization_weight"]),
        float(data["temperature"]),
    )


def softmax_form(z, groups, bits, temperature, pool=True):
    """Both entropies with all 2^bits codes written out, in float64."""
    rows = z.double().flatten(2).transpose(1, 2).reshape(-1, groups, bits)
    codes = 2.0 * ((torch.arange(2**bits)[:, None] >> torch.arange(bits)) & 1) - 1
    p = (2 * rows @ codes.T.double() / temperature).softmax(-1)
    per_sample = -(p * p.clamp(min=1e-300).log()).sum(-1).mean()
    used = p.mean((0, 1)) if pool else p.mean(0)
    return per_sample, -(used * (used + 1e-5).log()).sum(-1).mean()


def test_it_is_in_the_registry():
    assert wetok.PAPER is paper("wetok")


# ---- official outputs ----


@pytest.mark.parametrize("name", TRAINED)
def test_golden_codes_and_losses(name):
    data = golden(name)
    out = quantizer_of(data)(data["x"])
    assert torch.equal(out.quantized, data["quantized"])
    assert torch.equal(out.index, data["indices"])
    assert torch.equal(quantizer_of(data).encode(data["x"]), data["indices"])
    names = {"entropy": "entropy_loss", "commitment": "commit_loss"}
    for ours in ("entropy", "commitment", "per_sample_entropy", "codebook_entropy"):
        torch.testing.assert_close(out.losses[ours], data[names.get(ours, ours)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TRAINED)
def test_golden_gradients(name):
    data = golden(name)
    for part, key in ((None, "upstream"), ("entropy", "entropy"), ("commitment", "commit")):
        x = data["x"].clone().requires_grad_()
        out = quantizer_of(data)(x)
        value = (out.quantized * data["upstream"]).sum() if part is None else out.losses[part]
        (grad,) = torch.autograd.grad(value, x)
        expected = data[f"grad_x_from_{key}"]
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("name", TRAINED)
def test_golden_decoding(name):
    data = golden(name)
    decoded = quantizer_of(data).decode(data["indices"], data["x"].shape[2:])
    assert torch.equal(decoded.flatten(2).transpose(1, 2), data["decoded"])


@pytest.mark.parametrize("name", ["gq_factorized_8x4", "gq_factorized_uneven"])
def test_golden_factorizations(name):
    data = golden(name)
    widths = data["factorized_bits"].tolist()
    channels = sum(widths)
    one_bit_each = wetok.GroupLFQ(channels, 1).eval()
    out = one_bit_each(data["x"])
    assert torch.equal(out.quantized, data["quantized"])
    again = wetok.factorize(out.index, 1, widths)
    assert torch.equal(again, data["indices"])
    if len(set(widths)) == 1:
        grouped = wetok.GroupLFQ(len(widths), widths[0]).eval()
        assert torch.equal(grouped.encode(data["x"]), data["indices"])
        assert torch.equal(grouped.decode(data["indices"], data["x"].shape[2:]), data["decoded"])


def test_golden_adaptive_group_norm():
    data = golden("adaptive_group_norm")
    norm = wetok.AdaptiveGroupNorm(8, 32, int(data["num_groups"]), float(data["eps"]))
    norm.load_state_dict(
        {f"{name}.{part}": data[f"{name}_{part[0]}"] for name in ("gamma", "beta") for part in ("weight", "bias")}
    )
    torch.testing.assert_close(norm(data["x"], data["z"]), data["out"], rtol=1e-5, atol=1e-5)


# ---- what must be true ----


def test_codes_are_signs_and_zero_is_minus_one():
    z = torch.tensor([0.0, -0.0, 1e-30, -1e-30, math.nan, math.inf]).reshape(1, 6, 1)
    out = wetok.GroupLFQ(1, 6).eval()(z)
    assert out.quantized.flatten().tolist() == [-1, -1, 1, -1, -1, 1]
    assert out.index.item() == 0b100100


def test_quantizing_again_is_the_identity():
    quantizer = wetok.GroupLFQ(3, 4).eval()
    once = quantizer(seeded(2, 12, 3, 2)).quantized
    assert torch.equal(quantizer(once).quantized, once)


@pytest.mark.parametrize("widths", [[8, 8, 8, 8], [32], [1] * 32, [5, 27], [16, 3, 13], [31, 1]])
def test_every_factorization_of_the_same_bits_decodes_to_the_code(widths):
    z = seeded(2, 32, 3, 3)
    quantizer = wetok.GroupLFQ(4, 8).eval()
    out = quantizer(z)
    tokens = torch.stack([*wetok.factorize(out.index, 8, widths).unbind(-1)], -1)
    bits = torch.cat([(tokens[..., [at]] >> torch.arange(width)) & 1 for at, width in enumerate(widths)], -1)
    assert torch.equal((2.0 * bits - 1).transpose(1, 2).reshape(z.shape), out.quantized)


def test_four_bytes_and_one_integer_agree_bit_for_bit():
    index = wetok.GroupLFQ(4, 8).eval().encode(seeded(5, 32, 7))
    whole = wetok.factorize(index, 8, [32])[..., 0]
    assert torch.equal(whole, (index << torch.tensor([0, 8, 16, 24])).sum(-1))
    assert torch.equal(wetok.factorize(whole[..., None], 32, [8] * 4), index)


def test_one_group_is_plain_lookup_free_quantization():
    z = seeded(2, 6, 5, scale=0.02)
    out = wetok.GroupLFQ(1, 6)(z)
    assert torch.equal(out.index[..., 0], ((z > 0).long() << torch.arange(6)[:, None]).sum(1))
    per_sample, codebook = softmax_form(z, 1, 6, 0.01)
    assert out.losses["per_sample_entropy"].item() == pytest.approx(per_sample.item(), abs=1e-5)
    assert out.losses["codebook_entropy"].item() == pytest.approx(codebook.item(), abs=1e-5)


def test_groups_of_one_bit_are_independent_bits():
    z = seeded(3, 5, 4, scale=0.02)
    out = wetok.GroupLFQ(5, 1, pool_groups=False)(z)
    assert torch.equal(out.index, (z > 0).long().transpose(1, 2))
    p = torch.sigmoid(4 * z.double() / 0.01)
    bits = -(p * p.log() + (1 - p) * (1 - p).log())
    assert out.losses["per_sample_entropy"].item() == pytest.approx(bits.mean().item(), abs=1e-5)


@pytest.mark.parametrize(("groups", "bits"), [(4, 8), (2, 5), (1, 10), (7, 1)])
@pytest.mark.parametrize("pool", [True, False])
def test_the_closed_form_equals_the_softmax_form_within_its_bounds(groups, bits, pool):
    z = seeded(2, groups * bits, 9, scale=0.02, seed=bits)
    out = wetok.GroupLFQ(groups, bits, w_batch=0.7, pool_groups=pool)(z)
    per_sample, codebook = softmax_form(z, groups, bits, 0.01, pool)
    assert out.losses["per_sample_entropy"].item() == pytest.approx(per_sample.item(), abs=1e-5)
    assert out.losses["codebook_entropy"].item() == pytest.approx(codebook.item(), abs=1e-5)
    assert 0 <= out.losses["per_sample_entropy"] <= bits * LN2
    assert out.losses["codebook_entropy"] <= bits * LN2
    assert out.losses["entropy"] >= -0.7 * bits * LN2


def test_gradients_of_the_straight_through_code_and_of_the_commitment():
    z = seeded(2, 6, 4).requires_grad_()
    upstream = seeded(2, 6, 4, seed=1)
    out = wetok.GroupLFQ(2, 3)(z)
    (grad,) = torch.autograd.grad((out.quantized * upstream).sum(), z, retain_graph=True)
    assert torch.equal(grad, upstream)
    (grad,) = torch.autograd.grad(out.losses["commitment"], z)
    torch.testing.assert_close(grad, 2 * (z - out.quantized).detach() / z.numel())


def test_permuting_the_groups_leaves_the_pooled_entropy():
    z = seeded(2, 12, 9, scale=0.02)
    order = torch.tensor([2, 0, 1])
    other = z.unflatten(1, (3, 4))[:, order].flatten(1, 2)
    quantizer = wetok.GroupLFQ(3, 4)
    torch.testing.assert_close(quantizer(z).losses["entropy"], quantizer(other).losses["entropy"], rtol=1e-5, atol=1e-6)


def test_large_latents_drive_the_entropy_of_a_token_to_zero_without_nan():
    z = seeded(2, 8, 4).requires_grad_()
    losses = wetok.GroupLFQ(1, 8)(1e4 * z).losses
    assert losses["per_sample_entropy"].item() == 0
    (grad,) = torch.autograd.grad(losses["entropy"], z)
    assert torch.equal(grad, torch.zeros_like(z))


def test_pooling_hides_what_a_group_leaves_unused():
    z = seeded(1, 32, 64, scale=0.02)
    z = torch.cat([z[:, :16].abs(), -z[:, 16:].abs()], 1)  # two groups know only ones, two only zeros
    pooled, own = (wetok.GroupLFQ(4, 8, pool_groups=pool)(z).losses["codebook_entropy"] for pool in (True, False))
    assert pooled > own + 0.3


def test_no_loss_outside_training_and_no_state():
    quantizer = wetok.GroupLFQ(2, 3).eval()
    assert quantizer(seeded(1, 6, 2)).losses == {}
    assert quantizer.state_dict() == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    out = wetok.GroupLFQ(2, 3)(seeded(2, 6, 4).to(dtype))
    assert out.quantized.dtype == dtype
    assert out.losses["entropy"].dtype == torch.float32


def test_autocast_changes_nothing():
    z, quantizer = seeded(2, 6, 4, scale=0.02), wetok.GroupLFQ(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        inside = quantizer(z)
    outside = quantizer(z)
    assert torch.equal(inside.losses["entropy"], outside.losses["entropy"])
    assert torch.equal(inside.quantized, outside.quantized)


def test_compiled_in_one_graph():
    z, quantizer = seeded(2, 6, 4, scale=0.02), wetok.GroupLFQ(2, 3)
    ours, plain = torch.compile(quantizer, fullgraph=True, backend="aot_eager")(z), quantizer(z)
    assert torch.equal(ours.index, plain.index)
    torch.testing.assert_close(ours.losses["entropy"], plain.losses["entropy"])


def test_an_empty_batch():
    out = wetok.GroupLFQ(2, 3).eval()(torch.zeros(0, 6, 2, 2))
    assert out.quantized.shape == (0, 6, 2, 2)
    assert out.index.shape == (0, 4, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wetok.GroupLFQ(0, 8), "groups must be at least 1"),
        (lambda: wetok.GroupLFQ(1, 0), "bits must be between 1 and 16"),
        (lambda: wetok.GroupLFQ(1, 17), "bits must be between 1 and 16"),
        (lambda: wetok.GroupLFQ(1, 8, temperature=0.0), "temperature must be positive"),
        (lambda: wetok.GroupLFQ(2, 3)(torch.zeros(1, 5, 2)), r"z must have shape \(B, 6"),
        (lambda: wetok.GroupLFQ(2, 3).decode(torch.zeros(1, 4, 3, dtype=torch.int64), (2, 2)), "index must have shape"),
        (lambda: wetok.GroupLFQ(2, 3).decode(torch.full((1, 4, 2), 8), (2, 2)), "index|ids"),
        (lambda: wetok.factorize(torch.zeros(1, 2, dtype=torch.int64), 3, [5]), "must add up to 6"),
        (lambda: wetok.factorize(torch.zeros(1, 2, dtype=torch.int64), 32, [64]), "between 1 and 63"),
        (lambda: wetok.AdaptiveGroupNorm(4, 30), "groups must divide 30"),
        (lambda: wetok.LeCam(1.5), "decay must be between 0 and 1"),
        (lambda: wetok.depth_to_space(torch.zeros(1, 6, 2, 2)), "multiple of 4"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- the second stage ----


def test_the_noise_of_the_widened_input_has_no_effect_at_first():
    conv = torch.nn.Conv2d(4, 6, 3, padding=1)
    wide = wetok.NoiseConditionedDecoderInput(conv)
    code = seeded(2, 4, 5, 5).sign()
    first, second = (wide(code, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, conv(code))
    torch.nn.init.normal_(wide.conv.weight)
    first, second, third = (wide(code, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1, 0))
    assert torch.equal(first, third)
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="noise must have shape"):
        wide(code, code[:1])


def test_lecam_takes_the_batch_in_before_it_judges():
    lecam = wetok.LeCam(decay=0.5)
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 1.0])
    assert lecam(real, fake).item() == pytest.approx((1 + 9) / 2 + (2 + 0) ** 2 / 2)
    assert (lecam.ema_real.item(), lecam.ema_fake.item()) == (1.0, 0.0)
    lecam.eval()(10 * real, fake)
    assert lecam.ema_real.item() == 1.0


def test_the_heads_losses_are_added_up():
    logits, index = seeded(2, 5, 3, 8), torch.randint(8, (2, 5, 3), generator=torch.Generator().manual_seed(0))
    each = [
        torch.nn.functional.cross_entropy(logits[:, :, g].flatten(0, 1), index[:, :, g].flatten()) for g in range(3)
    ]
    torch.testing.assert_close(wetok.group_cross_entropy(logits, index), sum(each))


def test_offsets_come_before_channels_in_depth_to_space():
    x = seeded(2, 12, 3, 2)
    out = wetok.depth_to_space(x)
    assert torch.equal(out[:, 1, 0::2, 1::2], x[:, 1 * 3 + 1])
    assert torch.equal(out[:, 2, 1::2, 0::2], x[:, 2 * 3 + 2])


def test_the_entropy_boost_fades_out():
    assert wetok.entropy_boost(0, 1.5) == 2.5
    assert wetok.entropy_boost(2000, 1.5) == wetok.entropy_boost(9000, 1.5) == 1
    assert wetok.entropy_boost(0) == 1
