# SPDX-License-Identifier: Apache-2.0
"""The host executor on its own test kernels: every seeded bug is reported, no correct kernel is."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

_simt = pytest.importorskip("tokernel._simt", reason="this build has no host executor (TOKERNEL_SIMT=ON)")

# What the report of a seeded bug must say.
REPORTS = {
    "bug_no_barrier_after_fill": r"race on left, .*barrier\.cu:\d+.*no barrier between",
    "bug_no_barrier_before_reuse": r"race on (left|right), ",
    "bug_divergent_barrier": r"divergent __syncthreads: this thread is at csrc/simt/selftest/barrier\.cu:\d+, others",
    "bug_barrier_against_shuffle": r"deadlock: warp 0 waits at .* mask ffffffff for lanes 0000ffff .* 16 of 32 live",
    "bug_late_write_of_same_value": r"race on flag, byte 0: write",
    "bug_no_syncwarp": r"race on values, ",
    "bug_shuffle_as_barrier": r"race on values, ",
    "bug_halves_never_meet": r"race on values, ",
    "bug_caller_not_in_mask": r"lane 16 calls it with a mask that leaves itself out",
    "bug_lanes_never_come": r"deadlock: warp 0 waits at .* for lanes ffff0000 that never come",
    "bug_masks_disagree": r"disagree: .* mask ffff0001 against mask ffffffff",
    "bug_two_operations": r"disagree: a vote at .* against __shfl_xor_sync of lane 0",
    "bug_reads_lane_outside_mask": r"output 'out' depends on the schedule",
    "bug_sum_over_returned_lanes": r"output 'out' depends on the schedule",
    "bug_shuffle_width": r"width 12, not a power of two",
    "bug_read_past_end": r"out of bounds: read of 4 bytes at .* 4 bytes past the end of 'x' \(400 bytes\)",
    "bug_read_before_start": r"out of bounds: read .* 4 bytes before the start of 'x'",
    "bug_write_past_end": r"out of bounds: write .* 4 bytes past the end of 'out'",
    "bug_write_to_input": r"write of 4 bytes at .* to 'x', which is an input",
    "bug_shared_overrun": r"out of bounds: write .* past the end of shared array 'row' \(400 bytes\)",
    "bug_stray_pointer": r"memory that is no argument",
    "bug_other_threads_local": r"local memory of thread",
    "bug_unwritten_shared": r"output 'out' depends on the schedule: 200 of 400 bytes",
    "bug_unwritten_workspace": r"output 'out' depends on the schedule",
    "bug_dynamic_shared_over_limit": r"shared memory over the limit: 232464 bytes, at most 232448",
    "bug_dynamic_shared_overrun": r"past the end of shared array 'dynamic shared memory' \(1024 bytes\)",
    "bug_static_shared_over_limit": r"static shared memory over the limit with array 'large': 49168 bytes",
    "bug_byte_of_next_thread": r"race on out, byte 1: write of 1 bytes",
    "bug_misaligned_vector": r"misaligned access to .*float4.* divisible by 16 and has remainder 4, at csrc",
    "bug_index_beyond_row": r"out of bounds: index 16 of an array of type .* at csrc/simt/selftest/memory\.cu:\d+",
    "bug_division_by_zero": r"division by zero",
    "bug_vector_past_end": r"out of bounds: read of \d+ bytes .* bytes past the end of 'x'",
    "bug_cross_block_store": r"race on out, byte 0: .*another block.*blocks of one launch are not ordered",
    "bug_cross_block_read": r"race on out, .*read .* against a write by another block",
    "bug_cross_block_overwrite": r"race on out, byte 0: write .* against a read by another block",
    "bug_histogram_without_atomics": r"race on bins, ",
    "bug_counter_read_without_barrier": r"race on count, byte 0: atomic update",
    "bug_late_clear": r"race on count, byte 0: atomic update .* against a write by thread \(0, 0, 0\)",
    "bug_float_atomics": r"output 'sum' depends on the schedule",
    "bug_spin": r"(no progress: 100000 accesses without synchronisation, the last a read|race on flag)",
    "bug_ticket_order": r"output 'out' depends on the schedule",
    "bug_block_too_large": r"a block of \(1025, 1, 1\) threads cannot be launched",
    "bug_grid_too_large": r"a grid of \(1, 65536, 1\) blocks cannot be launched",
    "bug_no_copy_wait": r"of stage, byte \d+, while a cp\.async to it is under way",
    "bug_copy_wait_too_late": r"while a cp\.async to it is under way",
    "bug_no_barrier_after_copy": r"race on stage, ",
    "bug_no_barrier_before_refill": r"(race on|of) stage, ",
    "bug_copy_in_flight_at_exit": r"1 cp\.async copies are still in flight when their thread returns",
    "bug_copy_to_misaligned": r"the destination is not 16-byte aligned",
    "bug_copy_from_misaligned": r"the source is not 16-byte aligned",
    "bug_copy_past_end": r"out of bounds: read of 16 bytes .* past the end of 'x'",
    "bug_copy_past_shared_end": r"out of bounds: write of 16 bytes .* past the end of shared array 'stage'",
    "bug_copy_to_global": r"the destination is not in shared memory",
    "bug_matrix_misaligned": r"a row is not 16-byte aligned",
    "bug_matrix_in_global": r"ldmatrix at .* reads outside shared memory",
    "bug_matrix_partial_warp": r"ldmatrix_x2 at .* needs all 32 lanes of the warp",
    "bug_matrix_past_end": r"out of bounds: read of 16 bytes .* past the end of shared array 'tile'",
    "bug_matrix_no_barrier": r"race on tile, ",
}
NAMES = _simt.selftest_names()
CORRECT = [name for name in NAMES if name.startswith("ok_")]
BUGS = [name for name in NAMES if name.startswith("bug_")]


@pytest.fixture(autouse=True)
def _restored_options() -> Iterator[None]:
    before = _simt.options()
    _simt.set_access_limit(100_000)
    yield
    _simt.set_access_limit(before["access_limit"])
    _simt.set_schedules(before["schedules"])
    _simt.set_copy_timings(before["copy_timings"])
    _simt.set_race_detector(before["race_detector"])
    _simt.set_switching(before["switching"])


def switchings() -> list[str]:
    return ["ucontext"] if _simt.options()["switching"] == "ucontext" else ["native", "ucontext"]


def test_every_seeded_bug_has_an_expected_report():
    assert sorted(REPORTS) == sorted(BUGS)


@pytest.mark.parametrize("switching", switchings())
@pytest.mark.parametrize("name", CORRECT)
def test_correct_kernel(name, switching):
    _simt.set_switching(switching)
    _simt.set_race_detector("all")
    _simt.set_schedules(["forward", "reverse", "shuffled:1", "shuffled:2", "shuffled:3"])
    _simt.selftest(name)


@pytest.mark.parametrize("switching", switchings())
@pytest.mark.parametrize("name", BUGS)
def test_seeded_bug_is_reported(name, switching):
    _simt.set_switching(switching)
    with pytest.raises(RuntimeError, match=r"^simt: selftest: ") as error:
        _simt.selftest(name)
    assert re.search(REPORTS[name], str(error.value)), str(error.value)


@pytest.mark.parametrize("name", [name for name in BUGS if "depends on the schedule" not in REPORTS[name]])
def test_seeded_bug_is_reported_whatever_the_order(name):
    """One run is enough for everything that is not found by comparing runs, whichever its order is."""
    for schedule in ("reverse", "shuffled:5"):
        for timing in ("issue", "wait"):
            _simt.set_schedules([schedule])
            _simt.set_copy_timings([timing])
            with pytest.raises(RuntimeError, match=r"^simt: selftest: "):
                _simt.selftest(name)


def test_executor_works_after_every_report():
    for name in BUGS:
        with pytest.raises(RuntimeError):
            _simt.selftest(name)
        _simt.selftest("ok_tiled_product")
