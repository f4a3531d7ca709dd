# SPDX-License-Identifier: Apache-2.0
"""From a tokenizer and sample texts to what the linear program asks for: merges, and histories of pair counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokernel.kernels import bpe
from tokernel.text._mixture_segments import History

if TYPE_CHECKING:
    from tokernel.text.encoding import Encoding

Ints = NDArray[np.int64]


class Category(NamedTuple):
    """Sample text of one category under a list of merges."""

    history: History
    size: int
    """Its bytes."""
    pairs: int
    """Its neighbours before any merge."""


def category_of(pieces: bpe.CountedPieces, merges: Ints, byte_ids: Ints | None = None) -> Category:
    """Replay merges over counted pieces.

    Args:
        pieces: what :func:`~tokernel.kernels.bpe.count_pieces` returns.
        merges: (T, 3) ids left, right, result.
        byte_ids: (256,) the id of every byte, -1 for none: such a byte is left out. None: its value.
    """
    flat, offsets, counts = (np.asarray(each) for each in pieces)
    ids = flat.astype(np.int64) if byte_ids is None else byte_ids[flat]
    kept = np.concatenate([np.zeros(1, np.int64), np.cumsum(ids >= 0)])
    history = bpe.pair_count_history((ids[ids >= 0], kept[offsets]), counts, merges)
    pairs = int(np.sum(history.delta_counts[: history.off[1]]))
    return Category(tuple(history), int(np.diff(offsets) @ counts), pairs)


def listed_merges(vocab: bpe.Vocab) -> Ints:
    """(M, 3) every merge of a vocabulary; of a vocabulary of ranks, the pairs that spell a token, by rank."""
    tables = vocab.tables()
    if len(tables["merges"]):
        return tables["merges"].astype(np.int64)
    full = tables["pair_keys"] != np.uint64(0xFFFFFFFFFFFFFFFF)
    key, ids = tables["pair_keys"][full], tables["ids"].astype(np.int64)
    left, right = (key >> np.uint64(32)).astype(np.int64), (key & np.uint64(0xFFFFFFFF)).astype(np.int64)
    rows = np.stack([ids[left], ids[right], ids[tables["pair_results"][full]]], 1)
    return rows[np.lexsort(rows.T)]


def pieces_of(tokenizer: Encoding, texts: Iterable[str]) -> bpe.CountedPieces:
    """Count pieces as the tokenizer normalises and cuts them; special tokens are not looked for."""
    front = tokenizer._state.front
    if front.scanner is not None:
        return bpe.count_pieces([front.normalize(text) for text in texts], front.scanner)
    prepared = [front.prepare(front.normalize(text)) for text in texts]
    return bpe.count_pieces([data for data, _ in prepared], ends=[ends for _, ends in prepared])


def ids_of_bytes(vocab: bpe.Vocab) -> Ints:
    """(256,) the id of every byte, -1 for none."""
    ids = (vocab.id_of(bytes([byte])) for byte in range(256))
    return np.array([-1 if each is None else each for each in ids], np.int64)
