# SPDX-License-Identifier: Apache-2.0
"""Rows that were predicted before (dynamic tokenization)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


class EmbeddingCache:
    """A table of predicted embeddings, the least recently used of which make room for new ones.

    A batch asks with :meth:`lookup`, predicts what is missing in one call, and hands it to :meth:`put`. What the batch
    asked for last is never evicted before the next lookup. One thread at a time.

    Args:
        capacity: tokens that fit, at least 1.
        dim: width of a row.
        rows: (capacity, dim) array or tensor to keep the rows in, on any device; float32 in NumPy by default.

    Raises:
        ValueError: capacity or dim is less than 1, or rows has another shape.

    >>> cache = EmbeddingCache(capacity=2, dim=1)
    >>> cache.lookup([b"a", b"b"])
    (array([-1, -1]), [b'a', b'b'])
    >>> cache.put([b"a", b"b"], np.array([[1.0], [2.0]]))
    >>> index, missing = cache.lookup([b"b", b"b"])
    >>> cache.rows[index].ravel(), missing
    (array([2., 2.], dtype=float32), [])

    Dynamic tokenization (arXiv 2411.18553), the cache of its experiments; 5000 rows there.
    """

    def __init__(self, capacity: int, dim: int, rows: Any = None) -> None:
        if capacity < 1 or dim < 1:
            raise ValueError(f"EmbeddingCache: capacity and dim must be at least 1, got {capacity} and {dim}")
        self.capacity = capacity
        self.rows = np.zeros((capacity, dim), np.float32) if rows is None else rows
        if tuple(self.rows.shape) != (capacity, dim):
            raise ValueError(f"EmbeddingCache: rows must be ({capacity}, {dim}), got {tuple(self.rows.shape)}")
        self._slots: OrderedDict[bytes, int] = OrderedDict()  # the least recently used first
        self._free = list(range(capacity - 1, -1, -1))
        self._asked: frozenset[bytes] = frozenset()

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, token: bytes) -> bool:
        return token in self._slots

    def lookup(self, tokens: Sequence[bytes]) -> tuple[npt.NDArray[np.int64], list[bytes]]:
        """The row of each token, -1 where there is none, and the tokens without one, each once, in order.

        Raises:
            ValueError: the tokens alone are more than the capacity.
        """
        asked = dict.fromkeys(tokens)
        if len(asked) > self.capacity:
            raise ValueError(f"EmbeddingCache: tokens of one batch must be at most {self.capacity}, got {len(asked)}")
        self._asked = frozenset(asked)
        for token in asked:
            if token in self._slots:
                self._slots.move_to_end(token)
        index = np.array([self._slots.get(token, -1) for token in tokens], np.int64)
        return index, [token for token in asked if token not in self._slots]

    def put(self, tokens: Sequence[bytes], rows: Any) -> None:
        """Keep the rows (M, dim) of M different tokens; those that are there already get their new row.

        Raises:
            ValueError: rows are not one a token, a token is there twice, or there is no room beside the last batch.
        """
        if len(set(tokens)) != len(tokens):
            raise ValueError("EmbeddingCache: tokens must be all different")
        if tuple(rows.shape) != (len(tokens), self.rows.shape[1]):
            expected = (len(tokens), self.rows.shape[1])
            raise ValueError(f"EmbeddingCache: rows must be {expected}, got {tuple(rows.shape)}")
        added = [token for token in tokens if token not in self._slots]
        self.evict(len(added) - len(self._free), keep=self._asked.union(tokens))
        for token in added:
            self._slots[token] = self._free.pop()
        for token in tokens:
            self._slots.move_to_end(token)
        if tokens:
            self.rows[[self._slots[token] for token in tokens]] = rows

    def evict(self, count: int, keep: frozenset[bytes] = frozenset()) -> list[bytes]:
        """Drop the ``count`` least recently used tokens that are not in ``keep``; return them.

        Raises:
            ValueError: so many are not there; nothing is dropped then.
        """
        if count <= 0:
            return []
        gone = [token for token in self._slots if token not in keep][:count]
        if len(gone) < count:
            raise ValueError(f"EmbeddingCache: {count} tokens must make room, only {len(gone)} are not in use")
        for token in gone:
            self._free.append(self._slots.pop(token))
        return gone

    def fetch(self, tokens: Sequence[bytes], predict: Callable[[list[bytes]], Any]) -> Any:
        """The rows (len(tokens), dim); what is missing is predicted in one call."""
        index, missing = self.lookup(tokens)
        if missing:
            self.put(missing, predict(missing))
            index, _ = self.lookup(tokens)
        return self.rows[index]
