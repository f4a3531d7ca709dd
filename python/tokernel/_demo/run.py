# SPDX-License-Identifier: Apache-2.0
"""The demo from end to end: read, merge, draw, print."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import tokernel
from tokernel._bpe_files import write
from tokernel._bpe_view import page, terminal
from tokernel._demo.data import DemoError, load_picture, load_text
from tokernel._demo.draw import write_png
from tokernel._demo.picture import PATCH, Merged, merge_picture
from tokernel._demo.tokens import Learnt, learn
from tokernel._demo.words import Words, merge_words

__all__ = ["DemoError", "run"]

MOST_RATES = 8


def run(*, image: Path | None, text: Path | None, out: Path, rates: str, console: Console) -> None:
    """Run every chapter.

    Raises:
        DemoError: a file is missing or broken, or an option makes no sense; one line says which.
    """
    chosen = parse_rates(rates)
    picture_name, pixels = load_picture(image, PATCH)
    text_name, content = load_text(text)
    prepare_folder(out)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("tokernel demo", total=len(chosen) + 3)
        merged = []
        for rate in chosen:
            progress.update(bar, description=f"merging {rate:.0%} of the picture's tokens")
            merged.append(merge_picture(pixels, rate))
            progress.advance(bar)
        progress.update(bar, description="merging the text")
        words = merge_words(content)
        progress.advance(bar)
        progress.update(bar, description="learning tokens of the text")
        learnt = learn(content)
        progress.advance(bar)
        progress.update(bar, description="drawing")
        try:
            write_png(out, picture_name, pixels, merged)
            write(out.with_suffix(".html"), _token_page(text_name, learnt).encode())
        except OSError as error:
            raise DemoError(f"--out: cannot write {out}: {error.strerror or error}") from None
        progress.update(bar, description="done", advance=1)
    console.print(_picture_table(picture_name, merged))
    console.print(_text_table(text_name, words))
    console.print(_token_table(text_name, learnt))
    console.print(terminal(learnt[-1].sample))
    console.print(f"wrote {out} and {out.with_suffix('.html')}", highlight=False)


def prepare_folder(out: Path) -> None:
    """Make the folder of the PNG, before any work is done in vain."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"--out: cannot write {out}: {error.strerror}") from None


def parse_rates(text: str) -> list[float]:
    """Read ``0.25,0.5``; every share is at least 0 and less than 1."""
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        raise DemoError(f"--rates: expected numbers separated by commas, such as 0.25,0.5; got {text!r}") from None
    if len(rates) > MOST_RATES or not all(0 <= rate < 1 for rate in rates):
        raise DemoError(f"--rates: expected at most {MOST_RATES} shares, each at least 0 and less than 1; got {text!r}")
    return rates


def _seconds(value: float) -> str:
    return f"{value * 1e3:.2f} ms"


def _ratio(ours: float, plain: float) -> str:
    return f"{plain / ours:.1f}x"


def _picture_table(name: str, rates: list[Merged]) -> Table:
    title = (
        f"{name}: patches merged by likeness (backend {tokernel.last_backend()}, {tokernel.get_num_threads()} threads)"
    )
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in ("merged", "tokens kept", "PSNR", "time", "plain NumPy", "its PSNR", "speed ratio"):
        table.add_column(column, justify="right")
    for m in rates:
        table.add_row(
            f"{m.rate:.0%}", f"{m.kept} of {m.tokens}", f"{m.psnr:.1f} dB", _seconds(m.seconds),
            _seconds(m.plain_seconds), f"{m.plain_psnr:.1f} dB",
            _ratio(m.seconds, m.plain_seconds),
        )  # fmt: skip
    return table


def _text_table(name: str, words: Words) -> Table:
    table = Table(title=f"{name}: bytes merged into words", title_justify="left", show_header=False)
    table.add_row("tokens kept", f"{words.segments} of {words.bytes}")
    table.add_row(
        "time, plain NumPy, speed ratio",
        ", ".join((_seconds(words.seconds), _seconds(words.plain_seconds), _ratio(words.seconds, words.plain_seconds))),
    )
    pairs = ", ".join(f"{a} ~ {b}" for a, b in words.alike)
    table.add_row(f"most alike of {words.vocabulary} words", f"{pairs} (matched in {_seconds(words.match_seconds)})")
    return table


def _token_facts(one: Learnt) -> str:
    return f"{one.tokens} tokens, {one.bytes / one.tokens:.2f} bytes a token"


def _token_table(name: str, learnt: list[Learnt]) -> Table:
    table = Table(title=f"{name}: byte pairs merged into tokens", title_justify="left", header_style="bold")
    for column in ("vocabulary", "tokens", "bytes a token", "training", "encoding"):
        table.add_column(column, justify="right")
    for one in learnt:
        table.add_row(
            f"{one.vocabulary}", f"{one.tokens}", f"{one.bytes / one.tokens:.2f}",
            _seconds(one.seconds), _seconds(one.encode_seconds),
        )  # fmt: skip
    return table


def _token_page(name: str, learnt: list[Learnt]) -> str:
    return page(name, [(f"{one.vocabulary} tokens in all", _token_facts(one), one.sample) for one in learnt])
