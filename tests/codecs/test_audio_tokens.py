# SPDX-License-Identifier: Apache-2.0
"""Audio tokens: official outputs of DAC, SNAC and EnCodec's tools, and what must be true of each kind of quantizer."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from tokernel import ops
from tokernel.codecs import FSQ, GroupedResidualVQ, ProductQuantizer, ResidualVQ, VectorQuantizer
from tokernel.codecs import audio_tokens as audio
from tokernel.papers import paper

GOLDEN = Path(__file__).parents[1] / "golden" / "audio_tokens"


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def load_layers(stack, data):
    for at, layer in enumerate(stack.quantizers):
        layer.in_proj.weight.data.copy_(data[f"in_w_{at}"][..., None])
        layer.in_proj.bias.data.copy_(data[f"in_b_{at}"])
        layer.out_proj.weight.data.copy_(data[f"out_w_{at}"][..., None])
        layer.out_proj.bias.data.copy_(data[f"out_b_{at}"])
        layer.codebook.weight.data.copy_(data[f"codebook_{at}"])
    return stack.eval()


def dac(layers=3, **settings):
    torch.manual_seed(0)
    return audio.FactorizedRVQ(10, layers, 24, 4, **settings)


def snac(strides=(4, 2, 1), **settings):
    torch.manual_seed(0)
    return audio.MultiScaleRVQ(10, strides, 24, 4, **settings)


def test_it_is_in_the_registry():
    assert audio.PAPER is paper("audio_tokens")


# ---- official outputs ----


def test_golden_dac():
    data = golden("dac_rvq")
    stack = load_layers(dac(), data)
    out = stack(data["z"])
    assert torch.equal(out.index, data["codes"])
    torch.testing.assert_close(out.quantized, data["z_q"], rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat(out.latents, 1), data["latents"], rtol=0, atol=1e-5)
    torch.testing.assert_close(out.losses["commitment"], data["commitment_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(out.losses["codebook"], data["codebook_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(stack(data["z"], n_q=1).quantized, data["z_q_half"], rtol=0, atol=1e-5)
    torch.testing.assert_close(stack.decode(data["codes"]), data["from_codes"], rtol=0, atol=1e-5)


def test_golden_snac():
    data = golden("snac_multiscale_rvq")
    stack = load_layers(snac(data["strides"].tolist()), data)
    out = stack(data["z"])
    for at, ids in enumerate(out.index):
        assert torch.equal(ids, data[f"codes_{at}"])
    torch.testing.assert_close(out.quantized, data["z_q"], rtol=0, atol=1e-5)
    torch.testing.assert_close(stack.decode(out.index), data["from_codes"], rtol=0, atol=1e-5)


def test_golden_encodec():
    data = golden("encodec_rvq")
    x = data["x"].transpose(1, 2)
    layers, codes, dim = data["codebooks"].shape
    stack = ResidualVQ(dim, codes, layers).eval()
    stack.set_codes(data["codebooks"])
    index = stack.encode(x)
    assert torch.equal(index.permute(2, 0, 1), data["codes"])
    torch.testing.assert_close(stack.decode(index).transpose(1, 2), data["decoded"], rtol=0, atol=1e-5)
    some = int(data["n_q"])
    torch.testing.assert_close(stack.decode(index[..., :some]).transpose(1, 2), data["decoded_n_q"], rtol=0, atol=1e-5)
    deep = ResidualVQ(dim, codes, 80)
    rate = float(data["frame_rate"])
    found = [deep.layers_for(float(kbps), rate) for kbps in data["bandwidths_kbps"]]
    assert found == data["num_quantizers_for_bandwidth"].tolist()


def ema_start(data, steps):
    """The state before the first step. The file has the last one under every number: the averages are undone."""
    decay = float(data["decay"])
    counts, sums = data["cluster_size_0"].double(), data["embed_avg_0"].double()
    for step in range(steps - 1, -1, -1):
        onehot = torch.nn.functional.one_hot(data[f"indices_{step}"][0], len(counts)).double()
        counts = (counts - (1 - decay) * onehot.sum(0)) / decay
        sums = (sums - (1 - decay) * onehot.T @ data[f"x_{step}"][0].double()) / decay
    codes = torch.full_like(sums, 1e3)  # what no row of the first step met is not known, and far away
    codes[data["indices_0"][0]] = data["quantized_0"][0].double()
    return codes.float(), counts.float(), sums.float()


@pytest.mark.parametrize(("name", "steps"), [("encodec_ema", 3), ("encodec_ema_dead_codes", 2)])
def test_golden_averages_of_encodec_where_dead_codes_do_not_move(name, steps):
    data = golden(name)
    settings = {"decay": float(data["decay"]), "eps": float(data["eps"]), "threshold": float(data["threshold"])}
    ours = VectorQuantizer(4, 8, encodec_compat=True, **settings)
    for buffer, start in zip((ours.book.codes, ours.book.counts, ours.book.sums), ema_start(data, steps), strict=True):
        buffer.copy_(start)
    for step in range(steps):
        out = ours(data[f"x_{step}"])
        assert torch.equal(out.index, data[f"indices_{step}"])
        torch.testing.assert_close(out.quantized, data[f"quantized_{step}"], rtol=0, atol=2e-5)
    torch.testing.assert_close(ours.codebook, data[f"embed_{steps}"], rtol=0, atol=2e-5)
    torch.testing.assert_close(ours.book.counts, data[f"cluster_size_{steps}"], rtol=0, atol=2e-5)
    if int(data["threshold"]):
        assert data["expired_0"].any()  # the official code draws replacements, and overwrites them at once


def test_golden_training_gradients_of_encodec():
    data = golden("encodec_rvq_train_grads")
    layers, codes, dim = data["codebooks_before"].shape
    ours = ResidualVQ(dim, codes, layers, decay=0.99, commitment_weight=1.0, channel_first=True, encodec_compat=True)
    ours.set_codes(data["codebooks_before"])
    x = data["x"].clone().requires_grad_()
    out = ours(x)
    assert torch.equal(out.index.permute(2, 0, 1), data["codes"])
    torch.testing.assert_close(out.quantized, data["quantized"], rtol=0, atol=1e-5)
    torch.testing.assert_close(out.losses["commitment"], data["commit_losses"], rtol=1e-5, atol=1e-6)
    for layer in range(layers):
        (grad,) = torch.autograd.grad(out.losses["commitment"][layer], x, retain_graph=True, allow_unused=True)
        grad = torch.zeros_like(x) if grad is None else grad
        torch.testing.assert_close(grad, data["grad_x_from_commit"][layer], rtol=0, atol=2e-5)


def test_golden_bit_strings():
    data = golden("bitstream")
    bits = int(data["bits"])
    packed = ops.pack_bits(data["values"][None], bits)
    assert packed[0].long().tolist() == data["packed"].tolist()
    assert torch.equal(ops.unpack_bits(packed, bits, len(data["values"]))[0], data["values"])


def test_golden_arithmetic_code():
    data = golden("bitstream")
    tables = audio.quantized_cdf(data["pdf"])
    assert torch.equal(tables, data["quantized_cdf"])
    coder = audio.ArithmeticCoder()
    for symbol, table in zip(data["symbols"].tolist(), tables, strict=True):
        coder.push(symbol, table)
    written = coder.finish()
    assert list(written) == data["ac_bytes"].tolist()
    decoder = audio.ArithmeticDecoder(written)
    assert [decoder.pull(table) for table in tables] == data["symbols"].tolist()


def test_golden_utilization():
    data = golden("codebook_utilisation")
    counter = audio.CodebookUtilization(int(data["vocab"]))
    counter.update(data["tokens_0"])
    counter.update(data["tokens_1"])
    assert torch.equal(counter.counts, data["counts"].long())
    found = counter.compute()
    assert round(100 * found.utilization, 2) == pytest.approx(float(data["codebook_util_percent"]), abs=1e-4)
    assert round(100 * found.normalized_entropy, 2) == pytest.approx(float(data["norm_entropy_percent"]), abs=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_golden_convolutions(causal):
    data, kind = golden("causal_conv"), "causal" if causal else "noncausal"
    kernel, stride, dilation = (int(data[name]) for name in ("kernel", "stride", "dilation"))
    conv = audio.StreamingConv1d(2, 3, kernel, stride, dilation, causal=causal)
    conv.load_state_dict({"weight": data[f"w_{kind}"], "bias": data[f"b_{kind}"]})
    torch.testing.assert_close(conv(data[f"x_{kind}"]), data[f"y_{kind}"], rtol=0, atol=1e-5)
    back = audio.StreamingConvTranspose1d(3, 2, 2 * stride, stride, causal=causal)
    back.load_state_dict({"weight": data[f"wt_{kind}"], "bias": data[f"bt_{kind}"]})
    torch.testing.assert_close(back(data[f"xt_{kind}"]), data[f"yt_{kind}"], rtol=0, atol=1e-5)


def test_golden_semantic_tokens():
    data = golden("kmeans_semantic")
    layers, codes, dim = data["centroids"].shape
    tokenizer = audio.KMeansTokenizer(layers, dim, codes)
    tokenizer.load_state_dict({"centroids": data["centroids"]})
    assert torch.equal(tokenizer.encode(data["features"]), data["tokens"])
    near = (data["features"] - tokenizer.decode(data["tokens"])).square().sum((1, 2))
    torch.testing.assert_close(near, data["inertia"], rtol=1e-5, atol=0)


# ---- rates ----


def test_layers_of_a_bandwidth():
    stack = ResidualVQ(4, 1024, 32)
    assert [stack.layers_for(kbps, 75) for kbps in (1.5, 3, 6, 12, 24)] == [2, 4, 8, 16, 32]
    assert stack.layers_for(0.01, 75) == 1
    assert stack.layers_for(None, 75) == stack.layers_for(-1, 75) == 32


def test_bit_rates():
    frames = 24000 / 512
    assert audio.MultiScaleRVQ(8, (4, 2, 1), 4096, 8).bitrate(frames) == pytest.approx(984.375)
    assert audio.bitrate([frames / 4, frames / 2, frames], [4096] * 3) == pytest.approx(984.375)
    assert audio.FactorizedRVQ(8, 8, 1024, 8).bitrate(75) == pytest.approx(6000)
    assert audio.FactorizedRVQ(8, 8).token_rate(75) == audio.token_rate([75] * 8) == 600
    assert audio.bitrate([50], [1000]) == pytest.approx(50 * math.log2(1000))


# ---- stacks ----


def test_a_prefix_of_layers_decodes_to_the_partial_sum():
    z, stack = seeded(2, 10, 8), snac().eval()
    out = stack(z)
    torch.testing.assert_close(stack.decode(out.index), out.quantized, rtol=0, atol=1e-5)
    for depth in (1, 2):
        torch.testing.assert_close(stack.decode(out.index[:depth]), stack(z, n_q=depth).quantized, rtol=0, atol=1e-5)
        assert all(torch.equal(a, b) for a, b in zip(stack.encode(z, n_q=depth), out.index, strict=False))
    flat = dac().eval()
    ids = flat.encode(z)
    torch.testing.assert_close(flat.decode(ids[:, :2]), flat(z, n_q=2).quantized, rtol=0, atol=1e-5)


def test_strides_of_one_are_the_plain_factorized_stack():
    z, coarse, flat = seeded(2, 10, 8), snac((1, 1, 1)).eval(), dac().eval()
    flat.load_state_dict(coarse.state_dict())
    a, b = coarse(z), flat(z)
    assert torch.equal(torch.stack(a.index, 1), b.index)
    assert torch.equal(a.quantized, b.quantized)


def test_a_coarse_code_holds_for_its_stride():
    stack = snac().eval()
    for at, stride in enumerate(stack.strides):
        part = stack.quantizers[at].decode(torch.arange(16 // stride).reshape(2, -1))
        blocks = part.unflatten(-1, (-1, stride))
        assert torch.equal(blocks, blocks[..., :1].expand_as(blocks))


def test_one_layer_of_a_residual_stack_is_one_codebook():
    x = seeded(2, 7, 4)
    codes = seeded(16, 4, seed=1)
    stack, single = ResidualVQ(4, 16, 1).eval(), VectorQuantizer(4, 16).eval()
    stack.set_codes(codes[None])
    single.set_codes(codes)
    assert torch.equal(stack(x).index[..., 0], single(x).index)
    assert torch.equal(stack(x).quantized, single(x).quantized)


def test_one_group_is_the_ungrouped_stack_and_one_layer_of_groups_is_a_product():
    x, codes = seeded(2, 7, 4), seeded(3, 16, 4, seed=1)
    plain, grouped = ResidualVQ(4, 16, 3).eval(), GroupedResidualVQ(4, 16, 3, groups=1).eval()
    plain.set_codes(codes)
    grouped.groups[0].set_codes(codes)
    assert torch.equal(grouped(x).quantized, plain(x).quantized)
    parts = seeded(2, 16, 2, seed=2)
    product, pair = ProductQuantizer(4, 2, 16).eval(), GroupedResidualVQ(4, 16, 1, groups=2).eval()
    product.centroids.copy_(parts)
    for group, part in zip(pair.groups, parts, strict=True):
        group.set_codes(part[None])
    assert torch.equal(pair(x).quantized, product(x).quantized)


def test_levels_of_a_frame_as_a_grid():
    assert FSQ((3,) * 9).codebook_size == 19683


def test_every_layer_gets_a_gradient_of_its_commitment():
    z, stack = seeded(2, 10, 4), dac()
    losses = []
    rest = z.clone().requires_grad_()
    x = rest
    for layer in stack.quantizers:
        out = layer(rest)
        losses.append(out.error.mean())
        rest = rest - out.quantized
    grads = [torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in losses]
    assert all(grad.abs().max() > 0 for grad in grads)
    official = golden("encodec_rvq_train_grads")
    assert official["grad_x_from_commit"][1:].abs().max() == 0  # EnCodec's own: none beyond the first layer


def test_each_loss_trains_its_own_side():
    z, stack = seeded(2, 10, 4).requires_grad_(), dac(1)
    losses = stack(z).losses
    sides = (z, stack.quantizers[0].codebook.weight)
    commitment = torch.autograd.grad(losses["commitment"], sides, allow_unused=True, retain_graph=True)
    codebook = torch.autograd.grad(losses["codebook"], sides, allow_unused=True)
    assert commitment[1] is None
    assert codebook[0] is None
    assert commitment[0].abs().max() > 0
    assert codebook[1].abs().max() > 0


def test_codes_are_found_by_angle_but_given_back_as_stored():
    stack = dac(1).eval()
    layer = stack.quantizers[0]
    z = seeded(2, 10, 6)
    layer.codebook.weight.data *= torch.linspace(0.1, 9, 24)[:, None]
    out = layer(z)
    rows = torch.nn.functional.normalize(out.latents.transpose(1, 2), dim=-1)
    codes = torch.nn.functional.normalize(layer.codebook.weight, dim=-1)
    assert torch.equal(out.index, (rows @ codes.T).argmax(-1))
    torch.testing.assert_close(out.quantized, layer.out_proj(layer.codebook(out.index).transpose(1, 2)))


def test_dropped_layers_add_nothing_but_pass_the_rest_on():
    z = seeded(6, 10, 4)
    stack = dac(3, dropout=0.5, generator=torch.Generator().manual_seed(3))
    out = stack(z)
    assert torch.equal(out.index, stack.eval()(z).index)
    depths = torch.full((6,), 3)
    depths[:3] = torch.randint(1, 4, (3,), generator=torch.Generator().manual_seed(3))
    assert (depths[:3] < 3).any()
    for item, depth in enumerate(depths.tolist()):
        torch.testing.assert_close(out.quantized[item], stack(z, n_q=depth).quantized[item], rtol=0, atol=1e-5)
    kept = [stack.quantizers[0](z).error]
    rest = z - stack.quantizers[0](z).quantized
    for at in (1, 2):
        kept.append(stack.quantizers[at](rest).error * (at < depths))
        rest = rest - stack.quantizers[at](rest).quantized
    torch.testing.assert_close(out.losses["commitment"], torch.stack(kept).mean(1).sum(), rtol=1e-5, atol=1e-6)


def test_cross_scale_stacks_add_what_the_decoder_lacks():
    torch.manual_seed(0)
    coarse, fine = (audio.FactorizedRVQ(4, 1, 8, 2).eval() for _ in range(2))
    up = torch.nn.Upsample(scale_factor=2)
    features = [seeded(1, 4, 3), seeded(1, 4, 6, seed=1)]
    out = audio.CrossScaleRVQ([coarse, fine], [up])(features)
    decoder = up(coarse(features[0]).quantized)
    expected = decoder + fine(features[1] - decoder).quantized
    torch.testing.assert_close(out.quantized, expected)
    assert [tuple(ids.shape) for ids in out.index] == [(1, 1, 3), (1, 1, 6)]


def test_empty_batches_and_dtypes():
    stack = dac().eval()
    assert stack(torch.zeros(0, 10, 4)).quantized.shape == (0, 10, 4)
    assert stack.to(torch.bfloat16)(seeded(1, 10, 4).bfloat16()).quantized.dtype == torch.bfloat16


# ---- models of transformers ----


def test_codebooks_of_encodec():
    transformers = pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")
    torch.manual_seed(0)
    config = transformers.EncodecConfig(
        num_filters=2, hidden_size=4, codebook_dim=4, codebook_size=8, num_lstm_layers=1
    )
    model = transformers.EncodecModel(config).eval()
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    x = seeded(1, 4, 9)
    theirs = model.quantizer.encode(x, bandwidth=24.0)
    codes = audio.encodec_codes(model)
    ours = ops.rvq_encode(x[0].T.contiguous(), codes[: len(theirs)])
    assert torch.equal(ours.index.T[:, None], theirs)
    torch.testing.assert_close(ours.quantized.T[None], model.quantizer.decode(theirs), rtol=0, atol=1e-5)


def test_layers_of_dac():
    transformers = pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")
    torch.manual_seed(0)
    config = transformers.DacConfig(
        encoder_hidden_size=4, decoder_hidden_size=32, n_codebooks=3, codebook_size=8, codebook_dim=2
    )
    model = transformers.DacModel(config).eval()
    ours, z = audio.dac_quantizer(model).eval(), seeded(2, config.hidden_size, 5)
    theirs = model.quantizer(z)
    assert torch.equal(ours(z).index, theirs[1])
    torch.testing.assert_close(ours(z).quantized, theirs[0], rtol=0, atol=1e-5)


# ---- measures ----


def test_laws_of_utilization():
    counter = audio.CodebookUtilization(8)
    counter.update(torch.arange(8).repeat(3)[:, None])
    assert counter.compute() == audio.Utilization(1.0, 1.0, pytest.approx(8.0))
    tokens = torch.randint(6, (50, 3), generator=torch.Generator().manual_seed(0))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    found = []
    for ids in (tokens, order[tokens]):
        counter = audio.CodebookUtilization(8)
        counter.update(ids)
        found.append(counter.compute())
    assert found[0] == pytest.approx(found[1])
    assert 0 < found[0].utilization <= 1
    one = audio.CodebookUtilization(8)
    one.update(torch.zeros(5, 1, dtype=torch.int64))
    assert one.compute() == audio.Utilization(0.0, 0.0, 1.0)


def test_ratios_of_signals():
    reference = seeded(3, 1000)
    noise = 0.1 * seeded(3, 1000, seed=1)
    expected = 10 * (reference.square().sum(-1) / noise.square().sum(-1)).log10()
    torch.testing.assert_close(audio.sdr(reference + noise, reference), expected, rtol=1e-4, atol=1e-4)
    moved = audio.si_snr(7 * (reference + noise) + 3, reference)
    torch.testing.assert_close(moved, audio.si_snr(reference + noise, reference), rtol=1e-4, atol=1e-3)
    assert (audio.sdr(7 * reference, reference) < 0).all()


def test_perturbed_tokens_are_never_themselves_and_mostly_near():
    codes = torch.arange(20.0)[:, None]
    tokens = torch.full((4000,), 10)
    out = audio.perturb_tokens(tokens, codes, 0.5, 1.0, generator=torch.Generator().manual_seed(0))
    changed = out != 10
    assert 0.45 < changed.double().mean() < 0.55
    distance = (out[changed] - 10).abs().double()
    p = torch.exp(-torch.tensor([abs(k - 10.0) for k in range(20) if k != 10]))
    assert distance.mean().item() == pytest.approx(
        float((p * torch.tensor([abs(k - 10.0) for k in range(20) if k != 10])).sum() / p.sum()), rel=0.05
    )
    assert torch.equal(audio.perturb_tokens(tokens, codes, 0.0), tokens)
    everything = audio.perturb_tokens(tokens, codes, 1.0, top_k=2, generator=torch.Generator().manual_seed(0))
    assert set(everything.tolist()) == {9, 11}


# ---- streams ----


def causal_stack(mode="constant"):
    torch.manual_seed(0)
    layers = [
        audio.StreamingConv1d(2, 4, 5, dilation=2, mode=mode),
        torch.nn.ELU(),
        audio.StreamingConv1d(4, 3, 4, stride=2, mode=mode),
    ]
    return torch.nn.Sequential(*layers)


def test_pieces_give_what_the_whole_gives():
    stack, x = causal_stack(), seeded(1, 2, 24)
    state, frames = [None, None], []
    for piece in x.split(4, -1):
        first, state[0] = stack[0].step(piece, state[0])
        second, state[1] = stack[2].step(stack[1](first), state[1])
        frames.append(second)
    torch.testing.assert_close(torch.cat(frames, -1), stack(x), rtol=0, atol=1e-5)


def test_a_causal_stack_streams_and_one_that_looks_ahead_does_not():
    x = seeded(1, 2, 24)
    found = audio.streaming_equivalence(causal_stack(), x, 4)
    assert found.streams
    assert found.largest_difference <= 1e-5
    ahead = audio.StreamingConv1d(2, 3, 5, causal=False, mode="constant")
    assert not audio.streaming_equivalence(ahead, x, 4).streams


def test_later_samples_change_no_earlier_frame():
    stack, x = causal_stack(), seeded(1, 2, 24)
    other = x.clone()
    other[..., 16:] += 1
    assert torch.equal(stack(x)[..., :8], stack(other)[..., :8])


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8])
def test_frames_are_counted_up_and_short_sounds_reflect_after_zeros(length):
    conv = audio.StreamingConv1d(1, 1, 7, stride=2)
    x = seeded(1, 1, length)
    assert conv(x).shape[-1] == math.ceil(length / 2)
    padded = audio.pad_for_conv(x, 7, 2)
    longer = torch.cat([x, torch.zeros(1, 1, max(0, 6 - length))], -1)
    left = 5
    assert torch.equal(padded[..., :left], longer[..., 1 : left + 1].flip(-1))
    assert torch.equal(padded[..., left : left + length], x)


# ---- bit streams ----


@pytest.mark.parametrize("bits", range(1, 17))
def test_packing_is_lossless(bits):
    ids = torch.randint(2**bits, (3, 11), generator=torch.Generator().manual_seed(bits))
    packed = ops.pack_bits(ids, bits)
    assert packed.shape == (3, -(-11 * bits // 8))
    assert torch.equal(ops.unpack_bits(packed, bits, 11), ids)


@pytest.mark.parametrize(("symbols", "sharpness"), [(1, 1.0), (2, 9.0), (7, 0.1), (40, 3.0), (1000, 2.0)])
def test_arithmetic_coding_is_lossless_and_nearly_ideal(symbols, sharpness):
    pdf = (sharpness * seeded(300, symbols, seed=symbols)).softmax(-1)
    tables = audio.quantized_cdf(pdf)
    drawn = torch.multinomial(pdf, 1, generator=torch.Generator().manual_seed(0))[:, 0].tolist()
    coder = audio.ArithmeticCoder()
    for symbol, table in zip(drawn, tables, strict=True):
        coder.push(symbol, table)
    written = coder.finish()
    decoder = audio.ArithmeticDecoder(written)
    assert [decoder.pull(table) for table in tables] == drawn
    ideal = -pdf[torch.arange(300), drawn].double().log2().sum().item() / 8
    assert len(written) <= 1.01 * ideal + 4


def test_impossible_symbols_can_be_coded_and_wrong_bytes_are_noticed():
    table = audio.quantized_cdf(torch.tensor([1.0, 0.0]))
    coder = audio.ArithmeticCoder()
    coder.push(1, table)
    assert audio.ArithmeticDecoder(coder.finish()).pull(table) == 1
    decoder = audio.ArithmeticDecoder(b"")
    with pytest.raises(ValueError, match="must hold another symbol"):
        decoder.pull(table)


# ---- semantic tokens ----


def test_lloyd_never_gets_worse_and_tokens_are_the_nearest_centroids():
    features = seeded(2, 80, 5)
    inertia = []
    for iterations in (1, 2, 5, 20):
        tokenizer = audio.KMeansTokenizer(2, 5, 8)
        inertia.append(tokenizer.fit(features, iterations, "random", torch.Generator().manual_seed(0)))
    assert all((b <= a * (1 + 1e-6)).all() for a, b in itertools.pairwise(inertia))
    nearest = torch.cdist(features.double(), tokenizer.centroids.double()).argmin(-1)
    assert torch.equal(tokenizer(features), nearest)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: audio.MultiScaleRVQ(4, ()), "at least one layer"),
        (lambda: audio.MultiScaleRVQ(4, (2, 0)), "sizes of at least 1"),
        (lambda: audio.FactorizedRVQ(4, 0), "FactorizedRVQ: there must be at least one layer"),
        (lambda: audio.FactorizedRVQ(4, 2, dropout=2.0), "dropout must be between 0 and 1"),
        (lambda: snac()(torch.zeros(1, 10, 6)), "T a multiple of 4"),
        (lambda: dac()(torch.zeros(1, 9, 6)), "x must have shape"),
        (lambda: dac()(torch.zeros(1, 10, 6), n_q=4), "n_q must be between 1 and 3"),
        (lambda: dac().decode(torch.zeros(1, 4, 6, dtype=torch.int64)), "index must hold 1 to 3 layers"),
        (lambda: dac().decode(torch.full((1, 3, 6), 24)), "index"),
        (lambda: snac().decode([torch.zeros(1, 2).long(), torch.zeros(1, 3).long()]), "one length in frames"),
        (lambda: audio.CodebookUtilization(0), "codebook_size must be at least 1"),
        (lambda: audio.CodebookUtilization(4).compute(), "nothing was counted"),
        (lambda: audio.CodebookUtilization(4).update(torch.tensor([[4]])), "index"),
        (lambda: audio.perturb_tokens(torch.tensor([0]), torch.zeros(1, 2), 0.5), "at least 2"),
        (lambda: audio.perturb_tokens(torch.tensor([0]), torch.zeros(2, 2), 1.5), "probability"),
        (lambda: audio.quantized_cdf(torch.tensor([-0.5, 1.5])), "at least 0"),
        (lambda: audio.quantized_cdf(torch.tensor([0.9, 0.9])), "sum 1"),
        (lambda: audio.ArithmeticCoder().push(2, torch.tensor([1, 2])), "symbol must be between 0 and 1"),
        (lambda: audio.StreamingConv1d(1, 1, 1, stride=2), "stride must not skip"),
        (lambda: audio.StreamingConv1d(1, 1, 3).step(torch.zeros(1, 1, 2), None), "must be causal and pad with zeros"),
        (lambda: audio.StreamingConvTranspose1d(1, 1, 1, stride=2), "kernel_size must be at least"),
        (lambda: audio.streaming_equivalence(torch.nn.Identity(), torch.zeros(1, 1, 5), 2), "chunk must divide"),
        (lambda: audio.KMeansTokenizer(1, 0, 4), "must be at least 1"),
        (lambda: audio.KMeansTokenizer(1, 4, 4).encode(torch.zeros(1, 5, 3)), "features must have shape"),
        (lambda: audio.CrossScaleRVQ([dac()], [torch.nn.Identity()]), "ups must be one fewer"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
