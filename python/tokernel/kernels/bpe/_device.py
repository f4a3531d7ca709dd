# SPDX-License-Identifier: Apache-2.0
"""Encoding and decoding of arrays that lie on a device; host arrays under ``use_backend("simt")`` go the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tokernel._backend import forced
from tokernel.kernels._arrays import Array, extension_of, fetch, place

if TYPE_CHECKING:
    from tokernel.kernels.bpe._vocab import Vocab


class DeviceVocab(NamedTuple):
    """Tables in the order of the extension, and the longest token, whole_piece, drop_missing, ascending."""

    tables: tuple[Array, ...]
    rules: tuple[int, bool, bool, bool]


# Arrays of Vocab.tables() in the order of the extension; no framework has unsigned numbers of these widths.
_TABLES: dict[str, type[np.generic]] = {
    "token_bytes": np.uint8,
    "token_offsets": np.int32,
    "ids": np.int32,
    "byte_tokens": np.int32,
    "pieces": np.int64,
    "pair_keys": np.int64,
    "pair_ranks": np.int32,
    "pair_results": np.int32,
}
_MOST_RANKS = 2**27 - 1  # a rank shares a word with a lane


def on_device(x: Array) -> bool:
    """Tell whether an op on this array runs a device kernel: it lies on a CUDA device, or `simt` is forced."""
    if not hasattr(x, "__dlpack_device__"):
        return False
    return forced.device is not None or int(x.__dlpack_device__()[0]) in (2, 13)


def beside(vocab: Vocab, like: Array) -> DeviceVocab:
    """Return a vocabulary as the device ops take it, beside an array: uploaded at the first call for each device.

    Raises:
        ValueError: more merges than a device can rank.
    """
    kept: dict[Any, DeviceVocab] = vocab._device_tables
    key = (type(like), str(getattr(like, "device", "")))
    if key not in kept:
        tables = vocab.tables()
        used = tables["pair_keys"] != np.iinfo(np.uint64).max
        if tables["pair_ranks"][used].max(initial=0) >= _MOST_RANKS:
            raise ValueError("encode_batch: vocab must have fewer than 2**27 merges on a device")
        arrays = tuple(place(tables[name].view(kind).copy(), like) for name, kind in _TABLES.items())
        longest = int(np.diff(tables["token_offsets"].astype(np.int64)).max(initial=0))
        kept[key] = DeviceVocab(arrays, (longest, vocab.whole_piece, vocab.missing == "drop", vocab.ascending))
    return kept[key]


def encode_batch(vocab: Vocab, text: Array, offsets: Array, pattern: str, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Encode texts that lie one behind the other; waits once, for the number of ids.

    Raises:
        ValueError: offsets that do not cover the text (checked on the host only), or a byte that is no token.
    """
    extension = extension_of("encode_batch", "texts", text)
    device_vocab = beside(vocab, text)
    ids, starts, status = extension.encode_batch(text, _offsets(offsets, text), *device_vocab, pattern)
    found, missing = fetch(status).tolist()
    if missing >= 0:
        byte = int(fetch(text[missing : missing + 1])[0])
        raise ValueError(
            f"encode_batch: texts must be made of bytes that are tokens, got byte {byte} at flat position {missing}"
        )
    return _as_dtype(ids[:found], dtype), starts


def decode_batch(vocab: Vocab, ids: Array, offsets: Array) -> tuple[Array, Array]:
    """Decode sequences of ids; waits once, for the number of bytes.

    Raises:
        ValueError: no token has an id, or offsets that do not cover the ids; both checked on the host only.
    """
    extension = extension_of("decode_batch", "ids", ids)
    tables = beside(vocab, ids).tables
    places, starts = extension.decode_places(ids, _offsets(offsets, ids), tables)
    size = int(fetch(starts[-1:])[0])
    return extension.decode_batch(ids, places, size, tables), starts


def _offsets(offsets: Array, like: Array) -> Array:
    if hasattr(offsets, "__dlpack_device__") and not isinstance(offsets, np.ndarray):
        return offsets
    return place(np.asarray(offsets, np.int64), like)


def _as_dtype(ids: Array, dtype: np.dtype[Any]) -> Array:
    """A copy of just these ids: what follows them in memory is given back."""
    if hasattr(ids, "detach"):
        import torch

        return ids.to(getattr(torch, dtype.name), copy=True)
    return ids.astype(dtype)
