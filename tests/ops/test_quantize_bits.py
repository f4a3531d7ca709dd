# SPDX-License-Identifier: Apache-2.0
"""Signs, grids, buckets and strings of bits as torch ops: registration, gradients, transforms, compilation."""

import pytest

torch = pytest.importorskip("torch")

from tokernel import ops
from tokernel.kernels import quantize

VARIANTS = [(False, False), (True, False), (False, True), (True, True)]


@pytest.fixture
def z():
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) * 1.5


def plain_grid(z, levels, symmetric, hard_clamp):
    """The formula in the dtype of z, rounded straight through."""
    n = torch.tensor(levels, dtype=z.dtype)
    squash = (lambda t: t.clamp(-1, 1)) if hard_clamp else torch.tanh
    if symmetric:
        x = (n - 1) * (squash(z) + 1) / 2 + 0.5
        return 2 / (n - 1) * (x + (x.floor() - x).detach()) - 1
    h, o = (n - 1) * 1.001 / 2, torch.where(n % 2 == 0, 0.5, 0.0)
    shift = o / h if hard_clamp else torch.atanh(o / h)
    x = squash(z + shift) * h - o
    return (x + (x.round() - x).detach()) / (n // 2)


@pytest.mark.parametrize(("symmetric", "hard_clamp"), VARIANTS)
def test_opcheck(z, symmetric, hard_clamp):
    leaf, grad = z.clone().requires_grad_(), torch.randn_like(z).requires_grad_()
    torch.library.opcheck(torch.ops.tokernel.fsq_encode.default, (leaf, [5, 4, 7], symmetric, hard_clamp))
    torch.library.opcheck(
        torch.ops.tokernel.fsq_encode_backward.default, (grad, leaf, [5, 4, 7], symmetric, hard_clamp)
    )
    index = ops.fsq_encode(z, [5, 4, 7], symmetric, hard_clamp).index
    torch.library.opcheck(torch.ops.tokernel.fsq_decode.default, (index, [5, 4, 7], symmetric, torch.float32))


def test_opcheck_of_integers(z):
    """What has integers only is checked without autograd, which has nothing to do there."""
    tests = ("test_schema", "test_faketensor")
    for op, args in (
        (torch.ops.tokernel.sign_pack, (z, [3], True, "lsb")),
        (torch.ops.tokernel.sign_pack, (z, [2, 1], False, "msb")),
        (torch.ops.tokernel.sign_unpack, (torch.zeros(2, 2, dtype=torch.int64), [2, 1], False, "msb", 1.0, torch.half)),
        (torch.ops.tokernel.bucketize, (z, torch.tensor([0.0, 1.0]), torch.uint8)),
        (torch.ops.tokernel.pack_bits, (torch.ones(2, 5, dtype=torch.int64), 3)),
        (torch.ops.tokernel.unpack_bits, (torch.ones(2, 2, dtype=torch.uint8), 3, 5)),
    ):
        torch.library.opcheck(op.default, args, test_utils=tests)


@pytest.mark.parametrize(("symmetric", "hard_clamp"), VARIANTS)
def test_codes_and_gradients(z, symmetric, hard_clamp):
    levels = (5, 4, 7)
    ours, exact = z.clone().requires_grad_(), z.double().requires_grad_()
    codes, index = ops.fsq_encode(ours, levels, symmetric, hard_clamp)
    assert not index.requires_grad
    want = plain_grid(exact, levels, symmetric, hard_clamp)
    torch.testing.assert_close(codes.double(), want, atol=1e-6, rtol=0)
    scale = torch.randn(codes.shape, generator=torch.Generator().manual_seed(1))
    (grad,) = torch.autograd.grad((codes * scale).sum(), ours, create_graph=True)
    (want_grad,) = torch.autograd.grad((want * scale).sum(), exact, create_graph=True)
    torch.testing.assert_close(grad.double(), want_grad, atol=1e-5, rtol=1e-5)
    if hard_clamp:
        return
    (second,) = torch.autograd.grad(grad.pow(2).sum(), ours)
    (want_second,) = torch.autograd.grad(want_grad.pow(2).sum(), exact)
    torch.testing.assert_close(second.double(), want_second, atol=1e-5, rtol=1e-4)


def test_shapes(z):
    cube = z.reshape(1, 2, 1, 3, 1, 3)
    codes, index = ops.fsq_encode(cube, [5, 4, 7])
    assert codes.shape == cube.shape
    assert index.shape == cube.shape[:-1]
    assert torch.equal(ops.fsq_decode(index, [5, 4, 7]), codes)
    single = ops.fsq_encode(z[0], [5, 4, 7])
    assert single.index.shape == ()
    assert torch.equal(ops.fsq_decode(single.index, [5, 4, 7]), single.codes)
    ids = ops.sign_pack(cube, [2, 1])
    assert ids.shape == (1, 2, 1, 3, 1, 2)
    assert torch.equal(ops.sign_unpack(ids, [2, 1]), torch.where(cube > 0, 1.0, -1.0))
    assert torch.equal(ops.bucketize(cube, torch.tensor([0.0])).squeeze(), (cube > 0).long().squeeze())
    packed = ops.pack_bits(ids, 2)
    assert torch.equal(ops.unpack_bits(packed, 2, 2), ids)
    assert ops.sign_pack(torch.zeros(2, 0), 3).shape == (2, 0)
    with pytest.raises(ValueError, match=r"^fsq_encode: z must be"):
        ops.fsq_encode(torch.tensor(1.0), [5])


def test_no_gradient_flows_through_integers(z):
    leaf = z.clone().requires_grad_()
    assert not ops.sign_pack(leaf, 3).requires_grad
    assert not ops.bucketize(leaf, torch.tensor([0.0], requires_grad=True)).requires_grad


def test_vmap(z):
    stacked = torch.stack([z, z.flip(0)])
    codes, index = torch.vmap(lambda x: ops.fsq_encode(x, [5, 4, 7]))(stacked)
    want = ops.fsq_encode(stacked, [5, 4, 7])
    assert torch.equal(codes, want.codes)
    assert torch.equal(index, want.index)
    assert torch.equal(torch.vmap(lambda i: ops.fsq_decode(i, [5, 4, 7]))(index), codes)
    ids = torch.vmap(lambda x: ops.sign_pack(x, 3))(stacked)
    assert torch.equal(ids, ops.sign_pack(stacked, 3))
    assert torch.equal(torch.vmap(lambda i: ops.sign_unpack(i, 3))(ids), ops.sign_unpack(ids, 3))
    boundaries = torch.tensor([0.0, 1.0])
    assert torch.equal(torch.vmap(lambda x: ops.bucketize(x, boundaries))(stacked), ops.bucketize(stacked, boundaries))
    packed = torch.vmap(lambda i: ops.pack_bits(i, 9))(index)
    assert torch.equal(packed, ops.pack_bits(index, 9))
    assert torch.equal(torch.vmap(lambda b: ops.unpack_bits(b, 9, 6))(packed), index)
    grads = torch.func.vmap(torch.func.grad(lambda x: ops.fsq_encode(x, [5, 4, 7]).codes.sum()))(stacked)
    (want_grads,) = torch.autograd.grad(
        ops.fsq_encode(stacked.requires_grad_(), [5, 4, 7]).codes.sum(), stacked, torch.tensor(1.0)
    )
    torch.testing.assert_close(grads, want_grads)


def test_compiles_whole(z):
    def step(x):
        codes, index = ops.fsq_encode(x, [5, 4, 7])
        ids = ops.sign_pack(x, 3)
        back = ops.sign_unpack(ids, 3) + ops.fsq_decode(index, [5, 4, 7])
        buckets = ops.bucketize(x, torch.tensor([0.0, 1.0]), torch.uint8)
        return (codes * back).sum(), index, buckets, ops.unpack_bits(ops.pack_bits(index, 8), 8, 6)

    want = step(z)
    torch._dynamo.reset()
    leaf = z.clone().requires_grad_()
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(leaf)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs)
    got[0].backward()
    assert leaf.grad is not None


def test_half_precision(z):
    for dtype in (torch.float16, torch.bfloat16):
        low = z.to(dtype).requires_grad_()
        codes, index = ops.fsq_encode(low, [5, 4, 7])
        assert codes.dtype == dtype
        assert torch.equal(ops.fsq_decode(index, [5, 4, 7], dtype=dtype), codes)
        codes.float().sum().backward()
        assert low.grad is not None
        assert low.grad.dtype == dtype


def test_equal_to_the_kernels(z):
    index = quantize.fsq_encode(z, (5, 4, 7)).index
    assert torch.equal(ops.fsq_encode(z, (5, 4, 7)).index, index)
    assert torch.equal(ops.pack_bits(index[None], 8)[0], quantize.pack_bits(index, 8))
