# SPDX-License-Identifier: Apache-2.0
"""The README of a room of papers: its table, and what its snippets print and leave behind."""

import re
from pathlib import Path

import tokernel
from tokernel.papers import papers


def read(room: str) -> str:
    return (Path(tokernel.__file__).parent / room / "README.md").read_text(encoding="utf-8")


def table(room: str) -> list[str]:
    """The lines of the table of papers."""
    return re.findall(r"^\| `.*$", read(room), re.MULTILINE)


def registry(room: str) -> list[str]:
    """The same lines, as the registry has them."""
    return [
        f"| `{p.slug}` | {p.title} | [{p.arxiv}](https://arxiv.org/abs/{p.arxiv}) | {p.venue} | {p.status} | "
        f"{p.verified_against} |"
        for p in papers()
        if p.module.startswith(f"tokernel.{room}.")
    ]


def run_snippets(room: str) -> dict[str, object]:
    """Run all snippets in order, in one session; return its names."""
    names: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", read(room), re.DOTALL):
        exec(compile(snippet, "README.md", "exec"), names)
    return names
