# SPDX-License-Identifier: Apache-2.0
"""TokenBridge: the official quantizer's and channel head's outputs, and what must be true of both."""

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from tokernel.codecs import tokenbridge as tb
from tokernel.papers import paper

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenbridge"
ERRORS = (0.363, 0.131, 0.0512, 0.0208, 0.00879, 0.00390, 0.00183, 0.00093)  # of papers/tokenbridge.md, 1 to 8 bits


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def official_head(data, **settings):
    weights = {key[2:]: value for key, value in data.items() if key.startswith("w.")}
    levels, heads, layers = (int(data[key]) for key in ("levels", "heads", "depth"))
    head = tb.ChannelARHead(16, 16, heads, layers, channels=16, levels=levels, eps=1e-5, **settings)
    final = [key for key in weights if key.startswith("channel_final.norm")]
    assert not final
    head.load_state_dict(weights)
    return head.eval()


@pytest.fixture(params=["ptq_b3", "ptq_b6"])
def official(request):
    return golden(request.param)


def quantizer_of(data):
    return tb.GaussianScalarQuantizer(
        int(data["bits"]), float(data["quant_min"]), float(data["quant_max"]), float(data["std_range"])
    )


def test_it_is_in_the_registry():
    assert tb.PAPER is paper("tokenbridge")


# ---- the quantizer ----


def test_golden_tables(official):
    edges, levels = tb.gaussian_levels(int(official["bits"]), float(official["std_range"]))
    np.testing.assert_allclose(edges, official["boundaries"], rtol=0, atol=2e-6)
    # Theirs are made in float32: the last of 64 is 5.5e-6 away from minus the first. Ours are rounded once.
    np.testing.assert_allclose(levels, official["reconstruction_values"], rtol=0, atol=6e-6)
    np.testing.assert_allclose(levels[:-1], official["reconstruction_values"][:-1], rtol=0, atol=2e-6)


def test_golden_indices_and_values(official):
    quantizer = quantizer_of(official)
    index = quantizer.encode(official["x"])
    assert torch.equal(index, official["indices"])
    torch.testing.assert_close(quantizer.decode(index), official["dequant"], rtol=0, atol=1e-5)
    out = quantizer(official["x"])
    assert torch.equal(out.index, index)
    assert torch.equal(out.quantized, quantizer.decode(index))


def test_golden_channel_order(official):
    assert list(tb.CHANNEL_ORDER) == official["channel_order"].tolist()
    inverse = [tb.CHANNEL_ORDER.index(channel) for channel in range(16)]
    assert inverse == official["inv_channel_order"].tolist()
    assert [tb.CHANNEL_ORDER[at] for at in inverse] == list(range(16))


@pytest.mark.parametrize("bits", range(1, 10))
def test_encode_of_decode_is_the_identity(bits):
    quantizer = tb.GaussianScalarQuantizer(bits)
    every = torch.arange(2**bits)
    assert torch.equal(quantizer.encode(quantizer.decode(every)), every)


@pytest.mark.parametrize("bits", range(1, 10))
def test_levels_ascend_and_are_antisymmetric(bits):
    levels = tb.GaussianScalarQuantizer(bits).levels
    assert (levels.diff() > 0).all()
    assert torch.equal(levels, -levels.flip(0))


@pytest.mark.parametrize("bits", [1, 3, 6, 9])
def test_the_nearest_level_is_taken_and_the_error_is_half_a_gap_at_most(bits):
    quantizer = tb.GaussianScalarQuantizer(bits, lo=-3.0, hi=3.0)
    levels = quantizer.levels.double()
    x = torch.linspace(float(levels[0]), float(levels[-1]), 4001)
    index = quantizer.encode(x)
    distance = (x.double()[:, None] - levels).abs()
    nearest = distance.amin(1)
    assert (distance.gather(1, index[:, None])[:, 0] <= nearest + 1e-6).all()
    gap = torch.maximum(levels.diff()[index.clamp(max=len(levels) - 2)], levels.diff()[(index - 1).clamp(min=0)])
    assert (nearest <= gap / 2 + 1e-6).all()


