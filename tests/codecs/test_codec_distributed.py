# SPDX-License-Identifier: Apache-2.0
"""Two processes that each see a part of the batch learn what one learns from all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from codec_cases import DIM, rows

import tokernel
from tokernel import codecs

KINDS = {
    "averages": lambda: codecs.VectorQuantizer(DIM, 16),
    "k-means and dead codes": lambda: codecs.VectorQuantizer(DIM, 16, kmeans_init=True, threshold=2.0),
    "separate heads on the sphere": lambda: codecs.VectorQuantizer(
        DIM, 8, heads=2, separate_heads=True, metric="cosine", threshold=2.0, kmeans_init=True
    ),
    "stack": lambda: codecs.ResidualVQ(DIM, 8, 3, kmeans_init=True, threshold=1.0, quantizer_dropout=True),
    "shared stack": lambda: codecs.ResidualVQ(DIM, 16, 2, shared_codebook=True, threshold=1.0),
}
CUTS = [(20, None), (0, None), (33, 3)]  # rows of the first process of 48, and whether every third row is masked


def batches():
    for at, (cut, third) in enumerate(CUTS):
        # Far groups: the order of a sum cannot move a row.
        centres = 8 * rows(6, DIM, seed=9)
        x = centres.repeat(8, 1) + 0.3 * rows(48, DIM, seed=at)
        yield cut, x, None if third is None else torch.arange(48) % third > 0


def run(kind, part):
    torch.manual_seed(1)
    module = KINDS[kind]()
    found = []
    for cut, x, mask in batches():
        share = slice(None) if part is None else (slice(0, cut), slice(cut, None))[part]
        found.append(module(x[share], None if mask is None else mask[share]).index)
    return found, module.state_dict()


def worker(rank, store, folder):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.save({kind: run(kind, rank) for kind in KINDS}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_learn_what_one_learns(tmp_path):
    package = Path(tokernel.__file__).parents[1]
    paths = os.pathsep.join([str(package), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    code = "import sys, test_codec_distributed as t; t.worker(int(sys.argv[1]), sys.argv[2], sys.argv[3])"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(tmp_path / "store"), str(tmp_path)],
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors.decode()[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for kind in KINDS:
        (one, left), (two, right) = first[kind], second[kind]
        alone, state = run(kind, None)
        for a, b, whole in zip(one, two, alone, strict=True):
            assert torch.equal(torch.cat([a, b]), whole), kind
        for name, value in state.items():
            assert torch.equal(left[name], right[name]), (kind, name)
            # Sums of at most 96 rows in another order, over three steps.
            torch.testing.assert_close(left[name], value, rtol=300 * 2.0**-24, atol=300 * 2.0**-24 * 16)


def test_one_process_may_keep_to_its_own_rows():
    assert not codecs.VectorQuantizer(DIM, 4, distributed=False).book.processes()
