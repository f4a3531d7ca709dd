# SPDX-License-Identifier: Apache-2.0
"""GPT-2's alphabet: one printable character for every byte, in which tokenizer.json and vocab.json write their tokens.

The bytes 21-7E, A1-AC and AE-FF (hex) stand for the code point of the same number; the other 68, in ascending order,
for U+0100, U+0101, ... So a space is written U+0120 and a newline U+010A.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tokernel.text._errors import FormatError

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]

_SAME = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_MOVED = tuple(b for b in range(256) if b not in _SAME)

BYTE_TO_CHAR: tuple[str, ...] = tuple(chr(b) if b in _SAME else chr(0x100 + _MOVED.index(b)) for b in range(256))
CHAR_TO_BYTE: dict[str, int] = {c: b for b, c in enumerate(BYTE_TO_CHAR)}
# The bytes in the order of GPT-2's ids 0..255, and of the alphabet that HF's trainer starts from.
ALPHABET: tuple[int, ...] = (*_SAME, *_MOVED)

_TO_CHAR = dict(enumerate(BYTE_TO_CHAR))
_NO_BYTE = 256
_TABLE = np.full(1 << 16, _NO_BYTE, np.uint16)
_TABLE[[ord(c) for c in BYTE_TO_CHAR]] = np.arange(256, dtype=np.uint16)


def to_chars(token: bytes) -> str:
    """The token in the alphabet."""
    return token.decode("latin-1").translate(_TO_CHAR)


def to_bytes(token: str) -> bytes:
    """The bytes of a token in the alphabet; ValueError names a character that is not of it."""
    try:
        return bytes(map(CHAR_TO_BYTE.__getitem__, token))
    except KeyError as error:
        raise FormatError(f"token {token!r} holds {error.args[0]!r}, which stands for no byte") from None


def is_mapped(token: str) -> bool:
    """Whether all characters of the token stand for bytes."""
    return all(map(CHAR_TO_BYTE.__contains__, token))


def bytes_of_all(tokens: Sequence[str], field: str) -> tuple[Bytes, Offsets]:
    """The bytes of many tokens at once: flat, with offsets; FormatError names one with another character."""
    offsets = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, tokens), np.int64, len(tokens)), out=offsets[1:])
    units = np.frombuffer("".join(tokens).encode("utf-16-le", "surrogatepass"), np.uint16)
    flat = _TABLE[units]
    if units.size != offsets[-1] or (flat == _NO_BYTE).any():
        wrong = next(t for t in tokens if not is_mapped(t))
        char = next(c for c in wrong if c not in CHAR_TO_BYTE)
        raise FormatError(
            f"{field}: token {wrong!r} holds {char!r}, which stands for no byte; expected a byte-level vocabulary"
        )
    return flat.astype(np.uint8), offsets


def chars_of_all(flat: bytes, offsets: Sequence[int]) -> list[str]:
    """Many tokens in the alphabet at once."""
    text = to_chars(flat)
    return [text[a:b] for a, b in itertools.pairwise(offsets)]
