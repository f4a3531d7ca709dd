# SPDX-License-Identifier: Apache-2.0
"""Bank conflicts of shared memory, counted on kernels where they are known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import tokernel
from tokernel.kernels import merge

_simt = pytest.importorskip("tokernel._simt", reason="this build has no host executor (TOKERNEL_SIMT=ON)")

# selftest -> the last place of its kernel that uses shared memory: access, bytes of a lane, instructions, wavefronts,
# those beyond a conflict-free access, and the most of one part of a warp
KNOWN = {
    "banks_stride_1": ("read", 4, 1, 1, 0, 1),
    "banks_stride_2": ("read", 4, 1, 2, 1, 2),
    "banks_stride_32": ("read", 4, 1, 32, 31, 32),
    "banks_stride_33": ("read", 4, 1, 1, 0, 1),
    "banks_2_bytes": ("read", 2, 1, 1, 0, 1),
    "banks_8_bytes": ("read", 8, 1, 2, 0, 1),
    "banks_16_bytes": ("read", 16, 1, 4, 0, 1),
    "banks_broadcast": ("read", 4, 1, 1, 0, 1),
    "banks_uneven": ("read", 4, 1, 2, 1, 2),
    "banks_matrix_64": ("ldmatrix", 16, 1, 32, 28, 8),
    "banks_matrix_72": ("ldmatrix", 16, 1, 4, 0, 1),
}


@pytest.fixture(autouse=True)
def _counting() -> Iterator[None]:
    _simt.reset_statistics()
    _simt.count_bank_conflicts(True)
    yield
    _simt.count_bank_conflicts(False)
    _simt.set_schedules(["forward", "reverse", "shuffled:1"])
    _simt.set_race_detector("first")
    _simt.reset_statistics()


def places(name):
    _simt.selftest(name)
    return sorted(_simt.bank_conflicts(), key=lambda place: int(place["line"].rpartition(":")[2]))


def figures(place):
    keys = ("access", "bytes", "instructions", "wavefronts", "extra_wavefronts", "worst")
    return tuple(place[key] for key in keys)


@pytest.mark.parametrize("name", KNOWN)
def test_known_degree(name):
    last = places(name)[-1]
    assert figures(last) == KNOWN[name]
    assert last["line"].startswith("csrc/simt/selftest/banks.cu:")


@pytest.mark.parametrize("schedule", ["forward", "reverse", "shuffled:5"])
@pytest.mark.parametrize("detector", ["off", "first"])
def test_counts_do_not_depend_on_the_schedule_or_the_detector(schedule, detector):
    _simt.set_schedules([schedule])
    _simt.set_race_detector(detector)
    assert figures(places("banks_uneven")[-1]) == KNOWN["banks_uneven"]


def test_lanes_of_one_atomic_take_turns():
    (atomic,) = (place for place in places("banks_atomic") if place["access"] == "atomic")
    assert figures(atomic) == ("atomic", 4, 1, 4, 3, 4)


def test_loops_that_lanes_leave_early_are_not_taken_for_conflicts():
    loops = [place for place in places("banks_uneven") if place["access"] == "read"][:-1]
    assert [figures(place) for place in loops] == [("read", 4, 2, 2, 0, 1)] * 2


def test_asynchronous_copies_are_counted_where_they_are_issued():
    (copy,) = (place for place in places("banks_matrix_64") if place["access"] == "cp.async")
    assert figures(copy) == ("cp.async", 16, 1, 16, 12, 4)


def test_templates_are_named_with_their_arguments():
    assert {place["kernel"] for place in places("banks_stride_33")} == {"stride_kernel<33>"}


def test_several_warps_add_up():
    _simt.selftest("ok_reduction")
    counted = _simt.bank_conflicts()
    assert sum(place["instructions"] for place in counted) > len(counted)


def test_nothing_is_counted_unless_asked():
    _simt.count_bank_conflicts(False)
    assert not _simt.options()["count_bank_conflicts"]
    _simt.selftest("banks_stride_32")
    assert _simt.bank_conflicts() == []


def test_an_op_of_the_package_counts_its_first_run_only():
    ids = np.arange(40)[None] % 3
    counts = []
    for schedules in (["forward"], ["forward", "reverse", "shuffled:1"]):
        _simt.set_schedules(schedules)
        _simt.reset_statistics()
        with tokernel.use_backend("simt"):
            merge.segment_reduce(np.ones((1, 40, 4), np.float32), ids=ids, segments=3)
        counts.append({(place["kernel"], place["line"]): figures(place) for place in _simt.bank_conflicts()})
    assert counts[0] == counts[1]
    assert any(kernel.startswith("sort_row_kernel") for kernel, _ in counts[0])


def test_a_launch_that_failed_leaves_nothing_behind():
    with pytest.raises(RuntimeError):
        _simt.selftest("bug_no_barrier_after_fill")
    _simt.reset_statistics()
    assert figures(places("banks_stride_2")[-1]) == KNOWN["banks_stride_2"]
    assert all(place["kernel"] == "stride_kernel<2>" for place in _simt.bank_conflicts())
