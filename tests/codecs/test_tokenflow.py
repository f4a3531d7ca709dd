# SPDX-License-Identifier: Apache-2.0
"""TokenFlow: the official quantizer's outputs, and what must be true of shared indices and of growing sizes."""

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from torch.nn import functional

from tokernel.codecs import tokenflow
from tokernel.codecs._filter import filtered
from tokernel.papers import paper

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenflow"


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantizer(size=16, dims=(6, 2), seed=0, **settings):
    torch.manual_seed(seed)
    ours = tokenflow.SharedMappingQuantizer(size, dims, **settings)
    for book in ours.codebooks:
        torch.nn.init.normal_(book)
    return ours


def official_quantizer(data, **settings):
    books = [data["codebook_sem"], data["codebook_pix"]]
    ours = tokenflow.SharedMappingQuantizer(len(books[0]), [book.shape[1] for book in books], **settings)
    ours.load_state_dict({f"codebooks.{at}": book for at, book in enumerate(books)})
    return ours


def official_stack(data):
    return tokenflow.MultiScaleResidual(official_quantizer(data), data["scales"].tolist()).eval()


def test_it_is_in_the_registry():
    assert tokenflow.PAPER is paper("tokenflow")


# ---- official outputs ----


def test_golden_codes_and_losses():
    data = golden("shared_mapping_train")
    ours = official_quantizer(data, beta=float(data["beta"]))
    out = ours(data["z"])
    assert torch.equal(out.index, data["indices"])
    torch.testing.assert_close(out.quantized, data["z_q"], rtol=0, atol=2e-5)
    torch.testing.assert_close(out.losses["codebook"], data["vq_loss"], rtol=0, atol=2e-5)
    torch.testing.assert_close(out.losses["commitment"], data["commit_loss"], rtol=0, atol=2e-5)
    norms = torch.stack(ours.distance_norms(data["z"]))
    torch.testing.assert_close(norms, torch.stack([data["d_sem_norm"], data["d_pix_norm"]]), rtol=2e-5, atol=0)


def test_golden_gradients():
    data = golden("shared_mapping_train")
    ours, z = official_quantizer(data), data["z"].clone().requires_grad_()
    out = ours(z)
    (grad,) = torch.autograd.grad((out.quantized * data["upstream"]).sum(), z, retain_graph=True)
    torch.testing.assert_close(grad, data["grad_z_from_upstream"], rtol=0, atol=2e-5)
    grads = torch.autograd.grad(sum(out.losses.values()), (z, *ours.codebooks))
    for grad, name in zip(grads, ("grad_z_from_losses", "grad_sem", "grad_pix"), strict=True):
        torch.testing.assert_close(grad, data[name], rtol=0, atol=2e-5)


def test_golden_sizes():
    data = golden("multiscale_encode")
    stack = official_stack(data)
    out = stack(data["h"])
    assert torch.equal(out.index, data["indices"])
    torch.testing.assert_close(out.quantized, data["final_quantized"], rtol=0, atol=2e-5)
    torch.testing.assert_close(stack.decode(out.index), data["decoded"], rtol=0, atol=2e-5)


def test_golden_inputs_of_the_next_size():
    data = golden("ar_inputs")
    stack = official_stack(data)
    torch.testing.assert_close(stack.ar_inputs(data["indices"]), data["ar_inputs"], rtol=0, atol=2e-5)
    current = stack.ar_inputs(data["indices"], pred_for_curr=2)  # theirs counts blocks of inputs, from 0
    torch.testing.assert_close(current, data["ar_inputs_pred_for_curr_1"], rtol=0, atol=2e-5)


# ---- what must be true of the shared index ----


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 3.0), (0.25, 1.0)])
def test_the_joint_search_minimises_the_weighted_sum_of_distances(weights):
    z, ours = seeded(2, 8, 5, 5), quantizer(weights=weights)
    parts = [functional.normalize(part.double(), dim=1) for part in z.split((6, 2), 1)]
    books = [functional.normalize(book.double(), dim=-1) for book in ours.codebooks]
    distance = sum(
        weight * torch.cdist(part.flatten(2).transpose(1, 2), book).square()
        for weight, part, book in zip(weights, parts, books, strict=True)
    )
    assert torch.equal(ours(z).index.flatten(1), distance.argmin(-1))


