# SPDX-License-Identifier: Apache-2.0
"""CLEAR in live diffusers transformers: Flux, and the joint attention of Stable Diffusion 3."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokernel.diffusion._clear_attention import local_disc_attention, local_disc_attention_down, proportional_scale
from tokernel.integrations.processors import (
    ProcessorPatch,
    merge_heads,
    normalise,
    project,
    rotate,
    split_heads,
    transformer_of,
)

__all__ = ["ClearAttnProcessor", "ClearPatch", "patch_transformer"]

Grid = tuple[int, int]


class ClearAttnProcessor(nn.Module):
    """Attention processor for the ``FluxAttention`` and the joint (SD3) ``Attention`` of diffusers.

    Where the image lies in the sequence is said with each call, or once at construction: processors hold no mask, and
    one model serves any number of resolutions. Each attention module needs a processor of its own when d > 1.

    Args:
        r: radius of the disc in tokens, strict.
        d: factor of the pooling, 1 for none.
        grid: (H, W) of the image in tokens (pixels / 16), used by calls that name none. Name it in a call through
            ``joint_attention_kwargs={"grid": (H, W)}`` of the model.
        text_length: T, the number of text tokens, likewise; None takes what precedes the image in
            the sequence.
        proportional: None for logits scaled by 1 / sqrt(D); a number switches proportional attention on and is the
            factor of S in ``log(mult * S)``: the official code has 1 without and 10 with pooling.

    Attributes:
        spatial_weight: (d, d) parameter, 1 / d**2 at first; None if d is 1. Named as in the official checkpoints.

    Raises:
        ValueError: in a call: no grid is known, the sequence is not T + H * W long, H or W is not divisible by d, or
            there is an attention mask.
    """

    def __init__(
        self,
        r: float,
        d: int = 1,
        *,
        grid: Grid | None = None,
        text_length: int | None = None,
        proportional: float | None = None,
    ) -> None:
        super().__init__()
        if d < 1:
            raise ValueError(f"ClearAttnProcessor: d expected at least 1; got {d}")
        self.r = r
        self.d = d
        self.grid = grid
        self.text_length = text_length
        self.proportional = proportional
        self.spatial_weight = nn.Parameter(torch.full((d, d), 1 / d**2)) if d > 1 else None

    # Not forward: diffusers reads from this signature which arguments of joint_attention_kwargs to hand over.
    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        grid: Grid | None = None,
        text_length: int | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend, as the processor this one stands in for."""
        if attention_mask is not None:
            raise ValueError("ClearAttnProcessor: attention_mask expected None; got a mask")
        image = [split_heads(x, attn.heads) for x in project(attn, hidden_states)]
        q, k, v = normalise(image, attn.norm_q, attn.norm_k)
        if encoder_hidden_states is not None:
            text = [split_heads(x, attn.heads) for x in project(attn, encoder_hidden_states, added=True)]
            text = normalise(text, attn.norm_added_q, attn.norm_added_k)
            q, k, v = (torch.cat(pair, 2) for pair in zip(text, (q, k, v), strict=True))
        if image_rotary_emb is not None:
            q, k = rotate(q, image_rotary_emb), rotate(k, image_rotary_emb)
        given = None if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        out = merge_heads(self._attend(q, k, v, *self._place(attn, q.shape[2], given, grid, text_length)))
        if given is None:
            return _project_out(attn, out)
        text_out, image_out = out[:, :given], out[:, given:]
        if not attn.context_pre_only:
            text_out = attn.to_add_out(text_out)
        return _project_out(attn, image_out), text_out

    def _place(
        self, attn: Any, tokens: int, given: int | None, grid: Grid | None, text_length: int | None
    ) -> tuple[int, int, int]:
        """H, W and T of a sequence; `given` text tokens came beside the image."""
        grid = self.grid if grid is None else grid
        if grid is None:
            raise ValueError(
                "ClearAttnProcessor: grid expected (H, W) of the image, at construction or in "
                "joint_attention_kwargs; got None"
            )
        height, width = grid
        text = self.text_length if text_length is None else text_length
        # An attention over the image beside the joint one (SD3.5) has no text; in a single stream, text comes first.
        if given is None and not getattr(attn, "pre_only", False):
            text = 0
        if text is None:
            text = tokens - height * width
        if text < 0 or tokens != text + height * width or given not in (None, text):
            parts = "" if given is None else f", {given} of them text"
            raise ValueError(
                f"ClearAttnProcessor: expected {max(text, 0)} text and {height} x {width} image tokens; "
                f"got {tokens} tokens{parts}"
            )
        return height, width, text

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, H: int, W: int, T: int) -> Tensor:
        scale = None
        if self.proportional is not None:
            scale = proportional_scale(q.shape[2], q.shape[3], mult=self.proportional)
        if self.spatial_weight is None:
            return local_disc_attention(q, k, v, H, W, T, self.r, scale)
        return local_disc_attention_down(q, k, v, H, W, T, self.r, self.d, self.spatial_weight, scale)

    def extra_repr(self) -> str:
        return f"r={self.r}, d={self.d}, grid={self.grid}, text_length={self.text_length}"


