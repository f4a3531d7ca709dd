# SPDX-License-Identifier: Apache-2.0
"""One forward pass of a decoder whose tokens get fewer on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokernel.integrations._llava_kept import Kept, Shortened, cache_length, cache_of, forget, remember, remembered
from tokernel.integrations._llava_masks import cut_mask, cut_padding, cut_rotation
from tokernel.ops import gather_rows

__all__ = ["Image", "Run"]


@dataclass(frozen=True)
class Image:
    """Where an image lies in a batch.

    Attributes:
        row: row of the batch.
        columns: (N) int64 places of its tokens in the sequence that was given.
        kept: (K) int64 which of them go on, ascending.
    """

    row: int
    columns: Tensor
    kept: Tensor


class Run:
    """One forward pass: the tokens given, those that are left, and what each layer has to see.

    Attributes:
        images: the images among the tokens given, in their order.
        batch, given: rows, and tokens given in each.
        positions: (B, given) position ids of the tokens given, by the counter of the whole sequence.
        kept: which of the tokens given the decoder starts with; None when all.
        rows: which of the decoder's first tokens the current layer has; None when all.
        owner: (B, Q) int64, for each token of the current layer the image it is of, -1 for text, padding and fill;
            None without images.
        live: (B, Q) bool, which tokens of the current layer are neither padding nor fill; None when all are.
        rotation: (cos, sin) of the current layer's tokens.
    """

    images: list[Image]
    batch: int
    given: int
    positions: Tensor

    def __init__(self, images: list[Image] | None = None, owner: Tensor | None = None) -> None:
        self.images = images or []
        self.owner = owner
        self.kept: Kept | None = None
        self.rows: Kept | None = None
        self.live: Tensor | None = None
        self.rotation: Any = None
        self._inner: dict[int, Kept] = {}
        self._columns: Kept | None = None  # which entries of layer 0's cache the current layer attends to; None: all
        self._cut: dict[str, Any] | None = None

    @property
    def left(self) -> Kept | None:
        """Which of the tokens given the decoder puts out; None when all."""
        return self.rows if self.kept is None else self.kept.then(self.rows)

    @property
    def visual(self) -> Tensor | None:
        """(B, Q) bool, which tokens of the current layer are visual; None without images."""
        return None if self.owner is None else self.owner >= 0

    def places(self, image: int) -> Tensor:
        """(n) int64, where in its row the tokens of an image are that the current layer has."""
        assert self.owner is not None
        return (self.owner[self.images[image].row] == image).nonzero()[:, 0]

    def enter(self, call: dict[str, Any], renumber: bool) -> dict[str, Any]:
        """Shorten the decoder's arguments, minding what earlier passes left in the cache."""
        tokens = call["input_ids"] if call.get("inputs_embeds") is None else call["inputs_embeds"]
        self.batch, self.given = tokens.shape[:2]
        self.device = tokens.device
        cache = cache_of(call)
        self._growing = not getattr(cache, "is_compileable", False)
        self._past = remembered(cache)
        self._held = cache_length(cache)
        self._gap = self._held - len(self._past.columns) if self._past else 0
        self._fed = self._past.fed + self._gap if self._past else self._held
        self._place(call.get("position_ids"))
        keep = self._keep()
        if keep is not None:
            self._check_growing()
            # Padding goes as well: a row without images would otherwise hold the others at their full length.
            self.kept = Kept.where(self._unpadded(keep, call.get("attention_mask")))
        self._length = self.given if self.kept is None else len(self.kept)
        if self.kept is not None or self._past is not None:
            call = self._shorten(call, keep, renumber)
        mask = call.get("attention_mask")
        if isinstance(mask, Tensor) and mask.dim() == 2:
            self.live = mask[:, mask.shape[1] - self._length :].bool()
        return call

    def _place(self, given: Tensor | None) -> None:
        """Find the positions of the tokens given: the cache's length does not tell them once it is shortened."""
        past = self._past
        if past is not None and len(past.shift) != self.batch:
            raise ValueError(f"patch_llava: batch expected {len(past.shift)} rows, as in the cache; got {self.batch}")
        self._shift = past.shift if past else torch.zeros(self.batch, dtype=torch.int64, device=self.device)
        if given is None:
            start = past.following + self._gap if past else self._shift + self._held
            given = start[:, None] + torch.arange(self.given, device=self.device)
        self.positions = given.expand(self.batch, -1)

    def _keep(self) -> Tensor | None:
        """(B, given) bool, False where a visual token is dropped; None when none is."""
        dropped = [image for image in self.images if len(image.kept) < len(image.columns)]
        if not dropped:
            return None
        keep = torch.ones(self.batch, self.given, dtype=torch.bool, device=self.device)
        for image in dropped:
            keep[image.row, image.columns] = False
            keep[image.row, image.columns[image.kept]] = True
        return keep

    def _unpadded(self, keep: Tensor, mask: Any) -> Tensor:
        if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.shape[1] != self._fed + self.given:
            return keep
        return keep & mask[:, self._fed :].bool()

    def _shorten(self, call: dict[str, Any], keep: Tensor | None, renumber: bool) -> dict[str, Any]:
        past, kept = self._past, self.kept or Kept.all(self.batch, self.given, self.device)
        held = past.columns.grown(self._gap, past.fed) if past else Kept.all(self.batch, self._held, self.device)
        self._fed_columns = held.followed_by(kept.moved(self._fed))
        padding = cut_padding(call.get("attention_mask"), self._fed_columns, self._fed + self.given)
        if padding is None and cache_of(call) is None:
            padding = self._unpacked()
        positions = self.positions - self._shift[:, None]
        if keep is not None and renumber:
            missing = (~keep).cumsum(1)
            positions = positions - missing
            self._shift = self._shift + missing[:, -1]
        short = dict(call, attention_mask=padding, position_ids=kept.filled(kept.pick(positions), 0).clamp_min(0))
        if "cache_position" in call:  # Earlier versions of transformers 5 say so: places in the cache, not positions.
            short["cache_position"] = torch.arange(self._held, self._held + self._length, device=self.device)
        if keep is not None:
            short["inputs_embeds"] = gather_rows(call["inputs_embeds"], kept.index)
            self._follow(kept)
        return short

    def _follow(self, kept: Kept) -> None:
        self.owner = None if self.owner is None else kept.filled(kept.pick(self.owner), -1)

    def _unpacked(self) -> Tensor:
        """A mask of ones: without mask and cache, transformers takes a gap between positions for another sequence."""
        if bool((self.positions.diff() != 1).any()):
            raise ValueError("patch_llava: position_ids expected one sequence a row; got several packed into one")
        return torch.ones(self.batch, self._length, dtype=torch.int64, device=self.device)

    def arguments(self, call: dict[str, Any], implementation: str) -> dict[str, Any]:
        """What a layer gets for the tokens that are left."""
        if self._columns is not None:
            if self._cut is None:
                self._cut = self._cut_down(call, self._columns, implementation)
            call = dict(call, **self._cut)
        self.rotation = call.get("position_embeddings")
        return call

    def _cut_down(self, call: dict[str, Any], columns: Kept, implementation: str) -> dict[str, Any]:
        rows = self.rows or Kept.all(self.batch, self._length, self.device)
        cut = {"attention_mask": cut_mask(call.get("attention_mask"), rows, columns, implementation)}
        if self.rows is not None:
            positions = call.get("position_ids")
            cut["position_ids"] = None if positions is None else rows.pick(positions.expand(self.batch, -1))
            cut["position_embeddings"] = cut_rotation(call["position_embeddings"], rows)
        return cut

    def leave(self, layer: int, hidden: Tensor, keep: Tensor | None) -> Tensor:
        """Drop the tokens where `keep` (B, Q) is False, after a layer that may drop some."""
        if keep is not None and not bool(keep.all()):
            self._check_growing()
            hidden = self._drop(hidden, Kept.where(keep if self.live is None else keep & self.live))
        past = self._past.inner.get(layer) if self._past else None
        if past is None and self.rows is None:
            return hidden
        first = len(self._past.columns) if self._past else 0
        held = past.grown(self._gap, first) if past else Kept.all(self.batch, self._held, self.device)
        rows = self.rows or Kept.all(self.batch, self._length, self.device)
        self._columns = self._inner[layer] = held.followed_by(rows.moved(self._held))
        self._cut = None
        return hidden

    def _drop(self, hidden: Tensor, kept: Kept) -> Tensor:
        self.rows = (self.rows or Kept.all(self.batch, self._length, self.device)).then(kept)
        self._follow(kept)
        self.live = kept.live
        return gather_rows(hidden, kept.index)

    def finish(self, output: Any) -> None:
        """Write on the cache what it holds now, if that is not everything."""
        cache = cache_of(output)
        if cache is None:
            return
        if self.kept is not None or self.rows is not None:
            everything = Kept.all(self.batch, self._fed + self.given, self.device)
            columns = everything if self.kept is None and self._past is None else self._fed_columns
            following = self.positions[:, -1] + 1
            remember(cache, Shortened(columns, self._fed + self.given, following, self._shift, self._inner))
        elif self._past is None:
            forget(cache)

    def _check_growing(self) -> None:
        if not self._growing:
            raise ValueError("patch_llava: cache expected a dynamic one, its layers differ in length; got a static one")
