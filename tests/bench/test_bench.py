# SPDX-License-Identifier: Apache-2.0
"""The benchmark runs, its contenders compute the same, and its files hold what they promise. No time is asserted."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="bench races torch")
pytest.importorskip("threadpoolctl", reason="bench needs the bench extra")
from bench import attention, cluster, core, machine, memory, merge, overhead, quantize, report

import tokernel

ROOT = Path(__file__).parents[2]
ROW_KEYS = [
    "family", "op", "case", "dtype", "backend", "threads", "seconds", "spread",
    "peer", "peer_seconds", "ratio", "peak_share", "peak_mem_bytes",
]  # fmt: skip
CASES = [*merge.cases(), *cluster.cases(), *attention.cases(), *quantize.cases(), *overhead.cases()]


@pytest.fixture(autouse=True)
def unlimited_threads():
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    tokernel.set_num_threads(0)


def row(**changes) -> core.Row:
    values = dict.fromkeys(ROW_KEYS) | {"seconds": 1.0, "spread": 0.1, "threads": 1, "op": "op", "family": "merge"}
    return core.Row(**{**values, "case": "case", "dtype": "float32", "backend": "v3", **changes})


@pytest.mark.parametrize("case", CASES, ids=lambda c: " ".join(c.key))
def test_ours_and_every_peer_agree(case):
    work = case.build(True)
    assert work.peers
    for peer in work.peers.values():
        work.compare(work.ours(), peer())


def test_every_case_has_its_own_name():
    keys = [(c.family, *c.key) for c in CASES]
    assert len(set(keys)) == len(keys)


def test_promised_cases_carry_their_floors():
    """The floors of the project's plan, spelled out once more."""
    floors = {(c.op, c.case): {(f.kind, f.value) for f in c.floors} for c in CASES if c.dtype == "float32"}
    assert ("ratio", 1.5) in floors["cosine_match", "2x4096x320"]
    assert ("ratio", 3.0) in floors["tome_step", "64x197x768, r=16"]
    assert ("ratio", 2.0) in floors["segment_reduce mean", "64x1024x512, 128 segments, offsets"]
    assert ("speedup", 1.8) in floors["cosine_match", "2x4096x320"]
    assert ("peak", 0.85) in floors["assign", "32768x64, K=512"]
    for module, peer, ratio in (("faiss", "faiss Kmeans", 1.8), ("sklearn", "scikit-learn KMeans", 2.5)):
        if importlib.util.find_spec(module):
            assert ("ratio", ratio) in floors["kmeans", f"32768x64, K=512, 5 iterations, {peer}"]
    assert ("ratio", 1.25) in floors["attention", "8x4096x64"]
    assert ("ratio", 3.0) in floors["attention Segments", "1x32768x64, 1024 of 32"]
    assert ("ratio", 1 / 2.6) in floors["attention_backward", "8x4096x64"]
    assert ("overhead", 1.6e-6) in floors["gather_rows", "torch, eager"]
    assert ("ratio", 3.0) in floors["nearest", "16384x256, K=8192, torch cdist"]
    for module, case, ratio in (
        ("faiss", "16384x8, K=16384, faiss IndexFlatL2", 1.0),
        ("faiss", "16384x256, K=8192, faiss IndexFlatL2", 1.6),
        ("vector_quantize_pytorch", "16384x8, K=16384, vector-quantize-pytorch", 20.0),
    ):
        if importlib.util.find_spec(module):
            assert ("ratio", ratio) in floors["nearest", case]


def quick_rows(case: core.Case, **changes) -> list[core.Result]:
    options = {"threads": 1, "peers": True, "quick": True, "budget": 0.0, "memory": False} | changes
    return core.run_case(case, **options)


def test_ratio_is_the_peers_time_over_ours():
    (case,) = (c for c in CASES if c.op == "gather_rows" and c.dtype == "bfloat16")
    found = [r.row for r in quick_rows(case)]
    assert [r.peer for r in found] == ["torch.gather", "x[b, index]"]
    for r in found:
        assert r.ratio == r.peer_seconds / r.seconds
        assert r.peak_share > 0
        assert r.backend in tokernel.backends()["usable"]


def test_without_peers_the_comparison_is_empty():
    (result,) = quick_rows(overhead.cases()[0], peers=False)
    assert result.row.peer is result.row.peer_seconds is result.row.ratio is None
    assert result.row.case.endswith("(small)")


@pytest.mark.skipif(machine.usable_cores() < 2, reason="needs two cores")
def test_more_threads_are_compared_with_one():
    (case,) = (c for c in CASES if c.op == "gather_rows" and c.case.startswith("8x") and c.dtype == "float32")
    results = quick_rows(case, threads=2)
    assert [r.row.peer for r in results] == ["torch.gather", "x[b, index]", core.ONE_THREAD]


