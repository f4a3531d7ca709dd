# SPDX-License-Identifier: Apache-2.0
"""SpAtten's cascades inside transformers' BERT and GPT-2: pruned tokens and heads are removed, not masked."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokernel.integrations import Patch, unpatch
from tokernel.integrations._patch import Original, eager, is_patched
from tokernel.reduce._spatten_heads import HeadSet
from tokernel.reduce._spatten_run import Layer, Ratios, Run
from tokernel.reduce._spatten_schedule import ratios_per_layer

__all__ = ["BertPatch", "Gpt2Patch", "SpAttenPatch", "patch_bert", "patch_gpt2"]

Ratio = float | Sequence[float]
HEAD_START = 0.3  # of the paper: the first layers keep all heads twice as long as all tokens
TOKEN_START = 0.15
_UNSLICED = "{}: heads expected 0 for projections that are no plain {}; got {}"


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


class BertPatch(SpAttenPatch):
    """Handle of an encoder that prunes; made by :func:`patch_bert`."""

    op = "patch_bert"

    def _start(self, x: Tensor, mask: Any, cache: Any) -> Run:
        heads = self.stack[0].attention.self.num_attention_heads
        valid = _padding(self.op, mask, x, 0, causal=False)
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
                    raise ValueError(_UNSLICED.format("patch_bert", "Linear", type(module).__name__))


class Gpt2Patch(SpAttenPatch):
    """Handle of a decoder that prunes; made by :func:`patch_gpt2`."""

    op = "patch_gpt2"
    prompt = True

    def _start(self, x: Tensor, mask: Any, cache: Any) -> Run:
        attn = self.stack[0].attn
        memory = None if cache is None else self._memory(cache)[0]
        past = 0 if memory is None else memory.get_seq_length()
        rows = {} if memory is None else memory.rows
        total = past + x.shape[1]
        ratios = self.ratios
        if past == 0 and not self.prompt:
            ratios = ratios._replace(tokens=[0.0] * len(self.stack))
        return Run(
            x,
            attn.num_heads,
            ratios,
            causal=True,
            valid=_padding(self.op, mask, x, past, causal=True),
            protect=self._protected(total),
            normalise=self.normalise,
            past=past,
            past_score=rows.get("score"),
            past_seen=rows.get("seen"),
        )

    def _memory(self, cache: Any) -> Any:
        from tokernel.reduce._spatten_memory import layers_of

        return layers_of(cache, len(self.stack))

    def _compute(self, index: int, layer: Any, run: Run, x: Tensor, cache: Any) -> Tensor:
        attn = layer.attn
        heads = HeadSet(run.state.heads, attn.num_heads, attn.head_dim)
        q, k, v = heads.conv_in(attn.c_attn, layer.ln_1(x))
        if cache is not None:
            k, v = self._memory(cache)[index].exchange(k, v, run.places, run.total, run.state)
        scale = attn.head_dim**-0.5 if attn.scale_attn_weights else 1.0
        if attn.scale_attn_by_inverse_layer_idx:
            scale /= index + 1
        e = run.attend(index, q, k, v, scale, attn.attn_dropout.p if attn.training else 0.0)
        x = x + attn.resid_dropout(heads.conv_out(attn.c_proj, e))
        out: Tensor = x + layer.mlp(layer.ln_2(x))
        return out

    def _after(self, index: int, run: Run, x: Tensor, cache: Any) -> Tensor:
        if cache is None:
            return super()._after(index, run, x, cache)
        memory = self._memory(cache)
        if index == len(memory) - 1:
            memory[0].remember(run.state)
            return run.finish(x)
        following = memory[index + 1]
        among = following.knows(run.past, run.total, run.state) if run.past else None
        return run.advance(index, x, among, following.heads)

    def _check_projections(self) -> None:
        for layer in self.stack:
            for module in (layer.attn.c_attn, layer.attn.c_proj):
                if type(module).__name__ != "Conv1D":
                    raise ValueError(_UNSLICED.format("patch_gpt2", "Conv1D", type(module).__name__))


def _padding(op: str, mask: Any, x: Tensor, past: int, causal: bool) -> Tensor | None:
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


def _install(
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
    _install(patch, tokens, heads, values, protect, normalise)
    return patch


def _is_bert_layer(layer: Any) -> bool:
    attention: Any = getattr(layer, "attention", None)
    inner = getattr(attention, "self", None)
    parts = all(hasattr(inner, name) for name in ("query", "key", "value", "num_attention_heads"))
    relative = getattr(inner, "position_embedding_type", "absolute") != "absolute"
    return parts and not relative and hasattr(layer, "feed_forward_chunk") and hasattr(attention.output, "LayerNorm")


def patch_gpt2(
    model: nn.Module,
    tokens: Ratio,
    heads: Ratio = 0.0,
    values: Ratio = 0.0,
    *,
    prompt: bool = True,
    protect: Tensor | None = None,
    normalise: bool = False,
) -> Gpt2Patch:
    """Let a transformers GPT-2 prune tokens and heads over the prompt, and the cache while it generates.

    As :func:`patch_bert`, from the paper, under causal attention. In generation scores add up over layers and steps;
    after every layer the survivors among what the layer saw go on, so that a token that was pruned from a layer is
    missing there, and in all later layers, at every later step: its keys and values are dropped from the cache. The
    last token always stays (our reconstruction: its output is asked for), the first layer sees every token, so that
    positions count on as without pruning. Heads are chosen over the prompt and stay: the ratio leaves as many at every
    step, and none comes back. Works with ``generate``, sampling and beams, left padding and batches.

    Args:
        model: the decoder, or a model with a head on it.
        tokens, heads, values: as in :func:`patch_bert`; in generation the tokens of a ratio are of those that the layer
            sees, the new one included.
        prompt: False leaves the tokens of the first forward pass alone, as the official traces do, and prunes from the
            first generated token on.
        protect: see :class:`SpAttenPatch`.
        normalise: see :class:`TokenHeadState`.

    Returns:
        The handle, as :func:`patch_bert` returns it.

    Raises:
        TypeError: not such a model.
        ValueError: as :func:`patch_bert`; at a call also a cache that is no DynamicCache, that was filled without
            pruning, or that is to be cropped (assisted generation), and cross-attention.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=2, vocab_size=50)).eval()
    >>> handle = patch_gpt2(model, tokens=[0.5, 0.5, 0])
    >>> cache = model(torch.arange(8)[None], use_cache=True).past_key_values
    >>> [layer.keys.shape[2] for layer in cache.layers]
    [8, 4, 2]
    >>> handle.unpatch()
    """
    base: Any = getattr(model, "base_model", model)
    stack = getattr(base, "h", None)
    if not isinstance(stack, nn.ModuleList) or not all(_is_gpt2_block(block) for block in stack) or not len(stack):
        raise TypeError(f"patch_gpt2: model expected a GPT-2 of transformers; got {type(model).__name__}")
    if any(hasattr(block, "crossattention") for block in stack):
        raise ValueError("patch_gpt2: model expected no cross-attention; got a decoder of an encoder")
    patch = Gpt2Patch(model, base, stack)
    patch.prompt = prompt
    _install(patch, tokens, heads, values, protect, normalise)
    return patch


def _is_gpt2_block(block: Any) -> bool:
    attn = getattr(block, "attn", None)
    names = ("c_attn", "c_proj", "attn_dropout", "resid_dropout", "num_heads", "head_dim")
    return all(hasattr(attn, name) for name in names) and hasattr(block, "ln_2") and hasattr(block, "mlp")
