# SPDX-License-Identifier: Apache-2.0
"""Counted pieces that can be added up, kept in a file, and trained from."""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tokernel import _C
from tokernel.kernels import bpe
from tokernel.text import _atomic
from tokernel.text._atomic import PathLike
from tokernel.text._errors import FormatError

__all__ = ["PieceCounts"]

_FIELDS = {"pieces": np.uint8, "offsets": np.int64, "counts": np.int64}


class PieceCounts:
    """How often each piece of a pre-tokenizer was seen: what training needs of a corpus.

    Counts of parts of a corpus add up to those of the whole, in any order and grouping, so parts may be counted
    anywhere: `sum(parts, PieceCounts())`. Counts are int64. Immutable, and ascending by bytes: equal counts are equal
    arrays.

    >>> a, b = PieceCounts.from_mapping({"to": 2, " be": 1}), PieceCounts.from_mapping({" be": 4})
    >>> dict(a + b)
    {b' be': 5, b'to': 2}
    >>> (a + b).total
    7
    """

    __slots__ = ("counts", "offsets", "pieces")

    pieces: npt.NDArray[np.uint8]
    """(N) uint8, one piece after the other."""
    offsets: npt.NDArray[np.int64]
    """(P + 1) int64, where each begins in `pieces`."""
    counts: npt.NDArray[np.int64]
    """(P) int64, how often each was seen."""

    def __init__(self, pieces: Any = (), offsets: Any = (0,), counts: Any = ()) -> None:
        """Take pieces in any order; those that are there twice are added up, empty ones left out.

        Raises:
            ValueError: extents do not fit, or a count is negative.
        """
        counter = _C.PieceCounter()
        arrays = (np.asarray(pieces, np.uint8), np.asarray(offsets, np.int64), np.asarray(counts, np.int64))
        counter.add_counts(*arrays)
        self._fill(counter)

    def _fill(self, counter: Any) -> None:
        self.pieces, self.offsets, self.counts = counter.counted()
        for array in (self.pieces, self.offsets, self.counts):
            array.setflags(write=False)

    @classmethod
    def of(cls, counter: Any) -> PieceCounts:
        """What a counter of the extension has counted."""
        new = cls.__new__(cls)
        new._fill(counter)
        return new

    @classmethod
    def from_mapping(cls, counts: Mapping[str, int] | Mapping[bytes, int]) -> PieceCounts:
        """Take counts by piece, for example those of a `collections.Counter` or of a word list."""
        pieces = [piece.encode() if isinstance(piece, str) else piece for piece in counts]
        offsets = [0, *itertools.accumulate(map(len, pieces))]
        return cls(np.frombuffer(b"".join(pieces), np.uint8), offsets, list(counts.values()))

    @property
    def total(self) -> int:
        """How many pieces were counted."""
        return int(self.counts.sum())

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        data, ends = self.pieces.tobytes(), self.offsets.tolist()
        return ((data[a:b], n) for (a, b), n in zip(itertools.pairwise(ends), self.counts.tolist(), strict=True))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PieceCounts):
            return NotImplemented
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in _FIELDS)

    __hash__ = None  # type: ignore[assignment]  # large, and compared by value

    def __add__(self, other: PieceCounts) -> PieceCounts:
        if not isinstance(other, PieceCounts):
            return NotImplemented
        counter = _C.PieceCounter()
        for part in (self, other):
            counter.add_counts(part.pieces, part.offsets, part.counts)
        return PieceCounts.of(counter)

    def __repr__(self) -> str:
        return f"<PieceCounts of {len(self)} different pieces, {self.total} in all>"

    def __reduce__(self) -> tuple[Any, ...]:
        return PieceCounts, (self.pieces, self.offsets, self.counts)

    def save(self, path: PathLike) -> None:
        """Write an .npz file, whole or not at all."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, pieces=self.pieces, offsets=self.offsets, counts=self.counts)
        _atomic.write(path, buffer.getvalue())

    @classmethod
    def load(cls, path: PathLike) -> PieceCounts:
        """Read what :meth:`save` wrote.

        Raises:
            FormatError: the file is something else.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                arrays = {name: data[name] for name in _FIELDS}
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise FormatError(f"{path}: not a file of counted pieces ({error})") from None
        for name, dtype in _FIELDS.items():
            if arrays[name].dtype != dtype or arrays[name].ndim != 1:
                raise FormatError(f"{path}: {name}: expected flat {np.dtype(dtype)}, got {arrays[name].dtype}")
        return cls(**arrays)


def words_of(counts: PieceCounts | Any) -> bpe.CountedPieces:
    """The arrays that the trainer takes, of counts or of a counter; in no order there, since none matters."""
    if isinstance(counts, PieceCounts):
        return bpe.CountedPieces(counts.pieces, counts.offsets, counts.counts)
    return bpe.CountedPieces(*counts.counted(False))
