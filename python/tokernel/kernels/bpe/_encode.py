# SPDX-License-Identifier: Apache-2.0
"""Texts to ids and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias, overload

import numpy as np

from tokernel import _C
from tokernel.kernels._arrays import Array, fetch, place
from tokernel.kernels.bpe import _device
from tokernel.kernels.bpe._vocab import Vocab, core_of

__all__ = [
    "count_till_limit",
    "decode",
    "decode_batch",
    "decode_offsets",
    "encode",
    "encode_batch",
    "encode_list",
    "encode_lists",
    "encode_piece",
]

Text: TypeAlias = str | bytes | Array


@overload
def encode(
    vocab: Vocab,
    text: Text,
    pattern: str = "none",
    ends: Array | None = None,
    dtype: Any = np.int32,
    offsets: Literal[False] = False,
) -> Array: ...


@overload
def encode(
    vocab: Vocab,
    text: Text,
    pattern: str = "none",
    ends: Array | None = None,
    dtype: Any = np.int32,
    *,
    offsets: Literal[True],
) -> tuple[Array, Array]: ...


def encode(
    vocab: Vocab,
    text: Text,
    pattern: str = "none",
    ends: Array | None = None,
    dtype: Any = np.int32,
    offsets: bool = False,
) -> Array | tuple[Array, Array]:
    """Encode a text: cut it into pieces, and merge the bytes of each by the rule of the vocabulary.

    A text of more than 128 KB is encoded by all threads.

    Args:
        vocab: the vocabulary.
        text: str, bytes, or (N,) uint8.
        pattern: how to cut it: none, gpt2, cl100k, llama3, o200k, qwen2 or tekken; see :func:`split`.
        ends: (P,) byte ends of the pieces, ascending, the last one N; instead of a pattern.
        dtype: int32 or int64.
        offsets: give the byte end of every token too.

    Returns:
        (T,) ids, and with `offsets` (T,) int64 byte ends; torch tensors where the text was one, else NumPy arrays.

    Raises:
        ValueError: an unknown pattern, ends that do not cover the text, a str with a lone surrogate, or a byte that is
            no token.
        TypeError: text is neither str, bytes nor a dense array of uint8, or another dtype.

    >>> vocab = Vocab([b"a", b"b", b" ", b"ab"])
    >>> encode(vocab, "ab aab", "gpt2")
    array([3, 2, 0, 3], dtype=int32)

    tiktoken's `encode_ordinary` and the BPE model of Hugging Face tokenizers.
    """
    kind = _dtype("encode", dtype)
    core = core_of("encode", vocab)
    source = _host(text)
    ends_of = None
    if ends is not None:
        ends = fetch(ends)
        ends_of = np.array([0, len(ends)])
    found = np.asarray(_C.encode_text(core, source, pattern, ends, ends_of, 0))
    ids = place(found if kind == np.int32 else found.astype(kind), text)
    if not offsets:
        return ids
    return ids, place(_byte_ends(vocab, found, source), text)


def encode_list(vocab: Vocab, text: str | bytes, pattern: str = "none") -> list[int]:
    """Encode a text into a list: what ``encode(vocab, text, pattern).tolist()`` gives, sooner for a short text.

    Args:
        vocab: the vocabulary.
        text: str or bytes.
        pattern: how to cut it: see :func:`encode`.

    Raises:
        ValueError: as :func:`encode`.
        TypeError: as :func:`encode`.

    >>> vocab = Vocab([b"a", b"b", b" ", b"ab"])
    >>> encode_list(vocab, "ab aab", "gpt2")
    [3, 2, 0, 3]
    """
    ids: list[int] = _C.encode_list(core_of("encode", vocab), text, pattern)
    return ids


def encode_lists(
    vocab: Vocab, texts: Sequence[str | bytes], pattern: str = "none", threads: int | None = None
) -> list[list[int]]:
    """Encode B texts into lists: what :func:`encode_batch` gives, cut up and as Python's integers.

    Args:
        vocab: the vocabulary.
        texts: B str or bytes.
        pattern: how to cut each: see :func:`encode`.
        threads: use no more than these; the result is the same for any number.

    Raises:
        ValueError: as :func:`encode`, or `threads` below 1.
        TypeError: as :func:`encode`.

    >>> vocab = Vocab([b"a", b"b", b" ", b"ab"])
    >>> encode_lists(vocab, ["ab", "", "aab"])
    [[3], [], [0, 3]]
    """
    ids: list[list[int]] = _C.encode_lists(core_of("encode_batch", vocab), texts, pattern, threads)
    return ids


def encode_batch(
    vocab: Vocab,
    texts: Sequence[Text] | tuple[Array, Array],
    pattern: str = "none",
    ends: Sequence[Array] | tuple[Array, Array] | None = None,
    threads: int | None = None,
    dtype: Any = np.int32,
) -> tuple[Array, Array]:
    """Encode B texts at once; short ones share a thread, long ones are cut where a piece is sure to end.

    Texts in an array on a CUDA device are encoded there, to the same ids: fewer than 2^31 bytes a call, by a pattern.
    The call waits for the device once, to learn how many ids there are; offsets are not checked there.

    The work is done without the GIL: no other thread may write to an array that was given until the call returns.

    Args:
        vocab: the vocabulary.
        texts: B of them, or ((N,) uint8, (B + 1,) offsets).
        pattern: how to cut each: see :func:`encode`.
        ends: the byte ends of the pieces of every text, or ((P,), (B + 1,) offsets); instead of a pattern.
        threads: use no more than these; the result is the same for any number.
        dtype: int32 or int64.

    Returns:
        (T,) ids of all texts, and (B + 1,) int64 where those of each begin.

    Raises:
        ValueError: as :func:`encode`, or `threads` below 1.
        TypeError: as :func:`encode`.

    >>> vocab = Vocab([b"a", b"b", b" ", b"ab"])
    >>> encode_batch(vocab, ["ab", "", "aab"])
    (array([3, 0, 3], dtype=int32), array([0, 1, 1, 3]))
    """
    kind = _dtype("encode_batch", dtype)
    core = core_of("encode_batch", vocab)
    like: Any = None
    source: Any
    bounds = None
    if isinstance(texts, tuple) and len(texts) == 2 and hasattr(texts[0], "__dlpack__"):
        if ends is None and _device.on_device(texts[0]):
            return _device.encode_batch(vocab, *texts, pattern, kind)
        like, source, bounds = texts[0], fetch(texts[0]), fetch(texts[1])
        starts = np.empty(max(len(bounds), 1), np.int64)
    else:
        source = texts if isinstance(texts, str | bytes) else [_host(text) for text in texts]
        starts = np.empty(len(source) + 1, np.int64)
    flat, ends_of = _ragged(ends)
    found = np.asarray(_C.encode_texts(core, source, bounds, pattern, flat, ends_of, starts, threads, 0))
    return place(found if kind == np.int32 else found.astype(kind), like), place(starts, like)


def encode_piece(
    vocab: Vocab, piece: Text, method: Literal["auto", "scan", "heap", "backtrack", "table"] = "auto"
) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Encode bytes as one piece, by a method of choice; all of them give the same ids.

    Args:
        vocab: the vocabulary.
        piece: N bytes.
        method: ``scan`` looks for the smallest rank again after every merge, O(N^2); ``heap`` keeps a queue of them,
            O(N log N); ``backtrack`` tries the longest token first, O(N); ``table`` finds the last token of every
            prefix, O(N); ``auto`` is what :func:`encode` does. Where ``vocab.ascending`` is False, backtrack and table
            are the heap.

    Returns:
        (T,) int32.

    Raises:
        ValueError: an unknown method, or a byte that is no token.
        TypeError: piece is neither str, bytes nor a dense array of uint8.

    >>> vocab = Vocab([b"a", b"b", b"ab"])
    >>> encode_piece(vocab, b"aab", "backtrack")
    array([0, 2], dtype=int32)
    """
    if method == "auto":
        return np.asarray(encode(vocab, _host(piece)))
    return np.asarray(_C.encode_piece(core_of("encode_piece", vocab), _host(piece), method))


