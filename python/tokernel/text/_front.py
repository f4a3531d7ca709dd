# SPDX-License-Identifier: Apache-2.0
"""What happens to a text before its pieces are merged: a normalizer, then steps that cut it into pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tokernel.text._cuts import Cuts, Find, fused, looks_behind
from tokernel.text._normalizers import Normalizer
from tokernel.text.pretokenizer import Pattern, characters_before

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """text[start:end] of the normalized text, with a space that is not in it before it where `spaced`."""

    start: int
    end: int
    spaced: bool = False

    def of(self, text: str) -> str:
        return " " + text[self.start : self.end] if self.spaced else text[self.start : self.end]


class Step(Protocol):
    """Cuts one piece further."""

    def cut(self, piece: str) -> list[Piece]: ...


@dataclass(frozen=True)
class PatternStep:
    """Pieces are the matches of a pattern; what lies between them is dropped, as in tiktoken."""

    pattern: Pattern

    def cut(self, piece: str) -> list[Piece]:
        return [Piece(a, b) for a, b in self.pattern.spans(piece) if a < b]


@dataclass(frozen=True)
class SplitStep:
    """tokenizer.json's Split: a match, and what lies between two, are pieces; `behavior` says which go together."""

    pattern: Pattern
    behavior: str = "Isolated"
    invert: bool = False

    @property
    def scans(self) -> str | None:
        """The scanner that is all of it, if it is one."""
        if self.behavior != "Isolated" or self.pattern.joins_trailing_space:
            return None
        return self.pattern.scanner

    @property
    def cuts(self) -> bool:
        """Whether `matches_in` says all of it."""
        return self.behavior == "Isolated" and self.pattern.scanner is None and not looks_behind(self.pattern.regex)

    def matches_in(self, text: str) -> Find | None:
        find: Find = self.pattern.finditer
        return find

    def cut(self, piece: str) -> list[Piece]:
        parts: list[tuple[int, int, bool]] = []
        end = 0
        for a, b in self.pattern.spans(piece):
            if end < a:
                parts.append((end, a, self.invert))
            parts.append((a, b, not self.invert))
            end = b
        if end < len(piece):
            parts.append((end, len(piece), self.invert))
        return [Piece(a, b) for a, b in _grouped(parts, self.behavior) if a < b]


def _grouped(parts: list[tuple[int, int, bool]], behavior: str) -> list[tuple[int, int]]:
    if behavior == "Isolated":
        return [(a, b) for a, b, _ in parts]
    if behavior == "Removed":
        return [(a, b) for a, b, match in parts if not match]
    out: list[tuple[int, int]] = []
    last = False  # whether the part before was a match
    if behavior == "MergedWithNext":
        taken = False
        for a, b, match in reversed(parts):
            if match and out and not taken:
                out[-1] = (a, out[-1][1])
            else:
                out.append((a, b))
            taken = match
        return out[::-1]
    for a, b, match in parts:
        joins = match and not last if behavior == "MergedWithPrevious" else match == last  # Contiguous
        if joins and out:
            out[-1] = (out[-1][0], b)
        else:
            out.append((a, b))
        last = match
    return out


@dataclass(frozen=True)
class SpaceStep:
    """ByteLevel's add_prefix_space: a piece begins with a space."""

    def cut(self, piece: str) -> list[Piece]:
        return [Piece(0, len(piece), not piece.startswith(" "))]


class Front:
    """Normalizer and steps. `scanner` is set when the whole of it is one compiled scanner, the fast path."""

    def __init__(
        self, steps: Sequence[Step], normalizer: Normalizer | None = None, spec: Mapping[str, Any] | None = None
    ) -> None:
        self.steps = tuple(steps)
        self.normalizer = normalizer
        self.spec = spec  # the JSON of the steps, if they came from a tokenizer.json
        only = steps[0] if len(steps) == 1 else None
        pattern = only.pattern if isinstance(only, PatternStep | SplitStep) else None
        covers = isinstance(only, PatternStep) or (isinstance(only, SplitStep) and only.behavior == "Isolated")
        self.pattern = pattern if covers and pattern is not None and pattern.scanner else None
        self.scanner = self.pattern.scanner if self.pattern and not self.pattern.joins_trailing_space else None
        if not steps:
            self.scanner = "none"
        self.cuts: Cuts | None = fused(self.steps) if self.scanner is None and self.pattern is None else None
        # A scanner of a text that begins with a space.
        spaced = len(steps) == 2 and isinstance(steps[0], SpaceStep) and isinstance(steps[1], SplitStep)
        self.spaced_scanner = steps[1].scans if spaced and isinstance(steps[1], SplitStep) else None

    def __reduce__(self) -> tuple[Any, ...]:
        return Front, (self.steps, self.normalizer, self.spec)

    @property
    def tiles(self) -> bool:
        """Whether the bytes of what `prepare` gives are those of the text."""
        return self.scanner is not None or self.pattern is not None or self.cuts is not None

    @property
    def spaces_first(self) -> bool:
        """Whether a space is put in front of a text that has none."""
        return any(isinstance(step, SpaceStep) for step in self.steps)

    def normalize(self, text: str) -> str:
        return self.normalizer.apply(text) if self.normalizer is not None else text

    def pieces(self, text: str) -> list[Piece]:
        """The pieces of a normalized text."""
        pieces = [Piece(0, len(text))] if text else []
        for step in self.steps:
            # A step after a space was put in front sees that space; positions count from the piece's own start.
            pieces = [_shift(p, part) for p in pieces for part in step.cut(p.of(text))]
        return pieces

    def prepare(self, text: str) -> tuple[bytes | str, Index | None]:
        """Of a normalized text: what to encode, and the ends of its pieces (None: those of `scanner`)."""
        if self.scanner is not None:
            return text, None
        if self.pattern is not None:
            return self.pattern.pieces(text)
        if len(self.steps) == 1 and isinstance(self.steps[0], PatternStep):
            return self.steps[0].pattern.pieces(text)
        if self.cuts is not None and self.cuts.scanner is None:
            return self.cuts.parts(text)
        parts = [p.of(text).encode() for p in self.pieces(text)]
        return b"".join(parts), np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))

    def origin(self, text: str) -> tuple[Index, Index]:
        """For every byte of what `prepare` gives, the bytes of `text` that it stands for: where they begin and end. An
        added space stands for nothing."""
        data = text.encode()
        at = np.arange(len(data), dtype=np.int64)
        if self.tiles:
            return at, at + 1
        position = np.flatnonzero(np.diff(characters_before(data), append=-1))
        begin, end = [], []
        for piece in self.pieces(text):
            a, b = int(position[piece.start]), int(position[piece.end])
            if piece.spaced:
                begin.append(np.array([a], np.int64))
                end.append(np.array([a], np.int64))
            begin.append(at[a:b])
            end.append(at[a:b] + 1)
        none = np.zeros(0, np.int64)
        return np.concatenate([none, *begin]), np.concatenate([none, *end])


def _shift(outer: Piece, inner: Piece) -> Piece:
    """`inner` of the text of `outer`, as a piece of the whole text."""
    if not outer.spaced:
        return Piece(outer.start + inner.start, outer.start + inner.end, inner.spaced)
    start, end = max(inner.start - 1, 0), max(inner.end - 1, 0)
    return Piece(outer.start + start, outer.start + end, inner.spaced or inner.start == 0)
