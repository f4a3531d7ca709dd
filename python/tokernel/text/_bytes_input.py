# SPDX-License-Identifier: Apache-2.0
"""Texts that are no text: str with lone surrogates, and bytes that may be no UTF-8."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tokernel.kernels import bpe
from tokernel.kernels.bpe._text import utf8

if TYPE_CHECKING:
    from tokernel.text.encoding import Encoding

ERRORS = ("replace", "tiktoken", "raw")
_BLANK = re.compile(rb"[ \n\t]*")


def repaired(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates replaced by U+FFFD (a round trip through UTF-16)."""
    return utf8(text).decode()


def clean(text: str) -> str:
    """The text if it has a UTF-8 form, else `repaired`."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return repaired(text)
    return text


def repaired_or_raise(text: str) -> str:
    """Inside of an `except`: the repaired text if it needed that, else the error again."""
    fixed = clean(text)
    if fixed is text:
        raise
    return fixed


def as_bytes(text: Any, op: str) -> bytes:
    """The bytes of a bytes-like object; TypeError for anything else."""
    if isinstance(text, bytes):
        return text
    try:
        return bytes(memoryview(text).cast("B"))
    except (TypeError, ValueError):
        raise TypeError(f"{op}: text: expected str or bytes, got {type(text).__name__}") from None


def encode_by_rule(encoding: Encoding, data: bytes, errors: str) -> list[int]:
    """Bytes that need not be text, by another rule than "replace".

    "raw": one piece. "tiktoken": the part that is UTF-8 as usual, but the tokens of its last piece are dropped, and
    their bytes are merged, without a split, together with the rest.
    """
    if errors == "raw":
        return bpe.encode_list(encoding.vocab, data)
    if errors != "tiktoken":
        raise ValueError(f"encode: errors: expected one of {', '.join(ERRORS)}, got {errors!r}")
    try:
        return encoding.encode_ordinary(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        valid = error.start
    tokens, unstable = stable_prefix(encoding, encoding.encode_ordinary(data[:valid].decode("utf-8")), data[:valid])
    rest = unstable + data[valid:]
    return tokens + bpe.encode_list(encoding.vocab, rest)


def stable_prefix(encoding: Encoding, tokens: list[int], data: bytes) -> tuple[list[int], bytes]:
    """The tokens without those of the last piece of the text, and the bytes of those. If the last piece starts with a
    token of blanks alone, tokens of blanks before it go too: what follows could join them."""
    if not tokens:
        return [], b""
    ends = encoding.split(data.decode("utf-8"))
    start = int(ends[-2]) if len(ends) > 1 else 0
    kept, size = len(tokens), len(data)
    while size > start:
        kept -= 1
        size -= len(encoding.decode_single_token_bytes(tokens[kept]))
    blank = True
    while kept and blank:
        blank = _is_blank(encoding, tokens[kept]) and _is_blank(encoding, tokens[kept - 1])
        kept -= blank
    return tokens[:kept], encoding.decode_bytes(tokens[kept:])


def _is_blank(encoding: Encoding, token: int) -> bool:
    return _BLANK.fullmatch(encoding.decode_single_token_bytes(token)) is not None
