# SPDX-License-Identifier: Apache-2.0
"""Vision towers of the CLIP and SigLIP shape, by the names of their parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["Tower"]


class Tower:
    """The encoder found in a vision tower of transformers.

    Attributes:
        layers: its layers; each has ``self_attn`` with ``q_proj`` and ``k_proj``.
        class_token: whether token 0 is a class token.
        grid: (h, w) of the patches of an image of the configured size.
    """

    def __init__(self, tower: nn.Module, asked_by: str) -> None:
        found = [part for part in tower.modules() if _is_encoder(getattr(part, "encoder", None))]
        if len(found) != 1:
            raise ValueError(
                f"{asked_by}: tower expected one encoder whose layers have self_attn.q_proj and self_attn.k_proj, as "
                f"CLIP and SigLIP have; got {len(found)} in {type(tower).__name__}"
            )
        owner: Any = found[0]
        self.layers: Sequence[Any] = owner.encoder.layers
        self.class_token = getattr(owner.embeddings, "class_embedding", None) is not None
        side = int(owner.config.image_size) // int(owner.config.patch_size)
        self.grid = (side, side)

    def heads(self, layer: int, projected: Tensor) -> Tensor:
        """What ``q_proj`` or ``k_proj`` of a layer put out, (B, N, C), as (B, H, N, D)."""
        attention = self.layers[layer].self_attn
        heads: tuple[int, int] = (attention.num_heads, attention.head_dim)
        out: Tensor = projected.unflatten(2, heads).transpose(1, 2)
        return out

    def scale(self, layer: int) -> float:
        """What the layer multiplies the products of q and k with."""
        return float(self.layers[layer].self_attn.scale)


def _is_encoder(encoder: Any) -> bool:
    layers = getattr(encoder, "layers", None)
    if not isinstance(layers, (nn.ModuleList, nn.Sequential)) or not len(layers):
        return False
    return all(hasattr(getattr(layer, "self_attn", None), name) for layer in layers for name in ("q_proj", "k_proj"))
