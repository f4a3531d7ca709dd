# SPDX-License-Identifier: Apache-2.0
"""Which tokens of a sequence go on, and what a cache then holds: index bookkeeping without a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Kept", "Shortened", "cache_length", "cache_of", "forget", "remember", "remembered"]

_NOTE = "_tokernel_shortened"
_CACHE_NAMES = ("cache", "past_key_values")  # transformers 5 renamed it on the way


@dataclass(frozen=True)
class Kept:
    """The tokens that go on, row by row.

    Rows that keep fewer tokens than the longest one are filled up on the left, where generation expects padding.

    Attributes:
        index: (B, M) int64, ascending where live.
        live: (B, M) bool, False where a place only fills up its row; None when every place is a token.
    """

    index: Tensor
    live: Tensor | None = None

    @classmethod
    def where(cls, keep: Tensor) -> Kept:
        """The places of a (B, N) mask that are True."""
        most = int(keep.sum(1).max()) if keep.numel() else 0
        # A stable sort puts the dropped places first: what fills up a short row is a dropped token.
        index = keep.to(torch.uint8).argsort(dim=1, stable=True)[:, keep.shape[1] - most :]
        live = keep.gather(1, index)
        return cls(index, None if bool(live.all()) else live)

    @classmethod
    def all(cls, batch: int, length: int, device: torch.device, start: int = 0) -> Kept:
        """Every token from `start` on."""
        return cls(torch.arange(start, start + length, device=device).expand(batch, length))

    def __len__(self) -> int:
        return self.index.shape[1]

    def pick(self, values: Tensor) -> Tensor:
        """(B, N) -> (B, M)."""
        return values.gather(1, self.index)

    def filled(self, values: Tensor, nothing: float) -> Tensor:
        """Values (B, M) with `nothing` where a place only fills up its row."""
        return values if self.live is None else values.masked_fill(~self.live, nothing)

    def then(self, later: Kept | None) -> Kept:
        """The tokens that `later` keeps of these."""
        if later is None:
            return self
        live = later.live if self.live is None else later.pick(self.live)
        if self.live is not None and later.live is not None:
            live = live & later.live  # type: ignore[operator]
        return Kept(later.pick(self.index), live)

    def moved(self, start: int) -> Kept:
        """The same tokens, counted from an origin `start` places earlier."""
        return Kept(self.index + start, self.live)

    def grown(self, more: int, start: int) -> Kept:
        """These tokens and `more` later ones, the first of which is token `start`."""
        return self.followed_by(Kept.all(len(self.index), more, self.index.device, start)) if more else self

    def followed_by(self, more: Kept) -> Kept:
        """These tokens and then `more`."""
        index = torch.cat([self.index, more.index], 1)
        if self.live is None and more.live is None:
            return Kept(index)
        live = [
            torch.ones_like(part.index, dtype=torch.bool) if part.live is None else part.live for part in (self, more)
        ]
        return Kept(index, torch.cat(live, 1))


@dataclass
class Shortened:
    """What a cache holds of the tokens that were fed to the model.

    Attributes:
        columns: which of the first `fed` tokens the cache of layer 0 holds; those that came later are all there.
        fed: number of tokens fed up to the last time that some were dropped.
        following: (B) position of token `fed` by the counter of the whole sequence.
        shift: (B) how much lower positions are because dropped tokens are not counted.
        inner: after which layer -> which of the `columns` the caches of later layers hold.
    """

    columns: Kept
    fed: int
    following: Tensor
    shift: Tensor
    inner: dict[int, Kept] = field(default_factory=dict)


def cache_of(call: Any) -> Any:
    """The cache among named arguments, or of a model's output; None when there is none."""
    return next((call[name] for name in _CACHE_NAMES if name in call and call[name] is not None), None)


def cache_length(cache: Any) -> int:
    """Tokens that the cache of layer 0 holds."""
    return 0 if cache is None else int(cache.get_seq_length())


def remember(cache: Any, note: Shortened) -> None:
    """Write on a cache what it holds: it is copied, pickled and forgotten together with it."""
    vars(cache)[_NOTE] = note


def forget(cache: Any) -> None:
    """Take the note from a cache."""
    if cache is not None:
        vars(cache).pop(_NOTE, None)


def remembered(cache: Any) -> Shortened | None:
    """The note on a cache that still holds something."""
    note: Shortened | None = getattr(cache, _NOTE, None)
    if note is None:
        return None
    length = cache_length(cache)
    if length == 0:
        forget(cache)  # It was reset.
        return None
    if length < len(note.columns):
        raise ValueError(
            f"patch_llava: cache expected at least the {len(note.columns)} tokens of its prompt; got one cropped to "
            f"{length}"
        )
    return note
