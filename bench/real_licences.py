# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.real_licences LICENCES BOOKS``: tokenizers of legal text beside tokenizers of other English.

Both are trained with the same settings on as many bytes, half of the licences of SPDX and manuals of Debian, and judged
on the other halves: tokens a character (the law of KL3M), and how many token boundaries survive errors of OCR.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from tokernel.text import kl3m

from bench.mixture_texts import HOW, MissingTextError, read_languages
from bench.tables import Tables, print_tables, write_markdown

GET_LICENCES = "npm pack spdx-license-list@6.12.0 && tar xf spdx-license-list-6.12.0.tgz, then package/spdx-full.json"
SIZES = (1024, 4096)
LEAST = 2  # frequency of the last merge
CORRUPTED = 300  # paragraphs
SHORT, LONG = 40, 400  # characters of a paragraph that is corrupted
CONFUSED = dict(zip("ceoilrtumnahb5S0O1", "eoclItjnrmodhS5OQl", strict=True))
"""What a reader of bad scans takes one letter for."""


def read_licences(path: Path) -> list[str]:
    """Every paragraph of the licences, once: many licences share most of their words."""
    if not path.is_file():
        raise MissingTextError(f"no licences at {path}: {GET_LICENCES}")
    texts = [each["licenseText"] for each in json.loads(path.read_text(encoding="utf-8")).values()]
    paragraphs = (" ".join(part.split()) for text in texts for part in text.split("\n\n"))
    kept = list(dict.fromkeys(each for each in paragraphs if len(each) >= SHORT))
    np.random.default_rng(0).shuffle(kept)
    return kept


def corrupted(text: str, rng: np.random.Generator) -> str:
    """Take one in twenty of the letters that look like others for the other."""
    drawn = rng.random(len(text))
    return "".join(CONFUSED.get(c, c) if coin < 0.05 else c for c, coin in zip(text, drawn, strict=True))


def stability(tokenizer: kl3m.ByteLevelBPE, texts: Sequence[str]) -> float:
    """Mean share of boundaries that stay where they are."""
    rng = np.random.default_rng(0)
    return float(np.mean([kl3m.boundary_stability(tokenizer, text, corrupted(text, rng)) for text in texts]))


def run(law: Sequence[str], manuals: Sequence[str], sizes: Sequence[int], most: int = CORRUPTED) -> Tables:
    """Train and judge; two tables by title."""
    law_train, law_test, other_train, other_test = law[::2], law[1::2], manuals[::2], manuals[1::2]
    room = min(sum(map(len, law_train)), sum(map(len, other_train)))
    law_train, other_train = _first(law_train, room), _first(other_train, room)
    tokens = [["ids", "trained on", "licences", "manuals"]]
    stable = [["ids", "characters of a merge", "boundaries kept", "tokens a character"]]
    short = [text for text in law_test if len(text) <= LONG][:most]
    for size in sizes:
        for name, texts in (("licences", law_train), ("manuals", other_train)):
            plain = kl3m.train_bpe(texts, size, LEAST)
            rates = [kl3m.tokens_per_character(plain, each) for each in (law_test, other_test)]
            tokens.append([str(plain.size), name, *(f"{rate:.4f}" for rate in rates)])
        for most_chars in (3, 4, None):
            of_characters = kl3m.train_bpe(law_train, size, LEAST, max_chars=most_chars)
            rate = kl3m.tokens_per_character(of_characters, law_test)
            share = stability(of_characters, short)
            stable.append([str(of_characters.size), str(most_chars or "any"), f"{share:.1%}", f"{rate:.4f}"])
    return {
        "Tokens a character of paragraphs never seen": tokens,
        "Licences with one in twenty of the letters that look like others misread": stable,
    }


def _first(texts: Sequence[str], characters: int) -> list[str]:
    ends = np.cumsum([len(text) for text in texts])
    return list(texts[: int(np.searchsorted(ends, characters, "right"))])


def main(
    licences: Annotated[Path, typer.Argument(help=f"the licences: {GET_LICENCES}")],
    books: Annotated[Path, typer.Argument(help=f"where the two books are: {HOW}")],
    markdown_path: Annotated[Path | None, typer.Option("--markdown", help="write the tables here")] = None,
) -> None:
    """Hold tokenizers of legal text against tokenizers of manuals, and tokens of few characters against errors."""
    try:
        english = read_languages(books)["en"]
        tables = run(read_licences(licences), [*english.train, *english.sample], SIZES)
    except MissingTextError as missing:
        Console(stderr=True).print(f"real_licences cannot run here: {missing}")
        raise typer.Exit(1) from None
    print_tables(tables)
    if markdown_path:
        write_markdown(markdown_path, tables)


if __name__ == "__main__":
    typer.run(main)
