# SPDX-License-Identifier: Apache-2.0
"""SentencePiece BPE with byte fallback, as exact byte probabilities need it: small, and on the CPU only."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from tokernel.text._byte_tokenizer import BOS, EOS, UNKNOWN, Array, Ids, TokenTable

__all__ = ["SentencePieceTokenizer"]

SPACE = "▁"
_SPACE = SPACE.encode()


def _lead_length(byte: int) -> int:
    """Bytes of the character that a legal first byte of several begins; 0 for any other byte."""
    if 0xC2 <= byte <= 0xDF:
        return 2
    if 0xE0 <= byte <= 0xEF:
        return 3
    return 4 if 0xF0 <= byte <= 0xF4 else 0


def _open_character(text: bytes) -> bytes:
    """The bytes of an unfinished character at the end; empty where the text ends on a complete one."""
    for back in range(1, min(3, len(text)) + 1):
        byte = text[-back]
        if byte >= 0xC0:
            return text[-back:] if _lead_length(byte) > back else b""
        if byte < 0x80:
            return b""
    return b""


def _may_begin(begun: bytes) -> bool:
    """Whether some character begins with these bytes (surrogates and overlong forms do not exist)."""
    missing = _lead_length(begun[0]) - len(begun)
    if missing < 0:
        return False
    for low, high in ((0x80, 0x80), (0xBF, 0xBF), (0x80, 0xBF)):
        tail = bytes([low, *[high] * 3])[:missing]
        try:
            (begun + tail).decode()
        except UnicodeDecodeError:
            continue
        return True
    return False


class SentencePieceTokenizer:
    """BPE over characters: the adjacent pair whose joint piece scores highest merges first, the leftmost among equals.

    Characters without a piece fall back to one token a byte. Spaces are U+2581 inside the model.

    Args:
        pieces: string of each id.
        scores: score of each id.
        is_byte: ids that stand for one byte, written ``<0x0A>``.
        is_control: ids without text: unknown, beginning, end, and any other.
        unk, bos, eos: their ids; None where there is none.
        add_dummy_prefix: a space is put before the text.

    Raises:
        ValueError: lists of different lengths.

    >>> pieces = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab"]
    >>> t = SentencePieceTokenizer(pieces, [0, 0, 0, -3, -2, -1, 0], [False] * 7, [True] * 3 + [False] * 4)
    >>> t.encode("▁ab".encode())
    (3, 6)
    """

    def __init__(
        self,
        pieces: Sequence[str],
        scores: Sequence[float],
        is_byte: Sequence[bool],
        is_control: Sequence[bool],
        unk: int | None = 0,
        bos: int | None = 1,
        eos: int | None = 2,
        add_dummy_prefix: bool = True,
    ) -> None:
        counts = [len(pieces), len(scores), len(is_byte), len(is_control)]
        if len(set(counts)) != 1:
            raise ValueError(f"SentencePieceTokenizer: lists must be equally long, got lengths {counts}")
        self.bos = bos
        self._unk = unk
        self._dummy = add_dummy_prefix
        self._bytes = {int(p[3:5], 16): i for i, p in enumerate(pieces) if is_byte[i]}
        plain = [i for i in range(len(pieces)) if not is_byte[i] and not is_control[i]]
        self._piece = {pieces[i]: i for i in plain}
        self._score = {pieces[i]: float(scores[i]) for i in plain}
        tokens = [b""] * len(pieces)
        for i in plain:
            tokens[i] = pieces[i].encode()
        for value, i in self._bytes.items():
            tokens[i] = bytes([value])
        self._byte_ids = frozenset(self._bytes.values())
        slots = {unk: UNKNOWN, bos: BOS, eos: EOS}
        self.table = TokenTable(tokens, {i: s for i, s in slots.items() if i is not None})
        self._certain = not any(SPACE in p.lstrip(SPACE) for p in self._piece)
        self._encode_word = lru_cache(1 << 16)(self._merge)

    def to_model(self, text: bytes, first: bool) -> bytes:
        """Spaces become U+2581, and one more stands in front where the model was trained so."""
        return (_SPACE if first and self._dummy else b"") + text.replace(b" ", _SPACE)

    def certain_cut(self, prefix: bytes) -> int:
        """Before the last space that follows something else; no piece reaches over it. 0 where there is none."""
        end = len(prefix)
        while self._certain and (space := prefix.rfind(_SPACE, 0, end)) > 0:
            if not prefix[:space].endswith(_SPACE) and not _open_character(prefix[:space]):
                return space
            end = space + len(_SPACE) - 1
        return 0

    def encode(self, tail: bytes) -> Ids | None:
        """Tokens of complete characters, then one byte token for each byte of an unfinished one.

        None: a byte has no token, or no character begins so.
        """
        open_bytes = _open_character(tail)
        complete = tail[: len(tail) - len(open_bytes)]
        try:
            text = complete.decode()
        except UnicodeDecodeError:
            return None
        pending = tuple(self._bytes.get(b, -1) for b in open_bytes)
        if -1 in pending or (open_bytes and not _may_begin(open_bytes)):
            return None
        ids: list[int] = []
        start = 0
        for i in range(1, len(text) + 1):
            if i == len(text) or (self._certain and text[i] == SPACE != text[i - 1]):
                ids += self._encode_word(text[start:i])
                start = i
        return (*ids, *pending)

    def spellings(self, tail: bytes) -> list[Ids]:
        """The tokens of `tail`: nothing that follows changes what came before, as long as no piece begins earlier."""
        ids = self.encode(tail)
        return [] if ids is None else [ids]

    def _merge(self, word: str) -> Ids:
        parts = list(word)
        while len(parts) > 1:
            joined = [self._score.get(a + b, -np.inf) for a, b in itertools.pairwise(parts)]
            best = int(np.argmax(joined))
            if joined[best] == -np.inf:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        return tuple(i for part in parts for i in self._ids_of(part))

    def _ids_of(self, part: str) -> list[int]:
        if part in self._piece:
            return [self._piece[part]]
        fallback = [self._bytes.get(b) for b in part.encode()]
        if None not in fallback:
            return [i for i in fallback if i is not None]
        if self._unk is None:
            raise ValueError(f"SentencePieceTokenizer: character {part!r} has no piece, no bytes and no unknown token")
        return [self._unk]

    def valid_next(self, tail: bytes, ids: Ids, candidates: Array) -> Array:
        """Bytes by the rules of UTF-8; pieces where encoding the longer text keeps `ids`.

        Special tokens always, but not inside a character.
        """
        open_bytes = _open_character(tail)
        valid = np.empty(len(candidates), dtype=bool)
        for k, token in enumerate(candidates.tolist()):
            text = self.table.tokens[token]
            if not text:
                valid[k] = not open_bytes
            elif token in self._byte_ids:
                valid[k] = self._byte_may_follow(tail, ids, open_bytes, token)
            else:
                valid[k] = not open_bytes and self.encode(tail + text) == (*ids, token)
        return valid

    def _byte_may_follow(self, tail: bytes, ids: Ids, open_bytes: bytes, token: int) -> bool:
        value = self.table.tokens[token][0]
        if not open_bytes:
            if value >= 0x80:
                return _lead_length(value) > 0
            return value != 0x20 and self.encode(tail + bytes([value])) == (*ids, token)
        begun = open_bytes + bytes([value])
        if not 0x80 <= value <= 0xBF or not _may_begin(begun):
            return False
        return _lead_length(begun[0]) > len(begun) or begun.decode() not in self._piece