def test_without_weight_a_codebook_has_no_say():
    z = seeded(2, 8, 5)
    semantic = tokenflow.SharedMappingQuantizer(16, (6,)).eval()
    ours = quantizer(weights=(1.0, 0.0)).eval()
    semantic.load_state_dict({"codebooks.0": ours.codebooks[0]})
    assert torch.equal(ours(z).index, semantic(z[:, :6]).index)
    pixels_only = quantizer(weights=(1.0, 1e8)).eval()
    pixel = tokenflow.SharedMappingQuantizer(16, (2,)).eval()
    pixel.load_state_dict({"codebooks.0": pixels_only.codebooks[1]})
    assert torch.equal(pixels_only(z).index, pixel(z[:, 6:]).index)


def test_a_scale_of_either_half_changes_no_index():
    z, ours = seeded(2, 8, 5), quantizer().eval()
    scaled = torch.cat([4 * z[:, :6], 0.25 * z[:, 6:]], 1)
    assert torch.equal(ours(z).index, ours(scaled).index)


def test_one_index_drives_both_codebooks():
    z, ours = seeded(2, 8, 20), quantizer().eval()
    before = ours(z).index
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    both = {f"codebooks.{at}": book[order] for at, book in enumerate(ours.codebooks)}
    one = {"codebooks.0": ours.codebooks[0][order], "codebooks.1": ours.codebooks[1].clone()}
    other = quantizer().eval()
    other.load_state_dict(both)
    assert torch.equal(order[other(z).index], before)
    other.load_state_dict(one)
    assert not torch.equal(order[other(z).index], before)


def test_each_half_of_a_code_has_norm_one():
    out = quantizer().eval()(seeded(2, 8, 5))
    for half in out.quantized.split((6, 2), 1):
        torch.testing.assert_close(half.norm(dim=1), torch.ones(2, 5))
    torch.testing.assert_close(out.quantized.norm(dim=1), torch.full((2, 5), math.sqrt(2)))


def test_ids_give_back_what_was_decoded_and_codes_themselves():
    ours = quantizer().eval()
    out = ours(seeded(2, 8, 3, 3))
    assert torch.equal(ours.lookup(out.index), out.quantized)
    assert torch.equal(ours(out.quantized).index, out.index)


