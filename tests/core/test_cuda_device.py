# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show: arrays that live there, streams, graphs, the same bits run after run, and refusals."""

import numpy as np
import pytest
from test_errors import CASES, OPS

import tokernel
from tokernel._backend import cuda_problem
from tokernel.kernels import bpe, merge
from tokernel.kernels.tree import TokenTree

torch = pytest.importorskip("torch", reason="arrays on a GPU come from torch here")
if "cuda" not in tokernel.backends()["usable"]:
    pytest.skip(cuda_problem(), allow_module_level=True)

from tokernel import ops

# Ops of family bpe decide on the host what comes next, or work there alone.
ON_GPU = sorted(set(CASES) - set(bpe.__all__))
# Each looks at an answer on the host before it goes on.
HOST_DECIDES = {"compact_rows", "kmeans"}
# Draws its start, and made-up normalisers that overflow.
NOT_COMPARED = {"kmeans", "attention_map_ce_backward"}
# What a host reads off the arrays.
TOLD = {"segment_reduce_backward": {"tokens": 3}}
CHANGE_THEIR_FIRST = {"compact_cache": "cache", "update_adjacency": "adjacency"}


def to_gpu(value):
    if isinstance(value, TokenTree):
        value = value.parents.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(value)).cuda() if isinstance(value, np.ndarray) else value


def on_gpu(op):
    return {name: to_gpu(value) for name, value in (CASES[op] | TOLD.get(op, {})).items()}


def call_on(op, arguments):
    """All arrays that an op answers with or has changed."""
    result = OPS[op](**arguments)
    changed = [arguments[CHANGE_THEIR_FIRST[op]]] if op in CHANGE_THEIR_FIRST else []
    return [*arrays_in(result), *changed]


def arrays_in(result):
    if isinstance(result, tuple | list):
        return [array for item in result for array in arrays_in(item)]
    return [result] if isinstance(result, np.ndarray | np.generic | torch.Tensor) else []


