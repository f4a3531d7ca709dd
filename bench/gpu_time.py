# SPDX-License-Identifier: Apache-2.0
"""The ops timed on a GPU beside torch on the same GPU: ``python -m bench.gpu_time [--only text] [--json out.json]``.

Times are between CUDA events around one call, the caches flushed before each; the flush also keeps the GPU busy while
the host prepares the call, so that what is counted is the device's time and not the host's.
"""

from __future__ import annotations

import dataclasses
import importlib
import json as json_format
import statistics
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

CASES = ("gpu_time_rows", "gpu_time_attention", "gpu_time_codes", "gpu_time_trees")
FLUSHED = 512 << 20  # bytes written before every call: ten times the L2 of an H100
WARM_UPS, LEAST_RUNS, MOST_RUNS = 3, 7, 60


@dataclasses.dataclass
class Race:
    """One op in one case. Bytes count every input read once and every output written once."""

    ours: Callable[[], Any]
    peers: dict[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)
    moved_bytes: float = 0.0
    flops: float = 0.0
    compared: bool = True  # answers may be held against each other


@dataclasses.dataclass
class Case:
    op: str
    case: str
    dtype: torch.dtype
    build: Callable[[torch.dtype], Race]


@dataclasses.dataclass
class Row:
    op: str
    case: str
    dtype: str
    seconds: float
    spread: float
    peer: str | None
    peer_seconds: float | None
    ratio: float | None
    copy_share: float | None
    flops_per_second: float | None
    matmul_share: float | None
    difference: float | None


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random numbers on the GPU."""
    return torch.randn(*shape, device="cuda").to(dtype)


def randint(high: int, *shape: int) -> Tensor:
    """Random integers on the GPU."""
    return torch.randint(high, shape, device="cuda")


def bytes_of(*tensors: Tensor) -> float:
    """What the tensors hold."""
    return float(sum(t.numel() * t.element_size() for t in tensors))


class Clock:
    """Times calls on the device."""

    def __init__(self) -> None:
        self._flushed = torch.empty(FLUSHED, dtype=torch.int8, device="cuda")

    def once(self, call: Callable[[], Any]) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._flushed.zero_()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3

    def in_turns(self, calls: list[Callable[[], Any]], seconds: float) -> list[list[float]]:
        """Times of every call, in turns, as many as fit into the seconds for each."""
        longest = 0.0
        for call in calls:
            first = [self.once(call) for _ in range(WARM_UPS)]
            longest = max(longest, min(first))
        runs = int(min(max(seconds / longest, LEAST_RUNS), MOST_RUNS))
        times: list[list[float]] = [[] for _ in calls]
        for _ in range(runs):
            for call, found in zip(calls, times, strict=True):
                found.append(self.once(call))
        return times


def _arrays(answer: Any) -> list[Tensor]:
    if isinstance(answer, tuple | list):
        return [array for item in answer for array in _arrays(item)]
    return [answer] if isinstance(answer, Tensor) else []


def difference(ours: Any, peer: Any) -> float:
    """The largest relative distance of floats, or share of unequal integers, of the arrays both have, in order."""
    most = 0.0
    for x, y in zip(_arrays(ours), _arrays(peer), strict=False):
        if x.shape != y.shape:
            return float("inf")
        if x.is_floating_point():
            x, y = x.float(), y.float()
            most = max(most, float((x - y).norm() / y.norm().clamp_min(1e-30)))
        else:
            most = max(most, float((x != y.to(x.dtype)).float().mean()))
    return most


def ceilings(clock: Clock) -> dict[str, float]:
    """Bytes a second of a large copy, and FLOPs a second of a large product of each dtype, through torch."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    copy = statistics.median(clock.in_turns([lambda: target.copy_(source)], 0.1)[0])
    found = {"copy": 2 * bytes_of(source) / copy}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x, y = randn(8192, 8192, dtype=dtype), randn(8192, 8192, dtype=dtype)
        seconds = statistics.median(clock.in_turns([lambda x=x, y=y: x @ y], 0.2)[0])
        found[str(dtype).removeprefix("torch.")] = 2.0 * 8192**3 / seconds
    return found


