# SPDX-License-Identifier: Apache-2.0
"""Keys and values of the tokens that are left, in transformers' cache: every layer of another length."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from tokernel import ops
from tokernel.reduce._spatten_state import TokenHeadState

__all__ = ["PrunedLayer", "layers_of"]

_caches: Any = importlib.import_module("transformers.cache_utils")  # typed or not: mypy sees the same


class PrunedLayer(_caches.DynamicLayer):  # type: ignore[misc]
    """What a layer knows of earlier tokens: keys and values (B, h, T, D) of its own tokens and heads.

    The first layer never loses a token, so that its length, which transformers asks for, is the original counter.

    Attributes:
        rows: what goes with the samples when beams are reordered: ``tokens`` (B, T) places in the whole sequence,
            ``valid`` (B, T), ``heads`` (B, h); in the first layer also ``score`` and ``seen`` (B, T).
    """

    is_croppable = False

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, Tensor] = {}
        self.even = True  # all samples have as many tokens

    @property
    def heads(self) -> Tensor | None:
        """The heads of this layer, once they are chosen."""
        return self.rows.get("heads")

    def knows(self, past: int, total: int, like: TokenHeadState) -> Tensor:
        """Mark the tokens that this layer has, or will have, a key of: (B, total) bool."""
        batch = len(like.tokens)
        known = torch.zeros(batch, total, dtype=torch.bool, device=like.tokens.device)
        known[:, past:] = True
        if self.rows:
            known.scatter_(1, self.rows["tokens"], self.rows["valid"])
        return known

    def exchange(
        self, k: Tensor, v: Tensor, places: Tensor, total: int, state: TokenHeadState
    ) -> tuple[Tensor, Tensor]:
        """Add the keys and values of the present tokens, and drop those of tokens that are no longer left.

        Args:
            k, v: (B, h, Q, D).
            places: (B, Q) of the present tokens.
            total: tokens of the whole sequence.
            state: who is left.

        Returns:
            keys and values (B, h, n, D) of ``state.tokens``.
        """
        known = torch.cat([self.rows["tokens"], places], 1) if self.rows else places
        k, v = super().update(k, v)
        even = state.valid is None
        # As many ascending tokens out of those known are all of them, unless filling is among them.
        if known.shape != state.tokens.shape or not (even and self.even):
            where = torch.arange(known.shape[1], device=known.device).expand_as(known)
            slots = torch.zeros(len(known), total, dtype=torch.int64, device=known.device).scatter(1, known, where)
            index = slots.gather(1, state.tokens)
            k, v = (_pick(x, index) for x in (k, v))
            self.keys, self.values = k, v
        valid = torch.ones_like(state.tokens, dtype=torch.bool) if state.valid is None else state.valid
        self.rows |= {"tokens": state.tokens, "valid": valid, "heads": state.heads}
        self.even = even
        return k, v

    def remember(self, state: TokenHeadState) -> None:
        """Keep the scores for the next step; of the first layer only."""
        self.rows |= {"score": state.all_token_score, "seen": state.seen}

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Refuse a model that does not prune: it would take the keys that are left for all of them."""
        if self.rows:
            raise ValueError("PrunedLayer: update expected the pruning model that filled the cache; got another")
        pair: tuple[Tensor, Tensor] = super().update(*args, **kwargs)
        return pair

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow beams."""
        super().reorder_cache(beam_idx)
        self.rows = {name: x.index_select(0, beam_idx.to(x.device)) for name, x in self.rows.items()}

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sample."""
        super().batch_repeat_interleave(repeats)
        self.rows = {name: x.repeat_interleave(repeats, dim=0) for name, x in self.rows.items()}

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some samples."""
        super().batch_select_indices(indices)
        self.rows = {name: x[indices] for name, x in self.rows.items()}

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: pruned tokens cannot be brought back."""
        raise ValueError("PrunedLayer: crop expected an unpruned cache; tokens that SpAtten pruned cannot come back")

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.rows, self.even = {}, True


def _pick(x: Tensor, index: Tensor) -> Tensor:
    """out[b, h, m] = x[b, h, index[b, m]]."""
    batch, heads = x.shape[:2]
    out: Tensor = ops.gather_rows(x.flatten(0, 1), index.repeat_interleave(heads, 0)).unflatten(0, (batch, heads))
    return out


def layers_of(cache: Any, count: int) -> list[PrunedLayer]:
    """The layers of a cache, made ours while it is empty.

    Raises:
        ValueError: a cache of another kind, an offloaded one, or one that an unpruned model has filled.
    """
    if type(cache) is not _caches.DynamicCache or cache.offloading:
        raise ValueError(f"patch_gpt2: cache expected a DynamicCache, not offloaded; got {type(cache).__name__}")
    if not cache.layers or all(
        type(layer) is _caches.DynamicLayer and not layer.get_seq_length() for layer in cache.layers
    ):
        cache.layers = [PrunedLayer() for _ in range(count)]
    if len(cache.layers) != count or not all(isinstance(layer, PrunedLayer) for layer in cache.layers):
        raise ValueError(
            "patch_gpt2: cache expected empty, or filled by this pruning model; got one filled without pruning"
        )
    layers: list[PrunedLayer] = cache.layers
    return layers
