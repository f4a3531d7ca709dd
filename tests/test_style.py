# SPDX-License-Identifier: Apache-2.0
"""The house style, checked by the tools that define it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def check(*command: str) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


def sources(*patterns: str) -> list[Path]:
    rooms = ("bench", "cmake", "csrc", "python", "tests")
    return sorted(p for room in rooms for pattern in patterns for p in (ROOT / room).rglob(pattern))


def test_ruff():
    check(sys.executable, "-m", "ruff", "check", ".")
    check(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_mypy_strict():
    check(sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "python/tokernel")


def test_clang_format():
    files = [str(p) for p in sources("*.h", "*.cpp", "*.inc", "*.cuh", "*.cu")]
    assert files
    check(str(Path(sys.executable).parent / "clang-format"), "--dry-run", "-Werror", *files)


SOURCES = sources("*.py", "*.h", "*.cpp", "*.inc", "*.cuh", "*.cu", "*.cmake")


def test_one_spdx_line_a_file():
    missing = [str(p) for p in SOURCES if "SPDX-License-Identifier: Apache-2.0" not in p.read_text().split("\n", 1)[0]]
    assert missing == []


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error", "except " + "Exception"])
def test_nothing_unfinished(word):
    assert [str(p) for p in SOURCES if word in p.read_text()] == []
