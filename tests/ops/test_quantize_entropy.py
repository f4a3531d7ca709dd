# SPDX-License-Identifier: Apache-2.0
"""Entropies of codebooks as torch ops: registration, gradients, and the losses of official codes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from soft_oracle import sign_codes
from torch.nn.functional import normalize

from tokernel import ops


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_torch(x, codes, inv_temperature=1.0, metric="dot", weight=None, log_add=0.0, log_floor=0.0):
    """The same numbers by ops that autograd knows."""
    if metric == "cosine":
        x, codes = normalize(x, dim=-1), normalize(codes, dim=-1)
    s = x @ codes.mT
    if metric == "l2":
        s = 2 * s - (x * x).sum(-1, keepdim=True) - (codes * codes).sum(-1).unsqueeze(-2)
    z = inv_temperature * s
    log_p = z.log_softmax(-1)
    p = log_p.exp()
    log_u = (p.clamp(min=log_floor) + log_add).log() if log_add or log_floor else log_p
    share = torch.ones(x.shape[:-1], dtype=x.dtype) if weight is None else weight.to(x.dtype)
    mean = (share / share.sum(-1, keepdim=True)).unsqueeze(-2) @ p
    return -(p * log_u).sum(-1), mean.squeeze(-2), z.logsumexp(-1)


def entropy_of(p, log_add=0.0, log_floor=0.0):
    return -(p * (p.clamp(min=log_floor) + log_add).log()).sum(-1)


def test_opcheck():
    x, codes = randn(5, 3).requires_grad_(), randn(4, 3, seed=1).requires_grad_()
    entropy = torch.ops.tokernel.codebook_entropy.default
    torch.library.opcheck(entropy, (x, codes, 2.0, "l2", torch.ones(5), 0.0, 1e-5))
    torch.library.opcheck(entropy, (randn(2, 5, 3).requires_grad_(), codes, 2.0, "dot", None, 0.0, 0.0))
    torch.library.opcheck(torch.ops.tokernel.codebook_lse.default, (x, codes, 2.0, "cosine"))
    torch.library.opcheck(torch.ops.tokernel.bit_entropy.default, (x, 2.0))
    bits = randn(5, 2, 3).requires_grad_()
    torch.library.opcheck(torch.ops.tokernel.subcode_histogram.default, (bits, 2.0, "msb", True))
    torch.library.opcheck(torch.ops.tokernel.subcode_histogram.default, (bits, 2.0, "lsb", False))


@pytest.mark.parametrize("metric", ["dot", "l2", "cosine"])
@pytest.mark.parametrize(("log_add", "log_floor"), [(0.0, 0.0), (1e-5, 0.0), (0.0, 1e-2)])
def test_equals_torch_and_its_gradients(metric, log_add, log_floor):
    options = (3.0, metric, torch.tensor([1.0, 0, 2, 1, 1, 0.5, 1]), log_add, log_floor)
    leaves = [randn(7, 5).requires_grad_(), randn(40, 5, seed=1).requires_grad_()]
    twins = [leaf.detach().double().requires_grad_() for leaf in leaves]
    for i, (got, want) in enumerate(
        zip(ops.codebook_entropy(*leaves, *options), by_torch(*twins, *options), strict=True)
    ):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
        weight = randn(*got.shape, seed=i + 2)
        grads = torch.autograd.grad((got * weight).sum(), leaves, retain_graph=True)
        expected = torch.autograd.grad((want * weight).sum(), twins, retain_graph=True)
        for ours, exact in zip(grads, expected, strict=True):
            torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=2e-5)


def test_books_and_shared_codes():
    x, codes = randn(3, 6, 4).requires_grad_(), randn(9, 4, seed=1).requires_grad_()
    twins = [leaf.detach().double().requires_grad_() for leaf in (x, codes)]
    got, want = ops.codebook_entropy(x, codes, 2.0), by_torch(*twins, 2.0)
    grads = torch.autograd.grad(got.entropy.sum() + (got.mean_prob**2).sum(), (x, codes))
    expected = torch.autograd.grad(want[0].sum() + (want[1] ** 2).sum(), twins)
    for ours, exact in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-5)


def test_lse_alone():
    x, codes = randn(6, 4).requires_grad_(), randn(30, 4, seed=1).requires_grad_()
    twins = [leaf.detach().double().requires_grad_() for leaf in (x, codes)]
    found = ops.codebook_lse(x, codes, 2.0, "l2")
    assert not found.index.requires_grad
    assert not found.best.requires_grad
    want = by_torch(*twins, 2.0, "l2")[2]
    torch.testing.assert_close(found.lse.double(), want, rtol=1e-5, atol=1e-5)
    expected = torch.autograd.grad(want.sum(), twins)
    for ours, exact in zip(torch.autograd.grad(found.lse.sum(), (x, codes)), expected, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-5)


def test_a_frozen_codebook_and_a_detached_row_cost_no_gradient():
    x, codes = randn(6, 4), randn(30, 4, seed=1)
    leaf = x.clone().requires_grad_()
    ops.codebook_entropy(leaf, codes).entropy.sum().backward()
    twin = codes.clone().requires_grad_()
    ops.codebook_entropy(x, twin).entropy.sum().backward()
    both = [x.clone().requires_grad_(), codes.clone().requires_grad_()]
    ops.codebook_entropy(*both).entropy.sum().backward()
    torch.testing.assert_close(leaf.grad, both[0].grad, rtol=0, atol=0)
    torch.testing.assert_close(twin.grad, both[1].grad, rtol=0, atol=0)


def test_half_precision_gradients():
    for dtype in (torch.float16, torch.bfloat16):
        leaves = [randn(7, 6, dtype=dtype).requires_grad_(), randn(20, 6, seed=1, dtype=dtype).requires_grad_()]
        ops.codebook_entropy(*leaves).entropy.sum().backward()
        twins = [leaf.detach().double().requires_grad_() for leaf in leaves]
        by_torch(*twins)[0].sum().backward()
        for ours, exact in zip(leaves, twins, strict=True):
            assert ours.grad.dtype == dtype
            torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=2e-2, atol=2e-2)


def test_compiles_whole():
    codes = randn(20, 4, seed=1)

    def loss(x):
        found = ops.codebook_entropy(x, codes, 2.0, log_floor=1e-5)
        groups = x.view(6, 2, 2)
        return (
            found.entropy.mean() + entropy_of(ops.subcode_histogram(groups, 4.0), 1e-5) + ops.bit_entropy(x, 2.0).sum()
        )

    eager, compiled = (randn(6, 4).requires_grad_() for _ in range(2))
    loss(eager).backward()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(compiled).backward()
    torch.testing.assert_close(compiled.grad, eager.grad)


def test_vmap_of_bit_entropy():
    x = randn(3, 4, 5)
    got = torch.vmap(lambda row: torch.ops.tokernel.bit_entropy(row, 2.0))(x)
    torch.testing.assert_close(got, ops.bit_entropy(x, 2.0))


def test_bit_entropy_of_any_rank():
    x = randn(2, 3, 1, 2, 5).requires_grad_()
    p = (3.0 * x.detach().double().requires_grad_()).sigmoid()
    want = -(p * p.log() + (1 - p) * (1 - p).log()).sum(-1)
    got = ops.bit_entropy(x, 3.0)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    twin = x.detach().double().requires_grad_()
    p = (3.0 * twin).sigmoid()
    (expected,) = torch.autograd.grad(-(p * p.log() + (1 - p) * (1 - p).log()).sum(), twin)
    (grad,) = torch.autograd.grad(got.sum(), x)
    torch.testing.assert_close(grad.double(), expected, rtol=1e-4, atol=1e-5)


# ---- the losses of official codes -----------------------------------------------------------------------------------
def load(golden, name):
    with np.load(golden / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.mark.parametrize("name", ["ibq", "ibq_flat"])
def test_ibq(golden, name):
    v = load(golden, f"ett/{name}")
    z, codes = v["z"].requires_grad_(), v["codebook"].requires_grad_()
    rows = z.movedim(1, -1).reshape(-1, z.shape[1])
    found = ops.codebook_entropy(rows, codes, 1 / v["entropy_temperature"].item())
    sample, average = found.entropy.mean(), entropy_of(found.mean_prob, 1e-5)
    torch.testing.assert_close(sample, v["sample_entropy"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(average, v["avg_entropy"], rtol=1e-4, atol=0)
    grads = torch.autograd.grad(sample - average, (z, codes))
    for got, key in zip(grads, ("grad_z_entropy", "grad_codebook_entropy"), strict=True):
        torch.testing.assert_close(got, v[key], rtol=1e-3, atol=1e-4 * v[key].abs().max().item())
    chosen = ops.codebook_lse(rows, codes).index
    assert (chosen.view(v["indices"].shape) == v["indices"]).all()


def test_fqgan(golden):
    """Minus the squared distance of unit vectors over a temperature of 0.01: twice their cosine, but for a constant."""
    v = load(golden, "fqgan/sub_quantizer_train")
    rows = v["z"].movedim(1, -1).reshape(-1, v["z"].shape[1])
    for x, codes, inv_temperature, metric in (
        (normalize(rows, dim=-1), normalize(v["codebook"], dim=-1), 100.0, "l2"),
        (rows, v["codebook"], 200.0, "cosine"),
    ):
        found = ops.codebook_entropy(x, codes, inv_temperature, metric)
        loss = v["entropy_loss_ratio"] * (found.entropy.mean() - entropy_of(found.mean_prob, 1e-5))
        torch.testing.assert_close(loss, v["entropy_loss"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["lfq_d6_c1", "lfq_d5_c3", "bsq_d6_c1"])
def test_lookup_free_quantizers(golden, name):
    """Several codebooks are books that share their codes; the guard of the logarithm is a floor of 1e-5."""
    v = load(golden, f"quantizers/{name}")
    bits, books = int(v["bits"]), int(v["num_codebooks"])
    x = v["x"].requires_grad_()
    rows = x.reshape(-1, books, bits).movedim(1, 0)
    codes = torch.from_numpy(sign_codes(bits, msb=True))
    if v["spherical"]:
        rows, codes = normalize(rows, dim=-1), codes / bits**0.5
    found = ops.codebook_entropy(rows, codes, 2 * v["inv_temperature"].item(), log_floor=1e-5)
    per_sample, average = found.entropy.mean(), entropy_of(found.mean_prob, log_floor=1e-5).mean()
    torch.testing.assert_close(per_sample, v["per_sample_entropy"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(average, v["codebook_entropy"], rtol=1e-4, atol=0)
    commitment = (rows - codes.abs().max() * torch.where(rows > 0, 1.0, -1.0)).square().mean()
    aux = v["entropy_loss_weight"] * (per_sample - v["diversity_gamma"] * average)
    aux = aux + v["commitment_loss_weight"] * commitment
    torch.testing.assert_close(aux, v["aux_loss"], rtol=1e-4, atol=1e-6)
    (grad,) = torch.autograd.grad(aux, x)
    torch.testing.assert_close(grad, v["grad_x_from_aux"], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("name", ["group", "analytical"])
def test_bsq_official(golden, name):
    """By groups or bit by bit: the entropies of rows are the same, those of means are not."""
    v = load(golden, f"quantizers/bsq_official_{name}")
    z = v["z"].requires_grad_()
    width, size = z.shape[-1], int(v["group_size"])
    slope = 4 * v["inv_temperature"].item() / width**0.5
    rows = z.reshape(-1, width // size, size) if name == "group" else z.reshape(-1, width, 1)
    mean = ops.subcode_histogram(rows, slope, "msb", pool=False)
    torch.testing.assert_close(mean, v["avg_prob"], rtol=1e-4, atol=1e-6)
    per_sample, average = ops.bit_entropy(z, slope).mean(), entropy_of(mean, 1e-8).sum()
    torch.testing.assert_close(per_sample, v["per_sample_entropy"], rtol=1e-5, atol=0)
    torch.testing.assert_close(average, v["codebook_entropy"], rtol=1e-5, atol=0)
    penalty = (v["gamma0"] * per_sample - v["gamma"] * average) / v["inv_temperature"]
    scale = 1 / width**0.5
    commit = v["beta"] * (torch.where(z > 0, scale, -scale) - z).square().sum(-1).mean()
    loss = commit + v["zeta"] * penalty
    torch.testing.assert_close(loss, v["loss"], rtol=1e-4, atol=1e-6)
    (grad,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(grad, v["grad_z_from_loss"], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("name", ["gq_train_g4_d8", "gq_train_g2_d5_1d"])
def test_wetok(golden, name):
    """All groups share one histogram; entropies are per group."""
    v = load(golden, f"wetok/{name}")
    x = v["x"].requires_grad_()
    groups, bits = int(v["groups"]), int(v["bits_per_group"])
    rows = x.movedim(1, -1).reshape(-1, groups, bits)
    slope = 4 / v["temperature"].item()
    per_sample = ops.bit_entropy(rows, slope).mean()
    average = entropy_of(ops.subcode_histogram(rows, slope), 1e-5)
    torch.testing.assert_close(per_sample, v["per_sample_entropy"], rtol=1e-3, atol=0)
    torch.testing.assert_close(average, v["codebook_entropy"], rtol=1e-3, atol=0)
    loss = v["sample_minimization_weight"] * per_sample - v["batch_maximization_weight"] * average
    (grad,) = torch.autograd.grad(loss, x)
    want = v["grad_x_from_entropy"]
    torch.testing.assert_close(grad, want, rtol=1e-2, atol=1e-3 * want.abs().max().item())
