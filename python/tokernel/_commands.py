# SPDX-License-Identifier: Apache-2.0
"""The commands behind ``tokernel``. Imported only with typer and rich at hand."""

from __future__ import annotations

import importlib.util
import json as json_format
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import tokernel
from tokernel._bpe_commands import bpe

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Kernels for papers that merge, prune, attend, draft, quantize and tokenize.",
)

app.add_typer(bpe, name="bpe")

_BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def _console() -> Console:
    # A pipe or a log has no width of its own.
    return Console(width=None if sys.stdout.isatty() else 140)


def _show(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_show(v) for v in value) or "none"
    if isinstance(value, dict):
        return "\n".join(f"{k}: {_show(v)}" for k, v in value.items() if v != "")
    return "not loaded" if value is None else str(value)


@app.command()
def info(json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False) -> None:
    """Print the version, backends, threads and devices of this installation."""
    found = tokernel.info()
    if json:
        typer.echo(json_format.dumps(found, indent=2))
        return
    table = Table(title="tokernel", title_justify="left", show_header=False)
    for key, value in found.items():
        table.add_row(key.replace("_", " "), _show(value))
    _console().print(table)


@app.command()
def papers(json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False) -> None:
    """List the papers, where each lives, and what our version was verified against."""
    from dataclasses import asdict

    from tokernel.papers import papers as registered

    if json:
        typer.echo(json_format.dumps([asdict(record) for record in registered()], indent=2))
        return
    table = Table(title="Papers", title_justify="left", header_style="bold")
    for name in ("slug", "title", "arXiv", "module", "status", "verified against"):
        table.add_column(name, overflow="fold")
    for p in registered():
        table.add_row(p.slug, p.title, p.arxiv, p.module, p.status, p.verified_against)
    _console().print(table)


@app.command()
def demo(
    image: Annotated[Path | None, typer.Option(help="your picture; default: a photograph of matplotlib's")] = None,
    text: Annotated[Path | None, typer.Option(help="your text; default: a licence text of NumPy's")] = None,
    out: Annotated[Path, typer.Option(help="where the PNG goes")] = Path("build/demo.png"),
    rates: Annotated[str, typer.Option(help="shares of the tokens to merge away")] = "0.25,0.5,0.75,0.9",
    threads: Annotated[int, typer.Option(help="threads of ours and of NumPy; 0: all", min=0)] = 0,
) -> None:
    """Merge the tokens of a photograph and of a text, and learn a vocabulary from the text.

    Writes a PNG and a page of HTML beside it, and prints figures against the plain NumPy formula.
    """
    missing = [name for name in ("matplotlib", "PIL") if importlib.util.find_spec(name) is None]
    if missing:
        typer.echo(f"tokernel demo: needs {' and '.join(missing)}: pip install 'tokernel[cli]'", err=True)
        raise typer.Exit(2)
    if threads:
        tokernel.set_num_threads(threads)
        for name in _BLAS_VARIABLES:  # read by the BLAS of NumPy when it is loaded, just below
            os.environ[name] = str(threads)
    from tokernel._demo import DemoError, run

    try:
        run(image=image, text=text, out=out, rates=rates, console=_console())
    except DemoError as error:
        typer.echo(f"tokernel demo: {error}", err=True)
        raise typer.Exit(2) from None