def test_values_outside_go_to_the_end_levels_and_nan_to_the_last():
    quantizer = tb.GaussianScalarQuantizer(4, lo=-2.0, hi=1.0)
    x = torch.tensor([-2.5, -math.inf, 1.5, math.inf, math.nan])
    assert quantizer.encode(x).tolist() == [0, 0, 15, 15, 15]


@pytest.mark.parametrize("bits", range(1, 9))
def test_equal_use_and_the_known_error_on_a_normal_source(bits):
    lo, hi, reach = -4.0, 2.0, 3.0
    g = torch.randn(400_000, generator=torch.Generator().manual_seed(bits))
    quantizer = tb.GaussianScalarQuantizer(bits, lo, hi)
    index = quantizer.encode(lo + (hi - lo) * (g + reach) / (2 * reach))
    share = index.bincount(minlength=2**bits).double() * 2**bits / len(g)
    tolerance = 4 * math.sqrt(2**bits / len(g))  # four standard deviations of a count
    # Two levels and more: decisions by nearest level are close to, not at, the quantiles.
    assert share.min() > 0.8 - tolerance
    assert share.max() < 1.15 + tolerance
    error = (quantizer.levels[index] - g).square().mean().item()
    assert error == pytest.approx(ERRORS[bits - 1], rel=0.06)  # a third of the last is a thin tail


def test_channels_are_independent():
    quantizer = tb.GaussianScalarQuantizer(6)
    x = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, 5] += 1
    changed = quantizer.encode(x) != quantizer.encode(other)
    assert changed[:, 5].any()
    assert not changed[:, [c for c in range(16) if c != 5]].any()


def test_decisions_are_by_nearest_level_not_by_quantile():
    edges, levels = tb.gaussian_levels(6)
    quantizer = tb.GaussianScalarQuantizer(6, lo=-3.0, hi=3.0)
    between = [(e, m) for e, m in zip(edges[1:-1], quantizer.midpoints.tolist(), strict=True) if abs(e - m) > 1e-3]
    assert between
    for edge, middle in between:
        value = torch.tensor((edge + middle) / 2)
        nearest = min(range(64), key=lambda k: abs(levels[k] - value.item()))
        assert quantizer.encode(value).item() == nearest


def test_the_gradient_passes_straight_through():
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).float().requires_grad_()
    tb.GaussianScalarQuantizer(3)(x).quantized.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_and_empty_input(dtype):
    out = tb.GaussianScalarQuantizer(5)(torch.zeros(0, 3, dtype=dtype))
    assert out.quantized.dtype == dtype
    assert out.index.shape == (0, 3)
    assert tb.GaussianScalarQuantizer(5)(torch.ones(2, dtype=dtype)).quantized.dtype == dtype