def decode(vocab: Vocab, ids: Sequence[int] | Array) -> bytes:
    """Put the bytes of tokens one after the other.

    Args:
        vocab: the vocabulary.
        ids: (T,) integers, or a list of them.

    Raises:
        ValueError: no token has this id; names it and its position.
        TypeError: not integers.

    >>> vocab = Vocab([b"a", b"b", b"ab"])
    >>> decode(vocab, [0, 2])
    b'aab'
    """
    return bytes(_C.decode(core_of("decode", vocab), _ids("decode", ids)))


def decode_batch(vocab: Vocab, ids: Array, offsets: Array) -> tuple[Array, Array]:
    """Decode B sequences of ids at once, on a CUDA device where ids are there; the call then waits for it once.

    Args:
        vocab: the vocabulary.
        ids: (T,) integers; int64 or int32 on a device, where one that no token has stands for no bytes.
        offsets: (B + 1,) where each sequence begins.

    Returns:
        (N,) uint8, the bytes of all, and (B + 1,) int64 where those of each begin.

    Raises:
        ValueError: no token has an id, or offsets that do not cover the ids.
        TypeError: not integers.

    >>> vocab = Vocab([b"a", b"b", b"ab"])
    >>> decode_batch(vocab, np.array([0, 2, 1]), np.array([0, 2, 3]))
    (array([97, 97, 98, 98], dtype=uint8), array([0, 3, 4]))
    """
    core_of("decode_batch", vocab)
    if _device.on_device(ids):
        return _device.decode_batch(vocab, ids, offsets)
    host, bounds = fetch(ids), np.asarray(fetch(offsets))
    if bounds.dtype.kind not in "iu":
        raise TypeError(f"decode_batch: offsets must be integers, got {bounds.dtype}")
    if bounds.ndim != 1 or len(bounds) < 1 or bounds[0] != 0 or bounds[-1] != len(host) or (np.diff(bounds) < 0).any():
        raise ValueError(f"decode_batch: offsets must ascend from 0 to the {len(host)} ids, got {bounds}")
    data = np.frombuffer(decode(vocab, host), np.uint8)
    begins = np.concatenate([[0], decode_offsets(vocab, host)])
    return place(data, ids), place(begins[bounds], ids)


