# SPDX-License-Identifier: Apache-2.0
"""``python -m bench [family ...] --peers --threads N --json out.json --plot out.png``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

FAMILIES = ("merge", "overhead")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _check_threads(threads: list[int]) -> list[int]:
    from bench.machine import usable_cores

    for n in threads:
        if not 1 <= n <= usable_cores():
            raise typer.BadParameter(f"must be between 1 and {usable_cores()}, the cores of this process, got {n}")
    return sorted(set(threads))


def _check_families(families: list[str] | None) -> list[str]:
    for family in families or ():
        if family not in FAMILIES:
            raise typer.BadParameter(f"must be one of {', '.join(FAMILIES)}, got {family!r}")
    return list(families or FAMILIES)


@app.command(help="Time the ops, against their peers, and name the floors that are met.")
def bench(
    families: Annotated[list[str] | None, typer.Argument(help=f"{', '.join(FAMILIES)}; all when none is named")] = None,
    peers: Annotated[bool, typer.Option("--peers", help="race the peers, in the same process")] = False,
    threads: Annotated[list[int] | None, typer.Option(help="threads of ours and of the peers; may be repeated")] = None,
    json: Annotated[Path | None, typer.Option(help="write every row here")] = None,
    plot: Annotated[Path | None, typer.Option(help="draw the ratios here (needs --peers)")] = None,
    markdown: Annotated[Path | None, typer.Option(help="write the table here as Markdown")] = None,
    only: Annotated[str, typer.Option(help="cases whose op, case or dtype contains this text")] = "",
    seconds: Annotated[float, typer.Option(help="time to spend on each case")] = 1.5,
    memory: Annotated[bool, typer.Option(help="measure peak memory, each case in a process of its own")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="small arrays, little time: does everything run?")] = False,
    check: Annotated[bool, typer.Option("--check", help="exit with code 1 when a floor is missed")] = False,
) -> None:
    if importlib.util.find_spec("torch") is None:
        raise typer.BadParameter("bench times torch as the peer and needs it: pip install 'tokernel[bench,torch]'")
    from bench import machine, report
    from bench.core import run_case

    chosen, counts = _check_families(families), _check_threads(threads or [1])
    cases = [c for f in chosen for c in importlib.import_module(f"bench.{f}").cases() if only in " ".join(c.key)]
    if not cases:
        raise typer.BadParameter(f"no case contains {only!r}", param_hint="--only")
    plan = [(c, n) for c in cases for n in (counts if c.parallel else [1])]
    console = Console(width=None if sys.stdout.isatty() else 150)
    results = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("bench", total=len(plan))
        for case, n in plan:
            progress.update(bar, description=f"{case.op} {case.dtype}, {n} thread(s)")
            budget = 0.0 if quick else seconds
            results += run_case(case, threads=n, peers=peers, quick=quick, budget=budget, memory=memory)
            progress.advance(bar)
    for family in chosen:
        report.print_family(console, family, [r for r in results if r.row.family == family])
    about = machine.describe(counts)
    if json:
        report.write_json(json, about, results)
    if markdown:
        report.write_markdown(markdown, about, results)
    if plot:
        report.write_plot(plot, about, results)
    met, missed = report.floors_summary(results)
    for line in missed:
        console.print(Text(f"missed: {line}", style="red"))
    notes = ("" if peers else "; ratios need --peers") + ("; a quick run has none" if quick else "")
    console.print(f"floors: {len(met)} met, {len(missed)} missed{notes}")
    if check and missed:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
