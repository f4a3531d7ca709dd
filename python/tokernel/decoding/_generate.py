# SPDX-License-Identifier: Apache-2.0
"""The loop that every method shares: it cuts, streams and counts."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokernel.decoding._session import Method, Sampling, find_method

__all__ = ["Generated", "generate", "stops_of"]

Stream = Callable[[int, list[int]], None]


@dataclass(frozen=True)
class Generated:
    """What :func:`generate` returns.

    Attributes:
        sequences: (B, P + n) int64: the prompts as they were given, then the new tokens, then padding. n is the longest
            continuation of the batch.
        lengths: (B) int64: how many new tokens each row got.
        steps: how often the session was asked, that is, passes of the model after the prompt for methods that make one
            a step.
        emitted: for every step and row, how many of its tokens were kept.
    """

    sequences: Tensor
    lengths: Tensor
    steps: int
    emitted: list[list[int]]

    def new_tokens(self, row: int = 0) -> list[int]:
        """The continuation of one row, without padding."""
        longest = max(self.lengths.tolist(), default=0)
        start = self.sequences.shape[1] - longest
        out: list[int] = self.sequences[row, start : start + int(self.lengths[row])].tolist()
        return out

    @property
    def tokens_per_step(self) -> float:
        """Tokens kept by a row in a step, on average over the steps in which the row was not finished."""
        counts = [count for step in self.emitted for count in step if count]
        return sum(counts) / len(counts) if counts else 0.0


@torch.no_grad()
def generate(
    model: Any,
    input_ids: Tensor,
    method: str | Method = "greedy",
    *,
    max_new_tokens: int,
    attention_mask: Tensor | None = None,
    stop_tokens: int | Iterable[int] | None = None,
    stream: Stream | None = None,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Generated:
    """Continue prompts with a causal language model of transformers, by any method of :func:`method_names`.

    Every method but ``skipdecode`` emits what the model alone would: at temperature 0 token by token what greedy
    decoding gives, as far as the model's logits are the same in a pass over one token and over several (that is, but
    for exact ties, in float32 on one machine); at other temperatures, where the method allows them, tokens of the
    model's distribution.

    Args:
        model: Llama, Qwen2, Qwen3 or GPT-2 shaped (for ``del_exit`` and ``skipdecode`` also OPT); in evaluation mode;
            left as it is.
        input_ids: (B, P) int64 or int32.
        method: a name, or a method with settings, e.g. ``TokenRecycling(template="tiny")``.
        max_new_tokens: exactly as many, unless a stop token comes first.
        attention_mask: (B, P), 0 where a row is padded, on its left or right; every row needs a token.
        stop_tokens: a row ends with the first of them, which is kept. None: the model's own end; () for none.
        stream: called as ``stream(row, tokens)`` whenever a row has new tokens.
        temperature: 0 for greedy.
        generator: of the draws.

    Returns:
        See :class:`Generated`.

    Raises:
        ValueError: shapes, an empty prompt, ids outside the vocabulary, a mask with holes, more tokens than the model
            has positions, a temperature where the method is greedy only, an unknown name.
        TypeError: what is no tensor of integers, or no model of transformers.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    ...                      num_attention_heads=4, eos_token_id=None)
    >>> model = LlamaForCausalLM(config).eval()
    >>> out = generate(model, torch.tensor([[1, 2, 3]]), max_new_tokens=5)
    >>> out.sequences.shape, out.lengths, out.steps
    (torch.Size([1, 8]), tensor([5]), 5)
    """
    sampling = Sampling(temperature, generator)
    chosen = find_method(method)
    prompts = _prompts(model, input_ids, attention_mask)
    room = _room(model, prompts, max_new_tokens)
    stops = stops_of(model, stop_tokens)
    texts: list[list[int]] = [[] for _ in prompts]
    emitted: list[list[int]] = []
    if prompts and room:
        session = chosen.start(model, prompts, sampling, room)
        active = [True] * len(prompts)
        while any(active):
            counts = []
            for row, tokens in enumerate(session.step(active)):
                kept = _cut(tokens, room - len(texts[row]), stops) if active[row] else []
                texts[row] += kept
                counts.append(len(kept))
                if active[row] and not kept:
                    raise RuntimeError(f"generate: {chosen.name} must emit a token in every step, got none")
                active[row] = active[row] and len(texts[row]) < room and kept[-1] not in stops
                if kept and stream is not None:
                    stream(row, kept)
            emitted.append(counts)
    return Generated(
        _padded(input_ids, texts, _pad_token(model, stops)),
        torch.tensor([len(text) for text in texts], dtype=torch.int64),
        len(emitted),
        emitted,
    )


def _cut(tokens: list[int], left: int, stops: frozenset[int]) -> list[int]:
    """The tokens up to the first stop token, which stays, and no more than are left."""
    ends = (at + 1 for at, token in enumerate(tokens) if token in stops)
    return tokens[: min(left, next(ends, left))]


def _padded(input_ids: Tensor, texts: list[list[int]], pad: int) -> Tensor:
    longest = max(map(len, texts), default=0)
    new = [text + [pad] * (longest - len(text)) for text in texts]
    ids = input_ids.long()
    return torch.cat([ids, ids.new_tensor(new).view(len(texts), longest)], 1)


def _prompts(model: Any, input_ids: Tensor, attention_mask: Tensor | None) -> list[Tensor]:
    """The rows without their padding."""
    if not isinstance(input_ids, Tensor) or input_ids.dtype not in (torch.int64, torch.int32):
        kind = input_ids.dtype if isinstance(input_ids, Tensor) else type(input_ids).__name__
        raise TypeError(f"generate: input_ids must be a tensor of int64 or int32, got {kind}")
    if input_ids.dim() != 2:
        raise ValueError(f"generate: input_ids must be (B, P), got {tuple(input_ids.shape)}")
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "parameters"):
        raise TypeError(f"generate: model must be a causal language model of transformers, got {type(model).__name__}")
    device = next(model.parameters()).device
    if input_ids.device != device:
        raise ValueError(f"generate: input_ids must be on the model's device {device}, got {input_ids.device}")
    ids = input_ids.long()
    if attention_mask is not None:
        rows = _unpadded(ids, attention_mask)
    else:
        rows = list(ids)
    if len(rows) and min(map(len, rows)) == 0:
        raise ValueError("generate: input_ids must hold at least one token in every row, got an empty prompt")
    vocabulary = getattr(config, "vocab_size", None)
    if rows and vocabulary is not None:
        given = torch.cat(rows)
        if int(given.min()) < 0 or int(given.max()) >= vocabulary:
            wrong = given[(given < 0) | (given >= vocabulary)][0]
            raise ValueError(f"generate: input_ids must be in [0, {vocabulary}), got {int(wrong)}")
    return rows


def _unpadded(ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
    if not isinstance(attention_mask, Tensor) or attention_mask.shape != ids.shape:
        got = tuple(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise ValueError(f"generate: attention_mask must be {tuple(ids.shape)} as input_ids, got {got}")
    seen = attention_mask.to(ids.device) != 0
    changes = (seen[:, 1:] != seen[:, :-1]).sum(1)
    if bool((changes > 1).any()):
        row = int((changes > 1).nonzero()[0])
        raise ValueError(f"generate: attention_mask must pad on the left or on the right, got a hole in row {row}")
    return [row[mask] for row, mask in zip(ids, seen, strict=True)]


def _room(model: Any, prompts: list[Tensor], max_new_tokens: int) -> int:
    try:
        room = operator.index(max_new_tokens)
    except TypeError:
        kind = type(max_new_tokens).__name__
        raise TypeError(f"generate: max_new_tokens must be an integer, got {kind}") from None
    if room < 0:
        raise ValueError(f"generate: max_new_tokens must be at least 0, got {room}")
    most = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, prompts), default=0)
    if most is not None and longest + room > most:
        raise ValueError(
            f"generate: max_new_tokens must leave prompt and answer within the model's {most} positions, got {longest} "
            f"+ {room}"
        )
    return room


def stops_of(model: Any, stop_tokens: int | Iterable[int] | None = None) -> frozenset[int]:
    """The tokens that end a text: those given, or the model's own."""
    if stop_tokens is None:
        generation = getattr(model, "generation_config", None)
        stop_tokens = getattr(generation, "eos_token_id", None)
        if stop_tokens is None:
            stop_tokens = getattr(model.config, "eos_token_id", None)
    if stop_tokens is None:
        return frozenset()
    listed = [stop_tokens] if isinstance(stop_tokens, int) else list(stop_tokens)
    try:
        return frozenset(operator.index(token) for token in listed)
    except TypeError:
        raise TypeError(f"generate: stop_tokens must be integers, got {listed!r}") from None


def _pad_token(model: Any, stops: frozenset[int]) -> int:
    for config in (getattr(model, "generation_config", None), model.config):
        pad = getattr(config, "pad_token_id", None)
        if isinstance(pad, int) and pad >= 0:
            return pad
    return min(stops, default=0)
