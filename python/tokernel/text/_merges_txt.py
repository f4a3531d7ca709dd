# SPDX-License-Identifier: Apache-2.0
"""GPT-2's pair of files: vocab.json (token to id) and merges.txt (a merge a line, after an optional `#version`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tokernel.text import _atomic, _hf_save
from tokernel.text._atomic import PathLike
from tokernel.text._byte_map import BYTE_TO_CHAR
from tokernel.text._errors import FormatError
from tokernel.text._front import Front, PatternStep, SpaceStep, Step
from tokernel.text._hf_json import build, read_json
from tokernel.text._specials import from_dict
from tokernel.text._state import State
from tokernel.text.pretokenizer import Pattern


def load(
    vocab_path: PathLike,
    merges_path: PathLike,
    *,
    name: str | None = None,
    pat_str: str = "gpt2",
    special_tokens: Mapping[str, int] | None = None,
    add_prefix_space: bool = False,
) -> State:
    """The state of the two files. A special token that the vocabulary holds has its id there."""
    vocab = read_json(Path(vocab_path))
    if not isinstance(vocab, Mapping):
        raise FormatError(f"{vocab_path}: expected an object of tokens, got {type(vocab).__name__}")
    merges = _lines(Path(merges_path), vocab)
    special_tokens = dict(special_tokens) if special_tokens is not None else _left_over(vocab, merges)
    added = from_dict(special_tokens)
    try:
        drop = any(char not in vocab for char in BYTE_TO_CHAR)
        built = build(vocab, merges, special_tokens, "", False, drop)
    except FormatError as error:
        raise FormatError(f"{vocab_path}: {error}") from None
    steps: list[Step] = [PatternStep(Pattern(pat_str))]
    return State(
        name or Path(vocab_path).parent.name, built, Front([SpaceStep(), *steps] if add_prefix_space else steps), added
    )


def _lines(path: Path, vocab: Mapping[str, int]) -> list[list[str]]:
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 (byte {error.start})") from None
    merges = []
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise FormatError(f"{path}: line {number}: expected two tokens, got {line!r}")
        for token in (*parts, "".join(parts)):
            if token not in vocab:
                raise FormatError(f"{path}: line {number}: token {token!r} is not in the vocabulary")
        merges.append(parts)
    return merges


def _left_over(vocab: Mapping[str, int], merges: list[list[str]]) -> dict[str, int]:
    """Tokens of several characters that no merge makes: special tokens, as <|endoftext|> is."""
    made = {"".join(m) for m in merges}
    return {t: i for t, i in vocab.items() if len(t) > 1 and t not in made}


def save(state: State, vocab_path: PathLike, merges_path: PathLike) -> None:
    """Write both files; see Encoding.save_merges."""
    vocab, merges = _hf_save.vocab_and_merges(state)
    vocab |= {t.content: t.id for t in state.added}
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges), ""]
    _atomic.write_all(
        {
            vocab_path: json.dumps(vocab, ensure_ascii=False).encode(),
            merges_path: "\n".join(lines).encode(),
        }
    )
