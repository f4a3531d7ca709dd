# SPDX-License-Identifier: Apache-2.0
"""How codebooks are placed, averaged and revived; dropout of layers; bit rates."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from codec_cases import DIM, rows, with_gradient

from tokernel import codecs, ops
from tokernel.codecs import codebook
from tokernel.codecs._draw import draw_below, draw_rows

EPS = 2.0**-23


def step(number):
    return torch.tensor(number)


def is_row_of(codes, x):
    return (codes[..., None, :] == x).all(-1).any(-1)


# ---- draws ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, 5, 40])
def test_rows_are_drawn_without_replacement(count):
    x = rows(40, DIM)
    drawn, number = draw_rows(x, None, count, 7, step(0), False)
    assert number == 40
    assert is_row_of(drawn, x).all()
    assert len(drawn.unique(dim=0)) == count


def test_few_rows_repeat_in_turn():
    x = rows(3, DIM)
    drawn, number = draw_rows(x, None, 7, 0, step(0), False)
    assert number == 3
    assert torch.equal(drawn[3:6], drawn[:3])
    assert len(drawn[:3].unique(dim=0)) == 3


def test_draws_follow_seed_and_step_and_no_generator():
    x = rows(40, DIM)
    draws = [draw_rows(x, None, 6, seed, step(at), False)[0] for seed, at in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])


def test_only_valid_rows_are_drawn_and_positions_count_them_alone():
    x, valid = rows(40, DIM), torch.arange(40) % 3 == 0
    drawn, number = draw_rows(x, valid, 20, 0, step(0), False)
    packed, _ = draw_rows(x[valid], None, 20, 0, step(0), False)
    assert number == 14
    assert torch.equal(drawn, packed)


def test_books_draw_rows_of_their_own():
    x = rows(40, DIM)
    drawn, _ = draw_rows(x.expand(2, -1, -1), None, 6, 0, step(0), False)
    assert drawn.shape == (2, 6, DIM)
    assert not torch.equal(drawn[0], drawn[1])


def test_every_row_is_drawn_as_often_as_any_other():
    x = torch.arange(10.0)[:, None]
    first = torch.cat([draw_rows(x, None, 1, 0, step(at), False)[0] for at in range(4000)]).flatten()
    counts = first.long().bincount(minlength=10)
    # Chi-square of 9 degrees of freedom: 33.7 is passed once in 10,000.
    assert ((counts - 400) ** 2 / 400).sum() < 33.7


def test_whole_numbers_are_drawn_evenly():
    drawn = torch.stack([draw_below(7, 3, step(at)) for at in range(3500)])
    assert ((drawn.bincount(minlength=7) - 500) ** 2 / 500).sum() < 27.9  # 6 degrees of freedom, once in 10,000


# ---- placing -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"metric": "cosine"}, {"mode": "grad"}, {"mode": "frozen"}])
def test_the_first_training_batch_places_the_codes(options):
    vq = codecs.VectorQuantizer(DIM, 5, kmeans_init=True, decay=1.0, eps=0.0, **options)
    x = rows(200, DIM)
    assert not vq.book.ready
    vq.eval()(x)
    vq.encode(x)
    assert not vq.book.ready
    index = vq.train()(x).index
    assert vq.book.ready
    z = torch.nn.functional.normalize(x, dim=-1) if options.get("metric") == "cosine" else x
    expected = codebook.kmeans_init(z, 5, 10, options.get("metric", "l2"))
    torch.testing.assert_close(vq.codebook, expected.codes, rtol=1e-5, atol=1e-6)
    assert torch.equal(index, ops.nearest(z, expected.codes, metric=options.get("metric", "l2")).index)
    if not options:
        torch.testing.assert_close(vq.book.counts, expected.counts, rtol=0, atol=0)
    before = vq.codebook.clone()
    vq(rows(10, DIM, seed=1))
    torch.testing.assert_close(vq.codebook, before, rtol=1e-5, atol=1e-6)


def test_placing_leaves_sums_as_encodec_does_it():
    vq = codecs.VectorQuantizer(DIM, 5, kmeans_init=True, decay=1.0, encodec_compat=True)
    vq(x := rows(50, DIM))
    expected = codebook.kmeans_init(x, 5, 10)
    torch.testing.assert_close(vq.book.counts, expected.counts, rtol=0, atol=0)
    torch.testing.assert_close(vq.book.sums, expected.codes, rtol=0, atol=0)


def test_placing_waits_for_rows():
    vq = codecs.VectorQuantizer(DIM, 5, kmeans_init=True)
    vq(torch.zeros(0, DIM))
    vq(torch.zeros(3, DIM), torch.zeros(3, dtype=torch.bool))
    vq(torch.full((3, DIM), float("nan")))
    assert not vq.book.ready
    x = rows(20, DIM)
    vq(torch.cat([x, torch.full((1, DIM), float("nan"))]))
    assert vq.book.ready
    assert torch.isfinite(vq.codebook).all()


def test_every_layer_of_a_stack_is_placed_over_what_is_left():
    rvq = codecs.ResidualVQ(DIM, 6, 3, kmeans_init=True, decay=1.0, eps=0.0)
    x = rows(100, DIM)
    rvq(x)
    residual = x
    for layer in range(3):
        expected = codebook.kmeans_init(residual, 6, 10, seed=layer)
        torch.testing.assert_close(rvq.codebooks[layer], expected.codes, rtol=1e-5, atol=1e-6)
        residual = residual - ops.lookup(expected.codes, ops.nearest(residual, expected.codes).index)


def test_more_codes_than_rows():
    vq = codecs.VectorQuantizer(DIM, 50, kmeans_init=True, decay=1.0, eps=0.0)
    x = rows(20, DIM)
    out = vq(x)
    torch.testing.assert_close(out.quantized, x, rtol=1e-6, atol=1e-6)


# ---- dead codes ----------------------------------------------------------------------------------------------------
def test_dead_codes_move_onto_different_rows_of_the_batch():
    vq = codecs.VectorQuantizer(DIM, 32, threshold=2.0, reset=3.0, decay=0.5)
    codes = vq.codebook.clone()
    codes[8:] += 1000.0
    vq.set_codes(codes)
    x = rows(100, DIM)
    vq(x)
    revived = is_row_of(vq.codebook, x)
    assert revived[8:].all()
    assert len(vq.codebook[8:].unique(dim=0)) == 24
    assert (vq.book.counts[8:] == 3.0).all()
    assert torch.equal(vq.book.sums[8:], 3.0 * vq.codebook[8:])


def test_all_codes_may_be_dead():
    vq = codecs.VectorQuantizer(DIM, 16, threshold=1e9)
    x = rows(100, DIM)
    vq(x)
    assert is_row_of(vq.codebook, x).all()
    assert len(vq.codebook.unique(dim=0)) == 16


def test_dead_codes_of_a_sphere_stay_on_it():
    vq = codecs.VectorQuantizer(DIM, 16, metric="cosine", threshold=1e9)
    vq(rows(100, DIM))
    torch.testing.assert_close(vq.codebook.norm(dim=-1), torch.ones(16), rtol=4 * EPS, atol=0)


def test_masked_rows_revive_nothing():
    vq = codecs.VectorQuantizer(DIM, 16, threshold=1e9)
    x, mask = rows(100, DIM), torch.arange(100) < 30
    vq(x, mask)
    assert is_row_of(vq.codebook, x[:30]).all()


def test_a_resumed_run_draws_what_the_run_would_have_drawn():
    one, two = (codecs.VectorQuantizer(DIM, 16, threshold=3.0) for _ in range(2))
    one(rows(30, DIM))
    two.load_state_dict(one.state_dict())
    for seed in (1, 2):
        one(rows(30, DIM, seed=seed))
        two(rows(30, DIM, seed=seed))
    assert torch.equal(one.codebook, two.codebook)


# ---- stacks --------------------------------------------------------------------------------------------------------
def test_dropout_keeps_the_first_layers_and_each_number_of_them():
    rvq = codecs.ResidualVQ(DIM, 16, 6, quantizer_dropout=True, dropout_cutoff=1, dropout_multiple_of=2)
    seen, x = set(), rows(5, DIM)
    for _ in range(60):
        before = rvq.codebooks.clone()
        out = rvq(x)
        kept = int((out.index[0] >= 0).sum())
        assert ((out.index >= 0) == (torch.arange(6) < kept)).all()
        assert (out.losses["commitment"][kept:] == 0).all()
        assert torch.equal(rvq.codebooks[kept:], before[kept:])  # what was left out does not learn
        seen.add(kept)
    assert seen == {2, 4, 6}
    assert (rvq.eval()(x).index >= 0).all()


def test_dropped_layers_keep_their_counts():
    rvq = codecs.ResidualVQ(DIM, 16, 3)
    rvq(rows(20, DIM), n_q=1)
    assert float(rvq.book.counts[0].sum()) != 16
    assert (rvq.book.counts[1:] == 1).all()


def test_every_row_may_have_layers_of_its_own():
    rvq, x = codecs.ResidualVQ(DIM, 16, 4).eval(), rows(2, 3, DIM)
    layers = torch.tensor([[1, 2, 3], [4, 1, 4]])
    out = rvq(x, n_q=layers)
    full = rvq.encode(x)
    assert torch.equal(out.index, torch.where(torch.arange(4) < layers[..., None], full, -1))
    assert torch.equal(rvq.encode(x, n_q=layers), out.index)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_prefix_decodes_to_the_partial_sum(grouped):
    rvq = codecs.GroupedResidualVQ(DIM, 16, 4, 2) if grouped else codecs.ResidualVQ(DIM, 16, 4)
    x = rows(7, DIM)
    index = rvq.eval().encode(x)
    for count in range(1, 5):
        assert torch.equal(rvq.decode(index[..., :count]), rvq(x, n_q=count).quantized)


def test_a_shared_codebook_learns_once_from_all_layers():
    rvq = codecs.ResidualVQ(DIM, 16, 3, shared_codebook=True, decay=0.0, eps=0.0)
    before, x = rvq.codebooks[0].clone(), rows(30, DIM)
    index, residual, met = rvq(x).index, x, []
    for layer in range(3):
        met.append(residual)
        residual = residual - before[index[:, layer]]
    rest, chosen = torch.cat(met), index.T.flatten()
    for k in range(16):
        expected = rest[chosen == k].mean(0) if (chosen == k).any() else before[k]
        torch.testing.assert_close(rvq.codebooks[1][k], expected, rtol=1e-5, atol=1e-6)
    assert rvq.book.steps == 1


@pytest.mark.parametrize("kbps", [1.5, 3, 6, 12, 24])
def test_layers_for_a_bit_rate(kbps):
    rvq = codecs.ResidualVQ(2, 1024, 32)
    assert rvq.layers_for(kbps, 75) == {1.5: 2, 3: 4, 6: 8, 12: 16, 24: 32}[kbps]
    assert rvq.layers_for(0.01, 75) == 1
    assert rvq.layers_for(None, 75) == rvq.layers_for(0, 75) == 32
    assert codecs.GroupedResidualVQ(4, 1024, 32, 2).layers_for(kbps, 75) == max(1, rvq.layers_for(kbps, 150))


def test_codebooks_get_gradients_where_they_are_learnt_by_them():
    rvq = codecs.ResidualVQ(DIM, 16, 3, mode="grad")
    out = rvq(with_gradient(rows(20, DIM)))
    out.losses["codebook"].sum().backward()
    used = torch.stack([(out.index == k).any(0) for k in range(16)], 1)
    assert torch.equal(rvq.book.codes.grad.abs().sum(-1) > 0, used)


def test_decoding_passes_gradients_to_a_learnt_codebook():
    vq = codecs.VectorQuantizer(DIM, 16, mode="grad")
    vq.decode(torch.tensor([3, 3, -1])).sum().backward()
    assert (vq.book.codes.grad[3] == 2).all()
    assert vq.book.codes.grad.sum() == 2 * DIM


# ---- losses --------------------------------------------------------------------------------------------------------
def test_diversity_is_minus_the_entropy_of_the_average_over_the_batch():
    x, codes = rows(6, 3, DIM), rows(16, DIM, seed=1)
    p = (-100 * torch.cdist(x.double(), codes.double())).softmax(-1).mean(0)
    expected = (p * p.clamp(min=1e-5).log()).sum(-1).mean()
    torch.testing.assert_close(codebook.diversity_loss(x, codes).double(), expected, rtol=1e-4, atol=1e-5)


def test_entropy_loss_against_the_whole_matrix():
    x, codes = with_gradient(rows(30, DIM)), with_gradient(rows(16, DIM, seed=1))
    valid = torch.arange(30) % 3 > 0
    loss = codebook.entropy_loss(x, codes, 0.5, valid=valid)
    got = torch.autograd.grad(loss, [x, codes])
    p = (-torch.cdist(x, codes)[valid].square() / 0.5).softmax(-1)
    mean = p.mean(0)
    expected = -(p * p.log()).sum(-1).mean() + (mean * (mean + 1e-5).log()).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    for g, e in zip(got, torch.autograd.grad(expected, [x, codes]), strict=True):
        torch.testing.assert_close(g, e, rtol=1e-3, atol=1e-5)


def test_orthogonal_codes_cost_nothing():
    assert codebook.orthogonal_loss(torch.eye(5)).abs() < EPS
    same = codebook.orthogonal_loss(torch.ones(5, 3))
    torch.testing.assert_close(same, torch.tensor(1 - 1 / 5), rtol=4 * EPS, atol=0)


def test_laplace_of_nothing_is_nothing():
    assert (codebook.laplace(torch.zeros(3), 0.0) == 0).all()
