# SPDX-License-Identifier: Apache-2.0
"""Compiles every CUDA source for one architecture and reads what ptxas says about each kernel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENTRY = re.compile(r"Compiling entry function '(\w+)' for")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
PTX_ENTRY = re.compile(r"\.entry (\w+)\(")
PTX_THREADS = re.compile(r"\.maxntid (\d+)(?:, (\d+), (\d+))?")


class ToolchainError(RuntimeError):
    """There is no nvcc, or it refused a source."""


@dataclass(frozen=True)
class Kernel:
    """One instance of a kernel as compiled for one architecture."""

    source: str
    arch: str
    name: str  # of the function template
    instance: str  # with its template arguments
    threads: int | None  # of __launch_bounds__
    registers: int
    static_shared: int
    stack: int
    spill_stores: int
    spill_loads: int

    @property
    def spills(self) -> bool:
        """Whether a register went to local memory."""
        return bool(self.spill_stores or self.spill_loads)


def sources() -> list[Path]:
    """Every launcher of the project."""
    return sorted(p for p in (ROOT / "csrc").glob("*/*.cu") if p.parent.name != "simt")


def compile_all(archs: list[str]) -> list[Kernel]:
    """Compile all sources for all architectures, as many at a time as there are cores.

    Raises:
        ToolchainError: nvcc is missing or fails.
    """
    if shutil.which("nvcc") is None:
        raise ToolchainError("nvcc is not on PATH: the model reads registers and spills from its output")
    jobs = [(path, arch) for path in sources() for arch in archs]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = [kernel for kernels in pool.map(lambda job: compile_one(*job), jobs) for kernel in kernels]
    return _demangled(found)


def compile_one(path: Path, arch: str) -> list[Kernel]:
    """Compile one source into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", f"-arch={arch}", "-Xptxas=-v", "-cubin"]
        command += ["--keep", "--keep-dir", folder, "-o", f"{folder}/out.cubin", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if result.returncode != 0:
            raise ToolchainError(f"nvcc failed on {path.relative_to(ROOT)} for {arch}:\n{result.stderr[-3000:]}")
        threads = _launch_bounds("".join(p.read_text() for p in Path(folder).glob("*.ptx")))
    source = str(path.relative_to(ROOT))
    return [_parse(block, source, arch, threads) for block in _blocks(result.stdout + result.stderr)]


def _blocks(log: str) -> list[str]:
    starts = [m.start() for m in ENTRY.finditer(log)]
    return [log[a:b] for a, b in zip(starts, [*starts[1:], len(log)], strict=True)]


def _parse(block: str, source: str, arch: str, threads: dict[str, int]) -> Kernel:
    entry, spills = ENTRY.search(block), SPILLS.search(block)
    registers, shared = REGISTERS.search(block), SHARED.search(block)
    if entry is None or spills is None or registers is None:
        raise ToolchainError(f"ptxas wrote something unknown about a kernel of {source}:\n{block}")
    mangled = entry[1]
    stack, stores, loads = (int(spills[i]) for i in (1, 2, 3))
    return Kernel(
        source, arch, template_name(mangled), mangled, threads.get(mangled), int(registers[1]),
        int(shared[1]) if shared else 0, stack, stores, loads,
    )  # fmt: skip


def _launch_bounds(ptx: str) -> dict[str, int]:
    bounds = {}
    entries = list(PTX_ENTRY.finditer(ptx))
    for entry, following in zip(entries, [*entries[1:], None], strict=True):
        found = PTX_THREADS.search(ptx, entry.end(), following.start() if following else len(ptx))
        if found:
            x, y, z = (int(v) if v else 1 for v in found.groups())
            bounds[entry[1]] = x * y * z
    return bounds


def template_name(mangled: str) -> str:
    """Read the function's own name from an Itanium-mangled nested name: the last one before its arguments.

    >>> template_name("_ZN2tk5merge3gpu18gather_rows_kernelItEEvPKT_")
    'gather_rows_kernel'
    """
    position = mangled.index("N") + 1 if mangled.startswith("_ZN") else 2
    name = mangled
    while found := re.compile(r"\d+").match(mangled, position):
        start = found.end()
        position = start + int(found[0])
        name = mangled[start:position]
    return name


def _demangled(kernels: list[Kernel]) -> list[Kernel]:
    tool = shutil.which("cu++filt") or shutil.which("c++filt")
    if tool is None or not kernels:
        return kernels
    text = "\n".join(k.instance for k in kernels)
    names = subprocess.run([tool], input=text, capture_output=True, text=True, check=True).stdout.splitlines()
    return [Kernel(**{**vars(k), "instance": _short(name)}) for k, name in zip(kernels, names, strict=True)]


def _short(name: str) -> str:
    """Drop the return type, the namespaces and the parameters of a demangled kernel."""
    name = name.replace("(anonymous namespace)", "").split("(", 1)[0]
    name = name.removeprefix("void ")
    return re.sub(r"\w*::", "", name)
