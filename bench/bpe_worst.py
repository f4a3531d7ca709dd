# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.bpe_worst``: texts that are hard for encoders, against ordinary prose, and how long loading takes.

Each text is encoded once by a fresh vocabulary, so that no piece is known from before; the least of several runs
counts. The promise is at most four times the time per byte of prose.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from tokernel.kernels import bpe
from tokernel.text import Encoding

from bench.bpe_corpora import corpus, path_of_ranks, rank_file
from bench.machine import Clock, describe, set_framework_threads
from bench.tables import print_tables, write_json, write_markdown

PROMISE = 4.0
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def texts(size: int) -> dict[str, tuple[bytes, bool]]:
    """Each text, and whether it is one piece whatever the pre-tokenizer would say."""
    rng = random.Random(0)
    prose = corpus("prose").encode()[:size]
    letters = "".join(c for c in corpus("prose") if c.isalpha()).encode()
    joined = (letters * (size // len(letters) + 1))[:size]
    return {
        "prose": (prose, False),
        "one letter": (b"a" * size, False),
        "spaces": (b" " * size, False),
        "newlines": (b"\n" * size, False),
        "ab again and again": (b"ab" * (size // 2), False),
        "random letters": ("".join(rng.choices(LETTERS, k=size)).encode(), False),
        "random bytes": (rng.randbytes(size), False),
        "prose without spaces": (joined, False),
        "prose as one piece": (prose, True),
    }


def _fresh(name: str) -> bpe.Vocab:
    tokens, offsets, ranks = bpe.parse_ranks(rank_file(name))
    return bpe.Vocab((tokens, offsets), ranks)


def _seconds(run: Callable[[], object]) -> float:
    start = Clock.now()
    run()
    return Clock.now() - start


def measure(name: str, size: int, rounds: int) -> dict[str, float]:
    """Nanoseconds a byte of each text."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for kind, (text, whole) in texts(size).items():
            vocab, pattern = _fresh(name), "none" if whole else name
            bpe.encode(vocab, text[:1000], pattern)  # lazy tables are not the text's fault
            nanoseconds = 1e9 * _seconds(lambda v=vocab, t=text, p=pattern: bpe.encode(v, t, p)) / len(text)  # type: ignore[misc]
            best[kind] = min(best.get(kind, nanoseconds), nanoseconds)
    return best


def main(
    megabytes: Annotated[float, typer.Option(help="of each text")] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, help="the least of so many")] = 3,
    clock: Annotated[str, typer.Option(help="wall, or cpu on a busy machine")] = "wall",
    json_path: Annotated[Path | None, typer.Option("--json", help="write the results here")] = None,
    markdown_path: Annotated[Path | None, typer.Option("--markdown", help="write the tables here")] = None,
) -> None:
    """Encode hard texts on one thread, and load the vocabularies."""
    Clock.name = clock
    set_framework_threads(1)
    size = int(megabytes * 1e6)
    hard = [["vocabulary", "text", "ns a byte", "times prose", "promise"]]
    loads = [["vocabulary", "ms"]]
    found = {}
    for name in ("cl100k", "o200k"):
        found[name] = measure(name, size, rounds)
        for kind, nanoseconds in found[name].items():
            ratio = nanoseconds / found[name]["prose"]
            kept = "" if kind == "prose" else "kept" if ratio <= PROMISE else "missed"
            hard.append([name, kind, f"{nanoseconds:.1f}", f"{ratio:.1f}", kept])
        path = path_of_ranks(name)
        load = min(_seconds(lambda p=path: Encoding.from_tiktoken(p)) for _ in range(rounds + 2))  # type: ignore[misc]
        found[name]["load, seconds"] = load
        loads.append([name, f"{1e3 * load:.1f}"])
    tables = {f"Hard texts of {megabytes:g} MB, one thread": hard, "Loading a rank file": loads}
    print_tables(tables)
    if json_path:
        document = {"about": describe([1]), "megabytes": megabytes, "found": found}
        write_json(json_path, document)
    if markdown_path:
        write_markdown(markdown_path, tables)


if __name__ == "__main__":
    typer.run(main)
