# SPDX-License-Identifier: Apache-2.0
"""A model, not a measurement, of the CUDA kernels: ``python -m bench.gpu_model [--check] [--banks] [--json out.json]``.

Registers, shared memory and spills are what the compiler reports. Occupancy follows from them. The floor is the time
an H100 needs at least for the stated case: the larger of bytes over its memory bandwidth and FLOPs over its peak. Real
kernels are slower; how much, only a GPU can tell.
"""

from __future__ import annotations

import dataclasses
import json as json_format
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.gpu_compile import Kernel, ToolchainError, compile_all
from bench.gpu_costs import COSTS, Cost

if TYPE_CHECKING:
    from bench.gpu_banks import Count

LABEL = "model, not measured"
# NVIDIA H100 SXM5 data sheet: HBM3 bandwidth, fp32 outside the tensor cores, dense bf16 or fp16 in them.
H100_BYTES, H100_FP32, H100_TENSOR = 3.35e12, 66.9e12, 989.4e12


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one SM, from the CUDA programming guide's table of compute capabilities."""

    shared: int
    registers: int = 65536
    warps: int = 64
    blocks: int = 32
    register_unit: int = 256  # per warp
    shared_unit: int = 128
    reserved_shared: int = 1024  # per block, taken by the system


SM = {"sm_80": Multiprocessor(164 << 10), "sm_90a": Multiprocessor(228 << 10)}


def _up(value: int, unit: int) -> int:
    return (value + unit - 1) // unit * unit


