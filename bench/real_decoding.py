# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.real_decoding``: what the decoding papers gain on a real language model.

SmolLM2-135M-Instruct continues prose, code and questions by every method, against transformers' own greedy decoding
and ours, in turns in one process: tokens a step, time, whether the tokens are the same, and what the method keeps in
memory. Methods go through the prompts in order and may learn on the way; every round begins with nothing learnt.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tokernel
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tokernel.decoding import generate

from bench.decoding_methods import CANDIDATES, GREEDY, Candidate, Prompt, prompts
from bench.machine import CLOCKS, Clock, describe, set_framework_threads
from bench.real_models import MissingError, load_smollm2

TRANSFORMERS = "transformers greedy"
TOKENS, QUICK_TOKENS = 24, 4
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Run:
    """One method on one prompt: the best time of the rounds."""

    method: str
    kind: str
    tokens: list[int]
    steps: int
    seconds: float
    memory: int = 0
    lossless: bool = True


@dataclass(frozen=True)
class Row:
    """One method on all prompts of a kind.

    Attributes:
        per_step: tokens a step.
        speedup: transformers' seconds a token over ours.
        speedup_ours: the same against our own greedy loop.
        identical: prompts whose tokens are those of transformers, of how many.
        memory: bytes held beside the model and its cache.
    """

    method: str
    kind: str
    tokens: int
    per_step: float
    ms_per_token: float
    speedup: float
    speedup_ours: float
    identical: int
    prompts: int
    memory: int
    lossless: bool


@dataclass
class Race:
    """Runs every contender on every prompt."""

    model: Any
    prompts: Sequence[Prompt]
    candidates: Sequence[Candidate]
    tokens: int
    runs: dict[tuple[str, int], Run] = field(default_factory=dict)

    def round(self, progress: Progress, line: Any) -> None:
        """Once through all prompts, contenders in turns; every other prompt backwards."""
        methods = [(candidate, candidate.make(self.model)) for candidate in self.candidates]
        for at, prompt in enumerate(self.prompts):
            turns = [None, *methods]
            for turn in turns if at % 2 == 0 else turns[::-1]:
                run = self._plain(prompt) if turn is None else self._ours(*turn, prompt)
                best = self.runs.get((run.method, at))
                if best is None or run.seconds < best.seconds:
                    self.runs[run.method, at] = run
                progress.advance(line)

    def _plain(self, prompt: Prompt) -> Run:
        start = Clock.now()
        everything = torch.ones_like(prompt.ids)
        out = self.model.generate(
            prompt.ids, attention_mask=everything, max_new_tokens=self.tokens, do_sample=False, pad_token_id=0
        )
        seconds = Clock.now() - start
        new = out[0, prompt.ids.shape[1] :].tolist()
        return Run(TRANSFORMERS, prompt.kind, new, len(new), seconds)

    def _ours(self, candidate: Candidate, method: Any, prompt: Prompt) -> Run:
        start = Clock.now()
        out = generate(self.model, prompt.ids, method, max_new_tokens=self.tokens)
        seconds = Clock.now() - start
        memory = candidate.memory(self.model)
        return Run(candidate.name, prompt.kind, out.new_tokens(), out.steps, seconds, memory, candidate.lossless)


def rows_of(runs: dict[tuple[str, int], Run]) -> list[Row]:
    """One row a method and kind of prompt, and one for all kinds."""
    methods = list(dict.fromkeys(name for name, _ in runs))
    kinds = list(dict.fromkeys(run.kind for run in runs.values()))
    rows = []
    for method in [TRANSFORMERS, *(name for name in methods if name != TRANSFORMERS)]:
        for kind in [*kinds, "all"]:
            places = [at for name, at in runs if name == method and kind in (runs[name, at].kind, "all")]
            mine, plain, greedy = ([runs[name, at] for at in places] for name in (method, TRANSFORMERS, GREEDY))
            rows.append(
                Row(
                    method,
                    kind,
                    sum(len(run.tokens) for run in mine),
                    sum(len(run.tokens) for run in mine) / sum(run.steps for run in mine),
                    1e3 * _pace(mine),
                    _pace(plain) / _pace(mine),
                    _pace(greedy) / _pace(mine),
                    sum(a.tokens == b.tokens for a, b in zip(mine, plain, strict=True)),
                    len(mine),
                    mine[0].memory,
                    mine[0].lossless,
                )
            )
    return rows


