# SPDX-License-Identifier: Apache-2.0
"""The house style, checked by the tools that define it. Only tracked files count: a build folder or an environment
inside the checkout changes nothing."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CXX = (".h", ".cpp", ".inc", ".cuh", ".cu")
CODE = (".py", ".pyi", ".cmake", *CXX)
TEXT = (*CODE, ".md", ".toml", ".txt", "run")


def tracked(*endings: str) -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files are sources")
    result = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in result.stdout.split("\0") if name.endswith(endings)]
    return [p for p in paths if p.is_file()]


def check(*command: str) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


def test_ruff():
    files = [str(p) for p in tracked(".py", ".pyi")]
    check(sys.executable, "-m", "ruff", "check", *files)
    check(sys.executable, "-m", "ruff", "format", "--check", *files)


def test_mypy_strict():
    check(sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "python/tokernel")


def test_clang_format():
    files = [str(p) for p in tracked(*CXX)]
    assert files
    check(str(Path(sys.executable).parent / "clang-format"), "--dry-run", "-Werror", *files)


def test_one_spdx_line_a_file():
    line = "SPDX-License-Identifier: Apache-2.0"
    missing = [str(p) for p in tracked(*CODE, "CMakeLists.txt") if line not in p.read_text().split("\n", 1)[0]]
    assert missing == []


# Written in two halves, so that this file passes its own test.
@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error", "except " + "Exception"])
def test_nothing_unfinished(word):
    assert [str(p) for p in tracked(*CODE) if word in p.read_text()] == []


def test_no_path_of_one_machine():
    here = re.compile(r"(?<![\w./-])/" + "(work|home|root|Users)/")
    assert [str(p) for p in tracked(*TEXT) if here.search(p.read_text())] == []
