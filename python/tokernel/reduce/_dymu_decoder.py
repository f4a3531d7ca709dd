# SPDX-License-Identifier: Apache-2.0
"""Virtual unmerging inside a live transformers decoder: Llama, Mistral, Qwen and what is built like them.

In a prefill over N positions that share U tokens, the first layer takes the U tokens, every attention runs over the N
positions and averages its answers back, and the last layer puts out N rows again. So positions, masks, caches and
logits are those of N tokens, while projections and MLPs run on U. How positions share tokens travels through the
keyword arguments of the layers, not through the modules: recomputing a layer (gradient checkpointing) finds it again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokernel.integrations._blocks import evaluating
from tokernel.integrations._patch import Original, Patch, unpatch
from tokernel.ops import rope_gather, segment_broadcast
from tokernel.reduce._dymu_vtu import remerge_mean

__all__ = ["Places", "VtuPatch", "patch_decoder"]

_NEEDED = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
_KNOWN = _NEEDED | {"q_norm", "k_norm"}


class Places(NamedTuple):
    """Which of U tokens each of N positions holds: mapping (B, N) int64."""

    mapping: Tensor
    tokens: int


class VtuPatch(Patch):
    """Handle of a decoder that can unmerge virtually; made by :func:`patch_decoder`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.decoder = _decoder_of(model)
        self._next: Places | None = None

    def use_mapping(self, mapping: Tensor) -> None:
        """Let the next forward pass of the decoder share tokens between positions; later passes are ordinary again.

        With ``generate`` that is the prefill. The pass takes N positions as always, input embeddings, masks and
        position ids included; the embeddings of positions that share a token are averaged.

        Args:
            mapping: (N) or (B, N) int64, the token of each position, in [0, N).

        Raises:
            ValueError: the shape or an entry does not fit. That N is the length of the pass is checked in the pass.
            TypeError: not an int64 or int32 tensor.
        """
        if not isinstance(mapping, Tensor) or mapping.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"use_mapping: mapping expected int64; got {getattr(mapping, 'dtype', type(mapping))}")
        if mapping.dim() not in (1, 2) or mapping.shape[-1] == 0:
            raise ValueError(f"use_mapping: mapping expected (N) or (B, N) with N > 0; got {tuple(mapping.shape)}")
        low, high = int(mapping.min()), int(mapping.max())
        if low < 0 or high >= mapping.shape[-1]:
            raise ValueError(f"use_mapping: mapping expected in [0, {mapping.shape[-1]}); got {low} to {high}")
        self._next = Places(mapping.long().reshape(-1, mapping.shape[-1]), high + 1)

    def install(self) -> None:
        """Replace the forward of the decoder, its first and last layer and every attention."""
        unpatch(self.model)
        layers = self.decoder.layers[: self.decoder.config.num_hidden_layers]
        self.replace(self.decoder, "forward", _run_decoder, self)
        for i, layer in enumerate(layers):
            self.replace(layer.self_attn, "forward", _run_attention)
            if i in (0, len(layers) - 1):
                self.replace(layer, "forward", _run_layer, i == 0, i == len(layers) - 1)
        self.attach()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_next": None}


def patch_decoder(model: nn.Module) -> VtuPatch:
    """Let a live decoder attend over more positions than it has tokens, in place.

    The prefill that follows :meth:`VtuPatch.use_mapping` computes queries, keys and values of the unique tokens, turns
    and expands them to all positions, writes the expanded keys and values into the cache, attends with the model's own
    attention implementation and mask, and averages the answers back onto the tokens (section 3.2). Decoding is ordinary
    from then on. Where no mapping was given, the model is the unpatched one bit for bit.

    Args:
        model: a transformers Llama, Mistral, Qwen2 or Qwen3 model, or a model with exactly one of these inside.

    Returns:
        The handle; ``handle.unpatch()`` or ``unpatch(model)`` undoes the patch.

    Raises:
        ValueError: no such decoder or more than one inside, or an attention that computes something else (measured on
            a small random input).

    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    >>> model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=50)).eval()
    >>> handle = patch_decoder(model)
    >>> handle.use_mapping(torch.tensor([0, 1, 1, 1, 2]))  # three positions show one token
    >>> model(input_ids=torch.tensor([[1, 7, 7, 7, 2]])).logits.shape
    torch.Size([1, 5, 50])
    >>> handle.unpatch()
    """
    handle = VtuPatch(model)
    handle.install()
    return handle


def _run_decoder(patch: VtuPatch, original: Original, *args: Any, **kwargs: Any) -> Any:
    places, patch._next = patch._next, None
    return original(*args, **kwargs) if places is None else original(*args, **kwargs, virtual_places=places)