def _project_out(attn: Any, x: Tensor) -> Tensor:
    if getattr(attn, "pre_only", False):  # a single-stream block projects attention and MLP together
        return x
    out: Tensor = attn.to_out[1](attn.to_out[0](x))
    return out


class ClearPatch(ProcessorPatch):
    """A transformer with CLEAR's attention. Its grid, text length, radius and proportional factor can be set anew.

    Attributes:
        processors: one :class:`ClearAttnProcessor` an attention module.
    """

    processors: list[ClearAttnProcessor]

    def set(self, **values: Any) -> None:
        """Set r, grid, text_length or proportional of every processor, e.g. ``handle.set(grid=(128, 96))``."""
        unknown = sorted(set(values) - {"r", "grid", "text_length", "proportional"})
        if unknown:
            raise ValueError(
                f"ClearPatch.set: expected some of r, grid, text_length, proportional; got {', '.join(unknown)}"
            )
        for processor in self.processors:
            for name, value in values.items():
                setattr(processor, name, value)


_REPLACEABLE = ("FluxAttnProcessor", "JointAttnProcessor2_0", "FusedJointAttnProcessor2_0")


def patch_transformer(
    model: Any,
    r: float,
    d: int = 1,
    *,
    grid: Grid | None = None,
    text_length: int | None = None,
    proportional: float | None = None,
) -> ClearPatch:
    """Give every attention of a diffusers Flux or SD3 transformer a :class:`ClearAttnProcessor`.

    ``unpatch(model)`` or ``handle.unpatch()`` puts the former processors back; parameters of the model are never
    touched. Weights that the official training code saves have the names that parameters have after patching, and load
    with ``model.load_state_dict(weights, strict=False)``; the released files were not tried (unverified).

    Args:
        model: ``FluxTransformer2DModel``, ``SD3Transformer2DModel``, or a pipeline with one.
        r, d, grid, text_length, proportional: as in :class:`ClearAttnProcessor`.

    Returns:
        The handle.

    Raises:
        ValueError: another model, or one with other processors in place (an IP adapter).
    """
    transformer = transformer_of("patch_transformer", model, ("FluxTransformer2DModel", "SD3Transformer2DModel"))
    blocks = [*transformer.transformer_blocks, *getattr(transformer, "single_transformer_blocks", ())]
    attentions = [
        getattr(block, name) for block in blocks for name in ("attn", "attn2") if getattr(block, name, None) is not None
    ]
    handle = ClearPatch(transformer)
    handle.processors = []
    for attention in attentions:
        processor = ClearAttnProcessor(r, d, grid=grid, text_length=text_length, proportional=proportional)
        weight = attention.to_q.weight
        handle.processors.append(processor.to(weight.device, weight.dtype))
    handle.install("patch_transformer", list(zip(attentions, handle.processors, strict=True)), _REPLACEABLE)
    return handle
