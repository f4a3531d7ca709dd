# SPDX-License-Identifier: Apache-2.0
"""The laws and the traps of papers/quantizers.md, one test a line."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from codec_cases import DIM, KINDS, make, rows, with_gradient

from tokernel import codecs, ops
from tokernel.codecs._bit_entropy import BitEntropy, bit_entropies, sign_codes

EPS = 2.0**-23


# ---- what must be true ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_decoding_the_indices_gives_the_quantized_rows_bit_for_bit(kind, training):
    module = make(kind).train(training)
    module(rows(2, 7, DIM))  # learns, if it is training
    before = make(kind).train(training)
    before(rows(2, 7, DIM))
    x = rows(2, 7, DIM, seed=1)
    out = module(x)
    assert torch.equal(before.decode(out.index), out.quantized)
    assert out.quantized.dtype == x.dtype
    assert out.index.dtype == torch.int64


@pytest.mark.parametrize("kind", ["vq", "vq_cosine_rotation", "vq_heads", "vq_frozen", "lfq", "lfq_groups", "bsq"])
def test_quantizing_a_code_returns_it(kind):
    module = make(kind).eval()
    once = module(rows(40, DIM))
    again = module(once.quantized.detach())
    assert torch.equal(again.index, once.index)
    assert torch.equal(again.quantized, once.quantized)


@pytest.mark.parametrize("levels", [(8, 5, 5), (4, 3, 7), (16, 9, 2)])
def test_quantizing_a_grid_code_returns_it(levels):
    symmetric = 2 in levels
    fsq = codecs.FSQ(levels, symmetric, hard_clamp=True)
    index = torch.arange(fsq.codebook_size)
    assert torch.equal(fsq.encode(fsq.decode(index)), index)
    if not symmetric:
        # tanh bends the axis: there, what returns to a code is the value that tanh takes to it.
        count = torch.tensor(levels)
        h, shift = (count - 1) * 1.001 / 2, torch.where(count % 2 == 0, 0.5, 0.0)
        z = torch.atanh((fsq.decode(index) * (count // 2) + shift) / h) - torch.atanh(shift / h)
        assert torch.equal(codecs.FSQ(levels).encode(z), index)


def test_rotation_arrives_at_the_code():
    x, q = 3 * rows(50, DIM), rows(50, DIM, seed=1)
    out = ops.rotate_to(x, q)
    assert ((out - q).norm(dim=-1) <= 1e-6 * q.norm(dim=-1)).all()


def test_the_jacobian_of_the_rotation_is_orthogonal_but_for_its_length():
    x, q = rows(6), rows(6, seed=1)
    jacobian = torch.autograd.functional.jacobian(lambda t: ops.rotate_to(t, q), x)
    length = q.norm() / x.norm()
    torch.testing.assert_close(jacobian @ jacobian.T, length**2 * torch.eye(6), rtol=0, atol=1e-5 * float(length**2))


def test_the_jacobian_of_straight_through_is_the_identity():
    x, vq = rows(1, DIM), make("vq").eval()
    jacobian = torch.autograd.functional.jacobian(lambda t: vq(t).quantized, x)
    assert torch.equal(jacobian.reshape(DIM, DIM), torch.eye(DIM))


def test_without_memory_every_used_code_is_the_mean_of_its_rows():
    vq = codecs.VectorQuantizer(DIM, 16, decay=0.0, eps=0.0)
    before, x = vq.codebook.clone(), rows(30, DIM)
    index = vq(x).index
    for k in range(16):
        expected = x[index == k].mean(0) if (index == k).any() else before[k]
        torch.testing.assert_close(vq.codebook[k], expected, rtol=4 * EPS, atol=8 * EPS)


def test_with_perfect_memory_nothing_moves_but_by_smoothing():
    eps = 1e-5
    vq = codecs.VectorQuantizer(DIM, 16, decay=1.0, eps=eps)
    codes, counts, sums = (t.clone() for t in (vq.codebook, vq.book.counts, vq.book.sums))
    vq(rows(30, DIM))
    assert torch.equal(vq.book.counts, counts)
    assert torch.equal(vq.book.sums, sums)
    # N = 1 for all: smoothing changes each count by less than (K + 1) eps.
    assert ((vq.codebook - codes).abs() <= 17 * eps * codes.abs()).all()


def test_the_sum_of_counts_moves_towards_the_batch():
    vq = codecs.VectorQuantizer(DIM, 16, decay=0.9)
    vq(rows(50, DIM))
    assert float(vq.book.counts.sum()) == pytest.approx(16 + (1 - 0.9) * (50 - 16), rel=1e-6)


def test_more_layers_never_hurt_where_zero_is_a_code_of_each():
    rvq = codecs.ResidualVQ(DIM, 16, 5).eval()
    codes = rvq.codebooks.clone()
    codes[:, 3] = 0.0
    rvq.set_codes(codes)
    x = rows(60, DIM)
    index = rvq.encode(x)
    errors = torch.stack([(x - rvq.decode(index[..., : n + 1])).norm(dim=-1) for n in range(5)])
    assert (errors[1:] <= errors[:-1] * (1 + 8 * EPS)).all()


def test_product_quantization_with_one_part_is_vector_quantization():
    pq, vq = codecs.ProductQuantizer(DIM, 1, 16), codecs.VectorQuantizer(DIM, 16, mode="frozen")
    vq.set_codes(pq.centroids[0])
    x = rows(50, DIM)
    assert torch.equal(pq(x).index[:, 0], vq(x).index)
    assert torch.equal(pq(x).quantized, vq(x).quantized)


def test_table_distance_is_the_distance_to_the_decoded_vector():
    pq, x, queries = codecs.ProductQuantizer(DIM, 4, 16), rows(50, DIM), rows(3, DIM, seed=1)
    codes = pq.encode(x)
    found = pq.search(queries, codes, k=50)
    exact = torch.cdist(queries.double(), pq.decode(codes).double()) ** 2
    torch.testing.assert_close(found.value.double(), exact.gather(1, found.index), rtol=1e-5, atol=1e-5)
    assert (found.value[:, 1:] >= found.value[:, :-1]).all()


@pytest.mark.parametrize("training", [False, True])
def test_one_group_is_a_plain_stack(training):
    one = codecs.GroupedResidualVQ(DIM, 16, 3, groups=1).train(training)
    plain = codecs.ResidualVQ(DIM, 16, 3).train(training)
    plain.set_codes(one.groups[0].codebooks)
    x = rows(2, 9, DIM)
    got, expected = one(x), plain(x)
    assert torch.equal(got.index[0], expected.index)
    assert torch.equal(got.quantized, expected.quantized)
    assert torch.equal(got.losses["commitment"][0], expected.losses["commitment"])
    assert torch.equal(one.groups[0].codebooks, plain.codebooks)


@pytest.mark.parametrize("options", [{}, {"metric": "cosine", "gradient": "rotation"}, {"mode": "grad"}])
def test_a_stack_of_one_is_one_codebook(options):
    stack, vq = codecs.ResidualVQ(DIM, 16, 1, **options), codecs.VectorQuantizer(DIM, 16, **options)
    vq.set_codes(stack.codebooks[0].detach())
    for seed in range(2):
        x, y = with_gradient(rows(40, DIM, seed=seed)), with_gradient(rows(40, DIM, seed=seed))
        got, expected = stack(x), vq(y)
        assert torch.equal(got.index[:, 0], expected.index)
        # Codes on the sphere are normalised once more when they are put in place.
        torch.testing.assert_close(got.quantized, expected.quantized, rtol=2 * EPS, atol=2 * EPS)
        torch.testing.assert_close(got.loss, expected.loss, rtol=8 * EPS, atol=0)
        for out, leaf in ((got, x), (expected, y)):
            (out.loss + out.quantized.square().sum()).backward()
            assert leaf.grad is not None
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(stack.codebooks[0], vq.codebook, rtol=8 * EPS, atol=8 * EPS)


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [4, 7], [3]])
def test_grid_codes_stay_in_their_range_and_all_are_reached(levels):
    fsq = codecs.FSQ(levels)
    codes = fsq.decode(torch.arange(fsq.codebook_size))
    for d, count in enumerate(levels):
        top = 1.0 if count % 2 else 1 - 1 / (count // 2)
        assert codes[:, d].min() == -1
        assert codes[:, d].max() == top
        assert len(codes[:, d].unique()) == count
    assert len(codes.unique(dim=0)) == fsq.codebook_size
    assert (codes[0] == -1).all()  # index 0 is the lowest level everywhere
    wide = fsq(4 * rows(2000, len(levels)))
    assert wide.index.unique().numel() == fsq.codebook_size or fsq.codebook_size > 500
    assert (wide.quantized.abs() <= 1).all()


def test_sample_entropy_of_signs_is_the_sum_over_bits():
    x, inv_temperature = 0.3 * rows(20, 2, 5), 3.0
    options = BitEntropy(inv_temperature=inv_temperature)
    by_bits, _ = bit_entropies(x, 1.0, options)
    p = (2 * inv_temperature * x @ sign_codes(5, 1.0).T).double().softmax(-1)
    torch.testing.assert_close(by_bits.double(), -torch.xlogy(p, p).sum(-1).mean(), rtol=1e-5, atol=1e-6)
    by_codes, _ = bit_entropies(x, 1.0, options._replace(sample="codes"))
    torch.testing.assert_close(by_codes, by_bits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["codebook", "pooled", "group", "bits"])
@pytest.mark.parametrize("size", [0.0, 0.02, 1.0, 1e4])
def test_entropies_of_signs_lie_between_nothing_and_all_bits(mode, size):
    per_sample, used = bit_entropies(size * rows(20, 2, 5), 1.0, BitEntropy(mode=mode))
    most = 5 * math.log(2) * (2 if mode in ("group", "bits") else 1)
    for entropy in (per_sample, used):
        assert -1e-6 <= float(entropy) <= most * (1 + 1e-5)


def test_saturated_signs_get_no_gradient_from_the_entropy():
    lfq = codecs.LFQ(6)
    for size, bound in ((0.01, None), (10.0, 1e-12)):
        x = with_gradient(size * (rows(20, 6).sign() + 0.1))
        lfq(x).loss.backward()
        assert x.grad.abs().max() > 1e-4 if bound is None else x.grad.abs().max() <= bound


@pytest.mark.parametrize("kind", ["vq_cosine_rotation", "vq_stored", "lfq_spherical", "bsq"])
def test_directions_alone_count(kind):
    module, x = make(kind).eval(), rows(40, DIM)
    scale = torch.rand(40, 1, generator=torch.Generator().manual_seed(5)) * 9 + 0.1
    assert torch.equal(module.encode(x * scale), module.encode(x))


def test_permuting_a_codebook_permutes_the_indices():
    vq = codecs.VectorQuantizer(DIM, 16, mode="frozen")
    x, order = rows(40, DIM), torch.randperm(16, generator=torch.Generator().manual_seed(2))
    index, codes = vq.encode(x), vq.codebook.clone()
    vq.set_codes(codes[order])
    assert torch.equal(order[vq.encode(x)], index)


# ---- traps ---------------------------------------------------------------------------------------------------------
def test_dead_codes_stay_moved_except_as_encodec_does_it():
    x = rows(40, DIM)
    lasting = codecs.VectorQuantizer(DIM, 64, threshold=2.0, seed=4)
    lasting(x)
    moved = (lasting.codebook[:, None] == x).all(-1).any(1)
    start = lasting.codebook.clone()
    assert moved.any()
    assert (lasting.book.counts[moved] == 2.0).all()
    torch.testing.assert_close(lasting.book.sums[moved], 2.0 * lasting.codebook[moved], rtol=0, atol=0)

    as_encodec = codecs.VectorQuantizer(DIM, 64, threshold=2.0, encodec_compat=True, decay=0.99)
    without = codecs.VectorQuantizer(DIM, 64, encodec_compat=True, decay=0.99)
    for module in (as_encodec, without):
        module.set_codes(start)
        assert (module.book.counts == 0).all()
        module(x)
    assert torch.equal(as_encodec.codebook, without.codebook)


@pytest.mark.parametrize("compat", [False, True])
def test_commitment_of_every_layer_reaches_the_input_except_as_encodec_does_it(compat):
    rvq = codecs.ResidualVQ(DIM, 16, 4, encodec_compat=compat)
    x = with_gradient(rows(20, DIM))
    out = rvq(x)
    for layer, loss in enumerate(out.losses["commitment"]):
        (grad,) = torch.autograd.grad(loss, x, retain_graph=True)
        assert (grad.abs().max() > 0) == (layer == 0 or not compat)
    (through,) = torch.autograd.grad(out.quantized.sum(), x)
    assert (through == (1 if compat else 4)).all()


def test_the_gradient_of_a_stack_may_pass_once():
    rvq, x = codecs.ResidualVQ(DIM, 16, 4, gradient="once"), with_gradient(rows(20, DIM))
    rvq(x).quantized.sum().backward()
    assert (x.grad == 1).all()


@pytest.mark.parametrize("bits", [24, 25, 32, 36, 63])
@pytest.mark.parametrize("order", ["msb", "lsb"])
def test_indices_of_many_bits_are_exact(bits, order):
    x = rows(50, bits)
    weights = [1 << (bits - 1 - d if order == "msb" else d) for d in range(bits)]
    expected = [sum(w for w, v in zip(weights, row, strict=True) if v > 0) for row in x.tolist()]
    for module in (codecs.LFQ(bits, bit_order=order, entropy=None), codecs.BSQ(bits, mode="bits", bit_order=order)):
        index = module.encode(x)
        assert index.tolist() == expected
        assert torch.equal(module.decode(index) > 0, x > 0)


def test_beyond_63_bits_there_are_indices_of_groups_alone():
    bsq, x = codecs.BSQ(72, 8), rows(10, 72)
    out = bsq(x)
    assert out.index.shape == (10, 9)
    assert torch.equal(bsq.decode(out.index) > 0, x > 0)
    assert torch.equal(bsq.group_index(out.index), out.index)


def test_an_even_grid_never_reaches_one():
    # Half to even cannot be seen: h = 1.001 (L - 1) / 2 puts the ties of the grid between two float32 inputs.
    fsq = codecs.FSQ([8])
    assert fsq(torch.tensor([[99.0]])).quantized.item() == 0.75
    assert fsq(torch.tensor([[-99.0]])).quantized.item() == -1
    assert fsq(torch.tensor([[0.0]])).quantized.item() == 0


def test_entropies_differ_by_their_logarithm_and_by_how_codebooks_are_put_together():
    x = 0.02 * rows(200, 2, 4) + torch.tensor([[[0.1]], [[-0.1]]]).reshape(1, 2, 1)
    plain = BitEntropy(inv_temperature=10.0)
    used = {
        mode: float(bit_entropies(x, 1.0, plain._replace(mode=mode))[1]) for mode in ("codebook", "pooled", "group")
    }
    assert used["group"] == pytest.approx(2 * used["codebook"], rel=1e-6)
    assert used["pooled"] > used["codebook"] + 0.1  # one group may be blind to codes that the other uses
    added = float(bit_entropies(x, 1.0, plain._replace(log_add=1e-2))[1])
    assert added < used["codebook"]


def test_the_identity_is_the_default_gradient_and_truncated_indices_decode_without_dropout():
    assert codecs.VectorQuantizer(DIM, 16).gradient == "ste"
    assert codecs.ResidualVQ(DIM, 16, 3).gradient == "ste"
    rvq, x = codecs.ResidualVQ(DIM, 16, 3).eval(), rows(10, DIM)
    index = rvq.encode(x)
    short = index.clone()
    short[..., 2] = -1
    assert torch.equal(rvq.decode(short), rvq.decode(index[..., :2]))
    assert torch.equal(rvq.encode(x, n_q=2), short)


def test_beta_weighs_the_commitment():
    vq = codecs.VectorQuantizer(DIM, 16, mode="grad")
    x = with_gradient(rows(20, DIM))
    losses = vq(x).losses
    assert losses["commitment"].item() == pytest.approx(0.25 * losses["codebook"].item(), rel=1e-6)
    to_x, to_codes = torch.autograd.grad(losses["commitment"], [x, vq.book.codes], retain_graph=True, allow_unused=True)
    assert to_x is not None
    assert to_codes is None or (to_codes == 0).all()
    to_x, to_codes = torch.autograd.grad(losses["codebook"], [x, vq.book.codes], allow_unused=True)
    assert to_x is None or (to_x == 0).all()
    assert to_codes.abs().max() > 0
