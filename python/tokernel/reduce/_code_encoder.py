# SPDX-License-Identifier: Apache-2.0
"""Segment merging inside transformers' encoder stacks: RoBERTa's relatives, and T5."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tokernel import ops
from tokernel.integrations import Patch, unpatch
from tokernel.integrations._patch import is_patched
from tokernel.reduce._code_segments import Segments

__all__ = ["EncoderPatch", "patch_encoder"]

Merger = Callable[[Tensor, Tensor], Tensor]


class EncoderPatch(Patch):
    """The handle of a model patched by :func:`patch_encoder`."""

    def __init__(
        self,
        model: nn.Module,
        encoder: nn.Module,
        layer: int,
        merger: Merger,
        positions: Literal["unit", "first"],
        restore: bool,
    ) -> None:
        super().__init__(model)
        self.encoder: Any = encoder
        self.stack: list[Any] = list(_stack(encoder))
        self.layer = layer
        self.merger = merger
        self.positions = positions
        self.restore = restore
        self.segments: Segments | None = None
        if isinstance(merger, nn.Module):
            encoder.add_module("segment_merger", merger)

    def merge(self, h: Tensor, segments: Segments) -> Tensor:
        """Merge the hidden states of one forward."""
        if h.shape[:2] != segments.ids.shape:
            raise ValueError(
                f"patch_encoder: segment_ids expected shape {tuple(h.shape[:2])}; got {tuple(segments.ids.shape)}"
            )
        return self.merger(h, segments.ids)

    def finish(self, h: Tensor, segments: Segments) -> Tensor:
        """Merge after the last layer where that was asked for, then copy back to the subtokens likewise."""
        if self.layer == len(self.stack):
            h = self.merge(h, segments)
        return ops.segment_broadcast(h, ids=segments.ids) if self.restore else h

    def unpatch(self) -> None:
        """Put the model back as it was."""
        if isinstance(self.merger, nn.Module):
            del self.encoder.segment_merger
        super().unpatch()


def _with_segments(
    patch: EncoderPatch, original: Callable[..., Any], *args: Any, segment_ids: Tensor | None = None, **kwargs: Any
) -> Any:
    if segment_ids is None:
        return original(*args, **kwargs)
    if any(block.training and getattr(block, "gradient_checkpointing", False) for block in patch.stack):
        # The recomputation in backward would run after the segments of this forward are forgotten.
        raise ValueError("patch_encoder: gradient checkpointing expected off when segment_ids are given; got on")
    outer, patch.segments = patch.segments, Segments(segment_ids)
    try:
        return original(*args, **kwargs)
    finally:
        patch.segments = outer


def _attention_mask(patch: EncoderPatch, segments: Segments, mask: Any, dtype: torch.dtype) -> Any:
    flash = "flash" in str(getattr(patch.encoder.config, "_attn_implementation", ""))
    return segments.attention_mask(mask, dtype, rank=2 if flash else 4)


def _roberta_layer(
    patch: EncoderPatch,
    index: int,
    original: Callable[..., Any],
    hidden_states: Tensor,
    attention_mask: Any = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    segments = patch.segments
    if segments is None:
        return original(hidden_states, attention_mask, *args, **kwargs)
    if index == patch.layer:
        hidden_states = patch.merge(hidden_states, segments)
    if index >= patch.layer:
        attention_mask = _attention_mask(patch, segments, attention_mask, hidden_states.dtype)
    output = original(hidden_states, attention_mask, *args, **kwargs)
    if index == len(patch.stack) - 1:
        output = patch.finish(output, segments)
    return output


def _t5_block(
    patch: EncoderPatch,
    index: int,
    original: Callable[..., Any],
    hidden_states: Tensor,
    attention_mask: Any = None,
    position_bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    segments = patch.segments
    if segments is None:
        return original(hidden_states, attention_mask, position_bias, *args, **kwargs)
    if index == patch.layer:
        hidden_states = patch.merge(hidden_states, segments)
        # Later blocks are handed what this one used.
        position_bias = _position_bias(patch, segments).to(hidden_states.dtype)
    if index >= patch.layer:
        attention_mask = _attention_mask(patch, segments, attention_mask, hidden_states.dtype)
    output = original(hidden_states, attention_mask, position_bias, *args, **kwargs)
    if index == len(patch.stack) - 1:
        output = (patch.finish(output[0], segments), *output[1:])
    return output


def _position_bias(patch: EncoderPatch, segments: Segments) -> Tensor:
    """T5's relative position bias between units, (1 or B, H, U, U)."""
    attention = patch.stack[0].layer[0].SelfAttention
    if patch.positions == "unit":
        between_units: Tensor = attention.compute_bias(segments.units, segments.units)
        return between_units
    tokens = segments.ids.shape[1]
    first = segments.first_tokens()
    between_tokens: Tensor = attention.compute_bias(tokens, tokens)[0]
    return between_tokens[:, first[:, :, None], first[:, None, :]].transpose(0, 1)


