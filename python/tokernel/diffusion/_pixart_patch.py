# SPDX-License-Identifier: Apache-2.0
"""Keys and values pooled inside a live diffusion transformer of diffusers: PixArt, DiT and their relatives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tokernel.diffusion._kv_pool import KVPool, Mode, attend_pooled, merge_heads, pooled_length, split_heads
from tokernel.integrations import Patch, unpatch
from tokernel.integrations._patch import Original
from tokernel.integrations.diffusers import blocks_of, denoiser_of

__all__ = ["CompressConfig", "KVCompressPatch", "compress_config", "patch_transformer"]

# What an attention may have besides to_q, to_k, to_v and to_out; none of it is set in PixArt or DiT.
_UNSUPPORTED = ("group_norm", "spatial_norm", "norm_cross", "add_k_proj", "add_q_proj", "residual_connection")


@dataclass(frozen=True)
class CompressConfig:
    """Which layers pool their keys and values, and how; made by :func:`compress_config`."""

    layers: tuple[int, ...]
    R: int
    mode: Mode

    def at(self, layer: int) -> int:
        """R of one layer, 1 where nothing is pooled."""
        return self.R if layer in self.layers else 1


def compress_config(layers: Iterable[int], R: int = 2, mode: Mode = "conv") -> CompressConfig:
    """Say which layers (numbered from 0) pool by R x R, and how.

    The paper compares layers at R = 2: the deeper half costs least quality, and ``conv`` less than tokens dropped or
    averaged.

    Raises:
        ValueError: a negative layer, R below 1, or an unknown mode.

    >>> compress_config(range(14, 28)).at(13), compress_config(range(14, 28)).at(14)
    (1, 2)
    """
    chosen = tuple(sorted(set(layers)))
    if chosen and chosen[0] < 0:
        raise ValueError(f"compress_config: layers expected numbers of at least 0; got {chosen[0]}")
    pooled_length(R, R, R, mode)
    return CompressConfig(chosen, R, mode)


class KVCompressPatch(Patch):
    """Handle of a transformer that pools keys and values; made by :func:`patch_transformer`.

    Attributes:
        config: what was asked for.
        pools: the :class:`KVPool` of each chosen layer, by its number; child ``kv_pool`` of the layer's ``attn1``, so
            that its parameters are among the model's until :meth:`unpatch`.
        grid: (height, width) of the running step, in tokens.
    """

    def __init__(self, model: nn.Module, config: CompressConfig, norm: bool) -> None:
        super().__init__(model)
        self.config = config
        self.grid: tuple[int, int] | None = None
        blocks = blocks_of(model)
        self.attentions: dict[int, Any] = {layer: blocks[layer].attn1 for layer in config.layers}
        self.pools: dict[int, KVPool] = {}
        for layer, attention in self.attentions.items():
            weight = attention.to_k.weight
            self.pools[layer] = KVPool(attention.inner_kv_dim, config.R, config.mode, norm).to(weight)

    def install(self) -> None:
        """Replace the forwards of the model and of the chosen attentions."""
        self.replace(self.model, "forward", _run_model, self)
        for layer, attention in self.attentions.items():
            attention.kv_pool = self.pools[layer]
            self.replace(attention, "forward", _run_attention, self)
        self.attach()

    def unpatch(self) -> None:
        """Put every replaced method back and take the pools off the model."""
        super().unpatch()
        for attention in self.attentions.values():
            attention._modules.pop("kv_pool", None)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"grid": None}


def _run_model(patch: KVCompressPatch, original: Original, *args: Any, **kwargs: Any) -> Any:
    latent = args[0] if args else kwargs["hidden_states"]
    edge = patch.model.config.patch_size  # type: ignore[union-attr]
    patch.grid = (latent.shape[-2] // edge, latent.shape[-1] // edge)
    return original(*args, **kwargs)


def _run_attention(
    patch: KVCompressPatch,
    original: Original,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None = None,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """The attention of diffusers' default processor, on pooled keys and values."""
    attention: Any = original.module
    if encoder_hidden_states is not None or attention_mask is not None:
        raise ValueError("patch_transformer: attn1 expected plain self-attention; got a mask or encoder states")
    if patch.grid is None:
        raise ValueError("patch_transformer: attn1 expected a call through the model; got one of its own")
    q, k, v = (project(hidden_states) for project in (attention.to_q, attention.to_k, attention.to_v))
    # As in the official code, norms of queries and keys come before the pooling.
    if attention.norm_q is not None:
        q = merge_heads(attention.norm_q(split_heads(q, attention.heads)))
    if attention.norm_k is not None:
        k = merge_heads(attention.norm_k(split_heads(k, attention.heads)))
    pool: KVPool = attention.kv_pool
    y: Any = attend_pooled(q, pool(k, *patch.grid), pool(v, *patch.grid), attention.heads)
    for part in attention.to_out:
        y = part(y)
    out: Tensor = y / attention.rescale_output_factor
    return out


def _check_attention(layer: int, attention: Any) -> None:
    extra = [name for name in _UNSUPPORTED if getattr(attention, name, None)]
    processor = type(attention.processor).__name__
    if processor not in ("AttnProcessor", "AttnProcessor2_0"):
        extra.append(processor)
    if extra:
        raise ValueError(
            f"patch_transformer: layer {layer} expected plain self-attention; got one with {', '.join(extra)}"
        )
    if attention.inner_kv_dim != attention.inner_dim:
        raise ValueError(
            f"patch_transformer: layer {layer} expected as many key heads as query heads; got {attention.inner_kv_dim} "
            f"channels of keys for {attention.inner_dim} of queries"
        )


def patch_transformer(model: Any, config: CompressConfig, *, norm: bool = True) -> KVCompressPatch:
    """Let chosen layers of a live diffusion transformer attend to pooled keys and values, in place.

    Train the pools (``handle.pools``, ``conv`` begins as the mean) with the rest of the model, as the paper does:
    pooling a trained model without further training costs quality. Every shape outside the attention stays.

    Args:
        model: diffusers' ``PixArtTransformer2DModel``, ``DiTTransformer2DModel`` or another one-level transformer with
            ``BasicTransformerBlock`` inside, or a pipeline around one.
        config: of :func:`compress_config`; R = 1 attends as before, on our kernel.
        norm: whether a LayerNorm follows ``conv``, as in the official code; without it ``conv`` begins as the mean.

    Returns:
        The handle; ``handle.unpatch()`` or ``unpatch(model)`` undoes it exactly, the pools stay in the handle.

    Raises:
        ValueError: no such model, a layer out of range, or an attention that is not plain self-attention; in a forward
            pass: a self-attention mask, or a grid that the mode cannot divide.
    """
    denoiser = denoiser_of(model, "patch_transformer")
    if not isinstance(getattr(getattr(denoiser, "config", None), "patch_size", None), int):
        raise ValueError(
            f"patch_transformer: model expected a transformer that cuts its latent into patches; "
            f"got {type(denoiser).__name__}"
        )
    depth = len(blocks_of(denoiser))
    if config.layers and config.layers[-1] >= depth:
        raise ValueError(f"patch_transformer: layers expected in [0, {depth}); got {config.layers[-1]}")
    unpatch(denoiser)
    for layer in config.layers:
        _check_attention(layer, blocks_of(denoiser)[layer].attn1)
    handle = KVCompressPatch(denoiser, config, norm)
    handle.install()
    return handle
