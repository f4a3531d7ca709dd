# SPDX-License-Identifier: Apache-2.0
"""The modules reproduce vector-quantize-pytorch, bsq-vit and faiss: the vectors of papers/quantizers.md."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from codec_cases import GRADIENT, TOLERANCE, vectors, with_gradient

from tokernel import codecs, ops
from tokernel.codecs import codebook

close = torch.testing.assert_close


@pytest.mark.parametrize("name", ["vq_euclid_ste_ema", "vq_euclid_rotation_ema", "vq_cosine_rotation_ema"])
def test_vq_with_moving_averages_step_by_step(golden, name):
    v = vectors(golden, name)
    start = v["codebook_0"]
    vq = codecs.VectorQuantizer(
        start.shape[1],
        start.shape[0],
        metric="cosine" if v["cosine"] else "l2",
        gradient="rotation" if v["rotation_trick"] else "ste",
        decay=v["decay"],
        eps=v["eps"],
        commitment_weight=v["commitment_weight"],
    )
    vq.set_codes(start)
    for step in range(2):
        before = vq.codebook.clone()
        x = with_gradient(v[f"x_{step}"])
        out = vq(x)
        assert torch.equal(out.index, v[f"indices_{step}"])
        assert torch.equal(out.quantized, ops.lookup(before, out.index))
        close(out.quantized, v[f"quantized_{step}"], **TOLERANCE)
        close(out.losses["commitment"].item(), v[f"loss_{step}"], **TOLERANCE)
        (through,) = torch.autograd.grad((out.quantized * v[f"g_{step}"]).sum(), x, retain_graph=True)
        close(through, v[f"grad_x_from_g_{step}"], **GRADIENT)
        close(torch.autograd.grad(out.loss, x)[0], v[f"grad_x_from_loss_{step}"], **GRADIENT)
    # The file's state after the first step is that after the last (its arrays shared memory); what came out of the
    # second step is checked above.
    close(vq.codebook, v["codebook_2"], **TOLERANCE)
    close(vq.book.counts, v["cluster_size_2"], **TOLERANCE)
    close(vq.book.sums, v["embed_avg_2"], **TOLERANCE)
    out = vq.eval()(v["x_eval"])
    assert torch.equal(out.index, v["indices_eval"])
    close(out.quantized, v["quantized_eval"], **TOLERANCE)


def test_nearest_ties(golden):
    v = vectors(golden, "nearest_ties")
    vq = codecs.VectorQuantizer(3, 12, mode="frozen")
    vq.set_codes(v["codebook"])
    assert torch.equal(vq.encode(v["x"]), v["indices_lowest"])


def test_rvq(golden):
    v = vectors(golden, "rvq_q4")
    rvq = codecs.ResidualVQ(5, 16, 4).eval()
    rvq.set_codes(v["codebooks"])
    out = rvq(v["x"])
    assert torch.equal(out.index, v["indices"])
    close(out.quantized, v["quantized"], **TOLERANCE)
    for layer, codes in enumerate(v["all_codes"]):
        close(ops.lookup(rvq.codebooks[layer], out.index[..., layer]), codes, **TOLERANCE)
    close(rvq.decode(v["partial_indices"]), v["partial_output"], **TOLERANCE)


def test_grouped_rvq(golden):
    v = vectors(golden, "grouped_rvq_g2_q3")
    rvq = codecs.GroupedResidualVQ(6, 12, 3, groups=2).eval()
    for group, codes in zip(rvq.groups, v["codebooks"], strict=True):
        group.set_codes(codes)
    out = rvq(v["x"])
    assert torch.equal(out.index, v["indices"])
    close(out.quantized, v["quantized"], **TOLERANCE)
    close(rvq.decode(v["partial_indices"]), v["partial_output"], **TOLERANCE)
    for group in range(2):
        for layer in range(3):
            codes = ops.lookup(rvq.groups[group].codebooks[layer], out.index[group, ..., layer])
            close(codes, v["all_codes"][group, layer], **TOLERANCE)


@pytest.mark.parametrize("name", ["fsq_8555", "fsq_symmetric_4237"])
def test_fsq(golden, name):
    v = vectors(golden, name)
    fsq = codecs.FSQ(v["levels"].tolist(), v["preserve_symmetry"], hard_clamp=v["hard_clamp"])
    z = with_gradient(v["z"])
    out = fsq(z)
    assert torch.equal(out.index, v["indices"])
    close(out.quantized, v["codes"], **TOLERANCE)
    close(torch.autograd.grad((out.quantized * v["g"]).sum(), z)[0], v["grad_z"], **GRADIENT)
    close(fsq.decode(v["indices"]), v["roundtrip"], **TOLERANCE)


@pytest.mark.parametrize("name", ["lfq_d6_c1", "lfq_d5_c3", "bsq_d6_c1"])
def test_lfq(golden, name):
    v = vectors(golden, name)
    lfq = codecs.LFQ(
        v["bits"],
        v["num_codebooks"],
        spherical=v["spherical"],
        entropy={
            "weight": v["entropy_loss_weight"],
            "gamma": v["diversity_gamma"],
            "inv_temperature": v["inv_temperature"],
            "sample": "codes",
            "log_floor": 1e-5,
        },
        commitment_weight=v["commitment_loss_weight"],
    )
    x = with_gradient(v["x"])
    out = lfq(x)
    assert torch.equal(out.index, v["indices"])
    close(out.quantized, v["quantized"], **TOLERANCE)
    close(lfq.decode(out.index), v["decoded"], **TOLERANCE)
    per_sample, used = lfq.entropies(x)
    close(per_sample.item(), v["per_sample_entropy"], **TOLERANCE)
    close(used.item(), v["codebook_entropy"], **TOLERANCE)
    close(out.losses["commitment"].item(), v["commitment_loss_weight"] * v["commitment"], **TOLERANCE)
    close(out.loss.item(), v["aux_loss"], **TOLERANCE)
    (through,) = torch.autograd.grad((out.quantized * v["g"]).sum(), x, retain_graph=True)
    close(through, v["grad_x_from_g"], **GRADIENT)
    close(torch.autograd.grad(out.loss, x)[0], v["grad_x_from_aux"], **GRADIENT)


@pytest.mark.parametrize(("name", "mode"), [("bsq_official_group", "group"), ("bsq_official_analytical", "bits")])
def test_bsq_of_its_authors(golden, name, mode):
    v = vectors(golden, name)
    bsq = codecs.BSQ(
        12,
        v["group_size"],
        normalize=False,
        unit=v["l2_norm"],
        mode=mode,
        beta=v["beta"],
        zeta=v["zeta"],
        gamma0=v["gamma0"],
        gamma=v["gamma"],
        inv_temperature=v["inv_temperature"],
    )
    z = with_gradient(v["z"])
    out = bsq(z)
    assert torch.equal(out.index, v["indices"])
    assert torch.equal(bsq.group_index(out.index), v["group_indices"])
    close(out.quantized, v["quantized"], **TOLERANCE)
    per_sample, used = bsq.entropies(z)
    close(per_sample.item(), v["per_sample_entropy"], **TOLERANCE)
    close(used.item(), v["codebook_entropy"], **TOLERANCE)
    close(out.loss.item(), v["loss"], **TOLERANCE)
    (through,) = torch.autograd.grad((out.quantized * v["g"]).sum(), z, retain_graph=True)
    close(through, v["grad_z_from_g"], **GRADIENT)
    close(torch.autograd.grad(out.loss, z)[0], v["grad_z_from_loss"], **GRADIENT)


def test_simvq(golden):
    v = vectors(golden, "simvq")
    simvq = codecs.SimVQ(6, 14, commitment_weight=v["input_to_quantize_commit_loss_weight"])
    simvq.set_codes(v["frozen_codebook"])
    weight = simvq.book.transform.weight
    with torch.no_grad():
        weight.copy_(v["transform_weight"])
    x = with_gradient(v["x"])
    out = simvq(x)
    assert torch.equal(out.index, v["indices"])
    close(out.quantized, v["quantized"], **TOLERANCE)
    close(out.loss.item(), v["loss"], **TOLERANCE)
    (through,) = torch.autograd.grad((out.quantized * v["g"]).sum(), x, retain_graph=True)
    close(through, v["grad_x_from_g"], **GRADIENT)
    to_x, to_weight = torch.autograd.grad(out.loss, [x, weight])
    close(to_x, v["grad_x_from_loss"], **GRADIENT)
    close(to_weight, v["grad_weight_from_loss"], **GRADIENT)


def test_rotation(golden):
    v = vectors(golden, "rotate_to")
    src = with_gradient(v["src"])
    out = ops.rotate_to(src, v["tgt"], v["eps"])
    close(out, v["out"], **TOLERANCE)
    close(torch.autograd.grad((out * v["g"]).sum(), src)[0], v["grad_src"], **GRADIENT)


@pytest.mark.parametrize(("metric", "name"), [("l2", "euclid"), ("cosine", "cos")])
def test_kmeans_places_codes(golden, metric, name):
    v = vectors(golden, "kmeans_lloyd")
    x, init = v["x"], v["init"]
    if metric == "cosine":
        x, init = (torch.nn.functional.normalize(t, dim=-1) for t in (x, init))
    book = codebook.kmeans_init(x, 6, v["iters"], metric, init)
    close(book.codes, v[f"means_{name}"], **TOLERANCE)
    assert torch.equal(book.counts.long(), v[f"counts_{name}"])


def test_losses(golden):
    v = vectors(golden, "losses")
    close(codebook.orthogonal_loss(v["codebook"]).item(), v["orthogonal_loss"], **TOLERANCE)
    close(codebook.laplace(v["counts"], v["laplace_eps"]), v["laplace"], **TOLERANCE)


def test_product_quantizer_of_faiss(golden):
    v = vectors(golden, "faiss_pq")
    pq = codecs.ProductQuantizer(8, 4, 16)
    pq.centroids.copy_(v["centroids"])
    index = pq.encode(v["x"])
    assert torch.equal(index, v["codes"])
    assert torch.equal(pq.pack(index).long(), v["packed"])
    assert torch.equal(pq.unpack(pq.pack(index)), index)
    close(pq.decode(index), v["decoded"], **TOLERANCE)
    close(pq.adc_tables(v["queries"]), v["tables"], **TOLERANCE)
    found = pq.search(v["queries"], index, k=5)
    assert torch.equal(found.index, v["adc_ids"])
    close(found.value, v["adc_dist"], **TOLERANCE)
