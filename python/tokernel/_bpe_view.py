# SPDX-License-Identifier: Apache-2.0
"""Tokens of a text in colours, in the terminal and as a page of HTML that needs nothing from outside."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from rich.text import Text

__all__ = ["Piece", "page", "pieces", "terminal"]

# Neighbours differ in lightness as well as in hue: the borders show without colour vision too.
_COLOURS = ("#fde68a", "#a7f3d0", "#bfdbfe", "#fbcfe8", "#ddd6fe", "#fed7aa")
_BROKEN = "�"


class Piece(NamedTuple):
    """One token as it is shown: its id, and its text; a token that ends inside a character has its bytes in hex."""

    token: int
    text: str


def pieces(ids: Sequence[int], tokens: Sequence[bytes]) -> list[Piece]:
    """Say of each token what to show.

    >>> pieces([3, 9], [b"ab", bytes([195])])
    [Piece(token=3, text='ab'), Piece(token=9, text='⟨c3⟩')]
    """
    return [Piece(i, _readable(t)) for i, t in zip(ids, tokens, strict=True)]


def _readable(token: bytes) -> str:
    text = token.decode("utf-8", "replace")
    return f"⟨{token.hex(' ')}⟩" if _BROKEN in text and _BROKEN.encode() not in token else text


def _visible(text: str) -> str:
    """Show white space that would not be seen: a line break keeps breaking the line."""
    return text.replace("\r", "␍").replace("\n", "↵\n").replace("\t", "⇥\t")


def terminal(shown: Sequence[Piece], ids: bool = False) -> Text:
    """Colour each token; with `ids`, put its id behind it."""
    out = Text()
    for k, piece in enumerate(shown):
        style = f"black on {_COLOURS[k % len(_COLOURS)]}"
        parts = _visible(piece.text).split("\n")
        for line, part in enumerate(parts):  # no colour up to the edge of the window
            if line:
                out.append("\n")
            out.append(part, style)
        if ids:
            out.append(f" {piece.token} ", "dim")
    return out


_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.9 ui-monospace, monospace; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font: 600 1.2rem system-ui, sans-serif; } .facts { font: 0.95rem system-ui, sans-serif; opacity: .75; }
.tokens { white-space: pre-wrap; overflow-wrap: anywhere; }
.tokens span { border-radius: 3px; color: #111; padding: 2px 0; }
.tokens span:hover { outline: 2px solid #2563eb; }
"""


def page(title: str, views: Sequence[tuple[str, str, Sequence[Piece]]]) -> str:
    """Write a page of HTML: for each (name, facts, tokens) a heading, a line of facts, and the tokens in colours."""
    colours = "".join(f".c{k} {{ background: {c}; }}\n" for k, c in enumerate(_COLOURS))
    parts = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}{colours}</style>\n"
    ]
    for name, facts, shown in views:
        parts.append(f'<h1>{html.escape(name)}</h1>\n<p class="facts">{html.escape(facts)}</p>\n<div class="tokens">')
        parts += [
            f'<span class="c{k % len(_COLOURS)}" title="{piece.token}">{html.escape(_visible(piece.text))}</span>'
            for k, piece in enumerate(shown)
        ]
        parts.append("</div>\n")
    return "".join([*parts, "</html>\n"])
