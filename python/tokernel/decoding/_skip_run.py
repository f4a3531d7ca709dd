# SPDX-License-Identifier: Apache-2.0
"""A decoder under a schedule of depths: over a prompt, token by token, and for training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tokernel.decoding._layers import LayerRows, LayerStack, Place, layer_stack
from tokernel.decoding._skip_schedule import SkipSchedule, active_layers, prefix_lengths

if TYPE_CHECKING:
    from tokernel.decoding._generate import Generated

__all__ = ["SkipDecodeModel", "skip_forward_train"]


class SkipDecodeModel:
    """A causal language model whose later tokens run fewer layers; every row of the batch the same ones.

    The claims of the paper are for models fine-tuned with the schedule (:func:`skip_forward_train`): skipping the
    middle of any other model harms it.

    Args:
        model: a Llama, Qwen2, Qwen3, GPT-2 or OPT of transformers; left as it is.
        schedule: see :class:`SkipSchedule`.

    Attributes:
        cache: keys and values; a layer holds those of the columns that ran it, which are the first ones.
        depths: how many layers each column so far ran.
        layer_calls: their sum; a dense model would have made ``len(depths) * L``.

    Raises:
        TypeError: another model.
        ValueError: a schedule deeper than the model.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4)
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).eval()
    >>> fast = SkipDecodeModel(model, SkipSchedule(k_max=3, k_min=2, n_ref=2))
    >>> for _ in range(3):
    ...     logits = fast.step(logits.argmax(-1)) if fast.depths else fast.prefill(torch.tensor([[1, 2]]), room=2)
    >>> fast.depths, fast.layer_calls, fast.cache.lengths
    ([3, 3, 3, 2], 11, [4, 0, 3, 4])
    """

    def __init__(self, model: Any, schedule: SkipSchedule) -> None:
        self.model = model
        self.stack = layer_stack("skipdecode", model)
        self.schedule = schedule
        schedule.depths(len(self.stack.layers), 0)
        self.depths: list[int] = []
        self._forget(0)

    @property
    def layer_calls(self) -> int:
        return sum(self.depths)

    @torch.no_grad()
    def prefill(self, input_ids: Tensor, attention_mask: Tensor | None = None, room: int = 256) -> Tensor:
        """Start over with prompts: (B, P) ids, padded on the left, to the (B, V) logits behind them.

        Args:
            input_ids: (B, P) int64.
            attention_mask: (B, P), 0 at padding. The schedule counts columns, positions count tokens.
            room: how many steps may follow.

        Raises:
            ValueError: shapes, padding that is not on the left, a row without tokens.
        """
        valid = _valid(input_ids, attention_mask)
        if not bool(valid[:, -1].all()) or bool((valid[:, :-1] > valid[:, 1:]).any()):
            raise ValueError("skipdecode: attention_mask expected padding on the left of at least one token; got other")
        self._forget(input_ids.shape[1] + room)
        self.prompt = input_ids.shape[1]
        self.valid = valid
        layers = len(self.stack.layers)
        depths = self.schedule.depths(layers, self.prompt, self.prompt)
        h = _run_prefixes(self.stack, input_ids, depths, self.schedule.warmup, self.valid, self.cache)
        self.depths = depths.tolist()
        return self.stack.logits(h[:, -1])

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """One token a row, (B) int64, to the (B, V) logits behind it.

        Raises:
            ValueError: before a prompt, another number of rows, more steps than there is room.
        """
        column = len(self.depths)
        if column == 0:
            raise ValueError("skipdecode: step expected behind a prefill; got none")
        if tokens.shape != self.valid.shape[:1]:
            raise ValueError(f"skipdecode: tokens expected {tuple(self.valid.shape[:1])}; got {tuple(tokens.shape)}")
        if column == self.cache.capacity:
            raise ValueError(f"skipdecode: step expected within {self.cache.capacity} columns; got one more")
        depth = int(self.schedule.depths(len(self.stack.layers), column + 1, self.prompt)[-1])
        self.valid = torch.cat([self.valid, self.valid.new_ones(len(tokens), 1)], 1)
        positions = self.valid.sum(1, keepdim=True) - 1
        h = self.stack.embed(tokens[:, None], positions)
        place = self.stack.place(h, positions, column, self.valid)
        h = self.stack.run_all(h, place, active_layers(depth, len(self.stack.layers), self.schedule.warmup), self.cache)
        self.depths.append(depth)
        return self.stack.logits(h[:, -1])

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows of the batch, (R) int64, only."""
        self.cache.keep(rows)
        self.valid = self.valid[rows]

    def generate(self, input_ids: Tensor, **settings: Any) -> Generated:
        """:func:`tokernel.decoding.generate` with this model and schedule; the settings are its."""
        from tokernel.decoding._generate import generate
        from tokernel.decoding.skipdecode import SkipDecode

        return generate(self.model, input_ids, SkipDecode(self.schedule), **settings)

    def _forget(self, capacity: int) -> None:
        self.cache = LayerRows(len(self.stack.layers), capacity)
        self.depths = []


