# SPDX-License-Identifier: Apache-2.0
"""The host executor as the backend `simt`: its settings, and its place in a process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import tokernel
from tokernel.kernels import merge

_simt = pytest.importorskip("tokernel._simt", reason="this build has no host executor (TOKERNEL_SIMT=ON)")


@pytest.fixture(autouse=True)
def _restored_options() -> Iterator[None]:
    before = _simt.options()
    yield
    _simt.set_schedules(before["schedules"])
    _simt.set_copy_timings(before["copy_timings"])
    _simt.set_race_detector(before["race_detector"])


def test_default_runs_cover_orders_timings_and_the_detector():
    options = _simt.options()
    assert options["schedules"] == ["forward", "reverse", "shuffled:1"]
    assert sorted(options["copy_timings"]) == ["issue", "wait"]
    assert options["race_detector"] == "first"


@pytest.mark.parametrize(
    ("setter", "value", "message"),
    [
        (
            "set_schedules",
            ["sideways"],
            "set_schedules: expected 'forward', 'reverse' or 'shuffled:SEED', got 'sideways'",
        ),
        ("set_schedules", ["shuffled:x"], "got 'shuffled:x'"),
        ("set_schedules", [], "at least one"),
        ("set_copy_timings", ["late"], "set_copy_timings: expected one of 'issue', 'wait', got 'late'"),
        ("set_copy_timings", [], "got none"),
        ("set_race_detector", "on", "set_race_detector: expected one of 'off', 'first', 'all', got 'on'"),
        ("set_switching", "fast", "set_switching: expected one of 'native', 'ucontext', got 'fast'"),
        ("selftest", "nothing", "no case is named 'nothing'"),
    ],
)
def test_bad_setting_is_named(setter, value, message):
    before = _simt.options()
    with pytest.raises(ValueError) as error:
        getattr(_simt, setter)(value)
    assert message in str(error.value)
    assert _simt.options() == before


def test_one_run_per_schedule_and_timing():
    for schedules, timings, launches in [
        (["forward"], ["wait"], 1),
        (["forward", "reverse"], ["wait", "issue"], 4),
        (["shuffled:3"], ["issue", "wait"], 2),
    ]:
        _simt.set_schedules(schedules)
        _simt.set_copy_timings(timings)
        _simt.reset_statistics()
        _simt.selftest("ok_double_buffer")
        assert _simt.statistics()["launches"] == launches
    _simt.reset_statistics()
    _simt.selftest("ok_reduction")  # no cp.async: one timing is enough
    assert _simt.statistics()["launches"] == 1


def test_statistics_count_what_ran():
    _simt.set_schedules(["forward"])
    _simt.set_race_detector("off")
    _simt.reset_statistics()
    _simt.selftest("ok_reduction")
    counted = _simt.statistics()
    # Three blocks of 256 threads; one barrier, then one for each of 128, 64 and 32; five shuffles in the last warp.
    assert (counted["blocks"], counted["threads"]) == (3, 768)
    assert counted["barriers"] == 768 * 4
    assert counted["collectives"] == 3 * 32 * 5
    assert counted["accesses"] == 0
    _simt.set_race_detector("all")
    _simt.selftest("ok_reduction")
    assert _simt.statistics()["accesses"] > 768


def test_guard_bytes_catch_an_overrun_without_the_detector():
    _simt.set_race_detector("off")
    with pytest.raises(RuntimeError, match="a kernel wrote past the end of argument 'out' \\(400 bytes\\)"):
        _simt.selftest("bug_write_past_end")


def test_inputs_are_compared_without_the_detector():
    _simt.set_race_detector("off")
    with pytest.raises(RuntimeError, match="a kernel wrote to input 'x'"):
        _simt.selftest("bug_write_to_input")


@pytest.mark.parametrize("name", ["bug_no_barrier_after_fill", "bug_no_copy_wait", "bug_no_barrier_before_refill"])
def test_orders_and_timings_alone_find_the_missing_synchronisation(name):
    _simt.set_race_detector("off")
    with pytest.raises((RuntimeError, ValueError)):
        _simt.selftest(name)


def test_same_call_runs_the_cuda_kernel(rng):
    x = rng.standard_normal((2, 9, 5)).astype(np.float32)
    index = rng.integers(0, 9, (2, 4))
    _simt.reset_statistics()
    with tokernel.use_backend("simt"):
        y = merge.gather_rows(x, index)
        assert tokernel.last_backend() == "simt"
    assert _simt.statistics()["launches"] == 3
    np.testing.assert_array_equal(y, np.take_along_axis(x, index[..., None], axis=1))


def test_callers_of_several_threads_wait_for_each_other(rng):
    x = rng.standard_normal((1, 40, 8)).astype(np.float32)
    index = rng.integers(0, 40, (1, 64))
    expected = np.take_along_axis(x, index[..., None], axis=1)
    wrong = []

    def work() -> None:
        with tokernel.use_backend("simt"):
            for _ in range(5):
                if not np.array_equal(merge.gather_rows(x, index), expected):
                    wrong.append("result")
                _simt.options()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_hooks_are_not_exported():
    """A library compiled with a real sanitizer must never bind to our hooks, nor we to its runtime."""
    exported = subprocess.run(
        ["nm", "-D", "--defined-only", _simt.__file__], capture_output=True, text=True, check=True
    ).stdout
    assert [line for line in exported.splitlines() if "san_" in line or "tk_simt" in line] == []
    undefined = subprocess.run(
        ["nm", "-D", "--undefined-only", _simt.__file__], capture_output=True, text=True, check=True
    ).stdout
    assert [line for line in undefined.splitlines() if "san_" in line] == []


def test_shares_a_process_with_the_cpu_extension_and_torch():
    code = (
        "import torch, numpy as np, tokernel; from tokernel.kernels import merge\n"
        "x = torch.arange(6.0).reshape(1, 3, 2); i = torch.tensor([[2]])\n"
        "for name in ('ref', 'simt', 'ref'):\n"
        "    with tokernel.use_backend(name):\n"
        "        assert merge.gather_rows(x, i).tolist() == [[[4.0, 5.0]]]\n"
        "assert (x @ x[0].T).sum() == 117\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
