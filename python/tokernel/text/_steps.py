# SPDX-License-Identifier: Apache-2.0
"""Pre-tokenizers of tokenizer.json as steps, and back."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokernel.kernels import bpe
from tokernel.text._cuts import Find
from tokernel.text._errors import FormatError
from tokernel.text._front import Front, PatternStep, Piece, SpaceStep, SplitStep, Step
from tokernel.text._json_fields import a_list, an_object
from tokernel.text.pretokenizer import CLASSIC, Pattern

_BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")


@dataclass(frozen=True)
class DigitsStep:
    """Numbers (category N of the scanners' own Unicode) apart from the rest; `individual`: one by one."""

    individual: bool
    cuts = True

    def matches_in(self, text: str) -> Find | None:
        if text.isascii():
            chars = "0-9"
        else:
            chars = "".join(map(re.escape, sorted(c for c in set(text) if _is_number(c))))
        return re.compile(f"[{chars}]" if self.individual else f"[{chars}]+").finditer if chars else None

    def cut(self, piece: str) -> list[Piece]:
        find = self.matches_in(piece)
        edges = {0, len(piece)}
        if find is not None:
            edges.update(itertools.chain.from_iterable(m.span() for m in find(piece, 0, len(piece))))
        return [Piece(a, b) for a, b in itertools.pairwise(sorted(edges))]


@functools.lru_cache(maxsize=4096)
def _is_number(char: str) -> bool:
    return len(bpe.split("1" + char, "gpt2")) == 1  # numbers, and they alone, join a digit


def parse(spec: Mapping[str, Any] | None, where: str) -> list[Step]:
    """The steps of a pre-tokenizer; FormatError unless it ends with ByteLevel and knows the rest."""
    flat = _flat(spec, where)
    kinds = [s.get("type") for s, _ in flat]
    if kinds.count("ByteLevel") != 1 or kinds[-1] != "ByteLevel":
        raise FormatError(
            f"{where}: expected a ByteLevel, or a Sequence that ends with its only ByteLevel, got {kinds or None}; "
            f"other vocabularies are not byte-level and not supported"
        )
    return [step for s, at in flat for step in _steps(s, at)]


def _flat(spec: Mapping[str, Any] | None, where: str) -> list[tuple[Mapping[str, Any], str]]:
    if spec is None:
        return []
    if an_object(spec, where).get("type") != "Sequence":
        return [(spec, where)]
    inner = a_list(spec.get("pretokenizers", []), f"{where}.pretokenizers")
    return [pair for i, s in enumerate(inner) for pair in _flat(s, f"{where}.pretokenizers[{i}]")]


def _steps(spec: Mapping[str, Any], where: str) -> list[Step]:
    kind = spec.get("type")
    if kind == "ByteLevel":
        space: list[Step] = [SpaceStep()] if spec.get("add_prefix_space", True) else []
        return [*space, SplitStep(Pattern("gpt2"))] if spec.get("use_regex", True) else space
    if kind == "Digits":
        return [DigitsStep(bool(spec.get("individual_digits", False)))]
    if kind == "Split":
        behavior, pattern = spec.get("behavior"), spec.get("pattern")
        if behavior not in _BEHAVIORS:
            raise FormatError(f"{where}.behavior: expected one of {', '.join(_BEHAVIORS)}, got {behavior!r}")
        if not isinstance(pattern, Mapping) or not isinstance(next(iter(pattern.values()), None), str):
            raise FormatError(f'{where}.pattern: expected {{"Regex": ...}} or {{"String": ...}}, got {pattern!r}')
        regex = pattern["Regex"] if "Regex" in pattern else re.escape(pattern["String"])
        return [SplitStep(Pattern(regex, dialect="ruby"), behavior, bool(spec.get("invert", False)))]
    raise FormatError(f"{where}: {kind!r} is not supported; expected ByteLevel, Split, Digits or a Sequence of them")


def to_json(front: Front) -> Mapping[str, Any]:
    """The pre_tokenizer that does what the front does."""
    if front.spec is not None:
        return front.spec
    steps: Sequence[Step] = front.steps
    spaced = any(isinstance(s, SpaceStep) for s in steps)
    byte_level = {"type": "ByteLevel", "add_prefix_space": spaced, "trim_offsets": True, "use_regex": False}
    splits = [s for s in steps if isinstance(s, PatternStep | SplitStep)]
    if splits and splits[0].pattern.scanner == "gpt2" and len(splits) == 1:
        return {**byte_level, "use_regex": True}
    parts = [
        {"type": "Split", "pattern": {"Regex": _written(s.pattern)}, "behavior": "Isolated", "invert": False}
        for s in splits
    ]
    return {"type": "Sequence", "pretokenizers": [*parts, byte_level]} if parts else byte_level


def _written(pattern: Pattern) -> str:
    return CLASSIC[pattern.scanner] if pattern.scanner is not None else pattern.regex
