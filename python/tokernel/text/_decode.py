# SPDX-License-Identifier: Apache-2.0
"""The half of Encoding that goes from ids to text."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tokernel.kernels import bpe
from tokernel.text._errors import UnknownTokenError
from tokernel.text._specials import AddedToken
from tokernel.text.streaming import StreamDecoder

Ids = Sequence[int] | npt.NDArray[Any]

_LONG = 64


class Decoding:
    """Methods of Encoding; ids may be a list, a NumPy array or a tensor of integers."""

    name: str
    vocab: bpe.Vocab
    _added: tuple[AddedToken, ...]
    _added_bytes: dict[int, bytes]
    _special_ids: frozenset[int]

    def decode_bytes(self, tokens: Ids, *, skip_special_tokens: bool = False) -> bytes:
        """The bytes of ids, special tokens among them.

        UnknownTokenError (a ValueError and a KeyError) names the position and the id that stands for no token.

        >>> from tokernel.text import train
        >>> enc = train(["low lower lowest " * 3], 262, "gpt2", progress=False)
        >>> enc.decode_bytes([257, 261])
        b'low lower'
        """
        if type(tokens) is list and not skip_special_tokens:  # the common case, kept short
            # The kernel is the faster one, but knows no added tokens.
            for decode in (self._decode_long, self._decode_short) if len(tokens) > _LONG else (self._decode_short,):
                try:
                    return decode(tokens)
                except (TypeError, ValueError):
                    continue  # added tokens, or ids to complain about
        ids = _as_ids(tokens)
        if not self._added or not (hits := self._special_positions(ids)).size:
            return self._decode_plain(ids, 0)
        out, begin = [], 0
        for at in hits.tolist():
            out.append(self._decode_plain(ids[begin:at], begin))
            token = int(ids[at])
            if not (skip_special_tokens and token in self._special_ids):
                out.append(self._added_bytes[token])
            begin = at + 1
        out.append(self._decode_plain(ids[begin:], begin))
        return b"".join(out)

    def decode(self, tokens: Ids, errors: str = "replace", *, skip_special_tokens: bool = False) -> str:
        """The text of ids. `errors` is Python's for bytes that are no UTF-8: "replace" gives one U+FFFD for each
        maximal invalid part, "strict" raises UnicodeDecodeError.

        >>> from tokernel.text import train
        >>> enc = train(["low lower lowest " * 3], 262, "gpt2", progress=False)
        >>> enc.decode([257, 261])
        'low lower'
        """
        return self.decode_bytes(tokens, skip_special_tokens=skip_special_tokens).decode("utf-8", errors)

    def decode_single_token_bytes(self, token: int) -> bytes:
        """The bytes of one id, special tokens too; UnknownTokenError if there is no such token."""
        token = operator.index(token)
        try:
            return bytes(self.vocab.token_bytes(token))
        except ValueError:
            if (found := self._added_bytes.get(token)) is not None:
                return found
        raise UnknownTokenError(f"decode: {self.name!r} has no token {token}")

    def decode_tokens_bytes(self, tokens: Ids) -> list[bytes]:
        """The bytes of each id.

        >>> from tokernel.text import train
        >>> enc = train(["low lower lowest " * 3], 262, "gpt2", progress=False)
        >>> enc.decode_tokens_bytes([257, 261])
        [b'low', b' lower']
        """
        ids = _as_ids(tokens).tolist()
        try:
            return bpe.decode_each(self.vocab, ids, self._added_bytes)
        except ValueError:
            return [self.decode_single_token_bytes(token) for token in ids]  # names the one

    def decode_with_offsets(self, tokens: Ids) -> tuple[str, list[int]]:
        """The text and, for each id, the character at which it starts; a token that begins inside a character counts
        from that character. Bytes that are no UTF-8 raise UnicodeDecodeError.

        >>> from tokernel.text import train
        >>> enc = train(["low lower lowest " * 3], 262, "gpt2", progress=False)
        >>> enc.decode_with_offsets([257, 261])
        ('low lower', [0, 3])
        """
        parts = self.decode_tokens_bytes(tokens)
        data = b"".join(parts)
        ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
        starts = ends - np.fromiter(map(len, parts), np.int64, len(parts))
        begins = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(begins)])
        inside = ~np.append(begins, True)[starts]
        return data.decode("utf-8"), np.maximum(before[starts] - inside, 0).tolist()

    def decode_batch(self, batch: Sequence[Ids], *, errors: str = "replace", num_threads: int = 8) -> list[str]:
        """`decode` of every sequence."""
        return [data.decode("utf-8", errors) for data in self.decode_bytes_batch(batch, num_threads=num_threads)]

    def decode_bytes_batch(self, batch: Sequence[Ids], *, num_threads: int = 8) -> list[bytes]:
        """`decode_bytes` of every sequence. `num_threads` is accepted for tiktoken's sake: copying bytes is bound by
        memory, one thread does it."""
        del num_threads
        return [self.decode_bytes(tokens) for tokens in batch]

    def stream(self, errors: str = "replace") -> StreamDecoder:
        """A decoder for ids that arrive one by one; it never returns part of a character."""
        return StreamDecoder(self, errors)

    def _decode_long(self, tokens: list[int]) -> bytes:
        return bpe.decode(self.vocab, tokens)

    def _decode_short(self, tokens: list[int]) -> bytes:
        return bpe.decode_added(self.vocab, tokens, self._added_bytes)

    def _special_positions(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        if ids.size <= 64:
            known = self._added_bytes
            return np.array([i for i, t in enumerate(ids.tolist()) if t in known], np.int64)
        return np.flatnonzero(np.isin(ids, np.fromiter(self._added_bytes, np.int64, len(self._added_bytes))))

    def _decode_plain(self, ids: npt.NDArray[Any], first: int) -> bytes:
        if not ids.size:
            return b""
        try:
            return bytes(bpe.decode(self.vocab, ids))
        except ValueError as error:
            for at, token in enumerate(ids.tolist()):
                if not self._has(token):
                    message = f"decode: {self.name!r} has no token {token}, at position {first + at}"
                    raise UnknownTokenError(message) from error
            raise

    def _has(self, token: int) -> bool:
        try:
            self.vocab.token_bytes(token)
        except ValueError:
            return False
        return True


def _as_ids(tokens: Any) -> npt.NDArray[Any]:
    """The ids as an integer array; TypeError for anything else."""
    if hasattr(tokens, "detach"):
        tokens = tokens.detach().cpu().numpy()
    try:
        ids = np.asarray(tokens)
    except (ValueError, OverflowError) as error:
        raise TypeError(f"decode: tokens: expected a flat sequence of integers ({error})") from None
    if ids.size == 0:
        return np.zeros(0, np.int64)
    if ids.dtype.kind == "O" and all(isinstance(t, int) for t in ids.ravel().tolist()):
        raise UnknownTokenError(f"decode: tokens: {max(ids.ravel().tolist(), key=abs)} is no id of any vocabulary")
    if ids.dtype.kind not in "iu" or ids.ndim != 1:
        raise TypeError(f"decode: tokens: expected a flat sequence of integers, got {ids.dtype} of shape {ids.shape}")
    if ids.dtype == np.uint64 or ids.dtype.itemsize < 4:
        return ids.astype(np.int64)
    return ids.view(np.int32) if ids.dtype == np.uint32 else ids
