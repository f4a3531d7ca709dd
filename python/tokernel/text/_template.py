# SPDX-License-Identifier: Apache-2.0
"""The special tokens that a post-processor puts around a text, or around two."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokernel.text._errors import FormatError

# A part of a template: "A", "B", or ids.
Part = str | tuple[int, ...]


@dataclass(frozen=True)
class Template:
    """The parts around one text (A) and around two (A and B)."""

    single: tuple[Part, ...] = ("A",)
    pair: tuple[Part, ...] = ("A", "B")
    spec: Mapping[str, Any] | None = field(default=None, compare=False)  # the JSON it was read from

    def apply(self, ids: Sequence[int], second: Sequence[int] | None = None) -> list[int]:
        """The ids with the tokens of the template around them."""
        texts: dict[str, Sequence[int]] = {"A": ids} if second is None else {"A": ids, "B": second}
        out: list[int] = []
        for part in self.single if second is None else self.pair:
            out.extend(texts[part] if isinstance(part, str) else part)
        return out


def parse(spec: Mapping[str, Any] | None, where: str = "post_processor") -> Template:
    """The template of a post-processor; ByteLevel's only concerns offsets, and has none."""
    return dataclasses.replace(_parse(spec, where), spec=spec)


def _parse(spec: Mapping[str, Any] | None, where: str) -> Template:
    if spec is None or spec.get("type") == "ByteLevel":
        return Template()
    kind = spec.get("type")
    if kind == "TemplateProcessing":
        return Template(_parts(spec, "single", where), _parts(spec, "pair", where))
    if kind in ("BertProcessing", "RobertaProcessing"):
        cls, sep = (int(spec["cls"][1]),), (int(spec["sep"][1]),)
        middle: tuple[Part, ...] = (sep, sep) if kind == "RobertaProcessing" else (sep,)
        return Template((cls, "A", sep), (cls, "A", *middle, "B", sep))
    if kind == "Sequence":
        inner = [_parse(s, f"{where}.processors[{i}]") for i, s in enumerate(spec.get("processors", []))]
        said = [t for t in inner if t != Template()]
        if len(said) > 1:
            raise FormatError(f"{where}: two post-processors that add tokens are not supported")
        return said[0] if said else Template()
    raise FormatError(
        f"{where}: {kind!r} is not supported; expected ByteLevel, TemplateProcessing, BertProcessing, "
        f"RobertaProcessing or a Sequence of them"
    )


def _parts(spec: Mapping[str, Any], key: str, where: str) -> tuple[Part, ...]:
    out: list[Part] = []
    for i, part in enumerate(spec.get(key, [])):
        if "Sequence" in part and part["Sequence"].get("id") in ("A", "B"):
            out.append(str(part["Sequence"]["id"]))
            continue
        name = part.get("SpecialToken", {}).get("id")
        token = spec.get("special_tokens", {}).get(name)
        if token is None:
            raise FormatError(f"{where}.{key}[{i}]: {name!r} is not in {where}.special_tokens")
        out.append(tuple(int(t) for t in token["ids"]))
    return tuple(out)