def skip_forward_train(
    model: Any,
    input_ids: Tensor,
    schedule: SkipSchedule,
    prompt: int = 0,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Forward pass under teacher forcing that gives every position what it will have when decoded: for fine-tuning.

    A layer runs over the positions that its depth reaches, which are the first ones, and leaves the others as they are.

    Args:
        model: as :class:`SkipDecodeModel` takes it, in the mode it is in.
        input_ids: (B, N) int64.
        schedule: that of decoding.
        prompt: how many of the N columns are the prompt, for schedules that count generated tokens.
        attention_mask: (B, N), 0 at padding.

    Returns:
        (B, N, V) logits, differentiable in the parameters; the loss is the usual one, over the tokens of the answer.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=4, n_head=4, n_positions=32))
    >>> skip_forward_train(model, torch.arange(12).view(2, 6), SkipSchedule(4, 2, n_ref=6)).shape
    torch.Size([2, 6, 64])
    """
    stack = layer_stack("skip_forward_train", model, training=True)
    if not 0 <= prompt <= input_ids.shape[1]:
        raise ValueError(f"skip_forward_train: prompt expected in [0, {input_ids.shape[1]}]; got {prompt}")
    depths = schedule.depths(len(stack.layers), input_ids.shape[1], prompt)
    valid = _valid(input_ids, attention_mask)
    return stack.logits(_run_prefixes(stack, input_ids, depths, schedule.warmup, valid, None))


def _valid(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    if input_ids.dim() != 2 or input_ids.shape[1] == 0:
        raise ValueError(f"skipdecode: input_ids expected (B, N) with N at least 1; got {tuple(input_ids.shape)}")
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    if attention_mask.shape != input_ids.shape:
        got = tuple(attention_mask.shape)
        raise ValueError(f"skipdecode: attention_mask expected {tuple(input_ids.shape)}; got {got}")
    return attention_mask != 0


def _run_prefixes(
    stack: LayerStack,
    input_ids: Tensor,
    depths: np.ndarray[Any, np.dtype[np.int64]],
    warmup: int,
    valid: Tensor,
    cache: LayerRows | None,
) -> Tensor:
    positions = (valid.cumsum(1) - 1).clamp(min=0)
    h = stack.embed(input_ids, positions)
    places: dict[int, Place] = {}
    for layer, count in enumerate(prefix_lengths(depths, len(stack.layers), warmup)):
        if count == 0:
            continue
        if count not in places:
            places[count] = stack.place(h[:, :count], positions[:, :count], 0, valid[:, :count])
        ran = stack.run(h[:, :count], places[count], layer, cache)
        h = ran if count == h.shape[1] else torch.cat([ran, h[:, count:]], 1)
    return h
