# SPDX-License-Identifier: Apache-2.0
"""What real checks write: tables, which are lists of lines by title, the first line naming the columns; and data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Tables = Mapping[str, Sequence[Sequence[str]]]


def print_tables(tables: Tables) -> None:
    """Print them on the terminal."""
    for title, (head, *body) in tables.items():
        table = Table(*head, title=title, title_justify="left")
        for line in body:
            table.add_row(*line)
        Console().print(table)


def write_markdown(path: Path, tables: Tables) -> None:
    """Write them as Markdown."""
    parts = []
    for title, (head, *body) in tables.items():
        lines = "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *body))
        parts.append(f"### {title}\n{lines}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts))


def write_json(path: Path, document: Any) -> None:
    """Write the data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
