# SPDX-License-Identifier: Apache-2.0
"""Decode ids as they come, and never show half a character."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

__all__ = ["StreamDecoder"]


class _Decodes(Protocol):
    def decode_bytes(self, tokens: Sequence[int]) -> bytes: ...


class StreamDecoder:
    """Text of ids that arrive one by one: what `push` and `finish` return, joined, is `encoding.decode` of all ids.

    A character whose bytes lie in several tokens comes out with the last of them. Bytes that are no UTF-8 follow
    `errors` ("replace": one U+FFFD for each maximal invalid part; "ignore"; "strict": UnicodeDecodeError).

    >>> from tokernel.text import Encoding
    >>> enc = Encoding("bytes", pat_str="", mergeable_ranks={bytes([i]): i for i in range(256)}, special_tokens={})
    >>> stream = enc.stream()
    >>> [stream.push(i) for i in "né".encode()]
    ['n', '', 'é']
    >>> stream.finish()
    ''
    """

    def __init__(self, encoding: _Decodes, errors: str = "replace") -> None:
        codecs.lookup_error(errors)  # a wrong name fails here, not at the first bad byte
        self._encoding = encoding
        self._errors = errors
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, tokens: int | Sequence[int]) -> str:
        """The characters that are whole after these ids: one id, or a sequence of them."""
        if isinstance(tokens, int) or not hasattr(tokens, "__len__"):
            tokens = [tokens]  # type: ignore[list-item]  # a NumPy integer is not an int
        return self._decoder.decode(self._encoding.decode_bytes(tokens))

    def finish(self) -> str:
        """What is left, treated as the end of the text; the decoder is then as new."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest

    def iterate(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of an iterator of ids, piece by piece, without empty pieces; finishes at its end."""
        for token in tokens:
            if text := self.push(token):
                yield text
        if rest := self.finish():
            yield rest

    @property
    def pending(self) -> bytes:
        """The bytes of the character that is not whole yet."""
        return self._decoder.getstate()[0]
