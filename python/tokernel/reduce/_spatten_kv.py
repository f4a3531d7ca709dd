# SPDX-License-Identifier: Apache-2.0
"""SpAtten-LLM: a cache of keys and values that keeps the first, the most attended and the latest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokernel import ops

__all__ = ["SpAttenKVCache"]


class SpAttenKVCache:
    """Which cached keys and values to keep, per layer and head (spatten_llm in the official repository).

    Once `coming` more tokens would not fit in ``start + important + recent``, a head keeps its first `start` places,
    the `important` ones of the highest score among the middle ``[start, T - recent + coming)``, and the rest up to T.
    A score is a sum of raw logits (scaled, before the softmax and the mask) over the queries of the last forward pass
    alone. This is no cascade: heads and layers choose for themselves, from logits instead of probabilities.

    Survivors are numbered anew: keys are to be cached unrotated, and rotated by their place in the cache, as in the
    official code. A cache whose keys were rotated before they went in (transformers' Llama) is pruned to the same
    tokens, at their old angles.

    Args:
        start_size: first places that always stay.
        recent_size: last places that always stay, the coming tokens included.
        important_size: places that are chosen, at least 1.

    Raises:
        ValueError: a negative size, or no important place.

    >>> cache = SpAttenKVCache(start_size=1, recent_size=2, important_size=1)
    >>> scores = torch.tensor([[[0.0, 1.0, 5.0, 2.0, 0.0, 0.0]]])
    >>> cache.select(scores, coming=1)
    tensor([[0, 2, 5]])
    """

    def __init__(self, start_size: int = 0, recent_size: int = 150, important_size: int = 150) -> None:
        for name, size, least in (
            ("start_size", start_size, 0),
            ("recent_size", recent_size, 0),
            ("important_size", important_size, 1),
        ):
            if size < least:
                raise ValueError(f"SpAttenKVCache: {name} expected at least {least}; got {size}")
        self.start_size = start_size
        self.recent_size = recent_size
        self.important_size = important_size

    @property
    def cache_size(self) -> int:
        """How many tokens fit."""
        return self.start_size + self.important_size + self.recent_size

    @staticmethod
    def scores(q: Tensor, k: Tensor, scale: float | None = None) -> Tensor:
        """Add up the raw logits of every key over the queries, without the map: ``scale * <sum_i q_i, k_j>``.

        Args:
            q: (1, H, Q, D) queries of the last forward pass.
            k: (1, H, T, D) keys.
            scale: None is ``D ** -0.5``.

        Returns:
            (1, H, T) float32.
        """
        if q.dim() != 4 or k.dim() != 4 or q.shape[:2] != k.shape[:2]:
            raise ValueError(
                "SpAttenKVCache: q and k expected (1, H, Q, D) and (1, H, T, D) of as many heads, grouped queries are "
                f"not supported; got {tuple(q.shape)} and {tuple(k.shape)}"
            )
        total = q.float().sum(2, keepdim=True) * (q.shape[-1] ** -0.5 if scale is None else scale)
        return (total @ k.float().mT)[:, :, 0]

    def select(self, scores: Tensor, coming: int) -> Tensor | None:
        """Choose the places that stay.

        Args:
            scores: (1, H, Q, T) raw logits of the last forward pass, or their sums (1, H, T).
            coming: tokens that the next forward pass adds.

        Returns:
            (H, T') int64, ascending; None when everything fits.

        Raises:
            ValueError: a batch of more than 1, a negative `coming`, or fewer candidates than important places, which
                happens when more tokens come than `recent_size`.
        """
        if scores.dim() not in (3, 4) or scores.shape[0] != 1:
            raise ValueError(
                f"SpAttenKVCache: scores expected shape (1, H, Q, T) or (1, H, T); got {tuple(scores.shape)}"
            )
        if coming < 0:
            raise ValueError(f"SpAttenKVCache: coming expected at least 0; got {coming}")
        tokens = scores.shape[-1]
        if tokens + coming <= self.cache_size:
            return None
        end = min(tokens, tokens - self.recent_size + coming)
        if end - self.start_size < self.important_size:
            raise ValueError(
                f"SpAttenKVCache: recent_size expected room for {coming} coming tokens, {self.important_size} "
                f"important places of {max(0, end - self.start_size)} candidates; got {self.recent_size}"
            )
        summed = scores[0].float() if scores.dim() == 3 else scores[0].float().sum(1)
        chosen = ops.topk(summed[:, self.start_size : end], self.important_size, sorted=False)[1] + self.start_size
        heads = len(summed)
        first, last = (
            torch.arange(a, b, device=scores.device).expand(heads, -1) for a, b in ((0, self.start_size), (end, tokens))
        )
        return torch.cat([first, chosen, last], 1)

    def prune(self, keys: Tensor, values: Tensor, scores: Tensor, coming: int) -> tuple[Tensor, Tensor]:
        """Prune the cache of one layer.

        Args:
            keys, values: (1, H, T, D).
            scores: of the same H and T, see :meth:`select`.
            coming: tokens that the next forward pass adds.

        Returns:
            keys and values (1, H, T', D); the very tensors that came in when everything fits.

        Raises:
            ValueError: as :meth:`select`, or scores of other heads than the cache (grouped queries) or another length.
        """
        if keys.dim() != 4 or keys.shape != values.shape or keys.shape[0] != 1:
            raise ValueError(
                f"SpAttenKVCache: keys and values expected one shape (1, H, T, D); got {tuple(keys.shape)} and "
                f"{tuple(values.shape)}"
            )
        if scores.shape[1:2] != keys.shape[1:2]:
            raise ValueError(
                f"SpAttenKVCache: scores expected the {keys.shape[1]} heads of the cache, grouped queries are not "
                f"supported; got {scores.shape[1]}"
            )
        if scores.shape[-1] != keys.shape[2]:
            raise ValueError(f"SpAttenKVCache: scores expected {keys.shape[2]} keys; got {scores.shape[-1]}")
        kept = self.select(scores, coming)
        if kept is None:
            return keys, values
        return ops.gather_rows(keys[0], kept)[None], ops.gather_rows(values[0], kept)[None]

    def prune_cache(self, cache: Any, scores: Sequence[Tensor], coming: int) -> None:
        """Prune every layer of a transformers cache in place (``cache.layers[i].keys`` and ``.values``).

        Nothing is changed when a layer is refused. New tokens then get positions from the shortened length, as in the
        official code; pass position ids yourself to keep the original counter.

        Args:
            cache: a DynamicCache, or what has its layers.
            scores: one tensor a layer, see :meth:`select`.
            coming: tokens that the next forward pass adds.
        """
        layers = list(cache.layers)
        if len(layers) != len(scores):
            raise ValueError(
                f"SpAttenKVCache: scores expected one tensor for each of {len(layers)} layers; got {len(scores)}"
            )
        pruned = [self.prune(layer.keys, layer.values, s, coming) for layer, s in zip(layers, scores, strict=True)]
        for layer, pair in zip(layers, pruned, strict=True):
            layer.keys, layer.values = pair
