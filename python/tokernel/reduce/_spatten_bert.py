# SPDX-License-Identifier: Apache-2.0
"""SpAtten's cascades inside transformers' BERT and its relatives."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tokernel.reduce._spatten_heads import HeadSet
from tokernel.reduce._spatten_patch import UNSLICED, Ratio, SpAttenPatch, install, padding
from tokernel.reduce._spatten_run import Run

__all__ = ["BertPatch", "patch_bert"]


class BertPatch(SpAttenPatch):
    """Handle of an encoder that prunes; made by :func:`patch_bert`."""

    op = "patch_bert"

    def _start(self, x: Tensor, mask: Any, cache: Any) -> Run:
        heads = self.stack[0].attention.self.num_attention_heads
        valid = padding(self.op, mask, x, 0, causal=False)
        return Run(
            x,
            heads,
            self.ratios,
            causal=False,
            valid=valid,
            protect=self._protected(x.shape[1]),
            normalise=self.normalise,
        )

    def _compute(self, index: int, layer: Any, run: Run, x: Tensor, cache: Any) -> Tensor:
        inner, outer = layer.attention.self, layer.attention.output
        width = inner.attention_head_size
        heads = HeadSet(run.state.heads, inner.num_attention_heads, width)
        q, k, v = (heads.linear_in(module, x) for module in (inner.query, inner.key, inner.value))
        e = run.attend(index, q, k, v, width**-0.5, inner.dropout.p if inner.training else 0.0)
        y = outer.LayerNorm(outer.dropout(heads.linear_out(outer.dense, e)) + x)
        out: Tensor = layer.feed_forward_chunk(y)
        return out

    def _check_projections(self) -> None:
        for layer in self.stack:
            inner = layer.attention.self
            for module in (inner.query, inner.key, inner.value, layer.attention.output.dense):
                if type(module) is not nn.Linear:
                    raise ValueError(UNSLICED.format("patch_bert", "Linear", type(module).__name__))


def patch_bert(
    model: nn.Module,
    tokens: Ratio,
    heads: Ratio = 0.0,
    values: Ratio = 0.0,
    *,
    protect: Tensor | None = None,
    normalise: bool = False,
) -> BertPatch:
    """Let a transformers BERT, or a relative with its layers (RoBERTa, ELECTRA), prune tokens and heads as it goes.

    From the paper, section 3; no code of the authors for it was released. Tokens gather the attention they receive over
    heads, queries and layers, heads the magnitude of what they put out; behind every layer the lowest go, and the next
    ones compute for the survivors alone: shorter sequences, slices of the projections. Every sample of a batch decides
    for itself; padding counts neither as token nor as query. Where every ratio is 0, the model runs as it was, bit for
    bit. The output has its full length: a pruned token shows the state it had when it was pruned, and at least one
    token and one head stay (both our reconstruction). Trains, as the paper does after pruning; the choice itself has no
    gradient.

    Args:
        model: the encoder, or a model with a head on it.
        tokens: fraction of the present tokens to prune behind each layer, one a layer; a number is the mean of the
            paper's :func:`schedule`, whose first 15 % of the layers prune nothing. The last layer's has no effect.
        heads: likewise of the heads; a number leaves the first 30 % of the layers alone.
        values: fraction of every row of attention, the smallest, whose values are not read (local value pruning); a
            number is for every layer. With one, the map is stored.
        protect: see :class:`SpAttenPatch`; by default class tokens survive by their scores, as in the paper.
        normalise: see :class:`TokenHeadState`.

    Returns:
        The handle: ``handle.configure(...)`` changes the ratios, ``handle.layers`` tells who took part in each layer,
        ``unpatch(model)`` takes everything away.

    Raises:
        TypeError: not such a model.
        ValueError: a decoder, ratios that do not fit, projections that cannot be sliced (adapters, quantisation) with
            `heads`. At a call: masks other than padding, gradient checkpointing, or a request for attention maps.

    >>> import torch
    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64)
    >>> model = BertModel(config).eval()
    >>> handle = patch_bert(model, tokens=[0.5, 0.5, 0], heads=[0, 0.5, 0])
    >>> model(torch.arange(1, 9)[None]).last_hidden_state.shape
    torch.Size([1, 8, 32])
    >>> [(layer.tokens.shape[1], layer.heads.shape[1]) for layer in handle.layers]
    [(8, 2), (4, 2), (2, 1)]
    >>> handle.unpatch()
    """
    encoder: Any = getattr(getattr(model, "base_model", model), "encoder", None)
    stack = getattr(encoder, "layer", None)
    if not isinstance(stack, nn.ModuleList) or not all(_is_bert_layer(layer) for layer in stack) or not len(stack):
        raise TypeError(f"patch_bert: model expected a BERT of transformers; got {type(model).__name__}")
    if getattr(encoder.config, "is_decoder", False):
        raise ValueError("patch_bert: model expected an encoder; got a decoder")
    patch = BertPatch(model, getattr(model, "base_model", model), stack)
    install(patch, tokens, heads, values, protect, normalise)
    return patch


def _is_bert_layer(layer: Any) -> bool:
    attention: Any = getattr(layer, "attention", None)
    inner = getattr(attention, "self", None)
    parts = all(hasattr(inner, name) for name in ("query", "key", "value", "num_attention_heads"))
    relative = getattr(inner, "position_embedding_type", "absolute") != "absolute"
    return parts and not relative and hasattr(layer, "feed_forward_chunk") and hasattr(attention.output, "LayerNorm")
