# SPDX-License-Identifier: Apache-2.0
"""The command ``tokernel``: what this installation is, which papers it holds, and a demonstration on real input."""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["main"]

_NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command line; with the `cli` extra missing, say so in one sentence and exit with code 2."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(f"tokernel: the command needs {' and '.join(missing)}: pip install 'tokernel[cli]'\n")
        raise SystemExit(2)
    from tokernel._commands import app

    app(prog_name="tokernel")
