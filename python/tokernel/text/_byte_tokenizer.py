# SPDX-License-Identifier: Apache-2.0
"""What exact byte probabilities ask of a tokenizer, and the answer for byte-level BPE."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Protocol, TypeAlias

import numpy as np

from tokernel.kernels import bpe

__all__ = ["UNKNOWN", "BOS", "EOS", "SLOTS", "ByteLevelTokenizer", "ByteTokenizer", "TokenTable"]

UNKNOWN, BOS, EOS = 256, 257, 258
SLOTS = 259
"""Outcomes of a step: the 256 bytes, any other special token, the beginning of a text, its end."""

Ids: TypeAlias = tuple[int, ...]
Array: TypeAlias = np.ndarray[Any, Any]

# Every compiled pre-tokenizer cuts before a space that follows anything but white space.
_CUT_BEFORE_SPACES = ("gpt2", "cl100k", "llama3", "o200k", "qwen2", "tekken")


class TokenTable:
    """The bytes of all tokens, flat, with what is asked of them all at once.

    Args:
        tokens: bytes of each id; empty for special tokens.
        slots: id of a special token -> its slot; those that are missing here have :data:`UNKNOWN`.
    """

    def __init__(self, tokens: list[bytes], slots: dict[int, int]) -> None:
        self.tokens = tokens
        self.length = np.array([len(t) for t in tokens], dtype=np.int64)
        self.offset = np.concatenate(([0], np.cumsum(self.length)))
        self.arena = np.frombuffer(b"".join(tokens) + b"\0", dtype=np.uint8)
        self.slot = np.where(self.length > 0, self.arena[np.minimum(self.offset[:-1], len(self.arena) - 1)], UNKNOWN)
        self.slot = self.slot.astype(np.int64)
        for token, slot in slots.items():
            self.slot[token] = slot
        order = sorted((t, i) for i, t in enumerate(tokens) if t)
        self._sorted = [t for t, _ in order]
        self._ids = np.array([i for _, i in order], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.tokens)

    def byte_at(self, ids: Array, position: int | Array) -> Array:
        """Byte `position` of each token, -1 where it is shorter."""
        inside = self.length[ids] > position
        return np.where(inside, self.arena[np.where(inside, self.offset[ids] + position, 0)].astype(np.int64), -1)

    def with_prefix(self, prefix: bytes) -> Array:
        """Ids of all tokens that begin with `prefix`, in the order of their bytes."""
        low = bisect_left(self._sorted, prefix)
        high = bisect_left(self._sorted, prefix + b"\xff" * (int(self.length.max(initial=0)) + 1))
        return self._ids[low:high]


class ByteTokenizer(Protocol):
    """A deterministic tokenizer over the bytes that a model sees."""

    table: TokenTable
    bos: int | None
    """Token before the first byte; None: the model needs none."""

    def to_model(self, text: bytes, first: bool) -> bytes:
        """Turn bytes of a text into those of the model; `first`: nothing precedes them."""
        ...

    def certain_cut(self, prefix: bytes) -> int:
        """Return the last position of `prefix` where a token surely ends, whatever follows."""
        ...

    def encode(self, tail: bytes) -> Ids | None:
        """Canonical tokens of what follows a certain cut; None where there are none."""
        ...

    def spellings(self, tail: bytes) -> list[Ids]:
        """Return every beginning of a canonical sequence that spells `tail`, :meth:`encode`'s first.

        There are others where a pre-tokenizer looks ahead: two blanks are one piece at the end, and two before a word.
        """
        ...

    def valid_next(self, tail: bytes, ids: Ids, candidates: Array) -> Array:
        """Which tokens may follow `ids`, a spelling of `tail`, in a canonical sequence."""
        ...


class ByteLevelTokenizer:
    """Byte-level BPE. Bytes that are no valid UTF-8 are characters of no class, as everywhere in this package.

    Args:
        vocab: the vocabulary, its special tokens not included.
        pattern: name of the pre-tokenizer, as :func:`tokernel.kernels.bpe.split` takes it.
        bos: id of the special token before the first byte; None: the model needs none.
        eos: id of the special token that ends a text; None: there is none. May be that of `bos`.
        size: ids of the model, special ones included; None: one more than the largest known here.

    >>> t = ByteLevelTokenizer(bpe.Vocab([b"a", b"b", b"ab"]), "gpt2", bos=3, eos=3)
    >>> t.encode(b"aab")
    (0, 2)
    """

    def __init__(
        self, vocab: bpe.Vocab, pattern: str, bos: int | None, eos: int | None = None, size: int | None = None
    ) -> None:
        slots = {i: slot for i, slot in ((bos, BOS), (eos, EOS)) if i is not None}
        known = vocab.tables()["ids"].tolist()
        least = max([*known, *slots], default=-1) + 1
        if size is not None and size < least:
            raise ValueError(f"ByteLevelTokenizer: size must be at least {least}, the ids known here, got {size}")
        tokens = [b""] * (least if size is None else size)
        for i in known:
            tokens[i] = vocab.token_bytes(i)
        self.bos = bos
        self.table = TokenTable(tokens, slots)
        self._vocab = vocab
        self._pattern = pattern
        self._cuts = pattern in _CUT_BEFORE_SPACES

    def to_model(self, text: bytes, first: bool) -> bytes:
        """The model sees the bytes as they are."""
        return text

    def certain_cut(self, prefix: bytes) -> int:
        """Before the last run of spaces that follows something else than white space; 0 where there is none.

        The whole run: where a run is cut depends on what follows it.
        """
        end = len(prefix)
        while self._cuts and (space := prefix.rfind(b" ", 0, end)) > 0:
            start = space
            while start > 0 and prefix[start - 1 : start] == b" ":
                start -= 1
            before = prefix[max(0, start - 4) : start].decode("utf-8", "replace")
            if before and not before[-1].isspace():
                return start
            end = start
        return 0

    def encode(self, tail: bytes) -> Ids:
        """Tokens of `tail`, specials spelt out."""
        return tuple(bpe.encode(self._vocab, tail, self._pattern).tolist())

    def spellings(self, tail: bytes) -> list[Ids]:
        """The tokens of `tail`, and those that it has before a character that changes where its pieces end."""
        found = [self.encode(tail)]
        for ends in _other_ends(tail, self._pattern):
            ids = tuple(bpe.encode(self._vocab, tail, ends=ends).tolist())
            if ids not in found:
                found.append(ids)
        return found

    def valid_next(self, tail: bytes, ids: Ids, candidates: Array) -> Array:
        """Encode `tail` with each candidate behind it, and look whether the tokens stayed.

        Special tokens end the text, and so may follow its canonical tokens alone.
        """
        special = self.table.length[candidates] == 0
        valid: Array = special & (ids == self.encode(tail))
        valid[~special] = self._stay(tail, ids, candidates[~special])
        for k in np.flatnonzero(~valid & ~special & self._may_change(tail, candidates)).tolist():
            token = int(candidates[k])
            valid[k] = (*ids, token) in self.spellings(tail + self.table.tokens[token])
        return valid

    def _may_change(self, tail: bytes, candidates: Array) -> Array:
        """Which tokens leave pieces behind that may yet end elsewhere."""
        length = self.table.length[candidates]
        last = self.table.byte_at(candidates, length - 1)
        before = np.where(length > 1, self.table.byte_at(candidates, np.maximum(length - 2, 0)), (tail or b"a")[-1])
        contracted = (before == ord("'")) & np.isin(last, list(_CONTRACTED))
        return np.asarray(contracted | np.isin(last, list(_BLANKS)))

    def _stay(self, tail: bytes, ids: Ids, tokens: Array) -> Array:
        """Whether the tokens of `tail` with each token behind it are `ids` and the token."""
        table = self.table
        lengths = table.length[tokens] + len(tail)
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        of_token = np.arange(offsets[-1]) - np.repeat(offsets[:-1] + len(tail), lengths)
        text = np.empty(len(of_token), dtype=np.uint8)
        behind = of_token >= 0
        text[behind] = table.arena[(np.repeat(table.offset[tokens], lengths) + of_token)[behind]]
        text[~behind] = np.tile(np.frombuffer(tail, dtype=np.uint8), len(tokens))
        got, ends = bpe.encode_batch(self._vocab, (text, offsets), self._pattern)
        same: Array = np.diff(ends) == len(ids) + 1
        rows = got[ends[:-1][same][:, None] + np.arange(len(ids) + 1)]
        expected = np.concatenate((np.tile(np.array(ids, dtype=np.int64), (len(rows), 1)), tokens[same][:, None]), 1)
        same[same] = (rows == expected).all(1)
        return same


_BLANKS = b" \t\r\n\x0b\x0c"
_NEWLINES = b"\r\n"
_CONTRACTED = b"lrvLRV"
# Patterns in which blanks between newlines belong to them.
_NEWLINE_PIECES = ("cl100k", "llama3", "o200k", "qwen2", "tekken")


def _other_ends(tail: bytes, pattern: str) -> list[Array]:
    """Where pieces end if the text goes on, for each way in which that differs from the end of the text.

    A word takes the last of several blanks; a newline takes the blanks before it; a letter completes a contraction.
    """
    if pattern == "none" or not tail:
        return []
    ends = bpe.split(tail, pattern)
    start = int(ends[-2]) if len(ends) > 1 else 0
    last = tail[start:]
    others = []
    blank = last.strip(_BLANKS) == b""
    if blank and len(last) > 1 and (pattern == "gpt2" or last[-1] not in _NEWLINES):
        others.append(np.insert(ends, -1, len(tail) - 1))
    if blank and pattern in _NEWLINE_PIECES and start and tail[start - 1] in _NEWLINES:
        others.append(np.delete(ends, -2))
    if len(last) == 1 and last in _CONTRACTED and tail[start - 1 : start] == b"'" and len(ends) > 1:
        others.append(np.delete(ends, -2))
    return others
