# SPDX-License-Identifier: Apache-2.0
"""SpAtten's cascades inside a stack of transformers' layers: pruned tokens and heads are removed, not masked."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokernel.integrations import Patch, unpatch
from tokernel.integrations._patch import Original, eager, is_patched
from tokernel.reduce._spatten_run import Layer, Ratios, Run
from tokernel.reduce._spatten_schedule import ratios_per_layer

__all__ = ["UNSLICED", "Ratio", "SpAttenPatch", "install", "padding"]

Ratio = float | Sequence[float]
HEAD_START = 0.3  # of the paper: the first layers keep all heads twice as long as all tokens
TOKEN_START = 0.15
UNSLICED = "{}: heads expected 0 for projections that are no plain {}; got {}"


class SpAttenPatch(Patch, ABC):
    """Handle of a model that prunes; made by :func:`patch_bert` and :func:`patch_gpt2`.

    Attributes:
        protect: (N) or (B, N) bool, tokens that are never pruned, for the next forward passes; None: by scores alone.
            In generation N is the length of the prompt.
        normalise: rank tokens by the attention received per query that could see them.
        ratios: what every layer prunes; set by :meth:`configure`.
        layers: who took part in each layer of the last forward pass; empty when nothing is to be pruned.
    """

    op: str

    def __init__(self, model: nn.Module, base: Any, stack: nn.ModuleList) -> None:
        super().__init__(model)
        self.base = base
        self.stack: list[Any] = list(stack)
        self.signature = inspect.signature(type(self.stack[0]).forward)
        self.protect: Tensor | None = None
        self.normalise = False
        self.layers: list[Layer] = []
        self.run: Run | None = None

    def configure(self, tokens: Ratio, heads: Ratio = 0.0, values: Ratio = 0.0) -> None:
        """Set what is pruned, as :func:`patch_bert` takes it; at any time between forward passes."""
        count = len(self.stack)
        ratios = Ratios(
            ratios_per_layer(self.op, "tokens", tokens, count, TOKEN_START),
            ratios_per_layer(self.op, "heads", heads, count, HEAD_START),
            ratios_per_layer(self.op, "values", values, count, None),
        )
        if any(ratios.heads):
            self._check_projections()
        self.ratios = ratios

    def install(self) -> None:
        """Replace the forward of every layer, and of the model around them."""
        for index, layer in enumerate(self.stack):
            self.replace(layer, "forward", _run_layer, self, index)
        self.replace(self.base, "forward", _run_model, self)
        forward: Any = vars(self.base)["forward"]
        forward.__signature__ = inspect.signature(type(self.base).forward.__get__(self.base))
        self.attach()

    @eager
    def layer(self, index: int, *args: Any, **kwargs: Any) -> Tensor:
        """One layer: attention of the heads that are left among the tokens that are left, feed-forward, pruning."""
        layer = self.stack[index]
        bound = self.signature.bind(layer, *args, **kwargs).arguments
        if bound.get("encoder_hidden_states") is not None:
            raise ValueError(f"{self.op}: encoder_hidden_states expected None; got a tensor")
        x: Tensor = bound["hidden_states"]
        cache = bound.get("cache", bound.get("past_key_values"))
        if index == 0:
            self.run = self._start(x, bound.get("attention_mask"), cache)
            self.layers = self.run.layers
        run = self.run
        if run is None:
            raise ValueError(f"{self.op}: layers expected to run in order, within the model; got layer {index} alone")
        x = self._compute(index, layer, run, x, cache)
        return self._after(index, run, x, cache)

    @abstractmethod
    def _start(self, x: Tensor, mask: Any, cache: Any) -> Run: ...

    @abstractmethod
    def _compute(self, index: int, layer: Any, run: Run, x: Tensor, cache: Any) -> Tensor: ...

    def _after(self, index: int, run: Run, x: Tensor, cache: Any) -> Tensor:
        return run.finish(x) if index == len(self.stack) - 1 else run.advance(index, x)

    @abstractmethod
    def _check_projections(self) -> None: ...

    def _protected(self, tokens: int) -> Tensor | None:
        protect = self.protect
        if protect is None:
            return None
        more = tokens - protect.shape[-1]
        if more < 0:
            raise ValueError(f"{self.op}: protect expected at most {tokens} tokens; got {protect.shape[-1]}")
        return torch.cat([protect, protect.new_zeros(*protect.shape[:-1], more)], -1)

    def __getstate__(self) -> dict[str, Any]:
        # What the last forward pass left is no part of a copy, and tensors with a gradient cannot be copied.
        return self.__dict__ | {"run": None, "layers": []}


def _run_layer(patch: SpAttenPatch, index: int, original: Original, *args: Any, **kwargs: Any) -> Any:
    if patch.ratios.nothing:
        return original(*args, **kwargs)
    return patch.layer(index, *args, **kwargs)


def _run_model(patch: SpAttenPatch, original: Original, *args: Any, **kwargs: Any) -> Any:
    patch.layers = []
    if patch.ratios.nothing:
        return original(*args, **kwargs)
    if kwargs.get("output_attentions") or getattr(patch.base.config, "output_attentions", False):
        raise ValueError(f"{patch.op}: output_attentions expected False, maps are not stored; got True")
    if patch.base.training and any(getattr(layer, "gradient_checkpointing", False) for layer in patch.stack):
        # The recomputation in backward would run after the scores of this forward are forgotten.
        raise ValueError(f"{patch.op}: gradient checkpointing expected off while pruning; got on")
    try:
        return original(*args, **kwargs)
    finally:
        patch.run = None


def padding(op: str, mask: Any, x: Tensor, past: int, causal: bool) -> Tensor | None:
    """Which tokens are real, (B, past + N) bool, from the mask that the layers of transformers are given."""
    batch, queries = x.shape[:2]
    total = past + queries
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.shape[-1] != total or mask.dim() not in (2, 4):
        raise ValueError(
            f"{op}: attention_mask expected padding of {total} tokens, for attention 'sdpa', 'eager' or 'flash'; got "
            f"{tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__}"
        )
    if mask.dim() == 2:
        return mask.bool().expand(batch, total)
    allowed = (mask if mask.dtype == torch.bool else mask == 0)[:, 0].expand(batch, -1, -1)
    valid = allowed[:, -1]
    expected = valid[:, None, :]
    if causal:
        places = torch.arange(total, device=x.device)
        expected = expected & (places <= places[past:, None])
    same = (allowed == expected).all(-1)
    # Rows of padding see nothing, or everything (transformers' remedy against NaN), or what others see.
    dead = ~valid[:, past:] & ((~allowed | expected).all(-1) | allowed.all(-1)) if allowed.shape[1] > 1 else same
    if mask.shape[1] > 1 or not bool((same | dead).all()):
        raise ValueError(f"{op}: attention_mask expected padding alone; got a mask of its own for queries or heads")
    return valid


def install(
    patch: SpAttenPatch,
    tokens: Ratio,
    heads: Ratio,
    values: Ratio,
    protect: Tensor | None,
    normalise: bool,
) -> None:
    patch.configure(tokens, heads, values)
    patch.protect, patch.normalise = protect, normalise
    unpatch(patch.model)
    if is_patched(patch.stack[0]):
        raise ValueError(f"{patch.op}: model expected an unpatched stack; got one patched through another module")
    patch.install()
