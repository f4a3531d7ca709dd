# SPDX-License-Identifier: Apache-2.0
"""SpAtten's cascades inside transformers' GPT-2, over the prompt and while it generates."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tokernel.reduce._spatten_heads import HeadSet
from tokernel.reduce._spatten_patch import UNSLICED, Ratio, SpAttenPatch, install, padding
from tokernel.reduce._spatten_run import Run

__all__ = ["Gpt2Patch", "patch_gpt2"]


class Gpt2Patch(SpAttenPatch):
    """Handle of a decoder that prunes; made by :func:`patch_gpt2`.

    Attributes:
        prompt: whether the tokens of the first forward pass are pruned.
    """

    op = "patch_gpt2"

    def __init__(self, model: nn.Module, base: Any, stack: nn.ModuleList, prompt: bool) -> None:
        super().__init__(model, base, stack)
        self.prompt = prompt

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
            valid=padding(self.op, mask, x, past, causal=True),
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
                    raise ValueError(UNSLICED.format("patch_gpt2", "Conv1D", type(module).__name__))


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

    >>> import torch
    >>> from transformers import GPT2Config, GPT2Model
    >>> model = GPT2Model(GPT2Config(n_embd=32, n_layer=3, n_head=2)).eval()
    >>> handle = patch_gpt2(model, tokens=[0.5, 0.5, 0])
    >>> ids = torch.arange(8)[None]
    >>> model(ids).last_hidden_state.shape, [layer.tokens.shape[1] for layer in handle.layers]
    (torch.Size([1, 8, 32]), [8, 4, 2])
    >>> handle.unpatch()
    """
    base: Any = getattr(model, "base_model", model)
    stack = getattr(base, "h", None)
    if not isinstance(stack, nn.ModuleList) or not all(_is_gpt2_block(block) for block in stack) or not len(stack):
        raise TypeError(f"patch_gpt2: model expected a GPT-2 of transformers; got {type(model).__name__}")
    if any(hasattr(block, "crossattention") for block in stack):
        raise ValueError("patch_gpt2: model expected no cross-attention; got a decoder of an encoder")
    patch = Gpt2Patch(model, base, stack, prompt)
    install(patch, tokens, heads, values, protect, normalise)
    return patch


def _is_gpt2_block(block: Any) -> bool:
    attn = getattr(block, "attn", None)
    names = ("c_attn", "c_proj", "attn_dropout", "resid_dropout", "num_heads", "head_dim")
    return all(hasattr(attn, name) for name in names) and hasattr(block, "ln_2") and hasattr(block, "mlp")
