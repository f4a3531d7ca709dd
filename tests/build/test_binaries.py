# SPDX-License-Identifier: Apache-2.0
"""What the compiled extensions need, and what the per-ISA objects may not contain."""

import importlib.metadata
import importlib.util
import json
import re
import subprocess
from pathlib import Path

import pytest

import tokernel

ROOT = Path(__file__).parents[2]
FORBIDDEN = ("libtorch", "libc10", "libgomp", "libomp", "libcudart", "libcuda.so")
EXTENSIONS = ["_C", "_cuda", "_simt"]


def extension_path(name: str) -> Path:
    spec = importlib.util.find_spec(f"tokernel.{name}")
    if spec is None or spec.origin is None:
        pytest.skip(f"this build has no tokernel.{name}")
    return Path(spec.origin)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", EXTENSIONS)
def test_extension_needs_no_framework_library(name):
    needed = [line for line in output("readelf", "-d", str(extension_path(name))).splitlines() if "NEEDED" in line]
    assert needed
    assert [line for line in needed if any(lib in line for lib in FORBIDDEN)] == []


@pytest.mark.parametrize("name", EXTENSIONS)
def test_extension_imports_no_torch_symbol(name):
    undefined = output("nm", "-D", "--undefined-only", "-C", str(extension_path(name)))
    assert [line for line in undefined.splitlines() if "c10::" in line or "at::" in line or "torch::" in line] == []


@pytest.mark.parametrize("name", EXTENSIONS)
def test_every_op_of_an_extension_is_in_it(name):
    """An op that is bound but has no launcher for a backend would only fail when the extension is loaded."""
    undefined = output("nm", "-D", "--undefined-only", "-C", str(extension_path(name))).splitlines()
    assert [line.split(" U ")[1] for line in undefined if " U tk::" in line] == []


@pytest.mark.parametrize("name", EXTENSIONS)
def test_extension_exports_its_entry_alone(name):
    """Hidden symbols: two extensions, or another library in the process, cannot take each other's functions."""
    defined = output("nm", "-D", "--defined-only", str(extension_path(name))).splitlines()
    assert [line.split()[-1] for line in defined if " T " in line] == [f"PyInit_{name}"]


def built_here() -> bool:
    """True when this checkout's own build tree made the package under test: then it must be here to be looked at."""
    if extension_path("_C").is_relative_to(ROOT / "python"):
        return True
    try:
        text = importlib.metadata.distribution("tokernel").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return False
    return text is not None and json.loads(text)["url"].rstrip("/") == ROOT.as_uri()


def objects(pattern: str) -> list[str]:
    """The object files of the newest build tree: `pip install .` builds in build/<wheel tag>."""
    logs = sorted(ROOT.glob("build/*/.ninja_log"), key=lambda log: log.stat().st_mtime)
    if not logs and not built_here():
        pytest.skip("the package under test was not built in this checkout")
    found = sorted(str(p) for p in logs[-1].parent.glob(f"csrc/CMakeFiles/{pattern}/**/*.o"))
    assert found, f"no objects in {logs[-1].parent}"
    return found


def disassembled(paths: list[str]) -> dict[str, str]:
    """The machine code of each file."""
    parts = re.split(r"^(\S+):\s+file format .*$", output("objdump", "-d", "--no-show-raw-insn", *paths), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def levels() -> list[str]:
    return [n for n in tokernel.backends()["compiled"] if n not in ("ref", "cuda", "simt")]


def test_isa_objects_have_no_weak_symbols():
    """A weak symbol compiled for a new instruction set could become the one copy of the whole program."""
    weak = {}
    for level in levels():
        for path in objects(f"tk_{level}.dir"):
            lines = output("nm", "-C", path).splitlines()
            found = [line for line in lines if " W " in line or " V " in line or " u " in line]
            # A pointer to the runtime's unwinder, which every object that frees scratch memory needs: data, not code.
            found = [line for line in found if not line.endswith(" DW.ref.__gxx_personality_v0")]
            if found:
                weak[path] = found
    assert weak == {}


def test_isa_objects_define_nothing_but_their_level():
    """Every global function of a per-ISA object lives in the namespace of its level."""
    foreign = []
    for level in levels():
        for path in objects(f"tk_{level}.dir"):
            defined = [line.split(" T ")[1] for line in output("nm", "-C", path).splitlines() if " T " in line]
            assert defined, path
            foreign += [name for name in defined if not re.match(rf"tk::\w+::{level}::", name)]
    assert foreign == []


def test_baseline_code_uses_no_wide_register():
    """Everything outside the per-ISA objects must run on any x86-64-v2 machine."""
    if "v2" not in levels():
        pytest.skip("this is not x86-64")
    code = disassembled(objects("_C.dir") + objects("tk_ref.dir") + objects("tk_v2.dir"))
    # Proof that machine code was looked at: an object of link-time optimisation would hold none.
    assert [path for path, text in code.items() if "%rsp" not in text and "%rdi" not in text] == []
    assert [path for path, text in code.items() if "%ymm" in text or "%zmm" in text] == []


def test_newer_levels_do_use_their_registers():
    """What the test above looks for can be found where it belongs."""
    if "v2" not in levels():
        pytest.skip("this is not x86-64")
    assert any("%ymm" in text for text in disassembled(objects("tk_v3.dir")).values())
    assert any("%zmm" in text for text in disassembled(objects("tk_v4.dir")).values())


def test_cuda_extension_imports_without_a_driver():
    extension_path("_cuda")
    from tokernel import _cuda

    found, problem = _cuda.devices()
    assert bool(found) != bool(problem)
    assert ("cuda" in tokernel.backends()["usable"]) == bool(found)
