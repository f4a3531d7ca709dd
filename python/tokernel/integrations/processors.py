# SPDX-License-Identifier: Apache-2.0
"""Put other attention processors into a diffusers transformer, and the former ones back."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn

from tokernel.integrations._patch import Patch, unpatch

__all__ = ["ProcessorPatch", "merge_heads", "normalise", "project", "rotate", "split_heads", "transformer_of"]


def transformer_of(op: str, model: Any, kinds: tuple[str, ...]) -> Any:
    """Find the transformer: the model itself, or the ``transformer`` of a pipeline, of one of these classes."""
    for candidate in (model, getattr(model, "transformer", None)):
        if isinstance(candidate, nn.Module) and any(base.__name__ in kinds for base in type(candidate).__mro__):
            return candidate
    raise ValueError(f"{op}: model expected a {' or '.join(kinds)}, or a pipeline with one; got {type(model).__name__}")


class ProcessorPatch(Patch):
    """The handle of a transformer whose attention modules have other processors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._former: list[tuple[Any, Any]] = []

    def install(self, op: str, chosen: list[tuple[Any, Any]], replaceable: tuple[str, ...]) -> None:
        """Give each attention module its processor; an earlier patch is undone first.

        Raises:
            ValueError: a module has a processor that computes something else (an IP adapter, say) than the new one
                stands in for.
        """
        unpatch(self.model)
        for attention, _ in chosen:
            kind = type(attention.processor).__name__
            if kind not in replaceable:
                raise ValueError(f"{op}: attention processor expected {' or '.join(replaceable)}; got {kind}")
        for attention, processor in chosen:
            self._former.append((attention, attention.processor))
            attention.set_processor(processor)
        self.attach()

    def unpatch(self) -> None:
        """Put every replaced processor and method back."""
        while self._former:
            attention, processor = self._former.pop()
            attention.set_processor(processor)
        super().unpatch()


def project(attention: Any, x: Tensor, added: bool = False) -> list[Tensor]:
    """Queries, keys and values of tokens x (B, N, C) by an attention module, fused or not: three (B, N, H * D)."""
    if getattr(attention, "fused_projections", False):
        fused = attention.to_added_qkv if added else attention.to_qkv
        return list(fused(x).chunk(3, -1))
    names = ("add_q_proj", "add_k_proj", "add_v_proj") if added else ("to_q", "to_k", "to_v")
    return [getattr(attention, name)(x) for name in names]


def normalise(qkv: list[Tensor], norm_q: Any, norm_k: Any) -> list[Tensor]:
    """Queries and keys through their norms, where there are any."""
    q, k, v = qkv
    return [q if norm_q is None else norm_q(q), k if norm_k is None else norm_k(k), v]


def rotate(x: Tensor, embedding: tuple[Tensor, Tensor], unbind_dim: int = -1) -> Tensor:
    """Rotary embedding of x (B, H, N, D) by (cos, sin), each (N, D); pairs are neighbours, or halves (-2)."""
    apply: Any = importlib.import_module("diffusers.models.embeddings").apply_rotary_emb
    out: Tensor = apply(x, embedding, use_real_unbind_dim=unbind_dim, sequence_dim=2)
    return out


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, H * D) to (B, H, N, D), a view."""
    out: Tensor = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return out


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, N, D) to (B, N, H * D)."""
    return x.transpose(1, 2).flatten(2)
