# SPDX-License-Identifier: Apache-2.0
"""tiktoken's rank files: a line `base64 SPACE rank` for each token."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from tokernel.kernels import bpe
from tokernel.text import _atomic, _registry
from tokernel.text._atomic import PathLike
from tokernel.text._errors import FormatError
from tokernel.text._front import Front, PatternStep
from tokernel.text._specials import from_dict
from tokernel.text._state import State, tokens_of
from tokernel.text.pretokenizer import Pattern


def load(
    path: PathLike,
    pat_str: str | None,
    special_tokens: Mapping[str, int] | None,
    name: str | None,
    explicit_n_vocab: int | None,
) -> State:
    """The state of a file; what is not given comes from its hash, if that is known."""
    data = Path(path).read_bytes()
    known = None
    if pat_str is None:
        file = _registry.known_file(data)
        if file is None:
            raise ValueError(
                f"from_tiktoken: {str(path)!r} is no published rank file; pass its pat_str (a regex, or one of gpt2, "
                f"cl100k, o200k, qwen2, tekken, none) and special_tokens"
            )
        known = _registry.ENCODINGS[file]
        name, pat_str = name or file, known.pattern
    specials = special_tokens if special_tokens is not None else known.special_tokens if known else {}
    state = parse(data, str(path), pat_str, specials, name or Path(path).stem)
    count = state.vocab.size + len(specials)
    if explicit_n_vocab is not None and explicit_n_vocab != count:
        raise FormatError(f"{path}: explicit_n_vocab is {explicit_n_vocab}, but there are {count} tokens")
    return state


def parse(data: bytes, where: str, pattern: str, special_tokens: Mapping[str, int], name: str) -> State:
    """The state of a file's content."""
    added = from_dict(special_tokens)
    try:
        tokens, offsets, ranks = bpe.parse_ranks(data)
        vocab = bpe.Vocab((tokens, offsets), ranks)
    except ValueError:
        _lines(data, where)  # says what is wrong with which line
        raise
    if not vocab.size:
        raise FormatError(f"{where}: holds no token")
    _check_gaps(ranks, special_tokens, where)
    return State(name, vocab, Front([PatternStep(Pattern(pattern))]), added)


def _lines(data: bytes, where: str) -> tuple[list[bytes], list[int]]:
    tokens: list[bytes] = []
    ranks: list[int] = []
    decode, encode, digits = binascii.a2b_base64, binascii.b2a_base64, bytes.isdigit
    for number, line in enumerate(data.splitlines(), 1):
        if not line:
            continue
        encoded, _, rank = line.partition(b" ")
        try:
            token = decode(encoded)
        except binascii.Error as error:
            raise FormatError(f"{where}: line {number}: not base64: {encoded!r} ({error})") from None
        if encode(token, newline=False) != encoded:  # decoding passes over what is none
            raise FormatError(f"{where}: line {number}: not base64: {encoded!r}")
        if not token or not digits(rank) or len(rank) > 9:
            raise FormatError(f"{where}: line {number}: expected a token in base64, a space and a rank, got {line!r}")
        tokens.append(token)
        ranks.append(int(rank))
    if not tokens:
        raise FormatError(f"{where}: holds no token")
    for kind, values in (("token", tokens), ("rank", ranks)):
        if len(set(values)) < len(values):
            _name_repeated(kind, values, where)
    return tokens, ranks


def _name_repeated(kind: str, values: Sequence[object], where: str) -> NoReturn:
    first: dict[object, int] = {}
    for number, value in enumerate(values, 1):
        if (before := first.setdefault(value, number)) != number:
            raise FormatError(f"{where}: line {number}: {kind} {value!r} is that of line {before} too")
    raise AssertionError("no value is repeated")


def save(state: State, path: PathLike) -> None:
    """Write the vocabulary of a state; see Encoding.save_tiktoken."""
    check_ids_order_merges(state)
    data, offsets, ids = tokens_of(state.vocab)
    whole, ends = data.tobytes(), offsets.tolist()
    order = np.argsort(ids, kind="stable").tolist()
    lines = [b"%s %d\n" % (base64.b64encode(whole[ends[i] : ends[i + 1]]), ids[i]) for i in order]
    _atomic.write(path, b"".join(lines))


def check_ids_order_merges(state: State) -> None:
    """ValueError unless merging by the smallest id gives what the merge list gives."""
    merges = state.merges
    if merges is None:
        return
    results = merges[:, 2]
    if (np.diff(results) <= 0).any():
        at = int(np.argmax(np.diff(results) <= 0)) + 1
        raise ValueError(
            f"save_tiktoken: {state.name!r}: merge {at} makes token {results[at]} after token {results[at - 1]}; a "
            f"rank file cannot say that ids are not the order of merging"
        )


def _check_gaps(ranks: np.ndarray[tuple[int], np.dtype[np.int64]], specials: Mapping[str, int], where: str) -> None:
    present = np.zeros(int(ranks.max(initial=-1)) + 1, bool)
    present[ranks] = True
    taken = [i for i in specials.values() if i < present.size]
    present[taken] = True
    if not present.all():
        missing = int(np.argmin(present))
        raise FormatError(f"{where}: no token has rank {missing}, but ranks go to {present.size - 1}")
