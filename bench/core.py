# SPDX-License-Identifier: Apache-2.0
"""What a benchmark case is, and how it is timed.

Every contender of a case runs in the same process, in turns: one timed group of calls of ours, one of each peer, and
again, until the budget is spent. Drift of the machine then hits all of them alike. Reported are medians over the
groups; the spread is the interquartile range over the median.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import tokernel

from bench import machine
from bench.memory import peak_extra_bytes

GROUP_SECONDS = 0.004  # long enough for the clock, short enough to interleave
FEWEST_GROUPS = 9
ONE_THREAD = "tokernel, 1 thread"
# Code pages, thread stacks and the 1 MiB scratch arena of each thread are not what the promise about memory is about.
MEMORY_SLACK = 4 << 20

Call = Callable[[], Any]


@dataclass(frozen=True)
class Floor:
    """What the project promises: a ratio (to the first peer, or to the fastest) or share of peak of at least `value`,
    less seconds above the first peer, or no more bytes."""

    kind: Literal["ratio", "fastest", "overhead", "speedup", "memory", "peak"]
    value: float

    def met(self, row: Row) -> bool:
        """Compare a measured row with the promise."""
        if self.kind == "overhead":
            return row.peer_seconds is not None and row.seconds - row.peer_seconds < self.value
        if self.kind == "memory":
            return row.peak_mem_bytes is not None and row.peak_mem_bytes <= self.value
        if self.kind == "peak":
            return row.peak_share is not None and row.peak_share >= self.value
        return row.ratio is not None and row.ratio >= self.value

    def __str__(self) -> str:
        if self.kind == "overhead":
            return f"< {self.value * 1e6:.3g} µs above it"
        if self.kind == "peak":
            return f">= {self.value:.0%} of peak"
        return f"<= {self.value / 2**20:.1f} MiB" if self.kind == "memory" else f">= {self.value:g}x"


@dataclass
class Work:
    """A case made concrete: calls that take no argument and return what they computed."""

    ours: Call
    peers: dict[str, Call]
    compare: Callable[[Any, Any], None]  # raises AssertionError unless ours and a peer agree
    flops: float = 0.0  # a multiply-add counts as two
    moved_bytes: float = 0.0  # every input read once, every output written once; also the promise about memory


@dataclass(frozen=True)
class Case:
    """One line of the benchmark; `build(quick)` makes the arrays, small ones when quick."""

    family: str
    op: str
    case: str
    dtype: str
    build: Callable[[bool], Work]
    floors: tuple[Floor, ...] = ()
    parallel: bool = True  # False: measured with one thread only

    @property
    def key(self) -> tuple[str, str, str]:
        """What names the case inside its family."""
        return (self.op, self.case, self.dtype)


@dataclass
class Row:
    """One measured comparison, as it is written to JSON; ratio = peer_seconds / seconds."""

    family: str
    op: str
    case: str
    dtype: str
    backend: str
    threads: int
    seconds: float
    spread: float
    peer: str | None
    peer_seconds: float | None
    ratio: float | None
    peak_share: float | None
    peak_mem_bytes: int | None


@dataclass
class Result:
    """A row and the promises that apply to it."""

    row: Row
    floors: tuple[Floor, ...] = ()


@dataclass
class _Contender:
    call: Call
    threads: int
    calls: int = 1
    samples: list[float] = field(default_factory=list)

    def group(self) -> float:
        tokernel.set_num_threads(self.threads)
        self.call()  # untimed: fills the caches and lets the last contender's threads fall asleep
        start = machine.Clock.now()
        for _ in range(self.calls):
            self.call()
        return (machine.Clock.now() - start) / self.calls

    def calibrate(self) -> None:
        once = min(self.group() for _ in range(2))
        self.calls = max(1, min(100_000, round(GROUP_SECONDS / max(once, 1e-9))))

    @property
    def seconds(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        low, _, high = statistics.quantiles(self.samples, n=4)
        return (high - low) / self.seconds


def interleave(contenders: Sequence[_Contender], budget: float, fewest: int = FEWEST_GROUPS) -> None:
    """Time the contenders in turns for about `budget` seconds; every other turn goes backwards."""
    for contender in contenders:
        contender.calibrate()
    collecting = gc.isenabled()
    gc.disable()
    try:
        deadline = time.perf_counter() + budget
        rounds = 0
        while rounds < fewest or time.perf_counter() < deadline:
            for contender in contenders if rounds % 2 == 0 else reversed(contenders):
                contender.samples.append(contender.group())
            rounds += 1
    finally:
        if collecting:
            gc.enable()


def run_case(case: Case, *, threads: int, peers: bool, quick: bool, budget: float, memory: bool) -> list[Result]:
    """Check that ours and the peers agree, time them, and give one result per comparison; a quick run has no floors."""
    work = case.build(quick)
    machine.set_framework_threads(threads)
    tokernel.set_num_threads(threads)
    backend = _agreed_backend(work)
    ours = _Contender(work.ours, threads)
    others = {name: _Contender(call, threads) for name, call in work.peers.items()} if peers else {}
    if threads > 1:
        others[ONE_THREAD] = _Contender(work.ours, 1)
    interleave([ours, *others.values()], budget, 3 if quick else FEWEST_GROUPS)
    share = machine.peak_share(work.flops, work.moved_bytes, ours.seconds, threads)
    extra = peak_extra_bytes(case.family, case.key, quick=quick, threads=threads) if memory else None
    label = f"{case.case} (small)" if quick else case.case
    alone = Row(
        case.family, case.op, label, case.dtype, backend, threads, ours.seconds, ours.spread,
        peer=None, peer_seconds=None, ratio=None, peak_share=share, peak_mem_bytes=extra,
    )  # fmt: skip
    floors = [] if quick else list(case.floors)
    if extra is not None and work.moved_bytes and not quick:
        floors.append(Floor("memory", work.moved_bytes + MEMORY_SLACK))
    return _comparisons(alone, {name: other.seconds for name, other in others.items()}, floors)


def _agreed_backend(work: Work) -> str:
    """Compare the answer with that of every peer; return the backend that computed ours."""
    answer = work.ours()
    backend = tokernel.last_backend()
    for peer in work.peers.values():
        work.compare(answer, peer())
    return backend


def _comparisons(alone: Row, seconds: dict[str, float], floors: list[Floor]) -> list[Result]:
    """One result per contender. Memory and the share of peak count once."""
    if not seconds:
        return [Result(alone, _of_kind(floors, "memory", "peak"))]
    results = []
    fastest = min((name for name in seconds if name != ONE_THREAD), key=seconds.__getitem__, default=None)
    for i, (name, theirs) in enumerate(seconds.items()):
        kinds = {"speedup"} if name == ONE_THREAD else {"ratio", "overhead"} if i == 0 else set()
        if i == 0:
            kinds |= {"memory", "peak"}
        if name == fastest:
            kinds |= {"fastest"}
        row = dataclasses.replace(alone, peer=name, peer_seconds=theirs, ratio=theirs / alone.seconds)
        results.append(Result(row, _of_kind(floors, *kinds)))
    return results


def _of_kind(floors: list[Floor], *kinds: str) -> tuple[Floor, ...]:
    return tuple(f for f in floors if f.kind in kinds)