def _t5_decoder(patch: EncoderPatch, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    segments, memory = patch.segments, kwargs.get("encoder_hidden_states")
    if segments is not None and memory is not None and not patch.restore:
        kwargs["encoder_attention_mask"] = segments.real.to(torch.long)
    return original(*args, **kwargs)


def _stack(encoder: Any) -> nn.ModuleList:
    stack: nn.ModuleList = encoder.layer if hasattr(encoder, "layer") else encoder.block
    return stack


def _find_encoder(model: nn.Module) -> nn.Module:
    encoder: Any = getattr(getattr(model, "base_model", model), "encoder", None)
    if not isinstance(encoder, nn.Module) or not (hasattr(encoder, "layer") or hasattr(encoder, "block")):
        raise TypeError(
            f"patch_encoder: model expected a RoBERTa-like or T5 model of transformers; got {type(model).__name__}"
        )
    if getattr(encoder.config, "is_decoder", False):
        raise ValueError(
            "patch_encoder: model expected an encoder; got a causal decoder, in which a merged unit would leak its "
            "later subtokens"
        )
    return encoder


def _accept_segment_ids(module: nn.Module) -> None:
    """Name segment_ids in the signature, or Trainer drops that column of a batch and generate refuses the argument."""
    forward: Any = module.forward
    shown = inspect.signature(type(module).forward.__get__(module))
    extra = inspect.Parameter("segment_ids", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = list(shown.parameters.values())
    at = len(parameters) - (parameters[-1].kind is inspect.Parameter.VAR_KEYWORD)
    forward.__signature__ = shown.replace(parameters=[*parameters[:at], extra, *parameters[at:]])


def patch_encoder(
    model: nn.Module,
    layer: int,
    merger: Merger,
    *,
    positions: Literal["unit", "first"] = "unit",
    restore: bool = False,
) -> EncoderPatch:
    """Merge segments inside the encoder of a transformers model, after its first `layer` layers.

    From then on the model and its encoder take ``segment_ids`` (B, T); a call without them runs as before. The layers
    past the merge see (B, U, C), attend to real units only (an attention mask per pair of subtokens, as GraphCodeBERT
    has, allows a pair of units that holds an allowed pair), and a T5 decoder attends to the units. What an encoder or
    its head returns is per unit, unless `restore` copies it back to the subtokens. The number of units is read from the
    device, once a forward; ``torch.compile`` breaks the graph there.

    Args:
        model: RoBERTa and its relatives (CodeBERT, GraphCodeBERT, UniXcoder, BERT), T5 (CodeT5, CodeT5+), or a model
            with a head on one of these.
        layer: 0 (right after the embeddings) to L (after the last layer; T5: before the final norm).
        merger: ``(h, g) -> u``, e.g. :func:`segment_mean` or a :class:`LearnedSegmentMerger`, which becomes a part of
            the encoder, its parameters among the model's.
        positions: the position of a unit for T5's relative bias: its number among the units [ours], or that of its
            "first" subtoken.
        restore: copy the units back to the subtokens after the last layer; padding becomes zero.

    Returns:
        The handle; ``unpatch(model)`` takes everything away again, and so does another patch.

    Raises:
        TypeError: not such a model.
        ValueError: a causal decoder, a layer out of range, an unknown `positions`, or an encoder patched through
            another module. At a call: segment_ids that do not fit or are not consecutive, or gradient checkpointing.
    """
    encoder = _find_encoder(model)
    depth = len(_stack(encoder))
    if not 0 <= layer <= depth:
        raise ValueError(f"patch_encoder: layer expected in [0, {depth}]; got {layer}")
    if positions not in ("unit", "first"):
        raise ValueError(f"patch_encoder: positions expected 'unit' or 'first'; got {positions!r}")
    unpatch(model)
    if is_patched(encoder):
        raise ValueError("patch_encoder: model expected an unpatched encoder; got one patched through another module")
    patch = EncoderPatch(model, encoder, layer, merger, positions, restore)
    t5 = hasattr(encoder, "block")
    for index, block in enumerate(patch.stack):
        patch.replace(block, "forward", _t5_block if t5 else _roberta_layer, patch, index)
    for module in {id(m): m for m in (model, encoder)}.values():
        patch.replace(module, "forward", _with_segments, patch)
        _accept_segment_ids(module)
    decoder = getattr(getattr(model, "base_model", model), "decoder", None)
    if t5 and isinstance(decoder, nn.Module):
        patch.replace(decoder, "forward", _t5_decoder, patch)
    patch.attach()
    return patch
