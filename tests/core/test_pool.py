# SPDX-License-Identifier: Apache-2.0
"""The thread pool and scratch memory by themselves: nesting, exceptions, many callers, fork at a bad moment."""

import ctypes
import os
import signal
import threading
import warnings

import pytest
from native import build


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    library = build("pool_probe.cpp", tmp_path_factory.mktemp("pool"), "-O2")
    for name in ("sum_chunks", "cover_ranges", "strayed_inner_chunks", "caught_from"):
        getattr(library, name).restype = ctypes.c_int64
        getattr(library, name).argtypes = [ctypes.c_int64] * 3
    return library


@pytest.fixture(autouse=True)
def no_limit(pool):
    yield
    pool.limit(0)


@pytest.mark.parametrize("threads", [0, 1, 2, 3, 8, 100])
@pytest.mark.parametrize("chunks", [0, 1, 2, 7, 1000])
def test_every_chunk_runs_once(pool, threads, chunks):
    pool.limit(threads)
    assert pool.threads() == min(threads or 8, 8)
    assert pool.sum_chunks(chunks, 0, 0) == chunks * (chunks - 1) // 2


@pytest.mark.parametrize(
    ("n", "cost", "grain", "pieces"),
    [(0, 1, 4, 0), (-1, 1, 4, 0), (1, 1, 4, 1), (8, 1, 4, 2), (9, 1, 4, 3), (9, 100, 4, 9), (9, 0, 4, 1), (9, 3, 4, 5)],
)
@pytest.mark.parametrize("threads", [1, 8])
def test_ranges_are_cut_by_shape_alone(pool, threads, n, cost, grain, pieces):
    pool.limit(threads)
    assert pool.cover_ranges(n, cost, grain) == pieces


def test_threads_really_work_together(pool):
    assert pool.meet(8, 20_000)


def test_inner_loops_stay_on_their_thread(pool):
    assert pool.strayed_inner_chunks(64, 16, 0) == 0


@pytest.mark.parametrize("threads", [1, 8])
def test_exception_comes_out_and_the_pool_lives_on(pool, threads):
    pool.limit(threads)
    for _ in range(20):
        assert pool.caught_from(100, 50, 0) >= 50
        assert pool.caught_from(100, 100, 0) == -1
        assert pool.caught_inside_nested_loop()
    assert pool.sum_chunks(1000, 0, 0) == 499_500


def run_all(workers):
    threads = [threading.Thread(target=w) for w in workers]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def test_many_callers_at_once(pool):
    wrong = []

    def caller():
        for _ in range(200):
            if pool.sum_chunks(64, 0, 0) != 2016 or pool.caught_from(64, 32, 0) < 32:
                wrong.append(threading.get_ident())

    run_all([caller] * 12)
    assert wrong == []


def test_fork_while_the_pool_is_busy(pool):
    """The child has no workers and may have been born while any lock was held; it must start over, not hang."""
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            pool.sum_chunks(256, 0, 0)

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for t in threads:
        t.start()
    statuses = []
    try:
        for _ in range(25):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: forking with threads is risky
                child = os.fork()
            if child == 0:
                signal.alarm(20)
                right = all(pool.sum_chunks(256, 0, 0) == 32_640 for _ in range(10)) and pool.meet(8, 15_000)
                os._exit(0 if right else 1)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert statuses == [0] * 25


def test_fork_of_a_fork(pool):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        pool.sum_chunks(256, 0, 0)
        grandchild = os.fork()
        if grandchild == 0:
            signal.alarm(20)
            os._exit(0 if pool.meet(8, 15_000) else 1)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_scratch_memory(pool):
    assert pool.scratch_is_sound()
    assert pool.scratch_too_large_is_bad_alloc()
