# SPDX-License-Identifier: Apache-2.0
"""Sparse VideoGen2 in live diffusers transformers: Wan, HunyuanVideo and Cosmos."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.diffusion._svg2_attention import SemanticAwareAttention
from tokernel.diffusion._svg2_config import Svg2Config, dense_above, dense_layers
from tokernel.integrations._patch import Original, eager
from tokernel.integrations.processors import (
    ProcessorPatch,
    merge_heads,
    normalise,
    project,
    rotate,
    split_heads,
    transformer_of,
)

__all__ = [
    "Svg2CosmosAttnProcessor",
    "Svg2HunyuanVideoAttnProcessor",
    "Svg2Patch",
    "Svg2WanAttnProcessor",
    "patch_video",
]

Rotary = tuple[Tensor, Tensor]


class _Processor:
    """A processor of one layer: `attention` may be shared by all layers, whose centroids it keeps apart."""

    def __init__(self, attention: SemanticAwareAttention, layer: int = 0) -> None:
        self.attention = attention
        self.layer = layer

    def attend(self, attn: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend and project: (B, H, S, D) to (B, S, C)."""
        out: Tensor = attn.to_out[1](attn.to_out[0](merge_heads(self.attention(q, k, v, self.layer))))
        return out

    def refuse(self, **values: Any) -> None:
        """Only self-attention without a mask can be clustered."""
        for name, value in values.items():
            if value is not None:
                own, kind = type(self).__name__, type(value).__name__
                raise ValueError(f"{own}: {name} expected None in self-attention; got a {kind}")


class Svg2WanAttnProcessor(_Processor):
    """Attention processor for the self-attention of Wan (``WanAttention``, ``attn1`` of a block)."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Rotary | None = None,
    ) -> Tensor:
        """Attend, as the processor this one stands in for."""
        self.refuse(encoder_hidden_states=encoder_hidden_states, attention_mask=attention_mask)
        q, k, v = project(attn, hidden_states)
        # Wan normalises queries and keys across heads.
        q, k, v = (split_heads(x, attn.heads) for x in (attn.norm_q(q), attn.norm_k(k), v))
        if rotary_emb is not None:
            cos, sin = (x[0, :, 0] for x in rotary_emb)  # (1, S, 1, D)
            q, k = (rotate(x, (cos, sin)) for x in (q, k))
        return self.attend(attn, q, k, v)


class Svg2CosmosAttnProcessor(_Processor):
    """Attention processor for the self-attention of Cosmos (``Attention``, ``attn1`` of a block)."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> Tensor:
        """Attend, as the processor this one stands in for."""
        self.refuse(encoder_hidden_states=encoder_hidden_states, attention_mask=attention_mask)
        q, k, v = normalise(
            [split_heads(x, attn.heads) for x in project(attn, hidden_states)], attn.norm_q, attn.norm_k
        )
        if image_rotary_emb is not None:
            q, k = (rotate(x, image_rotary_emb, unbind_dim=-2) for x in (q, k))
        return self.attend(attn, q, k, v)