def same_bits(a, b):
    return len(a) == len(b) and all(
        torch.equal(x.reshape(-1).view(torch.uint8), y.reshape(-1).view(torch.uint8)) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("op", [op for op in ON_GPU if op not in NOT_COMPARED])
def test_arrays_on_a_gpu_give_what_arrays_on_the_host_give(op):
    def copied(value):
        return value.copy() if isinstance(value, np.ndarray) else value

    expected = call_on(op, {name: copied(value) for name, value in CASES[op].items()})
    found = call_on(op, on_gpu(op))
    assert tokernel.last_backend() == "cuda"
    for got, want in zip(found, expected, strict=True):
        if isinstance(got, torch.Tensor):
            assert got.is_cuda
            got = got.cpu().numpy()
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", [op for op in ON_GPU if op not in HOST_DECIDES])
def test_every_op_is_captured_in_a_graph(op):
    """No launcher waits or allocates; a replay repeats the bits."""
    arguments = on_gpu(op)
    kept = {name: value.clone() for name, value in arguments.items() if isinstance(value, torch.Tensor)}

    def restore():
        for name, value in kept.items():
            arguments[name].copy_(value)

    eager = [array.clone() for array in call_on(op, arguments)]
    restore()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answers = call_on(op, arguments)
    for _ in range(2):
        restore()
        graph.replay()
        torch.cuda.synchronize()
        assert same_bits(answers, eager)


def randn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def randint(high, *shape, seed=1):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


OFFSETS = torch.tensor([0, 3, 3, 40, 70])
DIFFERENTIABLE = {
    "gather_rows": (lambda x: ops.gather_rows(x, randint(70, 2, 33).to(x.device)), [(2, 70, 20)]),
    "scatter_rows": (lambda y: ops.scatter_rows(y, randint(70, 2, 33).to(y.device), 70), [(2, 33, 20)]),
    "scatter_add_rows": (
        lambda y, w: ops.scatter_add_rows(y, randint(9, 2, 33).to(y.device), 9, w.float()),
        [(2, 33, 20), (2, 33)],
    ),
    "segment_reduce": (lambda x: ops.segment_reduce(x, offsets=OFFSETS.to(x.device)), [(70, 24)]),
    "segment_softmax": (lambda x: ops.segment_softmax(x, offsets=OFFSETS.to(x.device)), [(70,)]),
    "soft_aggregate": (lambda x, m: ops.soft_aggregate(x, m), [(2, 70, 40), (2, 19, 70)]),
    "soft_aggregate over targets": (lambda x, m: ops.soft_aggregate(x, m, "targets")[0], [(2, 70, 40), (2, 19, 70)]),
    "permute_rows": (lambda x: ops.permute_rows(x, torch.arange(69, -1, -1).expand(2, 70).contiguous().to(x.device)),
                     [(2, 70, 20)]),
    "attention": (lambda q, k, v: ops.attention(q, k, v), [(1, 4, 70, 40), (1, 2, 90, 40), (1, 2, 90, 40)]),
    "attention, causal": (
        lambda q, k, v: ops.attention(q, k, v, ops.Causal()),
        [(1, 2, 130, 64), (1, 2, 130, 64), (1, 2, 130, 64)],
    ),
    "attention, window": (
        lambda q, k, v: ops.attention(q, k, v, ops.Window((2, 8, 8), (1, 4, 4))),
        [(1, 2, 128, 32), (1, 2, 128, 32), (1, 2, 128, 32)],
    ),
    "merge_attention": (lambda o, s: ops.merge_attention(o, s.float())[0], [(2, 1, 2, 70, 24), (2, 1, 2, 70)]),
    "row_stats": (lambda x: ops.row_stats(x).lse, [(5, 3000)]),
    "topk_gate": (lambda x: ops.topk_gate(x, 2)[1], [(70, 16)]),
    "lookup": (lambda c: ops.lookup(c, randint(9, 70).to(c.device)), [(9, 20)]),
    "rotate_to": (lambda x: ops.rotate_to(x, x.detach().flip(0).contiguous()), [(70, 20)]),
    "rvq_decode": (lambda c: ops.rvq_decode(randint(9, 70, 3).to(c.device), c), [(3, 9, 20)]),
    "fsq_encode": (lambda x: ops.fsq_encode(x, (8, 5, 5)).codes, [(70, 3)]),
    "codebook_entropy": (
        lambda x, c: torch.cat([part.flatten() for part in ops.codebook_entropy(x, c, 2.0)]),
        [(70, 20), (90, 20)],
    ),
    "bit_entropy": (lambda x: ops.bit_entropy(x, 3.0), [(70, 9)]),
    "subcode_histogram": (lambda x: ops.subcode_histogram(x, 2.0), [(70, 2, 6)]),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(name, dtype):
    """Answers and gradients against float32 on the host, which the other tests hold to the reference."""
    op, shapes = DIFFERENTIABLE[name]
    values = [randn(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]

    def run(device, kind):
        inputs = [v.to(device, kind).requires_grad_() for v in values]
        answer = op(*inputs)
        weight = randn(*answer.shape, seed=9).to(device)
        return [
            x.detach().float().cpu() for x in (answer, *torch.autograd.grad((answer.float() * weight).sum(), inputs))
        ]

    # Each rounding to the dtype moves a number by half a unit; a few follow each other on the way to a gradient.
    unit = 1e-4 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
    for got, want in zip(run("cuda", dtype), run("cpu", torch.float32), strict=True):
        assert (got - want).norm() <= unit * want.norm()


def test_work_goes_to_the_current_stream():
    """The input is written late, on a stream of its own: a launch on any other stream would read it too early."""
    x, index = randn(4, 4096, 256).cuda(), randint(4096, 4, 2048).cuda()
    expected = ops.gather_rows(x, index)
    late = torch.zeros_like(x)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late.copy_(x)
        found = ops.gather_rows(late, index)
        assert not stream.query()  # nor did the call wait
    stream.synchronize()
    assert torch.equal(found, expected)


def many_blocks(dtype):
    q, k, v = (randn(1, 4, 1000, 64, dtype=dtype, seed=s).cuda().requires_grad_() for s in range(3))
    x, codes = randn(5000, 64, dtype=dtype).cuda().requires_grad_(), randn(3000, 64, dtype=dtype, seed=1).cuda()
    index = randint(40, 5000).cuda()
    entropy = ops.codebook_entropy(x, codes, 0.5)
    return [
        *torch.autograd.grad(ops.attention(q, k, v, ops.Causal()).float().square().sum(), (q, k, v)),
        *torch.autograd.grad(entropy.entropy.sum() + entropy.mean_prob.square().sum(), x),
        *ops.nearest(x.detach(), codes)[:2],
        *ops.ema_update(x.detach(), index, 40),
        *ops.cosine_match(x.detach()[None], codes[None]),
        ops.scatter_add_rows(x.detach()[None], index[None], 40),
        ops.segment_reduce(x.detach(), ids=index, segments=40),
        *ops.assign(x.detach()[None], codes[None]),
        *ops.topk(x.detach().flatten()[None].float(), 1000),
        *ops.head_argmax_prob(x.detach()[:40], codes),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_every_time(dtype):
    first = many_blocks(dtype)
    for _ in range(5):
        assert same_bits(many_blocks(dtype), first)


def test_cupy_arrays_come_back_as_cupy_arrays():
    cupy = pytest.importorskip("cupy", reason="arrays of CuPy need CuPy")
    x, index = randn(2, 30, 8).numpy(), randint(30, 2, 9).numpy()
    found = merge.gather_rows(cupy.asarray(x), cupy.asarray(index))
    assert isinstance(found, cupy.ndarray)
    np.testing.assert_array_equal(cupy.asnumpy(found), merge.gather_rows(x, index))
    y, mass = merge.segment_reduce(
        cupy.asarray(x), offsets=cupy.asarray(np.array([[0, 4, 30]] * 2)), return_mass=True
    )  # fmt: skip
    assert isinstance(y, cupy.ndarray)
    assert isinstance(mass, cupy.ndarray)


X, INDEX = randn(2, 6, 8), randint(6, 2, 3)
REFUSED = {
    "index on the host": (lambda: (X.cuda(), INDEX), r"index must be on a CUDA device, .* got an array on the CPU"),
    "x on the host": (lambda: (X, INDEX.cuda()), r"index must be on the CPU, .* got an array on CUDA device 0"),
    "batch": (lambda: (X.cuda(), INDEX[:1].cuda()), r"index must be \(B, M\) with B = 2, got \(1, 3\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    arguments, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        ops.gather_rows(*arguments())


def test_arrays_of_any_layout_are_packed():
    picked = ops.gather_rows(X, INDEX)
    assert torch.equal(ops.gather_rows(X.cuda(), INDEX.cuda().int()).cpu(), picked)
    turned = X.transpose(1, 2).contiguous().cuda().transpose(1, 2)
    assert torch.equal(ops.gather_rows(turned, INDEX.cuda()).cpu(), picked)
    every_second = INDEX.repeat_interleave(2, 1).cuda()[:, ::2]
    assert torch.equal(ops.gather_rows(X.cuda(), every_second).cpu(), picked)
    assert ops.gather_rows(X[:0].cuda(), INDEX[:0].cuda()).shape == (0, 3, 8)


def test_a_host_backend_refuses_arrays_on_a_gpu():
    with (
        tokernel.use_backend("cuda"),
        pytest.raises(ValueError, match="'cuda' is forced, but the arrays are on the CPU"),
    ):
        ops.gather_rows(X, INDEX)
    assert torch.equal(ops.gather_rows(X.cuda(), INDEX.cuda()).cpu(), ops.gather_rows(X, INDEX))