def run(case: Case, clock: Clock, limits: dict[str, float], seconds: float) -> list[Row]:
    """One row a peer, or one without."""
    torch.manual_seed(0)
    race = case.build(case.dtype)
    names = list(race.peers)
    answers = race.ours()
    gaps = {name: difference(answers, race.peers[name]()) if race.compared else None for name in names}
    del answers
    ours, *peers = clock.in_turns([race.ours, *race.peers.values()], seconds)
    middle = statistics.median(ours)
    quarters = statistics.quantiles(ours, n=4)
    dtype = str(case.dtype).removeprefix("torch.")
    rows = []
    for name, times in zip(names or [None], peers or [None], strict=True):
        peer = statistics.median(times) if times else None
        rate = race.flops / middle if race.flops else None
        rows.append(
            Row(
                case.op, case.case, dtype, middle, (quarters[2] - quarters[0]) / middle, name, peer,
                peer / middle if peer else None,
                race.moved_bytes / middle / limits["copy"] if race.moved_bytes else None,
                rate, rate / limits.get(dtype, limits["float32"]) if rate else None, gaps.get(name),
            )
        )  # fmt: skip
    return rows


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3g}" if seconds >= 1e-5 else f"{seconds * 1e3:.2g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


COLUMNS = ("op", "case", "dtype", "ours ms", "peer", "peer ms", "ratio", "of copy", "of matmul", "difference")


def cells(row: Row) -> list[str]:
    """A row of the table as text."""
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}x"
    gap = "-" if row.difference is None else f"{row.difference:.1e}"
    return [row.op, row.case, row.dtype, _ms(row.seconds), row.peer or "-", _ms(row.peer_seconds), ratio,
            _share(row.copy_share), _share(row.matmul_share), gap]  # fmt: skip


def machine(limits: dict[str, float]) -> dict[str, Any]:
    """The card and what it can do at most."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "driver": _driver(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "command": "python -m bench.gpu_time " + " ".join(sys.argv[1:]),
        "copy_bytes_per_second": limits["copy"],
        "matmul_flops_per_second": {name: rate for name, rate in limits.items() if name != "copy"},
    }


def _driver() -> str:
    import pynvml

    pynvml.nvmlInit()
    return str(pynvml.nvmlSystemGetDriverVersion())


def write_markdown(path: Path, about: dict[str, Any], rows: list[Row]) -> None:
    """The table, below one line about the machine."""
    rates = ", ".join(f"{name} {rate / 1e12:.0f}" for name, rate in about["matmul_flops_per_second"].items())
    lines = [
        f"{about['gpu']}, driver {about['driver']}, torch {about['torch']}, {about['date']}. Measured through torch: "
        f"copy {about['copy_bytes_per_second'] / 1e12:.2f} TB/s read and written, 8192-wide matmul {rates} TFLOP/s.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(cells(row)) + " |" for row in rows),
    ]
    path.write_text("\n".join(lines) + "\n")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help="Time the ops on this machine's GPU, against torch.")
def gpu_time(
    only: Annotated[str, typer.Option(help="cases whose op, case or dtype contains this text")] = "",
    json: Annotated[Path | None, typer.Option(help="write every row here")] = None,
    markdown: Annotated[Path | None, typer.Option(help="write the table here as Markdown")] = None,
    seconds: Annotated[float, typer.Option(help="time to spend on each contender")] = 0.1,
) -> None:
    if not torch.cuda.is_available():
        typer.echo("bench.gpu_time: needs a CUDA GPU and a torch that sees it", err=True)
        raise typer.Exit(2)
    console = Console(width=170)
    clock = Clock()
    limits = ceilings(clock)
    table = Table(*COLUMNS, title="ours against torch on the same GPU", title_justify="left")
    rows: list[Row] = []
    failed = False
    for name in CASES:
        for case in importlib.import_module(f"bench.{name}").cases():
            if only not in f"{case.op} {case.case} {case.dtype}":
                continue
            try:
                found = run(case, clock, limits, seconds)
            except (RuntimeError, ValueError, TypeError) as error:  # one case must not cost the figures of the others
                console.print(f"{case.op} {case.case} {case.dtype} failed: {error}", markup=False)
                failed = True
                continue
            finally:
                torch.cuda.empty_cache()
            rows += found
            for row in found:
                table.add_row(*cells(row))
    console.print(table)
    about = machine(limits)
    if json:
        json.write_text(json_format.dumps({"machine": about, "rows": [dataclasses.asdict(r) for r in rows]}, indent=1))
    if markdown:
        write_markdown(markdown, about, rows)
    raise typer.Exit(int(failed))


if __name__ == "__main__":
    app()
