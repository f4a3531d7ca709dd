# SPDX-License-Identifier: Apache-2.0
"""The thread pool: same bits for any thread count, alive after fork, limits respected."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import tokernel
from tokernel.kernels import _arrays, merge


@pytest.fixture(autouse=True)
def restore_threads(monkeypatch):
    """No limit of ours, and none that torch had when a test before met its tensors."""
    monkeypatch.setattr(_arrays._TorchSpace, "threads", -1)
    tokernel._C.set_framework_threads(0)
    yield
    tokernel.set_num_threads(0)


def big_gather():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 2000, 96)).astype(np.float32)
    index = rng.integers(0, 2000, (4, 3000))
    return x, index


def test_any_thread_count_gives_the_same_bits():
    x, index = big_gather()
    tokernel.set_num_threads(1)
    expected = merge.gather_rows(x, index)
    for n in (0, 2, 3, 8):
        tokernel.set_num_threads(n)
        assert np.array_equal(merge.gather_rows(x, index), expected)


def test_limit_is_reported_and_bounded():
    tokernel.set_num_threads(1)
    assert tokernel.get_num_threads() == 1
    tokernel.set_num_threads(10_000)
    assert tokernel.get_num_threads() == len(os.sched_getaffinity(0))
    with pytest.raises(ValueError, match="set_num_threads: n must be at least 0, got -1"):
        tokernel.set_num_threads(-1)
    with pytest.raises(TypeError, match="set_num_threads: n must be an integer, got float"):
        tokernel.set_num_threads(1.5)
    tokernel.set_num_threads(2**80)
    assert tokernel.get_num_threads() == len(os.sched_getaffinity(0))


def threads_with(value: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TOKERNEL_NUM_THREADS": value}
    code = "import tokernel; print(tokernel.get_num_threads())"
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("value", ["1", " 1 ", "01"])
def test_environment_limits_threads(value):
    assert threads_with(value).stdout.strip() == "1"


@pytest.mark.parametrize("value", ["", "0", "100000000000"])
def test_environment_without_limit(value):
    assert threads_with(value).stdout.strip() == str(len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("value", ["abc", "-3", "1.5", "2x", "٣"])
def test_environment_that_is_no_number_is_an_error(value):
    """A typing error must not silently mean all processors."""
    result = threads_with(value)
    assert result.returncode != 0
    assert "ValueError: TOKERNEL_NUM_THREADS: must be a whole number (0: no limit), got" in result.stderr


def test_torch_threads_limit_ours():
    torch = pytest.importorskip("torch", reason="torch is an extra")
    from tokernel import ops

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        ops.gather_rows(torch.zeros(1, 2, 3), torch.tensor([[0]]))
        assert tokernel.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    ops.gather_rows(torch.zeros(1, 2, 3), torch.tensor([[0]]))
    assert tokernel.get_num_threads() == min(before, len(os.sched_getaffinity(0)))


def test_pool_works_after_fork():
    x, index = big_gather()
    expected = merge.gather_rows(x, index)
    child = os.fork()
    if child == 0:
        same = np.array_equal(merge.gather_rows(x, index), expected)
        os._exit(0 if same else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_concurrent_callers_get_right_answers():
    x, index = big_gather()
    expected = merge.gather_rows(x, index)
    wrong = []

    def work():
        for _ in range(5):
            if not np.array_equal(merge.gather_rows(x, index), expected):
                wrong.append(threading.get_ident())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []
