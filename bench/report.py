# SPDX-License-Identifier: Apache-2.0
"""Results as tables, JSON and a plot."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.core import ONE_THREAD, Result, Row

UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def seconds_text(seconds: float | None) -> str:
    """Write a time with three digits and the unit that suits it."""
    if seconds is None:
        return "-"
    scale, unit = next(((s, u) for s, u in UNITS if seconds >= s), UNITS[-1])
    return f"{seconds / scale:.3g} {unit}"


def _bytes_text(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.1f} MiB"


COLUMNS = ("case", "peer", "threads", "ours", "spread", "peer's", "ratio", "of peak", "memory")


def _cells(row: Row) -> list[str]:
    return [
        f"{row.op} {row.case} {row.dtype}",
        row.peer or "-",
        str(row.threads),
        seconds_text(row.seconds),
        f"{row.spread:.0%}",
        seconds_text(row.peer_seconds),
        "-" if row.ratio is None else f"{row.ratio:.2f}x",
        "-" if row.peak_share is None else f"{row.peak_share:.0%}",
        _bytes_text(row.peak_mem_bytes),
    ]


def _floor_lines(result: Result) -> list[tuple[str, bool]]:
    return [
        (f"{floor} {'met' if floor.met(result.row) else 'MISSED'}", floor.met(result.row)) for floor in result.floors
    ]


def print_family(console: Console, family: str, results: list[Result]) -> None:
    """Print the table of one family."""
    backends = sorted({r.row.backend for r in results})
    table = Table(title=f"{family} (backend {', '.join(backends)})", title_justify="left", header_style="bold")
    for name in COLUMNS[:2]:
        table.add_column(name, overflow="fold", min_width=12)
    for name in COLUMNS[2:]:
        table.add_column(name, justify="right")
    table.add_column("floor")
    before = None
    for result in results:
        if before is not None and before != (result.row.op, result.row.case):
            table.add_section()
        before = (result.row.op, result.row.case)
        floors = [Text(line, style="green" if met else "bold red") for line, met in _floor_lines(result)]
        table.add_row(*(Text(cell) for cell in _cells(result.row)), Text("\n").join(floors))
    console.print(table)


def write_markdown(path: Path, machine: dict[str, Any], results: list[Result]) -> None:
    """Write the table as Markdown, below one line about the machine."""
    peaks = ", ".join(
        f"{n} thread(s): {flops / 1e9:.0f} GFLOP/s, {machine['copy_bytes_per_second'][n] / 1e9:.1f} GB/s"
        for n, flops in machine["fma_peak_flops"].items()
    )
    about = f"{machine['cpu']}, {machine['cores']} cores, {machine['cpu_level']}; torch {machine['torch']}"
    lines = [
        f"{about}. Measured peaks: {peaks}. Load average {machine['load_average']:.1f}, {machine['clock']} time.",
        "",
    ]
    lines += ["| " + " | ".join((*COLUMNS, "floor")) + " |", "|" + "---|" * (len(COLUMNS) + 1)]
    for result in results:
        floors = "<br>".join(line for line, _ in _floor_lines(result))
        lines.append("| " + " | ".join((*_cells(result.row), floors)) + " |")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def floors_summary(results: list[Result]) -> tuple[list[str], list[str]]:
    """Name the floors that are met, and those that are missed."""
    met, missed = [], []
    for result in results:
        for floor in result.floors:
            row = result.row
            above = row.seconds - (row.peer_seconds or 0.0)
            figures = {
                "overhead": seconds_text(above),
                "memory": _bytes_text(row.peak_mem_bytes),
                "peak": f"{row.peak_share or 0:.0%} of peak",
            }
            figure = figures.get(floor.kind, f"{row.ratio or 0:.2f}x")
            against = "" if floor.kind in ("memory", "peak") else f" against {row.peer}"
            text = f"{row.op} {row.case} {row.dtype}, {row.threads} thread(s): {figure}{against} (floor {floor})"
            (met if floor.met(row) else missed).append(text)
    return met, missed


def as_document(machine: dict[str, Any], results: list[Result]) -> dict[str, Any]:
    """Build the JSON document."""
    return {"machine": machine, "rows": [dataclasses.asdict(r.row) for r in results]}


def write_json(path: Path, machine: dict[str, Any], results: list[Result]) -> None:
    """Write the JSON document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_document(machine, results), indent=1) + "\n")


def write_plot(path: Path, machine: dict[str, Any], results: list[Result]) -> None:
    """Draw the ratio of every comparison as a bar, on a logarithmic axis, with its floor as a tick."""
    from matplotlib.figure import Figure

    shown = [r for r in results if r.row.ratio is not None]
    if not shown:
        raise ValueError("nothing to plot: no comparison was measured (add --peers)")
    shown.reverse()
    figure = Figure(figsize=(10, 1.4 + 0.24 * len(shown)), layout="constrained")
    axes = figure.subplots()
    colours = {"float32": "#2a6f97", "bfloat16": "#89c2d9"}
    for y, result in enumerate(shown):
        row = result.row
        ratio = row.ratio or 0.0
        colour = "#e09f3e" if row.peer == ONE_THREAD else colours.get(row.dtype, "#5f6b73")
        axes.barh(y, ratio - 1, left=1, color=colour, height=0.72)
        axes.text(max(ratio, 1) * 1.03, y, f"{ratio:.1f}x", va="center", fontsize=7)
        for floor in result.floors:
            if floor.kind in ("ratio", "fastest", "speedup"):
                axes.plot([floor.value] * 2, [y - 0.45, y + 0.45], color="#9e2a2b", linewidth=2)
    labels = [f"{r.row.op} {r.row.case} {r.row.dtype} vs {r.row.peer}, {r.row.threads} thr." for r in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=7)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("peer's time over ours (longer is better)\norange: ours on one thread; red tick: promised floor")
    axes.set_title(
        f"tokernel {machine['tokernel']}, {machine['cpu']}, torch {machine['torch']}", fontsize=9, loc="left"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
