# SPDX-License-Identifier: Apache-2.0
"""Which part of the text each id stands for."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np
import numpy.typing as npt

from tokernel.kernels import bpe
from tokernel.text._state import State
from tokernel.text.pretokenizer import characters_before

Index = npt.NDArray[np.int64]


def encode(state: State, text: str, allowed: AbstractSet[str] | None, unit: str, trim: bool) -> tuple[list[int], Index]:
    """Ids, and (N, 2) spans in the text."""
    if unit not in ("byte", "char"):
        raise ValueError(f'encode_with_offsets: unit: expected "byte" or "char", got {unit!r}')
    data = text.encode()
    ids: list[int] = []
    spans: list[Index] = [np.zeros((0, 2), np.int64)]
    for segment in state.finder.segments(data, allowed):
        if segment.id is not None:
            ids.append(segment.id)
            spans.append(np.array([[segment.start, segment.end]], np.int64))
            continue
        part = data[segment.start : segment.end].decode()
        inner_ids, inner = _segment(state, part, allowed, trim, segment.start == 0)
        ids.extend(inner_ids)
        spans.append(inner + segment.start)
    out = np.concatenate(spans)
    if unit == "char" and len(out) and not (text.isascii() and state.front.tiles):
        count = characters_before(data)
        # A space that was put there stands for nothing; in characters it reports the one that it stands before.
        empty = (out[:, 0] == out[:, 1]) & trim
        last = np.maximum(count[out[:, 1]], count[np.minimum(out[:, 0] + 1, count.size - 1)])
        out = np.stack([np.where(empty, count[out[:, 0]], _char_of(count, out[:, 0])), last], axis=1)
        out[empty, 1] = out[empty, 0]
    return ids, out


def _char_of(count: Index, byte: Index) -> Index:
    """The character that each byte is part of."""
    return count[np.minimum(byte + 1, count.size - 1)] - 1


def _segment(
    state: State, text: str, allowed: AbstractSet[str] | None, trim: bool, first: bool
) -> tuple[list[int], Index]:
    """Ids and byte spans of a text between added tokens."""
    if state.front.normalizer is None and not state.normalized_finder.may_be_in(text):
        return _part(state, text, trim, first)
    normal, begin, end = (
        state.front.normalizer.align(text)
        if state.front.normalizer is not None
        else (text, np.arange(len(text)), np.arange(len(text)) + 1)
    )
    position = np.flatnonzero(np.diff(characters_before(text.encode()), append=-1))
    # Where each byte of the normalized text comes from: of a character that is still itself, the byte; else all of it.
    data = normal.encode()
    char = np.maximum(characters_before(data)[1:] - 1, 0)
    start_of = np.flatnonzero(np.diff(characters_before(data), append=-1))
    offset = np.arange(len(data)) - start_of[char]
    same = np.array([end[i] == begin[i] + 1 and text[begin[i]] == c for i, c in enumerate(normal)], bool)[char]
    byte_begin = position[begin[char]] + np.where(same, offset, 0)
    byte_end = np.where(same, byte_begin + 1, position[end[char]])
    ids: list[int] = []
    spans: list[Index] = [np.zeros((0, 2), np.int64)]
    for inner in state.normalized_finder.segments(data, allowed):
        if inner.id is not None:
            found, at = [inner.id], np.array([[0, inner.end - inner.start]], np.int64)
        else:
            found, at = _part(state, data[inner.start : inner.end].decode(), trim, first and inner.start == 0)
        ids.extend(found)
        spans.append(_through(at + inner.start, byte_begin, byte_end))
    return ids, np.concatenate(spans)


def _part(state: State, text: str, trim: bool, first: bool) -> tuple[list[int], Index]:
    """Ids and byte spans of a normalized text without added tokens."""
    data, ends = state.front.prepare(text)
    whole = data.encode() if isinstance(data, str) else data
    if ends is None:
        ids, token_ends = bpe.encode(state.vocab, whole, state.front.scanner or "none", offsets=True)
    else:
        ids, token_ends = bpe.encode(state.vocab, whole, ends=ends, offsets=True)
    span = np.stack([np.append(np.zeros(1, np.int64), token_ends)[: len(token_ends)], token_ends], axis=1)
    kept = _trimmed(span, whole, state.front.spaces_first, first) if trim else span
    return ids.tolist(), kept if state.front.tiles else _through(kept, *state.front.origin(text))


def _through(span: Index, begin: Index, end: Index) -> Index:
    """Spans of bytes as spans of what those bytes stand for."""
    if not begin.size:
        return np.zeros((len(span), 2), np.int64)
    empty = span[:, 0] >= span[:, 1]
    start = np.where(span[:, 0] < begin.size, begin[np.minimum(span[:, 0], begin.size - 1)], end[-1])
    stop = end[np.maximum(span[:, 1] - 1, 0)]
    return np.stack([start, np.where(empty, start, stop)], axis=1)


def _trimmed(span: Index, data: bytes, spaced: bool, first: bool) -> Index:
    """The spans without spaces at either end. The first token of the text keeps one leading space where the
    pre-tokenizer puts one there."""
    blank = np.frombuffer(data, np.uint8) == 0x20
    at = np.arange(blank.size + 1)
    # The next position at or after each that is no space, and the last before each.
    ahead = np.minimum.accumulate(np.append(np.where(blank, blank.size, at[:-1]), blank.size)[::-1])[::-1]
    behind = np.maximum.accumulate(np.concatenate([[0], np.where(blank, 0, at[:-1] + 1)]))
    begin = np.minimum(ahead[span[:, 0]], span[:, 1])
    if first and spaced and len(span) and begin[0] > span[0, 0]:
        begin[0] -= 1
    return np.stack([begin, np.maximum(behind[span[:, 1]], begin)], axis=1)
