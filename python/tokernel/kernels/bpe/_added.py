# SPDX-License-Identifier: Apache-2.0
"""Tokens added to a vocabulary, special ones among them, which merging knows nothing of."""

from __future__ import annotations

from tokernel import _C
from tokernel.kernels._arrays import Array
from tokernel.kernels.bpe._vocab import Vocab, core_of

__all__ = ["decode_added", "decode_each", "encode_between"]


def decode_added(vocab: Vocab, ids: list[int], added: dict[int, bytes]) -> bytes:
    """Put the bytes of tokens one after the other, where some ids may be those of added tokens.

    Args:
        vocab: the vocabulary.
        ids: a list of integers.
        added: what ids that are not in the vocabulary stand for.

    Raises:
        ValueError: no token has an id; names it and its position.
        TypeError: not integers.

    >>> decode_added(Vocab([b"a", b"b"]), [0, 9, 1], {9: b"<s>"})
    b'a<s>b'
    """
    return bytes(_C.decode_added(core_of("decode", vocab), ids, added))


def decode_each(vocab: Vocab, ids: list[int], added: dict[int, bytes]) -> list[bytes]:
    """Return the bytes of every token; arguments and errors are those of :func:`decode_added`.

    >>> decode_each(Vocab([b"a", b"b"]), [0, 9, 1], {9: b"<s>"})
    [b'a', b'<s>', b'b']
    """
    tokens: list[bytes] = _C.decode_each(core_of("decode", vocab), ids, added)
    return tokens


def encode_between(
    vocab: Vocab, text: str | bytes, pattern: str, starts: Array, ends: Array, added: Array
) -> list[int]:
    """Encode what lies between added tokens, each stretch as a text of its own, and put their ids in their places.

    Args:
        vocab: the vocabulary.
        text: str or bytes.
        pattern: how to cut what lies between: see :func:`encode`.
        starts: (M,) int64, where added tokens begin, in bytes, ascending.
        ends: (M,) int64, where they end.
        added: (M,) int64, their ids.

    Raises:
        ValueError: as :func:`encode`, or places that overlap or lie outside of the text.
        TypeError: as :func:`encode`.

    >>> import numpy as np
    >>> encode_between(Vocab([b"a", b"b"]), "a<s>b", "none", np.array([1]), np.array([4]), np.array([9]))
    [0, 9, 1]
    """
    ids: list[int] = _C.encode_between(core_of("encode", vocab), text, pattern, starts, ends, added)
    return ids
