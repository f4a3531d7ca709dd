# SPDX-License-Identifier: Apache-2.0
"""Vocabularies of byte-level BPE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tokernel import _C
from tokernel.kernels._arrays import Array

__all__ = ["Vocab", "is_valid_pair", "parse_ranks", "prefix_tokens", "tokens_with_prefix"]

_TABLES: dict[str, type[np.generic]] = {
    "token_bytes": np.uint8,
    "token_offsets": np.uint32,
    "ids": np.int32,
    "byte_tokens": np.int32,
    "pieces": np.uint64,
    "pair_keys": np.uint64,
    "pair_ranks": np.int32,
    "pair_results": np.int32,
    "merges": np.int32,
}


class Vocab:
    """Tokens, their ids, and which neighbours merge; never changes, and threads may share it.

    Without `merges` two neighbours merge when their bytes together are a token, the smallest id first and the leftmost
    of equals: tiktoken's rule, in which the id is the rank. With `merges` a pair of ids merges as the list says, the
    first of the list first and the leftmost of equals: the rule of Hugging Face; of a pair that is listed twice the
    last line counts.

    Args:
        tokens: the bytes of every token, or (uint8 array of all bytes, (V + 1,) offsets).
        ids: (V,) distinct ids in [0, 2**31 - 1), or None for 0..V-1.
        merges: (M, 3) ids: left, right, result; or None.
        whole_piece: a piece that is a token is emitted as it is, whether or not merging would make it (tiktoken, and
            `ignore_merges` of Hugging Face).
        missing: what becomes of a byte that is no token, where a piece is merged: ``"error"`` or ``"drop"``.

    Raises:
        ValueError: an empty token, two equal tokens or ids, a merge that names an unknown id or whose result is not
            the bytes of its parts.
        TypeError: arrays of another dtype.

    >>> vocab = Vocab([b"a", b"b", b"ab"])
    >>> vocab.id_of(b"ab"), vocab.token_bytes(0), vocab.size
    (2, b'a', 3)
    """

    __slots__ = ("_core", "_device_tables")

    def __init__(
        self,
        tokens: Sequence[bytes] | tuple[Array, Array],
        ids: Array | None = None,
        merges: Array | None = None,
        *,
        whole_piece: bool = True,
        missing: Literal["error", "drop"] = "error",
    ) -> None:
        if missing not in ("error", "drop"):
            raise ValueError(f"vocab: missing must be 'error' or 'drop', got {missing!r}")
        data, offsets = _flat(tokens)
        numbers = np.arange(len(offsets) - 1, dtype=np.int64) if ids is None else _array("ids", ids)
        rules = None if merges is None else _array("merges", merges)
        self._device_tables: dict[Any, Any] = {}  # see _device.beside
        self._core = _C.BpeVocab(data, offsets, numbers, rules, whole_piece, missing == "drop")

    @property
    def size(self) -> int:
        """V, the number of tokens."""
        return int(self._core.size)

    def __len__(self) -> int:
        return self.size

    @property
    def ranked(self) -> bool:
        """Whether merges follow from the ids, and no list of them was given."""
        return bool(self._core.ranked)

    @property
    def whole_piece(self) -> bool:
        """Whether a piece that is a token is emitted as it is."""
        return bool(self._core.whole_piece)

    @property
    def missing(self) -> Literal["error", "drop"]:
        """What becomes of bytes that are no tokens."""
        return "drop" if self._core.drop_missing else "error"

    @property
    def complete(self) -> bool:
        """Whether every byte is a token: then nothing is ever missing."""
        return bool(self._core.complete)

    @property
    def ascending(self) -> bool:
        """Whether merging the bytes of every token goes through ascending ranks.

        Then long pieces take linear time, and all occurrences of the smallest rank may merge at once; otherwise they
        take n log n. The vocabularies of GPT-2, tiktoken, Llama-3 and Mistral have it.
        """
        return bool(self._core.ascending)

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes of one token.

        Raises:
            ValueError: no token has this id.
        """
        return bytes(self._core.token_bytes(id))

    def id_of(self, token: bytes | str) -> int | None:
        """Return the id of the token with these bytes, or None."""
        found: int | None = self._core.id_of(token)
        return found

    def tables(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the flat tables behind the vocabulary, which the device ops take; csrc/bpe/vocab_view.h explains them.

        Tokens are numbered in ascending order of their ids; only `ids` knows the ids themselves. ``token_bytes``
        uint8 and ``token_offsets`` uint32 (V + 1); ``ids`` int32 (V); ``byte_tokens`` int32 (256), -1 where a byte is
        no token; ``pieces`` uint64, an open-addressing hash of bytes; ``pair_keys`` uint64 (left << 32 | right, all
        ones where empty), ``pair_ranks`` and ``pair_results`` int32, an open-addressing hash of pairs; ``merges``
        int32 (M, 3), the list in ids. csrc/bpe/hash.h has the hash functions.
        """
        tables = {name: np.frombuffer(data, _TABLES[name]) for name, data in self._core.tables().items()}
        tables["merges"] = tables["merges"].reshape(-1, 3)
        return tables

    def history(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return how each token comes about when its own bytes are merged: (V,) int32 left, right and order.

        Tokens are numbered in ascending order of their ids, as in :meth:`tables`. `left` and `right` are the two that
        merge last and `order` is the rank of that merge; it is -1 for single bytes, and for tokens that merging their
        own bytes never makes.

        >>> [part.tolist() for part in Vocab([b"a", b"b", b"ab"]).history()]
        [[0, 1, 0], [0, 1, 1], [-1, -1, 2]]
        """
        left, right, order = (np.frombuffer(part, np.int32) for part in self._core.history())
        return left, right, order

    def __reduce__(self) -> tuple[Any, ...]:
        tables = self.tables()
        merges = None if self._core.ranked else tables["merges"]
        return _restored, (
            tables["token_bytes"],
            tables["token_offsets"].astype(np.int64),
            tables["ids"],
            merges,
            self.whole_piece,
            self.missing,
        )

    def __repr__(self) -> str:
        rule = "ranks" if self._core.ranked else "merges"
        return f"Vocab(size={self.size}, rule={rule!r}, whole_piece={self.whole_piece}, missing={self.missing!r})"


def _restored(
    data: Array, offsets: Array, ids: Array, merges: Array | None, whole_piece: bool, missing: Literal["error", "drop"]
) -> Vocab:
    return Vocab((data, offsets), ids, merges, whole_piece=whole_piece, missing=missing)


def _array(name: str, values: Array) -> np.ndarray[Any, Any]:
    array = np.asarray(values)
    if array.size == 0 and array.dtype.kind == "f":  # an empty list
        return array.reshape(-1, 3).astype(np.int64) if name == "merges" else array.astype(np.int64)
    return array


def _flat(tokens: Sequence[bytes] | tuple[Array, Array]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    if isinstance(tokens, tuple) and len(tokens) == 2 and not isinstance(tokens[0], bytes):
        return np.asarray(tokens[0]), np.asarray(tokens[1])
    for i, token in enumerate(tokens):
        if not isinstance(token, bytes):
            raise TypeError(f"vocab: tokens must be bytes, got {type(token).__name__} at position {i}")
    offsets = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum([len(token) for token in tokens], out=offsets[1:])
    return np.frombuffer(b"".join(tokens), np.uint8), offsets


def core_of(op: str, vocab: Vocab) -> Any:
    """Return what the extension knows a vocabulary as.

    Raises:
        TypeError: `vocab` is no Vocab.
    """
    if not isinstance(vocab, Vocab):
        raise TypeError(f"{op}: vocab must be a Vocab, got {type(vocab).__name__}")
    return vocab._core


def parse_ranks(data: bytes) -> tuple[Array, Array, Array]:
    """Read tiktoken's rank file: a line ``base64 SPACE rank`` for every token.

    Args:
        data: the file.

    Returns:
        (N,) uint8 bytes of all tokens, (V + 1,) int64 offsets, and (V,) int64 ranks, in the order of the lines;
        ``Vocab((tokens, offsets), ranks)`` is the vocabulary.

    Raises:
        ValueError: a line that is no base64 as an encoder writes it, holds no token or no rank of one to nine digits,
            or has the rank of a line before; names the line.

    >>> tokens, offsets, ranks = parse_ranks(b"YQ== 0\\nYWI= 1\\n")
    >>> Vocab((tokens, offsets), ranks).token_bytes(1)
    b'ab'
    """
    tokens, offsets, ranks = _C.parse_ranks(data)
    return np.frombuffer(tokens, np.uint8), np.frombuffer(offsets, np.int64), np.frombuffer(ranks, np.int64)


def is_valid_pair(vocab: Vocab, a: int, b: int) -> bool:
    """Tell whether the bytes of two tokens, encoded as one piece, become just these two: ``encode(a + b) == [a, b]``.

    Args:
        vocab: the vocabulary.
        a: id of the left token.
        b: id of the right token.

    Raises:
        ValueError: no token has this id.

    >>> vocab = Vocab([b"a", b"b", b"ab"])
    >>> is_valid_pair(vocab, 0, 1), is_valid_pair(vocab, 1, 0)
    (False, True)
    """
    return bool(_C.is_valid_pair(core_of("is_valid_pair", vocab), a, b))


def tokens_with_prefix(vocab: Vocab, prefix: bytes | str) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Find every token that begins with some bytes, in the order of their bytes.

    Args:
        vocab: the vocabulary.
        prefix: the bytes; none of them finds every token.

    Returns:
        (K,) int32 ids.

    >>> vocab = Vocab([b"a", b"b", b"ab"])
    >>> tokens_with_prefix(vocab, b"a")
    array([0, 2], dtype=int32)
    """
    return np.asarray(core_of("tokens_with_prefix", vocab).tokens_with_prefix(prefix))


def prefix_tokens(vocab: Vocab, piece: bytes | str) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Encode every prefix of a piece at once: the last token of each.

    The merged first k bytes are those of the first ``k - len(token)`` bytes, then the token ``last[k]``; so the whole
    encoding of each prefix can be read backwards. The whole-piece rule plays no part: tokens that merging never makes
    do not occur.

    Args:
        vocab: the vocabulary.
        piece: N bytes, all of which are tokens.

    Returns:
        (N + 1,) int32, ``last[0] = -1``.

    Raises:
        ValueError: a byte is no token.

    >>> vocab = Vocab([b"a", b"b", b"ab"])
    >>> prefix_tokens(vocab, b"aab")
    array([-1,  0,  0,  2], dtype=int32)

    The table of rust-gems' `bpe`.
    """
    return np.asarray(_C.prefix_tokens(core_of("prefix_tokens", vocab), piece))
