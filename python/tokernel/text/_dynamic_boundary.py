# SPDX-License-Identifier: Apache-2.0
"""Which two neighbouring tokens may become one (dynamic tokenization, its four boundaries)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, get_args

BoundaryName = Literal["pretokens", "word", "word_hyphen", "sentence"]
BOUNDARIES: tuple[BoundaryName, ...] = get_args(BoundaryName)
_SPACES = b" \n\t"
_PUNCTUATION = frozenset(b".,!?;:()-\"'\\/`$%&*+<=>@[]^_{|}~")
_DIGITS = frozenset(b"0123456789")


class BaseTokenizer(Protocol):
    """What dynamic tokenization asks of a tokenizer; `tokernel.text.Encoding` is one."""

    @property
    def n_vocab(self) -> int:
        """The largest id plus one."""

    @property
    def vocab(self) -> Any:
        """The `kernels.bpe.Vocab` without the special tokens."""

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of a text in which no special token counts."""

    def encode_single_token(self, text_or_bytes: str | bytes) -> int:
        """The id of a token, special ones included."""

    def decode_single_token_bytes(self, token: int) -> bytes:
        """The bytes of a token; the text of a special one."""

    def is_special_token(self, token: int) -> bool:
        """Whether the id is that of a special token."""

    def split(self, text: str) -> Any:
        """The byte ends of the pieces of a text."""


class Token(NamedTuple):
    """What a boundary looks at."""

    text: bytes
    special: bool = False
    punctuation: bool = False


def is_punctuation(text: bytes) -> bool:
    """Whether a token of the base vocabulary counts as punctuation: it has some, and no digit."""
    return not _PUNCTUATION.isdisjoint(text) and _DIGITS.isdisjoint(text)


def has_inner_space(text: bytes) -> bool:
    """Whether no merged token may have this text: a space, tab or newline behind its first byte.

    Runs of these alone are allowed, but not exactly two newlines.
    """
    if not any(byte in _SPACES for byte in text[1:]):
        return False
    return text == b"\n\n" or not all(byte in _SPACES for byte in text)


def pair_test(name: BoundaryName, tokenizer: BaseTokenizer) -> Callable[[Token, Token], bool]:
    """The test for a pair of tokens."""
    if name not in BOUNDARIES:
        raise ValueError(f"dynamic_merge: boundary must be one of {', '.join(BOUNDARIES)}, got {name!r}")

    def valid(a: Token, b: Token) -> bool:
        joined = a.text + b.text
        if has_inner_space(joined):
            return False
        if name == "sentence":
            return not (a.special or b.special)
        try:
            text = joined.decode()
        except UnicodeDecodeError:
            return True  # so that characters can be completed
        if name == "pretokens":
            return len(tokenizer.split(text)) == 1
        if len(text.split()) != 1 or a.special or b.special:
            return False
        return name == "word" or a.punctuation or not b.punctuation or b.text == b"-"

    return valid
