# SPDX-License-Identifier: Apache-2.0
"""The special tokens that a post-processor puts around a text, or around two."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokernel.text._errors import FormatError
from tokernel.text._json_fields import a_list, an_id, an_object

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
    kind = "ByteLevel" if spec is None else an_object(spec, where).get("type")
    if spec is None or kind == "ByteLevel":
        return Template()
    if kind == "TemplateProcessing":
        return Template(_parts(spec, "single", where), _parts(spec, "pair", where))
    if kind in ("BertProcessing", "RobertaProcessing"):
        cls, sep = _named_id(spec, "cls", where), _named_id(spec, "sep", where)
        middle: tuple[Part, ...] = (sep, sep) if kind == "RobertaProcessing" else (sep,)
        return Template((cls, "A", sep), (cls, "A", *middle, "B", sep))
    if kind == "Sequence":
        specs = a_list(spec.get("processors", []), f"{where}.processors")
        inner = [_parse(s, f"{where}.processors[{i}]") for i, s in enumerate(specs)]
        said = [t for t in inner if t != Template()]
        if len(said) > 1:
            raise FormatError(f"{where}: two post-processors that add tokens are not supported")
        return said[0] if said else Template()
    raise FormatError(
        f"{where}: {kind!r} is not supported; expected ByteLevel, TemplateProcessing, BertProcessing, "
        f"RobertaProcessing or a Sequence of them"
    )


def _named_id(spec: Mapping[str, Any], key: str, where: str) -> tuple[int]:
    """The id of [token, id]."""
    named = a_list(spec.get(key), f"{where}.{key}")
    if len(named) != 2:
        raise FormatError(f"{where}.{key}: expected a token and its id, got {named!r}")
    return (an_id(named[1], f"{where}.{key}[1]"),)


def _parts(spec: Mapping[str, Any], key: str, where: str) -> tuple[Part, ...]:
    out: list[Part] = []
    tokens = an_object(spec.get("special_tokens", {}), f"{where}.special_tokens")
    for i, value in enumerate(a_list(spec.get(key, []), f"{where}.{key}")):
        at = f"{where}.{key}[{i}]"
        part = an_object(value, at)
        if "Sequence" in part and an_object(part["Sequence"], f"{at}.Sequence").get("id") in ("A", "B"):
            out.append(str(part["Sequence"]["id"]))
            continue
        name = an_object(part.get("SpecialToken", {}), f"{at}.SpecialToken").get("id")
        if not isinstance(name, str) or name not in tokens:
            raise FormatError(f"{at}: {name!r} is not in {where}.special_tokens")
        token = f"{where}.special_tokens.{name}"
        ids = a_list(an_object(tokens[name], token).get("ids"), f"{token}.ids")
        out.append(tuple(an_id(t, f"{token}.ids[{k}]") for k, t in enumerate(ids)))
    return tuple(out)
