# SPDX-License-Identifier: Apache-2.0
"""k-means as torch ops: transforms, compilation, and rows spread over two processes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tokernel
from tokernel import ops
from tokernel.kernels import cluster as kernels

METRICS = ["l2", "cosine"]


@pytest.fixture
def x():
    return torch.randn(3, 40, 8, generator=torch.Generator().manual_seed(0))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def same(got, expected):
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(g), np.asarray(e))


@pytest.mark.parametrize("metric", METRICS)
def test_opcheck(x, metric):
    centroids = x[:, :5]
    labels, _ = ops.assign(x, centroids, metric)
    tests = torch.ops.tokernel
    torch.library.opcheck(tests.assign.default, (x, centroids, metric))
    torch.library.opcheck(tests.update.default, (x, labels, centroids, metric))
    torch.library.opcheck(tests.kmeans.default, (x, centroids.contiguous(), 3, 1e-4, metric))
    uniform = torch.rand(3, 5, dtype=torch.float64, generator=seeded(1))
    torch.library.opcheck(tests.kmeans_draw.default, (x, uniform, "++", metric))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_same_answers_as_the_kernels(x, dtype, metric):
    rows = x.to(dtype)
    start = rows[:, 3:9]
    labels = ops.assign(rows, start, metric)[0]
    assert all(
        torch.equal(g, e)
        for g, e in zip(
            ops.update(rows, labels, start, metric), kernels.update(rows, labels, start, metric), strict=True
        )
    )
    got, expected = (lib.kmeans(rows, 6, 9, init=start, metric=metric) for lib in (ops, kernels))
    assert torch.equal(got.labels, expected.labels)
    assert torch.equal(got.centroids, expected.centroids)
    assert torch.equal(got.sizes, expected.sizes)
    assert got.n_iter == expected.n_iter
    assert isinstance(got.n_iter, int)
    assert got.centroids.dtype == dtype


@pytest.mark.parametrize("init", ["random", "++"])
def test_draws_follow_the_generator(x, init):
    one, again, other = (ops.kmeans(x, 5, 0, init=init, generator=seeded(s)).centroids for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    for b in range(3):
        assert (one[b][:, None] == x[b]).all(2).any(1).all()


@pytest.mark.parametrize("init", [None, "random", "++", "array"])
def test_compiles_whole(x, init):
    start = x[:, :4] if init == "array" else init

    def step(rows):
        found = ops.kmeans(rows, 4, 5, init=start)
        labels, best = ops.assign(rows, found.centroids)
        return found.labels, found.centroids, found.sizes, found.n_iter, best, ops.update(rows, labels, found.centroids)

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    got = compiled(x)
    torch.manual_seed(0)
    expected = step(x)
    for g, e in zip(got[:3], expected[:3], strict=True):
        assert torch.equal(g, e)
    assert int(got[3]) == expected[3]
    assert torch.equal(got[4], expected[4])


def test_vmap(x):
    stacked, starts = torch.stack([x, x.flip(1)]), torch.stack([x[:, :5], x[:, 7:12]])
    labels, best = torch.vmap(ops.assign)(stacked, starts)
    for i in range(2):
        same((labels[i], best[i]), ops.assign(stacked[i], starts[i]))
    moved = torch.vmap(ops.update)(stacked, labels, starts)
    for i in range(2):
        same([m[i] for m in moved], ops.update(stacked[i], labels[i], starts[i]))


def test_no_gradient(x):
    rows = x.clone().requires_grad_()
    found = ops.kmeans(rows, 3, 2, init=rows[:, :3])
    assert not found.centroids.requires_grad
    labels, best = ops.assign(rows, rows[:, :3])
    assert not best.requires_grad
    assert not ops.update(rows, labels, rows[:, :3])[0].requires_grad


def test_fake_tensors(x):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        rows = mode.from_tensor(x)
        labels, best = ops.assign(rows, rows[:, :5])
        assert (labels.shape, best.dtype) == ((3, 40), torch.float32)
        centroids, counts, shift = ops.update(rows, labels, rows[:, :5])
        assert (centroids.shape, counts.shape, shift.shape) == ((3, 5, 8), (3, 5), (3,))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"K": 0}, ValueError, "K must be at least 1"),
        ({"K": 50, "init": "++"}, ValueError, "K must be at most 40"),
        ({"init": "kmeans"}, ValueError, "init must be 'random'"),
        ({"init": torch.zeros(3, 3, 8)}, ValueError, "init must be"),
        ({"tol": -1.0}, ValueError, "tol must be"),
        ({"max_iters": -1}, ValueError, "max_iters must be"),
        ({"x": torch.zeros(3, 0, 8)}, ValueError, "x must be at least one row long"),
    ],
)
def test_bad_input(x, changes, error, text):
    with pytest.raises(error, match=f"kmeans: {text}"):
        ops.kmeans(**{"x": x, "K": 2, "max_iters": 3, **changes})


# ---- rows spread over processes -------------------------------------------------------------------------------------
CASES = [
    {"init": "array", "metric": "l2", "dtype": "float32"},
    {"init": "array", "metric": "cosine", "dtype": "float32"},
    {"init": "random", "metric": "l2", "dtype": "float32"},
    {"init": "++", "metric": "l2", "dtype": "float32"},
    {"init": "++", "metric": "cosine", "dtype": "bfloat16"},
]
SHARES = [(0, 23), (23, 60)]


def grouped_rows():
    """Far groups: which rank adds up first cannot move a row."""
    generator = seeded(5)
    centres = 6 * torch.randn(2, 6, 4, generator=generator)
    return (centres.repeat(1, 10, 1) + 0.2 * torch.randn(2, 60, 4, generator=generator)).contiguous()


def run_case(case, rows, whole, group=None, rank=0):
    start = whole[:, :6].contiguous() if case["init"] == "array" else case["init"]
    if rank and case["init"] == "array":
        start = torch.full_like(start, 7.0)  # what counts is what the first process has
    options = {"init": start, "metric": case["metric"], "generator": seeded(11 + 10 * rank)}
    return ops.kmeans(rows, 6, 8, **options, **({"group": group} if group is not None else {}))


def worker(rank, store, folder):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    answers = []
    for case in CASES:
        whole = grouped_rows().to(getattr(torch, case["dtype"]))
        begin, end = SHARES[rank]
        answers.append(tuple(run_case(case, whole[:, begin:end], whole, dist.group.WORLD, rank)))
    nothing = grouped_rows()
    begin, end = ((0, 0), (0, 60))[rank]
    answers.append(tuple(run_case(CASES[3], nothing[:, begin:end], nothing, dist.group.WORLD, rank)))
    try:
        ops.kmeans(whole[:, :20], 41, 2, init="++", group=dist.group.WORLD)
    except ValueError as error:
        answers.append(str(error))
    torch.save(answers, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_agree_with_one(tmp_path):
    package = Path(tokernel.__file__).parents[1]  # the one under test, installed or not
    paths = os.pathsep.join([str(package), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    code = "import sys, test_cluster_kmeans as t; t.worker(int(sys.argv[1]), sys.argv[2], sys.argv[3])"
    command = [sys.executable, "-c", code]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store"), str(tmp_path)],
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors.decode()[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    for case, one, two in zip([*CASES, CASES[3]], first[:-1], second[:-1], strict=True):
        whole = grouped_rows().to(getattr(torch, case["dtype"]))
        alone = run_case(case, whole, whole)
        assert torch.equal(torch.cat([one[0], two[0]], 1), alone.labels), case
        assert torch.equal(one[1], two[1])
        assert torch.equal(one[2], alone.sizes)
        assert torch.equal(two[2], alone.sizes)
        assert one[3] == two[3] == alone.n_iter
        # Sums of at most 60 rows in another order, then one rounding to the dtype.
        rounding = 2.0**-7 if case["dtype"] == "bfloat16" else 120 * 2.0**-24
        torch.testing.assert_close(one[1].float(), alone.centroids.float(), rtol=rounding, atol=rounding * 6)
    expected = "kmeans: K must be at most 40, the number of rows, where init is '++', got 41"
    assert first[-1] == second[-1] == expected