class Svg2HunyuanVideoAttnProcessor(_Processor):
    """Attention processor for both kinds of HunyuanVideo blocks: [video | prompt | unused length of the prompt].

    The unused length attends to itself alone, where the processor this one stands in for lets it see the rest; no other
    token ever sees it, in either.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend, as the processor this one stands in for."""
        frames, context = hidden_states.shape[1], encoder_hidden_states.shape[1]
        video, text = self._project(attn, hidden_states, encoder_hidden_states)
        if image_rotary_emb is not None:
            video[:2] = [rotate(x, image_rotary_emb) for x in video[:2]]
        q, k, v = (torch.cat(pair, 2) for pair in zip(video, text, strict=True))
        prompt: int | Tensor = context
        if attention_mask is not None:
            # (B, 1, 1, S), True for the video and for as many tokens after it as the prompt has.
            prompt = attention_mask.reshape(q.shape[0], -1)[:, frames:].sum(1)
        out = merge_heads(self.attention(q, k, v, self.layer, prompt_length=prompt, context_length=context))
        video_out, text_out = out[:, :frames], out[:, frames:]
        if getattr(attn, "to_out", None) is not None:
            video_out = attn.to_out[1](attn.to_out[0](video_out))
        if getattr(attn, "to_add_out", None) is not None:
            text_out = attn.to_add_out(text_out)
        return video_out, text_out

    def _project(self, attn: Any, video: Tensor, text: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        if attn.add_q_proj is not None:
            parts = [split_heads(x, attn.heads) for x in project(attn, text, added=True)]
            added = normalise(parts, attn.norm_added_q, attn.norm_added_k)
            parts = [split_heads(x, attn.heads) for x in project(attn, video)]
            return normalise(parts, attn.norm_q, attn.norm_k), added
        frames = video.shape[1]
        parts = [split_heads(x, attn.heads) for x in project(attn, torch.cat([video, text], 1))]
        both = normalise(parts, attn.norm_q, attn.norm_k)
        return [x[:, :, :frames] for x in both], [x[:, :, frames:] for x in both]


class Svg2Patch(ProcessorPatch):
    """A video transformer whose self-attention is sparse.

    Attributes:
        attention: the :class:`SemanticAwareAttention` of all layers, with their densities.
        config: what it was made from; ``first_times`` is looked up in the scheduler at every step.
    """

    attention: SemanticAwareAttention
    config: Svg2Config
    scheduler: Any

    def reset(self) -> None:
        """Forget the centroids: call it before the next video."""
        self.attention.reset()

    @property
    def density(self) -> float | None:
        """Share of the pairs of video tokens computed in the last sparse step, averaged over layers and heads."""
        return self.attention.mean_density()

    @eager
    def begin(self, timestep: Any) -> None:
        """A forward pass of the model begins."""
        if self.config.first_times > 0:
            self.attention.dense_above = dense_above(self.config.first_times, self.scheduler.timesteps)
            # Wan 2.2 has a time step per token, 0 for the tokens of a given image.
            self.attention.timestep = float(torch.as_tensor(timestep).max())


def _run_model(patch: Svg2Patch, original: Original, *args: Any, **kwargs: Any) -> Any:
    patch.begin(args[1] if len(args) > 1 else kwargs["timestep"])
    return original(*args, **kwargs)


# By class of the model: the attention modules in the order of the layers, the processor, and what it may replace.
_MODELS: dict[str, tuple[tuple[tuple[str, str], ...], type[_Processor], tuple[str, ...]]] = {
    "WanTransformer3DModel": ((("blocks", "attn1"),), Svg2WanAttnProcessor, ("WanAttnProcessor",)),
    "HunyuanVideoTransformer3DModel": (
        (("transformer_blocks", "attn"), ("single_transformer_blocks", "attn")),
        Svg2HunyuanVideoAttnProcessor,
        ("HunyuanVideoAttnProcessor2_0",),
    ),
    "CosmosTransformer3DModel": (
        (("transformer_blocks", "attn1"),),
        Svg2CosmosAttnProcessor,
        ("CosmosAttnProcessor2_0",),
    ),
}


def patch_video(model: Any, config: Svg2Config, scheduler: Any = None, seed: int = 0) -> Svg2Patch:
    """Make the self-attention of a diffusers video transformer sparse.

    ``unpatch(model)`` or ``handle.unpatch()`` puts the former processors back exactly. Layers and steps that the config
    keeps dense attend densely.

    Args:
        model: ``WanTransformer3DModel``, ``HunyuanVideoTransformer3DModel``, ``CosmosTransformer3DModel``, or a
            pipeline with one.
        config: one of :data:`PRESETS`, or your own.
        scheduler: whose ``timesteps`` say which steps are the first ones; None takes the pipeline's. Not needed when
            ``config.first_times`` is 0.
        seed: of the first centroids.

    Returns:
        The handle.

    Raises:
        ValueError: another model, other processors in place, or no scheduler where one is needed.
    """
    transformer = transformer_of("patch_video", model, tuple(_MODELS))
    scheduler = getattr(model, "scheduler", None) if scheduler is None else scheduler
    if config.first_times > 0 and not hasattr(scheduler, "timesteps"):
        raise ValueError(
            f"patch_video: scheduler expected an object with timesteps, as first_times is {config.first_times}; "
            f"got {type(scheduler).__name__}"
        )
    kind = next(base.__name__ for base in type(transformer).__mro__ if base.__name__ in _MODELS)
    places, processor, replaceable = _MODELS[kind]
    attentions = [getattr(block, name) for blocks, name in places for block in getattr(transformer, blocks)]
    handle = Svg2Patch(transformer)
    handle.config, handle.scheduler = config, scheduler
    handle.attention = SemanticAwareAttention(
        config.num_q,
        config.num_k,
        config.top_p,
        config.min_ratio,
        config.iter_init,
        config.iter_step,
        dense_layers=dense_layers(config.first_layers, len(attentions)),
        zero_step_kmeans_init=config.zero_step_kmeans_init,
        seed=seed,
    )
    chosen = [(attention, processor(handle.attention, layer)) for layer, attention in enumerate(attentions)]
    handle.install("patch_video", chosen, replaceable)
    handle.replace(transformer, "forward", _run_model, handle)
    return handle