def _pace(runs: Sequence[Run]) -> float:
    return sum(run.seconds for run in runs) / sum(len(run.tokens) for run in runs)


def run(
    quick: bool = False,
    threads: int = 2,
    rounds: int = 1,
    dtype: str = "float32",
    tokens: int = TOKENS,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure; return what ``--json`` writes."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    set_framework_threads(threads)
    tokernel.set_num_threads(threads)
    bar = progress or Progress(disable=True)
    line = bar.add_task("loading", total=None)
    model, tokenizer = load_smollm2()
    model = model.to(DTYPES[dtype])
    given = prompts(tokenizer)
    if quick:
        given = given[::2]
    race = Race(model, given, CANDIDATES, QUICK_TOKENS if quick else tokens)
    bar.update(line, description="decoding", total=rounds * len(given) * (1 + len(CANDIDATES)))
    for _ in range(rounds):
        race.round(bar, line)
    return {
        "machine": describe([threads]),
        "model": "SmolLM2-135M-Instruct, 4-bit weights dequantised",
        "dtype": dtype,
        "quick": quick,
        "rounds": rounds,
        "tokens": race.tokens,
        "rows": [asdict(row) for row in rows_of(race.runs)],
    }


def table_rows(document: dict[str, Any]) -> list[list[str]]:
    """One line a method: tokens a step by kind of prompt, then what all kinds together say."""
    rows = [Row(**row) for row in document["rows"]]
    kinds = [kind for kind in dict.fromkeys(row.kind for row in rows) if kind != "all"]
    head = ["method", *(f"tokens/step, {kind}" for kind in kinds), "tokens/step", "ms/token", "speed-up"]
    lines = [[*head, "against our greedy", "same tokens", "memory"]]
    for method in dict.fromkeys(row.method for row in rows):
        mine = {row.kind: row for row in rows if row.method == method}
        every = mine["all"]
        same = f"{every.identical} of {every.prompts}" + ("" if every.lossless else " (need not be)")
        lines.append(
            [
                method,
                *(f"{mine[kind].per_step:.2f}" for kind in [*kinds, "all"]),
                f"{every.ms_per_token:.1f}",
                f"{every.speedup:.2f}x",
                f"{every.speedup_ours:.2f}x",
                same,
                f"{every.memory / 2**20:.1f} MiB" if every.memory else "-",
            ]
        )
    return lines


def write_markdown(path: Path, document: dict[str, Any]) -> None:
    """Write the table as Markdown."""
    head, *body = table_rows(document)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *body)))


def main(
    quick: Annotated[bool, typer.Option("--quick", help="a few tokens: proves only that it runs")] = False,
    threads: Annotated[int, typer.Option(min=1, help="threads of torch and of tokernel")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="the best time of so many")] = 1,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    tokens: Annotated[int, typer.Option(min=1, help="to generate for each prompt")] = TOKENS,
    clock: Annotated[
        str, typer.Option(help="wall, or cpu: of this process, for one thread on a busy machine")
    ] = "wall",
    json_path: Annotated[Path | None, typer.Option("--json", help="write the results here")] = None,
    markdown_path: Annotated[Path | None, typer.Option("--markdown", help="write the table here")] = None,
) -> None:
    """Continue prompts of three kinds by every decoding method."""
    if dtype not in DTYPES:
        raise typer.BadParameter(f"dtype must be one of {', '.join(DTYPES)}, got {dtype}")
    if clock not in CLOCKS or (clock == "cpu" and threads != 1):
        raise typer.BadParameter(f"clock must be wall, or cpu with one thread, got {clock}")
    Clock.name = clock
    try:
        with Progress(console=Console(stderr=True)) as progress:
            document = run(quick, threads, rounds, dtype, tokens, progress)
    except MissingError as missing:
        Console(stderr=True).print(f"real_decoding cannot run here: {missing}")
        raise typer.Exit(1) from None
    lines = table_rows(document)
    table = Table(title=f"{document['model']}, {dtype}, {document['tokens']} tokens a prompt", title_justify="left")
    for name in lines[0]:
        table.add_column(name)
    for cells in lines[1:]:
        table.add_row(*cells)
    Console().print(table)
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(document, indent=1) + "\n")
    if markdown_path:
        write_markdown(markdown_path, document)


if __name__ == "__main__":
    typer.run(main)
