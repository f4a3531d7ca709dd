# SPDX-License-Identifier: Apache-2.0
"""Mistral's tekken JSON: tiktoken's ranks, moved up by the number of special tokens."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tokernel.kernels import bpe
from tokernel.text._atomic import PathLike
from tokernel.text._errors import FormatError
from tokernel.text._front import Front, PatternStep
from tokernel.text._hf_json import read_json
from tokernel.text._json_fields import an_id
from tokernel.text._specials import AddedToken, unique
from tokernel.text._state import State
from tokernel.text.pretokenizer import Pattern

_MOST_SPECIALS = 2**20

# The names of the first special tokens, for files that do not list them.
_NAMES = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip


def load(path: PathLike, name: str | None) -> State:
    """The state of a file: the first `default_vocab_size - default_num_special_tokens` ranks, ids moved up."""
    path = Path(path)
    content = read_json(path)
    try:
        config = content["config"]
        regex, entries = config["pattern"], content["vocab"]
        size, specials = config["default_vocab_size"], config["default_num_special_tokens"]
    except (KeyError, TypeError) as error:
        raise FormatError(f"{path}: config: missing or wrong {error}; expected a tekken file") from None
    if not isinstance(regex, str):
        raise FormatError(f"{path}: config.pattern: expected a string, got {regex!r}")
    count = an_id(size, f"{path}: config.default_vocab_size") - _specials_count(specials, f"{path}: config")
    if not isinstance(entries, list) or count <= 0 or len(entries) < count:
        raise FormatError(f"{path}: vocab: expected at least {count} tokens")
    tokens = [_token(entry, i, str(path)) for i, entry in enumerate(entries[:count])]
    try:
        vocab = bpe.Vocab(tokens, np.arange(specials, size, dtype=np.int64))
    except ValueError as error:
        raise FormatError(f"{path}: vocab: {error}") from None
    added = _specials(content.get("special_tokens"), specials, str(path))
    return State(name or path.stem, vocab, Front([PatternStep(Pattern(regex))]), added)


def _specials_count(value: Any, where: str) -> int:
    """The number of special tokens; each takes memory, listed or not."""
    number = an_id(value, f"{where}.default_num_special_tokens")
    if number > _MOST_SPECIALS:
        raise FormatError(f"{where}.default_num_special_tokens: expected at most {_MOST_SPECIALS}, got {number}")
    return number


def _token(entry: Any, at: int, where: str) -> bytes:
    if not isinstance(entry, Mapping) or entry.get("rank") != at:
        raise FormatError(f"{where}: vocab[{at}]: expected rank {at}, got {entry!r}")
    try:
        return base64.b64decode(entry["token_bytes"], validate=True)
    except (KeyError, TypeError, binascii.Error):
        raise FormatError(f"{where}: vocab[{at}].token_bytes: not base64: {entry.get('token_bytes')!r}") from None


def _specials(listed: Any, count: int, where: str) -> tuple[AddedToken, ...]:
    names = dict(enumerate(_NAMES[:count]))
    if listed:
        try:
            names = {int(item["rank"]): str(item["token_str"]) for item in listed}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise FormatError(f"{where}: special_tokens: missing or wrong {error}") from None
    tokens = [AddedToken(names.get(i, f"<SPECIAL_{i}>"), i) for i in range(count)]
    try:
        return tuple(unique(tokens))
    except ValueError as error:
        raise FormatError(f"{where}: special_tokens: {error}") from None