def occupancy(arch: str, threads: int, registers: int, shared: int) -> float:
    """Share of an SM's warps that can be resident, limited by registers, shared memory, blocks and warps.

    >>> occupancy("sm_80", 256, 32, 0)
    1.0
    >>> occupancy("sm_90a", 256, 128, 0)
    0.25
    """
    sm = SM[arch]
    warps = (threads + 31) // 32
    by_registers = sm.registers // _up(registers * 32, sm.register_unit) // warps
    by_shared = sm.shared // (_up(shared, sm.shared_unit) + sm.reserved_shared)
    blocks = min(sm.blocks, sm.warps // warps, by_registers, by_shared)
    return blocks * warps / sm.warps


def h100_floor(cost: Cost) -> float:
    """Seconds an H100 needs at least."""
    peak = H100_TENSOR if cost.tensor_cores else H100_FP32
    return max(cost.moved_bytes / H100_BYTES, cost.flops / peak)


def rows(kernels: list[Kernel]) -> list[dict[str, Any]]:
    """One row per compiled instance, with its cost case when its template has one."""
    found = []
    for kernel in kernels:
        cost = COSTS.get(kernel.name)
        threads = (cost.threads if cost else None) or kernel.threads
        shared = kernel.static_shared + (cost.dynamic_shared if cost else 0)
        row = dataclasses.asdict(kernel)
        row["dynamic_shared"] = cost.dynamic_shared if cost else None
        row["occupancy"] = occupancy(kernel.arch, threads, kernel.registers, shared) if threads else None
        row["case"] = cost.case if cost else None
        row["flops"] = cost.flops if cost else None
        row["moved_bytes"] = cost.moved_bytes if cost else None
        row["h100_floor_seconds"] = h100_floor(cost) if cost else None
        found.append(row)
    return found


def _worst(group: list[dict[str, Any]]) -> dict[str, Any]:
    """Fold the instances of one kernel into the worst of each figure."""
    first = dict(group[0])
    for key in ("registers", "static_shared", "spill_stores", "spill_loads", "stack"):
        first[key] = max(row[key] for row in group)
    known = [row["occupancy"] for row in group if row["occupancy"] is not None]
    first["occupancy"] = min(known, default=None)
    first["instances"] = len(group)
    return first


def _conflicts(name: str, banks: dict[str, Count]) -> str:
    """What the host executor counted: the share of wavefronts that conflicts cost, and the worst access."""
    if name not in banks:
        return "-"
    return f"{banks[name].share:.0%}, {banks[name].worst}-way" if banks[name].extra_wavefronts else "0%"


def _table(arch: str, found: list[dict[str, Any]], banks: dict[str, Count] | None = None) -> Table:
    table = Table(title=f"CUDA kernels, {arch} ({LABEL})", title_justify="left")
    table.add_column("kernel", overflow="fold")
    for name in ("instances", "threads", "registers", "shared", "spills", "occupancy"):
        table.add_column(name, justify="right")
    if banks is not None:
        table.add_column("bank conflicts", justify="right")
    table.add_column("case", overflow="fold")
    for name in ("MB", "GFLOP", "H100 floor"):
        table.add_column(name, justify="right")
    names = dict.fromkeys(row["name"] for row in found)
    for name in names:
        row = _worst([r for r in found if r["name"] == name])
        shared = row["static_shared"] + (row["dynamic_shared"] or 0)
        floor = row["h100_floor_seconds"]
        table.add_row(
            name, str(row["instances"]), str(row["threads"] or "?"), str(row["registers"]),
            f"{shared / 1024:.1f} KB", str(row["spill_stores"] + row["spill_loads"]),
            "?" if row["occupancy"] is None else f"{row['occupancy']:.0%}",
            *([] if banks is None else [_conflicts(name, banks)]), row["case"] or "no cost entry",
            "" if floor is None else f"{row['moved_bytes'] / 1e6:.1f}",
            "" if floor is None else f"{row['flops'] / 1e9:.2f}", "" if floor is None else f"{floor * 1e6:.1f} µs",
        )  # fmt: skip
    return table


def _count_banks() -> dict[str, Count]:
    from bench.gpu_banks import FAMILIES, count

    try:
        return count(list(FAMILIES))
    except ImportError:
        typer.echo("bench.gpu_model: --banks needs the host executor (TOKERNEL_SIMT=ON)", err=True)
        raise typer.Exit(2) from None


def problems(kernels: list[Kernel]) -> list[str]:
    """What `--check` refuses: a spill, a kernel without launch bounds, a kernel without a cost entry."""
    found = []
    for kernel in kernels:
        where = f"{kernel.source} {kernel.instance} ({kernel.arch})"
        if kernel.spills:
            found.append(f"{where}: spills {kernel.spill_stores} bytes of stores, {kernel.spill_loads} of loads")
        if kernel.threads is None:
            found.append(f"{where}: has no __launch_bounds__")
        if kernel.name not in COSTS:
            found.append(f"{where}: has no entry in bench/gpu_costs.py")
    return found


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help="Compile every CUDA kernel and print a model of its speed (not a measurement).")
def gpu_model(
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="exit with code 1 on a register spill, or a kernel without launch bounds or cost entry"
        ),
    ] = False,
    banks: Annotated[
        bool, typer.Option("--banks", help="count bank conflicts of shared memory on the host executor, in small cases")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="write every compiled instance here")] = None,
    arch: Annotated[list[str] | None, typer.Option(help=f"{', '.join(SM)}; both when none is named")] = None,
) -> None:
    archs = arch or list(SM)
    for name in archs:
        if name not in SM:
            raise typer.BadParameter(f"must be one of {', '.join(SM)}, got {name!r}", param_hint="--arch")
    try:
        kernels = compile_all(archs)
    except ToolchainError as error:
        typer.echo(f"bench.gpu_model: {error}", err=True)
        raise typer.Exit(2) from None
    found = rows(kernels)
    counts = _count_banks() if banks else None
    console = Console(width=None if sys.stdout.isatty() else 170)
    for name in archs:
        console.print(_table(name, [row for row in found if row["arch"] == name], counts))
    if json:
        document = {"label": LABEL, "h100": {"bytes_per_second": H100_BYTES, "fp32": H100_FP32, "tensor": H100_TENSOR}}
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(json_format.dumps({**document, "kernels": found}, indent=1) + "\n")
    if check:
        for line in problems(kernels):
            typer.echo(line, err=True)
        if problems(kernels):
            raise typer.Exit(1)
        console.print(f"check: {len(kernels)} compiled kernels, no spill")


if __name__ == "__main__":
    app()