def test_the_entropy_is_that_of_a_softmax_over_the_joint_distances():
    z, ours = seeded(2, 8, 5), quantizer(entropy_ratio=0.5)
    rows = (
        torch.cat([functional.normalize(part.double(), dim=1) for part in z.split((6, 2), 1)], 1)
        .transpose(1, 2)
        .flatten(0, 1)
    )
    codes = torch.cat([functional.normalize(book.double(), dim=-1) for book in ours.codebooks], -1)
    logits = -100 * torch.cdist(rows, codes).square()
    p, used = logits.softmax(-1), logits.softmax(-1).mean(0)
    expected = -(p * logits.log_softmax(-1)).sum(-1).mean() + (used * (used + 1e-5).log()).sum()
    assert ours(z).losses["entropy"].item() == pytest.approx(0.5 * expected.item(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_and_an_empty_batch(dtype):
    out = quantizer()(seeded(2, 8, 3, 3).to(dtype))
    assert out.quantized.dtype == dtype
    assert all(loss.dtype == torch.float32 for loss in out.losses.values())
    empty = quantizer().eval()(torch.zeros(0, 8, 3, dtype=dtype))
    assert empty.quantized.shape == (0, 8, 3)
    assert empty.index.shape == (0, 3)


def test_autocast_changes_nothing_and_it_compiles_in_one_graph():
    ours, z = quantizer(entropy_ratio=0.1), seeded(2, 8, 3, 3)
    outside = ours(z)
    with torch.autocast("cpu", torch.bfloat16):
        inside = ours(z)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")(z)
    for other in (inside, compiled):
        assert torch.equal(other.index, outside.index)
        torch.testing.assert_close(sum(other.losses.values()), sum(outside.losses.values()))


def test_names_of_its_state():
    assert list(quantizer().state_dict()) == ["codebooks.0", "codebooks.1"]


# ---- what must be true of the sizes ----


def stack_of(scales=(1, 2, 3), **settings):
    return tokenflow.MultiScaleResidual(quantizer(), scales, **settings)


def test_one_size_is_plain_quantization():
    z = seeded(2, 8, 4, 4)
    stack = stack_of((4,)).eval()
    out, plain = stack(z), stack.quantizer(z)
    assert torch.equal(out.quantized, plain.quantized)
    assert torch.equal(out.index, plain.index.flatten(1))


def test_tokens_are_counted_and_a_prefix_of_sizes_decodes_to_the_partial_sum():
    stack = stack_of().eval()
    assert stack.tokens == 14
    out = stack(seeded(2, 8, 3, 3))
    assert out.index.shape == (2, 14)
    partial = torch.zeros(2, 8, 3, 3)
    for size, piece in zip((1, 2, 3), out.index.split([1, 4, 9], 1), strict=True):
        codes = stack.quantizer.lookup(piece.unflatten(1, (size, size)))
        partial = partial + (codes if size == 3 else functional.interpolate(codes, (3, 3), mode="bicubic"))
        end = {1: 1, 2: 5, 3: 14}[size]
        torch.testing.assert_close(stack.decode(out.index[:, :end]), partial, rtol=0, atol=1e-5)
    torch.testing.assert_close(out.quantized, partial, rtol=0, atol=1e-5)


def test_the_official_sizes():
    assert {name: sum(s * s for s in scales) for name, scales in tokenflow.SCALES.items()} == {
        "clipb_224": 1 + 4 + 16 + 36 + 64 + 100 + 144 + 196,
        "vitamin_256": 817,
        "siglip_384": 385 + 144 + 196 + 289 + 484 + 729,
    }


def test_the_rest_starts_without_normalisation():
    z, stack = seeded(1, 8, 3, 3), stack_of().eval()
    assert not torch.equal(stack(z).index[:, 1:], stack(10 * z).index[:, 1:])


def test_every_size_reaches_the_map_with_a_gradient():
    stack = stack_of().eval()
    weights = [seeded(1, 8, 3, 3, seed=seed) for seed in range(3)]
    for keep in range(3):
        z = seeded(1, 8, 3, 3).requires_grad_()
        rest, grads = z, []
        for at, size in enumerate(stack.scales):
            pooled = rest if size == 3 else functional.adaptive_avg_pool2d(rest, size)
            part = stack.quantizer(pooled).quantized
            part = part if size == 3 else functional.interpolate(part, (3, 3), mode="bicubic")
            rest = rest - part.detach()
            if at == keep:
                grads.append(torch.autograd.grad((part * weights[at]).sum(), z)[0])
        assert grads[0].abs().max() > 0
    z = seeded(1, 8, 3, 3).requires_grad_()
    (whole,) = torch.autograd.grad((stack(z).quantized * weights[0]).sum(), z)
    assert whole.abs().max() > 0


def test_a_dropped_size_leaves_the_others():
    z, stack = seeded(2, 8, 3, 3), stack_of()
    out = stack.encode(z, dropped=1)
    assert out.index.shape == (2, 10)
    assert torch.equal(out.index[:, :1], stack.encode(z).index[:, :1])
    assert set(out.losses) == {"codebook", "commitment"}
    with pytest.raises(ValueError, match="dropped must be a scale of 3, got 3"):
        stack.encode(z, dropped=3)


def test_in_training_one_size_other_than_the_first_is_left_out_now_and_then():
    z = seeded(1, 8, 3, 3)
    stack = stack_of(drop_rate=0.5, generator=torch.Generator().manual_seed(0))
    lengths = [stack(z).index.shape[1] for _ in range(60)]
    assert set(lengths) == {14, 10, 5}
    assert 15 < lengths.count(14) < 45
    assert {stack.eval()(z).index.shape[1] for _ in range(10)} == {14}


def test_losses_are_means_over_the_sizes():
    z, stack = seeded(2, 8, 3, 3), stack_of(drop_rate=0.0)
    losses, rest = [], z
    for size in stack.scales:
        out = stack.quantizer(rest if size == 3 else functional.adaptive_avg_pool2d(rest, size))
        losses.append(out.losses["codebook"])
        part = out.quantized
        rest = rest - (part if size == 3 else functional.interpolate(part, (3, 3), mode="bicubic")).detach()
    torch.testing.assert_close(stack(z).losses["codebook"], torch.stack(losses).mean())


def test_inputs_of_a_size_know_nothing_of_its_own_tokens():
    stack = stack_of().eval()
    index = stack(seeded(2, 8, 3, 3)).index
    other = index.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 16
    assert torch.equal(stack.ar_inputs(index), stack.ar_inputs(other))
    assert stack.ar_inputs(index).shape == (2, 13, 8)
    assert torch.equal(stack.ar_inputs(index[:, :5]), stack.ar_inputs(index))
    again = stack.ar_inputs(other, pred_for_curr=2)
    assert not torch.equal(again, stack.ar_inputs(index, pred_for_curr=2))
    assert torch.equal(again[:, :4], stack.ar_inputs(index)[:, :4])


# ---- drawing ----


def logits_of(calls, vocabulary=16):
    def score(inputs, at):
        calls.append((at, inputs.shape[1], float(inputs.sum())))
        seed = int(1000 * inputs.double().abs().sum()) % 2**31
        logits = seeded(inputs.shape[0], (1, 4, 9)[at], vocabulary, seed=seed + at)
        return logits, torch.zeros_like(logits)

    return score


def test_sizes_are_drawn_one_after_the_other_and_all_but_the_first_again():
    stack, calls = stack_of().eval(), []
    index = tokenflow.multi_step_sample(
        logits_of(calls), stack, 2, ((8, 0.9), (1, 0.0)), generator=torch.Generator().manual_seed(0)
    )
    assert index.shape == (2, 14)
    assert [(at, width) for at, width, _ in calls] == [(0, 0), (1, 4), (1, 4), (2, 13), (2, 13)]
    assert calls[1][2] != calls[2][2]  # the second time the inputs hold what was drawn the first time
    again = tokenflow.multi_step_sample(
        logits_of([]), stack, 2, ((8, 0.9), (1, 0.0)), generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(index, again)


def test_guidance_grows_from_size_to_size():
    stack, seen = stack_of().eval(), []

    def score(inputs, at):
        given = seeded(1, (1, 4, 9)[at], 16, seed=at)
        bare = seeded(1, (1, 4, 9)[at], 16, seed=at + 10)
        seen.append(((1 + 2.0 * at / 2) * given - 2.0 * at / 2 * bare).argmax(-1))
        return given, bare

    index = tokenflow.multi_step_sample(score, stack, 1, ((1, 0.0),), cfg=2.0)
    assert torch.equal(index, torch.cat(seen, 1))


def test_top_p_drops_the_least_likely_and_keeps_the_largest():
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
    assert filtered(p, 0, 0.8).isinf().tolist() == [[True, False, False, False]]
    assert filtered(p, 0, 0.0).isinf().tolist() == [[True, True, True, False]]
    assert filtered(p, 2, 1.0).isinf().tolist() == [[True, True, False, False]]
    assert not filtered(p, 0, 1.0).isinf().any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tokenflow.SharedMappingQuantizer(0), "must be at least 1"),
        (lambda: tokenflow.SharedMappingQuantizer(4, ()), "must be at least 1"),
        (lambda: tokenflow.SharedMappingQuantizer(4, (2, 2), (1.0,)), "weights must be 2 numbers"),
        (lambda: tokenflow.SharedMappingQuantizer(4, (2, 2), (1.0, -1.0)), "weights must be 2 numbers"),
        (lambda: quantizer()(torch.zeros(1, 7, 2)), "z must have shape"),
        (lambda: quantizer().lookup(torch.tensor([[16]])), "index"),
        (lambda: stack_of(()), "scales must ascend"),
        (lambda: stack_of((2, 2)), "scales must ascend"),
        (lambda: stack_of(drop_rate=2.0), "drop_rate must be between 0 and 1"),
        (lambda: stack_of()(torch.zeros(1, 8, 4, 4)), "h must have shape"),
        (lambda: stack_of().decode(torch.zeros(1, 6, dtype=torch.int64)), "n one of 1, 5, 14"),
        (lambda: stack_of().ar_inputs(torch.zeros(1, 5, dtype=torch.int64), 2), "pred_for_curr must be between"),
        (lambda: tokenflow.multi_step_sample(None, stack_of(), 1, ()), "schedule must have at least one step"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
