# SPDX-License-Identifier: Apache-2.0
"""``python -m bench [family ...] --peers --threads N --json out.json --plot out.png``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from bench.core import Result

FAMILIES = ("merge", "cluster", "attention", "select", "tree", "quantize", "bpe", "overhead")
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
    clock: Annotated[str, typer.Option(help="wall, or cpu: CPU time, for one thread on a busy machine")] = "wall",
    quick: Annotated[bool, typer.Option("--quick", help="small arrays, little time: does everything run?")] = False,
    check: Annotated[bool, typer.Option("--check", help="exit with code 1 when a floor is missed")] = False,
) -> None:
    missing = [name for name in ("torch", "psutil", "threadpoolctl") if importlib.util.find_spec(name) is None]
    if missing:
        raise typer.BadParameter(f"bench needs {' and '.join(missing)}: pip install 'tokernel[bench,torch]'")
    from bench import machine, report
    from bench.core import run_case

    chosen, counts = _check_families(families), _check_threads(threads or [1])
    if plot and not peers and counts == [1]:
        raise typer.BadParameter("shows ratios, and there are none without --peers", param_hint="--plot")
    if clock not in machine.CLOCKS or (clock == "cpu" and counts != [1]):
        raise typer.BadParameter("must be wall, or with one thread cpu", param_hint="--clock")
    machine.Clock.name = clock
    cases = [c for f in chosen for c in importlib.import_module(f"bench.{f}").cases() if only in " ".join(c.key)]
    if not cases:
        raise typer.BadParameter(f"no case contains {only!r}", param_hint="--only")
    console = Console(width=None if sys.stdout.isatty() else 150)
    plan = [(c, n) for c in cases for n in (counts if c.parallel else [1])]
    budget = 0.0 if quick else seconds
    results: list[Result] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("bench", total=len(plan))
        for case, n in plan:
            progress.update(bar, description=f"{case.op} {case.dtype}, {n} thread(s)")
            results += run_case(case, threads=n, peers=peers, quick=quick, budget=budget, memory=memory)
            progress.advance(bar)
    for family in chosen:
        report.print_family(console, family, [r for r in results if r.row.family == family])
    about = machine.describe(counts)
    writers = ((json, report.write_json), (markdown, report.write_markdown), (plot, report.write_plot))
    for path, write in writers:
        if path:
            write(path, about, results)
    if machine.noise():
        console.print(Text(machine.noise(), style="yellow"))
    notes = ("" if peers else "; ratios need --peers") + ("; a quick run has none" if quick else "")
    missed_floors = _print_floors(console, results, notes)
    if check and missed_floors:
        raise typer.Exit(1)


def _print_floors(console: Console, results: list[Result], notes: str) -> int:
    """Name the missed floors, count both kinds, and return how many are missed."""
    from bench.report import floors_summary

    met, missed = floors_summary(results)
    for line in missed:
        console.print(Text(f"missed: {line}", style="red"))
    console.print(f"floors: {len(met)} met, {len(missed)} missed{notes}")
    return len(missed)


if __name__ == "__main__":
    app()