def test_promises_go_to_the_comparison_they_name():
    promised = [core.Floor(kind, 1.0) for kind in ("ratio", "fastest", "overhead", "speedup", "memory", "peak")]
    results = core._comparisons(row(seconds=2.0), {"a": 4.0, "b": 1.0, core.ONE_THREAD: 3.0}, promised)
    assert [r.row.ratio for r in results] == [2.0, 0.5, 1.5]
    expected = [["ratio", "overhead", "memory", "peak"], ["fastest"], ["speedup"]]
    assert [[f.kind for f in r.floors] for r in results] == expected
    (alone,) = core._comparisons(row(seconds=2.0), {}, promised)
    assert [f.kind for f in alone.floors] == ["memory", "peak"]


def test_contenders_are_timed_in_turns():
    order = []
    contenders = [core._Contender(lambda name=name: order.append(name), 1) for name in "ab"]
    core.interleave(contenders, 0.0, 3)
    assert [len(c.samples) for c in contenders] == [3, 3]
    assert all(c.seconds > 0 and c.spread >= 0 for c in contenders)
    changes = [order[0], *(b for a, b in itertools.pairwise(order) if a != b)]
    assert "".join(changes) == "abababa"[: len(changes)]


@pytest.mark.parametrize(
    ("floor", "changes", "met"),
    [
        (core.Floor("ratio", 2.0), {"ratio": 2.0}, True),
        (core.Floor("ratio", 2.0), {"ratio": 1.99}, False),
        (core.Floor("ratio", 2.0), {}, False),
        (core.Floor("speedup", 1.8), {"ratio": 1.9}, True),
        (core.Floor("overhead", 1e-6), {"seconds": 2.9e-6, "peer_seconds": 2e-6}, True),
        (core.Floor("overhead", 1e-6), {"seconds": 3.1e-6, "peer_seconds": 2e-6}, False),
        (core.Floor("overhead", 1e-6), {"seconds": 1e-7}, False),
        (core.Floor("memory", 100), {"peak_mem_bytes": 100}, True),
        (core.Floor("memory", 100), {"peak_mem_bytes": 101}, False),
        (core.Floor("peak", 0.85), {"peak_share": 0.85}, True),
        (core.Floor("peak", 0.85), {"peak_share": 0.84}, False),
    ],
)
def test_floors(floor, changes, met):
    result = core.Result(row(**changes), (floor,))
    assert floor.met(result.row) is met
    lists = report.floors_summary([result])
    assert [len(found) for found in lists] == ([1, 0] if met else [0, 1])


def test_document_has_exactly_the_promised_keys():
    document = report.as_document({"cpu": "x"}, [core.Result(row(), (core.Floor("ratio", 1),))])
    assert list(document) == ["machine", "rows"]
    assert list(document["rows"][0]) == ROW_KEYS


def test_plot_shows_comparisons_and_refuses_to_show_none(tmp_path):
    about = {"tokernel": "0", "cpu": "x", "torch": "y"}
    shown = core.Result(row(ratio=2.0, peer="p"), (core.Floor("ratio", 1.5),))
    report.write_plot(tmp_path / "new" / "a.png", about, [shown])
    assert (tmp_path / "new" / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="nothing to plot"):
        report.write_plot(tmp_path / "b.png", about, [core.Result(row())])


def test_probes_measure_something():
    assert machine.fma_peak(1) > 1e9
    assert machine.copy_bandwidth(1, 1 << 20) > 1e8
    assert machine.peak_share(0, 0, 1.0, 1) is None
    assert machine.peak_share(machine.fma_peak(1), 0, 1.0, 1) == pytest.approx(1)


def test_a_busy_machine_is_named(monkeypatch):
    monkeypatch.setattr(machine, "LOAD_BEFORE", 0.1)
    assert machine.noise() == ""
    monkeypatch.setattr(machine, "LOAD_BEFORE", 3.0)
    assert "load average 3.0" in machine.noise()


def test_memory_of_a_call_holds_its_answer():
    """The quick gather writes 2 x 32 x 32 floats; a fresh process never reports less than nothing."""
    assert (
        0
        <= memory.peak_extra_bytes("merge", ("gather_rows", "8x1024x512, half", "float32"), quick=True, threads=1)
        < 1 << 24
    )


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_command_writes_json_and_plot(tmp_path):
    files = ["--json", tmp_path / "out.json", "--plot", tmp_path / "out.png", "--markdown", tmp_path / "out.md"]
    result = bench(
        "merge", "--peers", "--threads", "1", "--quick", "--no-memory", "--only", "gather_rows", *map(str, files)
    )
    assert result.returncode == 0, result.stderr
    assert "floors: " in result.stdout
    document = json.loads((tmp_path / "out.json").read_text())
    assert {"cpu", "cores", "fma_peak_flops", "copy_bytes_per_second", "torch", "tokernel"} <= set(document["machine"])
    assert [list(r) for r in document["rows"]] == [ROW_KEYS] * 4
    assert (tmp_path / "out.png").exists()
    assert (tmp_path / "out.md").read_text().count("\n") == 8


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuch"],
        ["--threads", "0"],
        ["--only", "nosuch"],
        ["--threads", "99999"],
        ["--plot", "nosuch/a.png"],
        ["--clock", "sun"],
    ],
)
def test_command_refuses_nonsense(arguments):
    from bench.__main__ import app
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert any(said in result.output for said in ("must be", "no case contains", "none without"))