def _run_layer(
    first: bool,
    last: bool,
    original: Original,
    x: Tensor,
    *args: Any,
    virtual_places: Places | None = None,
    **kwargs: Any,
) -> Any:
    if virtual_places is None:
        return original(x, *args, **kwargs)
    mapping, tokens = virtual_places
    if first:
        if mapping.shape[1] != x.shape[1] or len(mapping) not in (1, len(x)):
            raise ValueError(
                f"VtuPatch: mapping expected (batch, positions) of {tuple(x.shape[:2])}; got {tuple(mapping.shape)}"
            )
        mapping = mapping.expand(len(x), -1).contiguous().to(x.device)
        x = remerge_mean(x, mapping, tokens)
    y = original(x, *args, **kwargs, virtual_places=virtual_places)
    if not last:
        return y
    return segment_broadcast(y, ids=mapping.expand(len(y), -1).contiguous().to(y.device))


def _run_attention(original: Original, *args: Any, virtual_places: Places | None = None, **kwargs: Any) -> Any:
    if virtual_places is None:
        return original(*args, **kwargs)
    return attend(original.module, *args, virtual_places=virtual_places, **kwargs)


def attend(
    attention: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Any = None,
    *,
    virtual_places: Places,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Run an attention module on unique rows (B, U, C), for N positions and back."""
    heads = (*hidden_states.shape[:-1], -1, attention.head_dim)
    q, k, v = (getattr(attention, f"{name}_proj")(hidden_states).view(heads) for name in "qkv")
    q, k = _normed(attention, "q_norm", q), _normed(attention, "k_norm", k)
    mapping, tokens = virtual_places
    mapping = mapping.expand(len(hidden_states), -1).contiguous().to(hidden_states.device)
    cos, sin = (angle.float().expand(len(hidden_states), -1, -1) for angle in position_embeddings)
    query, key = (rope_gather(x.transpose(1, 2), mapping, cos, sin) for x in (q, k))
    value = rope_gather(v.transpose(1, 2), mapping)
    # transformers 5.20 calls the cache "cache", earlier ones "past_key_values".
    caches = [kwargs.pop(name, None) for name in ("cache", "past_key_values")]
    cache = next((cache for cache in caches if cache is not None), None)
    if cache is not None:
        key, value = cache.update(key, value, attention.layer_idx)
    window = getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None))
    if window is not None:
        kwargs["sliding_window"] = window
    dropout = attention.attention_dropout if attention.training else 0.0
    out, weights = _interface(attention)(
        attention, query, key, value, attention_mask, dropout=dropout, scaling=attention.scaling, **kwargs
    )
    out = remerge_mean(out.flatten(2), mapping, tokens)
    return attention.o_proj(out), weights


def _normed(attention: Any, name: str, x: Tensor) -> Tensor:
    norm = getattr(attention, name, None)
    out: Tensor = x if norm is None else norm(x)
    return out


def _interface(attention: Any) -> Callable[..., Any]:
    """The function that the model's configuration chose for its attention, as its own module looks it up."""
    modeling = sys.modules[type(attention).__module__]
    chosen: Callable[..., Any] = modeling.ALL_ATTENTION_FUNCTIONS.get(
        attention.config._attn_implementation, modeling.eager_attention_forward
    )
    return chosen


def _decoder_of(model: nn.Module) -> Any:
    found: list[Any] = [module for module in model.modules() if _is_decoder(module)]
    if len(found) != 1:
        raise ValueError(
            f"dymu.patch_decoder: model expected exactly one decoder (layers[i].self_attn with q_proj to o_proj); got "
            f"{len(found)} in {type(model).__name__}"
        )
    for layer in found[0].layers:
        _check_attention(layer.self_attn)
    return found[0]


def _is_decoder(module: Any) -> bool:
    layers = getattr(module, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers) or not hasattr(module, "rotary_emb"):
        return False
    attentions: list[Any] = [getattr(layer, "self_attn", None) for layer in layers]
    return all(attention is not None and _names(attention) >= _NEEDED for attention in attentions)


def _check_attention(attention: Any) -> None:
    """Refuse an attention that :func:`attend` would change."""
    unknown = sorted(_names(attention) - _KNOWN)
    if unknown:
        raise ValueError(
            f"dymu.patch_decoder: attention expected only {', '.join(sorted(_KNOWN))}; got {', '.join(unknown)} in "
            f"{type(attention).__name__}"
        )
    weight = attention.q_proj.weight
    if weight.is_meta:
        return
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, attention.q_proj.in_features, generator=generator).to(weight.device, weight.dtype)
    angle = torch.randn(1, 5, attention.head_dim // 2, generator=generator).repeat(1, 1, 2).to(weight.device)
    angles = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    places = Places(torch.arange(5, device=x.device)[None], 5)
    with torch.no_grad(), evaluating(attention):
        expected = attention(hidden_states=x, position_embeddings=angles, attention_mask=None)[0]
        ours = attend(attention, x, angles, virtual_places=places)[0]
    # Rotations are rounded once here and three times there, then averaged by attention: some units in the last place.
    if not (ours - expected).abs().max() <= 32 * torch.finfo(x.dtype).eps * expected.abs().max().clamp_min(1):
        raise ValueError(
            f"dymu.patch_decoder: attention expected rotary embedding of halves, then the configured attention; got "
            f"{type(attention).__name__}, which computes something else"
        )


def _names(module: nn.Module) -> frozenset[str]:
    return frozenset(name for name, _ in module.named_children())
