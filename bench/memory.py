# SPDX-License-Identifier: Apache-2.0
"""Peak extra memory of one call, outputs included, measured in a fresh process.

A warm process hides allocations: freed blocks stay in its heap. So a child is forked from a server that has run no op;
it builds the inputs, runs the small version of the case once (code pages, thread stacks), resets the kernel's
high-water mark of resident memory (``/proc/self/clear_refs``), runs the case once, and reads the mark. The figure
counts whole pages, and everything in the process, not only what the op asked for.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import tokernel

RESET_PEAK = "5"  # see proc(5)


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _measure(family: str, key: tuple[str, str, str], quick: bool, threads: int, report: Connection) -> None:
    from bench import machine

    machine.set_framework_threads(threads)
    tokernel.set_num_threads(threads)
    (case,) = (c for c in importlib.import_module(f"bench.{family}").cases() if c.key == key)
    case.build(True).ours()
    work = case.build(quick)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    answer = work.ours()
    report.send(max(0, _resident("VmHWM") - before))
    del answer


def peak_extra_bytes(family: str, key: tuple[str, str, str], *, quick: bool, threads: int) -> int:
    """Bytes of resident memory that one call of the case adds at its peak."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "tokernel.ops"])
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(family, key, quick, threads, send))
    child.start()
    send.close()
    try:
        return int(receive.recv())
    except EOFError:
        child.join()
        raise RuntimeError(f"the memory probe of {' '.join(key)} ended with code {child.exitcode}") from None
    finally:
        child.join()
        receive.close()
