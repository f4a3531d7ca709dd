# SPDX-License-Identifier: Apache-2.0
"""topk_gate and threshold_gate as torch ops: registration, gradients, transforms, compilation, noise."""

import pytest

torch = pytest.importorskip("torch")

from tokernel import ops
from torch import Tensor


@pytest.fixture
def logits():
    return torch.randn(2, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def noise():
    return torch.randn(2, 9, 7, generator=torch.Generator().manual_seed(1))


def plain(logits: Tensor, k: int, normalize: bool = False) -> tuple[Tensor, Tensor]:
    weight, index = logits.softmax(-1).topk(k)
    return (weight / weight.sum(-1, keepdim=True) if normalize else weight), index


@pytest.mark.parametrize("normalize", [False, True])
def test_opcheck_of_topk_gate(logits, normalize):
    leaf = logits.clone().requires_grad_()
    torch.library.opcheck(torch.ops.tokernel.topk_gate.default, (leaf, 3, normalize))
    index, weight, _ = ops.topk_gate(logits, 3, normalize)
    grad = torch.randn_like(weight).requires_grad_()
    torch.library.opcheck(torch.ops.tokernel.topk_gate_backward.default, (grad, leaf, index, normalize))


@pytest.mark.parametrize("normalize", [False, True])
def test_equals_torch(logits, normalize):
    for given in (logits, logits[0]):
        index, weight, counts = ops.topk_gate(given, 3, normalize)
        want, want_index = plain(given, 3, normalize)
        assert torch.equal(index, want_index)
        torch.testing.assert_close(weight, want)
        one_hot = torch.nn.functional.one_hot(index, 7).sum((-3, -2))
        assert torch.equal(counts, one_hot)


@pytest.mark.parametrize("normalize", [False, True])
def test_first_and_second_gradient(logits, normalize):
    """Against the same formula in float64, which torch differentiates itself."""
    ours, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    index, weight, counts = ops.topk_gate(ours, 3, normalize)
    assert not index.requires_grad
    assert not counts.requires_grad
    want, _ = plain(exact, 3, normalize)
    scale = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    (grad,) = torch.autograd.grad((weight * scale).pow(2).sum(), ours, create_graph=True)
    (want_grad,) = torch.autograd.grad((want * scale).pow(2).sum(), exact, create_graph=True)
    torch.testing.assert_close(grad.double(), want_grad, atol=1e-5, rtol=1e-4)
    (second,) = torch.autograd.grad(grad.pow(2).sum(), ours)
    (want_second,) = torch.autograd.grad(want_grad.pow(2).sum(), exact)
    torch.testing.assert_close(second.double(), want_second, atol=1e-4, rtol=1e-3)


def test_gradient_has_the_dtype_of_the_logits(logits):
    leaf = logits.bfloat16().requires_grad_()
    ops.topk_gate(leaf, 2)[1].sum().backward()
    assert leaf.grad.dtype == torch.bfloat16
    exact = logits.bfloat16().double().requires_grad_()
    plain(exact, 2)[0].sum().backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, atol=1e-6, rtol=2.0**-8)


def test_transforms_of_topk_gate(logits):
    mapped = torch.vmap(lambda x: ops.topk_gate(x, 3))(logits)
    for got, want in zip(mapped, ops.topk_gate(logits, 3), strict=True):
        assert torch.equal(got, want)
    per_sample = torch.vmap(torch.func.grad(lambda x: ops.topk_gate(x, 3)[1].pow(2).sum()))(logits)
    leaf = logits.clone().requires_grad_()
    ops.topk_gate(leaf, 3)[1].pow(2).sum().backward()
    torch.testing.assert_close(per_sample, leaf.grad)


def test_opcheck_of_threshold_gate(logits, noise):
    leaf = logits.flatten().clone().requires_grad_()
    flat = noise.flatten()
    torch.library.opcheck(torch.ops.tokernel.threshold_gate.default, (leaf, 5.0, flat))
    torch.library.opcheck(torch.ops.tokernel.threshold_gate.default, (leaf.detach(), 5.0, None))
    grad = torch.randn_like(flat).requires_grad_()
    torch.library.opcheck(torch.ops.tokernel.threshold_gate_backward.default, (grad, leaf, flat, 2.0))


@pytest.mark.parametrize("shape", [(), (5,), (2, 1, 3, 2, 4)], ids=str)
def test_gates_are_zero_or_one(shape):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    assert torch.equal(ops.threshold_gate(logits), (logits > 0).float())


def test_evaluation_has_no_gradient(logits):
    assert not ops.threshold_gate(logits.requires_grad_()).requires_grad


def test_straight_through_gradient(logits, noise):
    leaf, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    scale = torch.randn(logits.shape, generator=torch.Generator().manual_seed(4))
    gate = ops.threshold_gate(leaf, 2.0, noise)
    assert torch.equal(gate, (logits + noise > 0).float())
    (grad,) = torch.autograd.grad((gate * scale).sum(), leaf, create_graph=True)
    s = ((exact + noise) / 2.0).sigmoid()
    (want,) = torch.autograd.grad((s * scale).sum(), exact, create_graph=True)
    torch.testing.assert_close(grad.double(), want, atol=1e-6, rtol=1e-5)
    (second,) = torch.autograd.grad(grad.pow(2).sum(), leaf)
    (want_second,) = torch.autograd.grad(want.pow(2).sum(), exact)
    torch.testing.assert_close(second.double(), want_second, atol=1e-6, rtol=1e-4)


def test_training_draws_logistic_noise(logits):
    def draw(seed: int) -> Tensor:
        return ops.threshold_gate(logits, training=True, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert set(draw(0).unique().tolist()) <= {0.0, 1.0}
    # a logistic variable exceeds -l with probability sigmoid(l); 5 standard deviations of a mean of 40,000
    many = torch.full((40_000,), 1.0)
    mean = float(ops.threshold_gate(many, training=True, generator=torch.Generator().manual_seed(5)).mean())
    assert abs(mean - float(torch.tensor(1.0).sigmoid())) < 5 * 0.5 / 200
    leaf = logits.half().requires_grad_()
    ops.threshold_gate(leaf, training=True).sum().backward()
    assert leaf.grad.dtype == torch.float16
    assert bool((leaf.grad > 0).all())


def test_given_noise_is_used_in_training(logits, noise):
    want = ops.threshold_gate(logits, 5.0, noise)
    assert torch.equal(ops.threshold_gate(logits, 5.0, noise, training=True), want)


def test_transforms_of_threshold_gate(logits, noise):
    assert torch.equal(torch.vmap(lambda x: ops.threshold_gate(x))(logits), ops.threshold_gate(logits))
    per_sample = torch.vmap(torch.func.grad(lambda x, g: ops.threshold_gate(x, 5.0, g).sum()))(logits, noise)
    leaf = logits.clone().requires_grad_()
    ops.threshold_gate(leaf, 5.0, noise).sum().backward()
    torch.testing.assert_close(per_sample, leaf.grad)


def test_compiles_whole(logits, noise):
    def step(x: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        index, weight, counts = ops.topk_gate(x, 2, True)
        gate = ops.threshold_gate(x, 3.0, g)
        return (weight.square().sum() + gate.sum()), index, counts, ops.threshold_gate(x[0])

    want = step(logits, noise)
    torch._dynamo.reset()
    leaf = logits.clone().requires_grad_()
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(leaf, noise)
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w)
    got[0].backward()
    assert leaf.grad is not None
    torch._dynamo.reset()
    drawn = torch.compile(lambda x: ops.threshold_gate(x, training=True), fullgraph=True, backend="aot_eager")(logits)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}


def test_errors_pass_through(logits, noise):
    with pytest.raises(ValueError, match=r"^topk_gate: k must be in \[0, 7\], got 8$"):
        ops.topk_gate(logits, 8)
    with pytest.raises(ValueError, match=r"^topk_gate: logits must be .*, got \(7,\) float32$"):
        ops.topk_gate(logits[0, 0], 1)
    with pytest.raises(ValueError, match=r"^threshold_gate: noise must be .*, got \(9, 7\) float32$"):
        ops.threshold_gate(logits, 5.0, noise[0])
    with pytest.raises(ValueError, match=r"^threshold_gate: tau must be a positive number of float32, got 0.0$"):
        ops.threshold_gate(logits, 0.0)