def decode_offsets(vocab: Vocab, ids: Sequence[int] | Array) -> Array:
    """Return the byte end of every token in what :func:`decode` gives.

    Args:
        vocab: the vocabulary.
        ids: (T,) integers, or a list of them.

    Returns:
        (T,) int64.

    Raises:
        ValueError: no token has this id.
        TypeError: not integers.

    >>> vocab = Vocab([b"a", b"b", b"ab"])
    >>> decode_offsets(vocab, [0, 2])
    array([1, 3])
    """
    flat = _ids("decode_offsets", ids)
    ends = np.empty(len(flat), np.int64)
    _C.decode_ends(core_of("decode_offsets", vocab), flat, ends)
    return place(ends, ids) if hasattr(ids, "__dlpack__") else ends


def count_till_limit(
    vocab: Vocab, text: Text, limit: int, pattern: str = "none", ends: Array | None = None
) -> int | None:
    """Count the ids of a text, but stop where they are more than a limit.

    Args:
        vocab: the vocabulary.
        text: str, bytes, or (N,) uint8.
        limit: the most ids that matter.
        pattern: how to cut the text: see :func:`encode`.
        ends: byte ends of the pieces, instead of a pattern.

    Returns:
        How many ids :func:`encode` gives, or None if they are more than the limit.

    Raises:
        ValueError: as :func:`encode`, or a negative limit.

    >>> vocab = Vocab([b"a", b"b", b"ab"])
    >>> count_till_limit(vocab, "aab", 2), count_till_limit(vocab, "aab", 1)
    (2, None)
    """
    core = core_of("count_till_limit", vocab)
    ends_of = None
    if ends is not None:
        ends = fetch(ends)
        ends_of = np.array([0, len(ends)])
    found: int = _C.count_till_limit(core, _host(text), limit, pattern, ends, ends_of)
    return None if found < 0 else found


def _dtype(op: str, dtype: Any) -> np.dtype[Any]:
    name = str(dtype).rpartition(".")[2]  # torch.int64
    kind = np.dtype(name if name in ("int32", "int64") else dtype)
    if kind not in (np.int32, np.int64):
        raise TypeError(f"{op}: dtype must be int32 or int64, got {kind}")
    return kind


def _host(text: Text) -> Text:
    """What the extension reads: str, bytes, and anything with a buffer."""
    if isinstance(text, str | bytes | np.ndarray) or not hasattr(text, "__dlpack__"):
        return text
    return fetch(text)


def _ids(op: str, ids: Sequence[int] | Array) -> Sequence[int] | Array:
    if isinstance(ids, list):
        return ids
    if hasattr(ids, "__dlpack__"):
        return np.ascontiguousarray(fetch(ids))
    if not isinstance(ids, Iterable):
        raise TypeError(f"{op}: ids must be a list or an array of integers, got {type(ids).__name__}")
    return list(ids)


def _ragged(values: Sequence[Array] | tuple[Array, Array] | None) -> tuple[Array | None, Array | None]:
    """One flat array and offsets, of a list of arrays or of just that."""
    if values is None:
        return None, None
    if isinstance(values, tuple) and len(values) == 2 and hasattr(values[0], "__dlpack__"):
        return fetch(values[0]), fetch(values[1])
    parts = [np.asarray(fetch(part)) for part in values]
    for i, part in enumerate(parts):
        if part.size and part.dtype.kind not in "iu":
            raise TypeError(f"encode_batch: ends[{i}] must be integers, got {part.dtype}")
    parts = [part.astype(np.int64) for part in parts]
    flat = np.concatenate(parts) if parts else np.empty(0, np.int64)
    return flat, np.cumsum([0, *map(len, parts)])


def _byte_ends(vocab: Vocab, ids: Array, text: Text) -> Array:
    """Where tokens end in the text: behind the bytes before them, unless bytes were dropped."""
    ends = decode_offsets(vocab, ids)
    if vocab.complete or vocab.missing == "error":
        return ends
    kept = np.zeros(256, bool)
    kept[np.flatnonzero(vocab.tables()["byte_tokens"] >= 0)] = True
    data = np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8)
    place_of = np.flatnonzero(kept[data])
    return place_of[ends - 1] + 1 if len(ends) else ends
