# SPDX-License-Identifier: Apache-2.0
"""The layers of a transformers decoder run one by one, each with as many cached keys and values as it has seen.

The modules of the user's model are called as they are; nothing is put on them and no setting is changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LayerRows", "LayerStack", "Place", "layer_stack"]

_ROTARY = ("llama", "qwen2", "qwen3")
_KNOWN = (*_ROTARY, "gpt2", "opt")


class LayerRows:
    """Keys and values of every layer, with a length of its own per layer. What a transformers layer takes as cache."""

    def __init__(self, layers: int, capacity: int) -> None:
        self.capacity = capacity
        self.lengths = [0] * layers
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append (B, G, T, D) rows to a layer; all of its rows so far."""
        first = self.lengths[layer_idx]
        end = first + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"cache: rows expected at most {self.capacity}; got {end}")
        kept = []
        for store, new in ((self.keys, keys), (self.values, values)):
            rows = store[layer_idx]
            if rows is None:
                rows = new.new_empty(*new.shape[:2], self.capacity, new.shape[3])
                store[layer_idx] = rows
            rows[:, :, first:end] = new
            kept.append(rows[:, :, :end])
        self.lengths[layer_idx] = end
        return kept[0], kept[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Rows of one layer: what a transformers cache is asked for."""
        return self.lengths[layer_idx]

    def crop(self, length: int) -> None:
        """Forget the rows from ``length`` on, in every layer."""
        self.lengths = [min(length, had) for had in self.lengths]

    def keep(self, rows: Tensor) -> None:
        """Keep some sequences of the batch only."""
        for store in (self.keys, self.values):
            store[:] = [None if held is None else held[rows] for held in store]


@dataclass(frozen=True)
class Place:
    """Where some columns stand: position ids (B, T), rotary angles, the mask that hides later columns and padding."""

    positions: Tensor
    rotary: tuple[Tensor, Tensor] | None
    mask: Tensor | None


class LayerStack:
    """The parts of a causal language model, to be run one by one; made by :func:`layer_stack`."""

    def __init__(self, model: Any, base: Any, layers: nn.ModuleList) -> None:
        self.model = model
        self.base = base
        self.layers: list[Any] = list(layers)
        self.head: Any = model.get_output_embeddings()
        known = inspect.signature(type(self.layers[0]).forward).parameters
        # transformers 5 renamed it on the way.
        self.cache_name = "cache" if "cache" in known else "past_key_values"

    @property
    def implementation(self) -> str:
        """Which attention the model is set to."""
        return str(self.base.config._attn_implementation)

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """(B, T) ids at their positions to (B, T, D)."""
        base = self.base
        kind = base.config.model_type
        h: Tensor
        if kind == "gpt2":
            h = base.drop(base.wte(ids) + base.wpe(positions))
        elif kind == "opt":
            h = base.embed_tokens(ids)
            h = h if base.project_in is None else base.project_in(h)
            h = h + base.embed_positions(None, position_ids=positions)
        else:
            h = base.embed_tokens(ids)
        return h

    def place(self, h: Tensor, positions: Tensor, past: int, valid: Tensor | None = None) -> Place:
        """Of T columns behind ``past`` cached ones; valid (B, past + T): False at columns that pad."""
        rotary = self.base.rotary_emb(h, position_ids=positions) if hasattr(self.base, "rotary_emb") else None
        return Place(positions, rotary, self._mask(h, past, valid))

    def run(self, h: Tensor, place: Place, layer: int, rows: LayerRows | None = None) -> Tensor:
        """One layer over (B, T, D); with rows, it sees what it has cached, and caches these columns."""
        more: dict[str, Any] = {self.cache_name: rows}
        if place.rotary is not None:
            more["position_embeddings"] = place.rotary
        out = self.layers[layer](
            h, attention_mask=place.mask, position_ids=place.positions, use_cache=rows is not None, **more
        )
        # Layers of some versions of transformers return a tuple.
        found: Tensor = out[0] if isinstance(out, tuple) else out
        return found

    def run_all(self, h: Tensor, place: Place, layers: Iterable[int], rows: LayerRows | None = None) -> Tensor:
        """Several layers in order."""
        for layer in layers:
            h = self.run(h, place, layer, rows)
        return h

    def norm(self, h: Tensor) -> Tensor:
        """What stands between the last layer and the head."""
        base = self.base
        kind = base.config.model_type
        if kind == "opt":
            h = h if base.final_layer_norm is None else base.final_layer_norm(h)
            out: Tensor = h if base.project_out is None else base.project_out(h)
        else:
            out = base.ln_f(h) if kind == "gpt2" else base.norm(h)
        return out

    def logits(self, h: Tensor) -> Tensor:
        """Norm and head over (..., D), in the dtype of the model."""
        found: Tensor = self.head(self.norm(h))
        return found

    def _mask(self, h: Tensor, past: int, valid: Tensor | None) -> Tensor | None:
        count = h.shape[1]
        padded = valid is not None and not bool(valid.all())
        if not padded and (count == 1 or (past == 0 and self.implementation == "sdpa")):
            return None
        column = torch.arange(past + count, device=h.device)
        own = column[past:, None]
        seen = (column <= own)[None, None]
        if padded:
            assert valid is not None
            # A column of padding sees itself: a row of the softmax without any key would be NaN.
            seen = (seen & valid[:, None, None]) | (column == own)
        if self.implementation == "sdpa":
            return seen
        return torch.zeros_like(seen, dtype=h.dtype).masked_fill(~seen, torch.finfo(h.dtype).min)


def layer_stack(op: str, model: Any, training: bool = False) -> LayerStack:
    """The parts of a Llama, Qwen2, Qwen3, GPT-2 or OPT of transformers.

    Raises:
        TypeError: not a causal language model of one of these kinds.
        ValueError: training mode, unless it is for training; sliding windows, cross-attention, rotary angles that
            depend on the length so far, several devices, or an attention other than eager and sdpa.
    """
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    base: Any = getattr(model, getattr(model, "base_model_prefix", ""), None)
    base = getattr(base, "decoder", base)
    layers = getattr(base, "h", getattr(base, "layers", None))
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if kind not in _KNOWN or not isinstance(layers, nn.ModuleList) or not len(layers) or head is None:
        wanted = f"a causal language model of transformers, one of {', '.join(_KNOWN)}"
        raise TypeError(f"{op}: model expected {wanted}; got {type(model).__name__}")
    if model.training and not training:
        raise ValueError(f"{op}: model expected in evaluation mode (model.eval()); got one in training mode")
    if any(getattr(layer, "crossattention", None) is not None for layer in layers):
        raise ValueError(f"{op}: model expected no cross-attention; got a decoder of an encoder")
    scaling = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if scaling in ("dynamic", "longrope"):
        raise ValueError(f"{op}: model expected rotary angles free of the length so far; got {scaling!r} scaling")
    kinds = sorted(set(getattr(config, "layer_types", None) or ["full_attention"]))
    if kinds != ["full_attention"]:
        raise ValueError(f"{op}: model expected full attention in every layer; got {kinds}")
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if len(devices) > 1:
        raise ValueError(f"{op}: model expected on one device; got {', '.join(devices)}")
    if config._attn_implementation not in ("eager", "sdpa"):
        wanted = "attention eager or sdpa (model.set_attn_implementation)"
        raise ValueError(f"{op}: model expected {wanted}; got {config._attn_implementation}")
    return LayerStack(model, base, layers)
