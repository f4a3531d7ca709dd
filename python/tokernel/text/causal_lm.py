# SPDX-License-Identifier: Apache-2.0
"""A causal model of transformers as the model of tokens that byte models are made of."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["CausalLM"]


class CausalLM:
    """Logits of a transformers model, with one cache of keys and values: what two calls share is computed once.

    Args:
        model: a causal model in eval mode, on any device, with a cache that can be cropped (the default one).
    """

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        self._model = model
        self._ids: list[int] = []
        self._cache = DynamicCache(config=model.config)
        names = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in names else "past_key_values"  # transformers 5 renamed it on the way

    @torch.inference_mode()
    def logits(self, ids: Sequence[int], last: int) -> np.ndarray[Any, Any]:
        """Return (last, V) float32: the logits behind each of the `last` longest prefixes of `ids`.

        Raises:
            ValueError: `last` is not in 1..len(ids).
        """
        if not 1 <= last <= len(ids):
            raise ValueError(f"CausalLM.logits: last must be in 1..{len(ids)}, the number of ids, got {last}")
        shared = 0
        for mine, theirs in zip(self._ids, ids[: len(ids) - last], strict=False):
            if mine != theirs:
                break
            shared += 1
        if shared < len(self._ids):
            self._cache.crop(shared - len(self._ids))  # a negative number: so many fewer
        new = torch.tensor([list(ids[shared:])], device=self._model.device)
        out = self._model(input_ids=new, use_cache=True, **{self._cache_name: self._cache})
        self._ids = list(ids)
        return out.logits[0, -last:].float().cpu().numpy()  # type: ignore[no-any-return]