def test_it_leaves_no_state_behind():
    assert tb.GaussianScalarQuantizer(5).state_dict() == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 0}, "bits must be between 1 and 9, got 0"),
        ({"bits": 10}, "bits must be between 1 and 9, got 10"),
        ({"lo": 1.0, "hi": 1.0}, "lo must be below hi"),
        ({"hi": math.nan}, "lo must be below hi"),
        ({"std_range": 0.0}, "std_range must be positive"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        tb.GaussianScalarQuantizer(**settings)


def test_an_index_out_of_range_is_refused():
    with pytest.raises(ValueError, match="index"):
        tb.GaussianScalarQuantizer(2).decode(torch.tensor([4]))


# ---- patches, schedules ----


@pytest.mark.parametrize("patch", [1, 2])
def test_patches_go_there_and_back(patch):
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    rows = tb.patchify(x, patch)
    assert rows.shape == (2, 24 // patch**2, 3 * patch**2)
    assert torch.equal(tb.unpatchify(rows, (4, 6), patch), x)
    expected = x.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 1, 4, 5).reshape(rows.shape)
    assert torch.equal(rows, expected)


def test_bad_patches():
    with pytest.raises(ValueError, match="patch must divide"):
        tb.patchify(torch.zeros(1, 2, 3, 4), 2)
    with pytest.raises(ValueError, match="x must have shape"):
        tb.patchify(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="rows must be"):
        tb.unpatchify(torch.zeros(1, 5, 4), (2, 2))


@pytest.mark.parametrize(("tokens", "steps"), [(256, 64), (256, 256), (16, 1), (3, 8), (1, 4)])
def test_every_position_is_unmasked_once(tokens, steps):
    counts = tb.unmasking_schedule(tokens, steps)
    assert len(counts) == steps
    assert sum(counts) == tokens
    assert min(counts) >= 0
    with pytest.raises(ValueError, match="at least 1"):
        tb.unmasking_schedule(0, 4)


def test_guidance_grows_from_one_to_its_end():
    assert tb.guidance_scale(3.1, 256, 256) == 1
    assert tb.guidance_scale(3.1, 256, 0) == pytest.approx(3.1)


# ---- the channel head ----


def test_golden_logits_and_loss():
    data = golden("channel_ar_tiny")
    head = official_head(data)
    features, tokens = data["features"][data["mask"]], data["targets"][data["mask"]]
    logits = head(features, tokens)
    torch.testing.assert_close(logits, data["logits"], rtol=0, atol=3e-5)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    assert loss.item() == pytest.approx(float(data["loss"]), abs=3e-5)


def test_golden_greedy_tokens():
    data = golden("channel_ar_tiny")
    assert torch.equal(official_head(data).sample(data["features"][data["mask"]], 0.0), data["greedy_tokens"])


@pytest.mark.parametrize("first", [True, False])
def test_teacher_forcing_repeats_greedy_sampling_under_one_convention(first):
    data = golden("channel_ar_tiny")
    head = official_head(data, order=tb.CHANNEL_ORDER)
    features = data["features"].flatten(0, 1)
    drawn = head.sample(features, 0.0, first_token_with_timestep=first)
    assert torch.equal(head(features, drawn, first_token_with_timestep=first).argmax(-1), drawn)


def test_the_two_conventions_differ():
    data = golden("channel_ar_tiny")
    head, features = official_head(data), data["features"].flatten(0, 1)
    tokens = data["targets"].flatten(0, 1)
    assert (head(features, tokens) - head(features, tokens, True)).abs().max() > 1e-3


def test_a_channel_knows_only_the_channels_generated_before():
    data = golden("channel_ar_tiny")
    head = official_head(data, order=tb.CHANNEL_ORDER)
    features, tokens = data["features"].flatten(0, 1), data["targets"].flatten(0, 1)
    before = head(features, tokens)
    for step in (0, 7, 15):
        other = tokens.clone()
        later = list(tb.CHANNEL_ORDER[step:])
        other[:, later] = (other[:, later] + 1) % head.levels
        same = list(tb.CHANNEL_ORDER[: step + 1])
        assert torch.equal(head(features, other)[:, same], before[:, same])
        if step < 14:
            assert not torch.equal(head(features, other), before)


def test_sampling_follows_the_generator_and_the_temperature():
    data = golden("channel_ar_tiny")
    head, features = official_head(data), data["features"].flatten(0, 1)
    draws = [head.sample(features, 1.0, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(head.sample(features, 1e-6, torch.Generator().manual_seed(0)), head.sample(features, 0.0))


def test_the_head_on_no_position():
    head = tb.ChannelARHead(4, 8, 2, 1, channels=3, levels=5)
    assert head.sample(torch.zeros(0, 4)).shape == (0, 3)
    assert head(torch.zeros(0, 4), torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 3, 5)


def test_a_new_head_trains():
    torch.manual_seed(0)
    head = tb.ChannelARHead(4, 16, 2, 2, channels=3, levels=5, order=(2, 0, 1))
    features, tokens = torch.randn(32, 4), torch.randint(5, (32, 3))
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(head(features, tokens).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in head.parameters())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tb.ChannelARHead(4, 9, 2, 1), "heads must divide dim"),
        (lambda: tb.ChannelARHead(4, 8, 2, 1, channels=3, order=(0, 1, 1)), "order must be a permutation"),
        (lambda: tb.ChannelARHead(4, 8, 2, 1)(torch.zeros(2, 5), torch.zeros(2, 16)), "features must have shape"),
        (lambda: tb.ChannelARHead(4, 8, 2, 1)(torch.zeros(2, 4), torch.zeros(2, 15)), "tokens must have shape"),
        (lambda: tb.ChannelARHead(4, 8, 2, 1).sample(torch.zeros(2, 4), -1.0), "temperature must be at least 0"),
    ],
)
def test_bad_input_of_the_head(call, message):
    with pytest.raises(ValueError, match=message):
        call()
