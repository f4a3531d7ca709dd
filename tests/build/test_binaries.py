# SPDX-License-Identifier: Apache-2.0
"""What the compiled extensions need, and what the per-ISA objects may not contain."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

import tokernel

ROOT = Path(__file__).parents[2]
FORBIDDEN = ("libtorch", "libc10", "libgomp", "libomp", "libcudart", "libcuda.so")


def extension_path(name: str) -> Path:
    spec = importlib.util.find_spec(f"tokernel.{name}")
    if spec is None or spec.origin is None:
        pytest.skip(f"this build has no tokernel.{name}")
    return Path(spec.origin)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", ["_C", "_cuda", "_simt"])
def test_extension_needs_no_framework_library(name):
    needed = [line for line in output("readelf", "-d", str(extension_path(name))).splitlines() if "NEEDED" in line]
    assert needed
    assert [line for line in needed if any(lib in line for lib in FORBIDDEN)] == []


@pytest.mark.parametrize("name", ["_C", "_cuda", "_simt"])
def test_extension_imports_no_torch_symbol(name):
    undefined = output("nm", "-D", "--undefined-only", "-C", str(extension_path(name)))
    assert [line for line in undefined.splitlines() if "c10::" in line or "at::" in line or "torch::" in line] == []


def isa_objects() -> list[Path]:
    return sorted(ROOT.glob("build/*/CMakeFiles/tk_v*.dir/**/*.o"))


def test_isa_objects_have_no_weak_symbols():
    """A weak symbol compiled for a new instruction set could become the one copy of the whole program."""
    objects = isa_objects()
    if not objects:
        pytest.skip("the build tree is not here (tests run against an installed wheel)")
    weak = {}
    for path in objects:
        lines = output("nm", "-C", str(path)).splitlines()
        found = [line for line in lines if " W " in line or " V " in line or " u " in line]
        # A pointer to the runtime's unwinder, which every object that frees scratch memory needs: data, not code.
        found = [line for line in found if not line.endswith(" DW.ref.__gxx_personality_v0")]
        if found:
            weak[path.name] = found
    assert weak == {}


def test_baseline_code_uses_no_wide_register():
    """Everything outside the per-ISA objects must run on any x86-64-v2 machine."""
    objects = sorted(ROOT.glob("build/*/CMakeFiles/_C.dir/**/*.o"))
    if not objects or "v2" not in tokernel.backends()["compiled"]:
        pytest.skip("the build tree is not here, or this is not x86-64")
    wide = [p.name for p in objects if any(r in output("objdump", "-d", str(p)) for r in ("%ymm", "%zmm"))]
    assert wide == []
