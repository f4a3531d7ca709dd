# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's tokenizer.json, where it holds byte-level BPE."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokernel.kernels import bpe
from tokernel.text import _normalizers, _steps, _template
from tokernel.text._atomic import PathLike
from tokernel.text._byte_map import BYTE_TO_CHAR, bytes_of_all, is_mapped
from tokernel.text._errors import FormatError
from tokernel.text._front import Front
from tokernel.text._json_fields import a_list, an_id, an_object
from tokernel.text._specials import AddedToken, unique
from tokernel.text._state import State

_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def load(source: PathLike | Mapping[str, Any], name: str | None) -> State:
    """The state of a file, or of its parsed content."""
    if isinstance(source, Mapping):
        return parse(source, "tokenizer.json", name or "tokenizer.json")
    if not isinstance(source, str | os.PathLike):
        raise FormatError(f"from_hf: expected a path, a pair of paths or an object, got {type(source).__name__}")
    path = Path(source)
    path = path / "tokenizer.json" if path.is_dir() else path
    return parse(read_json(path), str(path), name or path.parent.name or path.stem)


def read_json(path: Path) -> Any:
    """The content of a JSON file; FormatError names the line of what is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise FormatError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise FormatError(f"{path}: nested too deeply") from None


def parse(content: Any, where: str, name: str) -> State:
    """The state of the parsed content."""
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise FormatError(f"{where}: model: missing; expected a tokenizer.json")
    try:
        added = _added(a_list(content.get("added_tokens") or [], "added_tokens"))
        if (decoder := content.get("decoder")) is not None:
            kind = an_object(decoder, "decoder").get("type")
            if kind != "ByteLevel":
                raise FormatError(f"decoder: {kind!r} is not supported; expected ByteLevel")
        vocab = _model(content["model"], {t.content: t.id for t in added})
        steps = _steps.parse(content.get("pre_tokenizer"), "pre_tokenizer")
        normalizer = _normalizers.parse(content.get("normalizer"), "normalizer")
        template = _template.parse(content.get("post_processor"))
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None
    except RecursionError:
        raise FormatError(f"{where}: nested too deeply") from None
    return State(name, vocab, Front(steps, normalizer, content.get("pre_tokenizer")), added, template)


def _added(items: Sequence[Any]) -> tuple[AddedToken, ...]:
    tokens = []
    for i, value in enumerate(items):
        item = an_object(value, f"added_tokens[{i}]")
        content, token = item.get("content"), an_id(item.get("id"), f"added_tokens[{i}].id")
        if not isinstance(content, str):
            raise FormatError(f"added_tokens[{i}].content: expected a string, got {content!r}")
        flags = {flag: bool(item.get(flag, False)) for flag in _FLAGS}
        tokens.append(AddedToken(content, token, bool(item.get("special", False)), **flags))
    try:
        return tuple(unique(tokens))
    except ValueError as error:
        raise FormatError(f"added_tokens: {error}") from None


def _model(model: Mapping[str, Any], added: Mapping[str, int]) -> bpe.Vocab:
    kind = model.get("type", "BPE")
    if kind != "BPE":
        raise FormatError(f"model.type: {kind!r} is not supported; expected BPE")
    if model.get("dropout"):
        raise FormatError(f"model.dropout: {model['dropout']} is not supported; expected null")
    for field in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(field):
            raise FormatError(f"model.{field}: {model[field]!r} is not supported; expected none")
    vocab = model.get("vocab")
    if not isinstance(vocab, Mapping):
        raise FormatError("model.vocab: missing; expected an object of tokens")
    missing = [b for b, char in enumerate(BYTE_TO_CHAR) if char not in vocab]
    if missing and (model.get("unk_token") or model.get("byte_fallback")):
        field = "unk_token" if model.get("unk_token") else "byte_fallback"
        raise FormatError(
            f"model.{field}: not supported for a vocabulary without all bytes (byte {missing[0]:#04x} is none)"
        )
    merges = a_list(model.get("merges") or [], "model.merges")
    return build(vocab, merges, added, "model.", bool(model.get("ignore_merges")), bool(missing))


def build(
    vocab: Mapping[str, int], merges: Sequence[Any], added: Mapping[str, int], prefix: str, whole: bool, drop: bool
) -> bpe.Vocab:
    """The vocabulary of strings in the byte alphabet; entries that are added tokens are left out of it."""
    for content, token in added.items():
        if vocab.get(content, token) != token:
            raise FormatError(f"added_tokens: {content!r} has id {token}, but {vocab[content]} in {prefix}vocab")
    left, right = _sides(merges, prefix)
    kept = [t for t in added if t in vocab]
    made = set(map(operator.add, left, right)) if kept else set()
    left_out = {t for t in kept if t not in made or not is_mapped(t)}
    tokens = [t for t in vocab if t not in left_out] if left_out else list(vocab)
    flat, offsets = bytes_of_all(tokens, f"{prefix}vocab")
    ids = [vocab[t] for t in tokens]
    if not all(type(i) is int and 0 <= i < 2**31 for i in ids):
        wrong = next(t for t in tokens if type(vocab[t]) is not int or not 0 <= vocab[t] < 2**31)
        raise FormatError(f"{prefix}vocab: {wrong!r}: expected an id >= 0, got {vocab[wrong]!r}")
    triples = _triples(vocab, left, right, prefix)
    try:
        return bpe.Vocab(
            (flat, offsets),
            np.array(ids, np.int64),
            triples,
            whole_piece=whole,
            missing="drop" if drop else "error",
        )
    except ValueError as error:
        raise FormatError(f"{prefix}vocab: {error}") from None


def _sides(merges: Sequence[Any], prefix: str) -> tuple[list[str], list[str]]:
    """The left and the right tokens of merges, which are lines "a b" or lists [a, b]."""
    left, right = [], []
    for i, merge in enumerate(merges):
        parts = merge.split(" ") if type(merge) is str else merge
        if type(parts) is not list or len(parts) != 2 or type(parts[0]) is not str or type(parts[1]) is not str:
            raise FormatError(f"{prefix}merges[{i}]: expected two tokens, got {merge!r}")
        left.append(parts[0])
        right.append(parts[1])
    return left, right


def _triples(vocab: Mapping[str, int], left: list[str], right: list[str], prefix: str) -> npt.NDArray[np.int64]:
    sides = (left, right, list(map(operator.add, left, right)))
    try:
        return np.stack([np.fromiter(map(vocab.__getitem__, side), np.int64, len(side)) for side in sides], axis=1)
    except KeyError:
        for i, merge in enumerate(zip(*sides, strict=True)):
            for token in merge:
                if token not in vocab:
                    raise FormatError(f"{prefix}merges[{i}]: token {token!r} is not in {prefix}vocab") from None
        raise
